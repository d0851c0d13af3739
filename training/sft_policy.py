"""SFT of the bundled policy on packed decisions: L_P = -mean log pi(a* | s, R, options).

repoagent train bundled sft-policy --pack runs/pack/train.jsonl.gz --out runs/policy [--minutes 60]

Options are subsampled per decision (the best ones, the hardest wrong ones, some at random), which
makes this a listwise softmax over candidates. The head is first fitted on the frozen encoder, then
a LoRA adapter and the head are trained together. Saves often and resumes from what it saved.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from repoagent.encoder import EncoderPolicy
from repoagent.environment import Option
from repoagent.errors import InputError
from repoagent.explore import FEATURES
from training.files import whole

STAGE_WEIGHT = {
    "open0": 1.0, "go0": 0.2, "identify0": 0.2, "more0": 0.05, "lines0": 0.5,
    "open1": 0.25, "go1": 0.1, "identify1": 0.25, "open2": 0.1, "go2": 0.1, "identify2": 0.1,
}  # fmt: skip
"""How often a decision of each stage (best action, number of wrong files opened before) is drawn."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run; every field is written into the checkpoint.

    ``pack_weights``: how often tasks are drawn from each of the packs; by their numbers of tasks if empty.
    ``epochs`` counts those of the first pack. ``trained_layers``: the adapter of so many layers, from the
    last, is trained (0: all); the others' stays as ``init`` has it, and costs no backward pass.
    """

    pack: tuple[str, ...]
    pack_weights: tuple[float, ...] = ()
    validation: str = ""
    validation_tasks: int = 90
    minutes: float = 60.0
    epochs: float = 3.0
    batch: int = 8
    negatives: int = 6
    rank: int = 32
    learning_rate: float = 2e-4
    head_learning_rate: float = 6e-3
    weight_decay: float = 0.01
    warmup: int = 20
    warm_start_tasks: int = 60
    reflection_dropout: float = 0.5
    reflection_key: str = "reflection"
    label_smoothing: float = 0.0
    init: str = ""
    bf16: bool = False
    trained_layers: int = 0
    save_every: int = 20
    evaluate_every: int = 160
    seed: int = 0


Packed = dict[str, Any]


def described(settings: Any) -> dict[str, Any]:
    """The settings of a run as a checkpoint records them: files by name, since folders are private."""

    def name(value: Any) -> Any:
        return Path(value).name if isinstance(value, str) else value

    return {
        key: [name(v) for v in value] if isinstance(value, tuple) else name(value)
        for key, value in asdict(settings).items()
    }


def load_pack(path: str | Path) -> list[Packed]:
    """Tasks of a pack, in order."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def sample(decision: Packed, negatives: int, rng: random.Random) -> list[int]:
    """Option indices of one decision: up to two best first, then hard and random wrong ones."""
    best = list(decision["best"])
    rng.shuffle(best)
    kept = best[:2]
    wrong = [i for i in range(len(decision["options"])) if i not in set(decision["best"])]
    # Options are listed by evidence, so early ones are hard; 12 keeps some variety among them.
    hard = wrong[:12]
    rng.shuffle(hard)
    chosen = hard[: (2 * negatives + 2) // 3]
    rest = [i for i in wrong if i not in chosen]
    rng.shuffle(rest)
    return kept + (chosen + rest)[:negatives]


def scores_of(
    policy: EncoderPolicy,
    task: Packed,
    chosen: Sequence[tuple[Packed, Sequence[int], str]],
    bf16: bool = False,
) -> list[Tensor]:
    """Scores of the chosen options of several decisions of one task, their texts encoded once.

    ``bf16``: the encoder multiplies in half precision; what is built on its vectors does not.
    """

    def encode(rows: list[list[int]]) -> Tensor:
        with torch.autocast(policy.head.weight.weight.device.type, torch.bfloat16, enabled=bf16):
            vectors, _ = policy.encode(rows)
        return vectors.float()

    rows: dict[tuple[int, bool], int] = {}
    ids: list[tuple[list[int], int]] = []
    for decision, indices, _ in chosen:
        for i in indices:
            option = decision["options"][i]
            key = (option[0], option[1] == "lines")
            if key not in rows:
                rows[key] = len(ids)
                ids.append(policy.option_ids(Option("", option[1], evidence=task["texts"][option[0]])))
    order = sorted(range(len(ids)), key=lambda r: len(ids[r][0]))
    length = max(len(r) for r, _ in ids)
    parts: list[Tensor | None] = [None] * len(ids)
    for start in range(0, len(order), 10):  # batches of like length waste little on padding
        batch = order[start : start + 10]
        for r, vector in zip(batch, encode([ids[r][0] for r in batch]), strict=True):
            parts[r] = F.pad(vector, (0, 0, 0, length - vector.shape[0]))
    stacked = torch.stack([p for p in parts if p is not None])
    at = torch.arange(length, device=stacked.device)
    mask = at < torch.tensor([[len(r)] for r, _ in ids], device=stacked.device)
    path = at < torch.tensor([[h] for _, h in ids], device=stacked.device)
    queries: dict[str, Tensor] = {}
    for text in dict.fromkeys([task["question"], *(r for _, _, r in chosen if r)]):
        queries[text] = encode([policy.query_ids(text)])[0]
    result = []
    for decision, indices, reflection in chosen:
        where = torch.tensor(
            [rows[(decision["options"][i][0], decision["options"][i][1] == "lines")] for i in indices],
            device=stacked.device,
        )
        features = torch.tensor([decision["options"][i][4] for i in indices], device=stacked.device)
        interactions = policy.head.interactions(
            queries[task["question"]], queries.get(reflection), stacked[where], mask[where], path[where]
        )
        offered = [Option("", o[1], o[2]) for o in (decision["options"][i] for i in indices)]
        remembered = policy.remembered(task["question"], offered)
        result.append(policy.head(interactions, features) + remembered)
    return result


def task_loss(policy: EncoderPolicy, task: Packed, settings: Settings, rng: random.Random) -> Tensor:
    """Listwise loss of one task's decisions, -log of the probability of the best options."""
    chosen, best = [], []
    for decision in task["decisions"]:
        weight = STAGE_WEIGHT.get(decision["stage"], 0.2)
        if len(decision["options"]) < 2 or rng.random() > weight:  # drawn instead of weighted: cheaper
            continue
        few = 5 if decision["stage"].startswith("lines") else settings.negatives
        indices = sample(decision, few, rng)
        said = decision.get(settings.reflection_key) or ""
        if rng.random() < settings.reflection_dropout:
            said = ""
        chosen.append((decision, indices, said))
        best.append(len([i for i in indices if i in set(decision["best"])]))
    if not chosen:
        return torch.zeros((), requires_grad=True)
    losses = []
    for scores, count in zip(scores_of(policy, task, chosen, settings.bf16), best, strict=True):
        log_probabilities = scores.log_softmax(0)
        loss = -log_probabilities[:count].logsumexp(0)
        if settings.label_smoothing:
            loss = loss * (1 - settings.label_smoothing) - settings.label_smoothing * log_probabilities.mean()
        losses.append(loss)
    return torch.stack(losses).sum()


@torch.no_grad()
def evaluate(
    policy: EncoderPolicy,
    tasks: Sequence[Packed],
    reflection_key: str = "",
    stages: Sequence[str] = ("open0",),
) -> dict[str, float]:
    """acc@1, acc@3, acc@5 of files at the first decision, top choice of the other stages."""
    right: dict[str, list[float]] = {}
    for task in tasks:
        first = True
        for decision in task["decisions"]:
            stage = decision["stage"]
            if stage not in stages and not (first and "open0" in stages):
                continue
            said = decision.get(reflection_key, "") if reflection_key else ""
            (scores,) = scores_of(policy, task, [(decision, range(len(decision["options"])), said)])
            order = scores.argsort(descending=True).tolist()
            if first and "open0" in stages:
                files = [
                    decision["options"][i][2]
                    for i in order
                    if decision["options"][i][1] in ("open", "identify")
                ]
                rank = min((files.index(g) for g in task["gold"] if g in files), default=999)
                for k in (1, 3, 5, 10):
                    right.setdefault(f"acc@{k}", []).append(float(rank < k))
                right.setdefault("nll", []).append(
                    -float(scores.log_softmax(0)[list(decision["best"])].logsumexp(0))
                )
            elif stage in stages:
                right.setdefault(stage, []).append(float(order[0] in decision["best"]))
            first = False
    return {k: round(sum(v) / len(v), 4) for k, v in right.items()}


def warm_start(
    policy: EncoderPolicy, tasks: Sequence[Packed], settings: Settings, rng: random.Random
) -> float:
    """Fit the head alone on the frozen encoder; returns the last mean loss."""
    cached = []
    with torch.no_grad():
        for task in tasks:
            for decision in task["decisions"]:
                if len(decision["options"]) < 2 or rng.random() > STAGE_WEIGHT.get(decision["stage"], 0.2):
                    continue
                indices = sample(decision, settings.negatives + 2, rng)
                captured: list[tuple[Tensor, Tensor]] = []
                handle = policy.head.register_forward_hook(
                    lambda _m, args, _o, into=captured: into.append((args[0], args[1]))
                )
                scores_of(policy, task, [(decision, indices, "")])
                handle.remove()
                count = len([i for i in indices if i in set(decision["best"])])
                cached.append((*captured[0], count))
    optimizer = torch.optim.Adam(
        [
            {"params": [policy.head.linear.weight], "lr": 0.05},
            {"params": policy.head.mlp.parameters(), "lr": 2e-3},
        ],
    )
    mean = math.nan
    for _ in range(120):
        losses = [-policy.head(a, b).log_softmax(0)[:c].logsumexp(0) for a, b, c in cached]
        mean_loss = torch.stack(losses).mean()
        penalty = 1e-3 * policy.head.linear.weight.pow(2).sum()
        optimizer.zero_grad()
        (mean_loss + penalty).backward()
        optimizer.step()
        mean = float(mean_loss.detach())
    return mean


def train(settings: Settings, out: Path, device: str = "cpu") -> EncoderPolicy:
    """Run or resume the training in ``out``; the trained policy, its LoRA merged on load only."""
    started = time.monotonic()
    rng = random.Random(settings.seed)
    torch.manual_seed(settings.seed)
    policy = EncoderPolicy.base(FEATURES).to(device)
    for parameter in policy.encoder.parameters():
        parameter.requires_grad_(False)
    lora = LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, target_modules=["query", "key", "value", "dense"]
    )
    out.mkdir(parents=True, exist_ok=True)
    packs = [load_pack(p) for p in settings.pack]
    validation = load_pack(settings.validation) if settings.validation else []
    validation = validation[:: max(1, len(validation) // settings.validation_tasks)]
    log = (out / "log.jsonl").open("a")

    def note(**values: Any) -> None:
        log.write(json.dumps(values) + "\n")
        log.flush()
        print(values, flush=True)

    state_file = out / "state.pt"
    resumed = torch.load(state_file, weights_only=True) if state_file.exists() else None
    if resumed is None and not settings.init and settings.warm_start_tasks:
        few = rng.sample(packs[0], min(settings.warm_start_tasks, len(packs[0])))
        loss = warm_start(policy, few, settings, rng)
        note(event="warm start", loss=round(loss, 4), seconds=round(time.monotonic() - started))
        if validation:
            note(event="evaluate", step=0, **evaluate(policy, validation))
    inject_adapter_in_model(lora, policy.encoder)
    if settings.init:
        loaded = load_file(Path(settings.init) / "adapter_model.safetensors")
        state = {k.removeprefix("base_model.model."): v.float() for k, v in loaded.items()}
        set_peft_model_state_dict(policy.encoder, state)
        policy.head.load_state_dict(load_file(Path(settings.init) / "head.safetensors"))
    layers = list(policy.encoder.encoder["layer"].children())
    for layer in layers[: -settings.trained_layers] if settings.trained_layers else ():
        layer.requires_grad_(False)
    adapter = [p for p in policy.encoder.parameters() if p.requires_grad]
    groups = [
        {"params": adapter, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": list(policy.head.parameters()), "lr": settings.head_learning_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    weights = settings.pack_weights or tuple(float(len(tasks)) for tasks in packs)
    total = math.ceil(settings.epochs * len(packs[0]) * sum(weights) / weights[0] / settings.batch)
    step, spent = 0, 0.0
    if resumed is not None:
        policy.load_state_dict(resumed["model"])
        if len(resumed["optimizer"]["param_groups"][0]["params"]) != len(adapter):
            raise InputError(f"{out} was begun with other layers or another rank; use another --out.")
        optimizer.load_state_dict(resumed["optimizer"])
        step, spent = resumed["step"], resumed["spent"]
        rng.setstate(resumed["rng"])
    else:
        spent = time.monotonic() - started
    order = _order(packs, weights, settings.seed + step)
    mean, clock = None, time.monotonic()
    bases = [g["lr"] for g in optimizer.param_groups]
    if resumed is not None:
        bases = [settings.learning_rate, settings.head_learning_rate]
    while step < total:
        used = spent + time.monotonic() - clock
        # Whichever of steps and minutes runs out first ends the schedule.
        progress = max(step / total, used / (60 * settings.minutes))
        if progress >= 1:
            break
        factor = min(1.0, (step + 1) / settings.warmup) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        )
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = base * factor
        optimizer.zero_grad()
        value = 0.0
        for _ in range(settings.batch):
            loss = task_loss(policy, next(order), settings, rng) / settings.batch
            loss.backward()
            value += float(loss.detach())
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        step += 1
        mean = value if mean is None else 0.95 * mean + 0.05 * value
        if step % 10 == 0:
            minutes = round((spent + time.monotonic() - clock) / 60, 1)
            note(event="step", step=step, of=total, loss=round(mean, 4), minutes=minutes)
        if step % settings.save_every == 0:
            snapshot = {"model": policy.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                        "spent": spent + time.monotonic() - clock, "rng": rng.getstate()}  # fmt: skip
            with whole(state_file) as part:
                torch.save(snapshot, part)
            save(policy, settings, lora, out / "last", step)
        if step % settings.evaluate_every == 0 and validation:
            note(event="evaluate", step=step, **evaluate(policy, validation))
    save(policy, settings, lora, out / "last", step)
    if validation:
        stages = ("open0", "identify0", "open1", "identify1", "lines0")
        note(event="final", step=step, **evaluate(policy, validation, stages=stages))
    return policy


def save(policy: EncoderPolicy, settings: Settings, lora: LoraConfig, folder: Path, step: int) -> None:
    """Write the adapter and head in the shipped format."""
    state = get_peft_model_state_dict(policy.encoder)
    state = {f"base_model.model.{k}": v for k, v in state.items()}
    config = {"peft_type": "LORA", "r": lora.r, "lora_alpha": lora.lora_alpha, "bias": "none",
              "target_modules": sorted(lora.target_modules or []), "task_type": "FEATURE_EXTRACTION",
              "base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2"}  # fmt: skip
    meta = {"name": "minilm-late-interaction", "training": {**described(settings), "steps": step}}
    card = (
        "# The bundled policy of repoagent\n\nall-MiniLM-L6-v2 (Apache-2.0) with a LoRA adapter and a "
        "late-interaction PointerHead, trained on teacher-written questions over public repositories.\n"
        "Settings are in `repoagent.json`; figures in the project's `benchmarks/results/`.\n"
    )
    policy.save(folder, adapter=state, adapter_config=config, card=card, meta=meta)


def _order(packs: list[list[Packed]], weights: Sequence[float], seed: int) -> Iterator[Packed]:
    """Tasks without end: each draws its pack by weight, each pack is gone through epoch by epoch."""
    shuffler = random.Random(seed)
    queues: list[list[Packed]] = [[] for _ in packs]
    while True:
        (which,) = shuffler.choices(range(len(packs)), weights)
        if not queues[which]:
            queues[which] = packs[which][:]
            shuffler.shuffle(queues[which])
        yield queues[which].pop()
