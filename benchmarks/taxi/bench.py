"""Every row and ablation of the paper's table on DangerousTaxi, by running the regimen's own commands.

    repoagent bench taxi --preset tiny [--seeds 3] [--jobs 2] [--out runs/taxi]

A *variant* is one recipe with some keys changed; for each seed it is trained by ``repoagent train run``
in a folder of its own, several at a time, and goes on where it was stopped. The rows are read from the
``results.json`` of those runs: greedy episodes from the test starts, which no training has begun at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.statistics import Estimate, nested_bootstrap
from benchmarks.table import markdown
from repoagent.errors import InputError

Report = Callable[[str], None]

VARIANTS: dict[str, dict[str, str]] = {
    "reflect-rl": {},
    "no-reflection": {"reflector.enabled": "false"},
    "no-negatives": {"tasks.negatives": "0.0"},
    "rlft-only": {"reflector.enabled": "false", "policy.enabled": "false"},
}
"""What each variant changes in the recipe. The budget of supervised states is the same in all."""

DIRECT = "direct"
DIRECTLY = ("reflect-rl", "no-reflection")
"""The variants that are also trained without the curriculum, from the same SFT."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: which policy of which variant, and the paper's figures (%)."""

    label: str
    variant: str
    which: str = "best"
    rlft: str = ""
    paper: tuple[float, float] | None = None


ROWS = (
    Row("SFT only", "no-reflection", "begin", paper=(7, 0)),
    Row("RLFT only", "rlft-only", paper=(2, 0)),
    Row("SFT + RLFT, no reflection", "no-reflection", paper=(6, 0)),
    Row("SFT with reflection, no RLFT", "reflect-rl", "begin"),
    Row("SFT with reflection, no negatives, no RLFT", "no-negatives", "begin"),
    Row("SFT + RLFT, no negatives", "no-negatives"),
    Row("Reflect-RL", "reflect-rl", paper=(58, 29)),
    Row("Reflect-RL, no curriculum", "reflect-rl", rlft=DIRECT),
    Row("SFT + RLFT, no reflection, no curriculum", "no-reflection", rlft=DIRECT),
)
OURS = "Reflect-RL"
PROMPTED_PAPER = "Mistral 7B 7, 0; Llama-2 7B-chat 3, 0; Orca-2 7B 1, 0"
METRICS = {"pickup": "pickup", "dropoff": "pickup + drop-off"}

CURVES = {
    "reflection-on-pickup": (
        "success/pickup",
        {"Reflect-RL": ("reflect-rl", ""), "no reflection": ("no-reflection", "")},
    ),
    "negatives": (
        "success/dropoff",
        {"Reflect-RL": ("reflect-rl", ""), "no negatives": ("no-negatives", "")},
    ),
    "curriculum-on-dropoff": (
        "success/dropoff",
        {
            "curriculum, reflection": ("reflect-rl", ""),
            "no curriculum, reflection": ("reflect-rl", DIRECT),
            "curriculum, no reflection": ("no-reflection", ""),
            "no curriculum, no reflection": ("no-reflection", DIRECT),
        },
    ),
}
"""The paper's three ablations: metric of the evaluations while training, and the runs compared."""


def folder(out: Path, variant: str, seed: int) -> Path:
    """The run of ``variant`` with ``seed``."""
    return out / f"{variant}-{seed}"


def train(
    preset: str, seeds: Sequence[int], out: Path, jobs: int, changes: Sequence[str], report: Report
) -> None:
    """Train every variant with every seed, ``jobs`` processes of one thread side by side."""
    out.mkdir(parents=True, exist_ok=True)
    todo = [(variant, seed) for seed in seeds for variant in VARIANTS]
    started, done = time.perf_counter(), 0
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_train, preset, v, s, out, changes) for v, s in todo]
        try:
            for (variant, seed), future in zip(todo, running, strict=True):
                future.result()
                done += 1
                minutes = (time.perf_counter() - started) / 60
                report(f"{variant}, seed {seed}: done ({done} of {len(todo)}, {minutes:.0f} min)")
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _train(preset: str, variant: str, seed: int, out: Path, changes: Sequence[str]) -> None:
    run = folder(out, variant, seed)
    run.mkdir(parents=True, exist_ok=True)
    keys = [f"{k}={v}" for k, v in VARIANTS[variant].items()]
    sets = [word for c in [f"run.seed={seed}", "run.threads=1", *changes, *keys] for word in ("--set", c)]
    _command(run, "", ["run", "--recipe", preset, "--out", str(run), *sets])
    if variant in DIRECTLY:
        direct = [*sets, "--set", "rlft.curriculum=false", "--name", DIRECT]
        for stage in ("rlft", "table"):
            _command(run, DIRECT, [stage, "--recipe", preset, "--out", str(run), *direct])


def _command(run: Path, name: str, arguments: Sequence[str]) -> None:
    """One command of the regimen in a process of its own; its time is added up in seconds.json."""
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (run / "log.txt").open("a", encoding="utf-8") as log:
        code = subprocess.run(
            [sys.executable, "-m", "repoagent", "train", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
        ).returncode  # fmt: skip
    if code:
        tail = (run / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise InputError(f"training in {run} failed ({' '.join(tail)}); see {run}/log.txt, then run again.")
    path = run / "seconds.json"
    spent: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
    path.write_text(json.dumps(spent))


# -- reading -------------------------------------------------------------------------------------


def results(run: Path, name: str = "") -> dict[str, Any]:
    """What the stage "table" found in ``run``."""
    path = run / (f"rlft-{name}" if name else "rlft") / "results.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def episodes(out: Path, row: Row, seeds: Sequence[int], metric: str) -> list[list[float]]:
    """Per seed and test start, whether the episode succeeded."""
    return [
        [float(e[metric]) for e in results(folder(out, row.variant, seed), row.rlft)[row.which]["rows"]]
        for seed in seeds
    ]


def cost(out: Path, row: Row, seeds: Sequence[int]) -> dict[str, float]:
    """Means over the seeds: minutes of one core, environment steps and tokens of RLFT."""
    rows: list[dict[str, float]] = []
    for seed in seeds:
        run = folder(out, row.variant, seed)
        spent = json.loads((run / "seconds.json").read_text())
        name = f"rlft-{row.rlft}" if row.rlft else "rlft"
        totals = json.loads((run / name / "done.json").read_text())
        trained = row.which == "best"
        rows.append(
            {
                "minutes": spent[row.rlft] / 60,
                "env_steps": totals["env_steps"] if trained else 0,
                "policy_tokens": totals["policy_tokens"] if trained else 0,
                "reflector_tokens": totals["reflector_tokens"] if trained else 0,
            }
        )
    return {key: sum(r[key] for r in rows) / len(rows) for key in rows[0]}


def core_minutes(out: Path, seeds: Sequence[int]) -> float:
    """Minutes of one core that all runs took together, interruptions and restarts included."""
    files = [folder(out, variant, seed) / "seconds.json" for variant in VARIANTS for seed in seeds]
    return sum(sum(json.loads(file.read_text()).values()) for file in files) / 60


def measured(out: Path, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Every row: success per metric with its interval, per seed, against Reflect-RL, and what it cost."""
    ours = next(row for row in ROWS if row.label == OURS)
    found: dict[str, dict[str, Any]] = {}
    for row in ROWS:
        figures: dict[str, Any] = {"paper": row.paper, "cost": cost(out, row, seeds)}
        for metric in METRICS:
            won = episodes(out, row, seeds, metric)
            best = episodes(out, ours, seeds, metric)
            below = [[b - w for b, w in zip(bs, ws, strict=True)] for bs, ws in zip(best, won, strict=True)]
            figures[metric] = {
                "success": nested_bootstrap(won),
                "seeds": [sum(w) / len(w) for w in won],
                "below": nested_bootstrap(below) if row is not ours else None,
            }
        found[row.label] = figures
    return found


def baseline(spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Success of a policy that is not trained here ("random", or ``openai:BASE_URL#MODEL``).

    ``options`` are the recipe's of the benchmark.
    """
    from benchmarks.taxi.task import DangerousTaxi
    from repoagent.episode import play_batch
    from repoagent.models import load_policy

    bench, policy = DangerousTaxi(**options), load_policy(spec)
    tasks = bench.tasks("test")
    started = time.perf_counter()
    environments = [bench.environment(bench.stages[-1]) for _ in tasks]
    played = play_batch(environments, tasks, policy, seeds=range(len(tasks)), greedy=spec != "random")
    won = [bench.outcomes(t) for t in played]
    return {
        "name": policy.name,
        "seconds": time.perf_counter() - started,
        **{m: {"success": nested_bootstrap([[float(w[m]) for w in won]])} for m in METRICS},
    }


# -- the table -----------------------------------------------------------------------------------


def percent(estimate: Estimate) -> str:
    """An estimate in percent with its interval."""
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def table(
    found: Mapping[str, Mapping[str, Any]], others: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> str:
    """The rows in Markdown beside the paper's."""
    header = [
        "row",
        *(f"{m}, %" for m in METRICS.values()),
        "paper, %",
        "core-minutes",
        "env steps",
        "tokens",
    ]
    rows = []
    for label, figures in others.items():
        paper = PROMPTED_PAPER if label != "random" else ""
        rows.append([label, *(percent(figures[m]["success"]) for m in METRICS), paper, "", "", ""])
    for label, figures in found.items():
        paper = "{}, {}".format(*figures["paper"]) if figures["paper"] else "–"
        spent = figures["cost"]
        tokens = spent["policy_tokens"] + spent["reflector_tokens"]
        rows.append(
            [
                f"**{label}**" if label == OURS else label,
                *(percent(figures[m]["success"]) for m in METRICS),
                paper,
                f"{spent['minutes']:.1f}" if spent["env_steps"] else "–",
                f"{spent['env_steps']:,.0f}" if spent["env_steps"] else "–",
                f"{tokens / 1e6:.1f} M" if tokens else "–",
            ]
        )
    below = [
        [label, *(percent(figures[m]["below"]) for m in METRICS),
         *("/".join(f"{100 * s:.0f}" for s in figures[m]["seeds"]) for m in METRICS)]
        for label, figures in found.items()
        if label != OURS
    ]  # fmt: skip
    ours = found[OURS]
    seeded = ", ".join(
        f"{name} {'/'.join(f'{100 * s:.0f}' for s in ours[m]['seeds'])}" for m, name in METRICS.items()
    )
    return "\n\n".join(
        [
            f"Success on the {ours['pickup']['success'].n // len(seeds)} test starts, greedy, mean over "
            f"{len(seeds)} seeds with 95 % intervals (bootstrap over seeds, then starts). *Pickup*: the "
            "passenger is legally picked up; *+ drop-off*: and set down at the destination. Core-minutes "
            "are those of all stages of a run; tokens are what policy and reflector read and wrote in RLFT.",
            markdown(header, rows),
            f"How far each row lies below {OURS} (percentage points, paired by start), and the success of "
            f"each seed ({OURS}: {seeded}):",
            markdown(["row", *METRICS.values(), *(f"{m}, seeds" for m in METRICS.values())], below),
        ]
    )


def curves(out: Path, seeds: Sequence[int], pictures: Path, prefix: str) -> list[Path]:
    """The curves of the three ablations as PNG."""
    from training.plot import plot_comparison

    made = []
    for name, (metric, compared) in CURVES.items():
        runs = {
            label: [folder(out, variant, s) / (f"rlft-{rlft}" if rlft else "rlft") for s in seeds]
            for label, (variant, rlft) in compared.items()
        }
        path = pictures / f"{prefix}-{name}.png"
        plot_comparison(runs, path, metric, title=f"DangerousTaxi: {name.replace('-', ' ')}")
        made.append(path)
    return made


def plain(found: Any) -> Any:
    """``found`` as JSON can hold it."""
    if isinstance(found, Estimate):
        return found.plain()
    if isinstance(found, Mapping):
        return {k: plain(v) for k, v in found.items()}
    return [plain(v) for v in found] if isinstance(found, list | tuple) else found
