"""How much one block of counts speaks against "the two arms differ by at most (at least) delta". Pure; used by `analysis`.

Exact at any sample size: the e-value of two Bernoulli streams of Turner, Ly and Grunwald (arXiv 2106.02693, 2302.11401) with
a margin. The bets `a` (stable) and `b` (canary) must come from earlier blocks only. q* is the point of the null's boundary
(q, q + delta) that is nearest to (a, b):
    q* = argmin_q  n_s KL(a || q) + n_c KL(b || q + delta)
    e  = (a/q*)^x_s ((1-a)/(1-q*))^(n_s-x_s) (b/(q*+delta))^x_c ((1-b)/(1-q*-delta))^(n_c-x_c)
With A and B the expected factors of one stable and one canary request, n_s A + n_c B is linear along the boundary and its
slope is q*'s stationarity condition, zero; so it is <= n_s + n_c on the whole null, and by the inequality of the means
E[e] = A^n_s B^n_c <= 1. The rates may be other ones in every block. Everything is in natural logarithms.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

_TINY = 1e-9


class Counts(NamedTuple):
    """One block: requests of stable and how many of them had the event, the same of canary."""

    n_s: float
    x_s: float
    n_c: float
    x_c: float


def _inside(p: float) -> float:
    return min(max(p, _TINY), 1 - _TINY)


def project(a: float, b: float, delta: float, n_s: float, n_c: float) -> float:
    """q*, to about 1e-14 of itself, for 0 < a, b < 1, 0 <= delta < 1, both counts > 0 and b - a != delta.

    Newton's steps on the stationarity condition (a cubic once the denominators are gone), kept inside the bracket that
    convexity gives; 3 to 6 of them where bisection needs 50. With delta = 0 it is the pooled rate.
    """
    if delta == 0:
        return (n_s * a + n_c * b) / (n_s + n_c)
    low, high = max(0.0, min(a, b - delta)), min(1 - delta, max(a, b - delta))
    w_s, w_c = n_s / (a * (1 - a)), n_c / (b * (1 - b))
    q = (w_s * a + w_c * (b - delta)) / (w_s + w_c)
    if not low < q < high:
        q = (low + high) / 2
    for _ in range(100):
        q_c = q + delta
        v_s, v_c = q * (1 - q), q_c * (1 - q_c)
        value = n_s * (q - a) * v_c + n_c * (q_c - b) * v_s
        if value > 0:
            high = q
        else:
            low = q
        slope = n_s * (v_c + (q - a) * (1 - 2 * q_c)) + n_c * (v_s + (q_c - b) * (1 - 2 * q))
        step = value / slope if slope > 0 else high - low
        if abs(step) <= 1e-14 * q:
            return q
        q -= step
        if not low < q < high:
            q = (low + high) / 2
    return q


def _log_e(a: float, b: float, delta: float, counts: Counts) -> float:
    n_s, x_s, n_c, x_c = counts
    q = project(a, b, delta, n_s, n_c)
    q_c = q + delta
    stable = x_s * log(a / q) + (n_s - x_s) * log((1 - a) / (1 - q))
    return stable + x_c * log(b / q_c) + (n_c - x_c) * log((1 - b) / (1 - q_c))


def log_e_harm(a: float, b: float, delta: float, counts: Counts) -> float:
    """log e against "canary's rate is at most stable's + delta"; 0 (no evidence) if an arm is empty or the bet is inside."""
    a, b = _inside(a), _inside(b)
    if not counts.n_s or not counts.n_c or b - a <= delta:
        return 0.0
    return _log_e(a, b, delta, counts)


def log_e_health(a: float, b: float, delta: float, counts: Counts) -> float:
    """log e against "canary's rate is at least stable's + delta"; 0 if an arm is empty or the bet is inside."""
    a, b = _inside(a), _inside(b)
    if not counts.n_s or not counts.n_c or b - a >= delta:
        return 0.0
    return _log_e(a, b, delta, counts)


def log_e_alone(limit: float, b: float, counts: Counts) -> float:
    """log e of canary against a fixed limit: "rate <= limit" for a bet b above it, "rate >= limit" for one below."""
    limit, b = _inside(limit), _inside(b)
    return counts.x_c * log(b / limit) + (counts.n_c - counts.x_c) * log((1 - b) / (1 - limit))
