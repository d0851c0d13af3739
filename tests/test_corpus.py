"""The manifest, and cloning from real repositories on disk through git."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from repoagent.errors import InputError
from training import corpus
from training.cli import app
from training.corpus import CorpusRepo

ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    return done.stdout.strip()


def commit(folder: Path, name: str, text: str, subject: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", subject)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def origin(tmp_path: Path) -> tuple[str, list[str]]:
    """URL of a host with the repository own/er of four commits, and their shas."""
    work = tmp_path / "host" / "own" / "er.git"
    work.mkdir(parents=True)
    git(work, "init", "-q")
    shas = [commit(work, "a.txt", f"{n}\n", f"number {n}") for n in range(4)]
    return (tmp_path / "host").as_uri(), shas


def item(sha: str) -> CorpusRepo:
    return CorpusRepo("own/er", sha, "MIT", "train", "Python")


def test_manifest_is_whole() -> None:
    items = corpus.load()
    assert len({i.repo.lower() for i in items}) == len({i.folder for i in items}) == len(items) == 168
    for i in items:
        assert i.repo.count("/") == 1
        assert len(i.commit) == 40 and set(i.commit) <= set("0123456789abcdef")
        assert i.licence and i.language
    assert [len(corpus.load(s)) for s in corpus.SPLITS] == [116, 20, 32]


def test_every_larger_language_is_in_train_and_test() -> None:
    def languages(split: corpus.Split) -> list[str]:
        return [i.language for i in corpus.load(split)]

    everywhere = [i.language for i in corpus.load()]
    for language in {x for x in everywhere if everywhere.count(x) >= 3}:
        assert language in languages("train") and language in languages("test")


@pytest.mark.parametrize("line", ["{", "[]", '{"repo": "a/b"}', '{"repo": "a/b", "no": 1}'])
def test_broken_manifest_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        json.dumps({"repo": "a/b", "commit": "0", "licence": "MIT", "split": "train", "language": "C"})
    )
    with path.open("a") as file:
        file.write("\n" + line + "\n")
    with pytest.raises(InputError, match=r"corpus\.jsonl:2"):
        corpus.load(manifest=path)


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        json.dumps({"repo": "a/b", "commit": "0", "licence": "MIT", "split": "dev", "language": "C"})
    )
    with pytest.raises(InputError, match="unknown split 'dev'"):
        corpus.load(manifest=path)


def test_clone_fetches_exactly_that_commit(tmp_path: Path, origin: tuple[str, list[str]]) -> None:
    host, shas = origin
    said: list[str] = []
    assert corpus.clone([item(shas[2])], tmp_path / "trees", host=host, report=said.append) == []
    tree = tmp_path / "trees" / "own__er"
    assert (tree / "a.txt").read_text() == "2\n"
    assert corpus.head(tree) == shas[2]
    assert git(tree, "rev-list", "--count", "HEAD") == "1"
    assert said == [f"own/er: {shas[2][:12]}"]


def test_clone_again_keeps_and_deepens(tmp_path: Path, origin: tuple[str, list[str]]) -> None:
    host, shas = origin
    trees = tmp_path / "trees"
    corpus.clone([item(shas[3])], trees, host=host, report=str)
    (trees / "own__er" / "mark").write_text("kept")
    said: list[str] = []
    assert corpus.clone([item(shas[3])], trees, host=host, report=said.append) == []
    assert said == ["own/er: there already"]
    assert corpus.clone([item(shas[3])], trees, host=host, history=2, report=said.append) == []
    assert git(trees / "own__er", "rev-list", "--count", "HEAD") == "3"
    # More history than there is: the second run must see that it is all there.
    for _ in range(2):
        assert corpus.clone([item(shas[3])], trees, host=host, history=50, report=said.append) == []
    assert said[-1] == "own/er: there already"
    assert (trees / "own__er" / "mark").read_text() == "kept"


def test_clone_resumes_after_an_interruption(tmp_path: Path, origin: tuple[str, list[str]]) -> None:
    host, shas = origin
    partial = tmp_path / "trees" / "own__er.partial"
    partial.mkdir(parents=True)
    (partial / "half").write_text("half")
    assert corpus.clone([item(shas[0])], tmp_path / "trees", host=host, report=str) == []
    assert not partial.exists()
    assert not (tmp_path / "trees" / "own__er" / "half").exists()


def test_clone_refuses_what_is_not_its_own(tmp_path: Path, origin: tuple[str, list[str]]) -> None:
    host, shas = origin
    tree = tmp_path / "trees" / "own__er"
    tree.mkdir(parents=True)
    (tree / "mine.txt").write_text("precious")
    (error,) = corpus.clone([item(shas[0])], tmp_path / "trees", host=host, report=str)
    assert "move it away" in error and "\n" not in error
    assert (tree / "mine.txt").read_text() == "precious"


def test_clone_reports_each_failure_in_one_line(tmp_path: Path, origin: tuple[str, list[str]]) -> None:
    host, shas = origin
    items = [replace(item(shas[0]), repo="no/body"), item("0" * 40), item(shas[1])]
    errors = corpus.clone(items, tmp_path / "trees", host=host, jobs=1, report=str)
    assert len(errors) == 2 and all("\n" not in e and "run again" in e for e in errors)
    assert errors[0].startswith("cannot fetch no/body")
    assert corpus.head(tmp_path / "trees" / "own__er") == shas[1]


def test_clone_offline_says_so(tmp_path: Path) -> None:
    (error,) = corpus.clone([item("0" * 40)], tmp_path, host="http://127.0.0.1:9", report=str)
    assert "the host cannot be reached; check the network" in error


def test_verify_sees_another_commit(tmp_path: Path, origin: tuple[str, list[str]]) -> None:
    host, shas = origin
    corpus.clone([item(shas[0])], tmp_path / "trees", host=host, report=str)
    assert list(corpus.verify([item(shas[0])], tmp_path / "trees")) == []
    (problem,) = corpus.verify([item(shas[1])], tmp_path / "trees")
    assert f"is at {shas[0][:12]} instead of {shas[1][:12]}" in problem


def test_verify_is_not_misled_by_a_repository_around_the_trees(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    commit(tmp_path, "x", "x", "around")
    (tmp_path / "trees" / "own__er").mkdir(parents=True)
    assert list(corpus.verify([item("0" * 40)], tmp_path / "trees")) == []


def test_commands() -> None:
    run = CliRunner()
    listed = run.invoke(app, ["corpus", "list", "--split", "validation"])
    assert listed.exit_code == 0
    rows = [line.split("\t") for line in listed.output.splitlines()]
    assert [(r[0], len(r)) for r in rows] == [("validation", 5)] * 20
    assert run.invoke(app, ["corpus", "list", "--split", "dev"]).exit_code == 2
    unknown = run.invoke(app, ["corpus", "clone", "--dest", "x", "--repo", "no/body"])
    assert isinstance(unknown.exception, InputError) and "not in the corpus" in str(unknown.exception)


def test_clone_command_exits_2_and_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "repoagent", "train", "corpus", "clone", "--dest", str(tmp_path / "t"),
         "--repo", "pallets/click", "--host", (tmp_path / "nowhere").as_uri()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    first, last = done.stderr.strip().splitlines()
    assert first.startswith("cannot fetch pallets/click: ")
    assert last.endswith("1 of 1 repositories are missing; run the command again.")
