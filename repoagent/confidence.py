"""How likely the answer of an episode is right: calibrated from what the policy did on the way.

The probability of the last decision alone says little: once a file is open, naming it looks good. What
tells right from wrong is how the file stood out when it was first offered among all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repoagent.episode import Trajectory

SIGNS = ("share", "margin", "entropy", "named", "lines", "steps")
"""What the probability is computed from: see :func:`signs`."""

_LEAST = 1e-4


@dataclass(frozen=True, slots=True)
class Confidence:
    """P(right) = 1 / (1 + exp(-(``bias`` + ``weights`` . signs))), fitted by logistic regression on
    validation repositories; an answer below ``threshold`` is not a confident one."""

    bias: float
    weights: tuple[float, ...]
    threshold: float

    def __call__(self, trajectory: Trajectory) -> float | None:
        """The probability that the identified file is right; None if none was identified."""
        found = signs(trajectory)
        return None if found is None else self.of(found)

    def of(self, values: tuple[float, ...]) -> float:
        """The probability for the values of ``SIGNS``."""
        return logistic(self.bias + sum(w * x for w, x in zip(self.weights, values, strict=True)))

    @staticmethod
    def parse(entry: Mapping[str, Any]) -> Confidence:
        """From a manifest's entry; ``KeyError``, ``TypeError`` or ``ValueError`` if it is no such thing."""
        weights = tuple(float(entry["weights"][name]) for name in SIGNS)
        found = Confidence(float(entry["bias"]), weights, float(entry["threshold"]))
        if not all(map(math.isfinite, (found.bias, found.threshold, *weights))):
            raise ValueError("its confidence holds a number that is not finite")
        return found

    def entry(self) -> dict[str, Any]:
        """What :meth:`parse` reads."""
        weights = dict(zip(SIGNS, self.weights, strict=True))
        return {"bias": self.bias, "weights": weights, "threshold": self.threshold}


def signs(trajectory: Trajectory) -> tuple[float, ...] | None:
    """The values of ``SIGNS`` for the file that was identified; None if none was.

    Of the first decision that offered the file, over the files offered there: ``share``, the log-odds of its
    probability; ``margin``, the log-ratio to the best other file; ``entropy``, from 0 (one file alone) to 1.
    Of later ones: ``named``, the log-odds of identifying it; ``lines``, the log-probability of its block
    (0 where there was one); ``steps``, the number of steps over 8.
    """
    last = next((s for s in reversed(trajectory.steps) if s.option.kind == "identify"), None)
    if last is None:
        return None
    path = last.option.target
    files: dict[str, float] = {}
    for step in trajectory.steps:
        files = {}
        for option, log_probability in zip(step.observation.options, step.log_probabilities, strict=True):
            if option.kind in ("open", "identify"):
                files[option.target] = files.get(option.target, 0.0) + math.exp(log_probability)
        if path in files:
            break
    total = sum(files.values()) or 1.0
    shares = {name: p / total for name, p in files.items()}
    others = max((p for name, p in shares.items() if name != path), default=0.0)
    entropy = -sum(p * math.log(p) for p in shares.values() if p > 0)
    block = next((s for s in trajectory.steps if s.option.kind == "lines"), None)
    return (
        _log_odds(shares.get(path, 0.0)),
        math.log(max(shares.get(path, 0.0), _LEAST) / max(others, _LEAST)),
        entropy / math.log(len(shares)) if len(shares) > 1 else 0.0,
        _log_odds(math.exp(last.log_probabilities[last.index])),
        block.log_probabilities[block.index] if block else 0.0,
        len(trajectory.steps) / 8,
    )


def calibration_error(pairs: Sequence[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error: mean |confidence - accuracy| of ``bins`` of equal width, by their size."""
    error = 0.0
    for number in range(bins):
        part = [(p, right) for p, right in pairs if min(int(p * bins), bins - 1) == number]
        if part:
            error += abs(sum(p - right for p, right in part))
    return error / len(pairs) if pairs else 0.0


def logistic(x: float) -> float:
    """1 / (1 + e^-x) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _log_odds(p: float) -> float:
    p = min(max(p, _LEAST), 1 - _LEAST)
    return math.log(p / (1 - p))
