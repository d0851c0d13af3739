"""From tasks to trained players, small: packing, sampling, losses, training, resuming."""

import itertools
import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repoagent.encoder import EncoderPolicy
from repoagent.explore import FEATURES, RepoEnvironment
from repoagent.repo import Repo
from repoagent.writer import WriterReflector
from training import calibrate, sft_policy, sft_reflector, template_teacher
from training.pack import MaskedRepo, decisions, pack_rows

FILES = {
    "src/net/proxy.py": '"""Proxies."""\n\n\ndef parse_no_proxy(value):\n    return value.split(",")\n',
    "src/net/pool.py": "MAX_CONNECTIONS = 100\n\n\nclass Pool:\n    size = MAX_CONNECTIONS\n",
    "src/cli.py": "def main():\n    print('no proxy, no pool')\n",
    "docs/proxy.md": "# Proxy\n\nSet NO_PROXY to a list of hosts, separated by commas.\n",
    "README.md": "# Thing\n\nA client with a pool of connections.\n",
    "tests/test_pool.py": "def test_pool():\n    assert Pool().size == 100\n",
}
ROWS = [
    {
        "id": "t-1", "repo": "o/thing", "question": "where is the no_proxy list parsed?", "kind": "where",
        "gold": ["src/net/proxy.py"], "span": [4, 5],
        "plan": "Look in src/net.", "why": "It splits the value.",
        "distractors": [{"path": "docs/proxy.md", "reflection": "Only the documentation."}],
    },
    {
        "id": "t-2", "repo": "o/thing", "question": "how many connections may the pool open?",
        "kind": "config", "gold": ["src/net/pool.py"], "span": [1, 1],
        "plan": "A constant of the pool.", "why": "MAX_CONNECTIONS.", "distractors": [],
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    for path, text in FILES.items():
        target = folder / "o__thing" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder


@pytest.fixture(scope="module")
def pack(trees: Path) -> Path:
    out = trees / "pack.jsonl.gz"
    assert pack_rows(ROWS, trees, out) > 6
    return out


def test_decisions_follow_the_oracle_and_recover_from_wrong_files(trees: Path) -> None:
    env = RepoEnvironment(Repo.open(trees / "o__thing"))
    found = list(decisions(env, ROWS[0]))
    stages = [d.stage for d in found]
    assert stages[:3] == ["open0", "identify0", "lines0"]
    assert "open1" in stages and "identify1" in stages
    for decision in found:
        assert decision.best and max(decision.best) < len(decision.observation.options)
    said = {d.stage: d.reflection for d in found}
    assert said["open0"] == "Look in src/net."
    assert said["identify0"] == "It splits the value."
    # The negative: the teacher's distractor was opened, and its reflection says what is wrong.
    off = next(d for d in found if d.stage == "open1")
    assert off.observation.history == ("open docs/proxy.md",)
    assert off.reflection == "Only the documentation."
    for decision in found:
        if decision.stage.startswith("lines"):
            spans = [tuple(map(int, o.target.split("-"))) for o in decision.observation.options]
            assert all(spans[i][0] <= 5 and spans[i][1] >= 4 for i in decision.best)


def test_hidden_lines_are_blank_and_line_numbers_stay(trees: Path) -> None:
    repo = MaskedRepo(Repo.open(trees / "o__thing"), (("src/net/proxy.py", 1, 1),))
    assert "Proxies" not in repo.text("src/net/proxy.py")
    assert repo.lines("src/net/proxy.py")[3] == "def parse_no_proxy(value):"
    assert repo.text("docs/proxy.md") == FILES["docs/proxy.md"]
    assert [e.path for e in repo.files()] == [e.path for e in Repo.open(trees / "o__thing").files()]


def test_a_sample_holds_a_best_option_first_and_no_option_twice(pack: Path) -> None:
    rng = random.Random(0)
    for task in sft_policy.load_pack(pack):
        for decision in task["decisions"]:
            chosen = sft_policy.sample(decision, 3, rng)
            assert len(set(chosen)) == len(chosen) <= 5
            assert chosen[0] in decision["best"]
            assert all(i not in decision["best"] for i in chosen[2:] if len(decision["best"]) == 1)


def test_training_and_playing_see_the_same_scores(pack: Path, trees: Path) -> None:
    policy = EncoderPolicy.base(FEATURES)
    task = sft_policy.load_pack(pack)[0]
    decision = task["decisions"][0]
    everything = range(len(decision["options"]))
    with torch.inference_mode():
        (scores,) = sft_policy.scores_of(policy, task, [(decision, everything, "look")])
    observation = RepoEnvironment(Repo.open(trees / "o__thing")).reset(sft_policy_task(task))
    (played,) = policy.distribution([observation], ["look"])
    assert scores.log_softmax(0).tolist() == pytest.approx(played, abs=2e-3)  # features are rounded


def sft_policy_task(task):
    from repoagent.explore import Task

    return Task(task["question"], tuple(task["gold"]))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_policy_learns_saves_and_resumes(pack: Path, tmp_path: Path, bf16: bool) -> None:
    torch.set_num_threads(1)
    common = {"pack": (str(pack),), "batch": 2, "bf16": bf16, "negatives": 3, "rank": 2,
              "warm_start_tasks": 0, "save_every": 1, "head_learning_rate": 1e-3,
              "learning_rate": 1e-3, "warmup": 1, "seed": 3}  # fmt: skip
    tasks = sft_policy.load_pack(pack)
    before = sft_policy.evaluate(EncoderPolicy.base(FEATURES), tasks)
    sft_policy.train(sft_policy.Settings(epochs=4, **common), tmp_path / "run")
    trained = EncoderPolicy.from_folder(tmp_path / "run" / "last")
    assert sft_policy.evaluate(trained, tasks)["nll"] < before["nll"]
    # More epochs on the same folder go on where the last run ended.
    sft_policy.train(sft_policy.Settings(epochs=6, **common), tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "last" / "repoagent.json").read_text())
    assert manifest["training"]["steps"] == 6


def test_packs_are_drawn_by_weight_and_gone_through_whole() -> None:
    packs = [[{"id": f"a{i}"} for i in range(3)], [{"id": "b"}]]
    drawn = list(itertools.islice(sft_policy._order(packs, [3.0, 1.0], seed=1), 4000))
    counts = Counter(task["id"] for task in drawn)
    assert counts["b"] == pytest.approx(1000, abs=100)
    assert max(counts[f"a{i}"] for i in range(3)) - min(counts[f"a{i}"] for i in range(3)) <= 1


def test_the_warm_start_lowers_the_loss_of_the_head(pack: Path) -> None:
    torch.manual_seed(0)
    policy = EncoderPolicy.base(FEATURES)
    tasks = sft_policy.load_pack(pack)
    encoder = [p.clone() for p in policy.encoder.parameters()]
    loss = sft_policy.warm_start(policy, tasks, sft_policy.Settings(pack=()), random.Random(0))
    assert loss < 0.7
    assert all(torch.equal(a, b) for a, b in zip(encoder, policy.encoder.parameters(), strict=True))


def test_calibration_lowers_the_held_out_loss_and_is_saved(pack: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = sft_policy.Settings(pack=(str(pack),), epochs=1, batch=2, rank=1, warm_start_tasks=0)
    policy = sft_policy.train(settings, tmp_path / "run")
    tasks = sft_policy.load_pack(pack)
    data = calibrate.collect(policy, tasks)
    assert {d.stage for d in data} >= {"open0", "identify0", "open1"}
    # Five repositories with the same questions: what is learnt on four holds on the fifth.
    spread = [replace(d, repo=f"o/{i}") for i in range(5) for d in data]
    report = calibrate.calibrate(policy, spread)
    assert report["chosen"] != "unchanged"
    assert report[f"penalty {report['chosen']}"]["nll"] < report["before"]["nll"]
    assert report["temperature"] > 0
    source = tmp_path / "run" / "last"
    calibrate.write(source, policy, tmp_path / "calibrated", report)
    loaded = EncoderPolicy.from_folder(tmp_path / "calibrated")
    assert loaded.temperature == policy.temperature
    assert torch.equal(loaded.head.linear.weight, policy.head.linear.weight)
    assert not torch.equal(loaded.head.linear.weight, EncoderPolicy.from_folder(source).head.linear.weight)


def test_the_template_teacher_says_where_to_look_and_when_to_leave(pack: Path) -> None:
    (task, *_) = sft_policy.load_pack(pack)
    by_stage = {d["stage"]: d for d in task["decisions"]}
    assert "source file" in template_teacher.reflection(by_stage["open0"])
    assert "not it" in template_teacher.reflection(by_stage["open1"])
    assert template_teacher.reflection(by_stage["identify0"]) == template_teacher.FOUND


def test_the_reflector_learns_by_heart_and_is_loaded_as_it_was_saved(pack: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    settings = sft_reflector.Settings(
        pack=(str(pack),), epochs=150, batch=2, width=64, layers=2, heads=2, vocabulary=500,
        window=384, teacher="llm", templates=0.0, learning_rate=3e-3, prompt_loss=0.0,
    )  # fmt: skip
    folder = sft_reflector.train(settings, tmp_path / "run")
    reflector = WriterReflector.from_folder(folder)
    tasks = sft_policy.load_pack(pack)
    first = [sft_reflector.observation_of(t, t["decisions"][0]) for t in tasks]
    assert reflector.reflect(first) == ["Look in src/net.", "A constant of the pool."]
    assert sft_reflector.add_reflections(pack, reflector, tmp_path / "more.gz") > 6
    added = sft_policy.load_pack(tmp_path / "more.gz")
    assert added[0]["decisions"][0]["generated"] == "Look in src/net."
    manifest = json.loads((folder / "repoagent.json").read_text())
    assert manifest["training"]["steps"] == math.ceil(150 * len(taught(tasks)) / 2)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder).vocab_size <= 500
    assert AutoModelForCausalLM.from_pretrained(folder).config.hidden_size == 64


def taught(tasks):
    return [d for t in tasks for d in t["decisions"] if d["reflection"]]
