"""An environment of three states and a tabular policy: small enough that every expectation is a sum.

The probabilities of ``BEHAVIOUR`` are whole multiples of 1/64 over whole episodes, so that a batch which
holds every episode as often as its probability says has exactly the expectation as its mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repoagent.environment import Observation, Option, StepResult
from repoagent.episode import Step, Trajectory
from repoagent.players import NoReflector
from training.rlft import Settings, Trainer

HORIZON = 3
WON, LOST = -1, -2
# (next state, reward) of every action in every state.
TABLE = (
    ((1, 0.1), (2, -0.2)),
    ((WON, 1.0), (0, -0.1), (2, 0.3)),
    ((LOST, -0.5), (1, 0.2)),
)
BEHAVIOUR = ((1, 3), (2, 1, 1), (2, 2))
"""Probabilities of the actions in quarters."""


class ThreeStates:
    """Begins in state 0 and ends in success, in failure, or after three actions."""

    def reset(self, task: int, seed: int | None = None) -> Observation:
        self.state, self.steps = 0, 0
        return see(0)

    def step(self, index: int) -> StepResult:
        self.state, reward = TABLE[self.state][index]
        self.steps += 1
        ended = self.state < 0
        late = not ended and self.steps == HORIZON
        return StepResult(see(self.state), reward, ended, late, {"won": self.state == WON})

    def oracle(self) -> list[int]:
        return [0]


def see(state: int) -> Observation:
    """What is seen in ``state``; nothing can be done at the end."""
    options = tuple(Option(str(i), "go") for i in range(len(TABLE[state]))) if state >= 0 else ()
    return Observation("win", str(state), (), "", options)


class Bench:
    """The benchmark of that environment: one task, one stage."""

    name = "three"
    stages: tuple[str, ...] = ("end",)

    def environment(self, stage: str) -> ThreeStates:
        return ThreeStates()

    def tasks(self, split: str) -> Sequence[int]:
        return [0]

    def plays(self, stage: str, task: int) -> bool:
        return True

    def outcomes(self, trajectory: Trajectory) -> Mapping[str, bool]:
        return {"end": bool(trajectory.steps[-1].result.info["won"])}

    def reflection(self, state: Any) -> str:
        return ""


class Tabular:
    """Softmax of one number per state and action, in double precision; its hidden states are one-hot."""

    name = "tabular"

    def __init__(self, theta: Tensor) -> None:
        self.theta = theta.detach().clone().requires_grad_()

    def evaluate(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        states = [int(o.location) for o in observations]
        rows = [log_chances(self.theta, s) for s in states]
        return rows, torch.nn.functional.one_hot(torch.tensor(states), len(TABLE)).float()

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        return [row.tolist() for row in self.evaluate(observations, reflections)[0]]

    def parameters(self) -> list[Tensor]:
        return [self.theta] if self.theta.requires_grad else []

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True)


def log_chances(theta: Tensor, state: int) -> Tensor:
    """Log-probabilities of the actions in ``state``."""
    start = sum(map(len, TABLE[:state]))
    return theta[start : start + len(TABLE[state])].log_softmax(0)


def behaviour() -> Tensor:
    """The parameters of ``BEHAVIOUR``."""
    return torch.tensor([math.log(n / 4) for row in BEHAVIOUR for n in row], dtype=torch.float64)


def episodes(state: int = 0, steps: int = 0) -> Iterator[list[tuple[int, int, float]]]:
    """Every possible episode as (state, action, reward)."""
    for action, (then, reward) in enumerate(TABLE[state]):
        first = (state, action, reward)
        if then < 0 or steps + 1 == HORIZON:
            yield [first]
        else:
            yield from ([first, *rest] for rest in episodes(then, steps + 1))


def won(episode: Sequence[tuple[int, int, float]]) -> bool:
    """Whether the episode ends in success."""
    state, action, _ = episode[-1]
    return TABLE[state][action][0] == WON


def chance(theta: Tensor, episode: Sequence[tuple[int, int, float]]) -> Tensor:
    """The probability of an episode."""
    return torch.stack([log_chances(theta, s)[a] for s, a, _ in episode]).sum().exp()


def finite_differences(objective: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The gradient of ``objective`` at ``theta`` by central differences."""
    step = 1e-5 * torch.eye(len(theta), dtype=theta.dtype)
    with torch.no_grad():
        return torch.stack([(objective(theta + s) - objective(theta - s)) / 2e-5 for s in step])


def expected_return(theta: Tensor) -> Tensor:
    """J(theta): the sum over all episodes of probability times return."""
    return torch.stack([chance(theta, e) * sum(r for _, _, r in e) for e in episodes()]).sum()


def trajectory(policy: Tabular, episode: Sequence[tuple[int, int, float]]) -> Trajectory:
    """``episode`` as play_batch would have returned it."""
    environment = ThreeStates()
    seen = environment.reset(0)
    found = Trajectory()
    for _, action, _ in episode:
        (row,) = policy.distribution([seen], [""])
        result = environment.step(action)
        found.steps.append(Step(seen, "", tuple(row), action, result))
        seen = result.observation
    return found


def every_episode(policy: Tabular) -> list[Trajectory]:
    """64 episodes, each as often as ``BEHAVIOUR`` plays it in 64."""
    counted = [(e, round(64 * float(chance(policy.theta.detach(), e)))) for e in episodes()]
    assert sum(n for _, n in counted) == 64
    return [trajectory(policy, e) for e, n in counted for _ in range(n)]


def make_trainer(policy: Tabular, out: Path, **changes: Any) -> Trainer:
    """A trainer whose gradients stay as they are: not scaled, not clipped."""
    plain = {"normalize": False, "max_grad_norm": 1e9, "learning_rate": 0.0, "evaluate_every": 10**6}
    return Trainer(Settings(**(plain | changes)), Bench(), policy, NoReflector(), out)
