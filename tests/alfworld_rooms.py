"""A small kitchen as PDDL, for the tests of ALFWorld's engine, and walks through games."""

from __future__ import annotations

import random

from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.game import GOALS, Game
from benchmarks.alfworld.generate import Draft

RECEPTACLES = {
    # identity: kind, place, whether it can be opened
    "CounterTop_bar_1": ("CounterTop", "loc_bar_1", False),
    "Drawer_bar_1": ("Drawer", "loc_bar_1", True),  # shares its place with the counter
    "Fridge_bar_1": ("Fridge", "loc_bar_2", True),
    "Microwave_bar_1": ("Microwave", "loc_bar_3", True),
    "Sink_bar_1_bar_SinkBasin": ("SinkBasin", "loc_bar_4", False),
    "Shelf_bar_1": ("Shelf", "loc_bar_5", False),
    "Shelf_bar_2": ("Shelf", "loc_bar_6", False),
}
THINGS = {
    # identity: kind, receptacles, affordances
    "Apple_bar_1": ("Apple", ["Fridge_bar_1"], "pickupable cleanable heatable coolable sliceable"),
    "Bowl_bar_1": ("Bowl", ["CounterTop_bar_1"], "pickupable cleanable coolable isReceptacleObject"),
    "DeskLamp_bar_1": ("DeskLamp", ["Shelf_bar_1"], "toggleable"),
    "Egg_bar_1": ("Egg", ["CounterTop_bar_1", "Drawer_bar_1"], "pickupable heatable coolable"),
    "Knife_bar_1": ("Knife", ["CounterTop_bar_1"], "pickupable cleanable"),
    "Mug_bar_1": ("Mug", ["Shelf_bar_1"], "pickupable cleanable heatable coolable"),
    "Mug_bar_2": ("Mug", ["Drawer_bar_1"], "pickupable cleanable heatable coolable"),
    "Pen_bar_1": ("Pen", ["Bowl"], "pickupable"),
}
FITS = ("Apple", "Bowl", "Egg", "Knife", "Mug")
"""What every receptacle can hold; a drawer holds mugs alone."""


def problem(kind: str = "pick_and_place_simple", thing: str = "Mug", target: str = "CounterTop") -> str:
    """The kitchen with the goal of a ``kind`` of task."""
    rtypes = sorted({kind for kind, _, _ in RECEPTACLES.values()})
    otypes = sorted({kind for kind, _, _ in THINGS.values()})
    places = sorted({"loc_bar_0", *(place for _, place, _ in RECEPTACLES.values())})
    declared = ["agent1 - agent", f"{' '.join(places)} - location"]
    declared += [f"{o}Type - otype" for o in otypes] + [f"{r}Type - rtype" for r in rtypes]
    declared += [f"{' '.join(RECEPTACLES)} - receptacle", f"{' '.join(THINGS)} - object", "Mug - object"]
    facts = ["(atLocation agent1 loc_bar_0)", "(inReceptacleObject Pen_bar_1 Bowl_bar_1)"]
    for r, (rtype, place, openable) in RECEPTACLES.items():
        facts += [f"(receptacleType {r} {rtype}Type)", f"(receptacleAtLocation {r} {place})"]
        facts += [f"(openable {r})"] if openable else []
        fits = ("Mug",) if rtype == "Drawer" else FITS
        facts += [f"(canContain {rtype}Type {o}Type)" for o in fits]
    for o, (otype, receptacles, affordances) in THINGS.items():
        facts.append(f"(objectType {o} {otype}Type)")
        facts += [f"({affordance} {o})" for affordance in affordances.split()]
        for r in receptacles:
            if r in RECEPTACLES:
                facts += [f"(inReceptacle {o} {r})", f"(objectAtLocation {o} {RECEPTACLES[r][1]})"]
    goal = GOALS[kind].replace("THING", f"{thing}Type").replace("PLACE", f"{target}Type")
    return (
        "; a comment (with a parenthesis\n(define (problem kitchen)\n(:domain alfred)\n"
        f"(:objects {' '.join(declared)})\n(:init {' '.join(facts)})\n(:goal {goal}))"
    )


def kitchen(kind: str = "pick_and_place_simple", thing: str = "Mug", target: str = "CounterTop") -> Game:
    """The game of :func:`problem`."""
    return Draft(problem(kind, thing, target), f"put a {thing.lower()} in {target.lower()}").game("kitchen")


def walk(engine: Engine, steps: int, seed: int) -> list[tuple[str, str, tuple[str, ...], bool]]:
    """Random admissible commands from where ``engine`` is, and what came of them."""
    rng = random.Random(seed)
    found = []
    for _ in range(steps):
        command = rng.choice(engine.commands())
        said = engine.step(command)
        found.append((command, said, engine.commands(), engine.won))
    return found
