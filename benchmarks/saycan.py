"""Scoring actions by one enumerated prompt against SayCan's prompt per action.

Reflect-RL (arXiv 2402.12621) numbers the actions in one prompt and reads the probability of the
numbers from one pass. SayCan (arXiv 2204.01691) scores each action by its own prompt: the state is
followed by the action's text, and the score is the text's likelihood, the sum of the
log-probabilities of its tokens, not divided by their number. With a state of ``s`` tokens and
actions of ``a`` that costs Theta(|A| (s + a)^2); block-sparse attention costs Theta(s^2 + sum a^2) and
what the actions attend to in the state. All are measured on one small model that was trained from
scratch on all of them at once: which of these entries does the question ask for?
"""

from __future__ import annotations

import copy
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.statistics import Estimate, bootstrap_mean, wilson
from benchmarks.table import markdown
from repoagent.causal import CausalLM, batches, pad
from repoagent.environment import Observation, Option
from repoagent.heads import ChoiceTokenHead, PointerHead, find_labels
from repoagent.prompt import CHOICE, policy_prompt
from repoagent.transformer import TransformerPolicy
from training.scratch import make_causal_lm

COUNTS = (2, 5, 10, 20, 50, 100, 200)
WINDOW = 4096
ENUMERATED = "enumerated"
SPARSE = "pointer, block-sparse"
SAYCAN = "SayCan"
CACHED = "SayCan, state cached"
WORDS = """account archive batch buffer cache channel client cluster command cursor database device
document driver engine event export filter frame graph handler header image index input job journal
kernel layer listener loader lock logger matrix metric monitor network packet parser pipeline plugin
pointer pool proxy query queue record region report route runner schema score session signal socket
storage stream table target thread token upload worker""".split()
TEMPLATES = ("where is {0} {1}", "open {0} {1}", "which has {0} {1}")


@dataclass(frozen=True, slots=True)
class Training:
    """How the model is made: ``steps`` of AdamW, each on about ``options`` options in all."""

    steps: int = 1000
    options: int = 160
    learning_rate: float = 3e-3
    width: int = 64
    layers: int = 2
    largest: int = 200
    """The most options of a decision; reached after nine tenths of the steps."""


QUICK = Training(steps=20, options=16, width=32, layers=2, largest=8)


@dataclass(frozen=True, slots=True)
class Decision:
    """A state with its answer, ``best`` being the index of the one right option."""

    observation: Observation
    best: int


@dataclass(frozen=True, slots=True)
class Row:
    """One way of scoring at one number of actions; per decision, with 95 % intervals.

    ``milliseconds`` from text to scores, tokenising included; ``tokens`` go through the model, padding
    not counted. ``agreement`` is the share of decisions with the same choice as plain SayCan,
    ``correlation`` the mean over decisions of Spearman's rank correlation with its scores.
    """

    actions: int
    method: str
    milliseconds: Estimate
    tokens: float
    accuracy: Estimate
    agreement: Estimate
    correlation: Estimate


@dataclass(frozen=True, slots=True)
class Scorers:
    """The same model behind both heads."""

    enumerated: TransformerPolicy
    sparse: TransformerPolicy

    @property
    def lm(self) -> CausalLM:
        return self.enumerated.lm


def draw(count: int, rng: random.Random) -> Decision:
    """A question about two words and ``count`` entries of two words each; one has both."""
    right = tuple(rng.sample(WORDS, 2))
    entries = {right}
    while len(entries) < count:
        entries.add(tuple(rng.sample(WORDS, 2)))
    shuffled = sorted(entries)
    rng.shuffle(shuffled)
    options = tuple(Option(" ".join(entry), "open", "/".join(entry)) for entry in shuffled)
    question = rng.choice(TEMPLATES).format(*right)
    return Decision(Observation(question, "", (), "", options), shuffled.index(right))


def saycan_prompt(lm: CausalLM, observation: Observation) -> tuple[list[int], list[list[int]]]:
    """Tokens of the state and of each action's text, whose end is the end of its line."""
    (page,) = policy_prompt(
        observation, count=lm.count, budget=lm.window, options=[0], labels=("",), numbered=False
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


def train(
    folder: str, plan: Training, seed: int, report: Callable[[str], None] = lambda message: None
) -> Scorers:
    """A model from scratch, taught to number the right option, to point at it and to write its text.

    The mean of the three losses, AdamW; ``seed`` sets weights and tasks. Up to four options during the
    first half of the steps, then more and more.
    """
    rng = random.Random(seed)
    texts = [_text(draw(8, rng)) for _ in range(200)]
    make_causal_lm(
        folder, "llama", width=plan.width, layers=plan.layers, window=WINDOW, texts=texts, seed=seed
    )
    lm = CausalLM.load(folder, "cpu")
    labels = find_labels(lm.tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pointer = PointerHead(lm.width)
    enumerated, sparse = TransformerPolicy(lm, ChoiceTokenHead(labels)), TransformerPolicy(lm, pointer)
    optimizer = torch.optim.AdamW([*lm.model.parameters(), *pointer.parameters()], plan.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.learning_rate, total_steps=plan.steps + 1, pct_start=0.05, cycle_momentum=False
    )
    lm.model.train()
    for step in range(1, plan.steps + 1):
        # Matching is learnt on few options, then carried over to more.
        grown = min(1.0, max(0.0, step / plan.steps - 0.5) / 0.4)
        largest = 4 * (plan.largest / 4) ** grown
        count = round(2 * (largest / 2) ** rng.random())
        decisions = [draw(count, rng) for _ in range(max(2, plan.options // count))]
        losses = _losses(enumerated, sparse, decisions)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == plan.steps:
            figures = ", ".join(f"{loss.item():.2f}" for loss in losses)
            report(f"training, step {step} of {plan.steps}: losses {figures} at {count} options")
    lm.model.eval()
    return Scorers(enumerated, sparse)


def _losses(
    enumerated: TransformerPolicy, sparse: TransformerPolicy, decisions: Sequence[Decision]
) -> list[Tensor]:
    """-log pi of the right option by its number and by pointer, -log P of its text per token."""
    losses = []
    for policy in (enumerated, sparse):
        scores = policy.log_probabilities([d.observation for d in decisions], [""] * len(decisions))
        losses.append(-torch.stack([s[d.best] for s, d in zip(scores, decisions, strict=True)]).mean())
    rows = []
    for decision in decisions:
        alone = Observation(
            decision.observation.task, "", (), "", (decision.observation.options[decision.best],)
        )
        state, (action,) = saycan_prompt(enumerated.lm, alone)
        rows.append((state, action))
    losses.append(-likelihoods(enumerated.lm, rows).sum() / sum(len(a) for _, a in rows))
    return losses


def _text(decision: Decision) -> str:
    seen = decision.observation
    lines = [f"{n}. {o.text}\n- {o.text}\n{CHOICE} {o.text}" for n, o in enumerate(seen.options, 1)]
    return "\n".join([f"Question: {seen.task}", *lines])


def score(scorers: Scorers, method: str, observation: Observation) -> list[float]:
    """One score per option: log-probabilities for the policies, log-likelihoods for SayCan."""
    if method == ENUMERATED:
        return scorers.enumerated.distribution([observation], [""])[0]
    if method == SPARSE:
        return scorers.sparse.distribution([observation], [""])[0]
    with torch.no_grad():
        state, actions = saycan_prompt(scorers.lm, observation)
        if method == CACHED:
            return cached_likelihoods(scorers.lm, state, actions).tolist()
        return likelihoods(scorers.lm, [(state, action) for action in actions]).tolist()


def tokens(scorers: Scorers, method: str, observation: Observation) -> int:
    """Tokens that :func:`score` sends through the model, padding not counted.

    Enumerated and block-sparse: the state and all options. SayCan: sum of (s + a - 1) over the
    actions, the last token of each not being read; with the state cached s + sum of (a - 1).
    """
    lm = scorers.lm
    if method == ENUMERATED:
        return sum(len(lm.start(p.text)) for p in scorers.enumerated.prompts(observation))
    if method == SPARSE:
        pages = scorers.sparse.prompts(observation)
        return sum(len(lm.start(p.state)) + sum(len(lm.encode(o)) for o in p.options) for p in pages)
    state, actions = saycan_prompt(lm, observation)
    read = sum(len(action) - 1 for action in actions)
    return read + len(state) * (1 if method == CACHED else len(actions))


def run(
    counts: Sequence[int] = COUNTS,
    decisions: int = 50,
    seed: int = 0,
    report: Callable[[str], None] = lambda message: None,
    training: Training | None = None,
) -> list[Row]:
    """Train the model, then measure every method on ``decisions`` fresh states per count."""
    with tempfile.TemporaryDirectory() as folder:
        scorers = train(folder, training or Training(), seed, report)
    rows = []
    for count in counts:
        rng = random.Random(f"{seed} measured {count}")
        rows += measure(scorers, [draw(count, rng) for _ in range(decisions)])
        report(
            f"{count} actions: " + ", ".join(f"{r.method} {r.milliseconds.value:.1f} ms" for r in rows[-4:])
        )
    return rows


def measure(scorers: Scorers, decisions: Sequence[Decision]) -> list[Row]:
    """A row per method, over decisions that all have equally many actions."""
    methods = (ENUMERATED, SPARSE, SAYCAN, CACHED)
    scores: dict[str, list[list[float]]] = {method: [] for method in methods}
    times: dict[str, list[float]] = {method: [] for method in methods}
    for number, decision in enumerate([decisions[0], *decisions]):
        for method in methods:
            # What a policy remembers of a prompt would spare it the tokenising.
            scorers.enumerated._known.clear()
            scorers.sparse._known.clear()
            started = time.perf_counter()
            found = score(scorers, method, decision.observation)
            if number:  # the first is a warm-up
                times[method].append(1000 * (time.perf_counter() - started))
                scores[method].append(found)
    rows = []
    for method in methods:
        chosen = [int(np.argmax(s)) for s in scores[method]]
        theirs = [int(np.argmax(s)) for s in scores[SAYCAN]]
        right = sum(c == d.best for c, d in zip(chosen, decisions, strict=True))
        same = sum(c == t for c, t in zip(chosen, theirs, strict=True))
        correlations = [spearman(a, b) for a, b in zip(scores[method], scores[SAYCAN], strict=True)]
        rows.append(
            Row(
                actions=len(decisions[0].observation.options),
                method=method,
                milliseconds=bootstrap_mean(times[method]),
                tokens=float(np.mean([tokens(scorers, method, d.observation) for d in decisions])),
                accuracy=wilson(right, len(decisions)),
                agreement=wilson(same, len(decisions)),
                correlation=bootstrap_mean(correlations),
            )
        )
    return rows


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation of two lists of scores; scores do not tie but by accident."""
    first, second = (np.argsort(np.argsort(x)) for x in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def report(rows: Sequence[Row]) -> str:
    """The figures in Markdown."""
    header = ["actions", "scored by", "ms per decision", "tokens per decision", "accuracy",
              "same choice as SayCan", "rank correlation with SayCan"]  # fmt: skip
    cells = [
        [r.actions, r.method, r.milliseconds, f"{r.tokens:,.0f}", r.accuracy,
         *(("–", "–") if r.method == SAYCAN else (r.agreement, r.correlation))]
        for r in rows
    ]  # fmt: skip
    return markdown(header, cells) + (
        "\n\n*Enumerated* is the paper's: one prompt that numbers the actions. *Pointer, block-sparse* is a "
        "pass in which no action sees another. *SayCan* gives each action its own prompt, batched, and sums "
        "the log-probabilities of its text; *state cached* computes the state once, which SayCan's paper "
        "does not. One model, from scratch, trained on the three objectives at once and asked which of the "
        "entries a question asks for. Time goes from text to scores, one decision at a time, tokenising "
        "included; intervals are at 95 %.\n"
    )


def as_data(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures as JSON can hold them."""
    estimates = ("milliseconds", "accuracy", "agreement", "correlation")
    return {"rows": [asdict(r) | {name: getattr(r, name).plain() for name in estimates} for r in rows]}
