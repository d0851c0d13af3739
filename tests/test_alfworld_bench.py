"""The table of `repoagent bench alfworld`, small but whole, through the command, on generated games."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.alfworld.bench import MEASURED, PLAYED, SHORT, TABLE
from benchmarks.regimen import OURS

RECIPE = """
[benchmark]
name = "alfworld"
source = "generated"
games = 12
held_out = 6
horizon = 5
[tasks]
states = 12
negatives = 0.25
[model]
base = "scratch"
width = 16
layers = 1
heads = 2
window = 1024
head = "pointer"
[reflector]
steps = 2
batch = 2
max_new_tokens = 4
[policy]
steps = 2
batch = 2
[rlft]
updates = 1
batch = 2
group = 2
evaluate_every = 1
"""


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repoagent", "bench", "alfworld", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "ALFWORLD_DATA"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


def test_every_row_from_an_empty_folder_to_the_table(tmp_path: Path) -> None:
    (tmp_path / "minute.toml").write_text(RECIPE)
    arguments = ["--preset", "minute.toml", "--seeds", 1, "--jobs", 2, "--out", "runs"]
    arguments += ["--output", "table.md", "--output", "table.json"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text, data = (tmp_path / "table.md").read_text(), json.loads((tmp_path / "table.json").read_text())
    assert list(data["rows"]) == [row.label for row in TABLE.rows]
    assert all(row.label in text for row in TABLE.rows) and "| 74 " in text and "GiGPO" in text
    assert all(figures["task"]["success"]["n"] == 6 for figures in data["rows"].values())
    # Every player on both splits, greedy and sampled, and the expert once on each.
    assert len(data["played"]) == 2 * (2 * len(PLAYED) + 1)
    for played in data["played"]:
        assert played["all"]["n"] == 6 == sum(played[short]["n"] for short in SHORT.values())
        assert 1 <= played["steps"] <= 5
    experts = [played for played in data["played"] if played["player"] == "scripted expert"]
    assert {played["games"] for played in experts} == {"valid_seen", "valid_unseen"}
    # The protocol is printed with the result, with the horizon that was played.
    assert data["protocol"]["horizon"] == 5 and "- horizon: 5" in text and "- wording: ALFWorld 2.1.2" in text
    # The same command finds everything done: what was lost it measures anew, with the same outcome, and
    # what is there it takes as it is.
    path = tmp_path / "runs" / "reflect-rl-0" / "rlft" / MEASURED
    kept = json.loads(path.read_text())
    assert len(kept) == 8 and all(len(entries) == 6 for entries in kept.values())
    lost = kept.pop("best test sampled 1")
    kept["best validation greedy 1"][0]["steps"] += 600
    path.write_text(json.dumps(kept))
    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(path.read_text()) == kept | {"best test sampled 1": lost}
    assert "done (3 of 3" in again.stderr
    for before, after in zip(
        data["played"], json.loads((tmp_path / "table.json").read_text())["played"], strict=True
    ):
        changed = before["player"] == OURS and (before["games"], before["chosen"]) == ("valid_seen", "greedy")
        assert after["steps"] == pytest.approx(before["steps"] + 100 * changed)
        assert after | {"steps": 0} == before | {"steps": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ALFWORLD_DATA is not set"),
        (["--set", "benchmark.source=generated", "--set", "benchmark.colour=red"], "argument 'colour'"),
        (["--set", "benchmark.source=generated", "--set", "benchmark.types=3"], "not iterable"),
        (["--preset", "huge"], "no preset huge: use small"),
        (["--set", "benchmark.types=pick_and_fly"], "unknown kind of task 'pick_and_fly'"),
        (["--set", "benchmark.held_out=-1"], "benchmark.held_out is too small"),
        (["--set", "benchmark.name=taxi"], "not for alfworld"),
        (["--output", "table.txt"], "name it .md or .json"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_is_trained(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = run(*arguments, "--out", "runs", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
