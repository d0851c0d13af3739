"""Supervised fine-tuning of both players on a causal LM, through ``transformers.Trainer``.

The losses are computed by the players' own methods, so that what is trained is what is played. A run
that was killed is started again with the same arguments and goes on from its last whole checkpoint.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from repoagent.causal import pick_device
from repoagent.errors import InputError
from repoagent.heads import ChoiceTokenHead
from repoagent.transformer import TransformerPolicy, TransformerReflector
from training.files import write_json, write_text
from training.sft_settings import SFTSettings
from training.states import State
from training.supervision import choice_loss, order, policy_states

Report = Callable[[int, int, float], None]
"""Called after every update with its number, the number of all updates, and the loss."""

WEIGHTS = "model.safetensors"
WHOLE = "whole"
"""Written last into a checkpoint: one without it was cut off while it was saved."""


def train_policy(
    states: Sequence[State],
    base: str | Path,
    settings: SFTSettings,
    out: Path,
    *,
    reflect: bool = True,
    report: Report | None = None,
) -> Path:
    """Teach a policy on ``base`` the best options; the folder of the trained one, ``out / "model"``.

    The loss is :func:`choice_loss`. ``reflect=False`` trains with empty reflections.
    """
    states = policy_states(states, settings.reflection_noise if reflect else 0.0, settings.seed)

    def load(**options: Any) -> TransformerPolicy:
        return TransformerPolicy.new(base, head=settings.head, **options)

    def loss(policy: TransformerPolicy, batch: Sequence[State]) -> Tensor:
        rows = policy.log_probabilities(
            [s.observation for s in batch], [s.reflection if reflect else "" for s in batch]
        )
        return choice_loss(rows, batch, settings.label_smoothing)

    return _train(states, load, loss, settings, out, report)


def train_reflector(
    states: Sequence[State],
    base: str | Path,
    settings: SFTSettings,
    out: Path,
    *,
    report: Report | None = None,
) -> Path:
    """Teach a reflector on ``base`` the states' reflections; the trained one's folder, ``out / "model"``.

    L_R = -mean over states of sum_j log R(R_j | s, R_<j), the end token included.
    """
    if not all(state.reflection.strip() for state in states):
        raise InputError("a state to train the reflector on has no reflection: run the teacher before.")

    def load(**options: Any) -> TransformerReflector:
        return TransformerReflector.new(base, **options)

    def loss(reflector: TransformerReflector, batch: Sequence[State]) -> Tensor:
        sums = reflector.log_likelihood([s.observation for s in batch], [s.reflection for s in batch])
        return -torch.stack(sums).mean()

    return _train(states, load, loss, settings, out, report)


class _Loss(nn.Module):
    """A player as Trainer wants it: a module of all its weights whose ``forward`` gives the loss."""

    def __init__(self, player: Any, loss: Callable[[Any, Sequence[State]], Tensor], states: Sequence[State]):
        super().__init__()
        self.lm: nn.Module = player.lm.model
        self.head: nn.Module | None = getattr(player, "head", None)
        self._player, self._loss, self._states = player, loss, states

    def forward(self, numbers: Tensor) -> dict[str, Tensor]:
        return {"loss": self._loss(self._player, [self._states[i] for i in numbers.tolist()])}


class _Order(Dataset[int]):
    """The state of every place in the run, see :func:`training.supervision.order`."""

    def __init__(self, states: int, length: int, seed: int) -> None:
        self._order = order(states, length, seed)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> int:
        return self._order[place]


class _Trainer(Trainer):
    """Checkpoints hold trainable parameters alone, each once, and are marked when they are whole."""

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        pass  # it was loaded there, and quantized weights must not be moved

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        folder = Path(cast(str, output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().cpu().contiguous() for name, p in _trained(self.model)}, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        with torch.no_grad():
            for name, parameter in _trained(self.model):
                parameter.copy_(saved[name])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process saves its own state of random numbers
        if self.args.should_save:
            (Path(cast(str, self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / WHOLE).touch()


class _Metrics(TrainerCallback):
    """One line of ``metrics.jsonl`` per update, of this run and, up to ``done`` updates, of those before."""

    def __init__(self, path: Path, examples: int, done: int, report: Report | None) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()[:done] if path.is_file() else []
        write_text(path, "".join(f"{line}\n" for line in lines))
        self.path, self.examples, self.report = path, examples, report
        self.time = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        state.log_history.clear()  # or every checkpoint would hold it once more
        if not logs or "loss" not in logs:
            return
        now = time.perf_counter()
        rate = float(f"{self.examples / (now - self.time):.4g}")
        self.time = now
        row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "examples_per_second": rate,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.report:
            self.report(state.global_step, state.max_steps, logs["loss"])


def _train(
    states: Sequence[State],
    load: Callable[..., Any],
    loss: Callable[[Any, Sequence[State]], Tensor],
    settings: SFTSettings,
    out: Path,
    report: Report | None,
) -> Path:
    model = out / "model"
    if (out / "done.json").is_file():
        return model
    if not states:
        raise InputError("there are no states to train on: run the stage before.")
    with _random_state_kept():
        args = _arguments(settings, out)
        torch.manual_seed(settings.seed)  # a new head and a new adapter are drawn
        player = load(
            device=str(args.device),
            lora_rank=settings.lora_rank,
            load_in_8bit=settings.quantization == "8bit",
            load_in_4bit=settings.quantization == "4bit",
            # All weights are trained in single precision; a frozen base model can do with half.
            dtype="bfloat16" if settings.lora_rank and settings.bf16 else "float32",
        )
        if settings.gradient_checkpointing:
            player.lm.model.gradient_checkpointing_enable({"use_reentrant": False})
        elif settings.quantization:  # peft switches it on
            player.lm.model.gradient_checkpointing_disable()
        total = settings.batch * settings.accumulation * args.world_size
        trainer = _Trainer(
            _Loss(player, loss, states),
            args,
            data_collator=lambda numbers: {"numbers": torch.tensor(numbers)},
            train_dataset=_Order(len(states), settings.steps * total, settings.seed),
        )
        trainer.remove_callback(PrinterCallback)
        last = _last_checkpoint(out, clean=args.should_save)
        if args.should_save:
            done = int(last.name.partition("-")[2]) if last else 0
            trainer.add_callback(_Metrics(out / "metrics.jsonl", total, done, report))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        if args.should_save:
            part = out / "model.part"
            for folder in (part, model):
                shutil.rmtree(folder, ignore_errors=True)
            player.save(part)
            part.rename(model)
            write_json(out / "done.json", asdict(settings), indent=1)
        trainer.accelerator.wait_for_everyone()
    return model


def _arguments(settings: SFTSettings, out: Path) -> TrainingArguments:
    device = pick_device(settings.device or None)
    out.mkdir(parents=True, exist_ok=True)
    args = TrainingArguments(
        output_dir=str(out),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        bf16=settings.bf16,
        max_grad_norm=settings.max_grad_norm,
        save_steps=settings.save_every,
        save_total_limit=2,  # the one before stays until the new one is whole
        seed=settings.seed,
        train_sampling_strategy="sequential",
        # A mean over several updates could not be resumed within.
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        # The pointer head leaves the output embeddings unused.
        ddp_find_unused_parameters=settings.head != ChoiceTokenHead.kind,
    )
    _ = args.device  # sets up the processes and counts the GPUs
    args._n_gpu = min(args.n_gpu, 1)  # several GPUs are used by several processes
    return args


def _trained(module: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def _last_checkpoint(out: Path, *, clean: bool) -> Path | None:
    """The last whole checkpoint; ``clean`` removes the others, some of which may be cut off."""
    found = sorted(out.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
    last = next((folder for folder in reversed(found) if (folder / WHOLE).is_file()), None)
    if clean:
        for folder in found:
            if folder != last:
                shutil.rmtree(folder)
    return last


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Trainer seeds the generators of the whole process."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
