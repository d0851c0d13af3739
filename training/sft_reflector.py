"""SFT of the bundled reflector: L_R = -mean log R(R_j | s, R_<j), from scratch.

repoagent train bundled sft-reflector --pack runs/pack/train.jsonl.gz --out runs/reflector [--minutes 20]

States with a reflection of the large-language-model teacher use it; the others use the template
teacher's. The tokenizer is a byte-level BPE learnt from the prompts and reflections themselves.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from repoagent.environment import Observation, Option
from repoagent.manifest import write_manifest
from repoagent.prompt import PROMPT_FORMAT, reflection_prompt
from repoagent.writer import BEGIN, END, MAX_NEW_TOKENS, WriterReflector
from training.files import whole
from training.sft_policy import described, load_pack
from training.template_teacher import reflection

Packed = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """One run; every field is written into the checkpoint."""

    pack: tuple[str, ...]
    validation: str = ""
    minutes: float = 40.0
    epochs: float = 4.0
    batch: int = 16
    width: int = 192
    layers: int = 4
    heads: int = 4
    vocabulary: int = 4096
    window: int = 288
    learning_rate: float = 2e-3
    teacher: str = "template"
    templates: float = 1.0
    init: str = ""
    prompt_loss: float = 0.0
    seed: int = 0


def observation_of(task: Packed, decision: Packed) -> Observation:
    """The observation of a packed decision, as the players see it."""
    return Observation(
        task["question"],
        decision["location"],
        tuple(decision["history"]),
        decision["last_result"],
        tuple(Option(o[3], o[1], o[2]) for o in decision["options"]),
    )


def examples(
    tasks: Sequence[Packed], teacher: str, templates: float, rng: random.Random
) -> Iterator[tuple[Observation, str, str]]:
    """(observation, reflection, who wrote it) of the states that are used.

    ``teacher`` "llm" takes the large language model's reflection where a state has one and, for a
    share ``templates`` of the others, the template teacher's; "template" takes the latter alone.
    """
    for task in tasks:
        for decision in task["decisions"]:
            if teacher == "llm" and decision["reflection"]:
                yield observation_of(task, decision), decision["reflection"], "llm"
            elif rng.random() < templates:
                yield observation_of(task, decision), reflection(decision), "template"


def add_reflections(pack: Path, reflector: WriterReflector, out: Path, batch: int = 16) -> int:
    """Copy ``pack`` to ``out`` with what ``reflector`` writes on every decision, as "generated"."""
    tasks = load_pack(pack)
    found = [(task, decision) for task in tasks for decision in task["decisions"]]
    # Prompts of like length side by side: batches are padded to the longest.
    found.sort(key=lambda pair: len(pair[1]["last_result"]))
    for start in range(0, len(found), batch):
        part = found[start : start + batch]
        texts = reflector.reflect([observation_of(task, decision) for task, decision in part])
        for (_, decision), text in zip(part, texts, strict=True):
            decision["generated"] = text
    with gzip.open(out, "wt", encoding="utf-8", compresslevel=3) as file:
        file.writelines(json.dumps(task, ensure_ascii=False) + "\n" for task in tasks)
    return len(found)


def make_tokenizer(texts: Iterator[str], size: int) -> Tokenizer:
    """Byte-level BPE, so that no file name is out of vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END, BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, observation: Observation, said: str, window: int) -> tuple[list[int], int]:
    """Token ids of prompt, reflection and end; and the length of the prompt."""

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    prompt = reflection_prompt(observation, count=count, budget=window - MAX_NEW_TOKENS - 1)
    begin, end = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
    head = [begin, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    tail = tokenizer.encode(" " + said, add_special_tokens=False).ids[: MAX_NEW_TOKENS - 1]
    return [*head, *tail, end], len(head)


def loss_of(
    model: LlamaForCausalLM, rows: Sequence[tuple[list[int], int]], prompt_loss: float
) -> torch.Tensor:
    """Mean cross-entropy over reflection tokens, plus ``prompt_loss`` times that over the prompt."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    weight = torch.zeros(len(rows), length)
    for i, (row, head) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        weight[i, 1:head] = prompt_loss
        weight[i, head : len(row)] = 1.0
    device = model.device
    ids, weight = ids.to(device), weight.to(device)
    logits = model(input_ids=ids).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view(len(rows), -1)
    weight = weight[:, 1:]
    return (losses * weight).sum() / (weight == 1.0).sum()


def train(settings: Settings, out: Path, device: str = "cpu") -> Path:
    """Train from scratch or resume in ``out``; the folder of the finished checkpoint."""
    rng = random.Random(settings.seed)
    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    tasks = [t for p in settings.pack for t in load_pack(p)]
    data = list(examples(tasks, settings.teacher, settings.templates, rng))
    validation = load_pack(settings.validation) if settings.validation else []
    # At most a few states of each task, so that all repositories are among those held out.
    held = list(examples(validation, settings.teacher, settings.templates, rng))[::5][:160]
    vocabulary = out / "tokenizer.json"
    if settings.init and not vocabulary.exists():
        shutil.copy(Path(settings.init) / "tokenizer.json", vocabulary)
    if vocabulary.exists():
        tokenizer = Tokenizer.from_file(str(vocabulary))
    else:
        few = rng.sample(data, min(4000, len(data)))
        prompts = (reflection_prompt(o, count=lambda s: len(s) // 4, budget=400) for o, _, _ in few)
        texts = [" " + said for _, said, _ in data] * 3 + list(prompts)
        tokenizer = make_tokenizer(iter(texts), settings.vocabulary)
        tokenizer.save(str(vocabulary))
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=settings.width,
        intermediate_size=int(settings.width * 8 / 3 / 64) * 64,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.window,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BEGIN),
        eos_token_id=tokenizer.token_to_id(END),
    )
    model = LlamaForCausalLM(config)
    if settings.init:
        model = LlamaForCausalLM.from_pretrained(settings.init, dtype=torch.float32)
    model = model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    total = math.ceil(settings.epochs * len(data) / settings.batch)
    step, spent = 0, 0.0
    state_file = out / "state.pt"
    if state_file.exists():
        saved = torch.load(state_file, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent"]
    taught = sum(w == "llm" for *_, w in data)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{len(data)} states, {taught} by the large language model; {size:.1f} M parameters", flush=True)
    cached = [encode(tokenizer, o, said, settings.window) for o, said, _ in data]
    log = (out / "log.jsonl").open("a")
    shuffler = random.Random(settings.seed + step)
    queue: list[int] = []
    mean, clock = None, time.monotonic()
    while step < total:
        progress = max(step / total, (spent + time.monotonic() - clock) / (60 * settings.minutes))
        if progress >= 1:
            break
        factor = min(1.0, (step + 1) / 60) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        if len(queue) < settings.batch * 8:
            fresh = list(range(len(cached)))
            shuffler.shuffle(fresh)
            queue = fresh
        # Rows of like length share a batch: sort a stretch of the queue, take one slice of it.
        stretch = sorted(queue[-settings.batch * 8 :], key=lambda i: len(cached[i][0]))
        at = shuffler.randrange(0, len(stretch) - settings.batch + 1)
        batch = stretch[at : at + settings.batch]
        taken = set(batch)
        queue = [i for i in queue if i not in taken]
        optimizer.zero_grad()
        loss = loss_of(model, [cached[i] for i in batch], settings.prompt_loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        mean = float(loss.detach()) if mean is None else 0.98 * mean + 0.02 * float(loss.detach())
        if step % 50 == 0 or step == total:
            minutes = round((spent + time.monotonic() - clock) / 60, 1)
            row = {"step": step, "of": total, "loss": round(mean, 4), "minutes": minutes}
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)
        if step % 200 == 0:
            snapshot = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                        "spent": spent + time.monotonic() - clock}  # fmt: skip
            with whole(state_file) as part:
                torch.save(snapshot, part)
    held_loss = None
    if held:
        with torch.no_grad():
            rows = [encode(tokenizer, o, said, settings.window) for o, said, _ in held]
            held_loss = sum(
                float(loss_of(model, rows[i : i + 16], 0.0)) for i in range(0, len(rows), 16)
            ) / len(range(0, len(rows), 16))
        print({"held_out_loss": round(held_loss, 4), "perplexity": round(math.exp(held_loss), 2)}, flush=True)
    return _save(model, tokenizer, settings, out / "last", step, held_loss)


def _save(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    settings: Settings,
    folder: Path,
    step: int,
    loss: float | None,
) -> Path:
    model.half().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": BEGIN}, indent=2
        )
        + "\n"
    )
    (folder / "README.md").write_text(
        "# The bundled reflector of repoagent\n\nA small Llama-style causal LM trained from scratch on "
        "reflections that a large language model wrote about states of AutoExplore on public repositories, "
        "or on template reflections, as `repoagent.json` says. Settings are in `repoagent.json`.\n"
    )
    write_manifest(
        folder,
        format="writer-reflector/1",
        name="writer",
        prompt_format=PROMPT_FORMAT,
        training={**described(settings), "steps": step, "held_out_loss": loss},
    )
    return folder
