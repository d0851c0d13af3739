"""The states that the players are taught on: optimal trajectories, and mistakes off them.

A *positive* state lies on a trajectory of the oracle. A *negative* one lies one wrong action beside
it, or several: the teacher is told of the last mistake, and its reflection shows how to recover.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from repoagent.environment import Environment, Observation, Option
from repoagent.errors import InputError
from training.files import whole

_OPTION = tuple(f.name for f in fields(Option) if f.name != "read")


@dataclass(frozen=True, slots=True)
class State:
    """A decision with the oracle's answer.

    ``best`` are the indices of the best options, ``mistake`` is the text of the wrong action that
    led here (empty on the optimal path), ``reflection`` is what a teacher wrote on it.
    """

    observation: Observation
    best: tuple[int, ...]
    mistake: str = ""
    reflection: str = ""


def optimal(environment: Environment[Any], task: Any, rng: random.Random) -> list[State]:
    """The states of one episode that takes best options alone, drawn among equals."""
    return [state for state, _ in _walk(environment, task, rng)]


def perturbed(
    environment: Environment[Any], task: Any, rng: random.Random, mistakes: int = 1
) -> State | None:
    """The state after one wrong action on an optimal trajectory; None where every one ends the episode.

    The step and the action are drawn among those after which the task can still be solved. With more
    ``mistakes`` than the paper's one, up to so many are made in a row, as many as were drawn: what there is
    to do after looking around in vain is seldom one step off the path.
    """
    walk = _walk(environment, task, rng)
    steps = list(range(len(walk)))
    rng.shuffle(steps)
    for step in steps:
        options = walk[step][0].observation.options
        wrong = [i for i in range(len(options)) if i not in walk[step][0].best]
        rng.shuffle(wrong)
        for index in wrong:
            environment.reset(task)
            for _, action in walk[:step]:
                environment.step(action)
            result = environment.step(index)
            best = tuple(environment.oracle()) if not result.done else ()
            if best:
                state = State(result.observation, best, mistake=options[index].text)
                return _further(environment, state, rng, rng.randrange(mistakes) if mistakes > 1 else 0)
    return None


def _further(environment: Environment[Any], state: State, rng: random.Random, mistakes: int) -> State:
    """The state after up to ``mistakes`` more; an option that would end the task is not undone, so the last
    state before it stands."""
    for _ in range(mistakes):
        options = state.observation.options
        wrong = [i for i in range(len(options)) if i not in state.best]
        if not wrong:
            break
        index = rng.choice(wrong)
        result = environment.step(index)
        best = () if result.done else tuple(environment.oracle())
        if not best:
            break
        state = State(result.observation, best, mistake=options[index].text)
    return state


def _walk(environment: Environment[Any], task: Any, rng: random.Random) -> list[tuple[State, int]]:
    observation = environment.reset(task)
    walk: list[tuple[State, int]] = []
    while best := tuple(environment.oracle()):
        index = rng.choice(best)
        walk.append((State(observation, best), index))
        result = environment.step(index)
        if result.done:
            break
        observation = result.observation
    return walk


def write_states(path: Path, states: Iterable[State]) -> None:
    """One JSON object per line; ``path`` appears only when it is whole."""
    with whole(path) as part, part.open("w", encoding="utf-8") as file:
        for state in states:
            row = {"observation": observation_to(state.observation), "best": state.best,
                   "mistake": state.mistake, "reflection": state.reflection}  # fmt: skip
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_states(path: Path) -> list[State]:
    """What :func:`write_states` wrote; :class:`InputError` names the line that cannot be read."""
    states = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; run the stage before.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            states.append(_state(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number}: no state ({error}); make it again with --clean."
            ) from None
    return states


def observation_to(observation: Observation) -> dict[str, Any]:
    """``observation`` as JSON can hold it: without ``Option.read``."""
    options = [{n: getattr(o, n) for n in _OPTION} for o in observation.options]
    return {"task": observation.task, "location": observation.location, "history": observation.history,
            "last_result": observation.last_result, "options": options}  # fmt: skip


def observation_from(data: dict[str, Any]) -> Observation:
    """Take back what :func:`observation_to` gave."""
    options = tuple(Option(**o | {"features": tuple(o.get("features", ()))}) for o in data["options"])
    return Observation(data["task"], data["location"], tuple(data["history"]), data["last_result"], options)


def _state(data: dict[str, Any]) -> State:
    observation = observation_from(data["observation"])
    return State(observation, tuple(data["best"]), data.get("mistake", ""), data.get("reflection", ""))
