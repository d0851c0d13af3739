"""Checkpoints of a training run: written whole or not at all, in safetensors, without pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from training.files import write_json


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new folder, then put it in the place of ``folder``."""
    part, old = (folder.with_name(folder.name + suffix) for suffix in (".part", ".old"))
    shutil.rmtree(part, ignore_errors=True)
    write(part)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def settle(folder: Path) -> bool:
    """Whether there is a checkpoint, after undoing a replacement that was stopped half way."""
    old = folder.with_name(folder.name + ".old")
    if not folder.is_dir() and old.is_dir():
        old.rename(folder)
    return folder.is_dir()


def save_state(folder: Path, parameters: Sequence[Tensor], optimizer: Optimizer, progress: Any) -> None:
    """Trained parameters, the optimizer's state of each, and ``progress`` (JSON)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"p{i}": p for i, p in enumerate(parameters)}
    for i, p in enumerate(parameters):
        tensors |= {f"o{i}.{name}": value for name, value in optimizer.state.get(p, {}).items()}
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    save_file(whole, folder / "state.safetensors")
    write_json(folder / "state.json", progress)


def load_state(folder: Path, parameters: Sequence[Tensor], optimizer: Optimizer) -> Any:
    """Put back what :func:`save_state` wrote; returns its ``progress``."""
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for i, p in enumerate(parameters):
            p.copy_(tensors[f"p{i}"])
            mine = {n.partition(".")[2]: v for n, v in tensors.items() if n.startswith(f"o{i}.")}
            if mine:
                # AdamW keeps its count of steps on the CPU, its moments beside the parameter.
                optimizer.state[p] = {n: v if n == "step" else v.to(p.device) for n, v in mine.items()}
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))
