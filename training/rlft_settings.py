"""The settings of RLFT, a part of every recipe; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from repoagent.errors import InputError
from training.advantages import BASELINES


@dataclass(frozen=True, slots=True)
class RLFTSettings:
    """One run. Counts of episodes and updates are plain numbers, rates lie in [0, 1]."""

    updates: int = 200
    batch: int = 16
    accumulation: int = 1
    group: int = 4
    focus: float = 0.0
    trainer: str = "reinforce"
    baseline: str = "leave-one-out"
    normalize: bool = True
    discount: float = 1.0
    learning_rate: float = 3e-4
    critic_learning_rate: float = 1e-3
    critic_weight: float = 0.5
    gae: float = 1.0
    optimistic: bool = False
    warmup: int = 5
    decay: bool = False
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    entropy: float = 0.0
    kl: float = 0.0
    ppo_epochs: int = 3
    ppo_minibatches: int = 2
    ppo_clip: float = 0.2
    replay: float = 0.0
    replay_capacity: int = 128
    replay_clip: float = 2.0
    curriculum: bool = True
    advance_at: float = 0.9
    advance_after: int = 0
    evaluate_every: int = 10
    save_every: int = 1
    decisions_per_pass: int = 64
    seed: int = 0

    def check(self) -> None:
        """Raise :class:`InputError` for values that cannot be meant."""
        if self.trainer not in ("reinforce", "ppo"):
            raise InputError(f"rlft.trainer '{self.trainer}' is unknown: use reinforce or ppo.")
        if self.baseline not in BASELINES:
            raise InputError(f"rlft.baseline '{self.baseline}' is unknown: use {', '.join(BASELINES)}.")
        for name in ("updates", "batch", "accumulation", "group", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"rlft.{name} is {getattr(self, name)}: it must be at least 1.")
        for name in ("replay", "focus"):
            if not 0 <= getattr(self, name) < 1:
                share = getattr(self, name)
                raise InputError(f"rlft.{name} is {share}: it is a share, from 0 up to less than 1.")
