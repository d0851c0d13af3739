"""Every row and ablation of the paper's table on DangerousTaxi.

repoagent bench taxi --preset tiny [--seeds 3] [--jobs 2] [--out runs/taxi]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.regimen import DIRECT, OURS, Curve, Part, Report, Row, Table
from benchmarks.regimen import run as run_table

VARIANTS: dict[str, dict[str, str]] = {
    "reflect-rl": {},
    "no-reflection": {"reflector.enabled": "false"},
    "no-negatives": {"tasks.negatives": "0.0"},
    "rlft-only": {"reflector.enabled": "false", "policy.enabled": "false"},
}
"""What each variant changes in the recipe. The budget of supervised states is the same in all."""

DIRECTLY = ("reflect-rl", "no-reflection")
"""The variants that are also trained without the curriculum, from the same SFT."""

ROWS = (
    Row("SFT only", "no-reflection", "begin", paper=(7, 0)),
    Row("RLFT only", "rlft-only", paper=(2, 0)),
    Row("SFT + RLFT, no reflection", "no-reflection", paper=(6, 0)),
    Row("SFT with reflection, no RLFT", "reflect-rl", "begin"),
    Row("SFT with reflection, no negatives, no RLFT", "no-negatives", "begin"),
    Row("SFT + RLFT, no negatives", "no-negatives"),
    Row(OURS, "reflect-rl", paper=(58, 29)),
    Row("Reflect-RL, no curriculum", "reflect-rl", rlft=DIRECT),
    Row("SFT + RLFT, no reflection, no curriculum", "no-reflection", rlft=DIRECT),
)

CURVES: dict[str, Curve] = {
    "reflection-on-pickup": (
        "success/pickup",
        {OURS: ("reflect-rl", ""), "no reflection": ("no-reflection", "")},
    ),
    "negatives": (
        "success/dropoff",
        {OURS: ("reflect-rl", ""), "no negatives": ("no-negatives", "")},
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
"""The paper's three ablations."""

TAXI = Table(
    name="taxi",
    title="DangerousTaxi",
    metrics={"pickup": "pickup", "dropoff": "pickup + drop-off"},
    tasks="starts",
    notes="*Pickup*: the passenger is legally picked up; *+ drop-off*: and set down at the destination.",
    variants=VARIANTS,
    direct=DIRECTLY,
    rows=ROWS,
    prompted="Mistral 7B 7, 0; Llama-2 7B-chat 3, 0; Orca-2 7B 1, 0",
    curves=CURVES,
)


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
    """The command; ``saycan`` adds the comparison with SayCan's scoring of actions."""
    more: Part | None = _saycan if saycan else None
    run_table(TAXI, preset, out, seeds, jobs, prompted, changes, output, more)


def _saycan(note: Report) -> tuple[str, dict[str, Any]]:
    from benchmarks import saycan

    scored = saycan.run(seed=0, report=note)
    title = "## One enumerated prompt against SayCan's prompts per action"
    return f"{title}\n\n{saycan.report(scored)}", {"saycan": saycan.as_data(scored)}
