"""The settings of SFT, a part of every recipe; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from repoagent.errors import InputError


@dataclass(frozen=True, slots=True)
class SFTSettings:
    """``steps`` updates of ``batch`` states per device times ``accumulation`` each.

    ``warmup`` below 1 is a share of the steps, else their number. ``lora_rank`` 0 trains all weights;
    ``quantization`` ("8bit", "4bit") is of the frozen base model of a LoRA adapter, on CUDA or the CPU.
    ``bf16`` computes in mixed precision. ``device`` "" chooses one. Of the policy alone: ``head``;
    ``label_smoothing``, the share of its target that is spread over all options, so that it begins
    RLFT with something left to explore; ``reflection_noise``, how often (0 to 1) it is shown another
    state's reflection, so that it learns not to trust a reflection that does not fit what it sees.
    """

    steps: int
    batch: int = 8
    accumulation: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    lora_rank: int = 0
    quantization: Literal["", "8bit", "4bit"] = ""
    bf16: bool = False
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0
    save_every: int = 100
    seed: int = 0
    head: str = "choice-token"
    label_smoothing: float = 0.0
    reflection_noise: float = 0.0
    device: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulation", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give at least 1.")
        if self.quantization not in ("", "8bit", "4bit"):
            raise InputError(f"unknown quantization '{self.quantization}': use 8bit, 4bit or none.")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise InputError(f"unknown schedule '{self.schedule}': use cosine, linear or constant.")
        if self.quantization and not self.lora_rank:
            raise InputError("quantized weights cannot be trained: set lora_rank, e.g. to 16.")
