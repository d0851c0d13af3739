"""Fine-tuning on one repository: what is trained and put back, and that both stages learn."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from repoagent.errors import InputError
from repoagent.memory import Memory, Note, words
from repoagent.models import CHECKPOINTS, load_policy
from repoagent.repo import Repo
from training.pack import pack_task
from training.tune_fit import (
    FitSettings,
    Trainee,
    environment_of,
    episode,
    loss_of,
    outcomes,
    reinforced,
    settle_temperature,
    supervised,
    task_of,
)

MODULES = {"harbour": "crane", "kitchen": "oven", "orchestra": "violin", "garden": "rake"}
QUICK = FitSettings(epochs=2.0, warmup=1, looks=1, batch=2)


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    root = tmp_path_factory.mktemp("tree")
    for name, word in MODULES.items():
        (root / f"{name}.py").write_text(
            f'def use_{word}(item):\n    """Polish it."""\n    return {word}(item)\n'
        )
    return Repo.open(root)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Questions that no word of the answer stands in."""
    asked = {"harbour": "who unloads ships?", "kitchen": "where is bread baked?",
             "orchestra": "what plays melodies?", "garden": "how are leaves collected?"}  # fmt: skip
    return [
        {"id": name, "repo": "", "kind": "mined-doc", "question": question, "gold": [f"{name}.py"],
         "span": None, "hide": [[f"{name}.py", 2, 2]]}
        for name, question in asked.items()
    ]  # fmt: skip


@pytest.fixture(scope="module")
def packs(repo: Repo, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [pack_task(environment_of(repo, row), row) for row in rows]


@pytest.fixture(scope="module")
def fresh(rows: list[dict[str, Any]]) -> Trainee:
    """The trainee as it comes, in single precision so that figures can be compared; tests put it back."""
    memory = Memory(Note(words(f"Collect {r['question']}"), tuple(r["gold"]), i) for i, r in enumerate(rows))
    made = Trainee(CHECKPOINTS / "policy", memory)
    made.bf16 = made.policy.bf16 = False
    return made


@pytest.fixture
def trainee(fresh: Trainee) -> Any:
    state = fresh.state()
    temperature = fresh.policy.temperature
    yield fresh
    fresh.put_back(state)
    fresh.policy.temperature = temperature
    fresh.policy._vectors.clear()


def first(repo: Repo, row: dict[str, Any]) -> Any:
    return environment_of(repo, row).reset(task_of(row))


def shake(trainee: Trainee) -> None:
    """As if something had been learnt."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in [*trainee.adapter, *trainee.policy.head.parameters(), trainee.policy.memory_weight]:
            p.add_(0.02 * torch.randn_like(p))


def test_the_adapter_the_head_and_the_memory_are_trained_and_the_encoder_is_not(trainee: Trainee) -> None:
    names = [n for n, p in trainee.policy.encoder.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names) and len(names) == len(trainee.adapter)
    assert all(p.requires_grad for p in trainee.policy.head.parameters())
    assert trainee.policy.memory_weight.requires_grad
    assert len(trainee.state()) == len(names) + len(list(trainee.policy.head.parameters())) + 1


def test_what_was_learnt_can_be_put_back(trainee: Trainee, packs: list[dict[str, Any]]) -> None:
    state, before = trainee.state(), loss_of(trainee.policy, packs, False)
    copy = {name: value.clone() for name, value in state.items()}
    shake(trainee)
    assert loss_of(trainee.policy, packs, False)[0] != pytest.approx(before[0])
    assert all(torch.equal(state[name], copy[name]) for name in state), (
        "a state is no view of what is trained"
    )
    trainee.put_back(state)
    assert loss_of(trainee.policy, packs, False) == before


def test_it_begins_as_the_bundled_policy(trainee: Trainee, repo: Repo, rows: list[dict[str, Any]]) -> None:
    bundled = load_policy("encoder")
    bundled.bf16 = False  # type: ignore[attr-defined]
    with torch.no_grad():
        trainee.policy.memory_weight.zero_()
    for row in rows[:2]:
        seen = first(repo, row)
        expected, found = (p.distribution([seen], [""])[0] for p in (bundled, trainee.policy))
        assert found == pytest.approx(expected, abs=0.02)


def test_the_player_plays_as_the_policy_that_was_trained(
    trainee: Trainee, repo: Repo, rows: list[dict[str, Any]]
) -> None:
    shake(trainee)
    player = trainee.player()
    player.policy.bf16 = False
    assert not any(p.requires_grad for p in player.policy.encoder.parameters())
    for row in rows[:2]:
        seen = first(repo, row)
        trained, merged, cached = (
            p.distribution([seen], [""])[0] for p in (trainee.policy, player.policy, player)
        )
        assert merged == pytest.approx(trained, abs=0.03)
        assert cached == pytest.approx(merged, abs=0.03)
    with torch.no_grad():
        player.policy.memory_weight += 1
    assert not torch.equal(player.policy.memory_weight, trainee.policy.memory_weight), "its own weights"


def test_a_player_that_is_saved_comes_back(
    trainee: Trainee, repo: Repo, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    shake(trainee)
    player = trainee.player()
    player.policy.temperature = 1.25
    player.save(tmp_path / "model")
    again = load_policy(str(tmp_path / "model"))
    again.bf16 = player.policy.bf16 = False  # type: ignore[attr-defined]
    seen = first(repo, rows[0])
    expected, found = (p.distribution([seen], [""])[0] for p in (player.policy, again))
    assert found == pytest.approx(expected, abs=1e-3)
    assert again.memory.notes == player.policy.memory.notes  # type: ignore[attr-defined, union-attr]


# -- supervised --------------------------------------------------------------------------------


def test_sft_lowers_the_loss_of_a_few_tasks(trainee: Trainee, packs: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        trainee.policy.memory_weight.zero_()
    before, _ = loss_of(trainee.policy, packs, False)
    said: list[str] = []
    found = supervised(trainee, packs, packs, 1e6, QUICK, 0, said.append)
    after, _ = loss_of(trainee.policy, packs, False)
    assert after < before - 0.05 and found["validation loss"] == pytest.approx(after, abs=1e-3)
    assert found["steps"] == math.ceil(2.0 * len(packs) / 2)
    assert said[0].endswith("before") and "SFT: step 4" in said[-1]


@pytest.mark.parametrize(("seconds", "epochs"), [(0.0, 3.0), (-5.0, 3.0), (1e6, 0.0)])
def test_sft_without_time_or_epochs_changes_nothing(
    trainee: Trainee, packs: list[dict[str, Any]], seconds: float, epochs: float
) -> None:
    state = trainee.state()
    found = supervised(trainee, packs[:1], packs[:1], seconds, FitSettings(epochs=epochs), 0, quiet)
    assert found["steps"] == 0
    assert all(torch.equal(state[n], value) for n, value in trainee.state().items())


def test_sft_that_makes_it_worse_is_undone(trainee: Trainee, packs: list[dict[str, Any]]) -> None:
    wild = FitSettings(epochs=2.0, warmup=1, looks=2, batch=1, memory_rate=2.0)
    wrong = [
        pack | {"decisions": [d | {"best": [len(d["options"]) - 1]} for d in pack["decisions"]]}
        for pack in packs[:2]
    ]
    state, before = trainee.state(), loss_of(trainee.policy, packs[:2], False)
    said: list[str] = []
    supervised(trainee, wrong, packs[:2], 1e6, wild, 0, said.append)
    losses = [float(text.split("loss ")[1].split(",")[0]) for text in said]
    assert len(losses) >= 2 and max(losses) > losses[0], "it did get worse on the way"
    if min(losses) == losses[0]:
        assert all(torch.equal(state[n], value) for n, value in trainee.state().items())
    assert loss_of(trainee.policy, packs[:2], False)[0] <= before[0]


@pytest.mark.parametrize("epochs", [math.nan, math.inf, -1.0])
def test_epochs_that_are_no_number_are_refused(epochs: float) -> None:
    with pytest.raises(InputError, match="--epochs"):
        FitSettings(epochs=epochs)


def test_the_temperature_makes_the_first_decisions_likeliest(
    trainee: Trainee, packs: list[dict[str, Any]]
) -> None:
    policy = trainee.policy
    few = packs[:2]
    settle_temperature(policy, few)
    settled, best = policy.temperature, loss_of(policy, few, False)[0]
    for other in (0.7, 1.0, 2.0):
        policy.temperature = other
        assert best <= loss_of(policy, few, False)[0] + 1e-6
    with torch.no_grad():  # a memory that is sure of the wrong files
        policy.memory_weight.copy_(-3 * policy.memory_weight)
    settle_temperature(policy, few)
    assert policy.temperature > settled, "who is wrong had better be less sure"


# -- episodes and reinforcement ----------------------------------------------------------------


def test_what_gives_the_answer_away_is_hidden_while_playing(repo: Repo, rows: list[dict[str, Any]]) -> None:
    row = rows[0]
    hidden = environment_of(repo, row).repo
    assert b"Polish" not in hidden.read_bytes("harbour.py") and b"use_crane" in hidden.read_bytes(
        "harbour.py"
    )
    assert b"Polish" in hidden.read_bytes("garden.py")
    assert environment_of(repo, {**row, "hide": []}).repo is repo
    assert task_of({**row, "span": [1, 3]}).span == (1, 3)


def test_outcomes_tell_right_from_wrong(trainee: Trainee, repo: Repo, rows: list[dict[str, Any]]) -> None:
    told: list[tuple[int, int]] = []
    right = outcomes(repo, rows, trainee.policy, lambda done, total: told.append((done, total)))
    wrong = [{**row, "gold": ["nowhere.py"]} for row in rows]
    assert told == [(i, len(rows)) for i in range(1, len(rows) + 1)]
    assert any(found for found, _ in right)
    assert not any(found for found, _ in outcomes(repo, wrong, trainee.policy))
    for found, total in right:
        assert (total > 0) == found


def test_an_episode_is_greedy_or_drawn_with_a_seed(
    trainee: Trainee, repo: Repo, rows: list[dict[str, Any]]
) -> None:
    row = rows[0]
    trainee.policy.temperature = 20.0  # else it is as good as sure in so small a tree

    def way(seed: int | None) -> list[int]:
        trajectory = episode(environment_of(repo, row), task_of(row), trainee.policy, seed)
        return [step.index for step in trajectory.steps]

    assert way(None) == way(None) and way(3) == way(3)
    assert len({tuple(way(seed)) for seed in range(12)}) > 1


def test_rlft_raises_the_return_where_one_file_always_pays(
    trainee: Trainee, repo: Repo, rows: list[dict[str, Any]]
) -> None:
    """A bandit: whatever is asked, the answer is the file that the memory speaks of most."""
    trainee.policy.memory = Memory(Note(words(f"note number {i}"), ("garden.py",), i) for i in range(9))
    player = trainee.player()
    with torch.no_grad():
        player.policy.memory_weight.zero_()
    pays = [{**row, "gold": ["garden.py"]} for row in rows[:2]]

    def mean() -> float:
        rng = random.Random(7)
        drawn = [
            episode(environment_of(repo, row), task_of(row), player, rng.randrange(1 << 30)).total
            for row in pays
            for _ in range(12)
        ]
        return sum(drawn) / len(drawn)

    before, frozen = mean(), [p.clone() for p in player.policy.encoder.parameters()]
    fast = FitSettings(epochs=6.0, group=6, groups=2, rl_head_rate=5e-3, rl_memory_rate=0.3, kl=0.01)
    said: list[str] = []
    found = reinforced(player, repo, pays, 1e6, fast, 0, said.append)
    assert mean() > before + 0.2
    assert found["updates"] == 6 == len(said)
    assert float(player.policy.memory_weight[3]) > 0.3, "what is often spoken of is worth something"
    assert all(map(torch.equal, frozen, player.policy.encoder.parameters()))
    assert not player.policy.memory_weight.requires_grad


def test_rlft_without_time_plays_nothing(trainee: Trainee, repo: Repo, rows: list[dict[str, Any]]) -> None:
    player = trainee.player()
    before = [p.detach().clone() for p in player.parameters()]
    for seconds, epochs in ((0.0, 4.0), (-1.0, 4.0), (1e6, 0.0)):
        found = reinforced(player, repo, rows, seconds, FitSettings(epochs=epochs), 0, quiet)
        assert found["updates"] == 0
    assert all(map(torch.equal, before, player.parameters()))
