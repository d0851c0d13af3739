"""The bundled reflector: a small Llama-style causal LM that writes a sentence or two.

The folder is a plain Hugging Face one (``LlamaForCausalLM``). The forward pass with its key-value
cache is written out because importing transformers takes longer than answering; a test holds it
equal to ``transformers.LlamaForCausalLM``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from repoagent.environment import Observation
from repoagent.errors import ModelError
from repoagent.manifest import damage, read_manifest
from repoagent.prompt import PROMPT_FORMAT, reflection_prompt

END = "<|end|>"
BEGIN = "<|begin|>"
MAX_NEW_TOKENS = 64


class Cache:
    """Keys and values of the tokens so far, per layer, and which of them are padding."""

    def __init__(self, layers: int) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.mask: Tensor | None = None

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        old_key, old_value = self.keys[layer], self.values[layer]
        if old_key is not None and old_value is not None:
            key, value = torch.cat([old_key, key], 2), torch.cat([old_value, value], 2)
        self.keys[layer], self.values[layer] = key, value
        return key, value


class SmallLlama:
    """Inference of ``LlamaForCausalLM`` (grouped queries not supported), left-padded batches."""

    def __init__(self, config: dict[str, Any], state: dict[str, Tensor]) -> None:
        self.state = {k: v.float() for k, v in state.items()}
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.eps: float = config["rms_norm_eps"]
        self.window: int = config["max_position_embeddings"]
        width = config["hidden_size"] // self.heads
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        frequency = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
        angles = torch.outer(torch.arange(self.window).float(), frequency)
        angles = torch.cat([angles, angles], -1)
        self.cos, self.sin = angles.cos(), angles.sin()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[name + ".weight"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.state[name + ".weight"], self.eps)

    def __call__(self, ids: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Logits (batch, vocabulary) after the last token of ``ids`` (batch, new tokens).

        ``mask`` (batch, new tokens) is False on padding; ``cache`` grows by the new tokens.
        """
        seen = mask if cache.mask is None else torch.cat([cache.mask, mask], 1)
        cache.mask = seen
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        total, new = seen.shape[1], ids.shape[1]
        causal = torch.ones(new, total, dtype=torch.bool).tril(total - new)
        # A padded row must attend to something, or its softmax is NaN: let it see itself.
        attend = (causal & seen[:, None]) | torch.eye(new, total, dtype=torch.bool).roll(total - new, 1)
        attend = attend[:, None]
        x = F.embedding(ids, self.state["model.embed_tokens.weight"])
        for i in range(self.layers):
            p = f"model.layers.{i}."
            h = self._norm(p + "input_layernorm", x)
            q, k, v = (
                self._linear(p + f"self_attn.{n}_proj", h).view(*h.shape[:2], self.heads, -1).transpose(1, 2)
                for n in "qkv"
            )
            q, k = q * cos + _rotate(q) * sin, k * cos + _rotate(k) * sin
            k, v = cache.extend(i, k, v)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend).transpose(1, 2).flatten(2)
            x = x + self._linear(p + "self_attn.o_proj", mixed)
            h = self._norm(p + "post_attention_layernorm", x)
            gate = F.silu(self._linear(p + "mlp.gate_proj", h))
            x = x + self._linear(p + "mlp.down_proj", gate * self._linear(p + "mlp.up_proj", h))
        last = self._norm("model.norm", x[:, -1])
        head = self.state.get("lm_head.weight", self.state["model.embed_tokens.weight"])
        return F.linear(last, head)


def _rotate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


class WriterReflector:
    """The reflector player on a small causal LM; greedy, so the same state gives the same words."""

    def __init__(self, model: SmallLlama, tokenizer: Tokenizer, name: str = "writer") -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
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
