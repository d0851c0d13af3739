"""Fit what the second reading counts for, and then how sure the policy of both is of its answers.

repoagent train bundled reading --policy DIR --reader DIR --trees DIR

Goes the oracle's way through every validation task, has the reader read what the policy would show it, and
takes the weights and temperatures of :class:`repoagent.reading.Reading` that minimise the negative
log-likelihood of the right options. What is reported is held out: each repository is judged by weights fitted
on the others. The confidence is then fitted on whole episodes (:mod:`training.confidence_fit`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from repoagent.encoder import EncoderPolicy
from repoagent.environment import Observation
from repoagent.errors import InputError
from repoagent.explore import ExploreConfig, RepoEnvironment, Task
from repoagent.manifest import read_manifest, write_manifest
from repoagent.players import Reflector
from repoagent.reader import PassageReader
from repoagent.reading import Reading, ReadingPolicy, chooses_lines
from repoagent.repo import Repo
from training import confidence_fit
from training.tasks import TeacherTask

Stage = Literal["first", "later", "lines"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision among the options that were read: the encoder's log-probabilities, the scores of the
    reading, and which of them are best."""

    repo: str
    stage: Stage
    proposed: Tensor
    read: Tensor
    best: tuple[int, ...]


def collect(
    policy: ReadingPolicy, reflector: Reflector, tasks: Sequence[TeacherTask], trees: Path,
    report: Callable[[str], None],
) -> list[Decision]:  # fmt: skip
    """The decisions on the oracle's way to each task's gold file, and the one on its lines."""
    found: list[Decision] = []
    for name in dict.fromkeys(t.repo for t in tasks):
        environment = RepoEnvironment(Repo.open(trees / name.replace("/", "__")), ExploreConfig())
        for task in tasks:
            if task.repo != name:
                continue
            observation = environment.reset(Task(task.question, task.gold, task.span))
            first = True
            while best := environment.oracle():
                found += _decision(policy, reflector, name, observation, best, first)
                if environment.identified is not None:
                    break
                first = False
                observation = environment.step(best[0]).observation
        report(f"{name}: {len(found)} decisions so far")
    return found


def _decision(
    policy: ReadingPolicy, reflector: Reflector, repo: str, observation: Observation, best: Sequence[int],
    first: bool,
) -> list[Decision]:  # fmt: skip
    (proposed,) = policy.encoder.distribution([observation], reflector.reflect([observation]))
    read = policy.read(observation, proposed)
    # Where no best option was read, there is nothing to learn on what the reading counts.
    if read is None or not (right := [k for k, i in enumerate(read) if i in best]):
        return []
    stage: Stage = "lines" if chooses_lines(observation) else "first" if first else "later"
    values = torch.tensor([[proposed[i], s] for i, s in read.items()])
    return [Decision(repo, stage, values[:, 0], values[:, 1], tuple(right))]


def fit(decisions: Sequence[Decision]) -> tuple[float, float]:
    """(weight, temperature) of least mean negative log-likelihood of the best options."""
    if not decisions:
        raise InputError("no decision has two options that can be read; give more questions.")
    x = torch.tensor([0.0, 0.0], requires_grad=True)  # weight, log of the temperature
    optimizer = torch.optim.LBFGS([x], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.stack([_loss(d, x[0], x[1].exp()) for d in decisions]).mean()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    weight, log_temperature = x.detach().tolist()
    return weight, math.exp(log_temperature)


def _loss(decision: Decision, weight: Tensor | float, temperature: Tensor | float) -> Tensor:
    scores = (decision.proposed + weight * decision.read) / temperature
    result: Tensor = -scores.log_softmax(0)[list(decision.best)].logsumexp(0)
    return result


def figures(decision: Decision, weight: float, temperature: float) -> tuple[float, float]:
    """(whether the first option is a best one, negative log-likelihood)."""
    right = int((decision.proposed + weight * decision.read).argmax()) in decision.best
    return float(right), float(_loss(decision, weight, temperature))


def held_out(decisions: Sequence[Decision], folds: int = 5) -> dict[str, dict[str, float]]:
    """For each stage the share of right first choices and the mean negative log-likelihood, before and by
    weights fitted on other repositories."""
    repos = sorted({d.repo for d in decisions})
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for number in range(min(folds, len(repos))):
        left = set(repos[number::folds])
        fitted = fit([d for d in decisions if d.repo not in left])
        for d in decisions:
            if d.repo in left:
                found.setdefault(d.stage, []).append((*figures(d, 0.0, 1.0), *figures(d, *fitted)))
    names = ("right before", "nll before", "right after", "nll after")
    return {
        stage: {"decisions": len(rows)}
        | {
            name: round(sum(column) / len(rows), 4)
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }
        for stage, rows in found.items()
    }


def run(
    encoder: EncoderPolicy, reflector: Reflector, folder: Path, tasks: Sequence[TeacherTask], trees: Path,
    report: Callable[[str], None], start: Reading,
) -> dict[str, Any]:  # fmt: skip
    """Fit the reading and the confidence of the reader in ``folder``, write both there; the figures."""
    if len({t.repo for t in tasks}) < 2:
        raise InputError("questions on one repository alone cannot be held out; give more.")
    # Whole episodes follow on the same questions: keep what was read.
    policy = ReadingPolicy(encoder, PassageReader.from_folder(folder), start, cache=1_000_000)
    decisions = collect(policy, reflector, tasks, trees, report)
    lines = [d for d in decisions if d.stage == "lines"]
    weight, temperature = fit([d for d in decisions if d.stage != "lines"])
    line_weight, line_temperature = fit(lines)
    policy.reading = replace(
        start,
        weight=weight,
        temperature=temperature,
        line_weight=line_weight,
        line_temperature=line_temperature,
    )
    result: dict[str, Any] = held_out([d for d in decisions if d.stage != "lines"])
    result |= held_out(lines)
    outcomes = confidence_fit.collect(tasks, trees, policy, reflector, report)
    policy.confidence = confidence_fit.fit(outcomes)
    result["confidence"] = confidence_fit.figures(outcomes, reflector.name)
    manifest = {k: v for k, v in read_manifest(folder).items() if k != "sha256"}
    entries = {"reading": policy.reading.entry(), "confidence": policy.confidence.entry(), "fit": result}
    write_manifest(folder, **{**manifest, **entries})
    return {"reading": policy.reading.entry(), **result}
