"""Text that comes with a question: what of it counts, where it is read, and that it changes the answer."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from repoagent.assistant import Assistant, Widened
from repoagent.context import LIMIT, NAMES, changed_files, names, read
from repoagent.errors import InputError
from repoagent.repo import Repo
from tests.test_cli import RANDOM, command, environment, one_line, run

QUESTION = "Which test covers this?"
MODULES = ("cart", "session", "invoice", "shipping")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shop")
    (root / "shop").mkdir()
    (root / "tests").mkdir()
    for name in MODULES:
        (root / f"shop/{name}.py").write_text(
            f"def {name}_total(items):\n    amount = sum(items)\n    return amount\n"
        )
        (root / f"tests/test_{name}.py").write_text(
            f"from shop.{name} import {name}_total\n\n\n"
            f"def test_total():\n    assert {name}_total([1, 2]) == 3\n"
        )
    (root / "README.md").write_text("# Shop\n")
    return root


def diff(name: str, folder: str = "") -> str:
    path = f"{folder}shop/{name}.py"
    return (
        f"diff --git a/{path} b/{path}\nindex 1a2b3c..4d5e6f 100644\n--- a/{path}\n+++ b/{path}\n"
        f"@@ -1,3 +1,3 @@ def {name}_total(items):\n"
        f" def {name}_total(items):\n-    amount = sum(items)\n+    amount = round(sum(items), 2)\n"
        "     return amount\n"
    )


def traceback(name: str) -> str:
    return (
        'Traceback (most recent call last):\n  File "/srv/app/main.py", line 3, in <module>\n    main()\n'
        f'  File "/srv/app/shop/{name}.py", line 2, in {name}_total\n    amount = sum(items)\n'
        "TypeError: unsupported operand type(s) for +: 'int' and 'str'\n"
    )


# -- what counts -------------------------------------------------------------------------------


def test_names_are_of_files_that_are_there_and_rare_identifiers(root: Path) -> None:
    repo = Repo.open(root)
    assert names(diff("invoice"), repo)[:2] == ["invoice", "invoice_total"]
    found = names(traceback("cart"), repo)
    assert found[:2] == ["cart", "cart_total"]
    assert "main" not in found and "TypeError" not in found  # neither is in the repository
    assert names("nothing of this is there", repo) == []
    assert names("", repo) == []


def test_a_context_of_one_endless_word_or_path_is_no_work(root: Path) -> None:
    started = time.process_time()
    for text in ("a" * LIMIT, "a/" * LIMIT, "." * LIMIT, "a.b" * LIMIT, "+" * LIMIT, "--- \n@@ " * LIMIT):
        names(text, Repo.open(root))
        changed_files(text, Repo.open(root))
    assert time.process_time() - started < 5


def test_names_are_few_and_the_end_of_a_long_context_does_not_count(root: Path) -> None:
    repo = Repo.open(root)
    every = " ".join(f"{name}.py {name}_total amount items test_total" for name in MODULES)
    assert len(names(every, repo)) <= NAMES
    assert names("x " * LIMIT + every, repo) == []


@pytest.mark.parametrize("folder", ["", "services/web/"])
def test_a_diff_changes_files_a_traceback_does_not(root: Path, folder: str) -> None:
    repo = Repo.open(root)
    assert changed_files(diff("cart", folder) + diff("session", folder), repo) == (
        "shop/cart.py",
        "shop/session.py",
    )
    assert changed_files(traceback("cart"), repo) == ()
    assert changed_files(diff("nowhere"), repo) == ()


def test_a_path_of_the_diff_is_not_taken_for_a_like_named_file_elsewhere(root: Path) -> None:
    text = diff("cart") + diff("cart").replace("shop/cart.py", "docs/README.md")
    assert changed_files(text, Repo.open(root)) == ("shop/cart.py",)


def test_a_repository_is_not_left_without_files(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/cart.py").write_text("def cart_total(): ...\n")
    assert changed_files(diff("cart"), Repo.open(tmp_path)) == ()


# -- that it matters ---------------------------------------------------------------------------


def test_the_same_question_is_answered_by_what_comes_with_it(root: Path) -> None:
    assistant = Assistant("encoder", "none")
    for name in MODULES:
        events: list[Any] = []
        found = assistant.ask(QUESTION, root, context=diff(name), watch=events.append)
        assert found.answers[0].path == f"tests/test_{name}.py"
        assert found.question == QUESTION
        assert f"shop/{name}.py" not in [answer.path for answer in found.answers]
        (widened,) = (event for event in events if isinstance(event, Widened))
        assert widened.names[0] == name and widened.left_out == (f"shop/{name}.py",)
        asked = "Where does this come from?"
        assert assistant.ask(asked, root, context=traceback(name)).answers[0].path == f"shop/{name}.py"
    without = [assistant.ask(QUESTION, root, context=text) for text in ("", " \n", lambda: "")]
    assert len({one.answers for one in without}) == 1


# -- where it is read --------------------------------------------------------------------------


def steps(stdout: str) -> str:
    return json.dumps(json.loads(stdout)["steps"])


def ask(root: Path, *more: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    return run("ask", QUESTION, root, *RANDOM, *more, **streams)


def test_a_pipe_and_a_file_are_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "diff").write_text(diff("session"))
    note = "looking for session, session_total"
    assert note in ask(root, input=diff("session")).stderr
    assert note in ask(root, "--context", str(tmp_path / "diff"), stdin=subprocess.DEVNULL).stderr
    assert note in ask(root, "--context", "-", input=diff("session")).stderr
    with (tmp_path / "diff").open() as file:
        assert note in ask(root, stdin=file).stderr
    result = ask(root, "--json", "--quiet", input=diff("session"))
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert list(data) == ["question", "repo", "answers", "steps", "model", "files_read", "seconds"]
    assert data["question"] == QUESTION


def test_no_context_is_none(root: Path) -> None:
    for streams in ({"stdin": subprocess.DEVNULL}, {"input": ""}, {"preexec_fn": lambda: os.close(0)}):
        result = ask(root, **streams)
        assert result.returncode == 0, result.stderr
        assert "looking for" not in result.stderr and "`" not in result.stdout
    assert "looking for" not in ask(root, input="\0\1binary cart_total").stderr


def test_a_file_that_somebody_has_begun_to_read_is_left_to_them(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("first line\n" + diff("session"))
    with (tmp_path / "list").open("rb", buffering=0) as file:
        file.read(len("first line\n"))
        assert "looking for" not in ask(root, stdin=file).stderr
        assert file.read(5) == diff("session").encode()[:5]


@pytest.mark.parametrize("written", [b"", diff("cart").encode()])
def test_a_pipe_that_stays_open_does_not_block(root: Path, written: bytes) -> None:
    inherited, writer = os.pipe()
    try:
        os.write(writer, written)
        started = time.monotonic()
        result = ask(root, stdin=inherited, timeout=30)
        assert time.monotonic() - started < 20
    finally:
        os.close(inherited)
        os.close(writer)
    assert result.returncode == 0
    assert ("looking for cart" in result.stderr) == bool(written)


def test_a_pipe_without_end_does_not_block(root: Path) -> None:
    with subprocess.Popen(["yes", "cart_total"], stdout=subprocess.PIPE) as endless:
        result = ask(root, stdin=endless.stdout, timeout=30)
        endless.terminate()
    assert result.returncode == 0 and "looking for cart_total too" in result.stderr


def test_the_writer_may_take_its_time_where_standard_input_is_named(root: Path) -> None:
    process = subprocess.Popen(
        command("ask", QUESTION, root, *RANDOM, "--context", "-"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdin
    process.stdin.write("cart_total ")
    process.stdin.flush()
    time.sleep(1.2)
    _, error = process.communicate("session_total\n", timeout=30)
    assert "looking for cart_total, session_total too" in error


def test_a_context_that_cannot_be_read_is_one_line_and_exit_2(root: Path, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    for name, message in (("nothing", "no such file"), ("binary", "is no text"), ("", "is a directory")):
        result = ask(root, "--context", str(tmp_path / name))
        assert (result.returncode, result.stdout) == (2, "")
        assert message in one_line(result)
    with pytest.raises(InputError):
        read(str(tmp_path / "nothing"))
