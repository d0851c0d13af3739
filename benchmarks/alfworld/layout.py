"""What rooms are made of: counted in the training games, written to ``layout.json``.

    python -m benchmarks.alfworld.layout --data DIR

Only counts are kept, no game. Kinds are in lower case ("diningtable"); a room is named by the number of its
scene, as ALFRED numbers them. ``receptacles`` and ``counts`` say in how many games there are so many of a
kind, ``at`` how many objects of a kind lie at a kind of receptacle, ``tasks`` how many games ask for what.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.alfworld.game import GOALS, compile_game, goal_of
from benchmarks.alfworld.pddl import Problem, parse
from benchmarks.alfworld.sources import OfficialGames
from repoagent.errors import InputError

PATH = Path(__file__).with_name("layout.json")
SPLIT = "train"
ROOMS = ("kitchen", "unused", "livingroom", "bedroom", "bathroom")
"""By the hundreds of a scene's number."""

AFFORDANCES = ("pickupable", "cleanable", "heatable", "coolable", "toggleable", "sliceable")

Tally = dict[str, dict[str, int]]


@cache
def layout() -> dict[str, Any]:
    """The counts; see the head of this file."""
    found: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return found


def count(games: Iterable[tuple[int, Problem]]) -> dict[str, Any]:
    """The counts of ``games``, pairs of a scene's number and a problem."""
    totals: Counter[str] = Counter()
    receptacles: defaultdict[str, defaultdict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    things: defaultdict[str, defaultdict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    lying: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    tasks: defaultdict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
    fits: defaultdict[str, set[str]] = defaultdict(set)
    affords: defaultdict[str, set[str]] = defaultdict(set)
    openable: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    shared: Counter[int] = Counter()
    for scene, problem in games:
        facts, room = problem.facts, ROOMS[scene // 100]
        rtype = {r: _plain(t) for r, t in facts["receptacletype"]}
        otype = {o: _plain(t) for o, t in facts["objecttype"]}
        totals[room] += 1
        for kind, number in Counter(rtype.values()).items():
            receptacles[room][kind][number] += 1
        can_open = {r for (r,) in facts["openable"]}
        for r, kind in rtype.items():
            openable[kind][r in can_open] += 1
        # Objects that lie in no receptacle (a chair, a window) cannot be met in a text game.
        at = {o: r for o, r in sorted(facts["inreceptacle"]) if o in otype and r in rtype}
        for kind, number in Counter(otype[o] for o in at).items():
            things[room][kind][number] += 1
        for o, r in at.items():
            lying[room][otype[o]][rtype[r]] += 1
        for affordance in AFFORDANCES:
            for (o,) in facts[affordance]:
                if o in at:
                    affords[otype[o]].add(affordance)
        for (o,) in facts["isreceptacleobject"]:
            if o in at:
                affords[otype[o]].add("container")
        for rt, ot in facts["cancontain"]:
            fits[_plain(rt)].add(_plain(ot))
        places = [place for _, place in facts["receptacleatlocation"]]
        shared[len(places) - len(set(places))] += 1
        kind, thing, target = goal_of(problem.goal)
        tasks[kind][room, thing, target] += 1
    return {
        "rooms": {
            room: {
                "games": totals[room],
                "receptacles": _sorted(receptacles[room]),
                "counts": _sorted(things[room]),
                "at": _sorted(lying[room]),
            }
            for room in sorted(totals)
        },
        "tasks": {
            kind: [[*what, number] for what, number in sorted(tasks[kind].items())]
            for kind in GOALS
            if tasks[kind]
        },
        "fits": {kind: sorted(found) for kind, found in sorted(fits.items())},
        "affords": {kind: sorted(found) for kind, found in sorted(affords.items())},
        "openable": {kind: [found[True], found.total()] for kind, found in sorted(openable.items())},
        "shared": {str(n): shared[n] for n in sorted(shared)},
    }


def _plain(type_name: str) -> str:
    return type_name.removesuffix("type")


def _sorted(found: dict[str, Counter[Any]]) -> Tally:
    return {kind: {str(n): found[kind][n] for n in sorted(found[kind])} for kind in sorted(found)}


def main() -> None:
    """Count the training games and write the table."""
    parser = argparse.ArgumentParser(description="Count what rooms of the training games are made of.")
    parser.add_argument("--data", type=Path, help="folder of ALFWorld's games (default: ALFWORLD_DATA)")
    try:
        source = OfficialGames(parser.parse_args().data)
        games = []
        for task in source.listed(SPLIT):
            data = json.loads(source.path(task.name).read_bytes())
            compile_game(data, task.name)
            scene = int(task.name.split("/")[1].rpartition("-")[2])
            games.append((scene, parse(data["pddl_problem"])))
    except (InputError, ValueError) as error:
        parser.error(str(error))
    made = {
        "games": len(games),
        "split": SPLIT,
        "release": "ALFWorld json_2.1.1 (2.1.2 wording), MIT",
        "command": "python -m benchmarks.alfworld.layout",
    }
    text = json.dumps({"source": made, **count(games)}, separators=(",", ":"))
    PATH.write_text(text.replace('"rooms":', '\n"rooms":').replace('},"', '},\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
