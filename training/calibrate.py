"""Refit the policy's head and its temperature on repositories that the adapter was not trained on.

repoagent train bundled calibrate --policy runs/policy/last --pack runs/pack/validation.jsonl.gz --out DIR

The adapter makes similarities look better on the repositories it was trained on than they are
elsewhere, so a head fitted there trusts them too much. Here the encoder is frozen, every option of
every decision is scored, and the linear parts of the head are fitted anew, held near its old value
by a penalty chosen by cross-validation over repositories. The temperature then minimises the
negative log-likelihood of those held-out scores.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from repoagent.encoder import EncoderPolicy, LateInteractionHead
from repoagent.manifest import read_manifest, write_manifest
from repoagent.precision import fast_type
from training.sft_policy import STAGE_WEIGHT, Packed, load_pack, scores_of

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
STAGES = ("open0", "go0", "identify0", "open1", "identify1", "lines0")


@dataclass(frozen=True, slots=True)
class Scored:
    """The head's inputs on one decision, (options, interactions) and (options, features)."""

    repo: str
    stage: str
    first: bool
    interactions: Tensor
    features: Tensor
    best: tuple[int, ...]
    files: tuple[str, ...]
    gold: tuple[str, ...]


@torch.no_grad()
def collect(policy: EncoderPolicy, tasks: Sequence[Packed], reflection_key: str = "") -> list[Scored]:
    """Encode every option of every decision of ``tasks`` once.

    With ``reflection_key`` "generated" the policy reads what the reflector itself wrote, so the
    weight of reflections is fitted to what they will be worth.
    """
    found = []
    captured: list[tuple[Tensor, Tensor]] = []
    handle = policy.head.register_forward_hook(lambda _m, args, _o: captured.append((args[0], args[1])))
    for task in tasks:
        kept = [d for d in task["decisions"] if d["stage"] in STAGES and len(d["options"]) > 1]
        if not kept:
            continue
        captured.clear()
        said = [d.get(reflection_key, "") if reflection_key else "" for d in kept]
        asked = [(d, range(len(d["options"])), s) for d, s in zip(kept, said, strict=True)]
        scores_of(policy, task, asked)
        for number, (decision, (interactions, features)) in enumerate(zip(kept, captured, strict=True)):
            files = tuple(o[2] if o[1] in ("open", "identify") else "" for o in decision["options"])
            item = Scored(
                repo=task["repo"],
                stage=decision["stage"],
                first=number == 0,
                interactions=interactions,
                features=features,
                best=tuple(decision["best"]),
                files=files,
                gold=tuple(task["gold"]),
            )
            found.append(item)
    handle.remove()
    return found


def weights(head: LateInteractionHead) -> Tensor:
    """The weights that are fitted: those of ``head.linear``, then those of ``head.block``."""
    return torch.cat([head.linear.weight[0], head.block.weight[0]]).detach().clone()


def widen(head: LateInteractionHead, x: Tensor) -> Tensor:
    """Inputs (..., size) side by side with themselves where they are a block's, for ``weights``."""
    return torch.cat([x, head.is_block(x) * x], -1)


def fit(head: LateInteractionHead, data: Sequence[Scored], penalty: float, steps: int = 300) -> Tensor:
    """The ``weights`` that minimise the weighted loss plus ``penalty`` |w - w_0|^2."""
    with torch.no_grad():
        inputs, valid, best = padded(data)
        fixed = head.mlp(inputs).squeeze(-1)
        start = weights(head)
        inputs = widen(head, inputs)
        # Every input moves the scores by as much, whatever its scale.
        scale = inputs[valid].std(0).clamp(min=1e-2)
    share = torch.tensor([STAGE_WEIGHT.get(d.stage, 0.2) for d in data])
    share = share / share.sum()
    change = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=0.03)
    for _ in range(steps):
        score = (inputs @ (start + change / scale) + fixed).masked_fill(~valid, -torch.inf)
        log_probabilities = score.log_softmax(1).masked_fill(~best, -torch.inf)
        loss = -(log_probabilities.logsumexp(1) * share).sum() + penalty * change.pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (start + change / scale).detach()


def padded(data: Sequence[Scored]) -> tuple[Tensor, Tensor, Tensor]:
    """The head's inputs (decisions, options, inputs), which options exist, and which are best."""
    longest = max(len(d.features) for d in data)
    width = data[0].interactions.shape[1] + data[0].features.shape[1]
    inputs = torch.zeros(len(data), longest, width)
    valid = torch.zeros(len(data), longest, dtype=torch.bool)
    best = torch.zeros(len(data), longest, dtype=torch.bool)
    for row, item in enumerate(data):
        inputs[row, : len(item.features)] = torch.cat([item.interactions, item.features], -1)
        valid[row, : len(item.features)] = True
        best[row, list(item.best)] = True
    return inputs, valid, best


@torch.no_grad()
def scores(head: LateInteractionHead, weight: Tensor, item: Scored) -> Tensor:
    """Scores of one decision with ``weight`` in the place of the head's ``weights``."""
    x = torch.cat([item.interactions, item.features], -1)
    result: Tensor = widen(head, x) @ weight + head.mlp(x).squeeze(-1)
    return result


def measure(found: Sequence[tuple[Scored, Tensor]], temperature: float = 1.0) -> dict[str, float]:
    """Mean negative log-likelihood, and accuracies of the file at the first decision and by stage."""
    values: dict[str, list[float]] = {}
    for item, score in found:
        log_probabilities = (score / temperature).log_softmax(0)
        values.setdefault("nll", []).append(-float(log_probabilities[list(item.best)].logsumexp(0)))
        order = score.argsort(descending=True).tolist()
        values.setdefault(item.stage, []).append(float(order[0] in item.best))
        if item.first:
            files = [item.files[i] for i in order if item.files[i]]
            rank = min((files.index(g) for g in item.gold if g in files), default=999)
            for k in (1, 3, 5):
                values.setdefault(f"acc@{k}", []).append(float(rank < k))
    return {k: round(sum(v) / len(v), 4) for k, v in sorted(values.items())}


def calibrate(policy: EncoderPolicy, data: Sequence[Scored]) -> dict[str, Any]:
    """Choose the penalty by leaving repositories out, refit, set the temperature in place."""
    head = policy.head
    repos = sorted({d.repo for d in data})
    folds = [set(repos[i::5]) for i in range(5)]
    old = weights(head)
    report: dict[str, Any] = {"before": measure([(d, scores(head, old, d)) for d in data])}
    best: tuple[float, float, list[tuple[Scored, Tensor]]] | None = None
    for penalty in PENALTIES:
        held: list[tuple[Scored, Tensor]] = []
        for fold in folds:
            weight = fit(head, [d for d in data if d.repo not in fold], penalty)
            held += [(d, scores(head, weight, d)) for d in data if d.repo in fold]
        figures = measure(held)
        report[f"penalty {penalty}"] = figures
        if best is None or figures["nll"] < best[0]:
            best = (figures["nll"], penalty, held)
    assert best is not None
    _, penalty, held = best
    if best[0] < report["before"]["nll"]:
        weight = fit(head, data, penalty)
        with torch.no_grad():
            head.linear.weight[0], head.block.weight[0] = weight.chunk(2)
        report["chosen"] = penalty
    else:
        held = [(d, scores(head, old, d)) for d in data]
        report["chosen"] = "unchanged"
    temperatures = [0.5 + 0.05 * i for i in range(60)]
    policy.temperature = min(temperatures, key=lambda t: measure(held, t)["nll"])
    report["temperature"] = policy.temperature
    return report


def run(source: Path, packs: Sequence[Path], out: Path, reflection_key: str = "") -> dict[str, Any]:
    """Calibrate the checkpoint ``source`` on ``packs`` and write it to ``out``; the figures."""
    policy = EncoderPolicy.from_folder(source)
    policy.bf16 = fast_type() is torch.bfloat16  # as it answers
    report = calibrate(
        policy, [d for pack in packs for d in collect(policy, load_pack(pack), reflection_key)]
    )
    write(source, policy, out, report)
    return report


def write(source: Path, policy: EncoderPolicy, out: Path, report: dict[str, Any]) -> None:
    """The checkpoint ``source`` with ``policy``'s head and temperature, into ``out``."""
    # How sure the policy is of a whole episode has to be fitted anew: see confidence_fit.py.
    stale = ("sha256", "confidence", "confidence_fit")
    manifest = {k: v for k, v in read_manifest(source).items() if k not in stale}
    out.mkdir(parents=True, exist_ok=True)
    if out.resolve() != source.resolve():
        for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
            shutil.copy(source / name, out / name)
    save_file(policy.head.state_dict(), out / "head.safetensors")
    changed = {"temperature": policy.temperature, "calibration": report}
    write_manifest(out, **{**manifest, **changed})
