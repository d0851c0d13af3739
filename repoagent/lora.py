"""LoRA adapters in PEFT's format, merged into the weights they belong to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def merge_lora(weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor], scale: float) -> None:
    """Add W += scale * B A to ``weights`` in place; ``KeyError`` if the adapter is of another model."""
    for key, a in adapter.items():
        if ".lora_A." not in key:
            continue
        name = key.removeprefix("base_model.model.").replace(".lora_A", "")
        b = adapter[key.replace(".lora_A.", ".lora_B.")]
        with torch.no_grad():
            weights[name].add_(scale * (b.float() @ a.float()))
