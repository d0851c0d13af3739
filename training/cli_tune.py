"""``repoagent train PATH``: the policy fine-tuned on one repository, by one command."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from repoagent.repo import display

REPOSITORY = "repository"
"""The command that a path stands for."""


class PathOrCommand(TyperGroup):
    """A group whose first argument may be a path instead of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As of the group; ``PATH ...`` and options of that command are read as ``repository PATH ...``."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [REPOSITORY, *args]
        return super().parse_args(ctx, args)


def repository(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The repository's folder.")],
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="Time for everything.")] = 30.0,
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher", metavar="openai:BASE_URL#MODEL", help="A chat model that asks more questions."
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, the expected time and memory; change nothing.")
    ] = False,
    epochs: Annotated[
        float, typer.Option("--epochs", min=0.0, help="Times that each task is learnt from at most.")
    ] = 4.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the split and of the training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tune the bundled policy for the repository at PATH, and use it there if it is better.

    Tasks are mined from doc comments, documents, settings and the git history, with the corrections stored
    in explore. The policy is fine-tuned (SFT, then RLFT) and measured before and after on tasks
    held out; only a model that is better is registered, and then used for questions about PATH. Nothing
    leaves this machine unless a teacher is named, who is sent pieces of the files. Exit code 1: not better.
    """
    started = time.monotonic()
    from training import tune
    from training.tune_fit import FitSettings
    from training.tune_report import plan_lines, result_lines

    def report(message: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {display(message)}", file=sys.stderr, flush=True)

    plan = tune.plan(path, minutes, seed, teacher, dry_run, report)
    if dry_run:
        entry = plan.entry()
        print(json.dumps(entry, indent=2) if as_json else "\n".join(plan_lines(entry)))
        return
    result = tune.train(plan, started, FitSettings(epochs=epochs), report)
    entry = result.entry()
    print(json.dumps(entry, indent=2) if as_json else "\n".join(result_lines(entry)))
    if result.kept is None:
        raise typer.Exit(1)
