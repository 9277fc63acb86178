"""The fast projection against the plain one."""

from __future__ import annotations

from math import log

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from canaryproxy.stats.margin import project

_rate = st.floats(1e-9, 1 - 1e-9)
_count = st.integers(1, 10**6)


def _bisected(a: float, b: float, delta: float, n_s: int, n_c: int) -> float:
    low, high = max(0.0, min(a, b - delta)), min(1 - delta, max(a, b - delta))
    for _ in range(200):
        q = (low + high) / 2
        q_c = q + delta
        value = n_s * (q - a) * q_c * (1 - q_c) + n_c * (q_c - b) * q * (1 - q)
        low, high = (low, q) if value > 0 else (q, high)
    return (low + high) / 2


def _kl(a: float, q: float) -> float:
    return a * log(a / q) + (1 - a) * log((1 - a) / (1 - q))


@settings(max_examples=200, deadline=None)
@given(_rate, _rate, st.sampled_from([0.0, 0.0004, 0.002, 0.01, 0.05, 0.2]), _count, _count)
def test_it_is_the_root_that_bisection_finds(a: float, b: float, delta: float, n_s: int, n_c: int) -> None:
    assume(abs(b - a - delta) > 1e-6)
    q, reference = project(a, b, delta, n_s, n_c), _bisected(a, b, delta, n_s, n_c)
    assert 0 < q < 1 - delta
    assert abs(q - reference) <= 1e-9 * max(reference, 1e-9)
    assert min(a, b - delta) - 1e-15 <= q <= max(a, b - delta) + 1e-15


@settings(max_examples=100, deadline=None)
@given(st.tuples(_rate, _rate), st.sampled_from([0.0, 0.002, 0.01, 0.2]), _count, _count, st.floats(0.5, 1.5))
def test_no_other_point_of_the_boundary_is_nearer(
    bets: tuple[float, float], delta: float, n_s: int, n_c: int, factor: float
) -> None:
    a, b = bets
    assume(abs(b - a - delta) > 1e-6)
    q = project(a, b, delta, n_s, n_c)
    assume(0 < q * factor < 1 - delta)

    def distance(point: float) -> float:
        return n_s * _kl(a, point) + n_c * _kl(b, point + delta)

    assert distance(q) <= distance(q * factor) + 1e-9 * (n_s + n_c)
