"""The task of :mod:`benchmarks.saycan` and the small model that learns it from scratch.

Which of these entries does the question ask for? It takes matching words and copying a number, which
is what every choice from an enumerated prompt takes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.likelihood import likelihoods, saycan_prompt
from repoagent.causal import CausalLM, pad
from repoagent.environment import Observation, Option
from repoagent.heads import ChoiceTokenHead, PointerHead, find_labels
from repoagent.prompt import CHOICE, policy_prompt
from repoagent.transformer import TransformerPolicy
from training.scratch import make_causal_lm

WINDOW = 4096
WORDS = """account archive batch buffer cache channel client cluster command cursor database device
document driver engine event export filter frame graph handler header image index input job journal
kernel layer listener loader lock logger matrix metric monitor network packet parser pipeline plugin
pointer pool proxy query queue record region report route runner schema score session signal socket
storage stream table target thread token upload worker""".split()
TEMPLATES = ("where is {0} {1}", "open {0} {1}", "which has {0} {1}")


@dataclass(frozen=True, slots=True)
class Training:
    """How the model is made: ``steps`` of AdamW, each on decisions of about ``tokens`` tokens in all.

    After ``patience`` steps the decisions grow even if the numbers are not mastered: the pointer and the
    texts are learnt sooner.
    """

    steps: int = 400
    tokens: int = 1000
    patience: int = 40
    learning_rate: float = 3e-3
    width: int = 64
    layers: int = 3
    largest: int = 200
    """The most options of a decision; grown into, see :func:`train`."""


QUICK = Training(steps=20, tokens=400, width=32, layers=2, largest=8)


@dataclass(frozen=True, slots=True)
class Decision:
    """A state with its answer, ``best`` being the index of the one right option."""

    observation: Observation
    best: int
    reflection: str = ""


@dataclass(frozen=True, slots=True)
class Scorers:
    """The same model behind both heads; ``reached`` options were mastered in its training."""

    enumerated: TransformerPolicy
    sparse: TransformerPolicy
    reached: int

    @property
    def lm(self) -> CausalLM:
        return self.enumerated.lm


def draw(count: int, rng: random.Random) -> Decision:
    """A question about two words and ``count`` entries of two words each; one has both.

    The question has them with capitals, so that one look finds them among the words of the entries.
    """
    right = tuple(rng.sample(WORDS, 2))
    entries = {right}
    while len(entries) < count:
        entries.add(tuple(rng.sample(WORDS, 2)))
    shuffled = sorted(entries)
    rng.shuffle(shuffled)
    options = tuple(Option(" ".join(entry), "open", "/".join(entry)) for entry in shuffled)
    question = rng.choice(TEMPLATES).format(*(word.title() for word in right))
    return Decision(Observation(question, "", (), "", options), shuffled.index(right))


def situate(decision: Decision, rng: random.Random) -> Decision:
    """``decision`` with a state as long as the regimen's: location, last result and reflection."""

    def words(count: int) -> str:
        return " ".join(rng.sample(WORDS, count))

    seen = replace(
        decision.observation,
        location="/".join(rng.sample(WORDS, 2)),
        last_result=f"open {words(1)}: {words(24)}",
    )
    reflection = f"The open {words(2)} is not the {words(1)}. Next is to open {words(16)}."
    return replace(decision, observation=seen, reflection=reflection)


def train(
    folder: str, plan: Training, seed: int, report: Callable[[str], None] = lambda message: None
) -> Scorers:
    """A model from scratch, taught to number the right option, to point at it and to write its text.

    ``seed`` sets weights and tasks. Decisions have up to four options at first, and half as many more
    whenever nine of ten of the largest are right or patience ends.
    """
    rng = random.Random(seed)
    texts = [_text(situate(draw(8, rng), rng)) for _ in range(200)]
    # Numbers that begin a line are one token each, as with GPT-2's tokenizer.
    texts += ["".join(f"\n{n}. " for n in range(1, 257))] * 50
    make_causal_lm(
        folder, "llama", width=plan.width, layers=plan.layers, window=WINDOW, vocabulary=1400,
        texts=texts, seed=seed,
    )  # fmt: skip
    lm = CausalLM.load(folder, "cpu")
    labels = find_labels(lm.tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pointer = PointerHead(lm.width)
    scorers = Scorers(
        TransformerPolicy(lm, ChoiceTokenHead(labels)), TransformerPolicy(lm, pointer), min(4, plan.largest)
    )
    weights = [*lm.model.parameters(), *pointer.parameters()]
    optimizer = torch.optim.AdamW(weights, plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, max(0.02, 5 * (1 - step / plan.steps)))
    )
    running = 0.0
    lm.model.train()
    for step in range(1, plan.steps + 1):
        count = round(2 * (scorers.reached / 2) ** rng.random() ** 0.5)
        decisions = [draw(count, rng) for _ in range(min(64, max(2, plan.tokens // (14 + 5 * count))))]
        loss, right = _numbering_loss(scorers.enumerated, decisions, rng)
        loss = loss + torch.stack(_other_losses(scorers, decisions)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if count > 0.7 * scorers.reached:
            running += 0.1 * (right - running)
        if (running > 0.9 or step % plan.patience == 0) and scorers.reached < plan.largest:
            scorers = replace(scorers, reached=min(plan.largest, round(1.5 * scorers.reached)))
            running = 0.5
        if step % 100 == 0 or step == plan.steps:
            report(
                f"training, step {step} of {plan.steps}: loss {loss.item():.2f} at {count} options, "
                f"{running:.0%} right at up to {scorers.reached}"
            )
    lm.model.eval()
    return scorers


def _numbering_loss(
    policy: TransformerPolicy, decisions: Sequence[Decision], rng: random.Random
) -> tuple[Tensor, float]:
    """-log P of the right option's number among all numbers, and the share right.

    The numbers run on from 1 or, so that all are learnt on short prompts, from anywhere.
    """
    lm, head = policy.lm, cast(ChoiceTokenHead, policy.head)
    count = len(decisions[0].observation.options)
    rows, starts = [], []
    for decision in decisions:
        start = rng.choice((0, rng.randrange(len(head.labels) - count + 1)))
        names = head.labels[start : start + count]
        # Nothing needs cutting, so that characters will do for a count.
        (page,) = policy_prompt(decision.observation, count=len, budget=10**6, labels=names)
        rows.append(lm.start(page.text))
        starts.append(start)
    ids, mask, positions = pad(rows, "right")
    out = lm.backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    each, last = torch.arange(len(rows)), mask.sum(1) - 1
    numbers = cast(Tensor, lm.lm_head.weight)[head.tokens]
    logits = out.last_hidden_state[each, last] @ numbers.T
    wanted = torch.tensor([start + d.best for start, d in zip(starts, decisions, strict=True)])
    right = (logits.argmax(1) == wanted).float().mean()
    return F.cross_entropy(logits, wanted), right.item()


def _other_losses(scorers: Scorers, decisions: Sequence[Decision]) -> list[Tensor]:
    """-log pi of the right option by pointer, -log P of its text per token."""
    scores = scorers.sparse.log_probabilities([d.observation for d in decisions], [""] * len(decisions))
    pointed = -torch.stack([s[d.best] for s, d in zip(scores, decisions, strict=True)]).mean()
    rows = []
    for decision in decisions:
        alone = replace(decision.observation, options=(decision.observation.options[decision.best],))
        state, (action,) = saycan_prompt(scorers.lm, alone)
        rows.append((state, action))
    return [pointed, -likelihoods(scorers.lm, rows).sum() / sum(len(action) for _, action in rows)]


def _text(decision: Decision) -> str:
    seen = decision.observation
    lines = [f"{n}. {o.text}\n- {o.text}\n{CHOICE} {o.text}" for n, o in enumerate(seen.options, 1)]
    state = f"Question: {seen.task}\nLocation: {seen.location}\nLast result: {seen.last_result}"
    return "\n".join([f"{state}\nReflection: {decision.reflection}", *lines])
