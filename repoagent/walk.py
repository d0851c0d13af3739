"""Walk: one episode that another thread can hold, let go step by step, and call off.

Going back and choosing otherwise need no more than :func:`repoagent.episode.play` has: they are new walks
that begin with decisions of the old one. Between a decision and its action a walk can be held, as nothing
pulls the next event.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repoagent.environment import Environment, Observation
from repoagent.episode import Decided, Event, Observed, Reflected, Taken, play
from repoagent.players import Policy, Reflector


@dataclass(frozen=True, slots=True)
class Held:
    """The walk waits before it does what it has decided."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was seen and ``taken``; ``proposed`` is what the policy chose where the user chose otherwise."""

    observation: Observation
    taken: Taken
    proposed: int | None = None

    @property
    def index(self) -> int:
        wanted = self.taken.option
        options = self.observation.options
        return next(i for i, o in enumerate(options) if (o.kind, o.target) == (wanted.kind, wanted.target))

    def instead(self, index: int) -> Taken:
        """The same decision with the option ``index`` taken."""
        return Taken(self.taken.reflection, self.taken.log_probabilities, self.observation.options[index])


@dataclass(frozen=True, slots=True)
class Start:
    """How a walk begins: decisions that are already ``taken``; of those that the user took, what the
    policy had ``proposed``, by step; whether it is ``held`` before the first decision of its own."""

    taken: Sequence[Taken] = ()
    proposed: Mapping[int, int] | None = None
    held: bool = False


class Walk:
    """An episode of ``task``, led from outside; the last of its ``decisions`` is perhaps not yet done."""

    def __init__(self, task: Any, start: Start | None = None) -> None:
        self.task = task
        self.decisions: list[Decision] = []
        self.waiting = False
        """Whether the walk is held at its last decision."""
        self._start = start or Start()
        self._held = self._start.held
        self._called_off = False
        self._steps = 0  # that may be done although the walk is held
        self._change = threading.Condition()

    # -- told from other threads ---------------------------------------------------------------

    def hold(self) -> None:
        """Stop before the next action."""
        with self._change:
            self._held = True

    def go_on(self) -> None:
        """Go on until the end."""
        with self._change:
            self._held = False
            self._change.notify_all()

    def step(self) -> None:
        """Do one action, and stop before the next."""
        with self._change:
            self._steps += self.waiting
            self._held = True
            self._change.notify_all()

    def call_off(self) -> None:
        """End without another event."""
        with self._change:
            self._called_off = True
            self._change.notify_all()

    @property
    def held(self) -> bool:
        """Whether the walk is to stop before the next action, or has."""
        return self._held

    @property
    def called_off(self) -> bool:
        return self._called_off

    # -- other walks ---------------------------------------------------------------------------

    def back(self, number: int) -> Start:
        """The walk up to step ``number`` (from 0), which is then decided anew and held."""
        return Start([d.taken for d in self.decisions[:number]], self._proposed(number), held=True)

    def instead(self, number: int, index: int) -> Start:
        """The walk up to step ``number``, at which the option ``index`` is taken, and on from there."""
        made = self.decisions[number]
        before = self.back(number)
        by_policy = made.index if made.proposed is None else made.proposed
        proposed = dict(before.proposed or {})
        if index != by_policy:
            proposed[number] = by_policy
        return Start([*before.taken, made.instead(index)], proposed)

    def _proposed(self, number: int) -> dict[int, int]:
        return {i: d.proposed for i, d in enumerate(self.decisions[:number]) if d.proposed is not None}

    # -- the episode ---------------------------------------------------------------------------

    def events(
        self,
        environment: Environment[Any],
        policy: Policy,
        reflector: Reflector | None = None,
        seed: int | None = None,
    ) -> Iterator[Event | Held]:
        """Play, and yield what happens; once."""
        proposed = self._start.proposed or {}
        observation, reflection = None, ""
        for event in play(environment, self.task, policy, reflector, seed=seed, taken=self._start.taken):
            if self._called_off:
                return
            match event:
                case Observed():
                    observation = event.observation
                case Reflected():
                    reflection = event.text
                case Decided() if observation is not None:
                    number = len(self.decisions)
                    taken = Taken(reflection, event.log_probabilities, observation.options[event.index])
                    self.decisions.append(Decision(observation, taken, proposed.get(number)))
            yield event
            if isinstance(event, Decided) and len(self.decisions) > len(self._start.taken):
                if self._held:
                    self.waiting = True
                    yield Held()
                self._wait()
                if self._called_off:
                    return

    def _wait(self) -> None:
        with self._change:
            self._change.wait_for(lambda: self._called_off or not self._held or self._steps)
            self._steps = max(0, self._steps - 1)
            self.waiting = False
