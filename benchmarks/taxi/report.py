"""``repoagent bench taxi``: train, measure, and write the table, the figures and the curves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import table as tables
from benchmarks.taxi import bench
from repoagent.errors import InputError
from training.recipe import load_recipe, names

TITLE = "DangerousTaxi"


def run(
    preset: str,
    out: Path,
    seeds: int,
    jobs: int,
    prompted: Sequence[str],
    saycan: bool,
    changes: Sequence[str],
    output: Sequence[Path],
) -> None:
    """Everything, in the order of cost; what can be wrong with the arguments is found first."""
    for file in output:
        tables.check_output(file)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    recipe = preset if preset.endswith(".toml") else f"taxi-{preset}"
    if recipe.startswith("taxi-") and recipe not in names():
        known = [name.removeprefix("taxi-") for name in names() if name.startswith("taxi-")]
        raise InputError(f"no preset {preset}: use {' or '.join(known)}, or a .toml file.")
    settings = load_recipe(recipe, changes)

    def note(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    options = {key: value for key, value in settings["benchmark"].items() if key != "name"}
    others = {"random": bench.baseline("random", options)}
    for spec in prompted:
        found = bench.baseline(spec, options)
        others[f"prompted: {found['name']}"] = found
    chosen = list(range(seeds))
    bench.train(recipe, chosen, out, jobs, changes, note)
    rows = bench.measured(out, chosen)
    body = bench.table(rows, others, chosen)
    data: dict[str, Any] = {"rows": bench.plain(rows), "others": bench.plain(others)}
    if saycan:
        from benchmarks import saycan as comparison

        scored = comparison.run(seed=0, report=note)
        body += "\n\n## One enumerated prompt against SayCan's prompts per action\n\n"
        body += comparison.report(scored)
        data["saycan"] = comparison.as_data(scored)
    data["core_minutes"] = spent = bench.core_minutes(out, chosen)
    body += f"\n\nTraining took {spent:.0f} minutes of one core in all, {jobs} runs side by side.\n"
    print(body)
    kept = {part: keys for part, keys in settings.items() if part != "run"}
    made = tables.provenance({"preset": recipe, "seeds": chosen, "recipe": kept}, 0)
    for file in output:
        shown = body
        if file.suffix == ".md":
            pictures = bench.curves(out, chosen, file.parent, file.stem)
            shown += "\n## Curves of the ablations\n\nEvaluations on the validation starts while training; "
            shown += "mean and range over the seeds.\n\n"
            shown += "\n".join(f"![{p.stem}]({p.name})" for p in pictures) + "\n"
        tables.write(file, TITLE, made, shown, data)
