"""The gradients of RLFT's own code against exact ones, in an environment of three states."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from repoagent.episode import Trajectory
from repoagent.errors import InputError
from tests import three_states as three
from training import rlft
from training.advantages import advantages, generalized, returns_to_go
from training.curriculum import Curriculum
from training.known import Asked
from training.rlft import Settings, Trainer

EXACT = three.finite_differences(three.expected_return, three.behaviour())


@pytest.fixture
def policy() -> three.Tabular:
    return three.Tabular(three.behaviour())


def asked(trainer: Trainer) -> Asked:
    return Asked(trainer.policy, trainer.critic, 64)


def gradient(policy: three.Tabular) -> torch.Tensor:
    """The ascent direction that the last step took."""
    assert policy.theta.grad is not None
    return -policy.theta.grad.clone()


def play_these(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, episodes: Sequence[Trajectory]) -> None:
    """Replaces chance: the batch is ``episodes``, whose states the policy is asked for as in playing."""

    def play(_: Any, tasks: Sequence[Any], players: Asked, *__: Any, **___: Any) -> list[Trajectory]:
        assert len(tasks) == len(episodes)
        for episode in episodes:
            players.distribution([s.observation for s in episode.steps], [""] * len(episode.steps))
        return list(episodes)

    monkeypatch.setattr(rlft, "play_batch", play)


def test_exact_gradient_by_autograd_agrees_with_finite_differences(policy: three.Tabular) -> None:
    # What the other tests are measured by.
    three.expected_return(policy.theta).backward()
    assert policy.theta.grad is not None and torch.allclose(policy.theta.grad, EXACT, atol=1e-9)
    assert EXACT.abs().max() > 0.1


@pytest.mark.parametrize("baseline", ["none", "batch", "critic"])
@pytest.mark.parametrize("trainer", ["reinforce", "ppo"])
def test_expected_gradient_is_that_of_the_return(
    trainer: str,
    baseline: str,
    policy: three.Tabular,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = three.make_trainer(
        policy, tmp_path, batch=64, baseline=baseline, trainer=trainer, ppo_epochs=1, ppo_minibatches=1
    )
    if made.critic is not None:
        torch.manual_seed(0)
        torch.nn.init.normal_(made.critic[-1].weight)  # values that matter, and none that are right
    play_these(monkeypatch, made, three.every_episode(policy))
    players = asked(made)
    batches, totals = made._play(players)
    figures = made._learn(players, batches)
    assert torch.allclose(gradient(policy), EXACT, atol=1e-6)
    assert totals["return_mean"] == pytest.approx(
        float(three.expected_return(policy.theta.detach())), abs=1e-9
    )
    assert figures["ratio_error"] < 1e-12
    if made.critic is not None:
        used = [d.advantage for b in batches for d in b]
        assert any(
            abs(a - t) > 0.1 for a, t in zip(used, [d.target for b in batches for d in b], strict=True)
        )


def test_leave_one_out_is_unbiased(
    policy: three.Tabular, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All pairs of episodes, each as often as two independent episodes make it.
    every = three.every_episode(policy)
    pairs = [e for one in every for other in every for e in (one, other)]
    made = three.make_trainer(policy, tmp_path, batch=len(pairs), group=2, baseline="leave-one-out")
    play_these(monkeypatch, made, pairs)
    players = asked(made)
    made._learn(players, made._play(players)[0])
    assert torch.allclose(gradient(policy), EXACT, atol=1e-9)


def test_sampled_gradients_scatter_around_the_exact_one(policy: three.Tabular, tmp_path: Path) -> None:
    made = three.make_trainer(policy, tmp_path, batch=512, group=4, baseline="leave-one-out")
    found = []
    for _ in range(20):
        players = asked(made)
        made._learn(players, made._play(players)[0])
        found.append(gradient(policy))
        made.update += 1
    mean, spread = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(len(found))
    assert spread.max() < 0.006  # precise enough to tell
    assert ((mean - EXACT).abs() < 4 * spread).all()


def test_critic_learns_the_returns(
    policy: three.Tabular, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = three.make_trainer(
        policy, tmp_path, batch=64, baseline="critic", critic_weight=0.5, critic_learning_rate=2e-2, warmup=0
    )
    assert made.critic is not None
    every = three.every_episode(policy)
    play_these(monkeypatch, made, every)
    for _ in range(150):
        players = asked(made)
        made._learn(players, made._play(players)[0])
    returns: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for episode in every:
        goals = returns_to_go([s.result.reward for s in episode.steps])
        for step, goal in zip(episode.steps, goals, strict=True):
            returns[int(step.observation.location)].append(goal)
    values = made.critic(torch.eye(3)).squeeze(-1).tolist()
    assert values == pytest.approx([sum(g) / len(g) for g in returns.values()], abs=0.01)


def test_normalized_advantages_have_unit_spread(
    policy: three.Tabular, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = three.make_trainer(policy, tmp_path, batch=64, baseline="none", normalize=True)
    play_these(monkeypatch, made, three.every_episode(policy))
    players = asked(made)
    ((*decisions,),), _ = made._play(players)
    used = torch.tensor([d.advantage for d in decisions], dtype=torch.float64)
    plain = torch.tensor([d.target for d in decisions], dtype=torch.float64)
    assert float(used.std(correction=0)) == pytest.approx(1)
    made._learn(players, [decisions])
    assert torch.allclose(gradient(policy), EXACT / plain.std(correction=0), atol=1e-9)


# -- sampling and update agree -------------------------------------------------------------------


def test_ratio_error_sees_weights_that_changed_between_sampling_and_update(
    policy: three.Tabular, tmp_path: Path
) -> None:
    made = three.make_trainer(policy, tmp_path, batch=16)
    players = asked(made)
    batches, _ = made._play(players)
    assert made._learn(players, batches)["ratio_error"] < 1e-12
    with torch.no_grad():
        policy.theta[0] += 1e-3
    assert 1e-4 < made._learn(players, batches)["ratio_error"] < 1e-3


def test_ppo_moves_away_from_the_sampling_policy_and_is_stopped_by_the_clip(
    policy: three.Tabular, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {
        "trainer": "ppo",
        "ppo_epochs": 100,
        "ppo_minibatches": 1,
        "learning_rate": 8e-3,
        "warmup": 0,
        "ppo_clip": 0.1,
    }
    made = three.make_trainer(policy, tmp_path, batch=64, baseline="batch", **steps)
    play_these(monkeypatch, made, three.every_episode(policy))
    players = asked(made)
    batches, _ = made._play(players)
    figures = made._learn(players, batches)
    assert figures["ratio_error"] < 1e-12  # that of the first pass, not of the last
    ratios = [
        math.exp(
            float(three.log_chances(policy.theta.detach(), int(d.key[0].location))[d.action]) - d.behaviour
        )
        for d in batches[0]
    ]
    moved = max(abs(r - 1) for r in ratios)
    assert 0.09 < moved < 0.35  # unclipped, the probabilities reach 0 and 1
    policy.theta.data.copy_(three.behaviour())
    free = three.make_trainer(policy, tmp_path, batch=64, baseline="batch", **steps | {"ppo_clip": 1e9})
    free._learn(players, batches)
    assert float(three.log_chances(policy.theta.detach(), 0)[0].exp()) > 0.4


# -- entropy and KL ------------------------------------------------------------------------------


def visits(episodes: Sequence[Trajectory]) -> torch.Tensor:
    """How often an episode visits each state."""
    found = torch.zeros(3, dtype=torch.float64)
    for episode in episodes:
        for step in episode.steps:
            found[int(step.observation.location)] += 1 / len(episodes)
    return found


@pytest.mark.parametrize("term", ["entropy", "kl"])
def test_entropy_and_kl_are_those_of_torch(
    term: str, policy: three.Tabular, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = policy.theta.detach().clone()
    found = {}
    for strength in (0.0, 0.3):
        policy.theta.data.copy_(start)
        made = three.make_trainer(policy, tmp_path, batch=64, baseline="none", **{term: strength})
        with torch.no_grad():
            policy.theta += torch.linspace(-0.5, 0.5, len(start))  # away from the reference
        every = [three.trajectory(policy, [(0, 0, 0.1), (1, 2, 0.3), (2, 1, 0.2)])] * 64
        play_these(monkeypatch, made, every)
        players = asked(made)
        figures = made._learn(players, made._play(players)[0])
        found[strength] = gradient(policy)
    theta = policy.theta.detach().clone().requires_grad_()
    now = [Categorical(logits=three.log_chances(theta, s)) for s in range(3)]
    before = [Categorical(logits=three.log_chances(start, s)) for s in range(3)]
    values = [
        p.entropy() if term == "entropy" else -kl_divergence(p, q) for p, q in zip(now, before, strict=True)
    ]
    total = (torch.stack(values) * visits(every)).sum()
    total.backward()
    assert theta.grad is not None and theta.grad.abs().max() > 0.05
    assert torch.allclose(found[0.3] - found[0.0], 0.3 * theta.grad, atol=1e-9)
    assert figures[term] == pytest.approx(abs(float(total.detach())) / 3)


def test_reference_of_the_kl_stays_as_it_was(policy: three.Tabular, tmp_path: Path) -> None:
    start = policy.theta.detach().clone()
    made = three.make_trainer(policy, tmp_path, batch=64, kl=0.1, learning_rate=0.05, warmup=0)
    rows = []
    for _ in range(5):
        players = asked(made)
        rows.append(made._learn(players, made._play(players)[0]))
        made.update += 1
    assert made.reference is not None and made.reference.parameters() == []
    assert torch.equal(made.reference.theta, start)
    assert not torch.allclose(policy.theta.detach(), start, atol=0.05)
    assert rows[0]["kl"] == 0 < 1e-4 < rows[-1]["kl"]


def test_kl_holds_the_policy_near_its_start(policy: three.Tabular, tmp_path: Path) -> None:
    ends = {}
    for kl in (0.001, 10.0):
        policy.theta.data.copy_(three.behaviour())
        made = three.make_trainer(policy, tmp_path, batch=64, kl=kl, learning_rate=0.05, warmup=0)
        for _ in range(40):
            players = asked(made)
            figures = made._learn(players, made._play(players)[0])
            made.update += 1
        ends[kl] = figures["kl"]
    assert ends[10.0] < 0.01 < 0.1 < ends[0.001]


# -- what is played ------------------------------------------------------------------------------


def test_whole_run_improves_the_policy(policy: three.Tabular, tmp_path: Path) -> None:
    made = three.make_trainer(
        policy, tmp_path, batch=32, updates=60, learning_rate=0.1, normalize=True, max_grad_norm=1.0
    )
    made.run(progress=False)
    best = max(sum(r for _, _, r in e) for e in three.episodes())
    assert float(three.expected_return(policy.theta.detach())) > 0.9 * best


def test_tasks_come_in_turn(policy: three.Tabular, tmp_path: Path) -> None:
    made = three.make_trainer(policy, tmp_path, batch=8, group=4)
    made.tasks = list(range(6))
    plans = []
    for update in range(6):
        made.update = update
        plans.append(made._plan())
    assert all(len(plan) == 2 for plan in plans)  # a task for each group
    turns = [task for plan in plans for task in plan]
    assert sorted(turns[:6]) == sorted(turns[6:]) == list(range(6)) and turns[:6] != turns[6:]


def test_focus_dwells_on_tasks_that_failed(policy: three.Tabular, tmp_path: Path) -> None:
    made = three.make_trainer(policy, tmp_path, batch=400, group=1, focus=0.5)
    made.tasks = list(range(10))
    assert made._plan().count(3) == 40
    made.failed = {3}
    assert 190 < made._plan().count(3) < 250  # half of all, and a tenth of the others


def test_settings_that_cannot_be_meant() -> None:
    for wrong, word in (
        ({"trainer": "ppp"}, "rlft.trainer"),
        ({"baseline": "mean"}, "leave-one-out"),
        ({"batch": 0}, "rlft.batch"),
        ({"replay": 1.0}, "rlft.replay"),
    ):
        with pytest.raises(InputError, match=word):
            Settings(**wrong).check()  # type: ignore[arg-type]


# -- returns, baselines, curriculum --------------------------------------------------------------


def test_returns_and_baselines() -> None:
    assert returns_to_go([1, 2, 4], 0.5) == [3, 4, 4]
    rows = [[3.0, 1.0], [5.0], [1.0, 1.0]]
    assert advantages(rows, "none") == rows
    assert advantages(rows, "batch") == [[3 - 2.2, 1 - 2.2], [5 - 2.2], [1 - 2.2] * 2]
    assert advantages(rows, "leave-one-out", [0, 0, 1]) == [[-2, -4], [2], [1, 1]]


def test_generalized_advantages_by_their_definition() -> None:
    rewards, values, discount, gae = [0.5, -1.0, 2.0], [0.3, 0.7, -0.2], 0.9, 0.8
    after = [*values[1:], 0.0]
    deltas = [r + discount * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    expected = [sum((discount * gae) ** (k - t) * deltas[k] for k in range(t, 3)) for t in range(3)]
    found, targets = generalized(rewards, values, discount, gae)
    assert found == pytest.approx(expected)
    assert targets == pytest.approx([a + v for a, v in zip(expected, values, strict=True)])
    plain, _ = generalized(rewards, values, discount, 1.0)
    goals = returns_to_go(rewards, discount)
    assert plain == pytest.approx([g - v for g, v in zip(goals, values, strict=True)])


def test_curriculum_advances_by_success() -> None:
    stages = Curriculum(("easy", "hard", "whole"), 0.8, 0)
    assert [stages.advance(u, s) for u, s in ((1, 0.79), (2, None), (3, 0.8))] == [False, False, True]
    assert (stages.stage, stages.entered) == ("hard", 3)
    assert stages.advance(4, 1.0) and stages.stage == "whole"
    assert not stages.advance(5, 1.0) and stages.stage == "whole"


def test_curriculum_advances_by_trigger() -> None:
    stages = Curriculum(("easy", "hard"), 0.0, 10)
    assert [u for u in range(5, 30, 5) if stages.advance(u, 1.0)] == [10]
    never = Curriculum(("easy", "hard"), 0.0, 0)
    assert not any(never.advance(u, 1.0) for u in range(100))


def test_the_optimistic_baseline_is_the_larger_of_value_and_mean() -> None:
    """Where the critic expects less than the mean of the targets, the advantage falls by the difference."""
    from training.advantages import raised

    assert raised([0.5, -1.0], [0.25, -1.0], 0.5) == [0.25, -2.5]
    assert raised([0.0, 0.0], [-1.0, 1.0], 0.0) == [-1.0, 0.0]  # always failing, always succeeding
