"""Every command and option that the pages name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[list[str]]:
    """The command lines of ``repoagent`` in code blocks and in code spans."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(
        r"`(repoagent [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    )
    found = (shlex.split(line, comments=True) for line in lines if line.startswith("repoagent "))
    return [line for line in found if line[1:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    from repoagent.cli import app
    from training.cli import app as training
    from training.cli_tune import PathOrCommand

    for line in commands(page.read_text(encoding="utf-8")):
        command: Any = get_command(app)
        words = line[1:]
        while words and hasattr(command, "commands") and re.fullmatch(r"[a-z][a-z-]*", words[0]):
            assert words[0] in command.commands, shlex.join(line)
            is_train = command.commands[words[0]].name == "train"
            command = get_command(training) if is_train else command.commands[words[0]]
            words = words[1:]
        if isinstance(command, PathOrCommand) and words and not words[0].startswith("-"):
            command = command.commands["repository"]  # a path
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        options = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert options <= known, shlex.join(line)


def test_commands_are_found_in_blocks_and_spans() -> None:
    text = "Run `repoagent doctor`:\n```sh\nrepoagent ask 'a b' x  # so\nmake test\n```\n`repoagent` alone.\n"
    assert commands(text) == [["repoagent", "ask", "a b", "x"], ["repoagent", "doctor"]]
