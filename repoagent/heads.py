"""Heads that turn the hidden states of a causal LM into one score per option.

:class:`ChoiceTokenHead` is the paper's: the model's own output rows for the labels of the choices.
:class:`PointerHead` reads a vector per option, so their number is not limited; with
:func:`block_sparse` attention the options neither see nor disturb one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from string import ascii_uppercase
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from repoagent.errors import ModelError
from repoagent.prompt import CHOICE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_LABELS = 256
ENOUGH_LABELS = 64


def find_labels(tokenizer: PreTrainedTokenizerBase, limit: int = MAX_LABELS) -> dict[str, int]:
    """Labels that are one token after :data:`CHOICE`, with the token's id, in the order of use.

    Numbers from 1 where enough of them are one token; where the tokenizer splits numbers into
    digits (Qwen, Llama 2) letters and pairs of letters, else words of the vocabulary.
    """
    before = tokenizer(CHOICE, add_special_tokens=False)["input_ids"]

    def single(candidates: Iterable[str], *, run: bool = False) -> dict[str, int]:
        found: dict[str, int] = {}
        for label in candidates:
            ids = tokenizer(f"{CHOICE} {label}", add_special_tokens=False)["input_ids"]
            one = len(ids) == len(before) + 1 and ids[:-1] == before and ids[-1] not in found.values()
            if one:
                found[label] = ids[-1]
            elif run:  # numbers without gaps
                break
            if len(found) == limit:
                break
        return found

    def words() -> Iterator[str]:
        for index in range(min(len(tokenizer), 50_000)):
            word = str(tokenizer.decode([index])).strip()
            if word.isascii() and word.isalnum():
                yield word

    letters = [*ascii_uppercase, *(a + b for a, b in product(ascii_uppercase, repeat=2))]
    best = single(map(str, range(1, limit + 1)), run=True)
    for candidates in (letters, words()):
        if len(best) >= min(limit, ENOUGH_LABELS):
            break
        best = max(best, single(candidates), key=len)
    if len(best) < 2:
        raise ModelError(
            "no label is a single token of this model's tokenizer: use a model with another tokenizer "
            "or train one with the pointer head"
        )
    return best


class ChoiceTokenHead(nn.Module):
    """Logits of the choice labels: the rows of ``lm_head`` for their tokens. Has no weights."""

    kind = "choice-token"

    def __init__(self, labels: dict[str, int]) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.tokens: Tensor
        self.register_buffer("tokens", torch.tensor(list(labels.values())), persistent=False)

    def forward(self, last: Tensor, lm_head: nn.Module, counts: Sequence[int]) -> list[Tensor]:
        """Scores of each prompt's ``counts[i]`` options from its last hidden state, ``last[i]``."""
        weight = cast(Tensor, lm_head.weight)
        rows = self.tokens[: max(counts)].to(weight.device)
        logits = last.to(weight.dtype) @ weight[rows].T
        bias = getattr(lm_head, "bias", None)
        if bias is not None:
            logits = logits + bias[rows]
        return [row[:n].float() for row, n in zip(logits, counts, strict=True)]


class PointerHead(nn.Module):
    """A score per option from the hidden states of its last token and of the state's last token.

    ``score = query(state) . key(option) / sqrt(rank) + direct(option)``; zero before training, so
    that a new policy begins uniform.
    """

    kind = "pointer"

    def __init__(self, width: int, rank: int = 128) -> None:
        super().__init__()
        self.width, self.rank = width, rank
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, rank)
        self.key = nn.Linear(width, rank)
        self.direct = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.direct.weight)

    def forward(self, state: Tensor, options: Tensor) -> Tensor:
        """Scores (options,) from the vectors of the state (width,) and of the options (options, width)."""
        state, options = self.norm(state.float()), self.norm(options.float())
        matched = self.key(options) @ self.query(state) / self.rank**0.5
        return cast(Tensor, matched + self.direct(options).squeeze(-1))


def block_sparse(
    prompts: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], pad: int
) -> tuple[Tensor, Tensor, Tensor, list[list[int]]]:
    """Batch of (state tokens, tokens of each option) for one pass with block-sparse attention.

    The state attends to itself, each option to itself and to the state, both causally. Positions
    restart after the state for every option, so the order of the options cannot matter. Returns
    input ids, positions (both batch x length), the mask (batch x 1 x length x length, true: attends) and
    for every prompt the index of the last token of its state and of each option.
    """
    length = max(len(state) + sum(map(len, options)) for state, options in prompts)
    ids = torch.full((len(prompts), length), pad)
    positions = torch.zeros((len(prompts), length), dtype=torch.long)
    blocks = torch.full((len(prompts), length), -1)  # -1: padding, 0: the state, then the options
    ends: list[list[int]] = []
    for row, (state, options) in enumerate(prompts):
        at, last = 0, []
        for block, tokens in enumerate([state, *options]):
            end = at + len(tokens)
            ids[row, at:end] = torch.tensor(tokens)
            first = 0 if block == 0 else len(state)
            positions[row, at:end] = torch.arange(first, first + len(tokens))
            blocks[row, at:end] = block
            last.append(end - 1)
            at = end
        ends.append(last)
    query, key = blocks[:, :, None], blocks[:, None, :]
    # Padding attends to itself (same block), so that no row of the softmax is empty.
    allowed = ((query == key) | (key == 0)) & torch.ones(length, length, dtype=torch.bool).tril()
    return ids, positions, allowed[:, None], ends
