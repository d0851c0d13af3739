"""The counts behind generated games, how rooms are drawn from them, and the words of the game."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.alfworld import generate, wording
from benchmarks.alfworld.beliefs import Goal, parse_goal
from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.game import GOALS, TASK_TYPES
from benchmarks.alfworld.layout import AFFORDANCES, ROOMS, count, layout
from benchmarks.alfworld.pddl import parse
from tests.alfworld_rooms import problem

ROOT = Path(__file__).parent.parent


def test_counts_of_two_kitchens_and_a_bedroom() -> None:
    heat = parse(problem("pick_heat_then_place", "Mug", "Shelf"))
    light = parse(problem("look_at_obj_in_light", "Mug", "DeskLamp"))
    found = count([(3, heat), (12, heat), (301, light)])
    assert set(found["rooms"]) == {"kitchen", "bedroom"}
    kitchen = found["rooms"]["kitchen"]
    assert kitchen["games"] == 2
    assert kitchen["receptacles"]["shelf"] == {"2": 2}  # two games have two
    assert kitchen["counts"]["mug"] == {"2": 2} and kitchen["counts"]["apple"] == {"1": 2}
    assert kitchen["at"]["mug"] == {"drawer": 2, "shelf": 2}
    assert "pen" not in kitchen["counts"]  # it lies in a bowl, out of reach
    assert found["tasks"] == {
        "pick_heat_then_place": [["kitchen", "mug", "shelf", 2]],
        "look_at_obj_in_light": [["bedroom", "mug", "desklamp", 1]],
    }
    assert found["fits"]["drawer"] == ["mug"]
    assert found["openable"]["fridge"] == [3, 3] and found["openable"]["shelf"] == [0, 6]
    assert "container" in found["affords"]["bowl"] and found["affords"]["desklamp"] == ["toggleable"]
    assert found["shared"] == {"1": 3}  # the drawer stands where the counter is


def test_the_committed_counts_fit_together() -> None:
    table = layout()
    assert set(table["rooms"]) == set(ROOMS) - {"unused"}
    for room in table["rooms"].values():
        assert set(room["at"]) == set(room["counts"])
        for histogram in (*room["receptacles"].values(), *room["counts"].values()):
            assert 0 < sum(histogram.values()) <= room["games"]
        for kind, lying in room["at"].items():
            assert set(lying) <= set(room["receptacles"]), kind
            assert sum(lying.values()) == sum(int(n) * games for n, games in room["counts"][kind].items())
    for kind, rows in table["tasks"].items():
        for room, thing, target, number in rows:
            assert number > 0 and room in table["rooms"]
            if kind != "look_at_obj_in_light":
                assert thing in table["fits"][target] and "pickupable" in table["affords"][thing]
            verb = kind.split("_")[1]
            if verb in generate.APPLIANCES:
                assert f"{verb}able" in table["affords"][thing]
                assert generate.APPLIANCES[verb] in table["rooms"][room]["receptacles"]
    known = {*AFFORDANCES, "container"}
    assert all(set(found) <= known for found in table["affords"].values())
    assert all(0 <= able <= total for able, total in table["openable"].values())


def test_draws_follow_the_counts() -> None:
    rng = random.Random(0)
    drawn = Counter(generate._draw({"1": 30, "4": 50}, 100, rng) for _ in range(2000))
    assert set(drawn) == {0, 1, 4}
    assert abs(drawn[0] / 2000 - 0.2) < 0.05 and abs(drawn[4] / 2000 - 0.5) < 0.05
    assert generate._draw({}, 10, rng) == 0 and generate._draw({"3": 5}, 5, rng) == 3


def test_things_go_where_such_things_lie_whatever_the_number_of_receptacles() -> None:
    rng = random.Random(0)
    room = generate._Room(rng)
    desk = room.add("desk", room.receptacles)
    shelves = [room.add("shelf", room.receptacles) for _ in range(9)]
    chosen = Counter(generate._where(room, {"desk": 50, "shelf": 50}, "", rng) for _ in range(2000))
    assert abs(chosen[desk] / 2000 - 0.5) < 0.05 and set(chosen) == {desk, *shelves}
    assert generate._where(room, {"desk": 1}, "desk", rng) == ""
    assert generate._where(room, {"safe": 1}, "", rng) == ""


def test_identities_are_the_real_ones_in_form() -> None:
    room = generate._Room(random.Random(1))
    basins = [room.add("sinkbasin", room.receptacles) for _ in range(40)]
    assert len(set(basins)) == 40
    assert all(b.startswith("sink_bar_") and b.endswith("_bar_sinkbasin") for b in basins)
    mug = room.add("mug", room.things)
    assert mug.count("_bar_") == 3 and "_dot_" in mug and room.things[mug] == "mug"


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_a_problem_declares_what_the_domain_names(kind: str) -> None:
    made = generate.draft(f"generated/train/{kind}/9")
    types = parse(made.problem).types
    for name in ("sinkbasintype", "microwavetype", "fridgetype"):
        assert types[name] == "rtype"
    for name in ("knifetype", "butterknifetype", "sinktype"):
        assert types[name] == "otype"
    file = made.file("(domain)", 'x "Your task is to: UNKNOWN GOAL." y')
    assert file["grammar"] == f'x "Your task is to: {made.sentence}." y'
    assert file["pddl_problem"] == made.problem and file["walkthrough"] == list(made.walkthrough)


@pytest.mark.parametrize("module", ["layout", "held_out"])
def test_the_commands_that_count_say_where_the_games_should_be(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.alfworld.{module}", "--data", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "no folder json_2.1.1" in done.stderr and "Traceback" not in done.stderr


# -- what holds of every game ------------------------------------------------------------------------


@pytest.mark.parametrize("split", generate.SIZES)
@pytest.mark.parametrize("kind", TASK_TYPES)
def test_what_holds_of_every_generated_game(kind: str, split: str) -> None:
    tables, hashes = layout(), set()
    verb = kind.split("_")[1]
    for number in range(900, 912):
        made = generate.draft(f"generated/{split}/{kind}/{number}")
        game = made.game("x")
        hashes.add(game.hash)
        assert parse_goal(made.sentence) == Goal(
            verb if verb in generate.APPLIANCES else "look" if verb == "at" else "put",
            game.thing, game.target, 2 if verb == "two" else 1,
        )  # fmt: skip
        room = next(
            tables["rooms"][name]
            for name, thing, target, _ in tables["tasks"][kind]
            if (thing, target) == (game.thing, game.target)
            and {r.kind for r in game.receptacles} <= set(tables["rooms"][name]["receptacles"])
        )
        places = {r.place for r in game.receptacles}
        assert game.start not in places and -1 not in places  # everything can be gone to, from mid-room
        assert game.opened == frozenset() and not any(game.states.values())
        for receptacle in game.receptacles:
            able, total = tables["openable"].get(receptacle.kind, (0, 1))
            assert receptacle.openable in (able > 0, able == total)
            assert receptacle.fits <= set(tables["fits"].get(receptacle.kind, ()))
            assert receptacle.name.rpartition(" ")[0] == receptacle.kind
        lying = Counter(o for inside in game.inside for o in inside)
        assert set(lying) == set(range(len(game.things))) and set(lying.values()) == {1}
        for receptacle, inside in zip(game.receptacles, game.inside, strict=True):
            for thing in (game.things[o] for o in inside):
                assert receptacle.kind in room["at"][thing.kind]
                assert thing.affords | ({"container"} if thing.container else set()) == set(
                    tables["affords"].get(thing.kind, ())
                )
                assert game.at[game.things.index(thing)] == {receptacle.place}
        # Not won when it begins, and by the plan alone in few steps.
        engine = Engine(game)
        assert not engine.won and 2 <= len(game.walkthrough) <= 12
        assert [engine.step(c) for c in game.walkthrough].count(wording.NOTHING_HAPPENS) == 0 and engine.won
    assert len(hashes) == 12


def test_what_a_problem_says_is_what_the_room_holds() -> None:
    """Each generated room and its game, one against the other."""
    for seed in range(30):
        rng = random.Random(seed)
        kind = TASK_TYPES[seed % len(TASK_TYPES)]
        room, thing, target, _ = rng.choice(layout()["tasks"][kind])
        found = generate._furnish(kind, room, thing, target, rng)
        if found is None:
            continue
        game = generate.Draft(found.problem("x", GOALS[kind], thing, target), "put a x in y").game("x")
        assert Counter(r.kind for r in game.receptacles) == Counter(found.receptacles.values())
        assert Counter(t.kind for t in game.things) == Counter(found.things.values())
        spots = Counter(found.places[r] for r in found.receptacles)
        assert sorted(Counter(r.place for r in game.receptacles).values()) == sorted(spots.values())
        wanted = sum(t.kind == thing for t in game.things)
        assert wanted >= (2 if kind == "pick_two_obj_and_place" else 1)
        assert (game.kind, game.thing, game.target) == (kind, thing, target)
        if kind == "pick_and_place_simple":
            assert not Engine(game).won
        held = {o: r for o, r in found.inside.items() if found.things[o] == thing}
        assert kind != "pick_and_place_simple" or target not in map(found.receptacles.get, held.values())


# -- wording ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (set(), "There's nothing special about egg 1."),
        ({"pickupable", "sliceable"}, "There's nothing special about egg 1."),
        ({"isclean", "ishot", "issliced"}, "This is a hot and clean sliced egg 1."),
        ({"iscool", "isclean", "issliced"}, "This is a cool and clean sliced egg 1."),
        ({"isclean", "issliced"}, "This is a clean sliced egg 1."),
        ({"ishot", "issliced"}, "This is a hot sliced egg 1."),
        ({"iscool", "issliced"}, "This is a cool sliced egg 1."),
        ({"isclean", "ishot"}, "This is a hot and clean egg 1."),
        ({"isclean", "iscool"}, "This is a cool and clean egg 1."),
        ({"ishot"}, "This is a hot egg 1."),
        ({"isclean"}, "This is a clean egg 1."),
        ({"iscool"}, "This is a cold egg 1."),  # "cold" alone, else "cool": so the game says
        ({"toggleable", "istoggled"}, "This egg 1 is on."),
        ({"sliceable", "issliced"}, "This is a sliced egg 1."),
        ({"issliced"}, "There's nothing special about egg 1."),
    ],
)
def test_how_a_thing_looks(states: set[str], sentence: str) -> None:
    assert wording.thing("egg 1", states) == sentence


def test_lists_as_the_game_separates_them() -> None:
    assert wording.listing([]) == "nothing"
    assert wording.listing(["egg 1"]) == "a egg 1"
    assert wording.listing(["egg 1", "mug 1", "cd 2"]) == "a egg 1, a mug 1, and a cd 2"
    assert wording.receptacle("safe 1", True, False, ["cd 1"]) == "The safe 1 is closed."
    assert wording.receptacle("safe 1", True, True, []) == "The safe 1 is open. In it, you see nothing."
    assert wording.around([], [], []).endswith("you see nothing.")
    assert wording.around(["bed 1"], ["cd 1"], []) == "You are facing the bed 1. Next to it, you see a cd 1."
