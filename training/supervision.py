"""What the supervised training of every kind of policy shares: the loss, the order of states, the noise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from repoagent.errors import InputError
from training.states import State

NOISE_COPIES = 8


def choice_loss(rows: Sequence[Tensor], states: Sequence[State], smoothing: float) -> Tensor:
    """L_P = -mean over states of log sum_{a in best} pi(a | s, R, options).

    ``rows`` are the log-probabilities (options,) of each of ``states``. Any best option is right, and how
    they share the probability is left open. With ``smoothing`` e it is (1 - e) times that plus e times
    the mean of -log pi over all options.
    """
    right = [
        (1 - smoothing) * row[list(s.best)].logsumexp(0) + smoothing * row.mean()
        for row, s in zip(rows, states, strict=True)
    ]
    return -torch.stack(right).mean()


def policy_states(states: Sequence[State], noise: float, seed: int) -> Sequence[State]:
    """``states`` as a policy is trained on them: with a share ``noise`` of foreign reflections.

    With noise there are several copies of each state, drawn beforehand, so that neither batches nor an
    interruption change what is seen. :class:`InputError` for a state without a best option.
    """
    if not all(state.best for state in states):
        raise InputError("a state to train the policy on has no best option: leave such states out.")
    if not noise:
        return states
    rng = random.Random(f"{seed}/noise")
    texts = [state.reflection for state in states]
    return [
        replace(state, reflection=rng.choice(texts)) if rng.random() < noise else state
        for _ in range(NOISE_COPIES)
        for state in states
    ]


def order(states: int, length: int, seed: int) -> list[int]:
    """The state of every place in a run of ``length``: one permutation of all states after another.

    As long as the run, so that every update has equally many states and no epoch ends within one;
    the mean over equal parts, accumulated or on several devices, is then the mean over the whole.
    """
    rng = random.Random(seed)
    found: list[int] = []
    while len(found) < length:
        found += rng.sample(range(states), states)
    return found[:length]
