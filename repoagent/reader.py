"""PassageReader: how well passages of files answer a question, by a language model that reads both.

The score of a passage c (its path and lines) for the question q = q_1 ... q_n is

    s(q, c) = t / n * sum_i log p(q_i | c, q_<i) + u . h_n

: how likely the question is after the passage ("query likelihood"), plus a direction u of the last hidden
vector. The LoRA adapter, t and u are trained with a softmax over one passage that answers and others that do
not (``repoagent train bundled sft-reader``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from repoagent import smollm
from repoagent.environment import Passage
from repoagent.errors import ModelError
from repoagent.llama import Cache, SmallLlama
from repoagent.lora import merge_lora
from repoagent.manifest import damage, read_manifest
from repoagent.precision import fast_type

FORMAT = "passage-reader/1"
PATH_TOKENS, TEXT_TOKENS, QUESTION_TOKENS = 40, 128, 48
_LINE = 160  # characters of a line
_BATCH = 8


def prompt(tokenizer: Tokenizer, passage: Passage) -> list[int]:
    """Token ids of what is read before the question."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    text = "\n".join(line[:_LINE] for line in passage.text.split("\n"))
    start = ids(f"File: {passage.path}\n```\n")[-PATH_TOKENS:]
    return [*start, *ids(text)[:TEXT_TOKENS], *ids("\n```\nQuestion about this code:")]


def asked(tokenizer: Tokenizer, question: str) -> list[int]:
    """Token ids of the question, at most ``QUESTION_TOKENS``."""
    question = question.encode("utf-8", "replace").decode()  # the tokenizer takes no lone surrogates
    return tokenizer.encode(" " + question, add_special_tokens=False).ids[:QUESTION_TOKENS]


class PassageReader:
    """Scores passages for a question; see the module."""

    def __init__(self, model: SmallLlama, tokenizer: Tokenizer, scale: float, direction: Tensor) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.scale, self.direction = scale, direction

    @torch.inference_mode()
    def score(self, question: str, passages: Sequence[Passage]) -> list[float]:
        """s(question, passage) of each passage."""
        query = torch.tensor(asked(self.tokenizer, question))
        prompts = [prompt(self.tokenizer, p) for p in passages]
        found = [0.0] * len(passages)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            length = max(len(prompts[i]) for i in batch) + len(query)
            ids = torch.zeros(len(batch), length, dtype=torch.long)
            mask = torch.zeros(len(batch), length, dtype=torch.bool)
            for row, i in enumerate(batch):
                end = len(prompts[i]) + len(query)
                ids[row, :end] = torch.cat([torch.tensor(prompts[i]), query])
                mask[row, :end] = True
            hidden = self.model.hidden(ids, mask, Cache(self.model.layers))
            for row, i in enumerate(batch):
                begin = len(prompts[i]) - 1
                states = hidden[row, begin : begin + len(query) + 1]
                likely = self.model.logits(states[:-1]).log_softmax(-1).gather(1, query[:, None]).mean()
                found[i] = float(self.scale * likely + states[-1] @ self.direction)
        return found

    @staticmethod
    def from_folder(folder: Path) -> PassageReader:
        """Load a checkpoint onto the packaged language model; ``ModelError`` says what is wrong."""
        try:
            meta = read_manifest(folder)
            if reason := damage(folder):
                raise ModelError(f"the reader in {folder} is broken: {reason}; install it again.")
            if meta["format"] != FORMAT:
                raise ModelError(
                    f"{folder} has format {meta['format']}, this version reads {FORMAT}; train it again."
                )
            config, weights, tokenizer = smollm.load()
            lora = json.loads((folder / "adapter_config.json").read_text())
            merge_lora(
                weights, load_file(folder / "adapter_model.safetensors"), lora["lora_alpha"] / lora["r"]
            )
            head = load_file(folder / "head.safetensors")
            if head["direction"].shape != (config["hidden_size"],):
                raise ValueError("its head is that of another language model")
            model = SmallLlama(config, weights, fast_type())
            return PassageReader(model, tokenizer, float(head["scale"]), head["direction"])
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"the reader in {folder} cannot be loaded: {reason}; install it again."
            ) from error
