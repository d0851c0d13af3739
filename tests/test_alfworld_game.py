"""Games read from files and folders: what is broken or hostile gives one clear error, and runs nothing."""

import json
import os
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.alfworld import game as games
from benchmarks.alfworld import held_out, pddl, wording
from benchmarks.alfworld.game import build, compile_game, entity_names, game_hash, goal_of, read_game
from benchmarks.alfworld.pddl import BrokenGame, parse, read
from benchmarks.alfworld.sources import GAME_FILE, GameTask, OfficialGames, check_kind, kind_of
from benchmarks.alfworld.task import AlfworldEnvironment
from repoagent.errors import InputError
from tests.alfworld_rooms import kitchen, problem

GOOD = problem()
REAL = pytest.mark.skipif("ALFWORLD_DATA" not in os.environ, reason="ALFWORLD_DATA is not set")


def test_a_problem_is_read_whatever_its_case_comments_and_space() -> None:
    first = parse(GOOD)
    assert first == parse(GOOD.upper().replace(") (", ")\n\t;hi ( ( (\n ("))
    assert first.types["mug_bar_1"] == "object" and first.facts["atlocation"] == [("agent1", "loc_bar_0")]
    assert len(first.facts["cancontain"]) == 5 * 5 + 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not one expression"),
        ("(", "never closed"),
        ("(a))", "never opened"),
        ("(a) (b)", "not one expression"),
        ("word", "no PDDL definition"),
        ("(" * 100_000, "nests more than"),
        ("(" * 50 + ")" * 50, "nests more than"),
        ("x" * (pddl.MAX_CHARACTERS + 1), "more than 1000000"),
        ("(define)", "no section"),
        ("(define (:domain alfred) word)", "has no name"),
        ("(define (:domain alfred) (:domain alfred))", "two sections"),
        ("(define (:action boom))", "unknown section"),
        (GOOD.replace("alfred", "other"), "not of the domain"),
        (GOOD.replace("- location", "- weapon"), "unknown type"),
        (GOOD.replace("Mug - object", "Mug"), "without a type"),
        (GOOD.replace("Mug - object", "agent1 - object"), "two types"),
        (GOOD.replace("Mug - object", "(a b) - object"), "has parentheses"),
        (GOOD.replace("Mug -", " ".join(f"x{i}" for i in range(6000)) + " -"), "more than 5000"),
        (GOOD.replace("(openable Fridge_bar_1)", "(explodes Fridge_bar_1)"), "'explodes' is unknown"),
        (GOOD.replace("(openable Fridge_bar_1)", "(openable Apple_bar_1)"), "wrong or undeclared"),
        (GOOD.replace("(openable Fridge_bar_1)", "(openable nobody)"), "wrong or undeclared"),
        (GOOD.replace("(openable Fridge_bar_1)", "(openable)"), "wrong or undeclared"),
        (GOOD.replace("(openable Fridge_bar_1)", "(openable (a))"), "no plain list"),
        (GOOD.replace("(openable Fridge_bar_1)", "openable"), "no plain list"),
        (GOOD.replace("(atLocation agent1 loc_bar_0)", ""), "where its one agent begins"),
        (GOOD.replace("(openable Fridge_bar_1)", "(atLocation agent1 loc_bar_5)"), "given twice"),
        (GOOD.replace("(openable Fridge_bar_1)", "(objectType Apple_bar_1 EggType)"), "given twice"),
        (GOOD.replace("Fridge_bar_1", "Fridge"), "says no kind and position"),
        (GOOD.replace("Fridge_bar_1", "Fri-dge_bar_1"), "says no kind and position"),
        (GOOD.replace("(inReceptacle ?o ?r)", "(holds agent1 ?o)"), "none of the six"),
        (GOOD.replace("(inReceptacle ?o ?r)", ""), "none of the six"),
        (GOOD.replace("(:goal ", "(:goal (and) "), "no single goal"),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_a_broken_problem_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(BrokenGame, match=why) as raised:
        build(parse(text), "put a mug in fridge", "x", "", ())
    assert len(str(raised.value)) < 200 and "\n" not in str(raised.value)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_garbled_problem_is_refused_or_read_but_never_crashes(rng: random.Random) -> None:
    words = GOOD.split(" ")
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(words))
        words[at : at + rng.randint(0, 3)] = rng.sample(words, rng.randint(0, 3))
    text = " ".join(words)
    try:
        made = build(parse(text), "put a mug in fridge", "x", "", ())
    except BrokenGame as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert made.things and made.receptacles


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="()ab -;\n:", max_size=80))
def test_any_text_is_a_tree_or_refused(text: str) -> None:
    try:
        assert read(text) is not None
    except BrokenGame as error:
        assert str(error)


def test_names_are_numbered_as_the_real_engine_does() -> None:
    ids = ["mug_bar_1", "mug_bar_2", "sink_bar_1", "sink_bar_1_bar_sinkbasin", "sink_bar_3_bar_sinkbasin"]
    assert entity_names(ids) == {
        "mug_bar_1": "mug 2", "mug_bar_2": "mug 1", "sink_bar_1": "sink 1",
        "sink_bar_1_bar_sinkbasin": "sinkbasin 2", "sink_bar_3_bar_sinkbasin": "sinkbasin 1",
    }  # fmt: skip


def test_each_kind_of_goal_is_told_from_the_others() -> None:
    for kind in games.TASK_TYPES:
        made = kitchen(kind, "Mug", "DeskLamp" if kind == "look_at_obj_in_light" else "Shelf")
        assert (made.kind, made.thing) == (kind, "mug")
    mixed = games.GOALS["pick_two_obj_and_place"].replace("THING", "MugType", 1).replace("THING", "EggType")
    with pytest.raises(BrokenGame):
        goal_of(read(mixed.replace("PLACE", "ShelfType")))  # two different things


def test_a_hash_names_the_content() -> None:
    assert game_hash(GOOD) == game_hash(
        GOOD.replace("(problem kitchen)", "(problem other)").replace(" ", "\n  ")
    )
    assert game_hash(GOOD) != game_hash(problem(thing="Egg"))


def file(folder: Path, content: object) -> Path:
    path = folder / GAME_FILE
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("\x00", "no JSON"),
        ([], "no JSON object"),
        ({}, "no text 'pddl_domain'"),
        ({"pddl_domain": 3}, "no text 'pddl_domain'"),
        ({"pddl_domain": "(define)", "grammar": "", "pddl_problem": GOOD}, "domain is not the known one"),
        ("x" * (games.MAX_BYTES + 1), "more than 4000000 bytes"),
        ("9" * 100_000, "no JSON"),
        ('{"pddl_domain": "\\ud800", "grammar": "", "pddl_problem": ""}', "domain is not the known one"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_file_gives_one_line(tmp_path: Path, content: object, why: str) -> None:
    with pytest.raises(InputError, match=why) as raised:
        read_game(file(tmp_path, content))
    assert "\n" not in str(raised.value) and GAME_FILE in str(raised.value)


def test_a_file_that_is_missing_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_game(tmp_path / GAME_FILE)
    with pytest.raises(InputError, match="cannot"):
        read_game(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(InputError, match="it is no file"):
            read_game(tmp_path / name)


def test_texts_that_no_file_system_holds_have_a_hash_of_their_own() -> None:
    """JSON can hold half a character; such a text is not taken for one with a question mark."""
    assert len({game_hash(GOOD + f";{end}") for end in ("?", "\ud800", "\udfff")}) == 3


def env_of(text: str, sentence: str = "put a mug in countertop") -> AlfworldEnvironment:
    class One:
        def tasks(self, split):
            return []

        def game(self, name):
            return build(parse(text), sentence, name, "", ())

    return AlfworldEnvironment("task", One(), horizon=25)


def play(env: AlfworldEnvironment, seed: int) -> set[str]:
    """The verbs of an episode that follows the oracle half of the time."""
    rng = random.Random(seed)
    seen, verbs, done = env.reset(GameTask("x", "")), set(), False
    while not done:
        texts = [option.text for option in seen.options]
        assert len(set(texts)) == len(texts) and texts == sorted(texts)
        best = env.oracle()
        assert all(0 <= index < len(texts) for index in best)
        index = rng.choice(best) if best and rng.random() < 0.5 else rng.randrange(len(texts))
        verbs.add(texts[index].split()[0])
        result = env.step(index)
        assert (
            result.observation.last_result and wording.NOTHING_HAPPENS not in result.observation.last_result
        )
        seen, done = result.observation, result.done
    return verbs


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_garbled_game_that_can_be_read_can_be_played(rng: random.Random) -> None:
    head, facts, tail = GOOD.partition("(:init ")[0], *GOOD.partition("(:init ")[2].partition("\n(:goal")[::2]
    lines = facts.replace(") (", ")\n(").removesuffix(")").split("\n")
    kept = [line for line in lines if rng.random() < 0.9 or "atLocation agent1" in line]
    extra = [f"(inReceptacle Mug_bar_{rng.choice('12')} {rng.choice(['Shelf_bar_1', 'Fridge_bar_1'])})"]
    extra.append(f"(opened {rng.choice(['Drawer_bar_1', 'Shelf_bar_2', 'Microwave_bar_1'])})")
    rng.shuffle(kept)
    assert play(env_of(f"{head}(:init {' '.join(kept + extra)})\n(:goal{tail}"), rng.randrange(99))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Mug_bar_1", "mug_bar_{7*7}"),
        ("Mug_bar_1", "mug_bar_%s%n\x1b[31m"),
        ("Shelf_bar_1", "5_bar_1"),
        ("Shelf_bar_1", "tv2stand_bar_1"),
        ("Bowl_bar_1", "shelf_bar_9"),  # a thing that is called like a receptacle
        ("Bowl_bar_1", "loc_bar_77"),
        ("Knife_bar_1", "go_bar_1"),
        ("Knife_bar_1", "mug_bar_basin"),
        ("Apple_bar_1", "mugtype_bar_1"),
        ("agent1", "mug_bar_77"),
    ],
)
def test_strange_names_are_played_like_others(old: str, new: str) -> None:
    env = env_of(GOOD.replace(old, new))
    verbs = set().union(*(play(env, seed) for seed in range(6)))
    assert {"go", "open", "take"} <= verbs
    names = [found.name for found in (*env.engine.game.receptacles, *env.engine.game.things)]
    assert len(set(names)) == len(names) == 15 and all(re.fullmatch(r"[a-z0-9]+ \d+", n) for n in names)


def test_what_is_said_twice_counts_once() -> None:
    twice = GOOD.replace("(openable", "(inReceptacle Mug_bar_1 Shelf_bar_1) (openable", 1)
    twice = twice.replace("Mug - object", "Mug - object Mug_bar_1 Mug_bar_2 - object")
    first, second = (build(parse(text), "put a mug in countertop", "x", "", ()) for text in (GOOD, twice))
    assert first == second
    with pytest.raises(BrokenGame, match="a receptacle's location is given twice"):
        build(parse(GOOD.replace("(openable", "(receptacleAtLocation Shelf_bar_1 loc_bar_1) (openable", 1)),
              "put a mug in countertop", "x", "", ())  # fmt: skip


def test_the_largest_room_is_played_in_reasonable_time() -> None:
    """As many mugs as a problem may declare, all on one shelf."""
    count = pddl.MAX_OBJECTS - 100
    names = [f"mug_bar_{i}x" for i in range(count)]
    facts = [f"(objectType {n} MugType) (pickupable {n}) (inReceptacle {n} Shelf_bar_2)" for n in names]
    text = GOOD.replace("Mug - object", f"Mug {' '.join(names)} - object")
    text = text.replace("(openable", f"{' '.join(facts)} (openable", 1)
    start = time.process_time()
    env = env_of(text)
    env.reset(GameTask("x", ""))
    way = [option.text for option in env.shown].index("go to shelf 1")
    assert len(env.step(way).observation.options) > count
    assert len(env.oracle()) == count  # each is as good as the others
    assert not env.step(env.oracle()[0]).done
    assert time.process_time() - start < 10


def trial(root: Path, folder: str, task: str, name: str = "trial_1") -> Path:
    path = root / "json_2.1.1" / folder / task / name
    path.mkdir(parents=True)
    (path / GAME_FILE).write_text("{}")
    return path


def test_the_official_layout_is_listed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (
        "pick_heat_then_place_in_recep-Egg-None-Fridge-3",
        "look_at_obj_in_light-CD-None-DeskLamp-302",
    ):
        trial(tmp_path, "train", task)
    trial(tmp_path, "train", "pick_and_place_with_movable_recep-Egg-Bowl-Fridge-3")
    trial(tmp_path, "train", "pick_and_place_simple-AppleSliced-None-Fridge-3")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    source = OfficialGames()
    assert source.tasks("train") == [
        GameTask("train/look_at_obj_in_light-CD-None-DeskLamp-302/trial_1", "look_at_obj_in_light"),
        GameTask("train/pick_heat_then_place_in_recep-Egg-None-Fridge-3/trial_1", "pick_heat_then_place"),
    ]
    with pytest.raises(InputError, match="valid_seen is missing"):
        source.tasks("validation")
    (tmp_path / "json_2.1.1" / "valid_unseen").mkdir()
    with pytest.raises(InputError, match="holds no game"):
        source.tasks("test")
    with pytest.raises(InputError, match="no text 'pddl_domain'"):
        source.game(source.tasks("train")[0].name)


def test_a_folder_that_holds_no_release_gives_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"no folder json_2\.1\.1"):
        OfficialGames(tmp_path)
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(InputError, match="ALFWORLD_DATA is not set"):
        OfficialGames()


def test_the_kind_is_that_of_traj_data_where_there_is_one(tmp_path: Path) -> None:
    path = trial(tmp_path, "train", "whatever-1")
    (path / "traj_data.json").write_text('{"task_type": "pick_cool_then_place_in_recep"}')
    assert kind_of(path) == "pick_cool_then_place"
    for bad, why in (("[]", "unknown kind"), ("{", "cannot read"), ('{"task_type": ["x"]}', "unknown kind")):
        (path / "traj_data.json").write_text(bad)
        with pytest.raises(InputError, match=why):
            kind_of(path)
    with pytest.raises(InputError, match="there are pick_and_place_simple"):
        check_kind("juggle", "benchmark.types")


def test_held_out_games_are_committed_by_their_hashes() -> None:
    found = held_out.held_out()
    folders = list(found.values())
    assert (folders.count("valid_seen"), folders.count("valid_unseen")) == (140, 134)
    assert all(len(digest) == 64 for digest in found)
    assert held_out.check_training(kitchen()).name == "kitchen"


@REAL
def test_held_out_games_are_those_of_the_release_and_none_is_trained_on() -> None:
    source = OfficialGames()
    found = held_out.held_out()
    for folder in held_out.FOLDERS:
        hashes = {source.game(task.name).hash for task in source.listed(folder)}
        assert hashes == {digest for digest, where in found.items() if where == folder}
        with pytest.raises(InputError, match=f"is one of {folder}"):
            held_out.check_training(source.game(source.listed(folder)[0].name))
    # Whether the names are right or not: by content, of all training games.
    for folder in ("train", "valid_train"):
        for task in source.listed(folder):
            text = json.loads(source.path(task.name).read_bytes())["pddl_problem"]
            assert game_hash(text) not in found, task.name


@REAL
def test_a_real_file_with_another_domain_wording_or_task_is_refused() -> None:
    source = OfficialGames()
    data = json.loads(source.path(source.listed("valid_seen")[0].name).read_bytes())
    assert compile_game(data, "x").sentence
    for change, why in (
        ({"pddl_domain": data["pddl_domain"].replace("(heatable ?o)", "")}, "domain is not the known one"),
        ({"grammar": data["grammar"].replace("You open the", "You opened the")}, "wording is not that"),
        ({"grammar": data["grammar"].replace("task is to: ", "task is to: {open('x')} ")}, "plain words"),
        ({"grammar": ""}, "plain words"),
        ({"grammar": data["grammar"].replace("?", "\ud800").replace("!", "\ud800")}, "wording is not that"),
        ({"solvable": False}, "cannot be solved"),
        ({"walkthrough": "look"}, "no list of commands"),
        ({"walkthrough": [1]}, "no list of commands"),
        ({"walkthrough": ["look"] * 2000}, "no list of commands"),
    ):  # fmt: skip
        with pytest.raises(BrokenGame, match=why):
            compile_game(data | change, "x")
    assert compile_game({k: v for k, v in data.items() if k != "walkthrough"}, "x").walkthrough == ()
