"""Action scoring by one prompt against a prompt per action, on a small model that was really trained."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import saycan
from benchmarks.saycan import CACHED, ENUMERATED, SAYCAN, SPARSE


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> saycan.Scorers:
    return saycan.train(str(tmp_path_factory.mktemp("model")), saycan.QUICK, seed=3)


@pytest.fixture(scope="module")
def decisions() -> list[saycan.Decision]:
    rng = random.Random(5)
    return [saycan.draw(count, rng) for count in (2, 7, 40)]


def test_a_decision_has_one_right_option(decisions: list[saycan.Decision]) -> None:
    for decision in decisions:
        asked = set(decision.observation.task.split())
        both = [set(o.text.split()) <= asked for o in decision.observation.options]
        assert both.index(True) == decision.best and len(set(decision.observation.options)) == len(both)
        assert decision.observation.task.endswith(decision.observation.options[decision.best].text)


def test_saycan_scores_are_the_sums_of_the_log_probabilities_of_each_text(
    scorers: saycan.Scorers, decisions: list[saycan.Decision]
) -> None:
    lm = scorers.lm
    for decision in decisions:
        state, actions = saycan.saycan_prompt(lm, decision.observation)
        assert lm.tokenizer.decode(state) == f"Question: {decision.observation.task}\nLocation: .\nChoice:"
        expected = []
        for action, option in zip(actions, decision.observation.options, strict=True):
            assert lm.tokenizer.decode(action) == f" {option.text}\n"
            with torch.no_grad():  # one action at a time, no padding, through the whole model
                logits = lm.model(input_ids=torch.tensor([state + action])).logits[0].log_softmax(-1)
            at = range(len(state) - 1, len(state) + len(action) - 1)
            expected.append(sum(logits[i, t].item() for i, t in zip(at, action, strict=True)))
        for method in (SAYCAN, CACHED):
            assert saycan.score(scorers, method, decision.observation) == pytest.approx(expected, abs=1e-4)


def test_actions_of_unequal_length_are_scored_alike_with_and_without_the_cache(
    scorers: saycan.Scorers,
) -> None:
    state = scorers.lm.start("Question: where is cache queue\nChoice:")
    texts = (" cache\n", "\n", " cache queue worker upload\n")
    actions = [scorers.lm.encode(text) for text in texts]
    assert len({len(action) for action in actions}) == 3 and min(map(len, actions)) == 1
    with torch.no_grad():
        plain = saycan.likelihoods(scorers.lm, [(state, action) for action in actions])
        cached = saycan.cached_likelihoods(scorers.lm, state, actions)
        single = saycan.cached_likelihoods(scorers.lm, state, actions[1:2])
    assert torch.allclose(plain, cached, atol=1e-4) and torch.allclose(plain[1], single[0], atol=1e-4)
    assert plain.unique().numel() == 3


def test_policies_are_the_shipped_ones(scorers: saycan.Scorers, decisions: list[saycan.Decision]) -> None:
    for decision in decisions:
        for method, policy in ((ENUMERATED, scorers.enumerated), (SPARSE, scorers.sparse)):
            (expected,) = policy.distribution([decision.observation], [""])
            assert saycan.score(scorers, method, decision.observation) == pytest.approx(expected, abs=1e-6)


def test_tokens_are_those_that_pass_through_the_model(
    scorers: saycan.Scorers, decisions: list[saycan.Decision]
) -> None:
    lm = scorers.lm
    passed: list[int] = []

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        mask = kwargs["attention_mask"]
        ids = kwargs["input_ids"]
        # A block-sparse mask has no padding here: one prompt a pass.
        passed.append(int(mask[:, -ids.shape[1] :].sum()) if mask.dim() == 2 else ids.numel())

    hook = lm.backbone.register_forward_pre_hook(count, with_kwargs=True)
    try:
        for decision in decisions:
            seen = decision.observation
            n = len(seen.options)
            head = f"Question: {seen.task}\nLocation: .\n"
            state = lm.count(head + "Choice:")
            texts = [lm.count(f" {o.text}\n") for o in seen.options]
            listed = "".join(f"{i}. {o.text}\n" for i, o in enumerate(seen.options, 1))
            expected = {
                ENUMERATED: lm.count(f"{head}Options:\n{listed}Choice:"),
                SPARSE: lm.count(f"{head}Options:\n") + sum(lm.count(f"- {o.text}\n") for o in seen.options),
                SAYCAN: n * state + sum(texts) - n,
                CACHED: state + sum(texts) - n,
            }
            for method, wanted in expected.items():
                passed.clear()
                scorers.enumerated._known.clear()
                scorers.sparse._known.clear()
                saycan.score(scorers, method, seen)
                assert saycan.tokens(scorers, method, seen) == wanted == sum(passed), method
    finally:
        hook.remove()


def test_training_teaches_the_text(tmp_path: Path) -> None:
    seen: list[list[float]] = []
    plan = saycan.Training(steps=100, options=16, width=32, layers=1, largest=4, learning_rate=5e-3)

    rng = random.Random(0)
    held_out = [saycan.draw(2, rng) for _ in range(30)]
    for steps in (1, plan.steps):
        made = saycan.train(str(tmp_path / str(steps)), replace(plan, steps=steps), 0)
        with torch.no_grad():
            losses = saycan._losses(made.enumerated, made.sparse, held_out)
        seen.append([loss.item() for loss in losses])
    assert seen[1][2] < seen[0][2] - 1  # the text; matching takes longer to learn


def test_run_reports_every_method_at_every_count() -> None:
    said: list[str] = []
    rows = saycan.run((2, 12), 4, 1, said.append, saycan.QUICK)
    assert [(r.actions, r.method) for r in rows] == [
        (n, m) for n in (2, 12) for m in (ENUMERATED, SPARSE, SAYCAN, CACHED)
    ]
    for row in rows:
        assert row.milliseconds.value > 0 and row.milliseconds.n == row.accuracy.n == 4
        if row.method in (SAYCAN, CACHED):
            assert row.agreement.value == 1 and row.correlation.value > 0.99
    assert "12 actions" in said[-1] and "SayCan, state cached" in saycan.report(rows)
    assert json.loads(json.dumps(saycan.as_data(rows)))["rows"][0]["accuracy"]["n"] == 4
