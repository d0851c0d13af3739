"""ALFWorld as a benchmark: the contract of environments, the protocol, the splits, the expert as oracle."""

import os
import random
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.game import TASK_TYPES
from benchmarks.alfworld.generate import SENTENCES, SIZES, Draft, GeneratedGames, draft, plan
from benchmarks.alfworld.held_out import held_out
from benchmarks.alfworld.layout import layout
from benchmarks.alfworld.task import MID_ROOM, PROTOCOL, ALFWorld, AlfworldEnvironment, line, option_of
from repoagent.environment import Environment
from repoagent.episode import play_batch
from repoagent.errors import InputError
from repoagent.players import RandomPolicy
from tests.alfworld_rooms import problem
from training.benchmark import SPLITS, check_stages, load_benchmark
from training.states import optimal, perturbed

REAL = pytest.mark.skipif("ALFWORLD_DATA" not in os.environ, reason="ALFWORLD_DATA is not set")


class Kitchen:
    """A source of one game."""

    def tasks(self, split):
        return []

    def game(self, name):
        return Draft(problem("pick_heat_then_place", "Mug", "Shelf"), "put a hot mug in shelf").game(name)


def take(environment: AlfworldEnvironment, command: str):
    return environment.step([option.text for option in environment.shown].index(command))


# -- generated games -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_generated_games_are_won_by_their_plan_and_only_at_its_end(kind: str) -> None:
    rooms, wordings, lengths = set(), set(), set()
    for number in range(20):
        game = draft(f"generated/train/{kind}/{number}").game("x")
        assert game.kind == kind
        engine = Engine(game)
        for command in game.walkthrough:
            assert not engine.won and command in engine.commands()
            engine.step(command)
        assert engine.won
        assert plan(game) == game.walkthrough
        template = next(
            i for i, s in enumerate(SENTENCES[kind]) if s.format(game.thing, game.target) == game.sentence
        )
        wordings.add(template)
        lengths.add(len(game.walkthrough))
        rooms.add(tuple(r.name for r in game.receptacles))
        assert 5 <= len(game.receptacles) <= 80 and 3 <= len(game.things) <= 150
    assert wordings == {0, 1} and len(lengths) > 1 and len(rooms) > 15


def test_a_generated_game_is_a_function_of_its_name() -> None:
    name = "generated/validation/pick_clean_then_place/4"
    assert draft(name) == draft(name)
    assert draft(name) != draft("generated/test/pick_clean_then_place/4")
    for bad in (
        "",
        "generated/test/pick_clean_then_place",
        "generated/test/juggle/1",
        "generated/web/pick_clean_then_place/1",
        "other/test/pick_clean_then_place/1",
        "generated/test/pick_clean_then_place/1) (:goal",
        "generated/test/pick_clean_then_place/1\n",
    ):
        with pytest.raises(InputError, match="no generated game"):
            draft(bad)


def test_generated_splits_share_no_game_by_content_nor_with_the_held_out_ones() -> None:
    source = GeneratedGames()
    parts = {split: source.tasks(split) for split in SPLITS}
    assert {split: len(found) for split, found in parts.items()} == dict(SIZES)
    names = [task.name for found in parts.values() for task in found]
    assert len(set(names)) == len(names)
    sampled = [task for found in parts.values() for task in found[::25]]
    hashes = {source.game(task.name).hash for task in sampled}
    assert len(hashes) == len(sampled)
    assert not hashes & held_out().keys()


def test_objects_lie_where_they_lay_in_the_training_games() -> None:
    """Mugs in generated kitchens are as often as the counted ones where most of these were."""
    counted = layout()["rooms"]["kitchen"]["at"]["mug"]
    found: dict[str, int] = {}
    for number in range(40):
        game = draft(f"generated/train/pick_cool_then_place/{number}").game("x")
        for receptacle, inside in zip(game.receptacles, game.inside, strict=True):
            for o in inside:
                if game.things[o].kind == "mug":
                    found[receptacle.kind] = found.get(receptacle.kind, 0) + 1
    assert set(found) <= set(counted) and sum(found.values()) > 40
    often = max(counted, key=counted.__getitem__)
    expected = counted[often] / sum(counted.values())
    assert abs(found.get(often, 0) / sum(found.values()) - expected) < 0.25


def test_the_layout_says_where_it_is_from_and_holds_counts_alone() -> None:
    table = layout()
    assert table["source"]["split"] == "train" and table["source"]["games"] == 3553
    assert "MIT" in table["source"]["release"]
    assert set(table["tasks"]) == set(TASK_TYPES)
    games = sum(number for rows in table["tasks"].values() for *_, number in rows)
    assert games == sum(room["games"] for room in table["rooms"].values()) == 3553


# -- the environment -------------------------------------------------------------------------------


def test_an_episode_as_the_protocol_has_it() -> None:
    env = AlfworldEnvironment("task", Kitchen())
    assert isinstance(env, Environment)
    seen = env.reset(GeneratedGames().tasks("train")[0])
    assert seen.task == "put a hot mug in shelf."
    assert seen.location == MID_ROOM and seen.history == ()
    assert seen.last_result.startswith("You are in the middle of a room. ")
    texts = [option.text for option in seen.options]
    assert texts == sorted(texts) and {"help", "inventory", "look"} <= set(texts)
    assert {option.kind for option in seen.options} == {"go", "help", "inventory", "look"}

    result = take(env, "go to shelf 2")
    assert result.reward == -0.01 and not result.done
    assert result.observation.location == "shelf 2"
    assert result.observation.history == ("go to shelf 2: a desklamp 1, a mug 2",)
    assert result.observation.last_result.startswith("You arrive at shelf 2. On the shelf 2, you see")
    result = take(env, "take mug 2 from shelf 2")
    assert dict(result.info) == {"take": True, "task": False}
    for command in ("go to microwave 1", "heat mug 2 with microwave 1", "go to shelf 1"):
        result = take(env, command)
        assert not result.done and env.oracle()
    result = take(env, "move mug 2 to shelf 1")
    assert (result.reward, result.terminated, result.truncated) == (1.0, True, False)
    assert dict(result.info) == {"take": True, "task": True}
    assert result.observation.options == () and env.oracle() == []
    assert result.observation.history[-2:] == ("go to shelf 1: nothing", "move mug 2 to shelf 1")
    with pytest.raises(IndexError):
        env.step(0)


def test_the_first_stage_ends_with_a_wanted_object_in_hand() -> None:
    env = AlfworldEnvironment("take", Kitchen())
    task = GeneratedGames().tasks("train")[0]
    env.reset(task)
    take(env, "go to countertop 1")
    assert not take(env, "take knife 1 from countertop 1").done  # not what is wanted
    take(env, "move knife 1 to countertop 1")
    take(env, "go to shelf 2")
    result = take(env, "take mug 2 from shelf 2")
    assert result.terminated and result.reward == 1.0 and result.observation.options == ()

    whole = AlfworldEnvironment("task", Kitchen(), take_reward=0.3, horizon=3)
    whole.reset(task)
    take(whole, "go to shelf 2")
    assert take(whole, "take mug 2 from shelf 2").reward == pytest.approx(0.3 - 0.01)
    late = take(whole, "look")
    assert late.truncated and not late.terminated and late.observation.options == ()
    with pytest.raises(IndexError):
        whole.reset(task)
        whole.step(1000)


@pytest.mark.parametrize("stage", ["take", "task"])
def test_rewards_add_up_to_what_was_achieved_less_the_steps(stage: str) -> None:
    source = GeneratedGames()
    env = AlfworldEnvironment(stage, source, horizon=25, step_cost=0.02, take_reward=0.4)
    ends = set()
    for number, task in enumerate(source.tasks("train")[:18]):
        rng = random.Random(number)
        env.reset(task)
        results = []
        while not (results and results[-1].done):
            best = env.oracle()
            index = best[0] if best and rng.random() < 0.7 else rng.randrange(len(env.shown))
            results.append(env.step(index))
            assert results[-1].terminated + results[-1].truncated <= 1
        won, taken = results[-1].terminated, [bool(result.info["take"]) for result in results]
        assert won == results[-1].info[stage] and taken == sorted(taken)
        # The reward of taking is one of the way: where taking ends the stage there is only the 1.
        expected = (1.0 if won else -0.02) - 0.02 * (len(results) - 1)
        expected += 0.4 if stage == "task" and taken[-1] and not (won and sum(taken) == 1) else 0.0
        assert sum(result.reward for result in results) == pytest.approx(expected)
        assert len(results) <= 25 and (won or len(results) == 25)
        ends.add(won)
    assert ends == {True, False}


def test_the_oracle_of_the_first_stage_ends_with_the_taking() -> None:
    bench = ALFWorld()
    stage, whole = bench.environment("take"), bench.environment("task")
    for number, task in enumerate(bench.tasks("train")[:18]):
        walk, further = (optimal(env, task, random.Random(number)) for env in (stage, whole))
        # The same way, as far as it goes: to the first object of the kind, which every equal one is too.
        assert [state.best for state in walk] == [state.best for state in further[: len(walk)]]
        assert len(walk) < len(further)
        game = bench.source.game(task.name)
        last = walk[-1].observation
        taken = [last.options[i] for i in walk[-1].best]
        assert all(o.kind == "take" and o.target.partition(" ")[0] == game.thing for o in taken)
        assert stage.oracle() == [] and stage.taken and not stage.shown
        # Nothing of the kind is passed by, but of two that are to lie together the one that lies there.
        if task.kind != "pick_two_obj_and_place":
            passed = [option for state in walk[:-1] for option in state.observation.options]
            assert not any(o.kind == "take" and o.target.partition(" ")[0] == game.thing for o in passed)


class Clutter(Kitchen):
    """A kitchen with a knife that fits nowhere."""

    def __init__(self, kind: str = "pick_and_place_simple", thing: str = "Egg", target: str = "Shelf"):
        self.text = re.sub(r"\(canContain \w+ KnifeType\)", "", problem(kind, thing, target))
        self.sentence = SENTENCES[kind][0].format(thing.lower(), target.lower())

    def game(self, name):
        return Draft(self.text, self.sentence).game(name)


def test_a_lost_game_has_no_best_option_and_is_never_trained_on() -> None:
    task = GeneratedGames().tasks("train")[0]
    for stage in ("take", "task"):
        env = AlfworldEnvironment(stage, Clutter())
        env.reset(task)
        take(env, "go to countertop 1")
        assert env.oracle()
        result = take(env, "take knife 1 from countertop 1")
        assert not result.done and result.observation.options and env.oracle() == []
        take(env, "go to shelf 1")
        assert env.oracle() == []
        env.reset(task)
        take(env, "go to countertop 1")
        take(env, "take bowl 1 from countertop 1")
        assert env.oracle()  # not wanted either, but it can be put down
        mistakes = [perturbed(env, task, random.Random(seed)) for seed in range(60)]
        verbs = {state.mistake.split()[0] for state in mistakes if state}
        assert (
            all(state and not state.mistake.startswith("take knife") for state in mistakes)
            and "take" in verbs
        )
    # What the lamp is to shine on fits nowhere, and need not.
    env = AlfworldEnvironment("task", Clutter("look_at_obj_in_light", "Knife", "DeskLamp"))
    env.reset(task)
    take(env, "go to countertop 1")
    take(env, "take knife 1 from countertop 1")
    while best := env.oracle():
        env.step(best[0])
    assert env.engine.won


@pytest.mark.parametrize("bad", [-1, 10_000])
def test_there_are_no_other_options(bad: int) -> None:
    env = AlfworldEnvironment("task", Kitchen())
    with pytest.raises(IndexError):
        env.step(0)  # before the first reset
    env.reset(GeneratedGames().tasks("train")[0])
    with pytest.raises(IndexError):
        env.step(bad)


@pytest.mark.parametrize(
    ("command", "said", "short"),
    [
        ("go to desk 1", "You arrive at desk 1. On the desk 1, you see nothing.", "go to desk 1: nothing"),
        ("open safe 1", "You open the safe 1. The safe 1 is open. In it, you see a cd 1.", "open safe 1: a cd 1"),  # noqa: E501
        ("look", "You are facing the desk 1. Next to it, you see nothing.", "look: nothing"),
        ("inventory", "You are carrying: a mug 1.", "inventory: You are carrying: a mug 1"),
        ("examine pan 1", "This is a normal pan 1. In it, you see a egg 1, and a cup 2.", "examine pan 1: a egg 1, a cup 2"),  # noqa: E501
        ("use desklamp 1", "You turn on the desklamp 1.", "use desklamp 1"),
        ("help", "Available commands:\n  look:", "help"),
    ],
)  # fmt: skip
def test_the_history_is_short(command: str, said: str, short: str) -> None:
    assert line(command, said) == short


def test_options_say_their_verb_and_what_they_apply_to() -> None:
    found = {
        command: (option_of(command).kind, option_of(command).target)
        for command in ("go to safe 2", "take mug 12 from desk 1", "clean mug 1 with sinkbasin 1", "look")
    }
    assert list(found.values()) == [("go", "safe 2"), ("take", "mug 12"), ("clean", "mug 1"), ("look", "")]
    assert option_of("look") is option_of("look")


# -- the benchmark ---------------------------------------------------------------------------------


def test_the_benchmark_is_found_by_name_and_needs_no_download() -> None:
    bench = load_benchmark("alfworld")
    check_stages(bench, bench.stages)
    assert bench.stages == ("take", "task")
    assert [len(bench.tasks(split)) for split in SPLITS] == [1200, 140, 134]
    assert bench.tasks("test") == load_benchmark("alfworld").tasks("test")
    kinds = {task.kind for task in bench.tasks("test")}
    assert kinds == set(TASK_TYPES)


def test_one_kind_of_task_alone() -> None:
    bench = ALFWorld(types="pick_heat_then_place_in_recep", games=30)
    assert [len(bench.tasks(split)) for split in SPLITS] == [30, 140, 134]
    assert {task.kind for split in SPLITS for task in bench.tasks(split)} == {"pick_heat_then_place"}
    two = ALFWorld(types=["pick_and_place_simple", "look_at_obj_in_light"])
    assert {task.kind for task in two.tasks("train")} == {"pick_and_place_simple", "look_at_obj_in_light"}


@pytest.mark.parametrize("number", [6, 12, 67, 70, 100])
def test_a_part_of_the_games_has_every_kind(number: int) -> None:
    """The kinds come in turn, so that every second or sixth game would be of some of them only."""
    bench = ALFWorld(games=number, held_out=number)
    whole = ALFWorld()
    for split in SPLITS:
        found = bench.tasks(split)
        kinds, shares = (Counter(task.kind for task in tasks) for tasks in (found, whole.tasks(split)))
        assert len(found) == number == len(set(found))
        assert set(kinds) == set(TASK_TYPES)
        assert all(abs(kinds[k] - number * shares[k] / shares.total()) < 1 for k in TASK_TYPES)
        assert [task for task in whole.tasks(split) if task in set(found)] == list(found)


def test_a_kind_that_is_named_twice_is_one() -> None:
    twice = ALFWorld(types="look_at_obj_in_light, look_at_obj_in_light")
    assert twice.tasks("test") == ALFWorld(types="look_at_obj_in_light").tasks("test")
    assert len(set(twice.tasks("test"))) == 134


def test_a_split_without_a_game_of_the_kind_is_found_at_once(tmp_path: Path) -> None:
    for folder in ("train", "valid_seen"):
        trial = tmp_path / "json_2.1.1" / folder / "look_at_obj_in_light-CD-None-DeskLamp-302" / "trial_1"
        trial.mkdir(parents=True)
        (trial / "game.tw-pddl").write_text("{}")
    bench = ALFWorld(source="official", data=str(tmp_path), types="pick_two_obj_and_place")
    with pytest.raises(InputError, match="no game of the split train is of"):
        bench.tasks("train")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"source": "web"}, "use generated or official"),
        ({"types": "juggle"}, "unknown kind of task 'juggle'"),
        ({"games": -1}, "benchmark.games is too small"),
        ({"horizon": 0}, "give at least 1"),
        ({"step_cost": 2}, "give a number from 0 to 1"),
        ({"take_reward": -0.5}, "give a number from 0 to 1"),
        ({"colour": "red"}, "colour"),
        ({"source": "official", "data": "/nowhere"}, "no folder json_2"),
    ],
)
def test_wrong_options_give_one_line(options: dict, why: str) -> None:
    with pytest.raises(InputError, match=why) as raised:
        load_benchmark("alfworld", options)
    assert "\n" not in str(raised.value)


def test_the_protocol_is_pinned_and_printed_with_its_settings() -> None:
    bench = ALFWorld(horizon=30, types="look_at_obj_in_light")
    assert bench.protocol() == asdict(PROTOCOL) | {
        "horizon": 30, "games": "generated", "types": ["look_at_obj_in_light"],
    }  # fmt: skip
    assert ALFWorld().protocol()["horizon"] == 50 and "admissible" in PROTOCOL.text()
    # Whoever changes the protocol raises its version; results of different versions are not compared.
    assert PROTOCOL.version == 1


def test_the_expert_wins_most_generated_games_of_each_kind() -> None:
    bench = ALFWorld()
    env = bench.environment("task")
    won = {kind: [0, 0] for kind in TASK_TYPES}
    for task in bench.tasks("validation")[:60]:
        states = optimal(env, task, random.Random(0))
        assert all(state.best for state in states)
        won[task.kind][0] += bool(env.engine and env.engine.won)
        won[task.kind][1] += 1
    assert sum(n for n, _ in won.values()) >= 0.9 * sum(n for _, n in won.values()), won


def test_a_mistake_can_be_recovered_from_and_the_teacher_says_so() -> None:
    bench = ALFWorld()
    env = bench.environment("task")
    rng = random.Random(2)
    recovered = 0
    for task in bench.tasks("train")[:24]:
        state = perturbed(env, task, rng)
        assert state is not None and state.mistake and state.best
        text = bench.reflection(state)
        assert "was a mistake" in text and text.endswith(
            f"Next: {state.observation.options[state.best[0]].text}."
        )
        # The environment stands at the mistake: the expert goes on from there.
        while best := env.oracle():
            result = env.step(best[0])
        recovered += result.terminated
    assert recovered >= 20


def test_episodes_are_repeatable_and_rewards_bounded() -> None:
    bench = load_benchmark("alfworld", {"take_reward": 1.0})
    tasks = bench.tasks("test")[:12]
    runs = [
        play_batch([bench.environment("task") for _ in tasks], tasks, RandomPolicy(), seeds=range(len(tasks)))
        for _ in range(2)
    ]
    shown = [[[step.observation for step in t.steps] for t in run] for run in runs]
    assert shown[0] == shown[1]
    assert all(-1 <= step.result.reward <= 1 for t in runs[0] for step in t.steps)
    assert all(len(t.steps) <= 50 for t in runs[0])
    outcomes = [bench.outcomes(t) for t in runs[0]]
    assert all(set(found) == {"take", "task"} and found["take"] >= found["task"] for found in outcomes)


def test_an_environment_plays_one_game_after_another() -> None:
    bench = ALFWorld()
    env = bench.environment("task")
    first, second = bench.tasks("train")[:2]
    before = env.reset(first, seed=3)
    env.step(0)
    other = env.reset(second)
    assert other.task != before.task or other.options != before.options
    assert env.reset(first, seed=9) == before  # seeds change nothing: a game is one game


@REAL
def test_the_official_splits_are_those_of_the_field() -> None:
    bench = ALFWorld(source="official")
    assert [len(bench.tasks(split)) for split in SPLITS] == [3553, 140, 134]
    folders = [{task.name.partition("/")[0] for task in bench.tasks(split)} for split in SPLITS]
    assert folders == [{"train"}, {"valid_seen"}, {"valid_unseen"}]
    only = ALFWorld(source="official", types="look_at_obj_in_light")
    assert len(only.tasks("test")) == 18
    env = bench.environment("task")
    for split in SPLITS:
        for task in bench.tasks(split)[::100]:
            states = optimal(env, task, random.Random(0))
            assert env.engine and env.engine.won and len(states) <= 50
