"""The table of `repoagent bench taxi`, small but whole, through the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.readme import taxi
from benchmarks.taxi import bench
from tests.chat_server import completion, serving

RECIPE = """
[benchmark]
name = "taxi"
horizon = 6
[tasks]
states = 20
negatives = 0.3
[model]
width = 16
layers = 1
[reflector]
steps = 3
batch = 4
max_new_tokens = 4
[policy]
steps = 3
batch = 4
[rlft]
updates = 2
batch = 4
evaluate_every = 1
"""


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repoagent", "bench", "taxi", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)


def test_every_row_and_curve_and_a_second_call_trains_nothing(tmp_path: Path) -> None:
    (tmp_path / "minute.toml").write_text(RECIPE)
    arguments = ["--preset", "minute.toml", "--seeds", 1, "--out", "runs", "--no-saycan"]
    arguments += ["--output", "taxi.md", "--output", "taxi.json"]
    with serving(lambda body: completion("1")) as url:  # a model that always drives south
        done = run(*arguments, "--prompted", f"openai:{url}#south", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text, data = (tmp_path / "taxi.md").read_text(), json.loads((tmp_path / "taxi.json").read_text())
    assert list(data["rows"]) == [row.label for row in bench.ROWS]
    assert all(row.label in text for row in bench.ROWS) and "random" in text and "58, 29" in text
    (prompted,) = (label for label in data["others"] if label.startswith("prompted"))
    assert "south" in prompted and data["others"][prompted]["pickup"]["success"]["value"] == 0
    for figures in data["rows"].values():
        assert figures["pickup"]["success"]["n"] == 100 and 0 <= figures["pickup"]["success"]["value"] <= 1
    for name in bench.CURVES:
        assert (tmp_path / f"taxi-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "Reflect-RL" in taxi(tmp_path / "taxi.json")

    results = {p: p.read_bytes() for p in tmp_path.glob("runs/*/rlft*/best/*.safetensors")}
    assert len(results) == len(bench.VARIANTS) + len(bench.DIRECTLY)
    again = run(*arguments, "--set", "rlft.updates=3", cwd=tmp_path)
    assert again.returncode == 2 and "rlft.updates (2 -> 3)" in again.stderr
    assert {p: p.read_bytes() for p in results} == results


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "huge"], "no preset huge: use tiny"),
        (["--output", "table.txt"], "name it .md or .json"),
        (["--set", "rlft.update=3"], "did you mean 'updates'"),
        (["--prompted", "openai:nowhere"], "openai:"),
    ],
)
def test_bad_arguments_are_found_before_anything_is_trained(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = run(*arguments, "--out", "runs", cwd=tmp_path)
    assert done.returncode in (2, 3) and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
