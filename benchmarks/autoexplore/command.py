"""What `repoagent eval` and `repoagent bench autoexplore` share: arguments to systems, rows to reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.autoexplore import evaluate
from benchmarks.autoexplore.baselines import BASELINES
from benchmarks.autoexplore.evaluate import Question, Row, System
from benchmarks.table import check_output, provenance, write
from repoagent.errors import InputError
from repoagent.explore import ExploreConfig
from repoagent.models import load_players


def prepare(
    tasks: Sequence[Path], trees: Path, output: Sequence[Path] | None, every: int = 1
) -> tuple[list[Question], dict[str, Path], list[Path]]:
    """What can be wrong with the arguments is found before a model is loaded; every ``every``-th question."""
    for file in output or []:
        check_output(file)
    questions = evaluate.read_tasks(tasks)[every - 1 :: every]
    if not questions:
        raise InputError(f"there are fewer than {every} questions; lower --every.")
    return questions, evaluate.find_trees(questions, trees), list(output or [])


def agent(policy: str, reflector: str, steps: int, top: int, seed: int) -> tuple[System, dict[str, Any]]:
    """The agent with the players of these names, and the settings that a report shows."""
    players = load_players(policy, reflector)
    settings = {"steps": steps, "policy": players[0].name, "reflector": players[1].name}
    return evaluate.agent(*players, ExploreConfig(horizon=steps), top, seed), settings


def compare(
    tasks: Sequence[Path],
    trees: Path | None,
    policy: str,
    reflector: str,
    steps: int,
    top: int,
    seed: int,
    embeddings: bool,
    output: Sequence[Path] | None,
    as_json: bool,
) -> None:
    """The agent with and without reflection, a random walk and the baselines on the same tasks."""
    if trees is None:
        raise InputError("TASKS need --trees DIR, where the tree of owner/name is DIR/owner__name.")
    questions, found, chosen = prepare(tasks, trees, output)
    system, settings = agent(policy, reflector, steps, top, seed)
    systems = {"repoagent": system}
    if reflector != "none":
        systems["repoagent, no reflection"] = agent(policy, "none", steps, top, seed)[0]
    systems["random walk"] = agent("random", "none", steps, top, seed)[0]
    for name in BASELINES:
        if embeddings or name != "minilm-chunks":
            systems[name] = evaluate.baseline(name, top)
    measure(systems, questions, found, {"top": top} | settings, seed, chosen, as_json)


def train_table(
    preset: str,
    trees: Path | None,
    out: Path,
    seeds: int,
    jobs: int,
    changes: Sequence[str],
    output: Sequence[Path],
) -> None:
    """The paper's table on its plain form; without ``trees`` on those of the recipe, or generated ones."""
    from benchmarks.autoexplore.bench import TABLE
    from benchmarks.regimen import prepare as prepared
    from benchmarks.regimen import run
    from training.benchmark import SPLITS, load_benchmark

    if trees is not None:
        changes = [f"benchmark.trees={json.dumps(str(trees))}", *changes]
    options = dict(prepared(TABLE, preset, out, changes, output)[1]["benchmark"])
    benchmark = load_benchmark(options.pop("name"), options)
    for split in SPLITS:  # a tree that is missing is found before anything is trained
        benchmark.tasks(split)
    run(TABLE, preset, out, seeds, jobs, (), changes, output)


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
