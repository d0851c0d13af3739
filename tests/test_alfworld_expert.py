"""The scripted expert of ALFWorld and its template teacher: in a small room, and in the real games."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.alfworld import likely
from benchmarks.alfworld.beliefs import Beliefs, Goal, kind, parse_goal
from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.expert import Expert, decide, play
from benchmarks.alfworld.game import Game, Receptacle, Thing
from benchmarks.alfworld.reflection import beliefs_of, reflection
from benchmarks.alfworld.sources import OfficialGames
from benchmarks.alfworld.task import ALFWorld
from repoagent.environment import Observation, Option
from repoagent.errors import InputError
from training.states import State, optimal, perturbed

WORDINGS = {
    "look at mug under the desklamp": Goal("look", "mug", "desklamp"),
    "examine the mug with the desklamp": Goal("look", "mug", "desklamp"),
    "put a mug in desk": Goal("put", "mug", "desk"),
    "put some mug on desk": Goal("put", "mug", "desk"),
    "put a clean mug in desk": Goal("clean", "mug", "desk"),
    "clean some mug and put it in desk": Goal("clean", "mug", "desk"),
    "put a hot mug in desk": Goal("heat", "mug", "desk"),
    "heat some mug and put it in desk": Goal("heat", "mug", "desk"),
    "put a cool mug in desk": Goal("cool", "mug", "desk"),
    "cool some mug and put it in desk": Goal("cool", "mug", "desk"),
    "put two mug in desk": Goal("put", "mug", "desk", 2),
    "find two mug and put them in desk": Goal("put", "mug", "desk", 2),
}
"""All that the 4,027 games of the release say, but for the names."""

KINDS = {
    "put": "pick_and_place_simple",
    "look": "look_at_obj_in_light",
    "two": "pick_two_obj_and_place",
    **{verb: f"pick_{verb}_then_place" for verb in ("clean", "heat", "cool")},
}
ROOM = {
    "countertop 1": ("apple 1", "knife 1", "teddybear 1"),
    "desk 1": ("desklamp 1", "mug 1"),
    "shelf 1": (),
    "shelf 2": ("book 1",),
    "cabinet 1": ("mug 2",),
    "cabinet 2": ("plate 1",),
    "fridge 1": ("apple 2",),
    "microwave 1": (),
    "sinkbasin 1": (),
    "garbagecan 1": ("apple 3",),
}
CLOSED = ("cabinet", "fridge", "microwave")
TOGETHER = {"shelf 2": "shelf 1", "cabinet 2": "cabinet 1"}
"""Places that are reached from the same spot as another."""

FITS = frozenset({"apple", "knife", "mug", "book", "plate"})


def room(sentence: str, inside: Mapping[str, Sequence[str]] = ROOM) -> Game:
    """A small room, in which the teddy bear fits nowhere."""
    goal = parse_goal(sentence)
    names = list(inside)
    spots = {name: names.index(TOGETHER.get(name, name)) for name in names}
    things = sorted({thing for lying in inside.values() for thing in lying})
    lamp, other = frozenset({"toggleable"}), frozenset({"pickupable", "cleanable", "heatable", "coolable"})
    return Game(
        name="room",
        kind=KINDS["two" if goal.count > 1 else goal.verb],
        thing=goal.object,
        target=goal.place,
        sentence=sentence,
        receptacles=tuple(
            Receptacle(name, kind(name), spots[name], kind(name) in CLOSED, FITS) for name in names
        ),
        things=tuple(
            Thing(name, kind(name), lamp if kind(name) == "desklamp" else other, False, ()) for name in things
        ),
        start=len(names),
        opened=frozenset(),
        inside=tuple(tuple(things.index(thing) for thing in inside[name]) for name in names),
        at=tuple(frozenset(spots[name] for name in names if thing in inside[name]) for thing in things),
        states={s: frozenset() for s in ("isclean", "ishot", "iscool", "issliced", "istoggled")},
        walkthrough=(),
        hash="",
    )


def walk(game: Game, noise: float, seed: int, horizon: int = 60) -> Iterator[tuple[State, Expert, Engine]]:
    """The states of one game, which the expert plays but for every so many random actions."""
    engine, expert, rng = Engine(game), Expert(), random.Random(seed)
    last, history, mistake = engine.reset(), [], ""
    expert.reset(last)
    for _ in range(horizon):
        commands = engine.commands()
        best = expert.act(commands)
        options = tuple(Option(command, command.split()[0]) for command in commands)
        observation = Observation(game.sentence, expert.beliefs.here, tuple(history), last, options)
        yield State(observation, (commands.index(best),), mistake), expert, engine
        taken = rng.choice(commands) if rng.random() < noise else best
        mistake = taken if taken != best else ""
        last = engine.step(taken)
        expert.observe(taken, last)
        history.append(f"{taken}: {shown}" if (shown := brief(last)) else taken)
        if engine.won:
            return


def brief(feedback: str) -> str:
    """What a history keeps of ``feedback``."""
    if feedback.endswith("is closed."):
        return "closed"
    return feedback.partition("you see ")[2].rstrip(".")


@pytest.mark.parametrize(("sentence", "goal"), WORDINGS.items())
def test_every_wording_is_understood(sentence: str, goal: Goal) -> None:
    assert parse_goal(sentence) == goal
    assert parse_goal(f"You see a desk 1.\n\nYour task is to: {sentence}.") == goal


def test_another_sentence_is_refused() -> None:
    with pytest.raises(InputError, match="one of its six tasks"):
        parse_goal("Your task is to: burn the house down.")


@pytest.mark.parametrize(
    "sentence", [s.replace("desk", "shelf", 1) if "lamp" not in s else s for s in WORDINGS]
)
def test_all_kinds_of_task_are_won(sentence: str) -> None:
    steps = play(Engine(room(sentence)), Expert())
    assert steps is not None
    assert steps <= 16


@pytest.mark.parametrize("verb", ["look", "put", "clean", "heat", "cool", "two"])
def test_it_recovers_from_random_actions(verb: str) -> None:
    """Wrong things in hand, doors closed again, what was placed taken away, what was hot cooled."""
    sentence = next(
        s
        for s, g in WORDINGS.items()
        if (g.verb, g.count) == (verb.replace("two", "put"), 1 + (verb == "two"))
    )
    inside = ROOM | {"countertop 1": ("apple 1", "knife 1")}
    for seed in range(60):
        *_, (_, _, engine) = walk(room(sentence, inside), 0.4, seed, horizon=120)
        assert engine.won, seed


def test_of_two_that_lie_in_two_places_one_is_brought_to_the_other() -> None:
    game = room("put two mug in shelf", {"shelf 1": ("mug 1",), "shelf 3": ("mug 2",)})
    assert play(Engine(game), Expert()) == 5


def test_what_fits_nowhere_is_carried_to_every_place() -> None:
    engine, expert = Engine(room("put a mug in shelf")), Expert()
    expert.reset(engine.reset())
    for command in ("go to countertop 1", "take teddybear 1 from countertop 1"):
        expert.observe(command, engine.step(command))
    went = Counter()
    for _ in range(30):
        command = expert.act(engine.commands())
        expert.observe(command, engine.step(command))
        went[command] += 1
    assert expert.beliefs.held == "teddybear 1"
    assert max(went.values()) < 6


def test_what_shares_the_spot_is_opened_without_going() -> None:
    engine, expert = (
        Engine(room("put a plate in shelf", {p: ROOM[p] for p in ("cabinet 1", "cabinet 2", "shelf 1")})),
        Expert(),
    )
    expert.reset(engine.reset())
    taken = []
    while not engine.won:
        taken.append(expert.act(engine.commands()))
        expert.observe(taken[-1], engine.step(taken[-1]))
    assert taken[:4] == ["go to cabinet 1", "open cabinet 1", "open cabinet 2", "take plate 1 from cabinet 2"]


def test_the_likeliest_place_per_step_comes_first() -> None:
    probability, steps = likely.likely()
    beliefs = Beliefs(parse_goal("put a mug in shelf"), tuple(ROOM))
    first = decide(beliefs, [f"go to {place}" for place in ROOM])
    assert first[0] == "go to " + max(
        (p for p in ROOM if kind(p) != "shelf"),
        key=lambda p: probability["mug"].get(kind(p), 0) / steps[kind(p)],
    )


def test_equal_places_come_by_their_number() -> None:
    places = ("cabinet 10", "cabinet 9", "cabinet 2")
    beliefs = Beliefs(parse_goal("put a mug in shelf"), places)
    ways = [f"go to {place}" for place in ("cabinet 2", "cabinet 9", "cabinet 10")]
    assert decide(beliefs, sorted(ways)) == ways  # all are as good


DESKS = {"desk 1": ("mug 1", "mug 2"), "shelf 1": (), "shelf 3": (), "microwave 1": (), "microwave 2": ()}
EQUALS = [
    ("put a mug in shelf", {"cabinet 10": (), "cabinet 3": (), "shelf 1": ()}, "",
     ["go to cabinet 3", "go to cabinet 10"]),
    ("put a mug in shelf", {"cabinet 1": (), "cabinet 2": (), "cabinet 3": ()}, "go to cabinet 2",
     ["open cabinet 1", "open cabinet 2"]),  # from one spot; the third is further
    ("put a mug in shelf", DESKS, "go to desk 1", ["take mug 1 from desk 1", "take mug 2 from desk 1"]),
    ("put a mug in shelf", {"desk 1": ("mug 1",), "desk 2": ("mug 2",), "shelf 1": ("book 1",)},
     "go to desk 1; go to desk 2; go to shelf 1", ["go to desk 1", "go to desk 2"]),
    ("put a mug in shelf", DESKS, "go to desk 1; take mug 1 from desk 1", ["go to shelf 1", "go to shelf 3"]),
    ("put a mug in shelf", DESKS, "go to desk 1; take mug 1 from desk 1; go to shelf 3",
     ["move mug 1 to shelf 3"]),  # the other has to be gone to
    ("put a hot mug in shelf", DESKS, "go to desk 1; take mug 2 from desk 1",
     ["go to microwave 1", "go to microwave 2"]),
    ("look at mug under the desklamp", {"desk 1": ("desklamp 1", "desklamp 2", "mug 1")},
     "go to desk 1; take mug 1 from desk 1", ["use desklamp 1", "use desklamp 2"]),
    ("put a mug in desk", {"shelf 1": ("book 1",), "shelf 2": (), "desk 1": ()},
     "go to shelf 2; take book 1 from shelf 1", ["move book 1 to shelf 1", "move book 1 to shelf 2"]),
    # Where none is likely the order decides, and of two that hold one each the lower number.
    ("put a mug in shelf", {"toilet 1": (), "toilet 2": (), "shelf 1": ()}, "", ["go to toilet 1"]),
    ("put two mug in shelf", {"shelf 1": ("mug 1",), "shelf 3": ("mug 2",), "desk 1": ("mug 3",)},
     "go to shelf 1; go to shelf 3; go to desk 1; take mug 3 from desk 1", ["go to shelf 1"]),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "inside", "commands", "equals"), EQUALS)
def test_what_is_as_good_as_the_choice(
    sentence: str, inside: Mapping[str, Sequence[str]], commands: str, equals: list[str]
) -> None:
    engine, expert = Engine(room(sentence, inside)), Expert()
    expert.reset(engine.reset())
    for command in filter(None, commands.split("; ")):
        assert command in engine.commands()
        expert.observe(command, engine.step(command))
    assert expert.best(engine.commands()) == equals
    assert expert.best(tuple(reversed(engine.commands()))) == equals
    assert expert.act(engine.commands()) == equals[0]


@pytest.mark.parametrize("sentence", WORDINGS)
def test_whatever_is_drawn_among_equals_wins(sentence: str) -> None:
    inside = ROOM | {"desk 2": ("desklamp 2",), "shelf 3": (), "cabinet 3": ("mug 3",)}
    for seed in range(8):
        engine, expert, rng = Engine(room(sentence, inside)), Expert(), random.Random(seed)
        expert.reset(engine.reset())
        for _ in range(25):
            if not engine.won:
                command = rng.choice(expert.best(engine.commands()))
                expert.observe(command, engine.step(command))
        assert engine.won, seed


def test_a_decision_depends_on_the_observation_alone() -> None:
    """What a model may learn: the history and the options are enough to decide as the expert does."""
    for sentence in WORDINGS:
        for seed in range(8):
            for state, _, _ in walk(room(sentence), 0.3, seed):
                commands = [option.text for option in state.observation.options]
                assert decide(beliefs_of(state.observation), commands)[0] == commands[state.best[0]]


def test_counting_what_lies_where() -> None:
    problem = """(define (problem p) (:init
        (receptacleType Desk|1 DeskType)
        (receptacleType Drawer|1 DrawerType) (receptacleType Drawer|2 DrawerType)
        (openable Drawer|1) (openable Drawer|2) (opened Drawer|2)
        (objectType Mug|1 MugType) (objectType Mug|2 MugType) (pickupable Mug|1) (pickupable Mug|2)
        (objectType Pen|1 PenType) (pickupable Pen|1) (objectType Window|1 WindowType)
        (inReceptacle Mug|1 Desk|1) (inReceptacle Mug|2 Desk|1) (inReceptacle Pen|1 Drawer|2)
        (inReceptacle Window|1 Desk|1)) (:goal (and)))"""
    probability, steps = likely.count([problem])
    assert probability == {"mug": {"desk": 1.0}, "pen": {"drawer": 0.5}}
    assert steps == {"desk": 1.0, "drawer": 1.5}


def test_the_counts_say_where_they_are_from() -> None:
    data = json.loads(likely.PATH.read_text(encoding="utf-8"))
    assert data["source"]["split"] == "train"
    assert data["source"]["games"] == 3553
    assert all(0 < p <= 1 for found in data["probability"].values() for p in found.values())


FETCH = "go to desk 1; take mug 1 from desk 1"
WRONG = "go to countertop 1; take apple 1 from countertop 1"
EXAMPLES = [
    ("put a clean mug in shelf", "", "Needed: a clean mug at shelf. No mug seen yet. Likeliest now: desk 1."),
    ("put a clean mug in shelf", "go to shelf 1; go to desk 1", "mug 1 is here."),
    ("put a clean mug in shelf", FETCH, "Held: mug 1, not yet clean; the sinkbasin does that."),
    ("put a clean mug in shelf", f"{FETCH}; go to sinkbasin 1; clean mug 1 with sinkbasin 1",
     "Held: mug 1, ready for shelf. Next: go to shelf 1."),
    ("put two mug in shelf", f"{FETCH}; go to shelf 1; move mug 1 to shelf 1; go to garbagecan 1",
     "one is at shelf 1. No other mug at desk 1, garbagecan 1."),
    ("look at book under the desklamp", "go to desk 1; go to shelf 2; take book 1 from shelf 2",
     "Held: book 1. desklamp 1 was seen at desk 1."),
    ("put a plate in shelf", "go to cabinet 1; open cabinet 1; open cabinet 2; close cabinet 2",
     "plate 1 was seen at cabinet 2. Next: open cabinet 2."),
    ("put a egg in shelf", "go to countertop 1; go to fridge 1", "fridge 1 is closed and may hold one."),
    ("put a mug in shelf", WRONG, "Held: apple 1, which is not wanted; put it down."),
]  # fmt: skip
MISTAKES = [
    ("put a mug in shelf", "go to desk 1; go to fridge 1", "mug 1 was seen at desk 1"),
    ("put a mug in shelf", "go to sinkbasin 1", "a mug was likelier elsewhere"),
    ("put a mug in shelf", "go to shelf 1; examine shelf 1", "shelf 1 was searched before"),
    ("put a mug in shelf", WRONG, "the goal needs a mug"),
    ("put a mug in shelf", f"{FETCH}; go to fridge 1", "mug 1 must go to a shelf"),
    ("put a mug in shelf", f"{FETCH}; go to fridge 1; cool mug 1 with fridge 1",
     "the goal does not ask for that"),
    ("put a mug in shelf", f"{FETCH}; move mug 1 to desk 1", "it belongs elsewhere"),
    ("put a hot mug in shelf", f"{FETCH}; go to shelf 1; move mug 1 to shelf 1", "it is not hot yet"),
    ("put two mug in shelf", f"{FETCH}; go to shelf 1; move mug 1 to shelf 1; take mug 1 from shelf 1",
     "it is where it belongs"),
    ("look at mug under the desklamp", "go to desk 1; use desklamp 1", "no mug is in hand"),
    ("put a mug in shelf", "look", "it brings the goal no nearer"),
]  # fmt: skip


def after(sentence: str, commands: str, mistake: bool = False) -> tuple[str, str]:
    """What the teacher writes once ``commands`` were done, and the best command."""
    engine, history = Engine(room(sentence)), []
    engine.reset()
    for command in filter(None, commands.split("; ")):
        assert command in engine.commands()
        history.append(f"{command}: {brief(engine.step(command))}".rstrip(": "))
    options = tuple(Option(command, command.split()[0]) for command in engine.commands())
    observation = Observation(sentence, "", tuple(history), "", options)
    best = decide(beliefs_of(observation), engine.commands())[0]
    made = history[-1].partition(":")[0] if mistake else ""
    return reflection(State(observation, (engine.commands().index(best),), made)), best


@pytest.mark.parametrize(("sentence", "commands", "wanted"), EXAMPLES)
def test_a_reflection_does_the_thinking(sentence: str, commands: str, wanted: str) -> None:
    said, best = after(sentence, commands)
    assert wanted in said
    assert said.startswith("Needed: ")
    assert said.endswith(f" Next: {best}.")


@pytest.mark.parametrize(("sentence", "commands", "why"), MISTAKES)
def test_a_mistake_is_named_first_with_its_reason(sentence: str, commands: str, why: str) -> None:
    said, _ = after(sentence, commands, mistake=True)
    act, _, reason = said.partition(". ")[0].partition(" was a mistake: ")
    assert reason == why
    assert act.split()[1:] == commands.rpartition("; ")[2].split()[1:] or act == "Looking around"


def test_what_the_last_action_showed_may_lie_in_the_last_result() -> None:
    options = (Option("go to desk 1", "go"), Option("open cabinet 1", "open"))
    seen = "You arrive at cabinet 1. The cabinet 1 is closed."
    history = ("go to desk 1: a pen 1", "go to desk 1: Nothing happens.", "go to cabinet 1")
    known = beliefs_of(Observation("put a mug in desk", "", history, seen, options))
    assert (known.here, known.closed, known.contents) == ("cabinet 1", {"cabinet 1"}, {"desk 1": ["pen 1"]})


def test_reflections_are_short_and_begin_with_the_mistake() -> None:
    words = []
    for sentence in WORDINGS:
        for seed in range(10):
            for state, _, _ in walk(room(sentence), 0.35, seed):
                said = reflection(state)
                assert (" was a mistake: " in said.partition(". ")[0]) == bool(state.mistake)
                assert re.search(r"Needed: an? |Needed: two ", said)
                assert "  " not in said and ".." not in said
                words.append(len(said.split()))
    assert max(words) <= 52
    assert sum(n <= 45 for n in words) > 0.95 * len(words)


def test_the_command_names_missing_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.alfworld.expert", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "json_2.1.1" in done.stderr


def test_generated_games_are_won_and_their_states_reflected_on() -> None:
    benchmark = ALFWorld()
    tasks, environment = benchmark.tasks("validation")[:60], benchmark.environment("task")
    states = []
    won = 0
    for i, task in enumerate(tasks):
        won += play(Engine(benchmark.source.game(task.name)), Expert()) is not None
        if i % 3 == 0:
            rng = random.Random(i)
            states += [*optimal(environment, task, rng), perturbed(environment, task, rng)]
    assert won >= 57
    for state in filter(None, states):
        commands = [option.text for option in state.observation.options]
        assert decide(beliefs_of(state.observation), commands) == [commands[i] for i in state.best]
        said = benchmark.reflection(state)
        assert (" was a mistake: " in said) == bool(state.mistake)
        assert len(said.split()) <= 52


real = pytest.mark.skipif(not os.environ.get("ALFWORLD_DATA"), reason="ALFWORLD_DATA is not set")


@real
def test_the_goals_of_real_games_are_understood() -> None:
    source = OfficialGames()
    for folder in ("train", "valid_train", "valid_seen", "valid_unseen"):
        for task in source.listed(folder)[::10]:
            text = source.path(task.name).read_text(encoding="utf-8")
            sentence = text.partition("Your task is to: ")[2].partition(".")[0]
            named = task.name.split("/")[1].lower().split("-")
            goal = parse_goal(sentence)
            assert (goal.object, goal.place) == (named[1], named[3])
            assert KINDS["two" if goal.count > 1 else goal.verb] == task.kind


@real
@pytest.mark.parametrize(("folder", "every"), [("valid_seen", 1), ("valid_unseen", 1), ("train", 24)])
def test_real_games_are_won(folder: str, every: int) -> None:
    source = OfficialGames()
    tasks = source.listed(folder)[::every]
    steps = [play(Engine(source.game(task.name)), Expert()) for task in tasks]
    won = [n for n in steps if n is not None]
    assert len(won) >= 0.95 * len(tasks)
    assert sum(won) / len(won) < 9
