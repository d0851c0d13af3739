"""Players that are asked once for each different state, and greedy episodes measured with them.

Equal states have equal answers, and training meets the same states again and again: the frozen
reflector's answers hold for a whole run, the policy's until its weights change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from repoagent.environment import Observation
from repoagent.episode import play_batch
from repoagent.players import Reflector
from training.benchmark import Benchmark
from training.states import observation_to

Key = tuple[Observation, str]


class TrainablePolicy(Protocol):
    """A policy with gradients; :class:`repoagent.transformer.TransformerPolicy` is one.

    ``evaluate`` gives log-probabilities (options,) of each observation with gradients, and hidden states
    (observations, width) for a critic.
    """

    name: str

    def evaluate(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]: ...
    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]: ...
    def parameters(self) -> list[Tensor]: ...
    def save(self, folder: str | Path) -> None: ...


class KnownReflections:
    """The frozen reflector, asked once for each different observation of a whole run.

    What it wrote is kept in ``file`` as well: a run that goes on after an interruption reads the same.
    """

    def __init__(self, reflector: Reflector, file: Path | None) -> None:
        self.reflector, self.name, self.file = reflector, reflector.name, file
        self.known: dict[str, str] = {}
        if file is not None and file.is_file():
            for line in file.read_text(encoding="utf-8").split("\n"):
                with contextlib.suppress(ValueError):  # a line that an interruption tore
                    digest, text = json.loads(line)
                    self.known[digest] = text

    def reflect(self, observations: Sequence[Observation]) -> list[str]:
        digests = [_digest(o) for o in observations]
        missing = {d: o for d, o in zip(digests, observations, strict=True) if d not in self.known}
        if missing:
            found = dict(zip(missing, self.reflector.reflect(list(missing.values())), strict=True))
            self.known |= found
            if self.file is not None:
                with self.file.open("a", encoding="utf-8") as out:
                    out.writelines("\n" + json.dumps(row) for row in found.items())
        return [self.known[d] for d in digests]

    def stream(self, observation: Observation) -> Iterator[str]:
        yield self.reflect([observation])[0]


class Asked:
    """The policy between two changes of its weights, asked once for each different state.

    It remembers the critic's value of each as well. At most ``limit`` states go into one pass.
    """

    def __init__(self, policy: TrainablePolicy, critic: nn.Module | None, limit: int) -> None:
        self.policy, self.name, self.critic, self.limit = policy, policy.name, critic, limit
        self.known: dict[Key, tuple[list[float], float]] = {}

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        keys = list(zip(observations, reflections, strict=True))
        missing = list(dict.fromkeys(k for k in keys if k not in self.known))
        for start in range(0, len(missing), self.limit):
            part = missing[start : start + self.limit]
            with torch.no_grad():
                rows, states = self.policy.evaluate([o for o, _ in part], [r for _, r in part])
                values = self.critic(states).squeeze(-1).tolist() if self.critic else [0.0] * len(part)
            for key, row, value in zip(part, rows, values, strict=True):
                self.known[key] = row.tolist(), value
        return [self.known[k][0] for k in keys]

    def value(self, key: Key) -> float:
        return self.known[key][1]


def measure(
    benchmark: Benchmark, tasks: Sequence[Any], policy: Any, reflector: Reflector, *, batch: int = 64
) -> list[dict[str, Any]]:
    """A row per task of greedy episodes of the whole task: outcomes, return and length."""
    stage = benchmark.stages[-1]
    rows: list[dict[str, Any]] = []
    for start in range(0, len(tasks), batch):
        part = tasks[start : start + batch]
        environments = [benchmark.environment(stage) for _ in part]
        for t in play_batch(environments, part, policy, reflector, greedy=True):
            rows.append({**benchmark.outcomes(t), "return": t.total, "length": len(t.steps)})
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Success rate by outcome over the rows that have it, mean return and mean length."""
    names = dict.fromkeys(n for row in rows for n in row if n not in ("return", "length"))
    rates = {f"success/{n}": fmean(bool(row[n]) for row in rows if n in row) for n in names}
    return rates | {
        "return_mean": fmean(row["return"] for row in rows),
        "length_mean": fmean(row["length"] for row in rows),
    }


def _digest(observation: Observation) -> str:
    return hashlib.sha256(json.dumps(observation_to(observation)).encode()).hexdigest()
