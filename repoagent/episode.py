"""play(): the two-player loop as a stream of events; play_batch() for many episodes at once.

Each step: the frozen reflector writes a reflection on the observation, the policy spreads
probability over the enumerated options given both, one option is taken. Whoever wants to show,
store or learn from an episode reads the events; nothing else drives an environment.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from repoagent.environment import Environment, Observation, Option, StepResult
from repoagent.errors import InputError
from repoagent.players import NoReflector, Policy, RandomPolicy, Reflector, choose


@dataclass(frozen=True, slots=True)
class Observed:
    """A decision is due; ``step`` counts from 0."""

    step: int
    observation: Observation


@dataclass(frozen=True, slots=True)
class ReflectionToken:
    """One more piece of the reflection."""

    text: str


@dataclass(frozen=True, slots=True)
class Reflected:
    """The reflection is complete."""

    text: str


@dataclass(frozen=True, slots=True)
class Decided:
    """The policy's distribution (log-probabilities, one per option) and the option taken."""

    log_probabilities: tuple[float, ...]
    index: int


@dataclass(frozen=True, slots=True)
class Acted:
    """The environment's answer to ``option``."""

    option: Option
    result: StepResult


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step of an episode."""

    observation: Observation
    reflection: str
    log_probabilities: tuple[float, ...]
    index: int
    result: StepResult

    @property
    def option(self) -> Option:
        return self.observation.options[self.index]


@dataclass(slots=True)
class Trajectory:
    """The steps of an episode; ``total`` is the undiscounted return."""

    steps: list[Step] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(s.result.reward for s in self.steps)


@dataclass(frozen=True, slots=True)
class Taken:
    """A decision of an earlier episode: what the players gave then, and the ``option`` taken."""

    reflection: str
    log_probabilities: tuple[float, ...]
    option: Option


@dataclass(frozen=True, slots=True)
class Finished:
    """The episode is over."""

    trajectory: Trajectory


Event = Observed | ReflectionToken | Reflected | Decided | Acted | Finished


def play(
    environment: Environment[Any],
    task: Any,
    policy: Policy,
    reflector: Reflector | None = None,
    *,
    seed: int | None = None,
    greedy: bool | None = None,
    taken: Sequence[Taken] = (),
) -> Iterator[Event]:
    """Play one episode and yield what happens as it happens.

    With ``greedy`` the most likely option is taken, else one drawn with ``seed``; by default
    options are drawn for a random policy alone, whose most likely one means nothing.

    The episode begins with the decisions ``taken``, for which the players are not asked again; ``InputError``
    if the environment does not offer one of them any more.
    """
    if greedy is None:
        greedy = not isinstance(policy, RandomPolicy)
    reflector = reflector or NoReflector()
    rng = None if greedy else random.Random(seed)
    trajectory = Trajectory()
    observation = environment.reset(task, seed)
    while observation.options:
        number = len(trajectory.steps)
        yield Observed(number, observation)
        if number < len(taken):
            reflection, log_probabilities = taken[number].reflection, taken[number].log_probabilities
            index = _offered(taken[number], observation)
            yield Reflected(reflection)
        else:
            pieces = []
            for piece in reflector.stream(observation):
                pieces.append(piece)
                yield ReflectionToken(piece)
            reflection = "".join(pieces).strip()
            yield Reflected(reflection)
            log_probabilities = tuple(policy.distribution([observation], [reflection])[0])
            index = choose(log_probabilities, rng)
        yield Decided(log_probabilities, index)
        result = environment.step(index)
        trajectory.steps.append(Step(observation, reflection, log_probabilities, index, result))
        yield Acted(observation.options[index], result)
        if result.done:
            break
        observation = result.observation
    yield Finished(trajectory)


def _offered(decision: Taken, observation: Observation) -> int:
    """The index of what was taken among the options that there are now."""
    wanted = decision.option
    same = [(o.kind, o.target) == (wanted.kind, wanted.target) for o in observation.options]
    if True not in same or len(same) != len(decision.log_probabilities):
        raise InputError("the repository has changed since this was asked, so the way is another; ask again.")
    return same.index(True)


def play_batch(
    environments: Sequence[Environment[Any]],
    tasks: Sequence[Any],
    policy: Policy,
    reflector: Reflector | None = None,
    *,
    seeds: Sequence[int | None] | None = None,
    greedy: bool = False,
) -> list[Trajectory]:
    """Play ``tasks[i]`` in ``environments[i]`` side by side, players batched over those still running."""
    reflector = reflector or NoReflector()
    seeds = seeds if seeds is not None else [None] * len(tasks)
    rngs = [None if greedy else random.Random(seed) for seed in seeds]
    trajectories = [Trajectory() for _ in tasks]
    running = {
        i: observation
        for i, (env, task, seed) in enumerate(zip(environments, tasks, seeds, strict=True))
        if (observation := env.reset(task, seed)).options
    }
    while running:
        indices = list(running)
        observations = [running[i] for i in indices]
        reflections = reflector.reflect(observations)
        distributions = policy.distribution(observations, reflections)
        for i, observation, reflection, log_probabilities in zip(
            indices, observations, reflections, distributions, strict=True
        ):
            index = choose(log_probabilities, rngs[i])
            result = environments[i].step(index)
            trajectories[i].steps.append(
                Step(observation, reflection, tuple(log_probabilities), index, result)
            )
            if result.done or not result.observation.options:
                del running[i]
            else:
                running[i] = result.observation
    return trajectories
