"""What ``repoagent train PATH`` says: shares with their intervals, the plan, the table, the model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repoagent.repo import display

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Figures:
    """A share, or a difference of two, of ``n`` tasks, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def entry(self) -> dict[str, float | int]:
        """The figures as JSON holds them."""
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4),
                "tasks": self.n}  # fmt: skip


def figures(before: Sequence[bool], after: Sequence[bool], seed: int) -> tuple[Figures, Figures, Figures]:
    """acc@1 before, after, and the difference. Tasks are drawn, not results, so the two are paired."""
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    drawn = np.random.default_rng(seed).integers(0, a.size, size=(RESAMPLES, a.size))

    def interval(values: Any) -> Figures:
        low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
        return Figures(float(values.mean()), float(low), float(high), int(values.size))

    return interval(a), interval(b), interval(b - a)


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The plan as text."""
    tasks = plan["tasks"]
    lines = [
        f"Repository   {display(plan['repository'])}",
        f"History      {plan['commits']} commits" if plan["commits"] else "History      none",
        f"Corrections  {plan['corrections']}",
    ]
    for part in ("train", "validation", "held out"):
        kinds = ", ".join(f"{n} {k.removeprefix('mined-')}" for k, n in tasks[part]["kinds"].items())
        lines.append(f"{part.capitalize():<12} {tasks[part]['count']} tasks: {kinds}")
    if plan["teacher"]:
        lines.append(f"Teacher      {plan['teacher']}, whose questions come on top, at most "
                     f"{plan['questions of the teacher']}")  # fmt: skip
    lines.append(f"Device       {'the GPU' if plan['device'] == 'cuda' else 'CPU'}")
    lines.append("Stages")
    lines += [f"  {name:<28} {seconds / 60:5.1f} min" for name, seconds in plan["stages (seconds)"].items()]
    speeds = plan["seconds per task (measured here)"]
    lines += [
        f"Time         {plan['seconds'] / 60:.1f} min, from {speeds['pack']:.2f} s to prepare and "
        f"{speeds['play']:.2f} s to play a task, measured here",
        f"Memory       about {plan['memory (MiB)']} MiB: what planning needed, and a constant for training",
        f"Registered   {display(plan['registered at'])}",
    ]
    return lines


def result_lines(result: dict[str, Any]) -> list[str]:
    """The table of what was measured, and what came of it."""

    def shown(name: str) -> str:
        f = result[name]
        return f"{f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})"

    lines = [f"{'held-out tasks':<20} {'n':>4}  {'bundled':>8}  {'tuned':>8}"]
    for kind, row in result["by kind"].items():
        name = kind.removeprefix("mined-")
        lines.append(f"{name:<20} {row['tasks']:>4}  {row['before']:>8.3f}  {row['after']:>8.3f}")
    n = result["before"]["tasks"]
    lines.append(f"{'all':<20} {n:>4}  {result['before']['value']:>8.3f}  {result['after']['value']:>8.3f}")
    lines += [
        "",
        f"acc@1 before  {shown('before')}",
        f"acc@1 after   {shown('after')}",
        f"difference    {shown('difference')}, paired, 95 % interval",
    ]
    if result["difference"]["low"] <= 0 <= result["difference"]["high"]:
        lines.append("The interval holds 0: with so many tasks the difference may be chance.")
    if result["kept"]:
        root = display(result["plan"]["repository"])
        lines.append(f"Kept ({result['chosen']}): questions about {root} use it now.")
    else:
        lines.append("Not better on the held-out tasks, so nothing was kept.")
    return lines


def card(description: dict[str, Any]) -> str:
    """The model card of a registered model."""
    table = "\n".join(result_lines(description))
    plan = "\n".join(plan_lines(description["plan"]))
    return (
        f"# A policy of repoagent, tuned for {display(description['root'])}\n\n"
        "all-MiniLM-L6-v2 (Apache-2.0) with the adapter and the head that come with repoagent, trained on "
        f"tasks of this repository on {description['date']} within {description['minutes']:g} minutes, seed "
        f"{description['seed']}. `memory.json` holds words of commit messages and the files they changed. "
        "It serves this repository alone.\n\n"
        f"```text\n{table}\n```\n\n## How it was made\n\n```text\n{plan}\n```\n"
    )
