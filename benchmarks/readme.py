"""Fills the results of README.md from benchmarks/results/*.json, so that no figure is typed by hand.

    python -m benchmarks.readme

Reads the files that ``repoagent eval --output NAME.json`` writes, in the order of their names; JSON
files of another form are left out. A test holds that the README is what this command makes of the
files committed with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.statistics import Estimate
from benchmarks.table import markdown

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
TAXI_BEGIN, TAXI_END = "<!-- taxi:begin -->", "<!-- taxi:end -->"
METRICS = ("acc@1", "acc@3", "acc@5", "MRR", "span hit", "seconds")


def fill(text: str, results: Path) -> str:
    """``text`` with what stands between its markers replaced by the tables of the folder ``results``."""
    sections = [section(file) for file in sorted(results.glob("*.json")) if is_evaluation(file)]
    text = _between(text, BEGIN, END, "\n\n".join(sections) or "No results yet.")
    if TAXI_BEGIN in text:
        file = results / "taxi.json"
        text = _between(text, TAXI_BEGIN, TAXI_END, taxi(file) if file.exists() else "No results yet.")
    return text


def _between(text: str, begin: str, end: str, body: str) -> str:
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"the text needs the lines {begin} and {end}, in this order")
    return f"{before}{begin}\n{body}\n{end}{after}"


def taxi(file: Path) -> str:
    """The rows of ``repoagent bench taxi`` beside the paper's, and how to make them again."""
    data = json.loads(file.read_text(encoding="utf-8"))
    made = data["made"]

    def percent(figures: Mapping[str, Any]) -> str:
        return "{:.0f} ({:.0f} to {:.0f})".format(*(100 * figures[k] for k in ("value", "low", "high")))

    rows = [
        [
            label,
            *(percent(figures[metric]["success"]) for metric in ("pickup", "dropoff")),
            "{}, {}".format(*figures["paper"]) if figures["paper"] else "–",
        ]
        for label, figures in data["rows"].items()
    ]
    return "\n\n".join(
        [
            markdown(["row", "pickup, %", "pickup + drop-off, %", "paper, %"], rows),
            f"{len(made['settings']['seeds'])} training seeds, 95 % intervals. Made on {made['date']} by "
            f"`{made['command']}` in {data['core_minutes']:.0f} core-minutes ({made['machine']['cpu']}, "
            f"{made['machine']['cores']} cores); all figures: [taxi.md](benchmarks/results/taxi.md).",
        ]
    )


def is_evaluation(file: Path) -> bool:
    """Whether ``file`` holds what ``repoagent eval`` writes."""
    data = json.loads(file.read_text(encoding="utf-8"))
    return isinstance(data, dict) and {"title", "made", "system", "overall", "repos"} <= data.keys()


def section(file: Path) -> str:
    """The table of one evaluation, the paired comparisons and how to make it again."""
    data = json.loads(file.read_text(encoding="utf-8"))
    compared: Mapping[str, Any] = data.get("compared", {})
    overall = {data["system"]: data["overall"]} | {name: of["overall"] for name, of in compared.items()}
    metrics = [m for m in METRICS if any(m in of for of in overall.values())]
    rows = [[name, *(_figure(of.get(m)) for m in metrics)] for name, of in overall.items()]
    made = data["made"]
    machine = made["machine"]
    shown = readable if (readable := file.with_suffix(".md")).exists() else file
    return "\n\n".join(
        [
            f"**{data['title']}**: {data['tasks']} questions on {len(data['repos'])} repositories "
            "(with 95 % intervals).",
            markdown(["system", *metrics], rows),
            *(_comparison(data["system"], name, of["comparison"]) for name, of in compared.items()),
            *_confidence(data),
            f"Made on {made['date']} by `{made['command']}` on {machine['cores']} cores ({machine['cpu']}); "
            f"definitions and details: [{shown.name}](benchmarks/results/{shown.name}).",
        ]
    )


def _confidence(data: Mapping[str, Any]) -> list[str]:
    if "risk-coverage" not in data:
        return []
    wrong = {coverage: risk for coverage, _, risk in data["risk-coverage"]}
    return [
        f"The score of an answer is the probability that it is right (calibration error "
        f"{data['calibration error']:.3f}): of the half of the questions that are answered most confidently "
        f"{1 - wrong[0.5]:.0%} are right, of the surest fifth {1 - wrong[0.2]:.0%}."
    ]


def _comparison(name: str, other: str, figures: Mapping[str, Any]) -> str:
    return (
        f"{name} against {other}, paired: " + ", ".join(f"{k} {_figure(v)}" for k, v in figures.items()) + "."
    )


def _figure(plain: Mapping[str, Any] | None) -> str:
    """An estimate as its JSON form holds it (null: undefined or infinite)."""
    if plain is None:
        return "–"
    value, low, high = (math.inf if plain[k] is None else plain[k] for k in ("value", "low", "high"))
    return "–" if plain["value"] is None else str(Estimate(value, low, high, plain["n"]))


def main() -> None:
    """Write README.md anew."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(fill(text, ROOT / "benchmarks" / "results"), encoding="utf-8")


if __name__ == "__main__":
    main()
