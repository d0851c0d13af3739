"""What is read of a history and of files, whatever state they are in, and how tasks are split."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from repoagent.repo import Repo
from tests.tune_helpers import git, make_repository
from training import tune_tasks
from training.tune_tasks import Moved, Similar, fingerprint, gather, head, history, split


def write(tree: Path, name: str | bytes, text: str) -> None:
    path = Path(os.fsdecode(os.fsencode(tree) + b"/" + os.fsencode(name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def commit(tree: Path, said: str, **files: str) -> None:
    for name, text in files.items():
        write(tree, f"{name}.py", text)
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "--allow-empty", "-m", said)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    return root


def told(tree: Path, *files: str) -> dict[str, tuple[str, ...]]:
    return {c.subject: c.files for c in history(tree, files)}


# -- history -----------------------------------------------------------------------------------


def test_the_newest_commit_has_the_age_0_and_names_todays_files(tree: Path) -> None:
    commit(tree, "Add both", one="1", two="2")
    commit(tree, "Change one, drop two", one="11", two="")
    commits = history(tree, ["one.py"])
    assert [(c.age, c.subject) for c in commits] == [(0, "Change one, drop two"), (1, "Add both")]
    assert all(c.files == ("one.py",) for c in commits)


def test_merges_say_nothing_and_what_they_bring_is_kept(tree: Path) -> None:
    commit(tree, "Begin", one="1")
    git(tree, "checkout", "-q", "-b", "side")
    commit(tree, "On the side", two="2")
    git(tree, "checkout", "-q", "main")
    commit(tree, "On the main line", one="11")
    git(tree, "merge", "-q", "--no-ff", "-m", "Merge the side", "side")
    assert told(tree, "one.py", "two.py") == {
        "Begin": ("one.py",), "On the side": ("two.py",), "On the main line": ("one.py",),
    }  # fmt: skip


def test_a_commit_that_changes_much_or_nothing_names_no_file(tree: Path) -> None:
    many = {f"m{i}": str(i) for i in range(13)}
    commit(tree, "Add thirteen", **many)
    commit(tree, "Nothing at all")
    commit(tree, "Change one", m0="new")
    found = told(tree, *(f"{name}.py" for name in many))
    assert found == {"Add thirteen": (), "Change one": ("m0.py",)}


def test_a_folder_of_a_repository_has_the_history_of_its_own_files(tree: Path) -> None:
    write(tree, "below/a.py", "1")
    commit(tree, "Add what is below")
    for number in range(5):
        commit(tree, f"Elsewhere {number}", top=str(number))
    write(tree, "below/a.py", "2")
    commit(tree, "Change both", top="both")
    commits = history(tree / "below", ["a.py"])
    assert [(c.age, c.subject, c.files) for c in commits] == [
        (0, "Change both", ("a.py",)), (1, "Add what is below", ("a.py",)),
    ]  # fmt: skip
    assert head(tree / "below") == head(tree) == git(tree, "rev-parse", "HEAD").strip()
    (tree / "new").mkdir()
    assert history(tree / "new", ["a.py"]) == [], "a folder that git does not know"


@pytest.mark.parametrize(
    "name", ["with space.py", "grün.py", 'quo"te.py', "tab\there.py", b"byte\xff.py", "日本.py"]
)
def test_odd_names_are_read_as_they_are(tree: Path, name: str | bytes) -> None:
    write(tree, name, "1")
    commit(tree, "Add it")
    assert told(tree, os.fsdecode(name)) == {"Add it": (os.fsdecode(name),)}


def test_subjects_in_another_encoding_are_read(tree: Path) -> None:
    git(tree, "config", "i18n.logOutputEncoding", "ISO-8859-1")
    git(tree, "config", "color.ui", "always")
    commit(tree, "Grüße zählen", one="1")
    assert told(tree, "one.py") == {"Grüße zählen": ("one.py",)}


def test_a_shallow_clone_has_what_it_has(tree: Path, tmp_path: Path) -> None:
    for number in range(4):
        commit(tree, f"Step {number}", one=str(number))
    git(tmp_path, "clone", "-q", "--depth", "2", f"file://{tree}", "shallow")
    assert list(told(tmp_path / "shallow", "one.py")) == ["Step 3", "Step 2"]


def test_a_detached_head_is_where_the_history_begins(tree: Path) -> None:
    commit(tree, "First", one="1")
    commit(tree, "Second", one="2")
    git(tree, "checkout", "-q", "HEAD~1")
    assert list(told(tree, "one.py")) == ["First"]


def test_without_a_commit_or_without_its_files_there_is_nothing(tree: Path, tmp_path: Path) -> None:
    assert history(tree, ["one.py"]) == [] and head(tree) == ""
    commit(tree, "First", one="1")
    git(tmp_path, "clone", "-q", "--bare", str(tree), "bare.git")
    bare = tmp_path / "bare.git"
    own = [e.path for e in Repo.open(bare).files()]
    assert own and not any(c.files for c in history(bare, own))
    assert not any("age" in row for row in gather(bare, 0, 500).held_out)


def test_a_submodule_has_its_own_history(tree: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "-q", "-b", "main")
    commit(inner, "Inside", part="1")
    commit(tree, "Outside", one="1")
    git(tree, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "sub")
    git(tree, "commit", "-q", "-m", "Take it in")
    assert told(tree, "one.py", "sub/part.py") == {"Outside": ("one.py",), "Take it in": ()}
    assert told(tree / "sub", "part.py") == {"Inside": ("part.py",)}


def test_what_git_sets_for_a_hook_leads_nowhere_else(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(tree, "Here", one="1")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    assert list(told(tree, "one.py")) == ["Here"]


def test_without_git_the_files_alone_serve(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit(tree, "Here", one="1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert history(tree, ["one.py"]) == [] and head(tree) == ""


def test_git_that_takes_too_long_is_not_waited_for(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nprintf '\\001Here\\003\\n\\0one.py\\0'\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(slow.parent), prepend=os.pathsep)
    monkeypatch.setattr(tune_tasks, "PATIENCE", 1.0)
    assert told(tree, "one.py") == {"Here": ("one.py",)}, "what came by then is taken"


def test_a_file_that_moved_is_found_again(tree: Path) -> None:
    write(tree, "old/core.py", "1")
    commit(tree, "Add the core")
    git(tree, "mv", "old", "src")
    git(tree, "commit", "-q", "-m", "Move it")
    assert told(tree, "src/core.py") == {"Add the core": ("src/core.py",), "Move it": ("src/core.py",)}


def test_moved_compares_whole_names_of_folders() -> None:
    moved = Moved(["src/zlib/io.py", "src/lib/io.py", "top/setup.py"])
    assert moved.now("lib/io.py") == "src/lib/io.py", "zlib ends like lib and is another folder"
    assert moved.now("io.py") is None and moved.now("else/io.py") is None
    assert moved.now("tools/setup") is None, "the name alone is no file without its ending"
    assert moved.now("top/setup.cfg") == "top/setup.py"


# -- the split ---------------------------------------------------------------------------------


def rows(files: int, each: int) -> list[dict[str, Any]]:
    """Tasks of made-up files; no two share a word."""
    return [
        {"kind": "mined-doc", "question": f"qu{chr(97 + f // 26)}{chr(97 + f % 26)}x word{'i' * (n + 1)}x",
         "gold": [f"f{f}.py"]}
        for f in range(files)
        for n in range(each)
    ]  # fmt: skip


def commits(count: int) -> list[dict[str, Any]]:
    letters = "bcdfghjklmnpqrstvwxz"
    return [
        {"kind": "mined-commit", "question": f"{letters[a % 20] * 4} {letters[a // 20] * 5}", "age": a,
         "gold": ["f0.py"]}
        for a in range(count)
    ]  # fmt: skip


def test_files_are_on_one_side_and_commits_by_time() -> None:
    tasks = split(rows(40, 3), commits(60), random.Random(0), 500)
    rest = [*tasks.train, *tasks.validation]
    files = [{r["gold"][0] for r in part if "age" not in r} for part in (tasks.held_out, rest)]
    assert all(files) and not files[0] & files[1]
    ages = [[r["age"] for r in part if "age" in r] for part in (tasks.held_out, rest)]
    assert all(ages) and max(ages[0]) < min(ages[1])
    assert 0.25 <= len(tasks.held_out) / 180 <= 0.35
    assert 0.1 <= len(tasks.validation) / len(rest) <= 0.2


def test_no_more_is_held_out_or_trained_on_than_the_limits() -> None:
    tasks = split(rows(300, 4), commits(100), random.Random(0), 100)
    assert tune_tasks.HELD_OUT <= len(tasks.held_out) <= tune_tasks.HELD_OUT + 4
    assert len(tasks.train) + len(tasks.validation) == 100


def test_a_file_with_most_of_the_tasks_is_not_held_out() -> None:
    many = [
        {"kind": "mined-doc", "question": f"{'x' * n}y zz{'a' * n}", "gold": ["big.py"]} for n in range(2, 42)
    ]
    for seed in range(5):
        tasks = split([*many, *rows(20, 1)], [], random.Random(seed), 500)
        assert tasks.held_out and not any(r["gold"] == ["big.py"] for r in tasks.held_out)


def test_what_is_asked_nearly_alike_is_never_on_both_sides() -> None:
    twins = [
        {"kind": "mined-doc", "question": "archive the ledgers of customers", "gold": [f"f{i}.py"]}
        for i in range(10)
    ]
    tasks = split([*twins, *rows(20, 2)], [], random.Random(1), 500)
    rest = [*tasks.train, *tasks.validation]
    same = Similar(r["question"] for r in tasks.held_out)
    assert not any(same.holds(r["question"]) for r in rest)
    assert Counter(r in rest for r in twins)[True] in (0, 10)


def test_only_history_or_only_files_will_do() -> None:
    for written, said in (([], commits(50)), (rows(20, 2), [])):
        tasks = split(written, said, random.Random(0), 500)
        assert tasks.held_out and tasks.validation and tasks.train


def test_nothing_gives_nothing() -> None:
    tasks = split([], [], random.Random(0), 500)
    assert tasks.held_out == tasks.validation == tasks.train == []


def test_large_and_binary_files_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_repository(tmp_path / "shop", history=False)
    everything = gather(tree, 0, 500)
    (tree / "large.py").write_text('def f():\n    """Weighs the largest of all elephants."""\n' * 10_000)
    (tree / "binary.py").write_bytes(b"\0" * 100)
    assert gather(tree, 0, 500).held_out == everything.held_out
    monkeypatch.setattr(tune_tasks, "_TEXT_LIMIT", (tree / "shop" / "search.py").stat().st_size + 200)
    few = gather(tree, 0, 500)
    golds = {r["gold"][0] for part in (few.train, few.validation, few.held_out) for r in part}
    assert len(golds) == 1, "no more files than fit"


def test_a_fingerprint_reads_names_that_are_no_utf_8(tmp_path: Path) -> None:
    write(tmp_path, b"byte\xff.py", "1")
    first = fingerprint(tmp_path, "a")
    write(tmp_path, b"byte\xff.py", "2")
    assert fingerprint(tmp_path, "a") != first
