"""ALFWorld, the third benchmark of the paper: household tasks as text, played with the admissible commands.

The agent wants an object somewhere, perhaps clean, hot or cool, and first has to find it. Games come from a
generator or from ALFWorld's own files (``sources.py``); the engine is ours (``engine.py``), and ``parity.py``
holds it equal to the real one. How an episode is shown and counted is :data:`PROTOCOL`, which is printed
beside every result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.expert import Expert
from benchmarks.alfworld.game import TASK_TYPES, Game
from benchmarks.alfworld.generate import GeneratedGames
from benchmarks.alfworld.held_out import FOLDERS, check_training
from benchmarks.alfworld.reflection import reflection
from benchmarks.alfworld.sources import GameTask, OfficialGames, Source, check_kind
from benchmarks.alfworld.written import digest
from benchmarks.alfworld.written import written as written_reflections
from repoagent.environment import Observation, Option, StepResult
from repoagent.episode import Trajectory
from repoagent.errors import InputError

if TYPE_CHECKING:
    from training.benchmark import Split
    from training.states import State

TAKE, TASK = "take", "task"
STAGES = (TAKE, TASK)
SOURCES = ("generated", "official")
MID_ROOM = "the middle of the room"


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a result on ALFWorld depends on beside the games; change a word and raise ``version``."""

    version: int = 1
    wording: str = "ALFWorld 2.1.2: 'move X to Y'; the released sentence of the task, one of twelve templates"
    options: str = (
        "all admissible commands in alphabetical order, help, inventory and look among them, nothing else; "
        "an inadmissible command cannot be given"
    )
    task: str = "the sentence of the task"
    location: str = f"the last 'go to'; {MID_ROOM!r} before"
    history: str = "every action so far with what it showed, the latest last; nothing is left out"
    last_result: str = "what the game said last; at first what stands in the room"
    success: str = "the game is won within the horizon; no second try, no hint, no expert in the loop"
    horizon: int = 50

    def text(self) -> str:
        """The protocol as Markdown, a line for each point."""
        return "\n".join(f"- {name}: {value}" for name, value in asdict(self).items())


PROTOCOL = Protocol()


class AlfworldEnvironment:
    """One stage of the curriculum: "take" ends when an object of the kind that the task names is in hand.

    Every step costs ``step_cost``, achieving the stage gives 1; on the way to the whole task taking the first
    such object gives ``take_reward``.
    """

    def __init__(
        self,
        stage: str,
        source: Source,
        horizon: int = PROTOCOL.horizon,
        step_cost: float = 0.01,
        take_reward: float = 0.0,
    ) -> None:
        self.stage, self.source, self.horizon = stage, source, horizon
        self.step_cost, self.take_reward = step_cost, take_reward
        self.engine: Engine | None = None
        self.over = True

    def reset(self, task: GameTask, seed: int | None = None) -> Observation:
        game = self.source.game(task.name)
        if self.engine is None or self.engine.game is not game:
            self.engine = Engine(game)
        intro = self.engine.reset()
        self.expert = Expert()
        self.expert.reset(intro)
        self.location, self.steps, self.over, self.taken = MID_ROOM, 0, False, False
        self.history: tuple[str, ...] = ()
        room = intro.split("\n\n")[1]
        return self._observe(room)

    def step(self, index: int) -> StepResult:
        if self.over or self.engine is None or not 0 <= index < len(self.shown):
            raise IndexError(f"no option {index}")
        option = self.shown[index]
        said = self.engine.step(option.text)
        # The expert is told of every step, whoever chose it, so that it can recover from a mistake.
        self.expert.observe(option.text, said)
        self.steps += 1
        if option.kind == "go":
            self.location = option.target
        self.history += (line(option.text, said),)
        taking = option.kind == "take" and self._wanted(self.engine.game, option.target) and not self.taken
        self.taken |= taking
        won = self.engine.won if self.stage != TAKE else self.taken
        late = not won and self.steps >= self.horizon
        reward = 1.0 if won else (self.take_reward if taking else 0.0) - self.step_cost
        self.over = won or late
        seen = self._observe(said, final=self.over)
        return StepResult(seen, reward, won, late, {TAKE: self.taken, TASK: self.engine.won})

    def oracle(self) -> list[int]:
        """What the scripted expert would do, which knows no more than was shown, then what it holds for as
        good; nothing where the game can no longer be won, which the expert does not know."""
        if self.over or self.engine is None or self.engine.stuck:
            return []
        commands = [option.text for option in self.shown]
        return [commands.index(command) for command in self.expert.best(commands)]

    @staticmethod
    def _wanted(game: Game, name: str) -> bool:
        return name.rpartition(" ")[0] == game.thing

    def _observe(self, happened: str, final: bool = False) -> Observation:
        assert self.engine is not None
        self.shown = () if final else tuple(option_of(c) for c in self.engine.commands())
        return Observation(
            task=f"{self.engine.game.sentence}.",
            location=self.location,
            history=self.history,
            last_result=" ".join(happened.split()),
            options=self.shown,
        )


_options: dict[str, Option] = {}


def option_of(command: str) -> Option:
    """The option of a ``command``: its verb, and the thing or else the receptacle that it applies to.

    >>> option_of("go to desk 1").target, option_of("take mug 1 from desk 1").target
    ('desk 1', 'mug 1')
    """
    if command not in _options:
        verb, _, rest = command.partition(" ")
        name = re.match(r"(?:to )?(\w+ \d+)", rest)
        _options[command] = Option(command, verb, name[1] if name else "")
    return _options[command]


_SEEN = re.compile(r"you see (.*)\.$", re.DOTALL)


def line(command: str, said: str) -> str:
    """An action and what it showed, short.

    >>> line("go to desk 1", "You arrive at desk 1. On the desk 1, you see a cd 1, and a mug 2.")
    'go to desk 1: a cd 1, a mug 2'
    >>> line("go to safe 1", "You arrive at safe 1. The safe 1 is closed.")
    'go to safe 1: closed'
    >>> line("examine mug 2", "This is a hot mug 2.")
    'examine mug 2: This is a hot mug 2'
    >>> line("take mug 2 from desk 1", "You pick up the mug 2 from the desk 1.")
    'take mug 2 from desk 1'
    """
    verb = command.split()[0]
    shown = ""
    if verb in ("go", "open", "examine", "look", "inventory"):
        if found := _SEEN.search(said):
            shown = found[1].replace(", and ", ", ")
        elif said.endswith(" is closed."):
            shown = "closed"
        else:
            shown = said.rstrip(".")
    return f"{command}: {shown}" if shown else command


class ALFWorld:
    """The benchmark.

    ``source``: "generated" (no download; splits by seed) or "official" (ALFWorld's files: train, valid_seen
    for validation, valid_unseen for the test), which lie below ``data`` or what ALFWORLD_DATA names.
    ``types``: kinds of task to be restricted to, of :data:`TASK_TYPES`; the paper plays one. ``games``: train
    on so many games, ``held_out``: play so many of either held-out split, each kind by its share (0: all).
    ``written``: where a large language model wrote a reflection on a state of an official game, the teacher's
    is that one. Raises :class:`InputError` for what is unknown or missing.
    """

    name = "alfworld"
    stages = STAGES

    def __init__(
        self,
        source: str = "generated",
        types: str | Sequence[str] = (),
        data: str = "",
        games: int = 0,
        held_out: int = 0,
        horizon: int = PROTOCOL.horizon,
        step_cost: float = 0.01,
        take_reward: float = 0.0,
        written: bool = False,
    ) -> None:
        if source not in SOURCES:
            raise InputError(f"benchmark.source is '{source}': use {' or '.join(SOURCES)}.")
        for name, number in (("games", games), ("held_out", held_out), ("horizon", horizon - 1)):
            if number < 0:
                raise InputError(f"benchmark.{name} is too small: give at least {int(name == 'horizon')}.")
        for name, value in (("step_cost", step_cost), ("take_reward", take_reward)):
            if not 0 <= value <= 1:
                raise InputError(f"benchmark.{name} is {value}: give a number from 0 to 1.")
        chosen = [t for t in re.split(r"[,\s]+", types) if t] if isinstance(types, str) else list(types)
        kinds = dict.fromkeys(check_kind(kind, "benchmark.types") for kind in chosen)
        self.types = tuple(kinds) or TASK_TYPES
        self.games, self.held_out, self.horizon = games, held_out, horizon
        self.step_cost, self.take_reward = step_cost, take_reward
        self.written = written_reflections() if written else {}
        self.official = source == "official"
        self.source: Source = (
            OfficialGames(Path(data) if data else None) if self.official else GeneratedGames(self.types)
        )
        self._tasks: dict[str, Sequence[GameTask]] = {}

    def environment(self, stage: str) -> AlfworldEnvironment:
        return AlfworldEnvironment(
            stage, _Guarded(self.source), self.horizon, self.step_cost, self.take_reward
        )

    def tasks(self, split: Split) -> Sequence[GameTask]:
        if split not in self._tasks:
            found = [task for task in self.source.tasks(split) if task.kind in self.types]
            if not found:
                raise InputError(
                    f"no game of the split {split} is of benchmark.types: {', '.join(self.types)}."
                )
            wanted = self.games if split == "train" else self.held_out
            if 0 < wanted < len(found):
                # Sources list the kinds in turn, or one after another: evenly spread over the latter.
                ordered = sorted(found, key=lambda task: task.kind)
                kept = {ordered[(2 * i + 1) * len(found) // (2 * wanted)] for i in range(wanted)}
                found = [task for task in found if task in kept]
            self._tasks[split] = found
        return self._tasks[split]

    def plays(self, stage: str, task: GameTask) -> bool:
        return True

    def outcomes(self, trajectory: Trajectory) -> Mapping[str, bool]:
        """*take*: an object of the wanted kind was taken; *task*: the game is won."""
        return {
            stage: any(step.result.info.get(stage, False) for step in trajectory.steps) for stage in STAGES
        }

    def reflection(self, state: State) -> str:
        known = self.written.get(digest(state)) if self.written else None
        return known or reflection(state)

    def protocol(self) -> dict[str, Any]:
        """How episodes are shown and counted, for the head of a result: :data:`PROTOCOL` and the settings."""
        games = "official" if self.official else "generated"
        return asdict(PROTOCOL) | {"horizon": self.horizon, "games": games, "types": list(self.types)}


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A source whose training games are checked, by content, to be none of those held out."""

    source: Source

    def tasks(self, split: Split) -> Sequence[GameTask]:
        return self.source.tasks(split)

    def game(self, name: str) -> Game:
        game = self.source.game(name)
        return game if name.partition("/")[0] in FOLDERS else check_training(game)
