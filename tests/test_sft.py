"""SFT on tiny real models and real states of the taxi."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.taxi.task import DangerousTaxi
from repoagent.errors import InputError
from repoagent.transformer import TransformerPolicy, TransformerReflector
from tests.tiny import make_tiny_causal_lm
from training.sft import SFTSettings, train_policy, train_reflector
from training.states import State, optimal, read_states, write_states

FAST = SFTSettings(steps=40, batch=6, learning_rate=5e-3, save_every=100, device="cpu")
EXACT = SFTSettings(steps=4, batch=8, learning_rate=1e-3, weight_decay=0.1, save_every=100, device="cpu")


def taxi_states() -> list[State]:
    taxi = DangerousTaxi()
    environment, rng = taxi.environment("pickup"), random.Random(0)
    states = [s for task in taxi.tasks("train")[:3] for s in optimal(environment, task, rng)]
    return [replace(s, reflection=taxi.reflection(s)) for s in states][:8]


STATES = taxi_states()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    texts = [s.reflection for s in STATES]
    return {a: make_tiny_causal_lm(root / a, a, texts=texts) for a in ("gpt2", "llama", "qwen2")}


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.name}/{name}": value
        for file in sorted((out / "model").glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def difference(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[k] - second[k]).abs().max()) for k in first)


def losses(out: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["learning_rate"]) for row in rows]


def right(model: Path, reflect: bool = True) -> list[bool]:
    policy = TransformerPolicy.from_folder(model, "cpu")
    rows = policy.distribution(
        [s.observation for s in STATES], [s.reflection if reflect else "" for s in STATES]
    )
    return [max(range(len(r)), key=r.__getitem__) in s.best for r, s in zip(rows, STATES, strict=True)]


def test_policy_learns_the_best_options(bases: dict[str, Path], tmp_path: Path) -> None:
    told: list[tuple[int, int, float]] = []
    model = train_policy(STATES, bases["gpt2"], FAST, tmp_path, report=lambda *row: told.append(row))
    logged = losses(tmp_path)
    assert [step for step, _, _ in logged] == list(range(1, 41))
    assert told == [(step, 40, loss) for step, loss, _ in logged]
    assert logged[-1][1] < 0.1 < 1 < logged[0][1]
    assert all(right(model))
    # A finished run is not run again.
    assert train_policy(STATES, "nowhere", FAST, tmp_path) == model
    assert losses(tmp_path) == logged


def test_first_loss_is_that_of_the_base_model(bases: dict[str, Path], tmp_path: Path) -> None:
    train_policy(STATES, bases["llama"], replace(EXACT, steps=1), tmp_path, reflect=False)
    policy = TransformerPolicy.from_folder(bases["llama"], "cpu")
    rows = policy.distribution([s.observation for s in STATES], [""] * len(STATES))
    chance = [torch.tensor(r)[list(s.best)].exp().sum() for r, s in zip(rows, STATES, strict=True)]
    assert losses(tmp_path)[0][1] == pytest.approx(-float(torch.stack(chance).log().mean()), abs=1e-5)


def test_reflector_reproduces_the_texts(bases: dict[str, Path], tmp_path: Path) -> None:
    few = [STATES[0], STATES[-1]]
    settings = replace(FAST, steps=100, batch=2, learning_rate=1e-2)
    model = train_reflector(few, bases["llama"], settings, tmp_path)
    reflector = TransformerReflector.from_folder(model, "cpu")
    assert reflector.reflect([s.observation for s in few]) == [s.reflection for s in few]
    last = -torch.stack(reflector.log_likelihood([s.observation for s in few], [s.reflection for s in few]))
    assert losses(tmp_path)[-1][1] == pytest.approx(float(last.mean()), rel=0.3)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_lora_trains_the_adapter_alone(arch: str, bases: dict[str, Path], tmp_path: Path) -> None:
    before = {f.name: f.read_bytes() for f in bases[arch].iterdir()}
    settings = replace(FAST, steps=3, lora_rank=4, bf16=True, gradient_checkpointing=True, save_every=3)
    model = train_policy(STATES, bases[arch], settings, tmp_path)
    assert all("lora" in name for name in weights(tmp_path))
    assert all("lora" in name for name in load_file(tmp_path / "checkpoint-3/model.safetensors"))
    assert {f.name: f.read_bytes() for f in bases[arch].iterdir()} == before
    assert len(right(model)) == len(STATES)
    assert any(v.abs().max() > 0 for name, v in weights(tmp_path).items() if "lora_B" in name)


def test_pointer_head_is_trained_and_saved(bases: dict[str, Path], tmp_path: Path) -> None:
    settings = replace(FAST, steps=2, head="pointer", save_every=1, lora_rank=2)
    train_policy(STATES, bases["qwen2"], settings, tmp_path)
    heads = [
        {k: v for k, v in load_file(tmp_path / f"checkpoint-{n}/model.safetensors").items() if "head." in k}
        for n in (1, 2)
    ]
    assert heads[0].keys() == heads[1].keys() and "head.query.weight" in heads[0]
    assert any(not torch.equal(heads[0][k], heads[1][k]) for k in heads[0])
    saved = load_file(tmp_path / "model/head.safetensors")
    assert all(torch.equal(heads[1][f"head.{k}"], v) for k, v in saved.items())


@pytest.mark.parametrize("train", [train_policy, train_reflector])
def test_accumulation_equals_a_larger_batch(train, bases: dict[str, Path], tmp_path: Path) -> None:
    train(STATES, bases["llama"], EXACT, tmp_path / "one")
    train(STATES, bases["llama"], replace(EXACT, batch=1, accumulation=8), tmp_path / "other")
    # Adam enlarges the rounding of the sums where a gradient is next to nothing.
    assert difference(tmp_path / "one", tmp_path / "other") < 1e-5
    train(STATES, bases["llama"], replace(EXACT, seed=1, batch=4), tmp_path / "different")
    assert difference(tmp_path / "one", tmp_path / "different") > 1e-4


SLOW = replace(EXACT, steps=24, batch=2, save_every=3, head="pointer", warmup=0.1)


def run_alone(base: Path, out: Path) -> None:
    torch.set_num_threads(1)
    train_policy(STATES, base, SLOW, out)


def test_a_killed_run_goes_on_where_it_was(bases: dict[str, Path], tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.sft", "tests.test_sft", "transformers.models.llama"])
    rng = random.Random()

    def start(out: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=run_alone, args=(bases["llama"], out))
        process.start()
        return process

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    process.join()
    assert process.exitcode == 0

    def saving() -> bool:
        return any(not (c / "whole").exists() for c in killed.glob("checkpoint-*"))

    def logged(lines: int) -> bool:
        file = killed / "metrics.jsonl"
        return file.is_file() and file.read_bytes().count(b"\n") >= lines

    for moment in (lambda: logged(2), saving, lambda: logged(11), lambda: logged(15)):
        process = start(killed)
        while not moment() and process.is_alive():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -9 and not (killed / "done.json").exists()
    broken = killed / "checkpoint-23"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"cut")
    process = start(killed)
    process.join()
    assert process.exitcode == 0
    assert difference(whole, killed) == 0
    assert losses(killed) == losses(whole)


def test_two_processes_equal_one(bases: dict[str, Path], tmp_path: Path) -> None:
    write_states(tmp_path / "states.jsonl", STATES)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.test_sft import EXACT, replace, train_policy\n"
        "from training.states import read_states\nroot = Path(sys.argv[1])\n"
        "states = read_states(root / 'states.jsonl')\n"
        "train_policy(states, sys.argv[2], replace(EXACT, batch=4), root / 'two')\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [*launch, str(script), str(tmp_path), str(bases["llama"])]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    train_policy(read_states(tmp_path / "states.jsonl"), bases["llama"], EXACT, tmp_path / "one")
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-5
    assert [s for s, _, _ in losses(tmp_path / "two")] == [1, 2, 3, 4]


def test_what_cannot_be_trained(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no best option"):
        train_policy([replace(STATES[0], best=())], bases["gpt2"], FAST, tmp_path)
    with pytest.raises(InputError, match="no reflection"):
        train_reflector([replace(STATES[0], reflection="")], bases["gpt2"], FAST, tmp_path)
    with pytest.raises(InputError, match="no states"):
        train_policy([], bases["gpt2"], FAST, tmp_path)
    with pytest.raises(InputError, match="lora_rank"):
        replace(FAST, quantization="8bit")


def test_generators_of_the_process_are_left_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    random.seed(7)
    torch.manual_seed(7)
    expected = random.random(), torch.rand(1).item()
    random.seed(7)
    torch.manual_seed(7)
    train_policy(STATES, bases["gpt2"], replace(FAST, steps=1), tmp_path)
    assert (random.random(), torch.rand(1).item()) == expected
