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
METRICS = ("acc@1", "acc@3", "acc@5", "MRR", "span hit", "seconds")


def fill(text: str, results: Path) -> str:
    """``text`` with what stands between its markers replaced by the tables of the folder ``results``."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text needs the lines {BEGIN} and {END}, in this order")
    sections = [section(file) for file in sorted(results.glob("*.json")) if is_evaluation(file)]
    body = "\n\n".join(sections) or "No results yet."
    return f"{before}{BEGIN}\n{body}\n{END}{after}"


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
            f"Made on {made['date']} by `{made['command']}` on {machine['cores']} cores ({machine['cpu']}); "
            f"definitions and details: [{shown.name}](benchmarks/results/{shown.name}).",
        ]
    )


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
