"""The bundled reflector: a small Llama-style causal LM that writes a sentence or two.

The folder is a plain Hugging Face one (``LlamaForCausalLM``), read by :mod:`repoagent.llama`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from repoagent.environment import Observation
from repoagent.errors import ModelError
from repoagent.llama import Cache, SmallLlama
from repoagent.manifest import damage, read_manifest
from repoagent.prompt import PROMPT_FORMAT, reflection_prompt

END = "<|end|>"
BEGIN = "<|begin|>"
MAX_NEW_TOKENS = 64


class WriterReflector:
    """The reflector player on a small causal LM; greedy, so the same state gives the same words."""

    def __init__(self, model: SmallLlama, tokenizer: Tokenizer, name: str = "writer") -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.tokens = 0
        """Tokens read and written so far."""
        begin, end = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
        if begin is None or end is None:
            raise ModelError(f"the reflector's tokenizer lacks {BEGIN} or {END}; train it again.")
        self._begin, self._end = begin, end

    def prompt_ids(self, observation: Observation) -> list[int]:
        """Token ids of the prompt, with room left for the reflection."""
        budget = self.model.window - MAX_NEW_TOKENS - 1
        text = reflection_prompt(observation, count=self._count, budget=budget)
        return [self._begin, *self.tokenizer.encode(text, add_special_tokens=False).ids]

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    @torch.inference_mode()
    def _tokens(self, observations: Sequence[Observation]) -> Iterator[list[int | None]]:
        """One new token per observation at a time; None for those that have ended."""
        prompts = [self.prompt_ids(o) for o in observations]
        self.tokens += sum(map(len, prompts))
        length = max(map(len, prompts))
        ids = torch.zeros(len(prompts), length, dtype=torch.long)
        mask = torch.zeros(len(prompts), length, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            ids[i, length - len(prompt) :] = torch.tensor(prompt)
            mask[i, length - len(prompt) :] = True
        cache = Cache(self.model.layers)
        ended = [False] * len(prompts)
        for _ in range(MAX_NEW_TOKENS):
            chosen = self.model(ids, mask, cache).argmax(-1)
            self.tokens += ended.count(False)
            ended = [e or int(t) == self._end for e, t in zip(ended, chosen, strict=True)]
            if all(ended):
                return
            yield [None if e else int(t) for e, t in zip(ended, chosen, strict=True)]
            ids, mask = chosen[:, None], torch.ones(len(prompts), 1, dtype=torch.bool)

    def reflect(self, observations: Sequence[Observation]) -> list[str]:
        written: list[list[int]] = [[] for _ in observations]
        for row in self._tokens(observations) if observations else ():
            for tokens, token in zip(written, row, strict=True):
                if token is not None:
                    tokens.append(token)
        return [self.tokenizer.decode(tokens).strip() for tokens in written]

    def stream(self, observation: Observation) -> Iterator[str]:
        tokens: list[int] = []
        shown = ""
        for (token,) in self._tokens([observation]):
            assert token is not None
            tokens.append(token)
            text = self.tokenizer.decode(tokens).lstrip()
            # A byte-level token may be part of a character: wait until it is whole.
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text

    @staticmethod
    def from_folder(folder: str | Path) -> WriterReflector:
        """Load a checkpoint; ``ModelError`` says what is missing or differs."""
        folder = Path(folder)
        try:
            meta = read_manifest(folder)
            if reason := damage(folder):
                raise ModelError(f"the reflector in {folder} is broken: {reason}; install it again.")
            if meta["prompt_format"] != PROMPT_FORMAT:
                raise ModelError(
                    f"{folder} was trained on prompt format {meta['prompt_format']}, "
                    f"this version writes {PROMPT_FORMAT}; train it again."
                )
            config = json.loads((folder / "config.json").read_text())
            model = SmallLlama(config, load_file(folder / "model.safetensors"))
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            return WriterReflector(model, tokenizer, meta.get("name", folder.name))
        except ModelError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            reason = " ".join(str(error).split())
            raise ModelError(
                f"the reflector in {folder} cannot be loaded: {reason}; install it again."
            ) from error
