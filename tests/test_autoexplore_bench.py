"""The table of `repoagent bench autoexplore --preset`, small but whole, through the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.autoexplore.bench import TABLE
from repoagent.answer import answers
from repoagent.episode import Finished, play
from repoagent.explore import RepoEnvironment, Task
from repoagent.models import load_policy
from repoagent.repo import Repo

RECIPE = """
[benchmark]
name = "autoexplore"
depth = 2
repositories = 1
layouts = 1
horizon = 3
[tasks]
states = 12
negatives = 0.3
[teacher]
kind = "reflector"
[model]
base = "minilm"
reflector = "bundled"
[policy]
steps = 3
batch = 4
[rlft]
updates = 1
batch = 2
group = 2
evaluate_every = 1
"""


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repoagent", "bench", "autoexplore", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)


def small_trees(folder: Path) -> tuple[Path, Path]:
    """Trees and tasks of one repository per split, with a question at either depth."""
    for number, split in enumerate(("train", "validation", "test")):
        tree = folder / "trees" / f"me__r{number}"
        (tree / "net").mkdir(parents=True)
        (tree / "net" / "port.py").write_text(f"PORT = {number}\n")
        (tree / "limits.py").write_text(f"LIMIT = {number}\n")
        (tree / "notes.md").write_text("Nothing of interest.\n")
        (folder / "tasks" / split).mkdir(parents=True)
        rows = [
            {"id": gold, "repo": f"me/r{number}", "question": question, "gold": [gold], "span": None}
            for gold, question in (("net/port.py", "Which port?"), ("limits.py", "What is the limit?"))
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "tasks" / split / "one.jsonl").write_text(text)
    return folder / "trees", folder / "tasks"


def test_every_row_from_an_empty_folder_to_the_table(tmp_path: Path) -> None:
    trees, tasks = small_trees(tmp_path)
    (tmp_path / "minute.toml").write_text(RECIPE)
    arguments = ["--preset", "minute.toml", "--trees", trees, "--set", f"benchmark.tasks={tasks}"]
    arguments += ["--set", "tasks.states=4", "--seeds", 1, "--jobs", 2, "--out", "runs"]
    arguments += ["--output", "table.md", "--output", "table.json"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text, data = (tmp_path / "table.md").read_text(), json.loads((tmp_path / "table.json").read_text())
    assert list(data["rows"]) == [row.label for row in TABLE.rows]
    assert all(row.label in text for row in TABLE.rows) and "random" in text and "36, 17" in text
    assert "no GPT-2 XL" in text and "Llama-2 7B-chat 2, 1" in text
    for figures in data["rows"].values():
        assert figures["depth-1"]["success"]["n"] == figures["depth-2"]["success"]["n"] == 1
    for name in TABLE.curves:
        assert (tmp_path / f"table-{name}.png").read_bytes().startswith(b"\x89PNG")
    # What the rows differ in is what was trained: only the policy that reflects has read reflections.
    reflected, silent = (tmp_path / f"runs/{v}-0/reflections.jsonl" for v in ("reflect-rl", "no-reflection"))
    assert all(json.loads(x)["reflection"] for x in reflected.read_text().splitlines())
    assert not any(json.loads(x)["reflection"] for x in silent.read_text().splitlines())
    assert data["rows"]["Reflect-RL"]["cost"]["reflector_tokens"] > 0
    assert data["rows"]["RLFT only"]["cost"]["reflector_tokens"] == 0

    policy = load_policy(str(tmp_path / "runs/reflect-rl-0/rlft/best"))
    environment = RepoEnvironment(Repo.open(trees / "me__r2"))
    *_, last = play(environment, Task("Which port?"), policy)
    assert isinstance(last, Finished) and answers(environment, last.trajectory, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either TASKS"),
        (["tasks.jsonl", "--preset", "minilm"], "either TASKS"),
        (["tasks.jsonl"], "--trees"),
        (["--preset", "huge"], "no preset huge: use minilm"),
        (["--preset", "minilm", "--output", "table.txt"], "name it .md or .json"),
        (["--preset", "minilm", "--set", "rlft.update=3"], "did you mean 'updates'"),
        (["--preset", "minilm", "--set", "benchmark.deep=3"], "deep"),
        (["--preset", "minilm", "--trees", "nowhere"], "no tree of"),
        (["--preset", "minilm", "--set", "benchmark.name=taxi"], "not for autoexplore"),
        (["--preset", "minilm", "--set", "model.reflector=mine"], "model.reflector"),
        (["--preset", "minilm", "--set", 'model.reflector=""'], "set model.reflector=bundled"),
        (["--preset", "minilm", "--set", "rlft.batch=0"], "rlft.batch is 0"),
    ],
)
def test_wrong_arguments_are_one_line_before_anything_is_trained(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = run(*arguments, "--out", "runs", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
