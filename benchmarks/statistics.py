"""Intervals for figures: Wilson for proportions, the bootstrap for means and paired comparisons.

All are at 95 per cent. Everything random takes a seed, so that a table can be made again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
RESAMPLES = 10_000
_CHUNK = 500  # resamples drawn at once, to bound the memory


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval over ``n`` observations; NaN where there are none."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not self.n or math.isnan(self.value):
            return "–"
        digits = 2 if max(abs(self.value), abs(self.high)) < 10 else 1
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    def plain(self) -> dict[str, float | int | None]:
        """The estimate as JSON can hold it: null where a figure is undefined or infinite."""
        figures = {"value": self.value, "low": self.low, "high": self.high}
        return {k: v if math.isfinite(v) else None for k, v in figures.items()} | {"n": self.n}


def wilson(successes: int, n: int) -> Estimate:
    """The proportion ``successes / n`` with the Wilson score interval."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    p = successes / n
    scale = 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / scale
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / scale
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n)


def bootstrap_mean(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean of ``values`` with its percentile bootstrap interval."""
    data = np.asarray(values, dtype=float)
    if not data.size:
        return Estimate(math.nan, math.nan, math.nan, 0)
    means = np.concatenate([data[index].mean(axis=1) for index in _resampled(data.size, seed, resamples)])
    return _estimate(float(data.mean()), means, data.size)


def paired_bootstrap(
    ours: Sequence[float], theirs: Sequence[float], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Estimate, Estimate]:
    """(difference, ratio) of the means of two systems measured on the same tasks in the same order.

    Tasks are drawn, not the results of either system, so what makes a task hard for both cancels.
    The ratio is infinite where ``theirs`` is 0 throughout a resample.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"the systems were measured on {a.size} and {b.size} tasks")
    if not a.size:
        return (Estimate(math.nan, math.nan, math.nan, 0),) * 2
    means = [
        np.stack([a[index].mean(axis=1), b[index].mean(axis=1)])
        for index in _resampled(a.size, seed, resamples)
    ]
    mean_a, mean_b = np.concatenate(means, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(mean_b > 0, mean_a / mean_b, np.inf)
    ratio = float(a.mean() / b.mean()) if b.mean() > 0 else math.inf
    return _estimate(float(a.mean() - b.mean()), mean_a - mean_b, a.size), _estimate(ratio, ratios, a.size)


def nested_bootstrap(
    groups: Sequence[Sequence[float]], seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """The mean over groups (such as training seeds) of their means, with its bootstrap interval.

    Groups are drawn first, then the values within each, so that the interval holds for other seeds
    as well as for other tasks. ``groups`` are of equal length.
    """
    data = np.asarray(groups, dtype=float)
    if not data.size:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    count, size = data.shape
    means = np.empty(resamples)
    for done in range(0, resamples, _CHUNK):
        n = min(_CHUNK, resamples - done)
        drawn = rng.integers(0, count, size=(n, count, 1))
        within = rng.integers(0, size, size=(n, count, size))
        means[done : done + n] = data[drawn, within].mean(axis=(1, 2))
    return _estimate(float(data.mean()), means, data.size)


def _resampled(n: int, seed: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for done in range(0, resamples, _CHUNK):
        yield rng.integers(0, n, size=(min(_CHUNK, resamples - done), n))


def _estimate(value: float, drawn: NDArray[np.float64], n: int) -> Estimate:
    # "nearest" never computes inf - inf, unlike interpolation.
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return Estimate(value, float(low), float(high), n)
