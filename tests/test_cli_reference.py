"""docs/cli.md is what the commands say of themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from repoagent.reference import WIDTH, pages, render
from tests.test_cli import environment, run

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: make reference"


@pytest.mark.parametrize("columns", ["40", "300"])
def test_it_does_not_depend_on_the_terminal(tmp_path: Path, columns: str) -> None:
    made = tmp_path / "cli.md"
    plain = environment(COLUMNS=columns, TERM="dumb", FORCE_COLOR="1")
    subprocess.run([sys.executable, "-m", "repoagent.reference", str(made)], check=True, env=plain)
    assert made.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_every_command_is_there_with_what_its_help_says() -> None:
    found = dict(pages())
    listed = set(re.findall(r"^  ([a-z]+) ", run("--help").stdout.partition("Commands:")[2], re.MULTILINE))
    assert listed >= {"ask", "train"} and {f"repoagent {name}" for name in listed} < found.keys()
    assert {"repoagent bench taxi", "repoagent train bundled pack", "repoagent train rlft"} <= found.keys()
    for command in ("ask", "bench taxi", "train rlft"):
        shown = run(*command.split(), "--help", env=environment(COLUMNS=str(WIDTH + 2))).stdout
        assert " ".join(found[f"repoagent {command}"].split()) == " ".join(shown.split())
    assert "--steps N" in found["repoagent ask"] and "[default: 8" in found["repoagent ask"]
