"""The engine against ALFRED's PDDL actions read word by word, on random walks through games of every kind."""

import random

import pytest

from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.game import TASK_TYPES, build
from benchmarks.alfworld.generate import Draft, draft
from benchmarks.alfworld.parity import wander
from benchmarks.alfworld.pddl import parse
from tests.alfworld_reference import AGENT, Reference
from tests.alfworld_rooms import problem


def facts_of(engine: Engine, reference: Reference) -> set[tuple[str, ...]]:
    """The facts that can change, of the engine's state."""
    game = engine.game
    identity = {name: i for i, name in reference.names.items()}
    things = [identity[thing.name] for thing in game.things]
    receptacles = [identity[receptacle.name] for receptacle in game.receptacles]
    facts = {
        ("inreceptacle", things[o], receptacles[r]) for r, found in enumerate(engine.inside) for o in found
    }
    facts |= {("opened", receptacles[r]) for r in engine.opened}
    facts |= {(state, things[o]) for state, found in engine.states.items() for o in found}
    if engine.held >= 0:
        facts |= {("holds", AGENT, things[engine.held]), ("holdsany", AGENT)}
    return facts


CHANGING = {
    "inreceptacle", "opened", "isclean", "ishot", "iscool", "issliced", "istoggled", "holds", "holdsany",
}  # fmt: skip


def walk(made: Draft, steps: int, seed: int, guided: bool = False) -> tuple[set[str], bool]:
    """Play both, by the walkthrough or at random; returns the verbs that were done and whether it was won."""
    game = made.game("x")
    engine, reference = Engine(game), Reference(parse(made.problem))
    rng, guide = random.Random(seed), list(game.walkthrough)
    verbs, won = set(), False
    for _ in range(len(guide) if guided else steps):
        actions = reference.actions()
        assert list(engine.commands()) == sorted(actions)
        command = guide.pop(0) if guided else wander(rng, engine.commands(), guide)
        if command in actions:
            reference.step(actions[command])
            verbs.add(command.split()[0])
        engine.step(command)
        assert engine.won == reference.won()
        assert facts_of(engine, reference) == {f for f in reference.facts if f[0] in CHANGING}
        won |= engine.won
    return verbs, won


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_commands_states_and_wins_are_those_of_the_actions(kind: str) -> None:
    verbs, _ = walk(draft(f"generated/test/{kind}/0"), 30, 1)
    assert {"go", "take"} <= verbs
    assert walk(draft(f"generated/test/{kind}/1"), 0, 0, guided=True)[1]


def test_the_kitchen_with_a_thing_in_two_receptacles() -> None:
    goal = {"look_at_obj_in_light": "DeskLamp"}
    verbs: set[str] = set()
    for seed, kind in enumerate(TASK_TYPES * 2):
        text = problem(kind, "Mug", goal.get(kind, "CounterTop"))
        verbs |= walk(Draft(text, "put a mug in countertop"), 90, seed)[0]
    assert verbs >= {
        "go", "take", "move", "open", "close", "examine", "look", "use", "clean", "heat", "cool", "slice",
    }  # fmt: skip


def test_what_a_problem_says_of_the_beginning_holds() -> None:
    text = problem().replace(
        "(atLocation agent1 loc_bar_0)",
        "(atLocation agent1 loc_bar_1) (opened Drawer_bar_1) (isCool Apple_bar_1) (isToggled DeskLamp_bar_1)",
    )
    engine = Engine(build(parse(text), "put a mug in countertop", "x", "", ()))
    assert "You are facing the countertop 1, and drawer 1. Next to it" in engine.reset()
    assert "take mug 1 from drawer 1" in engine.commands()
    assert facts_of(engine, Reference(parse(text))) == {
        f for f in Reference(parse(text)).facts if f[0] in CHANGING
    }
    walk(Draft(text, "put a mug in countertop"), 80, 3)


def test_a_receptacle_without_a_place_and_a_thing_of_no_type_are_out_of_reach() -> None:
    text = problem().replace("(receptacleAtLocation Shelf_bar_1 loc_bar_5)", "")
    text = text.replace("(objectType Knife_bar_1 KnifeType)", "")
    engine = Engine(build(parse(text), "put a mug in countertop", "x", "", ()))
    assert "shelf 2" not in engine.reset() and "go to shelf 2" not in engine.commands()
    engine.step("go to countertop 1")
    engine.step("take knife 1 from countertop 1")
    assert not any(command.startswith(("move", "slice")) for command in engine.commands())
    walk(Draft(text, "put a mug in countertop"), 80, 4)
