from __future__ import annotations

import json
from math import comb, exp, log
from random import Random

import pytest

from canaryproxy.stats.detector import Cusum


@pytest.mark.parametrize("limit", [0.002, 0.02, 0.3])
def test_a_block_is_an_e_value_up_to_the_limit(limit: float) -> None:
    for n in (1, 5, 20):
        for p in (limit, limit / 2, 0.0):
            mean = 0.0
            for x in range(n + 1):
                one = Cusum()
                one.update(n, x, limit)
                mean += comb(n, x) * p**x * (1 - p) ** (n - x) * exp(one.log_m)
            assert mean <= 1 + 1e-12
            if p == limit and n <= 5:  # more, and the cap takes from the mean
                assert mean == pytest.approx(1, abs=1e-9)


def test_no_false_alarm_before_its_time_on_average() -> None:
    """E[M_n] <= n under the null, so an alarm at c comes after c blocks or more on average; here at the limit itself."""
    rng, total, runs = Random(1), 0, 60
    for _ in range(runs):
        one, n = Cusum(), 0
        while one.log_m < log(50) and n < 3000:
            one.update(20, sum(rng.random() < 0.05 for _ in range(20)), 0.05)
            n += 1
        total += n
    assert total / runs > 50


def test_a_fault_is_found_wherever_it_begins() -> None:
    for healthy in (0, 10, 5000):
        one = Cusum()
        for _ in range(healthy):
            one.update(100, 0, 0.01)
        for ticks in range(1, 10):  # noqa: B007
            one.update(100, 10, 0.01)
            if one.log_m >= log(1000):
                break
        assert ticks <= 3


def test_nothing_is_no_evidence() -> None:
    one = Cusum()
    one.update(100, 9, 0.01)
    before = one.log_m
    one.update(0, 0, 0.01)
    assert before > 5
    assert one.log_m == pytest.approx(before, abs=1e-4)  # bets that had lost start afresh: each block may be the first


def test_it_survives_json_and_has_a_cap() -> None:
    one = Cusum()
    for _ in range(100):
        one.update(1000, 700, 0.01)
    assert one.log_m <= 50
    one.update(30, 1, 0.02)
    again = Cusum(json.loads(json.dumps(one.state())))
    for cusum in (one, again):
        cusum.update(30, 3, 0.02)
    assert again.state() == one.state()
