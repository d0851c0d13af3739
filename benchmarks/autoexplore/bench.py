"""Every row and ablation of the paper's table on AutoExplore in its plain form: cd, cat and id.

repoagent bench autoexplore --preset minilm --trees ../trees [--seeds 3] [--jobs 2] [--out runs/autoexplore]
"""

from __future__ import annotations

from benchmarks.regimen import DIRECT, OURS, Row, Table

TABLE = Table(
    name="autoexplore",
    title="AutoExplore, the paper's form, with a trained head on MiniLM",
    metrics={"depth-1": "depth 1", "depth-2": "depth 2"},
    tasks="questions",
    notes=(
        "*Depth 1*: the right file lies in the folder where the episode begins; *depth 2*: one folder below "
        "it. The policy is no GPT-2 XL (1.56 B parameters), as in the paper, but a head of some 2,000 "
        "trained weights on the frozen MiniLM (23 M); the reflector is the bundled one (2.6 M), frozen in "
        "every row, so that negatives are states of the policy's SFT alone. Repositories and questions are "
        "not the paper's either: rows can be compared with one another, and their order with the paper's."
    ),
    variants={
        "reflect-rl": {},
        "no-reflection": {"reflector.enabled": "false"},
        "no-negatives": {"tasks.negatives": "0.0"},
        "rlft-only": {"reflector.enabled": "false", "policy.enabled": "false"},
    },
    direct=("reflect-rl",),
    rows=(
        Row("SFT only", "no-reflection", "begin", paper=(4, 9)),
        Row("RLFT only", "rlft-only", paper=(12, 3)),
        Row("SFT + RLFT, no reflection", "no-reflection", paper=(20, 4)),
        Row("SFT with reflection, no RLFT", "reflect-rl", "begin"),
        Row("SFT with reflection, no negatives, no RLFT", "no-negatives", "begin"),
        Row("SFT + RLFT, no negatives", "no-negatives", paper=(33, 12)),
        Row(OURS, "reflect-rl", paper=(36, 17)),
        Row("Reflect-RL, no curriculum", "reflect-rl", rlft=DIRECT),
    ),
    prompted="Mistral 7B 34, 3; Llama-2 7B-chat 2, 1; Orca-2 7B 6, 1",
    curves={
        "negatives": (
            "success/all",
            {OURS: ("reflect-rl", ""), "no negatives": ("no-negatives", "")},
        ),
    },
)
