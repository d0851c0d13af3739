"""Every row of the paper's table on ALFWorld, and success by the field's protocol.

repoagent bench alfworld --preset small [--seeds 3] [--jobs 2] [--out runs/alfworld]

The rows of the regimen are greedy episodes of valid_unseen. Beside them stand, for the same checkpoints,
greedy and sampled episodes of valid_seen and valid_unseen by kind of task, and the scripted expert that was
imitated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from benchmarks import regimen
from benchmarks.alfworld.game import TASK_TYPES
from benchmarks.alfworld.task import PROTOCOL, TASK, ALFWorld
from benchmarks.regimen import OURS, Part, Report, Row, Table, folder, percent, plain, prepare
from benchmarks.statistics import Estimate, nested_bootstrap
from benchmarks.table import markdown
from repoagent.episode import play_batch
from training import players
from training.benchmark import SPLITS as ALL
from training.benchmark import Split, load_benchmark
from training.files import write_json
from training.known import Asked, KnownReflections
from training.stages import Run

if TYPE_CHECKING:
    from benchmarks.alfworld.sources import GameTask

SHORT = dict(zip(TASK_TYPES, ("put", "look", "clean", "heat", "cool", "two"), strict=True))
SPLITS: Mapping[Split, str] = {"validation": "valid_seen", "test": "valid_unseen"}
"""Our names of the held-out splits, and ALFWorld's."""

BATCH = 64
"""Episodes side by side."""

MEASURED = "protocol.json"
"""What was measured of a run, by policy, split and way of choosing; in the folder of its RLFT."""

LATER = (
    "Later figures of others for success on valid_unseen or on both splits, horizon 50, models of 1.5 to 7 "
    "billion parameters (%): GRPO 1.5B 72.8, GiGPO 1.5B 86.7, GiGPO 7B 90.8, the best seen 98.4. One such "
    "checkpoint was measured at 37 and at 95 with two templates of the history, hence the protocol below."
)

TABLE = Table(
    name="alfworld",
    title="ALFWorld",
    metrics={TASK: "success"},
    tasks="games",
    notes=(
        "*Success*: the game is won within the horizon. The players are models from scratch of about a "
        "million parameters each; the paper's are GPT-2 XL with 1.56 billion, on one type of task."
    ),
    variants={
        "reflect-rl": {},
        "no-reflection": {"reflector.enabled": "false"},
        "no-negatives": {"tasks.negatives": "0.0"},
    },
    direct=(),
    rows=(
        Row("SFT only", "no-reflection", "begin", paper=(0,)),
        Row("SFT + RLFT, no reflection", "no-reflection", paper=(66,)),
        Row("SFT with reflection, no RLFT", "reflect-rl", "begin"),
        Row("SFT + RLFT, no negatives", "no-negatives"),
        Row(OURS, "reflect-rl", paper=(74,)),
    ),
    prompted="Mistral 7B 0; Llama-2 7B-chat 0; Orca-2 7B 0",
    curves={
        "reflection": (
            f"success/{TASK}",
            {OURS: ("reflect-rl", ""), "no reflection": ("no-reflection", "")},
        ),
    },
)

PLAYED = tuple(row for row in TABLE.rows if row.variant != "no-negatives")
"""The rows that are played by the field's protocol too."""


def run(
    preset: str,
    out: Path,
    seeds: int,
    jobs: int,
    prompted: Sequence[str],
    changes: Sequence[str],
    output: Sequence[Path],
) -> None:
    """The command; missing games are found before anything is trained."""
    options = dict(prepare(TABLE, preset, out, changes, output)[1]["benchmark"])
    benchmark = cast(ALFWorld, load_benchmark(options.pop("name"), options))
    for split in ALL:
        benchmark.tasks(split)
    more: Part = partial(_protocol, benchmark, out, range(seeds))
    regimen.run(TABLE, preset, out, seeds, jobs, prompted, changes, output, more)


def _protocol(
    benchmark: ALFWorld, out: Path, seeds: Sequence[int], note: Report
) -> tuple[str, dict[str, Any]]:
    """Both splits, greedy and sampled, by kind of task: the text and the figures."""
    header = ["player", "games", "chosen", "success, %", *(f"{s}, %" for s in SHORT.values()), "steps"]
    rows, figures = [], []
    for split, name in SPLITS.items():
        found = {("scripted expert", "–"): [_expert(benchmark, split)]}
        for row in PLAYED:
            for chosen in ("greedy", "sampled"):
                note(f"{row.label}, {name}, {chosen}")
                found[row.label, chosen] = [
                    _measured(benchmark, folder(out, row.variant, seed), row.which, split, chosen, seed)
                    for seed in seeds
                ]
        for (label, chosen), episodes in found.items():
            cells = _success(episodes)
            steps = fmean(e["steps"] for group in episodes for e in group)
            shown = f"**{label}**" if label == OURS else label
            rates = [percent(cell) if cell.n else "–" for cell in cells.values()]
            rows.append([shown, name, chosen, *rates, f"{steps:.1f}"])
            figures.append({"player": label, "games": name, "chosen": chosen, "steps": steps, **plain(cells)})
    parts = [
        "## By kind of task",
        "*Sampled*: from the policy's distribution. Steps: those of all episodes, lost ones at the horizon. "
        "Intervals are at 95 % (bootstrap over seeds, then games).",
        markdown(header, rows),
        LATER,
        "## Protocol",
        "\n".join(f"- {key}: {value}" for key, value in benchmark.protocol().items()),
    ]
    return "\n\n".join(parts), {"played": figures, "protocol": benchmark.protocol()}


def _success(episodes: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Estimate]:
    """The rate over all episodes, then by kind of task."""
    found = {"all": nested_bootstrap([[float(e["won"]) for e in group] for group in episodes])}
    for kind, short in SHORT.items():
        found[short] = nested_bootstrap(
            [[float(e["won"]) for e in group if e["kind"] == kind] for group in episodes]
        )
    return found


def _measured(
    benchmark: ALFWorld, run: Path, which: str, split: Split, chosen: str, seed: int
) -> list[dict[str, Any]]:
    """An entry per game, measured once and kept in the run's folder."""
    path, key = run / "rlft" / MEASURED, f"{which} {split} {chosen} {PROTOCOL.version}"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if key not in known:
        recipe = Run.recorded(run)
        assert recipe is not None
        made = Run(run, recipe, report=lambda _: None)
        policy = (
            made.load_policy() if which == "begin" else players.load_policy(recipe, run / "rlft" / "best")
        )
        reflector = KnownReflections(made.load_reflector(), run / "rlft" / "reflections.jsonl")
        known[key] = _play(benchmark, split, Asked(policy, None, BATCH), reflector, chosen == "greedy", seed)
        write_json(path, known)
    found: list[dict[str, Any]] = known[key]
    return found


def _play(
    benchmark: ALFWorld, split: Split, policy: Any, reflector: Any, greedy: bool, seed: int
) -> list[dict[str, Any]]:
    tasks = benchmark.tasks(split)
    found = []
    for start in range(0, len(tasks), BATCH):
        part = tasks[start : start + BATCH]
        environments = [benchmark.environment(benchmark.stages[-1]) for _ in part]
        seeds = [seed * 10_000 + start + i for i in range(len(part))]
        played = play_batch(environments, part, policy, reflector, seeds=seeds, greedy=greedy)
        for task, trajectory in zip(part, played, strict=True):
            found.append(_entry(task, benchmark.outcomes(trajectory)[TASK], len(trajectory.steps)))
    return found


def _expert(benchmark: ALFWorld, split: Split) -> list[dict[str, Any]]:
    """What the scripted expert achieves."""
    found = []
    environment = benchmark.environment(benchmark.stages[-1])
    for task in benchmark.tasks(split):
        environment.reset(task)
        steps, done, won = 0, False, False
        while not done:
            result = environment.step(environment.oracle()[0])
            steps, done, won = steps + 1, result.done, bool(result.info[TASK])
        found.append(_entry(task, won, steps))
    return found


def _entry(task: GameTask, won: bool, steps: int) -> dict[str, Any]:
    return {"game": task.name, "kind": task.kind, "won": won, "steps": steps}
