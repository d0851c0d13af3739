"""The rules of ALFWorld's games on a small kitchen, on generated games and, where they are, on real ones."""

import os
import time

import pytest

from benchmarks.alfworld import wording
from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.generate import draft
from benchmarks.alfworld.sources import OfficialGames
from tests.alfworld_rooms import kitchen, walk

WAYS = [
    "go to countertop 1", "go to drawer 1", "go to fridge 1", "go to microwave 1", "go to shelf 1",
    "go to shelf 2", "go to sinkbasin 1",
]  # fmt: skip
FREE = ["help", "inventory", "look"]


def play(engine: Engine, *commands: str) -> str:
    """Do admissible ``commands``; what the last one said."""
    said = ""
    for command in commands:
        assert command in engine.commands(), command
        said = engine.step(command)
    return said


def test_the_introduction_names_the_receptacles_and_the_task() -> None:
    engine = Engine(kitchen())
    assert engine.reset() == (
        "-= Welcome to TextWorld, ALFRED! =-\n\n"
        "You are in the middle of a room. Looking quickly around you, you see a countertop 1, a drawer 1, "
        "a fridge 1, a microwave 1, a shelf 2, a shelf 1, and a sinkbasin 1.\n\n"
        "Your task is to: put a mug in countertop."
    )
    assert list(engine.commands()) == [*WAYS, *FREE]
    assert engine.step("look").endswith("you see nothing.")
    assert engine.step("inventory") == "You are not carrying anything."
    assert engine.step("help").startswith("Available commands:\n  look:")


def test_what_is_not_admissible_does_nothing() -> None:
    engine = Engine(kitchen())
    before = engine.commands()
    for command in (
        "",
        "take mug 1 from shelf 1",
        "Look",
        "go to shelf",
        "go to  shelf 1",
        "__import__('os')",
    ):
        assert engine.step(command) == wording.NOTHING_HAPPENS
    assert engine.commands() == before and engine.place == engine.game.start
    assert engine.step("  look ") != wording.NOTHING_HAPPENS  # as the real engine, it strips


def test_what_shares_a_place_is_reached_together_and_cannot_be_gone_to() -> None:
    engine = Engine(kitchen())
    said = play(engine, "go to drawer 1")
    assert said == "You arrive at drawer 1. The drawer 1 is closed."
    shown = engine.commands()
    assert "go to countertop 1" not in shown and "go to drawer 1" not in shown and "go to shelf 1" in shown
    assert {
        "examine countertop 1",
        "examine drawer 1",
        "open drawer 1",
        "take egg 1 from countertop 1",
    } <= set(shown)
    assert "take mug 1 from drawer 1" not in shown  # it is closed
    assert (
        engine.step("look") == "You are facing the countertop 1, and drawer 1. Next to it, you see nothing."
    )
    assert list(shown) == sorted(shown)


def test_opening_shows_and_closing_hides() -> None:
    engine = Engine(kitchen())
    said = play(engine, "go to drawer 1", "open drawer 1")
    assert said == "You open the drawer 1. The drawer 1 is open. In it, you see a egg 1, and a mug 1."
    assert play(engine, "close drawer 1") == "You close the drawer 1."
    assert play(engine, "examine drawer 1") == "The drawer 1 is closed."
    assert (
        play(engine, "examine countertop 1")
        == "On the countertop 1, you see a bowl 1, a egg 1, and a knife 1."
    )


def test_the_first_of_a_kind_has_the_highest_number_and_comes_first() -> None:
    engine = Engine(kitchen())
    assert play(engine, "go to shelf 2").startswith(
        "You arrive at shelf 2. On the shelf 2, you see a desklamp 1, and a mug 2."
    )
    assert play(engine, "go to shelf 1") == "You arrive at shelf 1. On the shelf 1, you see nothing."


def test_one_hand_holds_one_thing_and_puts_it_where_it_fits() -> None:
    engine = Engine(kitchen())
    assert (
        play(engine, "go to shelf 2", "take mug 2 from shelf 2") == "You pick up the mug 2 from the shelf 2."
    )
    assert engine.step("inventory") == "You are carrying: a mug 2."
    play(engine, "go to countertop 1", "open drawer 1")
    shown = engine.commands()
    assert not any(c.startswith("take") for c in shown)
    assert {"move mug 2 to countertop 1", "move mug 2 to drawer 1", "examine mug 2"} <= set(shown)
    assert not engine.won
    assert play(engine, "move mug 2 to countertop 1") == "You move the mug 2 to the countertop 1."
    assert engine.won
    play(engine, "take knife 1 from countertop 1")
    assert "move knife 1 to countertop 1" in engine.commands()
    assert "move knife 1 to drawer 1" not in engine.commands()  # a drawer holds mugs alone


def test_a_thing_may_be_in_two_receptacles_and_what_was_taken_out_lies_next_to_them() -> None:
    engine = Engine(kitchen())
    play(engine, "go to countertop 1", "take egg 1 from countertop 1", "open drawer 1")
    assert play(engine, "examine drawer 1").endswith("In it, you see a egg 1, and a mug 1.")
    play(engine, "go to shelf 1", "go to countertop 1")
    assert play(engine, "move egg 1 to countertop 1")
    play(engine, "take mug 1 from drawer 1", "move mug 1 to countertop 1")
    assert play(engine, "look").endswith("Next to it, you see a mug 1.")
    play(engine, "take mug 1 from countertop 1", "move mug 1 to drawer 1")
    assert play(engine, "look").endswith("Next to it, you see a mug 1.")  # now it is not on the counter


def test_washing_heating_cooling_and_how_it_looks() -> None:
    engine = Engine(kitchen())
    play(engine, "go to shelf 2", "take mug 2 from shelf 2")
    assert play(engine, "examine mug 2") == "There's nothing special about mug 2."
    # Neither a microwave nor a fridge needs to be opened.
    assert (
        play(engine, "go to microwave 1", "heat mug 2 with microwave 1")
        == "You heat the mug 2 using the microwave 1."
    )
    assert play(engine, "examine mug 2") == "This is a hot mug 2."
    assert (
        play(engine, "go to sinkbasin 1", "clean mug 2 with sinkbasin 1")
        == "You clean the mug 2 using the sinkbasin 1."
    )
    assert play(engine, "examine mug 2") == "This is a hot and clean mug 2."
    assert (
        play(engine, "go to fridge 1", "cool mug 2 with fridge 1") == "You cool the mug 2 using the fridge 1."
    )
    assert play(engine, "examine mug 2") == "This is a cool and clean mug 2."  # no longer hot
    assert not any(c.startswith(("heat", "clean")) for c in engine.commands())


def test_a_knife_slices_what_is_at_hand_or_behind_a_door() -> None:
    engine = Engine(kitchen())
    play(engine, "go to countertop 1", "take knife 1 from countertop 1", "go to fridge 1")
    said = play(engine, "slice apple 1 with knife 1")
    assert said == "You sliced the apple 1 with the knife 1."
    play(engine, "go to countertop 1", "move knife 1 to countertop 1", "go to fridge 1", "open fridge 1")
    play(engine, "take apple 1 from fridge 1")
    assert play(engine, "examine apple 1") == "This is a sliced apple 1."
    play(engine, "cool apple 1 with fridge 1")
    assert play(engine, "examine apple 1") == "This is a cool sliced apple 1."


def test_a_container_shows_what_lies_in_it() -> None:
    engine = Engine(kitchen())
    said = play(engine, "go to countertop 1", "take bowl 1 from countertop 1", "examine bowl 1")
    assert said == "This is a normal bowl 1. In it, you see a pen 1."


EVERY_ACTION = [
    ("go to shelf 1", "You arrive at shelf 1. On the shelf 1, you see nothing."),
    ("examine shelf 1", "On the shelf 1, you see nothing."),
    ("look", "You are facing the shelf 1. Next to it, you see nothing."),
    ("inventory", "You are not carrying anything."),
    ("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed."),
    ("examine fridge 1", "The fridge 1 is closed."),
    ("open fridge 1", "You open the fridge 1. The fridge 1 is open. In it, you see a apple 1."),
    ("take apple 1 from fridge 1", "You pick up the apple 1 from the fridge 1."),
    ("examine fridge 1", "The fridge 1 is open. In it, you see nothing."),
    ("close fridge 1", "You close the fridge 1."),
    ("cool apple 1 with fridge 1", "You cool the apple 1 using the fridge 1."),
    ("examine apple 1", "This is a cold apple 1."),
    ("go to countertop 1",
     "You arrive at countertop 1. On the countertop 1, you see a bowl 1, a egg 1, and a knife 1."),
    ("look", "You are facing the countertop 1, and drawer 1. Next to it, you see nothing."),
    ("move apple 1 to countertop 1", "You move the apple 1 to the countertop 1."),
    ("take knife 1 from countertop 1", "You pick up the knife 1 from the countertop 1."),
    ("inventory", "You are carrying: a knife 1."),
    ("slice apple 1 with knife 1", "You sliced the apple 1 with the knife 1."),
    ("go to sinkbasin 1", "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing."),
    ("clean knife 1 with sinkbasin 1", "You clean the knife 1 using the sinkbasin 1."),
    ("examine knife 1", "This is a clean knife 1."),
    ("move knife 1 to sinkbasin 1", "You move the knife 1 to the sinkbasin 1."),
    ("go to drawer 1", "You arrive at drawer 1. The drawer 1 is closed."),
    ("take apple 1 from countertop 1", "You pick up the apple 1 from the countertop 1."),
    ("examine apple 1", "This is a cool sliced apple 1."),
    ("go to microwave 1", "You arrive at microwave 1. The microwave 1 is closed."),
    ("heat apple 1 with microwave 1", "You heat the apple 1 using the microwave 1."),
    ("open microwave 1", "You open the microwave 1. The microwave 1 is open. In it, you see nothing."),
    ("move apple 1 to microwave 1", "You move the apple 1 to the microwave 1."),
    ("go to shelf 2", "You arrive at shelf 2. On the shelf 2, you see a desklamp 1, and a mug 2."),
    ("use desklamp 1", "You turn on the desklamp 1."),
    ("use desklamp 1", "You turn on the desklamp 1."),
    ("help", wording.HELP),
]  # fmt: skip


def test_what_every_action_says() -> None:
    engine = Engine(kitchen())
    engine.reset()
    for command, said in EVERY_ACTION:
        assert command in engine.commands(), command
        assert engine.step(f" {command}\n") == said
        assert list(engine.commands()) == sorted(engine.commands())
    # Each line of the help is a command that is done above, and the other way round.
    verbs = {line.split()[0].rstrip(":") for line in wording.HELP.splitlines()[1:]}
    assert verbs == {command.split()[0] for command, _ in EVERY_ACTION} - {"help"}


@pytest.mark.parametrize(
    ("before", "command"),
    [
        ("", "open fridge 1"),  # it is elsewhere
        ("", "examine fridge 1"),
        ("", "go to fridge 2"),  # there is none
        ("go to fridge 1", "go to fridge 1"),
        ("go to fridge 1", "close fridge 1"),
        ("go to fridge 1", "take apple 1 from fridge 1"),  # closed
        ("go to fridge 1; open fridge 1", "open fridge 1"),
        ("go to fridge 1; open fridge 1", "slice apple 1 with knife 1"),  # nothing in hand
        ("go to fridge 1; open fridge 1", "cool apple 1 with fridge 1"),
        ("go to fridge 1; open fridge 1", "examine apple 1"),
        ("go to shelf 1", "open shelf 1"),  # it has no door
        ("go to shelf 2", "take desklamp 1 from shelf 2"),  # too heavy
        ("go to shelf 2", "use mug 2"),
        ("go to shelf 1", "use desklamp 1"),
        ("go to shelf 2; take mug 2 from shelf 2", "take mug 2 from shelf 2"),
        ("go to shelf 2; take mug 2 from shelf 2", "move mug 1 to shelf 2"),
        ("go to shelf 2; take mug 2 from shelf 2", "put mug 2 in/on shelf 2"),  # the older wording
        ("go to shelf 2; take mug 2 from shelf 2; go to drawer 1", "move mug 2 to drawer 1"),  # closed
        ("go to shelf 2; take mug 2 from shelf 2; go to drawer 1", "take egg 1 from countertop 1"),
        ("go to shelf 2; take mug 2 from shelf 2; go to fridge 1", "heat mug 2 with fridge 1"),
        ("go to countertop 1; take egg 1 from countertop 1; open drawer 1", "move egg 1 to drawer 1"),
        ("go to countertop 1; take egg 1 from countertop 1; go to sinkbasin 1",
         "clean egg 1 with sinkbasin 1"),
        ("go to countertop 1; take knife 1 from countertop 1", "slice bowl 1 with knife 1"),
        ("go to countertop 1; take knife 1 from countertop 1", "slice apple 1 with knife 1"),  # elsewhere
        ("go to countertop 1; take bowl 1 from countertop 1", "take pen 1 from bowl 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_says_so_and_changes_nothing(before: str, command: str) -> None:
    engine = Engine(kitchen())
    engine.reset()
    if before:
        play(engine, *before.split("; "))
    state = (engine.commands(), engine.place, engine.held, list(engine.inside), dict(engine.states))
    assert command not in engine.commands()
    assert engine.step(command) == "Nothing happens."
    assert (engine.commands(), engine.place, engine.held, engine.inside, engine.states) == state


@pytest.mark.parametrize("order", [("lamp", "mug"), ("mug", "lamp")])
def test_looking_at_something_in_the_light(order: tuple[str, str]) -> None:
    engine = Engine(kitchen("look_at_obj_in_light", "Mug", "DeskLamp"))
    play(engine, "go to shelf 2")
    acts = {"lamp": "use desklamp 1", "mug": "take mug 2 from shelf 2"}
    said = [play(engine, acts[what]) for what in order]
    assert "You turn on the desklamp 1." in said and engine.won
    play(engine, "go to shelf 1")
    assert not engine.won  # the lamp must be where one stands


@pytest.mark.parametrize(
    ("kind", "appliance", "verb"),
    [
        ("pick_clean_then_place", "sinkbasin 1", "clean"),
        ("pick_heat_then_place", "microwave 1", "heat"),
        ("pick_cool_then_place", "fridge 1", "cool"),
    ],
)
def test_what_is_not_ready_does_not_win(kind: str, appliance: str, verb: str) -> None:
    engine = Engine(kitchen(kind, "Mug", "Shelf"))
    play(engine, "go to shelf 2", "take mug 2 from shelf 2", "go to shelf 1", "move mug 2 to shelf 1")
    assert not engine.won
    play(
        engine,
        "take mug 2 from shelf 1",
        f"go to {appliance}",
        f"{verb} mug 2 with {appliance}",
        "go to shelf 1",
    )
    assert not engine.won
    play(engine, "move mug 2 to shelf 1")
    assert engine.won


def test_two_must_lie_in_the_same_receptacle() -> None:
    engine = Engine(kitchen("pick_two_obj_and_place", "Mug", "Shelf"))
    play(
        engine,
        "go to drawer 1",
        "open drawer 1",
        "take mug 1 from drawer 1",
        "go to shelf 1",
        "move mug 1 to shelf 1",
    )
    assert not engine.won  # the other lies on shelf 2
    play(engine, "take mug 1 from shelf 1", "go to shelf 2", "move mug 1 to shelf 2")
    assert engine.won


def test_runs_are_repeatable_and_do_not_change_the_game() -> None:
    for name in ("generated/train/pick_two_obj_and_place/1", "generated/train/look_at_obj_in_light/2"):
        game = draft(name).game(name)
        engine = Engine(game)
        first = walk(engine, 150, 5)
        intro = engine.reset()
        assert engine.reset() == intro
        assert walk(engine, 150, 5) == first
        assert Engine(game).reset() == intro  # a game is not changed by being played


def test_a_held_thing_is_nowhere_else_to_be_taken_and_nothing_gets_lost() -> None:
    for number in range(12):
        name = f"generated/train/pick_cool_then_place/{number}"
        engine = Engine(draft(name).game(name))
        everything = {o for inside in engine.inside for o in inside}
        for step in range(120):
            ((command, said, shown, _),) = walk(engine, 1, 1000 * number + step)
            assert said and said != wording.NOTHING_HAPPENS, command
            assert list(shown) == sorted(set(shown)) and set(FREE) <= set(shown)
            if engine.held >= 0:
                assert not any(c.startswith("take ") for c in shown)
        held = {engine.held} - {-1}
        assert {o for inside in engine.inside for o in inside} | held == everything


def test_it_is_fast_enough_on_one_core() -> None:
    """16 times the figure that is asked for was measured; a busy machine may be slow."""
    engine = Engine(draft("generated/train/pick_heat_then_place/3").game("speed"))
    walk(engine, 200, 0)
    start = time.process_time()
    for _ in range(3000):
        commands = engine.commands()
        engine.step(commands[len(commands) // 2])
    assert 3000 / (time.process_time() - start) > 5000


@pytest.mark.skipif("ALFWORLD_DATA" not in os.environ, reason="ALFWORLD_DATA is not set")
def test_released_games_are_won_by_their_walkthroughs_and_not_before() -> None:
    source = OfficialGames()
    tasks = [*source.listed("valid_unseen")[::3], *source.listed("train")[::60]]
    assert {task.kind for task in tasks} == {t.kind for t in source.listed("train")}
    for task in tasks:
        game = source.game(task.name)
        assert game.kind == task.kind
        engine = Engine(game)
        for command in game.walkthrough:
            assert not engine.won and command in engine.commands(), task.name
            engine.step(command)
        assert engine.won, task.name
