"""Scoring actions by one enumerated prompt against SayCan's prompt per action.

Reflect-RL (arXiv 2402.12621) numbers the actions in one prompt and reads the probability of the
numbers from one pass. SayCan (arXiv 2204.01691) scores each action by its own prompt: the state is
followed by the action's text, and the score is the text's likelihood, the sum of the
log-probabilities of its tokens, not divided by their number. With a state of ``s`` tokens and
actions of ``a`` that costs Theta(|A| (s + a)^2); block-sparse attention costs Theta(s^2 + sum a^2) and
what the actions attend to in the state.

All are measured on one small model that was trained from scratch on all of them: which of these
entries does the question ask for? Choices are compared on states as short as in its training, time
on states as long as the regimen's, for which its weights do not matter.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.likelihood import cached_likelihoods, likelihoods, saycan_prompt
from benchmarks.saycan_model import Decision, Scorers, Training, draw, situate, train
from benchmarks.statistics import Estimate, bootstrap_mean, wilson
from benchmarks.table import check_output, markdown, provenance, write

COUNTS = (2, 5, 10, 20, 50, 100, 200)
ENUMERATED = "enumerated"
SPARSE = "pointer, block-sparse"
SAYCAN = "SayCan"
CACHED = "SayCan, state cached"
METHODS = (ENUMERATED, SPARSE, SAYCAN, CACHED)
GOOD = 0.9
"""Accuracy from which on a way of scoring counts as learnt."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way of scoring at one number of actions; per decision, with 95 % intervals.

    ``model_milliseconds`` from tokens to scores; ``milliseconds`` from text to scores, making prompts
    and tokenising included; ``tokens`` go through the model, padding not counted. ``agreement`` is the
    share of decisions with the same choice as plain SayCan, ``correlation`` the mean over decisions of
    Spearman's rank correlation with its scores.
    """

    actions: int
    method: str
    model_milliseconds: Estimate
    milliseconds: Estimate
    tokens: float
    accuracy: Estimate
    agreement: Estimate
    correlation: Estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """All figures, with what the report says of the model and of the timed states."""

    training: Training
    reached: int
    state_tokens: float
    """Mean length of the timed states."""
    rows: list[Row]


def prepare(scorers: Scorers, method: str, decision: Decision) -> tuple[list[int], list[list[int]]]:
    """Prompts and tokens of one decision, made anew: of the state and of each action.

    Enumerated, all is in the first. What the policies remember of a prompt is used by :func:`score`.
    """
    if method not in (ENUMERATED, SPARSE):
        return saycan_prompt(scorers.lm, decision.observation, decision.reflection)
    policy = scorers.enumerated if method == ENUMERATED else scorers.sparse
    policy._known.clear()
    pages = policy._pages(decision.observation, decision.reflection)
    if len(pages) > 1:
        raise ValueError("the options do not fit into one prompt")
    return pages[0][0], pages[0][1]


def score(
    scorers: Scorers, method: str, decision: Decision, prepared: tuple[list[int], list[list[int]]]
) -> list[float]:
    """One score per option: log-probabilities for the policies, log-likelihoods for SayCan."""
    if method in (ENUMERATED, SPARSE):
        policy = scorers.enumerated if method == ENUMERATED else scorers.sparse
        return policy.distribution([decision.observation], [decision.reflection])[0]
    state, actions = prepared
    with torch.no_grad():
        if method == CACHED:
            return cached_likelihoods(scorers.lm, state, actions).tolist()
        return likelihoods(scorers.lm, [(state, action) for action in actions]).tolist()


def tokens(method: str, prepared: tuple[list[int], list[list[int]]]) -> int:
    """Tokens that :func:`score` sends through the model, padding not counted.

    Enumerated and block-sparse: the state and all options. SayCan: sum of (s + a - 1) over the
    actions, the last token of each not being read; with the state cached s + sum of (a - 1).
    """
    state, actions = prepared
    if method in (ENUMERATED, SPARSE):
        return len(state) + sum(map(len, actions))
    read = sum(len(action) - 1 for action in actions)
    return read + len(state) * (1 if method == CACHED else len(actions))


def run(
    counts: Sequence[int] = COUNTS,
    decisions: int = 100,
    timed: int = 20,
    seed: int = 0,
    report: Callable[[str], None] = lambda message: None,
    training: Training | None = None,
) -> Comparison:
    """Train the model, then measure every method at every count of actions.

    Choices on ``decisions`` fresh states per count, time and tokens on ``timed`` long ones.
    """
    plan = training or Training()
    with tempfile.TemporaryDirectory() as folder:
        scorers = train(folder, plan, seed, report)
    rows, lengths = [], []
    for count in counts:
        rng = random.Random(f"{seed} measured {count}")
        short = [draw(count, rng) for _ in range(decisions)]
        long = [situate(draw(count, rng), rng) for _ in range(timed)]
        lengths += [len(prepare(scorers, SAYCAN, decision)[0]) for decision in long]
        rows += measure(scorers, short, long)
        shown = (f"{r.method} {r.model_milliseconds.value:.1f} ms, {r.accuracy.value:.2f}" for r in rows[-4:])
        report(f"{count} actions (time, accuracy): " + "; ".join(shown))
    return Comparison(plan, scorers.reached, float(np.mean(lengths)), rows)


def measure(scorers: Scorers, short: Sequence[Decision], long: Sequence[Decision]) -> list[Row]:
    """A row per method: choices on ``short``, time on ``long``; all have equally many actions."""
    times: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    read: dict[str, list[int]] = {method: [] for method in METHODS}
    for number, decision in enumerate([long[0], *long]):
        for method in METHODS:
            started = time.perf_counter()
            prepared = prepare(scorers, method, decision)
            halfway = time.perf_counter()
            score(scorers, method, decision, prepared)
            done = time.perf_counter()
            if number:  # the first is a warm-up
                times[method].append((1000 * (done - halfway), 1000 * (done - started)))
                read[method].append(tokens(method, prepared))
    scores = {m: [score(scorers, m, d, prepare(scorers, m, d)) for d in short] for m in METHODS}
    theirs = [int(np.argmax(s)) for s in scores[SAYCAN]]
    rows = []
    for method in METHODS:
        chosen = [int(np.argmax(s)) for s in scores[method]]
        correlations = [spearman(a, b) for a, b in zip(scores[method], scores[SAYCAN], strict=True)]
        rows.append(
            Row(
                actions=len(short[0].observation.options),
                method=method,
                model_milliseconds=bootstrap_mean([model for model, _ in times[method]]),
                milliseconds=bootstrap_mean([whole for _, whole in times[method]]),
                tokens=float(np.mean(read[method])),
                accuracy=wilson(sum(c == d.best for c, d in zip(chosen, short, strict=True)), len(short)),
                agreement=wilson(sum(c == t for c, t in zip(chosen, theirs, strict=True)), len(short)),
                correlation=bootstrap_mean(correlations),
            )
        )
    return rows


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation of two lists of scores; scores do not tie but by accident."""
    first, second = (np.argsort(np.argsort(x)) for x in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def faster_from(rows: Sequence[Row], method: str, other: str) -> int | None:
    """The least number of actions from which on the model's time with ``method`` is below ``other``'s.

    Below with all of its interval; None if not even at the most actions.
    """
    found = None
    for count in sorted({r.actions for r in rows}, reverse=True):
        ours, theirs = (_row(rows, count, name).model_milliseconds for name in (method, other))
        if ours.high >= theirs.low:
            break
        found = count
    return found


def good_up_to(rows: Sequence[Row], method: str) -> int | None:
    """The most actions up to which ``method`` is right in more than :data:`GOOD` of the decisions."""
    found = None
    for count in sorted({r.actions for r in rows}):
        if not _row(rows, count, method).accuracy.value > GOOD:
            break
        found = count
    return found


def _row(rows: Sequence[Row], actions: int, method: str) -> Row:
    return next(r for r in rows if (r.actions, r.method) == (actions, method))


def report(found: Comparison) -> str:
    """The figures in Markdown."""
    rows, plan = found.rows, found.training
    header = ["actions", "scored by", "ms, model", "ms in all", "tokens", "accuracy",
              "same choice as SayCan", "rank correlation with SayCan"]  # fmt: skip
    cells = [
        [r.actions, r.method, r.model_milliseconds, r.milliseconds, f"{r.tokens:,.0f}", r.accuracy,
         *(("–", "–") if r.method == SAYCAN else (r.agreement, r.correlation))]
        for r in rows
    ]  # fmt: skip
    most = max(r.actions for r in rows)
    learnt = []
    for method in (ENUMERATED, SPARSE, SAYCAN):
        good = good_up_to(rows, method)
        learnt.append(f"{method}: " + ("at no number" if good is None else f"up to {good} of {most} actions"))
    speed = []
    for method in (ENUMERATED, SPARSE):
        for other in (SAYCAN, CACHED):
            least = faster_from(rows, method, other)
            never = f"not at {most} actions"
            speed.append(
                f"{method} against {other}: {never if least is None else f'from {least} actions on'}"
            )
    return markdown(header, cells) + (
        "\n\n*Enumerated* is the paper's: one prompt that numbers the actions. *Pointer, block-sparse* is a "
        "pass in which no action sees another. *SayCan* gives each action its own prompt, batched, and sums "
        "the log-probabilities of its text; *state cached* computes the state once, which SayCan's paper "
        "does not.\n\n"
        f"One model does all: {plan.layers} layers of width {plan.width}, from scratch, {plan.steps} steps "
        f"on the three objectives, the decisions growing to {found.reached} options; right is the entry "
        f"that the question names. More than {GOOD:.0%} right: {'; '.join(learnt)}. Where "
        "a way of scoring has not learnt the task its agreement with SayCan says nothing; where one entry is "
        "right and both have learnt it they agree on it, and the rank correlation is about the wrong ones, "
        "whose order nothing teaches.\n\n"
        f"Time and tokens are those of states of {found.state_tokens:.0f} tokens (question, location, last "
        "result, reflection), choices those of short states as in the training. One decision at a time, on "
        f"{torch.get_num_threads()} thread(s); *in all* includes prompts and tokenising, which every way "
        f"needs. The model takes less time: {'; '.join(speed)}. Once the state is cached, SayCan reads each "
        "text once, as the enumerated prompt does, but without numbers, and no text attends to the others; "
        "what it pays for that is a copy of the state's keys and values for every action, and the output "
        "layer on every token. Intervals are at 95 %.\n"
    )


def as_data(found: Comparison) -> dict[str, Any]:
    """The figures as JSON can hold them."""
    estimates = ("model_milliseconds", "milliseconds", "accuracy", "agreement", "correlation")
    rows = [asdict(r) | {name: getattr(r, name).plain() for name in estimates} for r in found.rows]
    return asdict(found) | {"rows": rows}


def main() -> None:
    """``python -m benchmarks.saycan FILE...``: the comparison alone, into files named .md or .json."""
    files = [Path(name) for name in sys.argv[1:]]
    for file in files:
        check_output(file)
    found = run(decisions=60, timed=10, report=lambda message: print(message, file=sys.stderr, flush=True))
    print(report(found))
    made = provenance({"decisions": 60, "timed": 10, **asdict(found.training)}, 0)
    for file in files:
        write(file, "One enumerated prompt against SayCan", made, report(found), as_data(found))


if __name__ == "__main__":
    main()
