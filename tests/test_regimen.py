"""The regimen through the command: what must not depend on batches, processes and interruptions."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.forked import ENVIRONMENT, Forked
from training.metrics import read_metrics
from training.states import read_states

MINUTE = """
[run]
threads = 1
[benchmark]
name = "taxi"
horizon = 12
[tasks]
states = 80
[model]
width = 16
layers = 1
heads = 2
vocabulary = 320
[reflector]
steps = 20
learning_rate = 1e-2
max_new_tokens = 12
[policy]
steps = 60
learning_rate = 1e-2
[rlft]
updates = 4
batch = 8
group = 4
learning_rate = 3e-3
evaluate_every = 2
advance_after = 2
"""
VOLATILE = ("seconds", "steps_per_second", "policy_tokens", "reflector_tokens")


def train(*arguments: str | Path, launch: int = 0) -> subprocess.CompletedProcess[str]:
    """``python -m repoagent train ...``, in that many processes if any."""
    start = [sys.executable, "-m"]
    if launch:
        # `--multi_gpu` chooses the launcher of several processes; without CUDA they talk through gloo.
        # `accelerate launch --cpu` begins one process where there is no MPI.
        start += ["accelerate.commands.launch", "--multi_gpu", f"--num_processes={launch}"]
        start += [
            "--num_machines=1",
            "--mixed_precision=no",
            "--dynamo_backend=no",
            "--main_process_port=0",
            "-m",
        ]
    command = [*start, "repoagent", "train", *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)


def sets(**keys: Any) -> list[str]:
    """``--set`` of keys of [rlft]."""
    return [part for k, v in keys.items() for part in ("--set", f"rlft.{k}={json.dumps(v)}")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def difference(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[k] - second[k]).abs().max()) for k in first)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in read_metrics(folder)]


def assert_close(one: Path, other: Path, start: Path) -> None:
    """Both runs measured the same and ended in the same weights, which are not those they began with."""
    first, second = rows(one), rows(other)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, abs=1e-4, rel=1e-4)
    assert difference(one / "last", other / "last") < 1e-5
    assert difference(one / "best", other / "best") < 1e-5
    assert difference(one / "last", start) > 1e-3


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and not f.name.startswith("events.")
    }


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages, in a process of its own."""
    folder = tmp_path_factory.mktemp("regimen")
    recipe = folder / "minute.toml"
    recipe.write_text(MINUTE)
    done = train("run", "--recipe", recipe, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert "before RLFT: success/pickup" in done.stdout and "after RLFT: success/pickup" in done.stdout
    return folder / "run"


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    with Forked() as run:
        yield run


@pytest.fixture
def out(taught: Path, tmp_path: Path) -> Path:
    """A copy of that run before RLFT."""
    copy = tmp_path / "run"
    shutil.copytree(taught, copy, ignore=shutil.ignore_patterns("rlft*", "table*", "checkpoint-*"))
    return copy


def test_run_does_all_stages_once(taught: Path, tmp_path: Path) -> None:
    states = {name: read_states(taught / f"{name}.jsonl") for name in ("tasks", "reflections", "negatives")}
    assert {name: len(s) for name, s in states.items()} == {"tasks": 56, "reflections": 56, "negatives": 24}
    assert all(s.reflection and not s.mistake for s in states["reflections"])
    assert all(s.reflection and s.mistake for s in states["negatives"])
    for player in ("reflector/model", "policy/model", "rlft/best", "rlft/last"):
        assert (taught / player / "repoagent.json").is_file()
    results = json.loads((taught / "rlft/results.json").read_text())
    assert {label: len(found["rows"]) for label, found in results.items()} == {"begin": 100, "best": 100}
    updates = [r["update"] for r in read_metrics(taught / "rlft") if r["kind"] == "train"]
    assert updates == [1, 2, 3, 4]

    before = everything(taught)
    again = train("run", "--out", taught)  # the recipe is known
    assert again.returncode == 0, again.stderr
    assert everything(taught) == before
    plotted = train("plot", taught / "rlft", "--out", tmp_path / "curves.png")
    assert plotted.returncode == 0, plotted.stderr
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


VARIANTS = {
    "leave-one-out": {},
    "ppo-critic-kl-replay": {
        "trainer": "ppo",
        "baseline": "critic",
        "gae": 0.9,
        "kl": 0.05,
        "entropy": 0.01,
        "replay": 0.3,
        "focus": 0.3,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_accumulation_equals_a_larger_batch(variant: str, out: Path, forked: Forked, tmp_path: Path) -> None:
    for name, batch, accumulation in (("whole", 8, 1), ("parts", 1, 8)):
        keys = sets(batch=batch, accumulation=accumulation, **VARIANTS[variant])
        code, text = forked("train", "rlft", "--out", out, "--name", name, *keys, log=tmp_path / "log")
        assert code == 0, text
    assert_close(out / "rlft-whole", out / "rlft-parts", out / "policy/model")
    found = rows(out / "rlft-whole")
    # The stages changed, and sampling and update agreed on every probability.
    assert [r["stage"] for r in found if r["kind"] == "train"] == ["pickup"] * 2 + ["dropoff"] * 2
    assert all(r["ratio_error"] < 1e-5 for r in found if r["kind"] == "train")


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_equal_one(variant: str, out: Path, forked: Forked, tmp_path: Path) -> None:
    keys = VARIANTS[variant]
    one = sets(batch=8, **keys)
    code, text = forked("train", "rlft", "--out", out, "--name", "one", *one, log=tmp_path / "log")
    assert code == 0, text
    two = sets(batch=4, **keys)
    done = train("rlft", "--out", out, "--name", "two", *two, launch=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best policy in") == 1
    assert_close(out / "rlft-one", out / "rlft-two", out / "policy/model")


KILLS = 20


def test_twenty_kills_change_nothing(out: Path, forked: Forked, tmp_path: Path) -> None:
    keys = sets(
        updates=60, batch=4, group=2, evaluate_every=4, save_every=2, advance_after=24,
        baseline="critic", kl=0.02, entropy=0.01, replay=0.3, focus=0.3,
    )  # fmt: skip

    def start(name: str, **options: Any) -> tuple[int, str]:
        return forked("train", "rlft", "--out", out, "--name", name, *keys, log=tmp_path / "log", **options)

    code, text = start("whole")
    assert code == 0, text
    killed, rng = out / "rlft-killed", random.Random()
    update = read_metrics(out / "rlft-whole")[-2]["seconds"] / 60

    def lines() -> int:
        file = killed / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.is_file() else 0

    def moment(number: int) -> None:
        """Between the begin of the process and an update or two later."""
        begun, before = time.monotonic(), lines()
        if number % 5 == 0:
            time.sleep(rng.uniform(0.05, 1))
            return
        # Resuming cuts the file, so that only a new row makes it longer than it was cut to.
        cut = before
        while (now := lines()) <= cut and time.monotonic() < begun + 60:
            cut = min(cut, now)
        if number % 5 == 1:
            while not (killed / "checkpoint.part").exists() and time.monotonic() < begun + 60:
                pass
        else:
            time.sleep(rng.uniform(0, 2 * update))

    for number in range(KILLS):
        code, text = start("killed", kill_when=lambda number=number: moment(number))
        assert code == -9, f"kill {number} came too late: {text}"
        assert not (killed / "done.json").exists()
    code, text = start("killed")
    assert code == 0, text
    assert rows(killed) == rows(out / "rlft-whole")
    for policy in ("best", "last"):
        assert difference(killed / policy, out / "rlft-whole" / policy) == 0
    assert difference(killed / "last", out / "policy/model") > 1e-3
