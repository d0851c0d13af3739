"""Corrections as tasks, a teacher's questions, and what training says of its figures."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from repoagent import corrections, storage
from repoagent.corrections import ANSWER, TAKE_OVER, answered
from repoagent.errors import InputError, ModelError
from repoagent.explore import FEATURES, RepoEnvironment, Task
from repoagent.repo import Repo
from tests.chat_server import Reply, completion, serving
from training.tune_extra import corrected, settings_of, taught
from training.tune_report import Figures, card, figures, plan_lines, result_lines

ROOT = "/code/shop"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(storage.VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for name in ("send", "look", "login"):
        lines = [f"def {name}_{i}(parcel):\n    return {name}(parcel, {i})\n" for i in range(8)]
        (root / f"{name}.py").write_text("\n".join(lines))
    (root / "tests").mkdir()
    (root / "tests" / "test_send.py").write_text("def test_send():\n    assert send(1)\n" * 8)
    (root / "empty.py").write_text("")
    return root


# -- corrections -------------------------------------------------------------------------------


def option(kind: str, target: str, features: int = len(FEATURES)) -> dict[str, Any]:
    return {"text": f"{kind} {target}", "kind": kind, "target": target, "evidence": f"{target}\nlines",
            "features": [0.5] * features}  # fmt: skip


def line(
    best: object, *options: dict[str, Any], task: str = "where?", mistake: str = "", without: str = ""
) -> str:
    seen = {"task": task, "location": "", "history": ["opened b.py"], "last_result": "", "options": options}
    seen.pop(without, None)
    return json.dumps({"observation": seen, "best": best, "mistake": mistake, "reflection": ""})


def stored(*lines: str | bytes) -> list[dict[str, Any]]:
    file = corrections.location(ROOT)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join((text if isinstance(text, bytes) else text.encode()) + b"\n" for text in lines))
    return corrected(ROOT)


A, B, GO = option("open", "a.py"), option("open", "b.py"), option("go", "lib")
GOOD = line([0], A, B)


def test_what_explore_stores_is_read_as_one_packed_task(tree: Path) -> None:
    environment = RepoEnvironment(Repo.open(tree))
    question = "who dispatches things?"
    states = answered(environment, Task(question), [], "send.py")
    corrections.store(ROOT, states, ANSWER, "2026-01-01T00:00:00+00:00")
    (row,) = corrected(ROOT)
    assert (row["kind"], row["question"], row["gold"]) == ("correction", question, ["send.py"])
    assert len(row["decisions"]) == len(states) >= 2
    for decision, state in zip(row["decisions"], states, strict=True):
        assert decision["stage"] in ("open0", "go0", "identify0", "lines0")
        assert decision["best"] == list(state.best)
        for packed, offered in zip(decision["options"], state.observation.options, strict=True):
            assert row["texts"][packed[0]] == offered.evidence
            assert packed[1:4] == [offered.kind, offered.target, offered.text]
            assert packed[4] == pytest.approx(offered.features)
    assert len(row["texts"]) == len(set(row["texts"]))


def test_the_last_file_taken_is_the_answer(data: Path) -> None:
    rows = stored(GOOD, line([1], A, B, mistake="open a.py"), line([0], GO, A), line([1], A, B, task="who?"))
    assert [(r["question"], r["gold"], len(r["decisions"])) for r in rows] == [
        ("where?", ["b.py"], 3), ("who?", ["b.py"], 1),
    ]  # fmt: skip
    assert [d["stage"] for d in rows[0]["decisions"]] == ["open0", "open1", "go0"]
    assert rows[0]["texts"] == ["a.py\nlines", "b.py\nlines", "lib\nlines"], "each text once"
    assert len({r["id"] for r in rows}) == 2


def test_a_way_that_leads_to_no_file_is_no_task() -> None:
    assert stored(line([0], GO, A)) == []


@pytest.mark.parametrize(
    "broken",
    ["", "null", "3", "[]", '"text"', "{}", '{"observation": {}}', GOOD[:-9], b"\xff\xfe\x00", line(0, A),
     line([], A), line([2], A, B), line([-1], A, B), line(["0"], A, B), line([0.5], A, B),
     line([0, 9], A, B), line([0], option("open", "a.py", 3), B), line([0], A, without="history"),
     line([0], A, without="task"), line([0]), line([0], {**A, "features": ["x"] * len(FEATURES)}),
     line([0], {"kind": "open"}), '{"observation": 1, "best": [0], "mistake": ""}'],
)  # fmt: skip
def test_a_line_that_is_no_correction_is_skipped_and_the_others_stay(broken: str | bytes) -> None:
    (alone,) = stored(GOOD)
    (row,) = stored(broken, GOOD, broken)
    assert row["gold"] == ["a.py"] and row["decisions"] == alone["decisions"]
    for packed in row["decisions"][0]["options"]:
        assert row["texts"][packed[0]] == f"{packed[2]}\nlines"


def test_corrections_of_other_repositories_are_not_read(tree: Path) -> None:
    states = answered(RepoEnvironment(Repo.open(tree)), Task("who sends?"), [], "send.py")
    corrections.store("/code/other", states, TAKE_OVER, "2026-01-01T00:00:00+00:00")
    assert corrected(ROOT) == [] and len(corrected("/code/other")) == 1


# -- teacher -----------------------------------------------------------------------------------


class Teacher:
    """Answers in turn what it is given, and keeps what it was asked."""

    def __init__(self, *answers: str | Reply, wait: float = 0.0) -> None:
        self.answers, self.wait = answers, wait
        self.asked: list[str] = []

    def __call__(self, body: dict[str, Any]) -> Reply:
        self.asked.append(body["messages"][-1]["content"])
        time.sleep(self.wait)
        answer = self.answers[len(self.asked) % len(self.answers)]
        return completion(answer) if isinstance(answer, str) else answer


def test_a_teacher_is_asked_about_each_file_once_and_its_words_are_cleaned(tree: Path, data: Path) -> None:
    teacher = Teacher('<think>hm</think>Question: "How are parcels numbered?"\n', "No", "word " * 50)
    with serving(teacher) as url:
        rows = taught(Repo.open(tree), f"openai:{url}#m", data / "cache.jsonl", ["look.py"], 0)
    assert sorted(text.split(",")[0] for text in teacher.asked) == ["File login.py", "File send.py"]
    assert all("def " in text and text.endswith("Question:") for text in teacher.asked)
    assert len(rows) <= 1, "one word, or fifty, are no question"
    for row in rows:
        assert row["question"] == "How are parcels numbered?" and row["hide"] == []
        first, last = row["span"]
        assert 1 <= first <= last <= len(Repo.open(tree).lines(row["gold"][0]))


def test_a_teacher_is_asked_no_more_than_it_may_and_stops_in_time(tree: Path, data: Path) -> None:
    teacher = Teacher("How are parcels numbered?")
    with serving(teacher) as url:
        spec, repo = f"openai:{url}#m", Repo.open(tree)
        assert taught(repo, spec, data / "a.jsonl", [], 0, most=0) == [] == teacher.asked
        assert taught(repo, spec, data / "b.jsonl", [], 0, until=time.monotonic() - 1) == [] == teacher.asked
        assert len(taught(repo, spec, data / "c.jsonl", [], 0, most=2)) == 2 == len(teacher.asked)


def test_a_teacher_that_refuses_is_one_line(tree: Path, data: Path) -> None:
    body = json.dumps({"error": {"message": "no such\nmodel"}}).encode()
    with serving(Teacher((404, body))) as url, pytest.raises(ModelError) as failed:
        taught(Repo.open(tree), f"openai:{url}#m", data / "cache.jsonl", [], 0)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    "spec", ["", "openai:", "openai:http://#m", "openai:ftp://host#m", "openai:http://h# "]
)
def test_half_a_name_is_no_teacher(spec: str) -> None:
    with pytest.raises(InputError):
        settings_of(spec)


# -- figures -----------------------------------------------------------------------------------


def test_an_interval_holds_its_value_and_shrinks_with_more_tasks() -> None:
    widths = []
    for n in (20, 80, 320):
        before = [i % 4 == 0 for i in range(n)]
        one, two, difference = figures(before, [i % 2 == 0 for i in range(n)], 0)
        assert (one.value, two.value, difference.value) == (0.25, 0.5, 0.25) and one.n == n
        for f in (one, two, difference):
            assert f.low < f.value < f.high
        widths.append(one.high - one.low)
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2]


def test_the_same_answers_differ_by_nothing() -> None:
    same = [True, False, True]
    assert figures(same, same, 0)[2] == Figures(0.0, 0.0, 0.0, 3)
    assert str(Figures(0.25, 0.1, 0.4, 20)) == "0.250 (0.100 to 0.400)"
    assert figures([True] * 5, [False] * 5, 0)[2] == Figures(-1.0, -1.0, -1.0, 5)


def result(before: list[bool], after: list[bool], root: str = "/code/shop") -> dict[str, Any]:
    one, two, difference = figures(before, after, 0)
    part = {"count": 30, "kinds": {"mined-doc": 20, "mined-commit": 10}}
    plan = {
        "repository": root, "commits": 61, "corrections": 1, "device": "cpu", "teacher": "",
        "questions of the teacher": 0, "tasks": {"train": part, "validation": part, "held out": part},
        "stages (seconds)": {"SFT": 90.0, "RLFT": 30.0}, "seconds": 120, "memory (MiB)": 900,
        "seconds per task (measured here)": {"pack": 0.1, "play": 0.25}, "registered at": "/data/models/x",
    }  # fmt: skip
    return {
        "before": one.entry(), "after": two.entry(), "difference": difference.entry(), "chosen": "SFT",
        "kept": sum(after) > sum(before), "plan": plan, "root": root, "date": "2026-01-01", "minutes": 2.0,
        "seed": 0, "by kind": {"mined-doc": {"tasks": len(before), "before": one.value, "after": two.value}},
    }  # fmt: skip


def test_the_plan_says_all_that_it_holds() -> None:
    plan = result([True], [True])["plan"]
    text = "\n".join(plan_lines(plan))
    for said in ("/code/shop", "61 commits", "Held out     30 tasks: 20 doc, 10 commit", "1.5 min", "2.0 min",
                 "0.10 s to prepare", "0.25 s to play", "900 MiB", "/data/models/x", "CPU"):  # fmt: skip
        assert said in text
    assert "Teacher" not in text
    other = {**plan, "commits": 0, "device": "cuda", "teacher": "openai:http://h#m",
             "questions of the teacher": 7}  # fmt: skip
    text = "\n".join(plan_lines(other))
    assert "History      none" in text and "the GPU" in text and "at most 7" in text


def test_the_result_says_whether_chance_may_have_made_it() -> None:
    none = [False] * 40
    assert not any("chance" in text for text in result_lines(result(none, [True] * 20 + [False] * 20)))
    text = "\n".join(result_lines(result(none, [True, *none[1:]])))
    assert "may be chance" in text and "Kept (SFT): questions about /code/shop use it now." in text
    assert "doc                    40     0.000     0.025" in text
    worse = result_lines(result([True, *none[1:]], none))
    assert worse[-1] == "Not better on the held-out tasks, so nothing was kept."


def test_a_card_of_an_odd_path_can_be_written(tmp_path: Path) -> None:
    text = card(result([False] * 9, [True] * 9, root="/code/sh\udcffop\n"))
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert "/code/sh\\udcffop\\n" in text.splitlines()[0] and "acc@1 after" in text
