"""Causal language models from scratch: random weights and a tokenizer learnt from texts.

For training where nothing can be downloaded, and for tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice, product
from pathlib import Path
from string import ascii_letters, digits
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Arch = Literal["gpt2", "llama", "qwen2"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
WORDS = """Question: Where is the port of the server configured? Location: src History: open file.py; go tests
Last result: Reflection: Options: Choice: open identify go lines more entries not shown line port host
return def class import self from config settings module test README.md src/ docs/ the a of to in and is
""" + " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def make_causal_lm(
    folder: str | Path,
    arch: Arch = "gpt2",
    *,
    width: int = 32,
    layers: int = 2,
    heads: int = 4,
    window: int = 512,
    vocabulary: int = 1024,
    texts: Iterable[str] = (),
    seed: int = 0,
    config: PretrainedConfig | None = None,
    dtype: str = "float32",
) -> Path:
    """Save a model of ``arch`` to ``folder``; the same arguments give the same weights.

    The byte-level BPE tokenizer is trained on ``texts`` and on what prompts are made of. Numbers up
    to 300 are single tokens, except for "qwen2", which splits them into digits as the real one does.
    A ready ``config`` has architecture and sizes; the tokenizer then gets as many tokens as its
    ``vocab_size``, those beyond the ``vocabulary`` that is learnt being three letters that no text uses.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        AutoModelForCausalLM,
        GPT2Config,
        LlamaConfig,
        PreTrainedTokenizerFast,
        Qwen2Config,
    )

    folder = Path(folder)
    if config is not None:
        arch, window = config.model_type, config.max_position_embeddings
    tokenizer = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if arch == "qwen2":
        pieces = pre_tokenizers.Split(Regex(r"\p{N}| ?[^\s\p{N}]+|\s+"), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, bytes_])
    else:
        tokenizer.pre_tokenizer = bytes_
    tokenizer.decoder = decoders.ByteLevel()
    numbers = " ".join(f"Choice: {i}" for i in range(1, 301))
    corpus = [*[f"{WORDS}\n{numbers}"] * 50, *texts]
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    if config is not None:
        tokenizer = _filled(tokenizer, config.vocab_size)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=SPECIAL[1:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=window,
    )
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    size = tokenizer.get_vocab_size()
    if config is not None:
        config.update(ids)
    elif arch == "gpt2":
        config = GPT2Config(
            vocab_size=size, n_embd=width, n_layer=layers, n_head=heads, n_positions=window,
            # A dropout left on makes sampling and update see different probabilities.
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ids,
        )  # fmt: skip
    else:
        kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[arch]
        config = kind(
            vocab_size=size,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            max_position_embeddings=window,
            tie_word_embeddings=True,
            **ids,
        )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def _filled(tokenizer: Any, size: int) -> Any:
    """``tokenizer`` with tokens up to ``size`` that it decodes but, having no merges, never makes."""
    data = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = data["model"]["vocab"]
    unused = ("".join(three) for three in product(ascii_letters + digits, repeat=3))
    fillers = islice((word for word in unused if word not in vocabulary), size - len(vocabulary))
    vocabulary |= {word: number for number, word in enumerate([*fillers], len(vocabulary))}
    return type(tokenizer).from_str(json.dumps(data))
