"""Counts of two streams: the e-value's claim by enumeration, and against scipy's binomial."""

from __future__ import annotations

from math import comb, exp, log

import numpy as np
import pytest
from scipy import stats

from canaryproxy.stats.counts import log_e_drop, share_at

_SHARES = (0.01, 0.1, 0.5, 0.95)
_BETS = ((0.6, 0.8), (0.01, 0.8), (0.95, 1.0), (0.1, 1.0), (0.15, 0.3))


def _expected(ratio: float, null: float, share: float, truth: float, n: int) -> float:
    """Mean of e over the split of `n` events where the rate is `truth` times stable's."""
    p = share_at(truth, share)
    return sum(comb(n, x) * p**x * (1 - p) ** (n - x) * exp(log_e_drop(ratio, null, share, n - x, x)) for x in range(n + 1))


@pytest.mark.parametrize("share", _SHARES)
@pytest.mark.parametrize(("ratio", "null"), _BETS)
def test_it_is_an_e_value_on_the_whole_null(ratio: float, null: float, share: float) -> None:
    for n in (0, 1, 2, 7, 40):
        assert _expected(ratio, null, share, null, n) == pytest.approx(1, abs=1e-9)
        for above in (1.01, 1.3, 5.0):
            assert _expected(ratio, null, share, null * above, n) <= 1 + 1e-12
    assert _expected(ratio, null, share, ratio, 40) > 1


def test_the_number_of_events_may_be_poisson() -> None:
    """Not given their number but their rates: the mean over both counts, and over a rate that differs in every block."""
    for common in (0.3, 4.0):
        stable, canary = common * (1 - 0.2), common * 0.2 * 0.8
        mean = sum(
            stats.poisson.pmf(x_s, stable) * stats.poisson.pmf(x_c, canary) * exp(log_e_drop(0.4, 0.8, 0.2, x_s, x_c))
            for x_s in range(60)
            for x_c in range(30)
        )
        assert mean == pytest.approx(1, abs=1e-9)


def test_the_share_has_a_closed_form() -> None:
    assert share_at(1.0, 0.3) == pytest.approx(0.3)
    assert share_at(0.0, 0.3) == 0.0
    assert share_at(0.5, 0.5) == pytest.approx(1 / 3)
    for ratio, share in ((0.8, 0.01), (3.0, 0.4)):
        stable, canary = 1 - share, ratio * share
        assert share_at(ratio, share) == pytest.approx(canary / (stable + canary))


@pytest.mark.parametrize("share", _SHARES)
def test_it_is_the_binomials_likelihood_ratio(share: float) -> None:
    for (ratio, null), (stable, canary) in zip(_BETS, ((990, 3), (0, 9), (12, 0), (500, 500), (1, 1)), strict=True):
        n = stable + canary
        ours = log_e_drop(ratio, null, share, stable, canary)
        theirs = stats.binom.logpmf(canary, n, share_at(ratio, share)) - stats.binom.logpmf(canary, n, share_at(null, share))
        assert ours == pytest.approx(float(np.asarray(theirs)), abs=1e-7)


def test_nothing_to_compare_is_no_evidence() -> None:
    assert log_e_drop(0.5, 0.8, 0.0, 100, 0) == 0
    assert log_e_drop(0.5, 0.8, 1.0, 100, 0) == 0
    assert log_e_drop(0.8, 0.8, 0.5, 100, 0) == 0
    assert log_e_drop(0.9, 0.8, 0.5, 100, 0) == 0


def test_fewer_events_are_more_evidence() -> None:
    found = [log_e_drop(0.5, 1.0, 0.5, 100, canary) for canary in (100, 80, 60, 40, 0)]
    assert found == sorted(found)
    assert found[0] < 0 < log(1000) < found[-1]
