"""Intervals: known values, coverage by simulation, and what undefined figures look like."""

from __future__ import annotations

import json
import math
import random

import pytest

from benchmarks.statistics import Estimate, bootstrap_mean, paired_bootstrap, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), table I: the score method without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_the_literature(successes: int, n: int, low: float, high: float) -> None:
    estimate = wilson(successes, n)
    assert estimate.value == successes / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-4)


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(1)
    covered = 0
    for _ in range(2000):
        estimate = wilson(sum(rng.random() < 0.3 for _ in range(60)), 60)
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.93 < covered / 2000 < 0.97


def test_bootstrap_of_a_mean_is_close_to_the_normal_interval() -> None:
    rng = random.Random(2)
    values = [rng.gauss(5, 2) for _ in range(400)]
    estimate = bootstrap_mean(values, seed=3)
    mean = sum(values) / 400
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / 400 / 400)
    assert estimate.value == pytest.approx(mean)
    assert estimate.low == pytest.approx(mean - 1.96 * error, abs=0.02)
    assert estimate.high == pytest.approx(mean + 1.96 * error, abs=0.02)


def test_the_seed_alone_decides_what_is_drawn() -> None:
    values = [math.sqrt(i) for i in range(50)]
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_pairing_cancels_what_both_systems_share() -> None:
    rng = random.Random(4)
    theirs = [float(rng.random() < 0.5) for _ in range(300)]
    ours = [1.0 if i % 10 == 0 else value for i, value in enumerate(theirs)]  # never worse
    difference, ratio = paired_bootstrap(ours, theirs, seed=5)
    assert difference.value == pytest.approx(sum(ours) / 300 - sum(theirs) / 300)
    assert ratio.value == pytest.approx(sum(ours) / sum(theirs))
    assert difference.low > 0 and ratio.low > 1  # although the intervals of the two systems overlap
    assert wilson(int(sum(ours)), 300).low < wilson(int(sum(theirs)), 300).high


def test_ratio_to_nothing_is_infinite_and_null_in_json() -> None:
    difference, ratio = paired_bootstrap([1.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    assert difference.value == pytest.approx(2 / 3)
    assert ratio.value == math.inf
    assert json.loads(json.dumps(ratio.plain(), allow_nan=False))["value"] is None


def test_systems_measured_on_different_tasks_are_not_compared() -> None:
    with pytest.raises(ValueError, match="3 and 2 tasks"):
        paired_bootstrap([1.0, 0.0, 1.0], [0.0, 0.0])


@pytest.mark.parametrize("nothing", [wilson(0, 0), bootstrap_mean([]), *paired_bootstrap([], [])])
def test_no_observations_give_a_dash(nothing: Estimate) -> None:
    assert str(nothing) == "–"
    assert nothing.plain() == {"value": None, "low": None, "high": None, "n": 0}


def test_an_estimate_reads_well() -> None:
    assert str(wilson(5, 10)) == "0.50 (0.24 to 0.76)"
