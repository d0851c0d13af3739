"""What a .gitignore hides, compared with the git binary itself."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from repoagent.ignore import Ignore
from repoagent.repo import Repo

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git")
FOLDERS = ("", "a/", "a/b/", "a/b/c/", "ab/", ".d/", "a/-x/", "é/", "a/b/c/a/b/c/")
NAMES = ("a", "b", "abc", "x.py", "x.pyc", ".e", " s", "t ", "#h", "!n", "a[1]", "*", "é", "b\\", "ab\n")
ATOMS = (
    *("a", "b", "ab", "c", "x", ".py", "*", "**", "/", "?", "***", "**/", "/**", "/*", "-", "é", "."),
    *("[ab]", "[!a]", "[^b]", "[a-c]", "[]a]", "[[:alpha:]]", "[[:digit:]x]", "[b-a]", "[a", "[!]a]"),
    *("\\", "\\a", "\\*", "\\ ", " ", "!", "#", "\\!", "\\#", "\\/", "[/]", "[[:no:]]", "\t"),
)
pattern = st.lists(st.sampled_from(ATOMS), min_size=1, max_size=6).map("".join)
line = st.one_of(pattern, pattern.map("!{}".format), st.just(""), st.just("# comment"))
file = st.builds(
    lambda lines, end: end.join([*lines, ""]),
    st.lists(line, min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ignore")
    git(root, "init", "-q")
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        for name in NAMES:
            if not (root / folder / name).exists():
                (root / folder / name).touch()
    os.close(os.open(os.fsencode(root) + b"/a/\xff.py", os.O_CREAT))
    return root


def git(root: Path, *arguments: str) -> bytes:
    alone = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(root)}
    return subprocess.run(
        ["git", "-c", "core.excludesFile=", "-C", root, *arguments],
        env=alone,
        capture_output=True,
        check=True,
    ).stdout


def untracked(root: Path) -> set[str]:
    listed = git(root, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
    return {os.fsdecode(path) for path in listed if path}


@needs_git
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(files=st.dictionaries(st.sampled_from(FOLDERS), file, min_size=1, max_size=4))
@example(files={"": "*\n!*/\n!*.py\n", "a/": "!abc\nx.py\n"})
@example(files={"": "/a/*\n!/a/b/\n", "a/b/": "c/\n!x.pyc\n"})
@example(files={"": "a/\n", "a/": "!*\n"})
@example(files={"": "\ufeffabc\n*.py[co]\n"})
@example(files={"": "a/b**/c\n**/b/**/x.py\nab**/c"})
def test_files_are_those_that_git_lists(tree: Path, files: dict[str, str]) -> None:
    for folder, text in files.items():
        (tree / folder / ".gitignore").write_text(text, encoding="utf-8", newline="")
    try:
        seen = {entry.path for entry in Repo.open(tree).files()}
        assert seen == untracked(tree)
    finally:
        for folder in files:
            (tree / folder / ".gitignore").unlink()


@needs_git
def test_a_linked_gitignore_counts_as_little_as_in_git(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "rules").write_text("secret\n")
    (tmp_path / "secret").touch()
    (tmp_path / ".gitignore").symlink_to("rules")
    assert {e.path for e in Repo.open(tmp_path).files()} | {".gitignore"} == untracked(tmp_path)


@pytest.mark.parametrize(
    "hostile",
    ["*a" * 40 + "b", "**/a/" * 40 + "b", "*a*/" * 20 + "**/*a*a*a*b", "[" * 3000, "\\" * 3001, "?" * 3000],
    ids=["stars", "double stars", "both", "brackets", "backslashes", "question marks"],
)
def test_no_pattern_takes_long(hostile: str) -> None:
    ignore = Ignore([hostile.encode()])
    start = time.process_time()
    for path in (b"a" * 255, b"/".join([b"a"] * 1000), b"/".join([b"a" * 250] * 16)):
        ignore.verdict(path, False)
    assert time.process_time() - start < 1


def test_the_number_of_patterns_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repoagent.repo.PATTERN_LIMIT", 50)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".gitignore").write_text("x\n" * 30 + "late\n")
        (tmp_path / folder / "x").touch()
        (tmp_path / folder / "late").touch()
    shown = {e.path for e in Repo.open(tmp_path).files()}
    assert not shown & {"a/x", "a/late", "b/x"}
    assert "b/late" in shown


def test_what_lies_in_an_ignored_directory_is_no_visible_entry(tmp_path: Path) -> None:
    (tmp_path / "build/deep").mkdir(parents=True)
    (tmp_path / "build/deep/x").touch()
    repo = Repo.open(tmp_path)
    assert repo.entry("build/deep/x")
    (tmp_path / ".gitignore").write_text("build\n")
    repo = Repo.open(tmp_path)
    assert repo.entry("build/deep/x") is None
    assert repo.entry(".gitignore")
