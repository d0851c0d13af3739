"""docs/cli.md: every command as its ``--help`` has it. Written by ``make reference``, a test holds it equal.

python -m repoagent.reference docs/cli.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from repoagent.cli import app
from training.cli import app as training

WIDTH = 100
"""Columns of the help, whatever terminal it is made on."""
HEAD = """# Command line

Made by `make reference` from the commands themselves: what `--help` says of each.
"""


def pages() -> Iterator[tuple[str, str]]:
    """(command as it is typed, its help) of every command, in the order of the help."""
    yield from _pages(get_command(app), "repoagent", None)


def _pages(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    # As Click makes it, but for the width: the class of a context lies elsewhere in every version of Typer.
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, **command.context_settings
    )
    yield context.command_path, command.get_help(context)
    for child, found in getattr(command, "commands", {}).items():
        if child == "train":  # hands its arguments on to an application of its own
            yield from _pages(get_command(training), f"{name} train", None)
        else:
            yield from _pages(found, child, context)


def render() -> str:
    """The page."""
    parts = [HEAD]
    for name, text in pages():
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        parts.append(f"## {name}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
