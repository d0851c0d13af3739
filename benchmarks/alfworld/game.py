"""A game as the engine plays it: compiled once from a file in the official layout.

What the real engine would read from a file's domain and grammar (and partly evaluate as Python) is pinned
here: a file with another domain or another wording is refused, since it would be played wrongly.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from benchmarks.alfworld.pddl import BrokenGame, Problem, Tree, parse, read
from repoagent.errors import InputError

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place",
    "pick_heat_then_place",
    "pick_cool_then_place",
    "pick_two_obj_and_place",
)
"""The six kinds of task, in the numbering of ALFWorld (1 to 6)."""

MAX_BYTES = 4_000_000
"""Of a game file; the largest real one has less than 140,000."""

MAX_WALKTHROUGH = 1_000

DOMAINS = frozenset(
    {
        "0af55e7f92d12b09d28515aa730e4d03fddd17228ef1fd7b18a3ee8ba49b27b9",  # of the games
        "f1473041ed01da514de1f87adfd7ef0804862361f83ccf63c75e43633b0eb280",  # of the package
    }
)
"""SHA-256 of the domains that the engine plays: of the released games, and of the package alfworld 0.4.2.
In the latter a sink does not clean, only its basin; no released game has a receptacle of that type."""

GRAMMARS = frozenset(
    {
        "063d42f07581dbed3b4f655bae25e0af94fd0e062f9eae0f6f63037ecd5177e6",  # of the games
        "93119b93cd2872a8057ed9a13f40891d21ee1be4d95a6dc2f8fe36b55630e652",  # of the package
    }
)
"""SHA-256 of the grammars, without the task, whose wording this engine speaks: of the released games (2.1.2),
and of the package alfworld 0.4.2, which says the same."""

TASK = re.compile(r"Your task is to: ([A-Za-z0-9 ,.'-]{1,300})\.\"")
"""The sentence of the task in a grammar: letters alone, since the real engine would evaluate the rest."""

GOALS: dict[str, str] = {
    "pick_and_place_simple": """(and (exists (?r - receptacle) (exists (?o - object)
        (and (inReceptacle ?o ?r) (objectType ?o THING) (receptacleType ?r PLACE)))))""",
    "look_at_obj_in_light": """(and
        (exists (?ot - object ?r - receptacle ?a - agent ?l - location)
            (and (objectType ?ot PLACE) (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l)
                 (atLocation ?a ?l) (inReceptacle ?ot ?r)))
        (exists (?o - object ?a - agent) (and (objectType ?o THING) (holds ?a ?o))))""",
    "pick_two_obj_and_place": """(and (exists (?r - receptacle) (exists (?o1 - object)
        (and (objectType ?o1 THING) (receptacleType ?r PLACE) (inReceptacle ?o1 ?r)
             (exists (?o2 - object) (and (not (= ?o1 ?o2)) (objectType ?o2 THING)
                 (receptacleType ?r PLACE) (inReceptacle ?o2 ?r)))))))""",
} | {
    f"pick_{verb}_then_place": f"""(and (exists (?r - receptacle) (exists (?o - object)
        (and ({verb}able ?o) (objectType ?o THING) (receptacleType ?r PLACE)
             ({state} ?o) (inReceptacle ?o ?r)))))"""
    for verb, state in (("clean", "isClean"), ("heat", "isHot"), ("cool", "isCool"))
}
"""The goal of each kind of task; THING and PLACE stand for the types that the task names. In light PLACE is
the type of the lamp."""


@dataclass(frozen=True, slots=True)
class Receptacle:
    """``fits`` are the kinds of objects that it can hold; ``place`` numbers the location, -1: nowhere."""

    name: str
    kind: str
    place: int
    openable: bool
    fits: frozenset[str]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object; ``holds`` names what lies inside it (a pot's apple), which no action can reach."""

    name: str
    kind: str
    affords: frozenset[str]
    container: bool
    holds: tuple[str, ...]


@dataclass(frozen=True)
class Game:
    """All that does not change while a game is played, and how it begins.

    Receptacles and things are numbered in the order of their names in the file, in which the real engine
    lists them. ``inside`` are the things of each receptacle, ``at`` the places of each thing, ``states``
    the things of which each of "isclean", "ishot", "iscool", "issliced", "istoggled" holds.
    ``kind``, ``thing`` and ``target`` are the task's (see :data:`GOALS`).
    """

    name: str
    kind: str
    thing: str
    target: str
    sentence: str
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    start: int
    opened: frozenset[int]
    inside: tuple[tuple[int, ...], ...]
    at: tuple[frozenset[int], ...]
    states: Mapping[str, frozenset[int]]
    walkthrough: tuple[str, ...]
    hash: str
    cache: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the engine works out once per place."""

    @cached_property
    def here(self) -> dict[int, tuple[int, ...]]:
        """The receptacles at each place, in their order."""
        found: dict[int, list[int]] = {}
        for number, receptacle in enumerate(self.receptacles):
            if receptacle.place >= 0:
                found.setdefault(receptacle.place, []).append(number)
        return {place: tuple(numbers) for place, numbers in found.items()}

    @cached_property
    def targets(self) -> tuple[int, ...]:
        """The receptacles of the kind that the task names."""
        return tuple(n for n, r in enumerate(self.receptacles) if r.kind == self.target)


def game_hash(problem: str) -> str:
    """Names the content of a game: SHA-256 of its PDDL problem, whatever its white space and its title.

    >>> game_hash("(define (problem a) (:goal))") == game_hash("(define  (problem b)\\n (:goal))")
    True
    """
    text = re.sub(r"\(problem\s+[^\s()]*\)", "(problem)", problem, count=1)
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()


def read_game(path: Path) -> Game:
    """The game in the file at ``path``; :class:`InputError`, one line, if it cannot be played."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BrokenGame("it is no file")  # reading a pipe or a device may never end
        if found.st_size > MAX_BYTES:
            raise BrokenGame(f"it has more than {MAX_BYTES} bytes")
        data = json.loads(path.read_bytes())
        return compile_game(data, path.parent.name)
    except OSError as error:
        raise InputError(f"cannot read the game {path}: {error.strerror}; check ALFWORLD_DATA.") from error
    except (ValueError, RecursionError) as error:
        why = "it is no JSON" if not isinstance(error, BrokenGame) else error
        raise InputError(f"cannot play {path}: {why}; download the games again.") from None


def compile_game(data: object, name: str) -> Game:
    """The game in ``data``, a file's JSON; :class:`BrokenGame` if this engine cannot play it truly."""
    if not isinstance(data, dict):
        raise BrokenGame("it is no JSON object")
    texts = []
    for key in ("pddl_domain", "grammar", "pddl_problem"):
        if not isinstance(data.get(key), str):
            raise BrokenGame(f"it has no text '{key}'")
        texts.append(data[key])
    domain, grammar, problem = texts
    if data.get("solvable") is False:
        raise BrokenGame("it is marked as one that cannot be solved, which ALFWorld leaves out")
    if _sha(domain) not in DOMAINS:
        raise BrokenGame("its domain is not the known one of ALFRED, so that other rules would hold")
    said = TASK.findall(grammar)
    if len(said) != 1:
        raise BrokenGame("its grammar does not state one task in plain words")
    if _sha(TASK.sub('"', grammar)) not in GRAMMARS:
        raise BrokenGame("its wording is not that of ALFWorld 2.1.2")
    way = _walkthrough(data.get("walkthrough"))
    return build(parse(problem), said[0], name, game_hash(problem), way)


def build(problem: Problem, sentence: str, name: str, digest: str, walkthrough: tuple[str, ...]) -> Game:
    """The game of a ``problem`` whose task is ``sentence``."""
    facts = problem.facts
    kind, thing, target = goal_of(problem.goal)
    names = entity_names(sorted({a for found in facts.values() for fact in found for a in fact
                                 if problem.types[a] in ("receptacle", "object", "location")}))  # fmt: skip
    at = _single(facts["atlocation"], "the agent's location")
    if len(at) != 1:
        raise BrokenGame("it does not say where its one agent begins")
    places = {n: i for i, n in enumerate(n for n in names if problem.types[n] == "location")}
    receptacle_ids = [n for n in names if problem.types[n] == "receptacle"]
    thing_ids = [n for n in names if problem.types[n] == "object"]
    place_of = _single(facts["receptacleatlocation"], "a receptacle's location")
    rtypes = _single(facts["receptacletype"], "a receptacle's type")
    otypes = _single(facts["objecttype"], "an object's type")
    fits: dict[str, set[str]] = {}
    for rtype, otype in facts["cancontain"]:
        fits.setdefault(rtype, set()).add(_kind(otype))
    fitting = {rtype: frozenset(kinds) for rtype, kinds in fits.items()}
    openable, opened = _ones(facts["openable"]), _ones(facts["opened"])
    receptacles = tuple(
        Receptacle(
            names[r],
            _kind(rtypes.get(r, "")),
            places[place_of[r]] if r in place_of else -1,
            r in openable,
            fitting.get(rtypes.get(r, ""), frozenset()),
        )
        for r in receptacle_ids
    )
    affords: dict[str, set[str]] = {}
    for affordance in ("pickupable", "cleanable", "heatable", "coolable", "toggleable", "sliceable"):
        for (o,) in facts[affordance]:
            affords.setdefault(o, set()).add(affordance)
    inner: dict[str, list[str]] = {}
    for inside, outside in sorted(facts["inreceptacleobject"]):
        inner.setdefault(outside, []).append(names[inside])
    containers = _ones(facts["isreceptacleobject"])
    things = tuple(
        Thing(names[o], _kind(otypes.get(o, "")), frozenset(affords.get(o, ())), o in containers,
              tuple(inner.get(o, ())))
        for o in thing_ids
    )  # fmt: skip
    number = {o: i for i, o in enumerate(thing_ids)}
    held_in: dict[str, set[int]] = {}
    for o, r in facts["inreceptacle"]:
        held_in.setdefault(r, set()).add(number[o])
    lies: dict[str, set[int]] = {}
    for o, where in facts["objectatlocation"]:
        lies.setdefault(o, set()).add(places[where])
    return Game(
        name=name,
        kind=kind,
        thing=thing,
        target=target,
        sentence=sentence,
        receptacles=receptacles,
        things=things,
        start=places[next(iter(at.values()))],
        opened=frozenset(i for i, r in enumerate(receptacle_ids) if r in opened),
        inside=tuple(tuple(sorted(held_in.get(r, ()))) for r in receptacle_ids),
        at=tuple(frozenset(lies.get(o, ())) for o in thing_ids),
        states={
            state: frozenset(number[o] for (o,) in facts[state])
            for state in ("isclean", "ishot", "iscool", "issliced", "istoggled")
        },
        walkthrough=walkthrough,
        hash=digest,
    )


def entity_names(ids: list[str]) -> dict[str, str]:
    """What the game calls the ``ids``, which are sorted: "mug 2" for a mug.

    As in the real engine the first of a kind has the highest number, and what is called ...Basin inside
    another thing (a sink's, a bathtub's) is one.
    """
    kinds = {}
    for identity in ids:
        kind, position, _ = identity.partition("_bar_")
        if not position or not re.fullmatch(r"[a-z0-9]+", kind):
            raise BrokenGame(f"the name '{identity[:40]}' says no kind and position")
        kinds[identity] = kind + "basin" if "basin" in identity else kind
    left = Counter(kinds.values())
    names = {}
    for identity, kind in kinds.items():
        names[identity] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names


def goal_of(goal: Tree) -> tuple[str, str, str]:
    """The kind of task of which ``goal`` is the goal, the kind of thing and that of the target."""
    for kind, pattern in _patterns():
        found = dict(_match(pattern, goal))
        if found.keys() == {"thing", "place"} and "" not in found.values():
            return kind, _kind(found["thing"]), _kind(found["place"])
    raise BrokenGame("its goal is none of the six kinds of task")


@cache
def _patterns() -> tuple[tuple[str, Tree], ...]:
    return tuple((kind, read(pattern)) for kind, pattern in GOALS.items())


def _match(pattern: Tree, goal: Tree) -> Iterator[tuple[str, str]]:
    """What stands for "thing" and "place" in ``goal``; a pair with "" where it differs from ``pattern``."""
    todo: list[tuple[Tree, Tree]] = [(pattern, goal)]
    seen: dict[str, str] = {}
    while todo:
        wanted, given = todo.pop()
        if isinstance(wanted, list) and isinstance(given, list) and len(wanted) == len(given):
            todo += zip(wanted, given, strict=True)
        elif wanted in ("thing", "place") and isinstance(given, str):
            if seen.setdefault(str(wanted), given) != given:
                yield "", ""
            yield str(wanted), given
        elif wanted != given:
            yield "", ""


def _kind(type_name: str) -> str:
    """ "mug" from "mugtype"."""
    return type_name.removesuffix("type")


def _sha(text: str) -> str:
    return hashlib.sha256(text.replace("\r\n", "\n").encode("utf-8", "surrogatepass")).hexdigest()


def _ones(facts: list[tuple[str, ...]]) -> set[str]:
    return {argument for (argument,) in facts}


def _single(facts: list[tuple[str, ...]], what: str) -> dict[str, str]:
    """Second arguments by first ones, each of which has only one."""
    found = {a: b for a, b in facts}  # noqa: C416
    if len(found) != len(facts):
        raise BrokenGame(f"{what} is given twice")
    return found


def _walkthrough(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if (
        not isinstance(value, list)
        or len(value) > MAX_WALKTHROUGH
        or not all(isinstance(v, str) for v in value)
    ):
        raise BrokenGame("its walkthrough is no list of commands")
    return tuple(value)
