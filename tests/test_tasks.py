"""The teacher-written tasks: form, splits, and checks against a tree."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from repoagent.errors import InputError
from repoagent.explore import RepoEnvironment, Task
from repoagent.repo import Repo
from training import corpus, tasks
from training.tasks import TeacherTask

ROW = {
    "id": "er-01", "repo": "own/er", "commit": "0" * 40, "licence": "MIT",
    "question": "where are retries set?",
    "kind": "where", "gold": ["src/net.py", "README.md"], "span": [2, 3], "answer": "In net.py.",
    "plan": "Look into src.", "why": "It sets them.",
    "distractors": [{"path": "src/log.py", "reflection": "Only logging."}],
}  # fmt: skip


def parse(**changes: object) -> TeacherTask:
    return TeacherTask.parse(json.dumps({**ROW, **changes}))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "net.py").write_text("import time\ndef retry():\n    return 3\n")
    (tmp_path / "src" / "log.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text("# er\n")
    return tmp_path


def normal(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.lower()))


def test_every_task_loads_and_agrees_with_the_manifest() -> None:
    known = {i.repo: i for i in corpus.load()}
    ids: set[str] = set()
    for split in corpus.SPLITS:
        loaded = tasks.load(split)
        assert len(loaded) > 19 * len(corpus.load(split))
        for task in loaded:
            item = known[task.repo]
            assert (task.commit, task.licence, split) == (item.commit, item.licence, item.split), task.id
            assert task.answer and task.plan and task.why and task.distractors and task.span, task.id
            assert not task.kind.startswith("mined") and not task.hide
            ids.add(task.id)
    # The repositories' names are different, so an id is one task's alone; a few were dropped.
    assert len(ids) == sum(len(tasks.load(split)) for split in corpus.SPLITS) >= 4600


def test_files_lie_in_the_split_of_their_repository() -> None:
    for item in corpus.load():
        assert {t.repo for t in tasks.read(tasks.TASKS / item.split / f"{item.folder}.jsonl")} == {item.repo}
    assert len(list(tasks.TASKS.glob("*/*.jsonl"))) == len(corpus.load()) == 168


def test_no_repository_and_no_question_is_in_two_splits() -> None:
    loaded = {split: tasks.load(split) for split in corpus.SPLITS}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for key in (lambda t: t.repo.lower(), lambda t: normal(t.question)):
            assert not {key(t) for t in loaded[a]} & {key(t) for t in loaded[b]}, (a, b)


def test_parse_keeps_everything() -> None:
    task = parse()
    assert task.task() == Task("where are retries set?", ("src/net.py", "README.md"), (2, 3), "er-01")
    assert task.distractors[0].path == "src/log.py" and task.distractors[0].reflection == "Only logging."


def test_mined_rows_parse() -> None:
    row = {k: v for k, v in ROW.items() if k not in ("answer", "plan", "why", "distractors")}
    row |= {"kind": "mined-doc", "span": None, "hide": [["src/net.py", 1, 2]], "source": "mined"}
    task = TeacherTask.parse(json.dumps(row))
    assert task.hide == (("src/net.py", 1, 2),) and task.span is None and task.source == "mined"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"span": [3, 2]}, "are no lines"),
        ({"span": [0, 2]}, "are no lines"),
        ({"span": [1]}, "values to unpack"),
        ({"gold": []}, "non-empty"),
        ({"question": " "}, "non-empty"),
        ({"kind": "riddle"}, "unknown kind 'riddle'"),
        ({"gold": ["../secret"]}, "no clean path"),
        ({"gold": ["/etc/passwd"]}, "no clean path"),
        ({"gold": ["src//net.py"]}, "no clean path"),
        ({"distractors": [{"path": "README.md", "reflection": "no"}]}, "both gold and distractor"),
        ({"hide": [["a", 2, 1]]}, "are no lines"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_rows_say_what_is_wrong(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(**changes)
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, **changes}) + "\n")
    with pytest.raises(InputError, match=r"t\.jsonl:2 is no task: .*; correct the line"):
        tasks.read(path)


def test_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="key 'gold' is missing"):
        TeacherTask.parse('{"id": "x"}')
    with pytest.raises(ValueError, match="licence"):
        TeacherTask.parse(json.dumps({k: v for k, v in ROW.items() if k != "licence"}))


def test_validate_against_a_tree(tree: Path) -> None:
    assert list(tasks.validate([parse()], tree)) == []
    problems = list(
        tasks.validate(
            [
                parse(gold=["src/gone.py"]),
                parse(gold=["src/net.py", "src"]),
                parse(distractors=[{"path": "lib", "reflection": "?"}]),
                parse(span=[3, 4]),
                parse(hide=[["src/log.py", 1, 2]]),
            ],
            tree,
        )
    )
    assert problems == [
        "er-01: gold file src/gone.py is not in the tree",
        "er-01: gold file src is not in the tree",
        "er-01: distractor lib is not in the tree",
        "er-01: lines 3-4 lie outside src/net.py, which has 3",
        "er-01: lines 1-2 lie outside src/log.py, which has 1",
    ]


def test_a_distractor_may_be_a_directory_and_a_gold_file_ignored(tree: Path) -> None:
    (tree / ".gitignore").write_text("net.py\n")
    assert list(tasks.validate([parse(distractors=[{"path": "src", "reflection": "?"}])], tree)) == []


def test_validate_corpus_says_which_trees_are_missing(tmp_path: Path) -> None:
    items = corpus.load("validation")[:2]
    assert list(tasks.validate_corpus(items, tmp_path)) == [
        f"{i.repo}: no tree at {tmp_path / i.folder}" for i in items
    ]


def test_the_environment_plays_a_task(tree: Path) -> None:
    env = RepoEnvironment(Repo.open(tree))
    env.reset(parse().task(), seed=0)
    result = None
    while result is None or not (result.terminated or result.truncated):
        result = env.step(env.oracle()[0])
    assert result.info["success"] is True


def test_datasheet_shows_the_counts_of_the_data() -> None:
    sheet = (corpus.DATA / "README.md").read_text()
    assert tasks.counts() in sheet, "run: repoagent train datasheet, and put its output into the datasheet"
