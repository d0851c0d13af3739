"""Action scoring by one prompt against a prompt per action, on a small model that was really trained."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import likelihood, saycan, saycan_model
from benchmarks.saycan import CACHED, ENUMERATED, SAYCAN, SPARSE
from benchmarks.statistics import Estimate, wilson


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> saycan_model.Scorers:
    return saycan_model.train(str(tmp_path_factory.mktemp("model")), saycan_model.QUICK, seed=3)


@pytest.fixture(scope="module")
def decisions() -> list[saycan_model.Decision]:
    rng = random.Random(5)
    return [saycan_model.draw(count, rng) for count in (2, 7, 40)]


def test_a_decision_has_one_right_option(decisions: list[saycan_model.Decision]) -> None:
    for decision in decisions:
        asked = set(decision.observation.task.lower().split())
        both = [set(o.text.split()) <= asked for o in decision.observation.options]
        assert both.index(True) == decision.best and len(set(decision.observation.options)) == len(both)
        assert decision.observation.task.lower().endswith(decision.observation.options[decision.best].text)


def scored(scorers: saycan_model.Scorers, method: str, decision: saycan_model.Decision) -> list[float]:
    return saycan.score(scorers, method, decision, saycan.prepare(scorers, method, decision))


def test_timed_states_are_as_long_as_the_regimens(
    scorers: saycan_model.Scorers, decisions: list[saycan_model.Decision]
) -> None:
    for decision in decisions:
        long = saycan_model.situate(decision, random.Random(1))
        assert long.best == decision.best and long.observation.options == decision.observation.options
        state, _ = saycan.prepare(scorers, SAYCAN, long)
        text = scorers.lm.tokenizer.decode(state)
        assert 60 <= len(state) <= 120
        assert f"Last result: {long.observation.last_result}\nReflection: {long.reflection}\nChoice:" in text


def test_saycan_scores_are_the_sums_of_the_log_probabilities_of_each_text(
    scorers: saycan_model.Scorers, decisions: list[saycan_model.Decision]
) -> None:
    lm = scorers.lm
    for decision in [*decisions, saycan_model.situate(decisions[1], random.Random(1))]:
        state, actions = saycan.prepare(scorers, SAYCAN, decision)
        if not decision.reflection:
            head = f"Question: {decision.observation.task}\nLocation: .\nChoice:"
            assert lm.tokenizer.decode(state) == head
        expected = []
        for action, option in zip(actions, decision.observation.options, strict=True):
            assert lm.tokenizer.decode(action) == f" {option.text}\n"
            with torch.no_grad():  # one action at a time, no padding, through the whole model
                logits = lm.model(input_ids=torch.tensor([state + action])).logits[0].log_softmax(-1)
            at = range(len(state) - 1, len(state) + len(action) - 1)
            expected.append(sum(logits[i, t].item() for i, t in zip(at, action, strict=True)))
        for method in (SAYCAN, CACHED):
            assert scored(scorers, method, decision) == pytest.approx(expected, abs=1e-4)


def test_actions_of_unequal_length_are_scored_alike_with_and_without_the_cache(
    scorers: saycan_model.Scorers,
) -> None:
    state = scorers.lm.start("Question: where is cache queue\nChoice:")
    texts = (" cache\n", "\n", " cache queue worker upload\n")
    actions = [scorers.lm.encode(text) for text in texts]
    assert len({len(action) for action in actions}) == 3 and min(map(len, actions)) == 1
    with torch.no_grad():
        plain = likelihood.likelihoods(scorers.lm, [(state, action) for action in actions])
        cached = likelihood.cached_likelihoods(scorers.lm, state, actions)
        single = likelihood.cached_likelihoods(scorers.lm, state, actions[1:2])
    assert torch.allclose(plain, cached, atol=1e-4) and torch.allclose(plain[1], single[0], atol=1e-4)
    assert plain.unique().numel() == 3


def test_policies_are_the_shipped_ones(
    scorers: saycan_model.Scorers, decisions: list[saycan_model.Decision]
) -> None:
    for decision in decisions:
        for method, policy in ((ENUMERATED, scorers.enumerated), (SPARSE, scorers.sparse)):
            (expected,) = policy.distribution([decision.observation], [""])
            assert scored(scorers, method, decision) == pytest.approx(expected, abs=1e-6)


def test_tokens_are_those_that_pass_through_the_model(
    scorers: saycan_model.Scorers, decisions: list[saycan_model.Decision]
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
                prepared = saycan.prepare(scorers, method, decision)
                assert not passed
                saycan.score(scorers, method, decision, prepared)
                assert saycan.tokens(method, prepared) == wanted == sum(passed), method
    finally:
        hook.remove()


def test_training_teaches_to_number_to_point_and_to_write(tmp_path: Path) -> None:
    rng = random.Random(0)
    held_out = [saycan_model.draw(2, rng) for _ in range(30)]
    seen: list[list[float]] = []
    plan = saycan_model.Training(steps=100, tokens=400, width=32, layers=2, largest=4, learning_rate=5e-3)
    for steps in (1, plan.steps):
        made = saycan_model.train(str(tmp_path / str(steps)), replace(plan, steps=steps), 0)
        with torch.no_grad():
            _, text = saycan_model._other_losses(made, held_out)
            numbering, _ = saycan_model._numbering_loss(made.enumerated, held_out, random.Random(0))
        seen.append([numbering.item(), text.item()])
    # The listed numbers are preferred and texts written; to match takes longer.
    assert seen[1][0] < seen[0][0] - 1.5 and seen[1][1] < seen[0][1] - 1


def test_decisions_grow_when_they_are_mastered(tmp_path: Path) -> None:
    said: list[str] = []
    made = saycan_model.train(str(tmp_path), saycan_model.QUICK, 0, said.append)
    assert made.reached == 4 and "at up to 4" in said[-1]  # nothing is mastered in twenty steps


def row(actions: int, method: str, low: float, high: float, right: int) -> saycan.Row:
    time = Estimate((low + high) / 2, low, high, 9)
    share = wilson(right, 100)
    return saycan.Row(actions, method, time, time, 1.0, share, share, share)


def test_what_the_report_concludes() -> None:
    rows = [
        row(2, ENUMERATED, 3, 4, 100), row(2, SAYCAN, 2, 3.5, 95),
        row(5, ENUMERATED, 3, 4, 90), row(5, SAYCAN, 5, 6, 95),
        row(10, ENUMERATED, 3, 4, 100), row(10, SAYCAN, 9, 12, 91),
    ]  # fmt: skip
    assert saycan.faster_from(rows, ENUMERATED, SAYCAN) == 5
    assert saycan.faster_from(rows, SAYCAN, ENUMERATED) is None
    assert saycan.good_up_to(rows, ENUMERATED) == 2  # nine tenths are not more than nine tenths
    assert saycan.good_up_to(rows, SAYCAN) == 10
    assert saycan.good_up_to([row(2, SAYCAN, 1, 2, 50)], SAYCAN) is None


def test_run_reports_every_method_at_every_count() -> None:
    said: list[str] = []
    found = saycan.run((2, 12), 4, 3, 1, said.append, saycan_model.QUICK)
    assert [(r.actions, r.method) for r in found.rows] == [
        (n, m) for n in (2, 12) for m in (ENUMERATED, SPARSE, SAYCAN, CACHED)
    ]
    for r in found.rows:
        assert 0 < r.model_milliseconds.value < r.milliseconds.value
        assert r.milliseconds.n == 3 and r.accuracy.n == 4
        if r.method in (SAYCAN, CACHED):
            assert r.agreement.value == 1 and r.correlation.value > 0.99
    assert 60 <= found.state_tokens <= 120
    assert "12 actions" in said[-1]
    text = saycan.report(found)
    assert "SayCan, state cached" in text and "20 steps" in text
    data = json.loads(json.dumps(saycan.as_data(found)))
    assert data["rows"][0]["accuracy"]["n"] == 4 and data["training"]["steps"] == 20
