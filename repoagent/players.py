"""Policy and Reflector: the two players of an episode, and the simplest of each."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from repoagent.environment import Environment, Observation


@runtime_checkable
class Policy(Protocol):
    """Chooses among the options of an observation."""

    name: str

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        """Log-probabilities over the options of each observation, as long as its ``options``."""
        ...


@runtime_checkable
class Reflector(Protocol):
    """Writes what it makes of the situation; empty where it has nothing to say."""

    name: str

    def reflect(self, observations: Sequence[Observation]) -> list[str]:
        """One reflection per observation."""
        ...

    def stream(self, observation: Observation) -> Iterator[str]:
        """The reflection on one observation in pieces, as they are written."""
        ...


class NoReflector:
    """Says nothing: the ablation without reflection."""

    name = "none"

    def reflect(self, observations: Sequence[Observation]) -> list[str]:
        return [""] * len(observations)

    def stream(self, observation: Observation) -> Iterator[str]:
        return iter(())


class RandomPolicy:
    """Every option is as likely as every other."""

    name = "random"

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        return [[-math.log(len(o.options))] * len(o.options) for o in observations]


class OraclePolicy:
    """Spreads the probability over the best options of ``environment``, which it looks into.

    Plays one environment, one observation at a time; uniform where no best option is known.
    """

    name = "oracle"

    def __init__(self, environment: Environment[Any]) -> None:
        self.environment = environment

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        (observation,) = observations
        best = self.environment.oracle() or list(range(len(observation.options)))
        return [[-math.log(len(best)) if i in best else -math.inf for i in range(len(observation.options))]]


def choose(log_probabilities: Sequence[float], rng: random.Random | None = None) -> int:
    """Index of the most likely option, or one drawn from the distribution if ``rng`` is given."""
    if rng is None:
        return max(range(len(log_probabilities)), key=log_probabilities.__getitem__)
    weights = [math.exp(p) for p in log_probabilities]
    return rng.choices(range(len(weights)), weights)[0]
