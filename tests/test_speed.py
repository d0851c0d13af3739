"""The speed benchmark, small, through the public command."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import speed


def test_the_same_seed_grows_the_same_repository_and_holds_the_answer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (speed.grow(tmp_path / name, 30, 7) for name in ("a", "b"))
    assert first == second
    assert "MAX_UPLOAD_RETRIES" in (tmp_path / "a" / first).read_text()
    trees = [
        {p.relative_to(tmp_path / n): p.read_text() for p in (tmp_path / n).rglob("*.py")} for n in ("a", "b")
    ]
    assert trees[0] == trees[1] and len(trees[0]) == 30


def test_bench_speed_measures_processes_and_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    command = [sys.executable, "-m", "repoagent", "bench", "speed", "--files", "20", "--runs", "1"]
    done = subprocess.run([*command, "--output", out], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (timing,) = json.loads(out.read_text())["timings"]
    assert timing["files"] == 20 and timing["right"]
    assert timing["ask"] > timing["scan"] > 0
    assert timing["peak"] > 100 and timing["cpu"] > 0.5
    assert "peak MiB" in done.stdout
