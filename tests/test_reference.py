"""The speed of training: a real run with a tiny model, and the arithmetic of the comparison."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import reference
from benchmarks.autoexplore import task as explore
from benchmarks.reference import Figure, Setup
from repoagent.episode import play_batch
from repoagent.errors import InputError
from repoagent.players import RandomPolicy
from training.benchmark import check_stages, load_benchmark
from training.known import Asked
from training.states import optimal, perturbed

SMALL = Setup(
    width=32, layers=2, window=512, vocabulary=600, lora_rank=4, new_tokens=3,
    batch=16, rounds=2, horizon=3, decisions=3, sft_states=8, texts=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> reference.Bench:
    torch.set_num_threads(1)
    return reference.Bench(SMALL, tmp_path_factory.mktemp("bench"), lambda message: None)


# -- AutoExplore as a benchmark ---------------------------------------------------------------------


def test_generated_tree_has_the_reference_trees_size_and_is_the_same_for_a_seed(tmp_path: Path) -> None:
    found = [explore.grow(tmp_path / name, 5) for name in ("a", "b")]
    trees = [
        {p.relative_to(tmp_path / name).as_posix(): p.read_text() for p in (tmp_path / name).rglob("*.py")}
        for name in ("a", "b")
    ]
    assert trees[0] == trees[1] and found[0] == found[1] and len(trees[0]) == 288
    folders = [path.rpartition("/")[0] for path in trees[0]]
    assert max(map(folders.count, folders)) == 73
    assert all(task.gold[0] in trees[0] for task in found[0])
    assert explore.grow(tmp_path / "c", 6) != found[0]


def test_splits_share_no_repository_and_the_oracle_wins() -> None:
    benchmark = load_benchmark("autoexplore")
    repos = [{q.repo for q in benchmark.tasks(split)} for split in ("train", "validation", "test")]
    assert not repos[0] & repos[1] and not repos[0] & repos[2] and not repos[1] & repos[2]
    tasks = random.Random(0).sample(list(benchmark.tasks("train")), 6)
    environment = benchmark.environment("all")
    for task in tasks:
        states = optimal(environment, task, random.Random(1))
        kinds = [s.observation.options[s.best[0]].kind for s in states]
        assert kinds == ["go"] * (explore.depth(task) - 1) + ["open", "identify"]
        assert all(benchmark.reflection(s) for s in states)
        environment.reset(task)
        for state in states:
            result = environment.step(state.best[0])
        assert result.terminated and result.reward == 1
        assert result.info == {"all": True, f"depth-{explore.depth(task)}": True}


def test_depth_repositories_and_layouts() -> None:
    benchmark = load_benchmark("autoexplore", {"depth": 2, "repositories": 2, "layouts": 3})
    for split in ("train", "validation", "test"):
        assert {explore.depth(q) for q in benchmark.tasks(split)} == {1, 2}
    tasks = benchmark.tasks("train")
    assert len({q.repo for q in tasks}) == 2
    for task in tasks:
        assert benchmark.plays("all", task) and benchmark.plays("depth-1", task) == (explore.depth(task) == 1)
    environment = benchmark.environment("all")
    seen = [environment.reset(tasks[0], seed) for seed in range(6)]
    assert seen[:3] == seen[3:] and len(set(seen)) == 3
    with pytest.raises(InputError, match=r"benchmark\.depth is -1"):
        load_benchmark("autoexplore", {"depth": -1})


def test_a_stage_without_tasks_is_refused() -> None:
    benchmark = load_benchmark("autoexplore")
    check_stages(benchmark, benchmark.stages)
    benchmark.tasks = lambda split: [q for q in load_benchmark("autoexplore").tasks(split)  # type: ignore[method-assign]
                                     if explore.depth(q) > 1]  # fmt: skip
    with pytest.raises(InputError, match="'depth-1' of autoexplore has no tasks in the split train"):
        check_stages(benchmark, benchmark.stages)


def test_a_state_off_the_path_can_be_taught_and_names_the_mistake() -> None:
    benchmark = load_benchmark("autoexplore")
    environment = benchmark.environment("all")
    rng = random.Random(2)
    found = [perturbed(environment, task, rng) for task in benchmark.tasks("validation")[:8]]
    states = [s for s in found if s is not None]
    assert len(states) >= 6
    for state in states:
        text = benchmark.reflection(state)
        assert "mistake" in text and not re.search(r"\w\.py|/", text)
        up = all(len(state.observation.options[i].target) < len(state.observation.location)
                 for i in state.best)  # fmt: skip
        assert ("go back up" in text) == up


def test_outcomes_tell_the_depth_and_chance_seldom_wins() -> None:
    benchmark = load_benchmark("autoexplore")
    tasks = list(benchmark.tasks("test"))[:20]
    environments = [benchmark.environment("all") for _ in tasks]
    played = play_batch(environments, tasks, RandomPolicy(), seeds=list(range(20)))
    outcomes = [benchmark.outcomes(t) for t in played]
    won = [dict(o) for o in outcomes]
    assert won == [
        {"all": o["all"], f"depth-{explore.depth(t)}": o["all"]} for o, t in zip(won, tasks, strict=True)
    ]
    assert sum(o["all"] for o in outcomes) < 5
    assert max(len(t.steps) for t in played) <= 15 and len({len(t.steps) for t in played}) > 2


def test_trees_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "trees" / "me__mine" / "src").mkdir(parents=True)
    (tmp_path / "trees" / "me__mine" / "src" / "port.py").write_text("PORT = 80\n")
    (tmp_path / "tasks" / "train").mkdir(parents=True)
    row = {"id": "1", "repo": "me/mine", "question": "which port?", "gold": ["src/port.py"], "span": None}
    (tmp_path / "tasks" / "train" / "one.jsonl").write_text(json.dumps(row) + "\n")
    folders = {"trees": str(tmp_path / "trees"), "tasks": str(tmp_path / "tasks")}
    benchmark = load_benchmark("autoexplore", folders)
    states = optimal(benchmark.environment("all"), benchmark.tasks("train")[0], random.Random(0))
    assert [s.observation.options[s.best[0]].text for s in states] == [
        "go src/", "open src/port.py", "identify src/port.py",
    ]  # fmt: skip
    (tmp_path / "trees" / "me__mine").rename(tmp_path / "trees" / "other")
    with pytest.raises(InputError, match="no tree of me/mine"):
        load_benchmark("autoexplore", folders).tasks("train")


# -- what is measured -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["taxi", "autoexplore"])
def test_the_memory_of_equal_states_changes_no_episode(name: str, tried: reference.Bench) -> None:
    played, asked_for = [], []
    for each in (True, False):
        trainer = tried.trainer(name, 6, 12, reflect=True, each=each)
        written = trainer.reflector.reflector
        before = written.tokens
        asked = Asked(reference.ValidPolicy(trainer.policy), None, 64)
        ((*decisions,),), totals = trainer._play(asked)
        played.append([(d.key[0], str(d.key[1]), d.action, d.advantage) for d in decisions])
        asked_for.append((len(asked.known), written.tokens - before))
        assert totals["steps"] == len(decisions) == 12 * 6
    assert played[0] == played[1]
    # Asked anew, every decision is a state of its own; else equal ones are one.
    different = len({(o, r) for o, r, _, _ in played[0]})
    assert asked_for[0][0] == 12 * 6 and asked_for[1][0] == different
    assert asked_for[1][1] <= asked_for[0][1] and (name != "taxi" or different < 12 * 6)


def test_taxis_valid_options_are_the_legal_ones(tried: reference.Bench) -> None:
    environment = load_benchmark("taxi", {"horizon": 40}).environment("dropoff")
    rng = random.Random(3)
    picked = 0
    for task in load_benchmark("taxi").tasks("train")[:40]:
        observation = environment.reset(task)
        for _ in range(40):
            row = reference._uniform(observation)
            allowed = [i for i in range(6) if row[i] > -torch.inf]
            assert allowed and 5 not in allowed and row.exp().sum() == pytest.approx(1)
            index = 4 if 4 in allowed else rng.choice(allowed)
            picked += index == 4
            result = environment.step(index)
            assert "illegal" not in result.info
            observation = result.observation
            if result.done:
                break
    assert picked > 3


def test_the_update_merges_equal_states_into_one_pass(tried: reference.Bench) -> None:
    read = {}
    for each in (True, False):
        trainer = tried.trainer("taxi", 8, 8, reflect=False, each=each)
        asked = Asked(reference.ValidPolicy(trainer.policy), None, 64)
        batches, _ = trainer._play(asked)
        before = trainer.policy.tokens
        trainer._learn(asked, batches)
        read[each] = trainer.policy.tokens - before
    assert 0 < read[False] < read[True]


def test_a_whole_run_measures_every_figure_of_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "speed.md", tmp_path / "speed.json"]
    reference.bench(SMALL, None, files)
    data = json.loads(files[1].read_text())
    rows = data["rows"]
    assert {row["against"] for row in rows} >= set(reference.REFERENCE["figures"])
    for row in rows:
        assert row["count"] > 0 and row["seconds"] > 0
        assert row["rate"] == pytest.approx(row["count"] / row["seconds"])
        first = int(re.findall(r"\d+", row["how"])[0])  # of the batch, or of the update's episodes
        if row["what"].startswith("rollout"):
            assert row["count"] == first * 3 * (2 if row["how"].endswith("updates 1 to 2") else 1)
            assert row["tokens"] > 0
        elif row["what"].startswith("update"):
            assert row["count"] == first * 3 and row["tokens"] > 0
        assert row["ratio"] == pytest.approx(row["rate"] / row["reference"])
        assert ("goal" in row) == (not row["what"].startswith("sft"))
    shown = capsys.readouterr().out
    assert shown.strip() in files[0].read_text() and "512 tokens" in shown


# -- the comparison ---------------------------------------------------------------------------------


def test_ratios_are_calibrated_by_both_ends_of_the_references_forward_pass() -> None:
    theirs = {
        "source": "a test",
        "forward_ms": [100.0, 200.0],
        "figures": {"rollout taxi, batch 1": 5.0, "rollout taxi, batch 8": 10.0, "sft policy, batch 1": 4.0},
    }
    figures = [
        Figure("rollout taxi", "one by one", "steps", 100, 1.0, "rollout taxi, batch 1"),
        Figure("rollout taxi", "ours", "steps", 150, 1.0, "rollout taxi, best"),
        Figure("sft policy", "", "tokens", 8, 1.0, "sft policy, batch 1"),
        Figure("update taxi", "", "decisions", 8, 1.0, "update taxi, batch 1"),
    ]
    # Our machine does the same forward pass in 100 ms: as fast as theirs at best, twice as fast at worst.
    one, best, sft, unknown = reference.compare(figures, [90.0, 110.0], theirs)
    assert one["ratio"] == 20 and one["calibrated"] == [10, 20] and one["verdict"] == "met"
    assert best["ratio"] == 15 and best["calibrated"] == [7.5, 15] and best["verdict"] == "between"
    assert sft["ratio"] == 2 and "verdict" not in sft and "ratio" not in unknown
    (slower,) = reference.compare([replace(figures[0], seconds=4.0)], [100.0], theirs)
    assert slower["ratio"] == 5 and slower["verdict"] == "missed"
    text = reference.report(figures, [90.0, 110.0], theirs)
    assert "7.5 to 15.0" in text and "100 to 200 ms" in text and "a test" in text


def test_figures_measured_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(
        json.dumps({"source": "here", "forward_ms": [50], "figures": {"update taxi, batch 1": 2}})
    )
    assert reference.reference(file)["figures"] == {"update taxi, batch 1": 2.0}
    for text in ("[]", "{", '{"source": "", "forward_ms": [0], "figures": {"a": 1}}'):
        file.write_text(text)
        with pytest.raises(InputError, match="no figures of a reference"):
            reference.reference(file)
    with pytest.raises(InputError, match="cannot read"):
        reference.reference(tmp_path / "none.json")
