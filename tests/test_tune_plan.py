"""How the time is shared out, what is kept of prepared tasks, and how a model is registered."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repoagent import storage, tuned
from repoagent.assistant import Assistant
from repoagent.errors import InputError
from repoagent.memory import CORRECTED, Memory, Note
from repoagent.models import CHECKPOINTS
from repoagent.repo import Repo
from training import tune
from training.encoder_player import EncoderPlayer
from training.tune import Plan, Result, allot, memory_of, prepared, register
from training.tune_report import figures
from training.tune_tasks import Commit, Tasks


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(storage.VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    root.mkdir()
    for name in ("send", "look"):
        (root / f"{name}.py").write_text(f"def {name}(parcel):\n    return parcel\n")
    return root.resolve()


def row(number: int, kind: str = "mined-doc", **more: Any) -> dict[str, Any]:
    return {"id": f"t{number}", "repo": "", "kind": kind, "question": f"where is parcel {number} sent?",
            "gold": ["send.py"], "span": None, "hide": [], **more}  # fmt: skip


def planned(root: Path, train: int = 300, own: int = 0, **more: Any) -> Plan:
    tasks = Tasks(
        train=[row(i, "correction", decisions=[{}]) for i in range(own)] + [row(i) for i in range(train)],
        validation=[row(i) for i in range(90)],
        held_out=[row(i) for i in range(160)],
    )
    speeds = {"pack": 0.5, "play": 0.5}
    return replace(Plan(root, 30.0, 0, tasks, own, "cpu", speeds, digest="d" * 64), **more)


# -- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [4.0, 10.0, 30.0, 240.0])
@pytest.mark.parametrize("teacher", ["", "openai:http://h#m"])
def test_the_stages_take_the_time_that_there_is(tree: Path, minutes: float, teacher: str) -> None:
    made = planned(tree, minutes=minutes, teacher=teacher)
    allot(made, 20.0)
    assert sum(made.stages.values()) == pytest.approx(60 * minutes * (1 - tune.RESERVE))
    assert all(seconds >= 0 for seconds in made.stages.values()) and made.stages["find the tasks"] == 20
    assert made.stages["SFT"] > made.stages["RLFT"] > 0
    held, tasks = len(made.tasks.held_out), made.tasks
    assert made.stages["measure the bundled model"] == made.stages["measure the tuned model"] == 0.5 * held
    count = len(tasks.train) + len(tasks.validation) + made.questions
    assert made.stages["prepare the tasks"] == pytest.approx(0.5 * count)
    assert bool(made.questions) == bool(made.stages["ask the teacher"]) == bool(teacher)


def test_less_time_means_fewer_tasks_evenly_from_the_whole(tree: Path) -> None:
    counts = []
    for minutes in (4.0, 8.0, 30.0):
        made = planned(tree, minutes=minutes)
        allot(made)
        counts.append((len(made.tasks.held_out), len(made.tasks.train), len(made.tasks.validation)))
        ids = [int(r["id"][1:]) for r in made.tasks.held_out]
        assert ids == sorted(set(ids)) and ids[0] == 0 and ids[-1] >= 145
    assert counts[0] < counts[1] < counts[2] and counts[2][0] == 160


def test_what_was_corrected_is_never_left_out_and_takes_no_time(tree: Path) -> None:
    with_own, without = planned(tree, own=50, minutes=6.0), planned(tree, minutes=6.0)
    allot(with_own)
    allot(without)
    kinds = with_own.tasks.kinds(with_own.tasks.train)
    assert kinds["correction"] == 50 and kinds["mined-doc"] == len(without.tasks.train) < 300
    assert with_own.stages == without.stages


@pytest.mark.parametrize(("minutes", "spent"), [(0.1, 0.0), (1.0, 0.0), (5.0, 280.0), (5.0, 1e4)])
def test_too_little_time_says_how_much_is_needed(tree: Path, minutes: float, spent: float) -> None:
    with pytest.raises(InputError, match="is too little here") as failed:
        allot(planned(tree, minutes=minutes), spent)
    text = str(failed.value)
    needed = float(text.split("at least ")[1].split()[0])
    assert "\n" not in text and needed > minutes
    allot(planned(tree, minutes=needed), spent)  # and that would do


@pytest.mark.parametrize("minutes", [math.nan, math.inf])
def test_a_time_that_is_no_number_is_refused(tree: Path, minutes: float) -> None:
    with pytest.raises(InputError, match="is no time"):
        tune.plan(str(tree), minutes, 0)


# -- what is remembered ------------------------------------------------------------------------


def test_the_memory_holds_commits_and_corrections_and_hides_each_from_its_own_question() -> None:
    tasks = Tasks(
        train=[row(1, "correction"), row(2, "mined-commit", age=7), row(3)],
        validation=[row(4, "mined-commit", age=9)],
        held_out=[row(5, "mined-commit", age=2)],
        commits=[Commit(7, "Send parcels", ("send.py",)), Commit(9, "Paint parcels", ("look.py",))],
    )
    memory = memory_of(tasks)
    assert [(n.age, n.files) for n in memory.notes] == [
        (7, ("send.py",)), (9, ("look.py",)), (CORRECTED, ("send.py",)),
    ]  # fmt: skip
    asked = [r["question"] for r in (*tasks.train, *tasks.validation)]
    assert [memory.newest.get(q) for q in asked] == [CORRECTED, 7, None, 9]
    assert tasks.held_out[0]["question"] not in memory.newest


# -- prepared tasks ----------------------------------------------------------------------------


def few(root: Path) -> Plan:
    made = planned(root)
    made.tasks.train = [row(i) for i in range(25)]
    made.tasks.validation = [row(i) for i in range(25, 30)]
    return made


def test_what_a_kill_cut_short_is_gone_on_with(tree: Path) -> None:
    made, repo, said = few(tree), Repo.open(tree), list[str]()
    first = prepared(made, repo, said.append)
    assert said == ["preparing tasks: 20 of 30", "preparing tasks: 30 of 30"]
    (file,) = (storage.folder("training") / storage.named(str(tree))).iterdir()
    whole = file.read_bytes()
    said.clear()
    assert json.dumps(prepared(made, repo, said.append)) == json.dumps(first) and said == []
    for harm in (whole[:-40], whole + b"rubbish", b"rubbish", whole[:-40] + b"\0" * 40):
        file.write_bytes(harm)
        assert json.dumps(prepared(made, repo, said.append)) == json.dumps(first)
        assert len(said) <= (2 if harm == b"rubbish" else 1), "what can be read is not prepared again"
        said.clear()
        assert json.dumps(prepared(made, repo, said.append)) == json.dumps(first) and said == []


def test_one_question_with_two_answers_is_two_tasks(tree: Path) -> None:
    made = few(tree)
    made.tasks.train = [row(1), {**row(1), "gold": ["look.py"]}]
    train, _ = prepared(made, Repo.open(tree), lambda text: None)
    assert [task["gold"] for task in train] == [["send.py"], ["look.py"]]
    first = [task["decisions"][0] for task in train]
    assert [d["options"][d["best"][0]][2] for d in first] == ["send.py", "look.py"]


def test_a_correction_is_taken_as_it_was_stored_last(tree: Path) -> None:
    made = few(tree)
    prepared(made, Repo.open(tree), lambda text: None)
    own = {**row(3, "correction"), "decisions": [{"best": [0]}]}
    made.tasks.train[3] = own
    train, _ = prepared(made, Repo.open(tree), lambda text: None)
    assert train[3] is own, "though the same was asked of the file before"


def test_only_the_latest_state_of_a_repository_is_kept_for_the_user_alone(tree: Path) -> None:
    prepared(few(tree), Repo.open(tree), lambda text: None)
    prepared(replace(few(tree), digest="e" * 64), Repo.open(tree), lambda text: None)
    place = storage.folder("training") / storage.named(str(tree))
    assert [f.name for f in place.iterdir()] == ["e" * 16 + ".jsonl.gz"]
    assert place.stat().st_mode & 0o077 == 0


def test_tasks_that_cannot_be_kept_are_one_line(tree: Path, data: Path) -> None:
    data.write_text("a file where the folder would be")
    with pytest.raises(InputError, match="cannot write") as failed:
        prepared(few(tree), Repo.open(tree), lambda text: None)
    assert "\n" not in str(failed.value)


# -- registering -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def player() -> EncoderPlayer:
    made = EncoderPlayer.from_folder(CHECKPOINTS / "policy")
    made.policy.memory = Memory([Note(("parcel",), ("send.py",))])
    return made


def result(root: Path) -> Result:
    made = replace(planned(root), folder=tuned.location(str(root)))
    allot(made)
    found = figures([False] * 20, [True] * 20, 0)
    return Result(made, *found, {"mined-doc": (20, 0.0, 1.0)}, "SFT", 60.0, made.folder)


def test_a_model_registered_anew_takes_the_place_of_the_one_before(tree: Path, player: EncoderPlayer) -> None:
    assistant = Assistant("auto", "none")
    register(player, result(tree))
    before, _ = assistant.load(repos=[tree])
    assert "+tuned-shop-" in before.name and assistant.load(repos=[tree])[0] is before
    register(player, replace(result(tree), chosen="SFT and RLFT"))
    (found,) = tuned.registered(CHECKPOINTS / "policy")
    assert found.problem is None and found.entry["chosen"] == "SFT and RLFT"
    assert [p.name for p in found.folder.parent.iterdir()] == [found.folder.name]
    assert assistant.load(repos=[tree])[0] is not before, "also in a process that runs on"


def test_a_model_that_cannot_be_written_is_one_line_and_leaves_nothing(
    tree: Path, data: Path, player: EncoderPlayer
) -> None:
    data.mkdir()
    (data / "models").write_text("a file where the folder would be")
    with pytest.raises(InputError, match="cannot write") as failed:
        register(player, result(tree))
    assert "\n" not in str(failed.value) and [p.name for p in data.iterdir()] == ["models"]
