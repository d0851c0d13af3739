"""Compares our engine with the real one, step by step, and measures ours.

    python -m benchmarks.alfworld.parity --games 500 --steps 20000 --output NAME.md --output NAME.json

Plays the released games (ALFWORLD_DATA) or, with ``--source generated``, ours, and needs the extra
``alfworld`` for the comparison. Without it, ``--games 0`` still replays the walkthroughs and measures the
speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.alfworld.engine import Engine, Player
from benchmarks.alfworld.game import Game, compile_game, read_game
from benchmarks.alfworld.generate import SIZES, GeneratedGames, draft
from benchmarks.alfworld.real import RealEngine, package_texts
from benchmarks.alfworld.sources import OfficialGames
from benchmarks.table import check_output, markdown, provenance, write
from repoagent.errors import InputError, RepoagentError

TITLE = "ALFWorld: our engine and the real one"
SPLITS = ("train", "valid_train", "valid_seen", "valid_unseen")
NONSENSE = ("dance", "go to nowhere 1", "take", "Look", "go to  fridge 1")
"""Commands that no game admits."""

WEIGHTS = {"help": 0.1, "inventory": 0.2, "look": 0.5, "examine": 0.5}
"""How often a verb is drawn; the others 1."""

SHOWN = 20
"""Differences that are kept in full."""


@dataclass(slots=True)
class Comparison:
    """How much of two engines was compared, and where they differ."""

    games: int = 0
    steps: int = 0
    won: int = 0
    verbs: dict[str, int] = field(default_factory=dict)
    differing: int = 0
    differences: list[str] = field(default_factory=list)

    def check(self, what: str, ours: object, real: object) -> bool:
        """Note a difference; ``what`` says where it is."""
        if ours == real:
            return True
        self.differing += 1
        if len(self.differences) < SHOWN:
            self.differences.append(f"{what}: ours {ours!r}, real {real!r}")
        return False


@dataclass(frozen=True, slots=True)
class Speed:
    """What one core does: steps per second of single games (admissible commands and feedback included) and
    games compiled per second."""

    steps: int
    steps_per_second: float
    games: int
    games_per_second: float


def wander(rng: random.Random, commands: Sequence[str], guide: list[str]) -> str:
    """The next command of a walk through a game: often the next of ``guide`` (which loses what was done) or
    the way to where it can be done, now and then nonsense, else one of a verb drawn at random, so that the
    rare verbs occur."""
    draw = rng.random()
    if guide and draw < 0.4:
        if guide[0] in commands:
            return guide.pop(0)
        way = f"go to {' '.join(guide[0].split()[-2:])}"
        if way in commands:
            return way
        guide.pop(0)
    if draw > 0.98:
        return rng.choice(NONSENSE)
    verbs = sorted({command.split()[0] for command in commands})
    verb = rng.choices(verbs, [WEIGHTS.get(v, 1.0) for v in verbs])[0]
    return rng.choice([command for command in commands if command.split()[0] == verb])


def compare(
    found: Comparison, name: str, game: Game, ours: Player, real: Player, steps: int, rng: random.Random
) -> None:
    """Play ``game`` on both engines for ``steps`` steps, whether or not it is won on the way."""
    found.games += 1
    if not found.check(f"{name}, introduction", ours.reset(), real.reset()):
        return
    guide = list(game.walkthrough)
    for number in range(steps + 1):
        commands = ours.commands()
        same = found.check(f"{name}, step {number}, commands", tuple(commands), tuple(real.commands()))
        if not found.check(f"{name}, step {number}, won", ours.won, real.won) or not same or number == steps:
            break
        command = wander(rng, commands, guide)
        said = ours.step(command)
        found.steps += 1
        verb = command.split()[0] if command in commands else "inadmissible"
        found.verbs[verb] = found.verbs.get(verb, 0) + 1
        if not found.check(f"{name}, step {number}, {command}", said, real.step(command)):
            break
    found.won += ours.won


class Official:
    """The released games."""

    def __init__(self) -> None:
        self.source = OfficialGames()
        self.by_split = {split: [task.name for task in self.source.listed(split)] for split in SPLITS}

    def data(self, name: str) -> dict[str, Any]:
        """The content of a game's file."""
        found: dict[str, Any] = json.loads(self.source.path(name).read_bytes())
        return found

    def game(self, name: str) -> Game:
        """The game of our engine."""
        return read_game(self.source.path(name))


class Generated:
    """The generated games; the real engine gets them with the domain and grammar of its own package."""

    def __init__(self) -> None:
        source = GeneratedGames()
        self.by_split = {split: [task.name for task in source.tasks(split)] for split in SIZES}

    def data(self, name: str) -> dict[str, Any]:
        """What a file of the game would hold."""
        return draft(name).file(*package_texts())

    def game(self, name: str) -> Game:
        """The game of our engine."""
        return draft(name).game(name)


Suite = Official | Generated


def sample(suite: Suite, count: int, seed: int) -> list[str]:
    """Names of ``count`` games, all splits alike as far as they go."""
    rng = random.Random(f"alfworld/parity/{seed}")
    splits = list(suite.by_split.values())
    names: list[str] = []
    for number, listed in enumerate(splits):
        share = count // len(splits) + (number < count % len(splits))
        names += rng.sample(listed, min(share, len(listed)))
    spare = [name for name in splits[0] if name not in set(names)]
    return names + rng.sample(spare, min(count - len(names), len(spare)))


def parity(suite: Suite, games: int, steps: int, seed: int, progress: Callable[[str], None]) -> Comparison:
    """Compare the engines on ``games`` games, ``steps`` steps in all."""
    found = Comparison()
    real = RealEngine()
    for number, name in enumerate(sample(suite, games, seed)):
        data = suite.data(name)
        game = compile_game(data, name)
        real.load(data)
        share = steps // games + (number < steps % games)
        compare(found, name, game, Engine(game), real, share, random.Random(f"{seed}/{name}"))
        if (number + 1) % 10 == 0:
            progress(f"{found.games} games, {found.steps} steps, {found.differing} differences")
    return found


def walkthroughs(suite: Suite) -> tuple[int, int]:
    """How many games there are, and how many their own walkthrough wins with its last command alone."""
    games = won = 0
    for name in (name for names in suite.by_split.values() for name in names):
        engine = Engine(suite.game(name))
        games += 1
        ends = []
        for command in engine.game.walkthrough:
            if command not in engine.commands():
                break
            engine.step(command)
            ends.append(engine.won)
        won += bool(ends) and ends[-1] and not any(ends[:-1])
    return games, won


def speed(suite: Suite, seed: int, games: int = 100, steps: int = 200) -> Speed:
    """Measure this process on random walks, the commands listed before each step."""
    names = sample(suite, games, seed)
    start = time.perf_counter()
    compiled = [suite.game(name) for name in names]
    reading = time.perf_counter() - start
    rng = random.Random(seed)
    start = time.perf_counter()
    for game in compiled:
        engine = Engine(game)
        for _ in range(steps):
            engine.step(rng.choice(engine.commands()))
    playing = time.perf_counter() - start
    return Speed(games * steps, games * steps / playing, games, games / reading)


def body(data: dict[str, Any]) -> str:
    """The figures to read."""
    found, walks, fast = data["comparison"], data["walkthroughs"], data["speed"]
    rows: list[list[object]] = []
    if found:
        rows = [
            ["games compared", f"{found['games']:,}"],
            ["steps compared (feedback, admissible commands, won)", f"{found['steps']:,}"],
            ["games won on the way", f"{found['won']:,}"],
            ["differences", f"{found['differing']:,}"],
        ]
    rows += [
        ["walkthroughs that win", f"{walks['won']:,} of {walks['games']:,}"],
        ["steps/s on one core", f"{fast['steps_per_second']:,.0f}"],
        ["games read and compiled per s", f"{fast['games_per_second']:,.0f}"],
    ]
    parts = [markdown(["what", "figure"], rows)]
    if found:
        parts.append(
            markdown(["command", "steps"], [[v, f"{n:,}"] for v, n in sorted(found["verbs"].items())])
        )
        parts.append("\n".join(f"- {line}" for line in found["differences"]) or "No difference was found.")
        parts.append(f"The real engine: {data['real']}.")
    parts.append(
        "A step lists the admissible commands and gives the feedback. The walk follows the walkthrough now "
        "and then, so that objects are cleaned, heated, cooled and lit; else it draws a verb, then a command "
        "of it."
    )
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alfworld.parity", description=TITLE)
    parser.add_argument("--source", choices=("official", "generated"), default="official")
    parser.add_argument("--games", type=int, default=500, help="games to compare (0: none)")
    parser.add_argument("--steps", type=int, default=20_000, help="steps in all these games")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, action="append", default=[], help="a .md or .json file")
    chosen = parser.parse_args(arguments)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if chosen.games < 0 or chosen.steps < chosen.games:
        raise InputError("give --games at least 0 and --steps at least as many.")
    for path in chosen.output:
        check_output(path)
    suite: Suite = Official() if chosen.source == "official" else Generated()
    made = provenance({"source": chosen.source, "games": chosen.games, "steps": chosen.steps}, chosen.seed)
    made["command"] = shlex.join(["python", "-m", "benchmarks.alfworld.parity", *given])

    def progress(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    fast = speed(suite, chosen.seed)
    games, won = walkthroughs(suite)
    progress(f"{won} of {games} walkthroughs win, {fast.steps_per_second:.0f} steps/s")
    found = None
    if chosen.games:
        found = parity(suite, chosen.games, chosen.steps, chosen.seed, progress)
    data = {
        "comparison": asdict(found) if found else None,
        "walkthroughs": {"games": games, "won": won},
        "speed": asdict(fast),
        "real": versions() if found else "",
    }
    text = body(data)
    for path in chosen.output:
        write(path, TITLE, made, text, data)
    print(text)


def versions() -> str:
    """What the real engine is made of."""
    from importlib.metadata import version

    names = ("alfworld", "textworld", "fast-downward-textworld")
    return ", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}"


if __name__ == "__main__":
    try:
        main()
    except RepoagentError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
