"""Replayed successes: the estimator's expectation, summed out in an environment of three states."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from repoagent.episode import Trajectory
from tests import three_states as three
from tests.test_rlft import asked, gradient, play_these
from training import rlft
from training.replay import ReplayBuffer, Replayed, importance_weight
from training.rlft import Trainer

SHIFT = torch.tensor([0.4, -0.3, 0.2, -0.5, 0.1, 0.6, -0.2], dtype=torch.float64)
"""From the behaviour policy to the one that is trained."""


class Whole(ReplayBuffer):
    """Gives every episode once, for the expectation of a draw."""

    def sample(self, count: int, rng: random.Random) -> list[Replayed]:
        assert count == len(self.episodes)
        return list(self.episodes)


def successes(policy: three.Tabular) -> tuple[list[Trajectory], float]:
    """Successful episodes of the behaviour policy in their proportions, and how likely success is."""
    every = three.every_episode(policy)
    found = [t for t in every if t.steps[-1].result.info["won"]]
    return found, len(found) / len(every)


def replayed_part(clip: float, out: Path, *, weighted: bool = True, baseline: str = "none") -> torch.Tensor:
    """The expectation of what ``_replay`` adds to the gradient at a share of 1/2, times 2."""
    policy = three.Tabular(three.behaviour())
    won, rate = successes(policy)
    made = three.make_trainer(
        policy, out, batch=len(won), replay=0.5, replay_capacity=100, replay_clip=clip, baseline=baseline
    )
    made.buffer = Whole(100)
    with torch.no_grad():
        policy.theta += SHIFT
    for trajectory in won:
        episode = rlft._replayed(trajectory, rate)
        if not weighted:
            now = policy.distribution(episode.observations, episode.reflections)
            logs = tuple(row[a] for row, a in zip(now, episode.actions, strict=True))
            episode = Replayed(
                episode.observations, episode.reflections, episode.actions, logs, episode.rewards, 1.0
            )
        made.buffer.add(episode)
    players = asked(made)
    made._learn(players, [made._replay(players, 1.0, [[0.5, 0.0]])])
    return 2 * gradient(policy)


def exact_part(success: bool, constant: float = 0.0) -> torch.Tensor:
    """``S`` (or ``F``): E[1{success} (G - constant) grad log p(episode)], by finite differences.

    Rewards before an action do not depend on it only over all outcomes; hence returns to go here.
    """
    theta = three.behaviour() + SHIFT
    total = torch.zeros_like(theta)
    for episode in three.episodes():
        if three.won(episode) != success:
            continue
        rewards = [r for _, _, r in episode]

        def score(at: torch.Tensor, episode: Any = episode, rewards: Any = rewards) -> torch.Tensor:
            terms = [
                (sum(rewards[t:]) - constant) * three.log_chances(at, s)[a]
                for t, (s, a, _) in enumerate(episode)
            ]
            return torch.stack(terms).sum()

        total += three.chance(theta, episode) * three.finite_differences(score, theta)
    return total


def test_parts_make_the_gradient() -> None:
    whole = three.finite_differences(three.expected_return, three.behaviour() + SHIFT)
    assert torch.allclose(exact_part(True) + exact_part(False), whole, atol=1e-9)
    assert exact_part(True).abs().max() > 0.05 and exact_part(False).abs().max() > 0.05


@pytest.mark.parametrize(("baseline", "constant"), [("none", 0.0), ("batch", 0.25), ("leave-one-out", 0.5)])
def test_replay_estimates_what_successes_contribute(baseline: str, constant: float, tmp_path: Path) -> None:
    found = replayed_part(math.inf, tmp_path, baseline=baseline)
    assert torch.allclose(found, exact_part(True, constant), atol=1e-9)


def test_replay_without_weights_is_another_objective(tmp_path: Path) -> None:
    found, exact = replayed_part(math.inf, tmp_path, weighted=False), exact_part(True)
    assert (found - exact).abs().max() > 0.5 * exact.abs().max()


def test_clip_cuts_the_weight_and_biases(tmp_path: Path) -> None:
    found = replayed_part(1.0, tmp_path)
    assert (found - exact_part(True)).abs().max() > 1e-2
    assert importance_weight([math.log(0.5)] * 2, [math.log(0.25), math.log(0.5)], 10) == pytest.approx(2)
    assert importance_weight([0.0], [math.log(0.25)], 2) == 2
    assert importance_weight([-1.0], [-2000.0], math.inf) < math.inf


@pytest.mark.parametrize("baseline", ["none", "batch", "critic"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.75])
def test_an_update_with_replay_has_the_whole_gradient(
    share: float, baseline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On policy: what is replayed was played by the policy as it is, and fresh successes count less.
    policy = three.Tabular(three.behaviour())
    won, rate = successes(policy)
    size = math.lcm(64, len(won))  # as many are replayed as are played
    made = three.make_trainer(
        policy,
        tmp_path,
        batch=size,
        baseline=baseline,
        replay=share,
        replay_capacity=size,
        replay_clip=math.inf,
    )
    if made.critic is not None:
        torch.nn.init.normal_(made.critic[-1].bias, 1.0)
    made.buffer = Whole(size)
    for trajectory in won * (size // len(won)):
        made.buffer.add(rlft._replayed(trajectory, rate))
    play_these(monkeypatch, made, three.every_episode(policy) * (size // 64))
    players = asked(made)
    batches, _ = made._play(players)
    assert len(batches) == (2 if share else 1)
    made._learn(players, batches)
    exact = three.finite_differences(three.expected_return, three.behaviour())
    assert torch.allclose(gradient(policy), exact, atol=1e-6)


def trained(out: Path, updates: int, **changes: Any) -> Trainer:
    made = three.make_trainer(
        three.Tabular(three.behaviour()), out, batch=8, replay=0.5, replay_capacity=5, **changes
    )
    for _ in range(updates):
        players = asked(made)
        made._learn(players, made._play(players)[0])
        made.update += 1
    return made


def test_buffer_keeps_the_latest_successes(tmp_path: Path) -> None:
    made = trained(tmp_path, 6)
    assert len(made.buffer.episodes) == 5
    assert all(e.rewards[-1] == 1.0 for e in made.buffer.episodes)
    assert all(0 < e.success_rate < 1 for e in made.buffer.episodes)
    assert made.buffer.sample(3, random.Random(0)) != made.buffer.sample(3, random.Random(1))
    assert ReplayBuffer(5).sample(3, random.Random(0)) == []


def test_buffer_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    buffer = trained(tmp_path, 4).buffer
    other = ReplayBuffer(5)
    other.restore(json.loads(json.dumps(buffer.as_data())))
    assert other == buffer and len(other.episodes) == 5
