"""Fit how sure the bundled policy is of its answers: logistic regression on whole episodes.

repoagent train bundled confidence --policy DIR --trees DIR

Plays the validation tasks as ``ask`` does, takes from each episode the signs of
:mod:`repoagent.confidence`, and fits P(the file is right). What is reported is held out: each repository
is judged by weights that were fitted on the others. The questions should not be those that the head was
calibrated on (``--every 2`` of both takes different halves), or the policy looks surer than it is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repoagent.confidence import SIGNS, Confidence, calibration_error, signs
from repoagent.episode import Finished, play
from repoagent.errors import InputError
from repoagent.explore import ExploreConfig, RepoEnvironment, Task
from repoagent.manifest import read_manifest, write_manifest
from repoagent.players import Policy, Reflector
from repoagent.repo import Repo
from training.tasks import TeacherTask

PENALTY = 0.01
"""Of the squared weights of standardised signs, beside the mean loss."""

THRESHOLD = 0.2
"""An answer that is right less often than this is none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The signs of one episode, and whether the file it named was right."""

    repo: str
    signs: tuple[float, ...]
    right: bool


def collect(
    tasks: Sequence[TeacherTask],
    trees: Path,
    policy: Policy,
    reflector: Reflector,
    report: Callable[[str], None] = lambda message: None,
) -> list[Outcome]:
    """Outcomes of the episodes that named a file."""
    found = []
    for repo in dict.fromkeys(t.repo for t in tasks):
        environment = RepoEnvironment(Repo.open(trees / repo.replace("/", "__")), ExploreConfig())
        for task in tasks:
            if task.repo != repo:
                continue
            # Without the right file: what is measured is what a user gets.
            *_, last = play(environment, Task(task.question), policy, reflector)
            assert isinstance(last, Finished)
            values = signs(last.trajectory)
            if values is not None:
                found.append(Outcome(repo, values, environment.identified in task.gold))
        report(f"{repo}: {sum(o.right for o in found)} of {len(found)} right so far")
    return found


def fit(outcomes: Sequence[Outcome], penalty: float = PENALTY) -> Confidence:
    """The weights of least mean logistic loss plus ``penalty`` |w|^2 on standardised signs."""
    if len({o.right for o in outcomes}) < 2:
        raise InputError("the episodes are all right or all wrong; give more questions.")
    x = torch.tensor([o.signs for o in outcomes], dtype=torch.float64)
    y = torch.tensor([float(o.right) for o in outcomes], dtype=torch.float64)
    mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-3)
    z = (x - mean) / scale
    weights = torch.zeros(len(SIGNS) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        score = z @ weights[:-1] + weights[-1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(score, y)
        value = value + penalty * weights[:-1].pow(2).sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    slope = weights.detach()[:-1] / scale
    bias = float(weights.detach()[-1] - (slope * mean).sum())
    return Confidence(bias, tuple(slope.tolist()), THRESHOLD)


def held_out(outcomes: Sequence[Outcome], folds: int = 5) -> list[tuple[float, bool]]:
    """(confidence, right) of every outcome, by weights fitted on other repositories."""
    repos = sorted({o.repo for o in outcomes})
    found = []
    for number in range(min(folds, len(repos))):
        left = set(repos[number::folds])
        confidence = fit([o for o in outcomes if o.repo not in left])
        found += [(confidence.of(o.signs), o.right) for o in outcomes if o.repo in left]
    return found


def run(
    policy: Any,
    reflector: Reflector,
    folder: Path,
    tasks: Sequence[TeacherTask],
    trees: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Fit the confidence of the checkpoint in ``folder``, write it there; the held-out figures."""
    if len({t.repo for t in tasks}) < 2:
        raise InputError("questions on one repository alone cannot be held out; give more.")
    outcomes = collect(tasks, trees, policy, reflector, report)
    found = figures(outcomes, reflector.name)
    manifest = {k: v for k, v in read_manifest(folder).items() if k != "sha256"}
    write_manifest(folder, **{**manifest, "confidence": fit(outcomes).entry(), "confidence_fit": found})
    return found


def figures(outcomes: Sequence[Outcome], reflector: str) -> dict[str, Any]:
    """How often the episodes were right, and how well a confidence fitted on others knows it."""
    return {
        "episodes": len(outcomes),
        "right": round(sum(o.right for o in outcomes) / len(outcomes), 4),
        "held-out calibration error": round(calibration_error(held_out(outcomes)), 4),
        "reflector": reflector,
    }
