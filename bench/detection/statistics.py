"""Intervals that suppose no distribution: for a probability (Clopper and Pearson) and for a quantile (order statistics)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from scipy.stats import beta, binom


class Estimate(NamedTuple):
    """A value and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def proportion(hits: int, runs: int, confidence: float = 0.95) -> Estimate:
    """The probability that `hits` of `runs` came from; exact. ValueError without runs."""
    if not 0 <= hits <= runs or not runs:
        raise ValueError(f"{hits} hits of {runs} runs")
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, runs - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, runs - hits)) if hits < runs else 1.0
    return Estimate(hits / runs, low, high)


def quantile(values: Sequence[float], q: float, confidence: float = 0.95) -> Estimate:
    """The `q` quantile of at least one value (the smallest with q of them at or under it), between two order statistics.

    How many of n values are at or below the true quantile is binomial, whatever the distribution; infinite where n is too small
    to say. A run that found nothing counts as infinite.
    """
    ordered = sorted(values)
    n = len(ordered)
    if not n:
        raise ValueError("no values")
    tail = (1 - confidence) / 2
    below, above = int(binom.ppf(tail, n, q)), int(binom.ppf(1 - tail, n, q)) + 1
    low = ordered[below - 1] if below >= 1 else -inf
    high = ordered[above - 1] if above <= n else inf
    rank = min(max(-int(-q * n // 1), 1), n)
    return Estimate(ordered[rank - 1], low, high)
