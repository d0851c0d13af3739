"""Inference of ``LlamaForCausalLM``, whose checkpoints the bundled players are read from.

The forward pass is written out because importing transformers takes longer than answering; a test holds
it equal to transformers'.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """A Llama of one device's size, batches padded on either side.

    ``config`` and ``state`` are those of ``LlamaForCausalLM``. Products are computed in ``dtype``, sums
    and norms in float32.
    """

    def __init__(
        self, config: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> None:
        # Norms, the only vectors, are not products.
        self.state = {k: v.to(dtype if v.dim() > 1 else torch.float32) for k, v in state.items()}
        self.dtype = dtype
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.groups: int = config.get("num_key_value_heads") or self.heads
        self.eps: float = config["rms_norm_eps"]
        self.window: int = config["max_position_embeddings"]
        width = config["hidden_size"] // self.heads
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        frequency = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
        angles = torch.outer(torch.arange(self.window).float(), frequency)
        angles = torch.cat([angles, angles], -1)
        self.cos, self.sin = angles.cos(), angles.sin()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x.to(self.dtype), self.state[name + ".weight"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.state[name + ".weight"], self.eps)

    def hidden(self, ids: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Vectors (batch, new tokens, width) of ``ids`` (batch, new tokens) after the last norm.

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
        x = F.embedding(ids, self.state["model.embed_tokens.weight"]).float()
        for i in range(self.layers):
            p = f"model.layers.{i}."
            h = self._norm(p + "input_layernorm", x)
            q, k, v = (
                self._linear(p + f"self_attn.{n}_proj", h).view(*h.shape[:2], heads, -1).transpose(1, 2)
                for n, heads in (("q", self.heads), ("k", self.groups), ("v", self.groups))
            )
            q, k = ((t * cos + _rotate(t) * sin).to(self.dtype) for t in (q, k))
            k, v = cache.extend(i, k, v)
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=attend, enable_gqa=self.groups != self.heads
            )
            x = x + self._linear(p + "self_attn.o_proj", mixed.transpose(1, 2).flatten(2))
            h = self._norm(p + "post_attention_layernorm", x)
            gate = F.silu(self._linear(p + "mlp.gate_proj", h))
            x = x + self._linear(p + "mlp.down_proj", gate * self._linear(p + "mlp.up_proj", h))
        return self._norm("model.norm", x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., vocabulary) of the next token from vectors (..., width)."""
        head = self.state.get("lm_head.weight", self.state["model.embed_tokens.weight"])
        return F.linear(hidden.to(self.dtype), head).float()

    def __call__(self, ids: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Logits (batch, vocabulary) after the last token of ``ids``; the rest as in :meth:`hidden`."""
        return self.logits(self.hidden(ids, mask, cache)[:, -1])


def _rotate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)
