"""Where things usually lie: counted in the training games, written to ``likely.json``.

For an object type and a receptacle type, ``probability`` is the share of the receptacles of that type
which hold such an object, among the games that have one anywhere; ``steps`` is what looking into a
receptacle costs, from 1 (always open) to 2 (always closed at the start).

    python -m benchmarks.alfworld.likely --data DIR
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

from benchmarks.alfworld.sources import OfficialGames
from repoagent.errors import InputError

PATH = Path(__file__).with_name("likely.json")
SPLIT = "train"

_FACT = re.compile(
    r"\((receptacleType|objectType|inReceptacle|openable|opened|pickupable|toggleable) ([^()]+)\)"
)


@cache
def likely() -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Probability by object type and receptacle type, and the steps by receptacle type."""
    data = json.loads(PATH.read_text(encoding="utf-8"))
    return data["probability"], data["steps"]


def count(games: list[str]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The two tables of :func:`likely`, from the PDDL problems of ``games``."""
    places: Counter[str] = Counter()
    closed: Counter[str] = Counter()
    around: defaultdict[str, Counter[str]] = defaultdict(Counter)
    holding: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for problem in games:
        facts: defaultdict[str, list[list[str]]] = defaultdict(list)
        for name, arguments in _FACT.findall(problem[: problem.index("(:goal")]):
            facts[name].append(arguments.split())
        place = {r: _plain(t) for r, t in facts["receptacleType"]}
        useful = {o for name in ("pickupable", "toggleable") for (o,) in facts[name]}
        thing = {o: _plain(t) for o, t in facts["objectType"] if o in useful}
        of_type = Counter(place.values())
        places += of_type
        opened = {r for (r,) in facts["opened"]}
        closed += Counter(place[r] for (r,) in facts["openable"] if r in place and r not in opened)
        for kind in set(thing.values()):
            around[kind] += of_type
        for kind, receptacle in {(thing[o], r) for o, r in facts["inReceptacle"] if o in thing}:
            holding[kind][place[receptacle]] += 1
    probability = {
        kind: {p: round(n / around[kind][p], 4) for p, n in found.items()}
        for kind, found in sorted(holding.items())
    }
    for kind, found in probability.items():
        probability[kind] = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    return probability, {p: round(1 + closed[p] / n, 4) for p, n in sorted(places.items())}


def _plain(kind: str) -> str:
    """How the game writes a type: "SideTableType" -> "sidetable"."""
    return kind.removesuffix("Type").lower()


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description="Count where objects lie in the training games.")
    parser.add_argument("--data", type=Path, help="folder of ALFWorld's games (default: ALFWORLD_DATA)")
    try:
        source = OfficialGames(parser.parse_args().data)
        paths = [source.path(task.name) for task in source.listed(SPLIT)]
    except InputError as error:
        parser.error(str(error))
    games = [json.loads(path.read_text(encoding="utf-8"))["pddl_problem"] for path in paths]
    probability, steps = count(games)
    provenance = {
        "games": len(games),
        "split": SPLIT,
        "release": "ALFWorld json_2.1.1 (2.1.2 wording), MIT",
        "command": "python -m benchmarks.alfworld.likely",
    }
    text = json.dumps({"source": provenance, "steps": steps, "probability": probability}, indent=1)
    # One line for each object type: the file is read by people too.
    text = re.sub(r"\{\n   ([^{}]*?)\n  \}", lambda m: "{" + re.sub(r"\n\s*", " ", m[1]) + "}", text)
    PATH.write_text(text + "\n", encoding="utf-8")
    print(f"{PATH.name}: {len(probability)} object types, {len(steps)} receptacle types, {len(games)} games")


if __name__ == "__main__":
    main()
