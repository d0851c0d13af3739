"""Fit what the second reading counts for, and then how sure the policy of both is of its answers.

repoagent train bundled reading --policy DIR --reader DIR --trees DIR

Has the reader read what the policy would show it on validation tasks, and takes the weights and
temperatures of :class:`repoagent.reading.Reading` that minimise the negative log-likelihood of the right
options: first of decisions on the oracle's way, then of those after a file was opened, on the way that the
policy itself takes with the first, so that opening a wrong file is among them. What is reported is held out:
each repository is judged by weights fitted on the others. The confidence is then fitted on whole episodes
(:mod:`training.confidence_fit`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repoagent.encoder import EncoderPolicy
from repoagent.environment import Observation
from repoagent.errors import InputError
from repoagent.explore import ExploreConfig, RepoEnvironment, Task
from repoagent.manifest import read_manifest, write_manifest
from repoagent.players import Reflector, choose
from repoagent.reader import PassageReader
from repoagent.reading import Blend, Reading, ReadingPolicy, Stage, stage
from repoagent.repo import Repo
from training import confidence_fit
from training.tasks import TeacherTask


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
    report: Callable[[str], None], own: bool = False,
) -> list[Decision]:  # fmt: skip
    """Decisions on the oracle's way to each task's gold file and its lines; with ``own`` on the policy's way,
    as far as a file is named."""
    found: list[Decision] = []
    for name in dict.fromkeys(t.repo for t in tasks):
        environment = RepoEnvironment(Repo.open(trees / name.replace("/", "__")), ExploreConfig())
        for task in tasks:
            if task.repo == name:
                environment.reset(Task(task.question, task.gold, task.span))
                found += _walk(policy, reflector, name, environment, own)
        report(f"{name}: {len(found)} decisions so far")
    return found


def _walk(
    policy: ReadingPolicy, reflector: Reflector, repo: str, environment: RepoEnvironment, own: bool
) -> list[Decision]:
    found: list[Decision] = []
    while best := environment.oracle():
        observation = environment.observation
        reflections = reflector.reflect([observation])
        found += _decision(policy, repo, observation, reflections, best)
        if environment.identified is not None:
            break
        index = choose(policy.distribution([observation], reflections)[0]) if own else best[0]
        if environment.step(index).done or (own and environment.identified is not None):
            break
    return found


def _decision(
    policy: ReadingPolicy,
    repo: str,
    observation: Observation,
    reflections: Sequence[str],
    best: Sequence[int],
) -> list[Decision]:
    (proposed,) = policy.encoder.distribution([observation], reflections)
    read = policy.read(observation, proposed)
    # Where no best option was read, there is nothing to learn on what the reading counts.
    if read is None or not (right := [k for k, i in enumerate(read) if i in best]):
        return []
    values = torch.tensor([[proposed[i], s] for i, s in read.items()])
    return [Decision(repo, stage(observation), values[:, 0], values[:, 1], tuple(right))]


def fit(decisions: Sequence[Decision]) -> Blend:
    """The weight and temperature of least mean negative log-likelihood of the best options."""
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
    return Blend(weight, math.exp(log_temperature))


def _loss(decision: Decision, weight: Tensor | float, temperature: Tensor | float) -> Tensor:
    scores = (decision.proposed + weight * decision.read) / temperature
    result: Tensor = -scores.log_softmax(0)[list(decision.best)].logsumexp(0)
    return result


def figures(decision: Decision, blend: Blend) -> tuple[float, float]:
    """(whether the first option is a best one, negative log-likelihood)."""
    right = int((decision.proposed + blend.weight * decision.read).argmax()) in decision.best
    return float(right), float(_loss(decision, blend.weight, blend.temperature))


def held_out(decisions: Sequence[Decision], folds: int = 5) -> dict[str, float]:
    """The share of right first choices and the mean negative log-likelihood of decisions of one stage, before
    and by a blend fitted on other repositories."""
    repos = sorted({d.repo for d in decisions})
    rows: list[tuple[float, float, float, float]] = []
    for number in range(min(folds, len(repos))):
        left = set(repos[number::folds])
        fitted = fit([d for d in decisions if d.repo not in left])
        rows += [(*figures(d, Blend(0.0, 1.0)), *figures(d, fitted)) for d in decisions if d.repo in left]
    names = ("right before", "nll before", "right after", "nll after")
    means = [round(sum(column) / len(rows), 4) for column in zip(*rows, strict=True)]
    return {"decisions": len(rows), **dict(zip(names, means, strict=True))}


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
    by_stage: dict[Stage, list[Decision]] = {
        s: [d for d in decisions if d.stage == s] for s in ("first", "lines")
    }
    first, lines = fit(by_stage["first"]), fit(by_stage["lines"])
    policy.reading = replace(start, first=first, later=first, lines=lines)
    own = collect(policy, reflector, tasks, trees, report, own=True)
    by_stage["later"] = [d for d in own if d.stage == "later"]
    policy.reading = replace(policy.reading, later=fit(by_stage["later"]))
    result: dict[str, Any] = {s: held_out(found) for s, found in by_stage.items()}
    outcomes = confidence_fit.collect(tasks, trees, policy, reflector, report)
    policy.confidence = confidence_fit.fit(outcomes)
    result["confidence"] = confidence_fit.figures(outcomes, reflector.name)
    manifest = {k: v for k, v in read_manifest(folder).items() if k != "sha256"}
    entries = {"reading": policy.reading.entry(), "confidence": policy.confidence.entry(), "fit": result}
    write_manifest(folder, **{**manifest, **entries})
    return {"reading": policy.reading.entry(), **result}
