"""Supervised fine-tuning of the encoder's head on the states of the regimen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import PartialState

from repoagent.errors import InputError
from training.checkpoint import replace_folder
from training.encoder_player import EncoderPlayer
from training.files import write_json
from training.sft_settings import SFTSettings
from training.states import State
from training.supervision import choice_loss, order, policy_states

Report = Callable[[int, int, float], None]
"""As of :mod:`training.sft`."""


def train_encoder(
    states: Sequence[State],
    settings: SFTSettings,
    out: Path,
    base: str = "minilm",
    *,
    reflect: bool = True,
    report: Report | None = None,
) -> Path:
    """Teach the head of :meth:`EncoderPlayer.new` the best options; the folder of the trained policy,
    ``out / "model"``.

    Loss and meaning of ``settings`` are those of :func:`training.sft.train_policy`; of the model's keys
    none applies. It takes less than a minute, so that a run which was stopped starts anew, and the main
    process alone trains.
    """
    model = out / "model"
    if (out / "done.json").is_file() or not PartialState().is_main_process:
        return model
    if not states:
        raise InputError("there are no states to train on: run the stage before.")
    states = policy_states(states, settings.reflection_noise if reflect else 0.0, settings.seed)
    player = EncoderPlayer.new(settings.seed, base)
    optimizer = torch.optim.AdamW(
        player.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    share = settings.batch * settings.accumulation
    places = order(len(states), settings.steps * share, settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "metrics.jsonl").open("w", encoding="utf-8") as log:
        for step in range(settings.steps):
            batch = [states[i] for i in places[step * share : (step + 1) * share]]
            rate = settings.learning_rate * _share(settings, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows, _ = player.evaluate(
                [s.observation for s in batch], [s.reflection if reflect else "" for s in batch]
            )
            loss = choice_loss(rows, batch, settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(player.parameters(), settings.max_grad_norm)
            optimizer.step()
            value = float(loss.detach())
            log.write(json.dumps({"step": step + 1, "loss": value, "learning_rate": rate}) + "\n")
            if report:
                report(step + 1, settings.steps, value)
    replace_folder(model, player.save)
    write_json(out / "done.json", asdict(settings), indent=1)
    return model


def _share(settings: SFTSettings, step: int) -> float:
    """The share of the learning rate in update ``step`` (from 0): a linear rise, then the schedule."""
    warmup = settings.warmup if settings.warmup >= 1 else settings.warmup * settings.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, settings.steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[
        settings.schedule
    ]
