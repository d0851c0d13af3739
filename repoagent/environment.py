"""The contract between what is explored and who explores it.

An environment shows an :class:`Observation` whose options are enumerated; a player answers with
the number of one of them. The tool, the trainer and all benchmarks know nothing else of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True, slots=True)
class Passage:
    """Lines ``start`` to ``end`` (1-based, inclusive) of the file at ``path``."""

    path: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Option:
    """One numbered choice.

    ``text`` is what a language model reads; ``kind`` groups options ("go", "open", "identify",
    "lines", ... ); ``target`` is what the action applies to. ``evidence`` (longer text) and
    ``features`` (numbers, see :data:`repoagent.explore.FEATURES`) are for heads that score options.
    ``read`` gives the passages behind the option to a policy that looks closer before it decides; it costs
    time, so it is for the few options that deserve it.
    """

    text: str
    kind: str
    target: str = ""
    evidence: str = ""
    features: tuple[float, ...] = ()
    read: Callable[[], Sequence[Passage]] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the players see before one decision."""

    task: str
    location: str
    history: tuple[str, ...]
    last_result: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class StepResult:
    """The outcome of one action; ``reward`` lies in [-1, 1]."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated


TaskT = TypeVar("TaskT", contravariant=True)


@runtime_checkable
class Environment(Protocol[TaskT]):
    """Gymnasium-style environment over enumerated options."""

    def reset(self, task: TaskT, seed: int | None = None) -> Observation:
        """Start an episode; the same task and seed give the same episode."""
        ...

    def step(self, index: int) -> StepResult:
        """Take option ``index`` (0-based) of the last observation; ``IndexError`` if there is none."""
        ...

    def oracle(self) -> list[int]:
        """Indices of the best options of the last observation; empty where they are not known."""
        ...


def as_gymnasium(environment: Environment[TaskT], task: TaskT) -> gymnasium.Env[Observation, Any]:
    """Wrap ``environment`` on a fixed ``task`` as a ``gymnasium.Env`` (extra ``train``).

    The observation stays an :class:`Observation`; the action space is ``Discrete`` with the
    number of options and changes with every step, so agents must mask by ``env.action_space.n``.
    """
    import gymnasium as gym

    class Adapter(gym.Env[Observation, Any]):
        observation_space = gym.spaces.Space()

        def _show(self, observation: Observation) -> Observation:
            self.action_space = gym.spaces.Discrete(max(1, len(observation.options)))
            return observation

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Observation, dict[str, Any]]:
            super().reset(seed=seed)
            return self._show(environment.reset(task, seed)), {}

        def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
            result = environment.step(int(action))
            return (
                self._show(result.observation),
                result.reward,
                result.terminated,
                result.truncated,
                dict(result.info),
            )

    return Adapter()
