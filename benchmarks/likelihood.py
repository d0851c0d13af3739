"""SayCan's score of an action (arXiv 2204.01691): the likelihood of its text after the state."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from repoagent.causal import CausalLM, batches, pad
from repoagent.environment import Observation
from repoagent.prompt import CHOICE, policy_prompt


def saycan_prompt(
    lm: CausalLM, observation: Observation, reflection: str = ""
) -> tuple[list[int], list[list[int]]]:
    """Tokens of the state and of each action's text, whose end is the end of its line."""
    (page,) = policy_prompt(
        observation, reflection, count=lm.count, budget=lm.window, options=[0], labels=("",), numbered=False
    )
    # The state of a prompt that lists options announces them; here none follow.
    state = page.state.removesuffix("Options:\n") + CHOICE
    return lm.start(state), [lm.encode(f" {option.text}\n") for option in observation.options]


def likelihoods(lm: CausalLM, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
    """log P(action | state), (rows,), of each (state, action), with a pass over every whole row.

    SayCan's score of an action: the sum over its tokens, longer texts not being made up for.
    """
    scores: list[Tensor] = [torch.empty(0)] * len(rows)
    for batch in batches(range(len(rows)), lambda i: len(rows[i][0]) + len(rows[i][1]) - 1):
        # Nothing is predicted from the last token, so that it need not be read.
        fed = [[*rows[i][0], *rows[i][1][:-1]] for i in batch]
        ids, mask, positions = (t.to(lm.device) for t in pad(fed, "right"))
        hidden: Tensor = lm.backbone(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        starts = torch.tensor([len(rows[i][0]) - 1 for i in batch], device=lm.device)
        longest = max(len(rows[i][1]) for i in batch)
        spans = starts[:, None] + torch.arange(longest, device=lm.device)
        spans = spans.clamp(max=hidden.shape[1] - 1)
        vectors = hidden.gather(1, spans[..., None].expand(-1, -1, hidden.shape[2]))
        for i, score in zip(batch, _sums(lm, vectors, [rows[i][1] for i in batch]), strict=True):
            scores[i] = score
    return torch.stack(scores)


def cached_likelihoods(lm: CausalLM, state: Sequence[int], actions: Sequence[Sequence[int]]) -> Tensor:
    """:func:`likelihoods` of ``actions`` in one state, whose keys and values are computed once."""
    ids, mask, positions = (t.to(lm.device) for t in pad([state], "right"))
    first = lm.backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    scores: list[Tensor] = [torch.empty(0)] * len(actions)
    for batch in batches(range(len(actions)), lambda i: len(state) + len(actions[i]) - 1):
        wanted = [actions[i] for i in batch]
        vectors: Tensor = first.last_hidden_state[:, -1:].expand(len(batch), -1, -1)
        if max(map(len, wanted)) > 1:
            past = copy.deepcopy(first.past_key_values)  # a pass appends to what it is given
            past.batch_repeat_interleave(len(batch))
            ids, mask, positions = (t.to(lm.device) for t in pad([a[:-1] for a in wanted], "right"))
            seen = torch.ones(len(batch), len(state), dtype=mask.dtype, device=lm.device)
            hidden = lm.backbone(
                input_ids=ids,
                attention_mask=torch.cat([seen, mask], 1),
                position_ids=positions + len(state),
                past_key_values=past,
                use_cache=True,
            ).last_hidden_state
            vectors = torch.cat([vectors, hidden], 1)
        for i, score in zip(batch, _sums(lm, vectors, wanted), strict=True):
            scores[i] = score
    return torch.stack(scores)


def _sums(lm: CausalLM, vectors: Tensor, actions: Sequence[Sequence[int]]) -> Tensor:
    """Summed log-probabilities (rows,) of ``actions``, token t predicted by ``vectors[:, t]``."""
    targets, mask, _ = (t.to(lm.device) for t in pad(actions, "right"))
    logits = lm.lm_head(vectors).float()
    found = logits.log_softmax(-1).gather(2, targets[..., None]).squeeze(2)
    sums: Tensor = (found * mask).sum(1)
    return sums
