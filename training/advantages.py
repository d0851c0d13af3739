"""Returns and baselines of policy gradients."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Literal, get_args

Baseline = Literal["none", "batch", "leave-one-out", "critic"]
BASELINES: tuple[str, ...] = get_args(Baseline)


def returns_to_go(rewards: Sequence[float], discount: float = 1.0) -> list[float]:
    """``G_t = r_t + discount * G_{t+1}`` for every step of an episode."""
    found: list[float] = []
    total = 0.0
    for reward in reversed(rewards):
        total = reward + discount * total
        found.append(total)
    return found[::-1]


def generalized(
    rewards: Sequence[float], values: Sequence[float], discount: float = 1.0, gae: float = 1.0
) -> tuple[list[float], list[float]]:
    """Advantages of an episode against a critic, and the values that it should have given.

    Generalized advantage estimation (arXiv 1506.02438): ``A_t = sum_l (discount * gae)^l delta_{t+l}``
    with ``delta_t = r_t + discount * V_{t+1} - V_t`` and targets ``A_t + V_t``. With ``gae`` 1 it is
    ``G_t - V_t``; less trusts the critic more, for less variance and some bias.
    """
    found: list[float] = []
    advantage = later = 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        advantage = reward + discount * later - value + discount * gae * advantage
        later = value
        found.append(advantage)
    found.reverse()
    return found, [a + v for a, v in zip(found, values, strict=True)]


def raised(found: Sequence[float], values: Sequence[float], mean: float) -> list[float]:
    """An episode's advantages against ``max(V_t, mean)`` instead of ``V_t``; ``mean`` is of all targets.

    Where a policy always fails, the critic expects it, so that failing is no surprise and nothing is
    learnt. Against the mean it still is one, and the policy is driven to try something else.
    """
    return [a - max(0.0, mean - v) for a, v in zip(found, values, strict=True)]


def advantages(
    returns: Sequence[Sequence[float]], baseline: str, groups: Sequence[int] | None = None
) -> list[list[float]]:
    """``A_t = G_t - b`` for every step of every episode, with a baseline that needs no critic.

    ``returns[i][t]`` is the return to go. The baseline ``b`` is 0 ("none"), the mean of all returns
    to go ("batch"), or the mean return of the *other* episodes of the same group ("leave-one-out";
    0 where there are none; it does not depend on the episode's own actions, so that it adds no
    bias).
    """
    if baseline == "none":
        return [list(episode) for episode in returns]
    if baseline == "batch":
        every = [g for episode in returns for g in episode]
        mean = fmean(every) if every else 0.0
        return [[g - mean for g in episode] for episode in returns]
    if baseline == "leave-one-out":
        if groups is None:
            raise ValueError("leave-one-out needs the groups of the episodes")
        totals = [episode[0] if episode else 0.0 for episode in returns]
        sums: dict[int, float] = {}
        counts: dict[int, int] = {}
        for group, total in zip(groups, totals, strict=True):
            sums[group] = sums.get(group, 0.0) + total
            counts[group] = counts.get(group, 0) + 1
        return [
            [g - (sums[group] - total) / max(1, counts[group] - 1) for g in episode]
            if counts[group] > 1
            else list(episode)
            for episode, group, total in zip(returns, groups, totals, strict=True)
        ]
    raise ValueError(f"unknown baseline '{baseline}': use {', '.join(BASELINES)}")
