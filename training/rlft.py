"""RLFT of the policy with the frozen reflector in the loop, from the first episode to the checkpoint.

repoagent train rlft --recipe taxi-tiny --out runs/taxi [--set rlft.updates=50]

Every update plays ``batch x accumulation x processes`` episodes with :func:`play_batch` and takes one
step (PPO: several) along the policy gradient of the paper,

    grad J = E[ sum_t grad log pi(a_t | s_t, R(s_t), options) * A_t ],   A_t = G_t - b.

Episodes, tasks and their seeds are a function of (seed, update, number of the episode) alone, so that
neither the batch size, nor the number of processes, nor an interruption changes what is played.
Players are asked once for each different state of an update: equal states have equal answers. The
frozen reflector's are kept over the whole run.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from repoagent.episode import Trajectory, play_batch
from repoagent.players import Reflector
from training.advantages import advantages, generalized, raised, returns_to_go
from training.benchmark import Benchmark, check_stages
from training.checkpoint import load_state, replace_folder, save_state, settle
from training.curriculum import Curriculum
from training.files import write_json
from training.known import Asked, Key, KnownReflections, TrainablePolicy, measure, summary
from training.metrics import MetricsLog, Progress
from training.replay import ReplayBuffer, Replayed, importance_weight
from training.rlft_settings import RLFTSettings as Settings

CRITIC_WIDTH = 64


# -- the trainer ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Decision:
    """One term of the gradient: ``weight * advantage * grad log pi(action | key)``."""

    key: Key
    action: int
    behaviour: float
    advantage: float
    target: float
    weight: float = 1.0


class Trainer:
    """The state of a run and one method for each thing an update does, in order."""

    def __init__(
        self,
        settings: Settings,
        benchmark: Benchmark,
        policy: TrainablePolicy,
        reflector: Reflector,
        out: Path,
        accelerator: Accelerator | None = None,
    ) -> None:
        settings.check()
        self.settings, self.benchmark, self.policy, self.out = settings, benchmark, policy, out
        self.accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
        self.main = self.accelerator.is_main_process
        self.ranks = self.accelerator.num_processes
        out.mkdir(parents=True, exist_ok=True)
        self.reflector = KnownReflections(reflector, out / "reflections.jsonl" if self.main else None)
        stages = benchmark.stages if settings.curriculum else benchmark.stages[-1:]
        check_stages(benchmark, stages)
        self.curriculum = Curriculum(stages, settings.advance_at, settings.advance_after)
        self.buffer = ReplayBuffer(settings.replay_capacity if settings.replay else 0)
        self.weights = policy.parameters()
        self.reference = _frozen(policy) if settings.kl else None
        self.reference_rows: dict[Key, Tensor] = {}
        groups = [{"params": self.weights, "lr": settings.learning_rate}]
        self.critic: nn.Module | None = None
        if settings.baseline == "critic":
            with torch.no_grad():
                task = benchmark.tasks("train")[0]
                seen = benchmark.environment(self.curriculum.stage).reset(task)
                width = policy.evaluate([seen], [""])[1].shape[-1]
            self.critic = make_critic(width, settings.seed).to(self.weights[0].device)
            groups.append({"params": list(self.critic.parameters()), "lr": settings.critic_learning_rate})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.rates = [group["lr"] for group in groups]
        self.trained = [p for group in groups for p in group["params"]]
        self.tasks = benchmark.tasks("train")
        self.failed: set[int] = set()
        self.update = 0
        self.best = (-1, -1.0, float("-inf"))
        self.totals = {
            "env_steps": 0, "episodes": 0, "seconds": 0.0, "policy_tokens": 0, "reflector_tokens": 0,
        }  # fmt: skip
        self.seed = f"{settings.seed}"

    # -- the loop --------------------------------------------------------------------------------

    def run(self, *, progress: bool = True) -> Path:
        """Train until all updates are done; returns the folder of the best policy, ``out/best``."""
        settings = self.settings
        if (self.out / "done.json").is_file():
            return self.out / "best"
        self._restore()
        log = MetricsLog(self.out, resume_at=self.update) if self.main else None
        shown = Progress("RLFT") if self.main and progress else contextlib.nullcontext()
        with shown as bar:
            while True:
                started, read = time.perf_counter(), self._tokens()
                asked = Asked(self.policy, self.critic, settings.decisions_per_pass)
                if self.update % settings.evaluate_every == 0 or self.update == settings.updates:
                    figures = self._evaluate(asked)
                    if log is not None:
                        log.write({"update": self.update, **figures}, kind="evaluation")
                    if bar is not None:
                        bar.update(self.update, settings.updates, **figures)
                if self.update == settings.updates:
                    break
                stage = self.curriculum.stage
                batches, totals = self._play(asked)
                figures = self._learn(asked, batches)
                self.update += 1
                seconds = time.perf_counter() - started
                self.totals["env_steps"] += totals["steps"]
                self.totals["episodes"] += totals["episodes"]
                self.totals["seconds"] += seconds
                for name, count in self._tokens().items():
                    self.totals[name] += count - read[name]
                figures |= {
                    "success": totals["success"], "return_mean": totals["return_mean"],
                    "length_mean": totals["steps"] / totals["episodes"],
                    "steps_per_second": totals["steps"] / seconds, **self.totals,
                }  # fmt: skip
                if log is not None:
                    log.write({"update": self.update, "stage": stage, **figures})
                if bar is not None:
                    bar.update(self.update, settings.updates, stage=stage, **figures)
                if self.update % settings.save_every == 0 or self.update == settings.updates:
                    self._save()
        if self.main:
            if log is not None:
                log.close()
            self.policy.save(self.out / "last")
            write_json(self.out / "done.json", {"best": self.best, **self.totals})
        self.accelerator.wait_for_everyone()
        return self.out / "best"

    # -- 1. episodes -----------------------------------------------------------------------------

    def _play(self, asked: Asked) -> tuple[list[list[Decision]], dict[str, float]]:
        """This process's share of the update's episodes as decisions with advantages, batch by batch."""
        settings, stage = self.settings, self.curriculum.stage
        share = settings.batch * settings.accumulation
        first = share * self.accelerator.process_index
        numbers, plan = range(first, first + share), self._plan()
        environments = [self.benchmark.environment(stage) for _ in range(settings.batch)]
        played: list[Trajectory] = []
        for start in range(0, share, settings.batch):
            batch = numbers[start : start + settings.batch]
            played += play_batch(
                environments,
                [self.tasks[plan[i // settings.group]] for i in batch],
                asked,
                self.reflector,
                seeds=[_seed(self.seed, self.update, i) for i in batch],
            )
        rewards = [[step.result.reward for step in t.steps] for t in played]
        returns = [returns_to_go(row, settings.discount) for row in rewards]
        won = [self.benchmark.outcomes(t)[stage] for t in played]
        values = [[asked.value((s.observation, s.reflection)) for s in t.steps] for t in played]
        # Baselines compare episodes of all processes.
        every = self._gather(
            [
                (i // settings.group, *row)
                for i, *row in zip(numbers, rewards, returns, values, won, strict=True)
            ]
        )
        groups, gains, goals, guesses, outcomes = (list(column) for column in zip(*every, strict=True))
        if settings.baseline == "critic":
            pairs = [
                generalized(r, v, settings.discount, settings.gae)
                for r, v in zip(gains, guesses, strict=True)
            ]
            whole, targets = [a for a, _ in pairs], [t for _, t in pairs]
            if settings.optimistic:
                mean = fmean(t for row in targets for t in row)
                whole = [raised(a, v, mean) for a, v in zip(whole, guesses, strict=True)]
        else:
            whole, targets = advantages(goals, settings.baseline, groups), goals
        scale = 1.0
        if settings.normalize:
            flat = torch.tensor([a for row in whole for a in row], dtype=torch.float64)
            scale = 1 / max(float(flat.std(correction=0)), 1e-6)
        mine, aims = whole[first : first + share], targets[first : first + share]
        rate = fmean(outcomes)
        for group, success in zip(groups, outcomes, strict=True):
            (self.failed.discard if success else self.failed.add)(plan[group])
        replaying = settings.replay > 0 and len(self.buffer.episodes) > 0
        batches: list[list[Decision]] = []
        for start in range(0, share, settings.batch):
            decisions = []
            for i in range(start, start + settings.batch):
                # Replay estimates part of what successes contribute, see replay.py.
                weight = (1 - settings.replay if replaying and won[i] else 1.0) / len(every)
                decisions += [
                    Decision((s.observation, s.reflection), s.index, s.log_probabilities[s.index],
                             a * scale, g, weight)
                    for s, a, g in zip(played[i].steps, mine[i], aims[i], strict=True)
                ]  # fmt: skip
            batches.append(decisions)
        if replaying:
            batches.append(self._replay(asked, scale, targets))
        if settings.replay:
            fresh = [_replayed(t, rate) for t, w in zip(played, won, strict=True) if w]
            for episode in self._gather(fresh):
                self.buffer.add(episode)
        steps = sum(map(len, goals))
        return batches, {
            "episodes": len(every), "steps": steps, "success": rate,
            "return_mean": fmean(g[0] for g in goals),
        }  # fmt: skip

    def _plan(self) -> list[int]:
        """The task (its place in ``tasks``) of every group of episodes of this update.

        All tasks of the stage in turn, in a new order each time; a share ``focus`` is replaced by tasks
        whose latest episode failed.
        """
        settings, stage = self.settings, self.curriculum.stage
        places = [i for i, task in enumerate(self.tasks) if self.benchmark.plays(stage, task)]
        count = -(-settings.batch * settings.accumulation * self.ranks // settings.group)
        rng = random.Random(f"{self.seed}/focus/{self.update}")
        plan = []
        for number in range(self.update * count, (self.update + 1) * count):
            turn, place = divmod(number, len(places))
            order = list(places)
            random.Random(f"{self.seed}/tasks/{turn}").shuffle(order)
            plan.append(order[place])
        hard = sorted(self.failed.intersection(places))
        return [rng.choice(hard) if hard and rng.random() < settings.focus else task for task in plan]

    def _replay(self, asked: Asked, scale: float, returns: Sequence[Sequence[float]]) -> list[Decision]:
        """Decisions of replayed successes, weighted by ``replay * p * rho`` over their number."""
        settings = self.settings
        count = settings.batch * settings.accumulation
        first = count * self.accelerator.process_index
        rng = random.Random(f"{self.seed}/replay/{self.update}")
        # In expectation the baseline of the fresh episodes.
        alone = settings.baseline == "leave-one-out"
        every = [g for row in returns for g in (row[:1] if alone else row)]
        constant = 0.0 if settings.baseline == "none" else fmean(every)
        decisions = []
        for episode in self.buffer.sample(count * self.ranks, rng)[first : first + count]:
            rows = asked.distribution(episode.observations, episode.reflections)
            now = [row[a] for row, a in zip(rows, episode.actions, strict=True)]
            rho = importance_weight(now, episode.log_probabilities, settings.replay_clip)
            weight = settings.replay * episode.success_rate * rho / (count * self.ranks)
            keys = list(zip(episode.observations, episode.reflections, strict=True))
            goals = returns_to_go(episode.rewards, settings.discount)
            found = [g - constant for g in goals]
            if self.critic:  # the same baseline as of the fresh episodes, or S and F would not add up
                values = [asked.value(k) for k in keys]
                found, goals = generalized(episode.rewards, values, settings.discount, settings.gae)
                found = raised(found, values, constant) if settings.optimistic else found
            decisions += [
                Decision(k, a, p, advantage * scale, g, weight)
                for k, a, p, advantage, g in zip(keys, episode.actions, now, found, goals, strict=True)
            ]
        return decisions

    # -- 2. the update ---------------------------------------------------------------------------

    def _learn(self, asked: Asked, batches: Sequence[Sequence[Decision]]) -> dict[str, float]:
        """One optimizer step (REINFORCE) or several (PPO) on the decisions of an update."""
        settings = self.settings
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self._schedule()
        if settings.trainer == "reinforce":
            return self._descend(batches) | {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        figures: dict[str, float] = {}
        pool = [d for batch in batches for d in batch]
        # One order over the decisions of all processes, so that a minibatch is the same for any number.
        sizes = self._gather([len(pool)])
        first = sum(sizes[: self.accelerator.process_index])
        for epoch in range(settings.ppo_epochs):
            order = list(range(sum(sizes)))
            random.Random(f"{self.seed}/ppo/{self.update}/{epoch}").shuffle(order)
            for part in range(settings.ppo_minibatches):
                numbers = order[part :: settings.ppo_minibatches]
                chosen = [pool[i - first] for i in numbers if first <= i < first + len(pool)]
                found = self._descend([chosen], settings.ppo_minibatches)
                # What the first pass finds is what sampling and update disagree by.
                figures = found | {"ratio_error": figures.get("ratio_error", found["ratio_error"])}
        return figures | {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def _descend(self, batches: Sequence[Sequence[Decision]], times: int = 1) -> dict[str, float]:
        """A gradient step on the loss of ``batches``; one backward pass for a few states at a time."""
        settings = self.settings
        self.optimizer.zero_grad(set_to_none=True)
        sums = dict.fromkeys(("loss", "entropy", "kl", "weight"), 0.0)
        worst = 0.0
        for batch in batches:
            by_state: dict[Key, list[Decision]] = {}
            for decision in batch:
                by_state.setdefault(decision.key, []).append(decision)
            states = list(by_state)
            for start in range(0, len(states), settings.decisions_per_pass):
                keys = states[start : start + settings.decisions_per_pass]
                # In the weights' own precision, as in sampling: autocast would tell the two apart.
                rows, hidden = self.policy.evaluate([o for o, _ in keys], [r for _, r in keys])
                values = self.critic(hidden).squeeze(-1) if self.critic else None
                loss = rows[0].new_zeros(())
                for i, (key, row) in enumerate(zip(keys, rows, strict=True)):
                    part, error = self._loss(key, row, by_state[key], sums)
                    loss, worst = loss + part, max(worst, error)
                    if values is not None:
                        miss = sum(d.weight * (values[i] - d.target) ** 2 for d in by_state[key])
                        loss = loss + settings.critic_weight * miss
                loss = loss * times
                self.accelerator.backward(loss)
                sums["loss"] += float(loss.detach())
        norm = self._step()
        sums, worst = self._total(sums), max(self._gather([worst]))
        count = max(sums.pop("weight"), 1e-12)
        return {
            "loss": sums["loss"], "entropy": sums["entropy"] / count, "kl": sums["kl"] / count,
            "grad_norm": norm, "ratio_error": worst,
        }  # fmt: skip

    def _loss(
        self, key: Key, row: Tensor, decisions: Sequence[Decision], sums: dict[str, float]
    ) -> tuple[Tensor, float]:
        """The loss of all decisions in one state, and how far its probabilities moved since sampling.

        REINFORCE: ``-w A log pi(a)``. PPO: ``-w min(r A, clip(r) A)`` with ``r = pi(a) / b(a)``. Both
        with ``- entropy * H(pi) + kl * KL(pi || reference)``, exact sums over the options.
        """
        settings = self.settings
        loss, worst = row.new_zeros(()), 0.0
        for d in decisions:
            log_ratio = row[d.action] - d.behaviour
            worst = max(worst, abs(float(log_ratio.detach())))
            if settings.trainer == "ppo":
                ratio = log_ratio.exp()
                cut = ratio.clamp(1 - settings.ppo_clip, 1 + settings.ppo_clip)
                loss = loss - d.weight * torch.minimum(ratio * d.advantage, cut * d.advantage)
            else:
                loss = loss - d.weight * d.advantage * row[d.action]
        weight = sum(d.weight for d in decisions)
        chances = row.exp()
        entropy = -(chances * row).nan_to_num(0.0).sum()
        sums["weight"] += weight
        sums["entropy"] += weight * float(entropy.detach())
        if settings.entropy:
            loss = loss - settings.entropy * weight * entropy
        if self.reference is not None:
            if key not in self.reference_rows:
                with torch.no_grad():
                    (known,), _ = self.reference.evaluate([key[0]], [key[1]])
                self.reference_rows[key] = known.detach()
            divergence = (chances * (row - self.reference_rows[key])).nan_to_num(0.0).sum()
            loss = loss + settings.kl * weight * divergence
            sums["kl"] += weight * float(divergence.detach())
        return loss, worst

    def _step(self) -> float:
        """Sum the gradients of all processes, clip their norm, step; returns the norm before."""
        if self.ranks > 1:
            for p in self.trained:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            flat = torch.cat([p.grad.flatten() for p in self.trained if p.grad is not None])
            whole, at = self.accelerator.reduce(flat, reduction="sum"), 0
            for p in self.trained:
                assert p.grad is not None
                p.grad.copy_(whole[at : at + p.numel()].view_as(p))
                at += p.numel()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
        self.optimizer.step()
        return float(norm)

    def _schedule(self) -> float:
        settings = self.settings
        warm = min(1.0, (self.update + 1) / (settings.warmup + 1))
        return warm * (1 - self.update / settings.updates if settings.decay else 1.0)

    # -- 3. evaluation ---------------------------------------------------------------------------

    def _evaluate(self, asked: Asked) -> dict[str, Any]:
        """Greedy episodes of the whole task on the validation tasks; the curriculum looks at them.

        Every process plays a share, and all come to the same decision.
        """
        tasks = self.benchmark.tasks("validation")[self.accelerator.process_index :: self.ranks]
        rows = self._gather(measure(self.benchmark, tasks, asked, self.reflector))
        figures = summary(rows)
        stage = self.curriculum.stage
        score = (self.curriculum.index, figures[f"success/{stage}"], figures["return_mean"])
        if score > self.best:
            self.best = score
            if self.main:
                replace_folder(self.out / "best", self.policy.save)
        if self.curriculum.advance(self.update, figures[f"success/{stage}"]):
            self.buffer.clear()  # its returns belong to the stage before
        return {"stage": stage, **figures}

    # -- 4. checkpoints --------------------------------------------------------------------------

    def _save(self) -> None:
        """All that the next update depends on; the folder appears only when it is whole."""
        if self.main:
            replace_folder(self.out / "checkpoint", self._write_checkpoint)
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, folder: Path) -> None:
        progress = {
            "update": self.update, "best": self.best, "totals": self.totals,
            "stage": self.curriculum.index, "entered": self.curriculum.entered,
            "replay": self.buffer.as_data(), "failed": sorted(self.failed),
        }  # fmt: skip
        save_state(folder, self.trained, self.optimizer, progress)

    def _restore(self) -> None:
        folder = self.out / "checkpoint"
        if self.main:
            settle(folder)
        self.accelerator.wait_for_everyone()
        if not folder.is_dir():
            return
        data = load_state(folder, self.trained, self.optimizer)
        self.update, self.best, self.totals = data["update"], tuple(data["best"]), data["totals"]
        self.curriculum.index, self.curriculum.entered = data["stage"], data["entered"]
        self.buffer.restore(data["replay"])
        self.failed = set(data["failed"])

    def _tokens(self) -> dict[str, int]:
        """Tokens that this process's players have read and written so far, where they count them."""
        players = {"policy_tokens": self.policy, "reflector_tokens": self.reflector.reflector}
        return {name: getattr(player, "tokens", 0) for name, player in players.items()}

    # -- processes -------------------------------------------------------------------------------

    def _gather(self, rows: list[Any]) -> list[Any]:
        """The rows of all processes, in the order of the processes."""
        return list(gather_object(rows)) if self.ranks > 1 else rows

    def _total(self, sums: dict[str, float]) -> dict[str, float]:
        rows = self._gather([sums])
        return {name: sum(row[name] for row in rows) for name in sums}


def make_critic(width: int, seed: int) -> nn.Module:
    """State values from the policy's hidden state (observations, width); begins at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = nn.Sequential(nn.Linear(width, CRITIC_WIDTH), nn.Tanh(), nn.Linear(CRITIC_WIDTH, 1))
    nn.init.zeros_(critic[-1].weight)
    nn.init.zeros_(critic[-1].bias)
    return critic


def _frozen(policy: TrainablePolicy) -> TrainablePolicy:
    """The policy as it is now: what the KL term holds the trained one to."""
    twin = copy.deepcopy(policy)
    for p in twin.parameters():
        p.requires_grad_(False)
    return twin


def _replayed(trajectory: Trajectory, rate: float) -> Replayed:
    steps = trajectory.steps
    return Replayed(
        tuple(s.observation for s in steps),
        tuple(s.reflection for s in steps),
        tuple(s.index for s in steps),
        tuple(s.log_probabilities[s.index] for s in steps),
        tuple(s.result.reward for s in steps),
        rate,
    )


def _seed(seed: str, update: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{update}/{number}".encode()).digest()[:6])
