"""Successful episodes kept and learnt from again, with importance weights.

Split the policy gradient by the outcome of an episode, ``grad J = S + F`` with
``S = E[1{success} sum_t A_t grad log pi(a_t)]``. The buffer holds episodes drawn from a behaviour
policy ``b`` given that they succeeded, which happened with probability ``p``; hence
``S = E_{b | success}[p * rho * sum_t A_t grad log pi(a_t)]`` with
``rho = prod_t pi(a_t | s_t) / b(a_t | s_t)``. Replaying successes without ``p * rho``, as is often
done, is another objective. ``rho`` is cut at ``clip``, which bounds the variance for some bias.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from repoagent.environment import Observation
from training.states import observation_from, observation_to


@dataclass(frozen=True, slots=True)
class Replayed:
    """A successful episode: its decisions and the behaviour policy's probabilities at the time."""

    observations: tuple[Observation, ...]
    reflections: tuple[str, ...]
    actions: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    rewards: tuple[float, ...]
    success_rate: float


@dataclass(slots=True)
class ReplayBuffer:
    """The latest ``capacity`` successes."""

    capacity: int
    episodes: deque[Replayed] = field(default_factory=deque)

    def add(self, episode: Replayed) -> None:
        self.episodes.append(episode)
        while len(self.episodes) > self.capacity:
            self.episodes.popleft()

    def sample(self, count: int, rng: random.Random) -> list[Replayed]:
        """``count`` episodes, drawn with replacement; none from an empty buffer."""
        return rng.choices(list(self.episodes), k=count) if self.episodes else []

    def clear(self) -> None:
        self.episodes.clear()

    def as_data(self) -> list[dict[str, Any]]:
        """What JSON can hold."""
        return [
            {
                "observations": [observation_to(o) for o in e.observations],
                "reflections": e.reflections,
                "actions": e.actions,
                "log_probabilities": e.log_probabilities,
                "rewards": e.rewards,
                "success_rate": e.success_rate,
            }
            for e in self.episodes
        ]

    def restore(self, data: Sequence[dict[str, Any]]) -> None:
        """Take back what :meth:`as_data` gave."""
        self.episodes = deque(
            Replayed(
                tuple(map(observation_from, row["observations"])),
                tuple(row["reflections"]),
                tuple(row["actions"]),
                tuple(row["log_probabilities"]),
                tuple(row["rewards"]),
                row["success_rate"],
            )
            for row in data
        )


def importance_weight(new: Sequence[float], old: Sequence[float], clip: float) -> float:
    """``rho = exp(sum_t new_t - old_t)`` of an episode's log-probabilities, at most ``clip``."""
    return min(math.exp(min(math.fsum(n - o for n, o in zip(new, old, strict=True)), 50.0)), clip)
