"""Generated games: rooms after the counts of ``layout.json``, each with a plan that was replayed and wins.

They need no download and are the benchmark's default. A game is a function of its name, which holds its
split, its kind of task and a number, so that splits share none.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.game import GOALS, TASK_TYPES, Game, build, game_hash
from benchmarks.alfworld.layout import layout
from benchmarks.alfworld.pddl import parse
from benchmarks.alfworld.sources import KEPT_GAMES, GameTask
from repoagent.errors import InputError

if TYPE_CHECKING:
    from training.benchmark import Split

SIZES: Mapping[Split, int] = {"train": 1200, "validation": 140, "test": 134}
"""Games by split; those held out are as many as the official ones."""

NAME = re.compile(f"generated/(?:{'|'.join(SIZES)})/({'|'.join(TASK_TYPES)})/[0-9]{{1,9}}")
ATTEMPTS = 200
APPLIANCES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
MADE = {"clean": "clean", "heat": "hot", "cool": "cool"}
SENTENCES: Mapping[str, tuple[str, ...]] = {
    "pick_and_place_simple": ("put a {} in {}", "put some {} on {}"),
    "look_at_obj_in_light": ("look at {} under the {}", "examine the {} with the {}"),
    "pick_two_obj_and_place": ("put two {} in {}", "find two {} and put them in {}"),
} | {
    f"pick_{verb}_then_place": (f"put a {made} {{}} in {{}}", f"{verb} some {{}} and put it in {{}}")
    for verb, made in MADE.items()
}
"""The wordings of the released games."""

DECLARED = {
    "otype": ("sink", "knife", "butterknife"),
    "rtype": ("sinkbasin", "microwave", "fridge"),
}
"""Kinds that the domain names, which every problem must declare."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A game as text: its PDDL problem, the sentence of its task, and commands that win it."""

    problem: str
    sentence: str
    walkthrough: tuple[str, ...] = ()

    def game(self, name: str) -> Game:
        """The game to be played."""
        return build(parse(self.problem), self.sentence, name, game_hash(self.problem), self.walkthrough)

    def file(self, domain: str, grammar: str) -> dict[str, Any]:
        """What a game file of the official layout would hold, with the package's ``domain`` and
        ``grammar``."""
        return {
            "pddl_domain": domain,
            "grammar": grammar.replace("UNKNOWN GOAL", self.sentence),
            "pddl_problem": self.problem,
            "solvable": True,
            "walkthrough": list(self.walkthrough),
        }


class GeneratedGames:
    """The games of each split, the kinds of task (``kinds``) in turn."""

    def __init__(self, kinds: Sequence[str] = TASK_TYPES) -> None:
        self.kinds = tuple(kinds)
        self.game = lru_cache(KEPT_GAMES)(self._made)

    def tasks(self, split: Split) -> Sequence[GameTask]:
        kinds = [self.kinds[i % len(self.kinds)] for i in range(SIZES[split])]
        return [
            GameTask(f"generated/{split}/{kind}/{i // len(self.kinds)}", kind) for i, kind in enumerate(kinds)
        ]

    def _made(self, name: str) -> Game:
        return draft(name).game(name)


def draft(name: str) -> Draft:
    """The game called ``name`` ("generated/test/pick_and_place_simple/7"), always the same one."""
    if not (found := NAME.fullmatch(name)):
        raise InputError(f"'{name[:60]}' is no generated game: name it generated/SPLIT/KIND/NUMBER.")
    kind = found[1]
    rng = random.Random(f"alfworld/{name}")
    for _ in range(ATTEMPTS):
        made = _attempt(kind, name, rng)
        if made is not None:
            return made
    raise AssertionError(f"no game for {name}")  # a test draws hundreds of each kind


def _attempt(kind: str, name: str, rng: random.Random) -> Draft | None:
    """A game whose plan wins, or None where what was drawn allows none."""
    choices = layout()["tasks"][kind]
    room, thing, target, _ = rng.choices(choices, [row[-1] for row in choices])[0]
    found = _furnish(kind, room, thing, target, rng)
    if found is None:
        return None
    sentence = rng.choice(SENTENCES[kind]).format(thing, target)
    made = Draft(found.problem(name, GOALS[kind], thing, target), sentence)
    walkthrough = plan(made.game(name))
    return Draft(made.problem, sentence, walkthrough) if walkthrough else None


@dataclass(slots=True)
class _Room:
    """What stands in a room: identities by kind, and where what is."""

    rng: random.Random
    receptacles: dict[str, str] = field(default_factory=dict)
    """Kinds by identity."""
    things: dict[str, str] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)
    """Receptacles by thing."""
    places: dict[str, str] = field(default_factory=dict)
    """Locations by receptacle."""

    def position(self) -> str:
        parts = []
        for low, high in ((-300, 300), (0, 200), (-300, 300)):
            value = self.rng.randint(low, high)
            parts.append(
                f"_{'minus' if value < 0 else 'plus'}_{abs(value) // 100:02}_dot_{abs(value) % 100:02}"
            )
        return "_bar_".join(parts)

    def add(self, kind: str, among: dict[str, str]) -> str:
        """A new ``kind``; what is a basin is called after what holds it, as ALFRED does."""
        while True:
            stem = kind.removesuffix("basin")
            identity = f"{stem}_bar_{self.position()}" + (f"_bar_{kind}" if stem != kind else "")
            if identity not in self.receptacles and identity not in self.things:
                among[identity] = kind
                return identity

    def problem(self, name: str, goal: str, thing: str, target: str) -> str:
        """The room and the goal as PDDL."""
        kinds = sorted({*self.things.values(), *DECLARED["otype"]})
        rtypes = sorted({*self.receptacles.values(), *DECLARED["rtype"]})
        places = sorted({*self.places.values(), START})
        tables = layout()
        objects = ["agent1 - agent"]
        objects += [f"{kind}type - otype" for kind in kinds]
        objects += [f"{kind}type - rtype" for kind in rtypes]
        objects += [f"{o} - object" for o in sorted(self.things)]
        objects += [f"{r} - receptacle" for r in sorted(self.receptacles)]
        objects += [f"{place} - location" for place in places]
        openable = {r for r, kind in sorted(self.receptacles.items()) if self._opens(kind)}
        facts = [f"(atlocation agent1 {START})"]
        for r, kind in sorted(self.receptacles.items()):
            facts += [f"(receptacletype {r} {kind}type)", f"(receptacleatlocation {r} {self.places[r]})"]
            facts += [f"(openable {r})"] if r in openable else []
        for o, kind in sorted(self.things.items()):
            facts += [f"(objecttype {o} {kind}type)", f"(inreceptacle {o} {self.inside[o]})"]
            facts.append(f"(objectatlocation {o} {self.places[self.inside[o]]})")
            for affordance in tables["affords"].get(kind, ()):
                facts.append(f"({'isreceptacleobject' if affordance == 'container' else affordance} {o})")
        present = set(self.things.values())
        for kind in sorted(set(self.receptacles.values())):
            facts += [
                f"(cancontain {kind}type {o}type)" for o in tables["fits"].get(kind, ()) if o in present
            ]
        goal = goal.replace("THING", f"{thing}type").replace("PLACE", f"{target}type")
        title = name.replace("/", "_")
        return (
            f"(define (problem {title})\n(:domain alfred)\n(:objects\n{_lines(objects)})\n"
            f"(:init\n{_lines(facts)})\n(:goal {' '.join(goal.split())}))\n"
        )

    def _opens(self, kind: str) -> bool:
        able, total = layout()["openable"].get(kind, (0, 1))
        return bool(self.rng.random() < able / total)


START = "loc_bar_0_bar_0_bar_0_bar_30"
"""Where the agent begins: in mid-room."""


def _furnish(kind: str, name: str, thing: str, target: str, rng: random.Random) -> _Room | None:
    """A room with what the task needs; None where something of it has no place there."""
    tables = layout()
    counts = tables["rooms"][name]
    room = _Room(rng)
    light = kind == "look_at_obj_in_light"
    verb = kind.split("_")[1]
    needed = {target: 1} if not light else {}
    if verb in APPLIANCES:
        needed[APPLIANCES[verb]] = 1
    for receptacle, histogram in counts["receptacles"].items():
        number = max(_draw(histogram, counts["games"], rng), needed.get(receptacle, 0))
        for _ in range(number):
            room.add(receptacle, room.receptacles)
    # Some receptacles share a place: a table and the drawers in it.
    shared = _draw(tables["shared"], sum(tables["shared"].values()), rng)
    order = rng.sample(sorted(room.receptacles), len(room.receptacles))
    for number, receptacle in enumerate(order):
        if 0 < number <= min(shared, len(order) - 1):
            room.places[receptacle] = room.places[rng.choice(order[:number])]
        else:
            room.places[receptacle] = (
                f"loc_bar_{number + 1}_bar_{rng.randint(-9, 9)}_bar_{rng.randrange(4)}_bar_60"
            )
    wanted = {thing: 2 if kind == "pick_two_obj_and_place" else 1} | ({target: 1} if light else {})
    for item in sorted({*counts["counts"], *wanted}):
        number = max(_draw(counts["counts"].get(item, {}), counts["games"], rng), wanted.get(item, 0))
        # To put something where it lies already is no task.
        barred = target if item == thing and kind == "pick_and_place_simple" else ""
        for _ in range(number):
            receptacle = _where(room, counts["at"].get(item, {}), barred, rng)
            if receptacle:
                room.inside[room.add(item, room.things)] = receptacle
    there = list(room.things.values())
    return room if all(there.count(item) >= number for item, number in wanted.items()) else None


def _where(room: _Room, weights: Mapping[str, int], barred: str, rng: random.Random) -> str:
    """A receptacle for a thing, by how often such things lie at its kind; "" if none is there."""
    found = [r for r, kind in room.receptacles.items() if kind in weights and kind != barred]
    if not found:
        return ""
    many = list(room.receptacles.values())
    # The weights count objects at all receptacles of a kind together.
    return rng.choices(found, [weights[k] / many.count(k) for k in map(room.receptacles.__getitem__, found)])[
        0
    ]


def _draw(histogram: Mapping[str, int], games: int, rng: random.Random) -> int:
    """How many, by in how many of the ``games`` there were so many; 0 in the others."""
    numbers = [0, *(int(n) for n in histogram)]
    weights = [max(0, games - sum(histogram.values())), *histogram.values()]
    return rng.choices(numbers, weights)[0] if any(weights) else 0


def _lines(parts: Sequence[str]) -> str:
    return "".join(f"    {part}\n" for part in parts)


# -- plans -----------------------------------------------------------------------------------------


def plan(game: Game) -> tuple[str, ...]:
    """Commands that win ``game``, found from its state; () if these few rules find none."""
    engine = Engine(game)
    if engine.won:
        return ()
    done: list[str] = []

    def act(command: str) -> None:
        if command in engine.commands():
            done.append(command)
            engine.step(command)

    def reach(r: int, opened: bool) -> str:
        name = game.receptacles[r].name
        act(f"go to {name}")
        if opened:
            act(f"open {name}")
        return name

    lies = {o: r for r in range(len(game.receptacles)) for o in game.inside[r]}
    things = [o for o in lies if game.things[o].kind == game.thing]
    verb = game.kind.split("_")[1]
    if game.kind == "look_at_obj_in_light":
        lamps = [o for o in lies if game.things[o].kind == game.target]
        for o in things[:1]:
            act(f"take {game.things[o].name} from {reach(lies[o], True)}")
        for o in lamps[:1]:
            reach(lies[o], False)
            act(f"use {game.things[o].name}")
        return tuple(done) if engine.won else ()
    home = max(game.targets, key=lambda r: sum(o in game.inside[r] for o in things))
    count = 2 if game.kind == "pick_two_obj_and_place" else 1
    if count == 2:
        count -= sum(lies[o] == home for o in things)
        things = [o for o in things if lies[o] != home]
    for o in things[:count]:
        name = game.things[o].name
        act(f"take {name} from {reach(lies[o], True)}")
        if verb in APPLIANCES:
            kinds = [r for r, found in enumerate(game.receptacles) if found.kind == APPLIANCES[verb]]
            act(f"{verb} {name} with {reach(kinds[0], False)}")
        act(f"move {name} to {reach(home, True)}")
    return tuple(done) if engine.won else ()
