"""The claim everything rests on, E[e] <= 1 under the null, by enumeration of every outcome of small blocks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import comb, exp, log

import pytest

from canaryproxy.stats.margin import Counts, log_e_alone, log_e_harm, log_e_health

_BLOCKS = [(1, 1), (7, 2), (12, 1), (3, 5), (25, 3)]
_EXACT = 1 + 1e-12

LogE = Callable[[float, float, float, Counts], float]


def _pmf(n: int, p: float) -> list[float]:
    return [comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n + 1)]


def _sum_pmf(ps: tuple[float, ...]) -> list[float]:
    """How many of independent events with these chances happen."""
    chances = [1.0]
    for p in ps:
        chances = [a * (1 - p) + b * p for a, b in zip([*chances, 0.0], [0.0, *chances], strict=True)]
    return chances


def _expected(log_e: LogE, bets: tuple[float, float], delta: float, stable: list[float], canary: list[float]) -> float:
    n_s, n_c = len(stable) - 1, len(canary) - 1
    return sum(
        p_s * p_c * exp(log_e(*bets, delta, Counts(n_s, x_s, n_c, x_c)))
        for x_s, p_s in enumerate(stable)
        for x_c, p_c in enumerate(canary)
    )


@pytest.mark.parametrize(("n_s", "n_c"), _BLOCKS)
@pytest.mark.parametrize("delta", [0.0, 0.002, 0.01, 0.2])
def test_harm_is_an_e_value_on_the_whole_null(n_s: int, n_c: int, delta: float) -> None:
    largest = 0.0
    for p_s, a, increase in product((0.0, 0.001, 0.02, 0.3, 0.7), (0.0005, 0.01, 0.4), (0.005, 0.05, 0.35, 0.58)):
        for p_c in {p_s + delta, p_s, p_s / 2}:  # the boundary, and two points inside
            largest = max(largest, _expected(log_e_harm, (a, a + increase), delta, _pmf(n_s, p_s), _pmf(n_c, p_c)))
    assert 0.99 < largest <= _EXACT


@pytest.mark.parametrize(("n_s", "n_c"), _BLOCKS)
@pytest.mark.parametrize("delta", [0.0, 0.01, 0.2])
def test_health_is_an_e_value_on_the_whole_null(n_s: int, n_c: int, delta: float) -> None:
    largest = 0.0
    for p_s, a, fraction in product((0.0, 0.001, 0.02, 0.3, 0.7), (0.001, 0.02, 0.4), (0.0, 0.35, 0.7)):
        b = a + fraction * delta if delta else a * (0.3 + 0.6 * fraction)
        for p_c in {p_s + delta, min(p_s + 2 * delta, 1.0), 0.95}:
            largest = max(largest, _expected(log_e_health, (a, b), delta, _pmf(n_s, p_s), _pmf(n_c, p_c)))
    assert 0.97 < largest <= _EXACT


def test_requests_of_a_block_need_not_be_alike() -> None:
    stable, canary = _sum_pmf((0.0, 0.1, 0.5, 0.2)), _sum_pmf((0.45, 0.05))  # means 0.2 and 0.25
    assert _expected(log_e_harm, (0.1, 0.4), 0.05, stable, canary) <= _EXACT
    assert _expected(log_e_health, (0.3, 0.3), 0.05, stable, canary) <= _EXACT


def test_under_harm_and_under_health_the_evidence_grows() -> None:
    assert _expected(log_e_harm, (0.01, 0.3), 0.01, _pmf(12, 0.01), _pmf(3, 0.3)) > 3
    assert _expected(log_e_health, (0.01, 0.01), 0.2, _pmf(12, 0.01), _pmf(3, 0.01)) > 1.5


@pytest.mark.parametrize("limit", [0.001, 0.06, 0.5])
def test_alone_is_exactly_fair_at_the_limit_and_less_inside(limit: float) -> None:
    for b, inside in ((limit * 1.9, limit / 2), (limit / 3, min(limit * 1.5, 1))):
        for p, most in ((limit, _EXACT), (inside, 1.0)):
            canary = _pmf(9, p)
            expected = sum(chance * exp(log_e_alone(limit, b, Counts(0, 0, 9, x))) for x, chance in enumerate(canary))
            assert expected <= most
            assert p != limit or expected == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("counts", [Counts(0, 0, 4, 4), Counts(50, 0, 0, 0)])
def test_an_empty_arm_is_no_evidence(counts: Counts) -> None:
    assert log_e_harm(0.01, 0.5, 0.01, counts) == 0.0
    assert log_e_health(0.01, 0.01, 0.01, counts) == 0.0


def test_a_bet_inside_the_null_is_no_evidence() -> None:
    assert log_e_harm(0.01, 0.02, 0.01, Counts(10, 0, 5, 5)) == 0.0
    assert log_e_health(0.01, 0.02, 0.01, Counts(10, 0, 5, 0)) == 0.0


def test_impossible_bets_are_clamped() -> None:
    assert log_e_harm(0.0, 1.0, 0.0, Counts(3, 3, 2, 0)) < -20
    assert log_e_health(0.0, 0.0, 0.01, Counts(1000, 0, 1000, 0)) == pytest.approx(-1000 * log(0.99), rel=1e-3)
