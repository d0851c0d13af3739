"""Corrections: what a user did better than the policy, kept as states to train on.

A file of JSON lines for each repository, in the form that the training pipeline reads: an ``observation``,
the indices of the ``best`` options, the ``mistake`` that led there (empty on the right way) and a
``reflection`` that notices it. Each line also says of which ``repo``, when (``at``) and from what
(``source``) it came.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from repoagent import storage
from repoagent.environment import Observation, Option
from repoagent.errors import InputError
from repoagent.explore import RepoEnvironment, Task
from repoagent.repo import display
from repoagent.walk import Decision

TAKE_OVER, ANSWER = "take-over", "answer"
"""Where a correction comes from: another option at a step, or another file than the answer."""
_OPTION = tuple(f.name for f in fields(Option) if f.name != "read")


@dataclass(frozen=True, slots=True)
class State:
    """A decision, the options that would have been best, and the mistake that led to it, if one did."""

    observation: Observation
    best: tuple[int, ...]
    mistake: str = ""

    @property
    def reflection(self) -> str:
        """What one would have said to avoid the mistake; none on the right way, where a teacher is asked."""
        if not self.mistake:
            return ""
        best = self.observation.options[self.best[0]]
        if best.kind == "identify":
            text = "The lines of the opened file answer the question: name this file."
        elif best.kind == "open":
            text = "The file that answers the question is listed here: open it before naming it."
        elif len(best.target) < len(self.observation.location):
            text = "The answer does not lie below this folder: go back up."
        else:
            text = "Nothing listed fits: go on to the folder where such files live."
        return f"The last action was a mistake. {text}"


def taken_over(environment: RepoEnvironment, task: Task, decisions: Sequence[Decision]) -> list[State]:
    """The last of ``decisions`` as the user took it, and what follows the policy's own choice there.

    That second state, one mistake off the user's way, is missing where the mistake would have ended the walk.
    """
    made = decisions[-1]
    if made.proposed is None:
        raise ValueError("the policy chose the same")
    observation = _replay(environment, replace(task, **_aim(environment, decisions)), decisions[:-1])
    states = [State(observation, (_index(observation, made.taken.option),))]
    mistake = observation.options[made.proposed].text
    result = environment.step(made.proposed)
    if not result.done:
        same = _index(result.observation, made.taken.option)
        best = (same,) if same >= 0 else tuple(environment.oracle()) if environment.task.gold else ()
        states += [State(result.observation, best, mistake)] if best else []
    return states


def _aim(environment: RepoEnvironment, decisions: Sequence[Decision]) -> dict[str, Any]:
    """Where the user's choice leads, as the files of a task that the oracle can be asked about."""
    option = decisions[-1].taken.option
    match option.kind:
        case "open" | "identify":
            return {"gold": (option.target,), "span": None}
        case "go":
            return {"gold": (posixpath.join(option.target, "\0"),), "span": None}  # something below it
    return {"gold": (), "span": None}


def answered(
    environment: RepoEnvironment, task: Task, decisions: Sequence[Decision], path: str
) -> list[State]:
    """The best way to the file at ``path``, and the state after the first wrong one of ``decisions``."""
    entry = environment.repo.entry(path)
    if entry is None or entry.kind != "file":
        raise InputError(f"there is no file {display(path)} in {display(environment.repo.name)}.")
    task = replace(task, gold=(path,), span=None)
    observation = environment.reset(task)
    states = []
    while best := tuple(environment.oracle()):
        states.append(State(observation, best))
        result = environment.step(best[0])
        if result.done:
            break
        observation = result.observation
    observation = environment.reset(task)
    for made in decisions:
        best = tuple(environment.oracle())
        index = _index(observation, made.taken.option)
        if not best or index < 0:
            break
        mistake = "" if index in best else observation.options[index].text
        result = environment.step(index)
        observation = result.observation
        if mistake or result.done:
            recovery = () if result.done else tuple(environment.oracle())
            states += [State(observation, recovery, mistake)] if recovery and mistake else []
            break
    return states


def _replay(environment: RepoEnvironment, task: Task, decisions: Sequence[Decision]) -> Observation:
    observation = environment.reset(task)
    for made in decisions:
        observation = environment.step(_index(observation, made.taken.option)).observation
    return observation


def _index(observation: Observation, option: Option) -> int:
    """Where ``option`` is offered; -1 if it is not."""
    wanted = option.kind, option.target
    return next((i for i, o in enumerate(observation.options) if (o.kind, o.target) == wanted), -1)


# -- files -------------------------------------------------------------------------------------


def location(repo: str) -> Path:
    """The file for the repository at ``repo`` (an absolute path)."""
    return storage.folder("corrections") / f"{storage.named(repo)}.jsonl"


def store(repo: str, states: Sequence[State], source: str, at: str) -> Path:
    """Add ``states`` to the file of the repository at ``repo``, which is returned."""
    path = location(repo)
    rows = [_row(state) | {"repo": repo, "source": source, "at": at} for state in states]
    storage.append(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def _row(state: State) -> dict[str, Any]:
    seen = state.observation
    options = [{name: getattr(option, name) for name in _OPTION} for option in seen.options]
    observation = {"task": seen.task, "location": seen.location, "history": seen.history,
                   "last_result": seen.last_result, "options": options}  # fmt: skip
    return {"observation": observation, "best": state.best, "mistake": state.mistake,
            "reflection": state.reflection}  # fmt: skip
