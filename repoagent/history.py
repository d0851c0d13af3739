"""``repoagent sessions``: what the terminal interface has kept, to list, search, show, export and delete."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repoagent.errors import InputError

if TYPE_CHECKING:
    from repoagent.session import Session

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The id, its beginning, or last for the newest.")
]

app = typer.Typer(help="The sessions that explore has kept: list, search, show, export or delete them.")


class Format(StrEnum):
    """What a session is exported as."""

    markdown = "markdown"
    json = "json"


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """The sessions that explore has kept: list, search, show, export or delete them."""
    if not context.invoked_subcommand:
        list_()


@app.command("list")
def list_() -> None:
    """List all sessions, the newest first."""
    _print(_all())


@app.command()
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS...", help="All of them must occur.")],
) -> None:
    """List the sessions with WORDS in a question, its answers or the repository's path."""
    from repoagent.session import search as searched

    _print(searched(_all(), " ".join(words)))


@app.command()
def show(session: IdArgument = "last") -> None:
    """Print a session as Markdown."""
    export(session)


@app.command()
def export(
    session: IdArgument = "last",
    format_: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.markdown,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write there instead of printing.")
    ] = None,
) -> None:
    """Print a session, or write it to a file, as Markdown or JSON."""
    from repoagent.session import as_json, load, markdown

    found = load(session)
    text = as_json(found) if format_ is Format.json else markdown(found)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}; name another file.") from error


@app.command()
def delete(
    session: Annotated[str, typer.Argument(metavar="ID", help="The id, its beginning, or last.")],
) -> None:
    """Delete a session."""
    from repoagent import session as sessions

    found = sessions.load(session)
    sessions.delete(found)
    print(f"deleted {found.id}")


def _all() -> list[Session]:
    from repoagent.session import load_all

    found, notes = load_all()
    for note in notes:
        print(f"repoagent: {note}", file=sys.stderr)
    return found


def _print(found: list[Session]) -> None:
    from repoagent.repo import display
    from repoagent.session import summary

    for session in found:
        print(f"{session.id}  {display(session.repo)}  {summary(session)}")
