"""What `repoagent eval` and `repoagent bench autoexplore` share: arguments to systems, rows to reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.autoexplore import evaluate
from benchmarks.autoexplore.evaluate import Question, Row, System
from benchmarks.table import check_output, provenance, write
from repoagent.explore import ExploreConfig
from repoagent.models import load_players


def prepare(
    tasks: list[Path], trees: Path, output: list[Path] | None
) -> tuple[list[Question], dict[str, Path], list[Path]]:
    """What can be wrong with the arguments is found before a model is loaded."""
    for file in output or []:
        check_output(file)
    questions = evaluate.read_tasks(tasks)
    return questions, evaluate.find_trees(questions, trees), output or []


def agent(policy: str, reflector: str, steps: int, top: int, seed: int) -> tuple[System, dict[str, Any]]:
    """The agent with the players of these names, and the settings that a report shows."""
    players = load_players(policy, reflector)
    settings = {"steps": steps, "policy": players[0].name, "reflector": players[1].name}
    return evaluate.agent(*players, ExploreConfig(horizon=steps), top, seed), settings


def measure(
    systems: dict[str, System],
    questions: list[Question],
    trees: dict[str, Path],
    settings: dict[str, Any],
    seed: int,
    output: list[Path],
    as_json: bool,
) -> None:
    """Run every system, print the figures and write them to ``output``."""
    rows: dict[str, list[Row]] = {}
    live = sys.stderr.isatty()
    for name, system in systems.items():

        def progress(message: str, name: str = name) -> None:
            print(f"{name} {message}", file=sys.stderr, end="\x1b[K\r" if live else "\n", flush=True)

        rows[name] = evaluate.run(questions, trees, system, progress)
        if live:
            print(file=sys.stderr)
    made = provenance(settings, seed)
    body, data = evaluate.report(rows, settings["top"], seed), evaluate.as_data(rows, settings["top"], seed)
    print(json.dumps({**data, "made": made}, indent=1) if as_json else body, end="\n" if as_json else "")
    for file in output:
        write(file, "AutoExplore", made, body, data)
