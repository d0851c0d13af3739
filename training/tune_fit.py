"""Fine-tuning of the bundled encoder on one repository: SFT of packed decisions, then RLFT on whole episodes.

SFT trains the encoder's adapter, the head and what the memory of the history counts, from the bundled weights
on, with a low learning rate: general training data does not come along, so staying near is what keeps the
policy from forgetting. The state that was best on the validation tasks is kept. RLFT then freezes the encoder
and plays: REINFORCE on the return of whole episodes, in groups on one question, each against the mean of the
others, with a penalty on the distance (KL) to the policy of SFT.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from repoagent.confidence import Confidence
from repoagent.encoder import EncoderPolicy
from repoagent.episode import Finished, Trajectory, play
from repoagent.errors import InputError
from repoagent.explore import FEATURES, ExploreConfig, RepoEnvironment, Task
from repoagent.lora import merge_lora
from repoagent.manifest import read_manifest
from repoagent.memory import Memory
from repoagent.players import Policy
from repoagent.precision import fast_type
from repoagent.repo import Repo
from training.advantages import advantages, returns_to_go
from training.encoder_player import EncoderPlayer
from training.pack import MaskedRepo
from training.sft_policy import Packed, Settings, scores_of, task_loss

Row = dict[str, Any]
Report = Callable[[str], None]


PRIOR = (1.2, 0.5, 0.6, 2.0, 0.6, 0.2, 0.3, 0.5)
"""What the memory counts before it was learnt, about as it was fitted on a training repository; of documents
less, as there were few."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How both stages learn."""

    batch: int = 4
    negatives: int = 8
    adapter_rate: float = 5e-5
    head_rate: float = 1e-3
    memory_rate: float = 0.05
    warmup: int = 5
    epochs: float = 4.0
    """How often each task is learnt from at most, in SFT and again in RLFT."""
    looks: int = 4
    """Times that SFT is measured on the validation tasks."""
    group: int = 6
    groups: int = 6
    rl_head_rate: float = 5e-4
    rl_memory_rate: float = 0.02
    kl: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.epochs < math.inf:
            raise InputError(f"--epochs {self.epochs} is no number of times; name one, such as 4.")


class Trainee:
    """The bundled policy with its adapter open to training, and a memory."""

    def __init__(self, folder: Path, memory: Memory | None, device: str = "cpu") -> None:
        self.base = folder
        manifest = read_manifest(folder)
        policy = EncoderPolicy.base(FEATURES)
        policy.encoder.requires_grad_(False)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        self.lora = LoraConfig(
            r=config["r"], lora_alpha=config["lora_alpha"], target_modules=config["target_modules"]
        )
        inject_adapter_in_model(self.lora, policy.encoder)
        loaded = load_file(folder / "adapter_model.safetensors")
        state = {k.removeprefix("base_model.model."): v.float() for k, v in loaded.items()}
        set_peft_model_state_dict(policy.encoder, state)
        policy.head.load_state_dict(load_file(folder / "head.safetensors"))
        policy.temperature = float(manifest.get("temperature", 1.0))
        policy.name = str(manifest.get("name", "minilm"))
        policy.memory = memory
        self.policy = policy.to(device)
        policy.memory_weight = torch.tensor(PRIOR, device=device, requires_grad=True)
        self.bf16 = device != "cpu" or fast_type() is torch.bfloat16
        self.adapter = [p for p in policy.encoder.parameters() if p.requires_grad]

    def state(self) -> dict[str, Tensor]:
        """What is trained, as it is now."""
        named = {f"p{i}": p for i, p in enumerate([*self.adapter, *self.policy.head.parameters()])}
        named["memory"] = self.policy.memory_weight
        return {name: p.detach().clone() for name, p in named.items()}

    @torch.no_grad()
    def put_back(self, state: dict[str, Tensor]) -> None:
        """Undo what was learnt after :meth:`state`."""
        for i, p in enumerate([*self.adapter, *self.policy.head.parameters()]):
            p.copy_(state[f"p{i}"])
        self.policy.memory_weight.copy_(state["memory"])

    def player(self) -> EncoderPlayer:
        """The policy as it would be saved, its encoder frozen."""
        found = get_peft_model_state_dict(self.policy.encoder)
        adapter = {f"base_model.model.{k}": v.detach().cpu() for k, v in found.items()}
        config = json.loads((self.base / "adapter_config.json").read_text(encoding="utf-8"))
        entry = read_manifest(self.base).get("confidence")
        merged = EncoderPolicy.base(FEATURES)
        # As from_folder merges it: from the precision in which it is saved.
        halves = {k: v.half() for k, v in adapter.items()}
        merge_lora(dict(merged.encoder.named_parameters()), halves, config["lora_alpha"] / config["r"])
        merged.head.load_state_dict({k: v.cpu() for k, v in self.policy.head.state_dict().items()})
        merged.memory, merged.memory_weight = (
            self.policy.memory,
            self.policy.memory_weight.detach().cpu().clone(),
        )
        merged.temperature, merged.name = self.policy.temperature, self.policy.name
        merged.confidence = Confidence.parse(entry) if entry else None
        merged.bf16 = fast_type() is torch.bfloat16
        return EncoderPlayer(merged, adapter, config)


# -- supervised --------------------------------------------------------------------------------


@torch.no_grad()
def loss_of(policy: EncoderPolicy, tasks: Sequence[Packed], bf16: bool) -> tuple[float, float]:
    """Mean negative log-likelihood of the first decision's best options, and how often the first file is
    right."""
    losses, right = [], []
    for task in tasks:
        decision = task["decisions"][0]
        (score,) = scores_of(policy, task, [(decision, range(len(decision["options"])), "")], bf16)
        losses.append(
            -float((score / policy.temperature).log_softmax(0)[list(decision["best"])].logsumexp(0))
        )
        files = [i for i, o in enumerate(decision["options"]) if o[1] in ("open", "identify")]
        best = max(files, key=lambda i: float(score[i]), default=0)
        right.append(float(decision["options"][best][2] in task["gold"]))
    return sum(losses) / len(losses), sum(right) / len(right)


@torch.no_grad()
def settle_temperature(policy: EncoderPolicy, tasks: Sequence[Packed]) -> None:
    """The temperature that makes the first decisions of ``tasks`` likeliest: the memory adds to what the
    bundled one was fitted for, and both the reading on top and how sure an answer is depend on it."""
    found = []
    for task in tasks:
        decision = task["decisions"][0]
        (score,) = scores_of(policy, task, [(decision, range(len(decision["options"])), "")], policy.bf16)
        found.append((score, list(decision["best"])))

    def loss(temperature: float) -> float:
        return -sum(float((s / temperature).log_softmax(0)[best].logsumexp(0)) for s, best in found)

    policy.temperature = min((0.7 + 0.05 * i for i in range(40)), key=loss)


def supervised(
    trainee: Trainee,
    train: Sequence[Packed],
    validation: Sequence[Packed],
    seconds: float,
    settings: FitSettings,
    seed: int,
    report: Report,
) -> dict[str, float]:
    """SFT for at most ``seconds``; leaves ``trainee`` in the state that was best on ``validation``."""
    started = time.monotonic()
    rng = random.Random(seed)
    torch.manual_seed(seed)
    policy = trainee.policy
    sampling = Settings(pack=(), negatives=settings.negatives, reflection_dropout=1.0, bf16=trainee.bf16)
    optimizer = torch.optim.AdamW(
        [
            {"params": trainee.adapter, "lr": settings.adapter_rate, "weight_decay": 0.01},
            {"params": list(policy.head.parameters()), "lr": settings.head_rate, "weight_decay": 0.0},
            {"params": [policy.memory_weight], "lr": settings.memory_rate, "weight_decay": 0.0},
        ]
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    total = math.ceil(settings.epochs * len(train) / settings.batch)
    loss, right = loss_of(policy, validation, trainee.bf16)
    best, kept = loss, trainee.state()
    report(f"SFT: validation loss {loss:.3f}, first file right {right:.0%} before")
    looking = time.monotonic() - started
    step, looks = 0, 0
    order = _endless(train, rng)
    while True:
        used = time.monotonic() - started
        progress = max(step / total, used / max(1e-9, seconds - looking)) if total else 1.0
        if progress >= (looks + 1) / settings.looks or progress >= 1:
            looks += 1
            loss, right = loss_of(policy, validation, trainee.bf16)
            report(f"SFT: step {step}, validation loss {loss:.3f}, first file right {right:.0%}")
            if loss < best:
                best, kept = loss, trainee.state()
            elif loss > best + 0.1:
                break  # it only gets worse from here
            if progress >= 1:
                break
        factor = min(1.0, (step + 1) / settings.warmup) * (
            0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))
        )
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad()
        for _ in range(settings.batch):
            value = task_loss(policy, next(order), sampling, rng) / settings.batch
            value.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        step += 1
    trainee.put_back(kept)
    return {"steps": step, "validation loss": round(best, 4)}


def _endless(tasks: Sequence[Packed], rng: random.Random) -> Iterator[Packed]:
    while True:
        queue = list(tasks)
        rng.shuffle(queue)
        yield from queue


# -- reinforcement -----------------------------------------------------------------------------


def environment_of(repo: Repo, row: Row) -> RepoEnvironment:
    """Where the task ``row`` is played: the repository without what gives the answer away."""
    hide = tuple((p, a, b) for p, a, b in row.get("hide", ()))
    return RepoEnvironment(MaskedRepo(repo, hide) if hide else repo, ExploreConfig())


def task_of(row: Row) -> Task:
    """The task ``row`` with its answer, which the rewards need."""
    return Task(row["question"], tuple(row["gold"]), tuple(row["span"]) if row.get("span") else None)


def episode(environment: RepoEnvironment, task: Task, policy: Policy, seed: int | None = None) -> Trajectory:
    """One episode: greedy, or drawn with ``seed``."""
    *_, last = play(environment, task, policy, seed=seed, greedy=seed is None)
    assert isinstance(last, Finished)
    return last.trajectory


def outcomes(
    repo: Repo, rows: Sequence[Row], policy: Policy, report: Callable[[int, int], None] = lambda a, b: None
) -> list[tuple[bool, float]]:
    """Of each task, whether the file that is answered first is right, and the return of the episode."""
    found = []
    for number, row in enumerate(rows, 1):
        environment = environment_of(repo, row)
        trajectory = episode(environment, task_of(row), policy)
        found.append((environment.identified in row["gold"], trajectory.total))
        report(number, len(rows))
    return found


def reinforced(
    player: EncoderPlayer,
    repo: Repo,
    rows: Sequence[Row],
    seconds: float,
    settings: FitSettings,
    seed: int,
    report: Report,
) -> dict[str, float]:
    """RLFT of ``player`` for at most ``seconds``, in place."""
    started = time.monotonic()
    rng = random.Random(seed)
    reference = copy.deepcopy(player)
    weight = player.policy.memory_weight.detach().clone().requires_grad_(True)
    player.policy.memory_weight = weight
    optimizer = torch.optim.AdamW(
        [
            {"params": list(player.policy.head.parameters()), "lr": settings.rl_head_rate},
            {"params": [weight], "lr": settings.rl_memory_rate},
        ],
        weight_decay=0.0,
    )
    queue: list[Row] = []
    update, mean, longest = 0, math.nan, 0.0
    most = math.ceil(settings.epochs * len(rows) / settings.groups)
    while update < most and time.monotonic() - started + longest < seconds:
        began = time.monotonic()
        played: list[Trajectory] = []
        groups: list[int] = []
        for number in range(settings.groups):
            if not queue:
                queue = list(rows)
                rng.shuffle(queue)
            row = queue.pop()
            environment, task = environment_of(repo, row), task_of(row)
            for _ in range(settings.group):
                played.append(episode(environment, task, player, rng.randrange(1 << 30)))
                groups.append(number)
            if time.monotonic() - started > seconds:
                break
        returns = [returns_to_go([s.result.reward for s in t.steps]) for t in played]
        found = advantages(returns, "leave-one-out", groups)
        optimizer.zero_grad()
        terms = [
            (step, advantage)
            for trajectory, values in zip(played, found, strict=True)
            for step, advantage in zip(trajectory.steps, values, strict=True)
        ]
        for start in range(0, len(terms), 32):
            part = terms[start : start + 32]
            seen = [step.observation for step, _ in part]
            rows_now, _ = player.evaluate(seen, [""] * len(seen))
            with torch.no_grad():
                rows_then, _ = reference.evaluate(seen, [""] * len(seen))
            loss = torch.zeros(())
            for (step, advantage), now, then in zip(part, rows_now, rows_then, strict=True):
                loss = loss - advantage * now[step.index] + settings.kl * (now.exp() * (now - then)).sum()
            (loss / len(played)).backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        update += 1
        longest = max(longest, time.monotonic() - began)
        now_ = sum(t.total for t in played) / len(played)
        mean = now_ if math.isnan(mean) else 0.8 * mean + 0.2 * now_
        report(f"RLFT: update {update}, mean return {mean:.2f}")
    player.policy.memory_weight = weight.detach()
    return {"updates": update, "return": round(mean, 4)}
