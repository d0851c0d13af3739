"""The paper's table on any benchmark of the regimen, by running the regimen's own commands.

A benchmark describes its table as a :class:`Table`. A *variant* is one recipe with some keys changed; for
each seed it is trained by ``repoagent train run`` in a folder of its own, several at a time, and goes on
where it was stopped. The rows are read from the ``results.json`` of those runs: greedy episodes with the
test tasks, on which nothing was trained.
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

from benchmarks import table as tables
from benchmarks.statistics import Estimate, nested_bootstrap
from benchmarks.table import markdown
from repoagent.errors import InputError
from training.players import check_players
from training.recipe import Recipe, load_recipe, names, rlft_settings, teacher_settings

Report = Callable[[str], None]
Found = Mapping[str, Mapping[str, Any]]
"""Figures by row."""

DIRECT = "direct"
"""Name of the RLFT that is run without the curriculum, from the same SFT."""

OURS = "Reflect-RL"
"""The row that all others are held to."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: which policy of which variant, and the paper's figures (%)."""

    label: str
    variant: str
    which: str = "best"
    rlft: str = ""
    paper: tuple[float, ...] | None = None


Curve = tuple[str, Mapping[str, tuple[str, str]]]
"""A metric of the evaluations while training; by label, the (variant, RLFT) compared."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a benchmark's table shows.

    ``name`` is the benchmark's and the beginning of its recipes' names. ``metrics``: outcomes of an
    episode and what the table calls them. ``tasks``: what the test tasks are called. ``notes``: sentences
    on what the metrics mean and on the players. ``variants``: what each changes in the recipe;
    ``direct``: those that are also trained without the curriculum. ``prompted``: the paper's figures for
    models that are not trained.
    """

    name: str
    title: str
    metrics: Mapping[str, str]
    tasks: str
    notes: str
    variants: Mapping[str, Mapping[str, str]]
    direct: Sequence[str]
    rows: Sequence[Row]
    prompted: str
    curves: Mapping[str, Curve]


# -- training ------------------------------------------------------------------------------------


def folder(out: Path, variant: str, seed: int) -> Path:
    """The run of ``variant`` with ``seed``."""
    return out / f"{variant}-{seed}"


def train(
    table: Table,
    recipe: str,
    seeds: Sequence[int],
    out: Path,
    jobs: int,
    changes: Sequence[str],
    note: Report,
) -> None:
    """Train every variant with every seed, ``jobs`` processes of one thread side by side."""
    out.mkdir(parents=True, exist_ok=True)
    todo = [(variant, seed) for seed in seeds for variant in table.variants]
    started, done = time.perf_counter(), 0
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_train, table, recipe, v, s, out, changes) for v, s in todo]
        try:
            for (variant, seed), future in zip(todo, running, strict=True):
                future.result()
                done += 1
                minutes = (time.perf_counter() - started) / 60
                note(f"{variant}, seed {seed}: done ({done} of {len(todo)}, {minutes:.0f} min)")
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _train(table: Table, recipe: str, variant: str, seed: int, out: Path, changes: Sequence[str]) -> None:
    run = folder(out, variant, seed)
    run.mkdir(parents=True, exist_ok=True)
    keys = [f"{k}={v}" for k, v in table.variants[variant].items()]
    sets = [word for c in [f"run.seed={seed}", "run.threads=1", *changes, *keys] for word in ("--set", c)]
    _command(run, "", ["run", "--recipe", recipe, "--out", str(run), *sets])
    if variant in table.direct:
        direct = [*sets, "--set", "rlft.curriculum=false", "--name", DIRECT]
        for stage in ("rlft", "table"):
            _command(run, DIRECT, [stage, "--recipe", recipe, "--out", str(run), *direct])


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
    """Per seed and test task to which ``metric`` applies, whether the episode succeeded."""
    return [
        [
            float(e[metric])
            for e in results(folder(out, row.variant, seed), row.rlft)[row.which]["rows"]
            if metric in e
        ]
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


def core_minutes(table: Table, out: Path, seeds: Sequence[int]) -> float:
    """Minutes of one core that all runs took together, interruptions and restarts included."""
    files = [folder(out, variant, seed) / "seconds.json" for variant in table.variants for seed in seeds]
    return sum(sum(json.loads(file.read_text()).values()) for file in files) / 60


def measured(table: Table, out: Path, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Every row: success per metric with its interval, per seed, against Reflect-RL, and what it cost."""
    ours = next(row for row in table.rows if row.label == OURS)
    found: dict[str, dict[str, Any]] = {}
    for row in table.rows:
        figures: dict[str, Any] = {"paper": row.paper, "cost": cost(out, row, seeds)}
        for metric in table.metrics:
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


def baseline(table: Table, spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Success of a policy that is not trained here ("random", or ``openai:BASE_URL#MODEL``).

    ``options`` are the recipe's of the benchmark.
    """
    from repoagent.episode import play_batch
    from repoagent.models import load_policy
    from training.benchmark import load_benchmark

    bench, policy = load_benchmark(table.name, options), load_policy(spec)
    tasks = bench.tasks("test")
    started = time.perf_counter()
    environments = [bench.environment(bench.stages[-1]) for _ in tasks]
    played = play_batch(environments, tasks, policy, seeds=range(len(tasks)), greedy=spec != "random")
    won = [bench.outcomes(t) for t in played]
    return {
        "name": policy.name,
        "seconds": time.perf_counter() - started,
        **{m: {"success": nested_bootstrap([[float(w[m]) for w in won if m in w]])} for m in table.metrics},
    }


# -- the table -----------------------------------------------------------------------------------


def percent(estimate: Estimate) -> str:
    """An estimate in percent with its interval."""
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def report(table: Table, found: Found, others: Found, seeds: Sequence[int]) -> str:
    """The rows in Markdown beside the paper's."""
    metrics = table.metrics
    header = [
        "row",
        *(f"{m}, %" for m in metrics.values()),
        "paper, %",
        "core-minutes",
        "env steps",
        "tokens",
    ]
    rows = []
    for label, figures in others.items():
        paper = table.prompted if label != "random" else ""
        rows.append([label, *(percent(figures[m]["success"]) for m in metrics), paper, "", "", ""])
    for label, figures in found.items():
        paper = ", ".join(f"{p:g}" for p in figures["paper"]) if figures["paper"] else "–"
        spent = figures["cost"]
        tokens = spent["policy_tokens"] + spent["reflector_tokens"]
        rows.append(
            [
                f"**{label}**" if label == OURS else label,
                *(percent(figures[m]["success"]) for m in metrics),
                paper,
                f"{spent['minutes']:.1f}" if spent["env_steps"] else "–",
                f"{spent['env_steps']:,.0f}" if spent["env_steps"] else "–",
                f"{tokens / 1e6:.1f} M" if tokens else "–",
            ]
        )
    below = [
        [label, *(percent(figures[m]["below"]) for m in metrics),
         *("/".join(f"{100 * s:.0f}" for s in figures[m]["seeds"]) for m in metrics)]
        for label, figures in found.items()
        if label != OURS
    ]  # fmt: skip
    ours = found[OURS]
    seeded = ", ".join(
        f"{name} {'/'.join(f'{100 * s:.0f}' for s in ours[m]['seeds'])}" for m, name in metrics.items()
    )
    counts = {name: ours[m]["success"].n // len(seeds) for m, name in metrics.items()}
    cases = f"{max(counts.values())} test {table.tasks}"
    if len(set(counts.values())) > 1:  # metrics that are of different tasks
        cases = f"test {table.tasks} ({', '.join(f'{n} at {name}' for name, n in counts.items())})"
    return "\n\n".join(
        [
            f"Success on the {cases}, greedy, mean over {len(seeds)} seeds with 95 % intervals (bootstrap "
            f"over seeds, then {table.tasks}). {table.notes} Core-minutes are those of all stages of a run; "
            "tokens are what policy and reflector read and wrote in RLFT. Models that are prompted, in the "
            f"paper: {table.prompted}.",
            markdown(header, rows),
            f"How far each row lies below {OURS} (percentage points, paired), and the success of "
            f"each seed ({OURS}: {seeded}):",
            markdown(["row", *metrics.values(), *(f"{m}, seeds" for m in metrics.values())], below),
        ]
    )


def curves(table: Table, out: Path, seeds: Sequence[int], pictures: Path, prefix: str) -> list[Path]:
    """The curves of the ablations as PNG."""
    from training.plot import plot_comparison

    made = []
    for name, (metric, compared) in table.curves.items():
        runs = {
            label: [folder(out, variant, s) / (f"rlft-{rlft}" if rlft else "rlft") for s in seeds]
            for label, (variant, rlft) in compared.items()
        }
        path = pictures / f"{prefix}-{name}.png"
        plot_comparison(runs, path, metric, title=f"{table.title}: {name.replace('-', ' ')}")
        made.append(path)
    return made


def plain(found: Any) -> Any:
    """``found`` as JSON can hold it."""
    if isinstance(found, Estimate):
        return found.plain()
    if isinstance(found, Mapping):
        return {k: plain(v) for k, v in found.items()}
    return [plain(v) for v in found] if isinstance(found, list | tuple) else found


# -- the command ---------------------------------------------------------------------------------

Part = Callable[[Report], tuple[str, dict[str, Any]]]
"""Something more to measure: its text, and its figures by name."""


def prepare(
    table: Table, preset: str, out: Path, changes: Sequence[str], output: Sequence[Path]
) -> tuple[str, Recipe]:
    """Name and content of the recipe; what can be wrong with the arguments is found here."""
    for file in output:
        tables.check_output(file)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    prefix = f"{table.name}-"
    recipe = preset if preset.endswith(".toml") else prefix + preset
    if recipe.startswith(prefix) and not recipe.endswith(".toml") and recipe not in names():
        known = [name.removeprefix(prefix) for name in names() if name.startswith(prefix)]
        raise InputError(f"no preset {preset}: use {' or '.join(known)}, or a .toml file.")
    settings = load_recipe(recipe, changes)
    if settings["benchmark"]["name"] != table.name:
        raise InputError(f"{recipe} is a recipe for {settings['benchmark']['name']}, not for {table.name}.")
    check_players(settings)
    teacher_settings(settings)
    rlft_settings(settings).check()
    return recipe, settings


def run(
    table: Table,
    preset: str,
    out: Path,
    seeds: int,
    jobs: int,
    prompted: Sequence[str],
    changes: Sequence[str],
    output: Sequence[Path],
    more: Part | None = None,
) -> None:
    """Train, measure, and write the table, the figures and the curves, in the order of cost."""
    recipe, settings = prepare(table, preset, out, changes, output)

    def note(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    options = {key: value for key, value in settings["benchmark"].items() if key != "name"}
    others = {"random": baseline(table, "random", options)}
    for spec in prompted:
        found = baseline(table, spec, options)
        others[f"prompted: {found['name']}"] = found
    chosen = list(range(seeds))
    train(table, recipe, chosen, out, jobs, changes, note)
    rows = measured(table, out, chosen)
    body = report(table, rows, others, chosen)
    data: dict[str, Any] = {"rows": plain(rows), "others": plain(others)}
    if more is not None:
        text, figures = more(note)
        body, data = f"{body}\n\n{text}", data | figures
    data["core_minutes"] = spent = core_minutes(table, out, chosen)
    body += f"\n\nTraining took {spent:.0f} minutes of one core in all, {jobs} runs side by side.\n"
    print(body)
    kept = {part: keys for part, keys in settings.items() if part != "run"}
    made = tables.provenance({"preset": recipe, "seeds": chosen, "recipe": kept}, 0)
    for file in output:
        shown = body
        if file.suffix == ".md":
            pictures = curves(table, out, chosen, file.parent, file.stem)
            shown += f"\n## Curves of the ablations\n\nEvaluations on the validation {table.tasks} while "
            shown += "training; mean and range over the seeds.\n\n"
            shown += "\n".join(f"![{p.stem}]({p.name})" for p in pictures) + "\n"
        tables.write(file, table.title, made, shown, data)
