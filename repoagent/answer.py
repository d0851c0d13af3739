"""Answer: the file, the lines, the confidence, the runners-up and the trail of an episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repoagent.confidence import Confidence
from repoagent.episode import Step, Trajectory
from repoagent.explore import RepoEnvironment
from repoagent.repo import Repo

SNIPPET_LINES = 24


@dataclass(frozen=True, slots=True)
class Answer:
    """``path`` relative to the repository, lines 1-based and inclusive (0, 0: no text).

    ``score`` is the probability that the file is right; those of one list sum to at most 1. Where the
    policy's confidence is not calibrated it is what the policy gave the file when it last had the choice.
    """

    path: str
    start_line: int
    end_line: int
    score: float
    snippet: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One option that was open, and the probability that the policy gave it."""

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Move:
    """One step: where, what the reflector said, the ``action`` taken among ``options``, and how likely."""

    location: str
    reflection: str
    action: str
    probability: float
    options: tuple[Choice, ...]


def rank_files(steps: Sequence[Step]) -> list[tuple[str, float]]:
    """Files by the policy's last word on each: (path, probability).

    The file identified comes first. Then a later decision outranks an earlier one, since the
    policy knew more; within a decision the more probable option comes first.
    """
    ranking: dict[str, float] = {}
    for step in reversed(steps):
        left = max(0.0, 1.0 - sum(ranking.values()))  # what later decisions did not give to files
        ceiling = min(ranking.values(), default=1.0)
        scored: dict[str, float] = {}
        for option, log_probability in zip(step.observation.options, step.log_probabilities, strict=True):
            if option.kind in ("open", "identify"):
                probability = math.exp(log_probability)
                scored[option.target] = max(probability, scored.get(option.target, 0.0))
        if step.option.kind == "identify":
            ceiling = ranking[step.option.target] = math.exp(step.log_probabilities[step.index])
        for path, score in sorted(scored.items(), key=lambda item: (-item[1], item[0])):
            ranking.setdefault(path, min(score * left, ceiling))
    return list(ranking.items())


def rescaled(ranking: list[tuple[str, float]], first: float | None) -> list[tuple[str, float]]:
    """``ranking`` with the probability ``first`` for its first file; the others share the rest as before."""
    if first is None or not ranking:
        return ranking
    (path, before), *others = ranking
    scale = (1.0 - first) / max(1.0 - before, 1e-9)
    return [(path, first), *((name, min(first, score * scale)) for name, score in others)]


def answers(
    environment: RepoEnvironment,
    trajectory: Trajectory,
    top: int = 5,
    confidence: Confidence | None = None,
) -> list[Answer]:
    """The ``top`` answers of a finished episode, best first.

    The lines of the identified file are those chosen; a runner-up shows its best window. ``confidence``
    is the policy's, where it has one.
    """
    found = []
    ranking = rescaled(rank_files(trajectory.steps), confidence(trajectory) if confidence else None)
    for path, score in ranking[:top]:
        chosen = environment.chosen if path == environment.identified else None
        if chosen is None:
            windows = environment.scent.windows(path, 1)
            chosen = (windows[0].start, windows[0].end) if windows else (0, 0)
        found.append(Answer(path, *chosen, score, snippet(environment.repo, path, chosen)))
    return found


def snippet(repo: Repo, path: str, span: tuple[int, int]) -> str:
    """The lines ``span`` of the file at ``path``, at most ``SNIPPET_LINES``."""
    start, end = span
    return "\n".join(repo.lines(path)[max(0, start - 1) : min(end, start - 1 + SNIPPET_LINES)])


def trail(trajectory: Trajectory) -> list[Move]:
    """The steps of a finished episode without what only models need."""
    return [
        Move(
            location=step.observation.location,
            reflection=step.reflection,
            action=step.option.text,
            probability=math.exp(step.log_probabilities[step.index]),
            options=tuple(
                Choice(option.text, math.exp(log_probability))
                for option, log_probability in zip(
                    step.observation.options, step.log_probabilities, strict=True
                )
            ),
        )
        for step in trajectory.steps
    ]
