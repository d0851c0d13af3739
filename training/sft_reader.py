"""SFT of the bundled reader: LoRA on SmolLM2 with a softmax over passages (see :mod:`repoagent.reader`).

repoagent train bundled sft-reader --pack runs/pack/passages.jsonl.gz --out runs/reader [--minutes 60]

For a question q with a right passage c+, wrong ones C- of other files and another one c' of the right file

    L = -log softmax_{c+, C-} s(q, c+) - m log softmax_{c+, c'} s(q, c+),   m = 0.3

so that the first term finds the file and the second the lines. Saves often and resumes from what it saved.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from repoagent import smollm
from repoagent.environment import Passage
from repoagent.errors import InputError
from repoagent.manifest import write_manifest
from repoagent.reader import FORMAT, asked, prompt
from training.checkpoint import load_state, replace_folder, save_state, settle
from training.passages import load_passages
from training.sft_policy import described

_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True)
class Settings:
    """One run; every field is written into the checkpoint.

    ``wrong`` passages are drawn per question, those of files ranked high more often; ``first_layer``: the
    layers below have no adapter, so that they cost no backward pass. Whichever of ``minutes`` and ``epochs``
    runs out first ends the schedule. ``start``: the checkpoint that the run continues from.
    """

    pack: str
    start: str = ""
    minutes: float = 60.0
    epochs: float = 2.0
    batch: int = 4
    wrong: int = 4
    rank: int = 16
    first_layer: int = 14
    learning_rate: float = 2e-4
    warmup: int = 10
    line_share: float = 0.3
    bf16: bool = True
    save_every: int = 25
    seed: int = 0


class Trainee(nn.Module):
    """SmolLM2 with an adapter, and the scale and direction of the score."""

    def __init__(self, settings: Settings, layers: int | None = None) -> None:
        super().__init__()
        config, state, self.tokenizer = smollm.load()
        count = config["num_hidden_layers"] = layers or config["num_hidden_layers"]
        if not 0 <= settings.first_layer < count:
            raise InputError(f"--first-layer is {settings.first_layer}: give 0 to {count - 1}.")
        model = LlamaForCausalLM(LlamaConfig(**config))
        model.load_state_dict(state, strict=False)
        lora = LoraConfig(
            r=settings.rank, lora_alpha=2 * settings.rank, target_modules=_TARGETS, task_type="CAUSAL_LM",
            layers_to_transform=list(range(settings.first_layer, count)),
        )  # fmt: skip
        self.model = get_peft_model(model, lora)
        self.settings, self.lora = settings, lora
        # Begins as plain query likelihood; the direction is stored times ten, for its learning rate.
        self.log_scale = nn.Parameter(torch.tensor(math.log(4.0)))
        self.direction = nn.Parameter(torch.zeros(config["hidden_size"]))
        if settings.start:
            self._continue(Path(settings.start))

    def _continue(self, folder: Path) -> None:
        """Take over the adapter and the head of the checkpoint in ``folder``."""
        try:
            adapter, head = (
                load_file(folder / "adapter_model.safetensors"),
                load_file(folder / "head.safetensors"),
            )
            if adapter.keys() != get_peft_model_state_dict(self.model).keys():
                raise ValueError("its adapter is in other layers")
            set_peft_model_state_dict(self.model, {k: v.float() for k, v in adapter.items()})
            with torch.no_grad():
                self.log_scale.copy_(head["scale"].log())
                self.direction.copy_(head["direction"] / 0.1)
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"the run cannot start from {folder}: {reason}; name a reader that sft-reader wrote."
            ) from error

    def scores(self, question: str, passages: Sequence[Passage]) -> Tensor:
        """s(question, passage) of each passage, with gradients."""
        query = asked(self.tokenizer, question)
        rows = [prompt(self.tokenizer, p) + query for p in passages]
        length = max(map(len, rows))
        device = self.direction.device
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
        base = self.model.get_base_model()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bf16):
            hidden = base.model(input_ids=ids, attention_mask=mask).last_hidden_state
            likely, last = [], []
            for row, states in zip(rows, hidden, strict=True):
                states = states[len(row) - len(query) - 1 : len(row)]
                logits = base.lm_head(states[:-1]).float().log_softmax(-1)
                likely.append(logits.gather(1, torch.tensor(query, device=device)[:, None]).mean())
                last.append(states[-1].float())
        return self.log_scale.exp() * torch.stack(likely) + 0.1 * torch.stack(last) @ self.direction

    def save(self, folder: Path, questions: int) -> None:
        """Write the checkpoint that :class:`repoagent.reader.PassageReader` loads."""
        folder.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self.model)
        save_file({k: v.half().contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors")
        head = {"scale": self.log_scale.detach().exp(), "direction": 0.1 * self.direction.detach()}
        save_file(head, folder / "head.safetensors")
        config = {"peft_type": "LORA", "r": self.lora.r, "lora_alpha": self.lora.lora_alpha, "bias": "none",
                  "target_modules": sorted(_TARGETS), "task_type": "CAUSAL_LM",
                  "layers_to_transform": self.lora.layers_to_transform,
                  "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "README.md").write_text(CARD)
        training = {**described(self.settings), "questions": questions}
        write_manifest(folder, format=FORMAT, training=training)


CARD = """\
# The bundled reader of repoagent

SmolLM2-135M-Instruct (Apache-2.0) with a LoRA adapter that scores how well a passage of a file answers a
question, trained on teacher-written questions over public repositories. Settings are in `repoagent.json`;
figures in the project's `benchmarks/results/`.
"""


def task_loss(trainee: Trainee, row: dict[str, Any], rng: random.Random) -> tuple[Tensor, bool]:
    """The loss of one question, and whether the right passage came out above all of other files."""
    settings = trainee.settings
    right = rng.choice(row["right"]) if rng.random() < 0.25 else row["right"][0]
    wrong = draw(row["wrong"], settings.wrong, rng)
    same = row["same"][:1]
    scores = trainee.scores(row["question"], [right, *wrong, *same])
    files = scores[: 1 + len(wrong)]
    loss = -files.log_softmax(0)[0]
    if same:
        loss = loss - settings.line_share * scores[[0, -1]].log_softmax(0)[0]
    return loss, bool(files.argmax() == 0)


def draw(ranked: Sequence[Passage], count: int, rng: random.Random) -> list[Passage]:
    """``count`` of ``ranked`` without replacement, the one at rank k with weight 1 / (k + 3)."""
    keys = {p: -math.log(1 - rng.random()) * (k + 3) for k, p in enumerate(ranked)}
    return sorted(keys, key=keys.__getitem__)[:count]


def train(settings: Settings, out: Path, device: str = "cpu", layers: int | None = None) -> Trainee:
    """Run or resume the training in ``out``; ``layers`` keeps the first ones of the language model alone."""
    torch.manual_seed(settings.seed)
    trainee = Trainee(settings, layers).to(device)
    try:
        rows = list(load_passages(Path(settings.pack)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{settings.pack} is no pack of passages ({error}); make one first.") from error
    if not rows:
        raise InputError(f"{settings.pack} holds no question; pack more tasks.")
    adapter = [p for p in trainee.model.parameters() if p.requires_grad]
    parameters = [*adapter, trainee.log_scale, trainee.direction]
    rates = (settings.learning_rate, 5e-3, 1e-3)
    groups = [{"params": p} for p in (adapter, [trainee.log_scale], [trainee.direction])]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    out.mkdir(parents=True, exist_ok=True)
    state = out / "state"
    step, spent, recent = 0, 0.0, list[tuple[float, bool]]()
    if settle(state):
        try:
            progress = load_state(state, parameters, optimizer)
        except (RuntimeError, KeyError) as error:
            raise InputError(
                f"{out} was begun with other layers or another rank; use another --out."
            ) from error
        step, spent = progress["step"], progress["spent"]
    total = math.ceil(settings.epochs * len(rows) / settings.batch)
    clock = time.monotonic() - spent
    with (out / "log.jsonl").open("a") as log:
        while True:
            done = max(step / total, (time.monotonic() - clock) / (60 * settings.minutes))
            if done >= 1:
                break
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, (step + 1) / settings.warmup) * (1 - 0.9 * done)
            optimizer.zero_grad()
            for number in range(step * settings.batch, (step + 1) * settings.batch):
                rng = random.Random(f"{settings.seed} {number}")  # so that a resumed run draws the same
                loss, right = task_loss(trainee, rows[number % len(rows)], rng)
                (loss / settings.batch).backward()
                recent.append((float(loss.detach()), right))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            if step % 10 == 0:
                recent = recent[-160:]
                entry = {
                    "step": step, "of": total, "minutes": round((time.monotonic() - clock) / 60, 1),
                    "loss": round(sum(v for v, _ in recent) / len(recent), 4),
                    "right": round(sum(r for _, r in recent) / len(recent), 4),
                }  # fmt: skip
                log.write(json.dumps(entry) + "\n")
                log.flush()
                print(entry, flush=True)
            if step % settings.save_every == 0:
                _keep(trainee, out, parameters, optimizer, step, time.monotonic() - clock)
    _keep(trainee, out, parameters, optimizer, step, time.monotonic() - clock)
    return trainee


def _keep(
    trainee: Trainee, out: Path, parameters: Sequence[Tensor], optimizer: Any, step: int, spent: float
) -> None:
    progress = {"step": step, "spent": spent}
    replace_folder(out / "state", lambda folder: save_state(folder, parameters, optimizer, progress))
    questions = step * trainee.settings.batch
    replace_folder(out / "last", lambda folder: trainee.save(folder, questions))
