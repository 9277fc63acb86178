from __future__ import annotations

import json

import pytest

from canaryproxy.stats.histogram import index, upper_edge_us
from canaryproxy.stats.memory import Rates, RecentLatencies


def test_a_rate_starts_at_its_prior_and_follows_the_counts() -> None:
    rates = Rates.unseen(0.005)
    assert rates.value(0) == 0.005
    for _ in range(300):
        rates = rates.learned((1000, 20), 1.0)
    assert rates.value(0) == pytest.approx(0.02, rel=0.02)


def test_a_change_is_followed_within_a_minute() -> None:
    rates = Rates.unseen(0.005)
    for failed in [0] * 120 + [100] * 60:
        rates = rates.learned((1000, failed), 1.0)
    assert 0.05 < rates.value(0) < 0.08


def test_a_quiet_stream_keeps_what_it_knows() -> None:
    rates = Rates.unseen(0.005).learned((1500, 300), 1.0)
    assert rates.learned((0, 0), 3600.0) == rates
    assert Rates.unseen(0.005).learned((0, 0), 10.0) == Rates.unseen(0.005)


def test_the_upper_rate_is_two_standard_errors_above() -> None:
    rates = Rates.unseen(0.05).learned((9900, 495), 1.0)
    assert rates.upper(0) == pytest.approx(0.05 + 2 * (0.05 * 0.95 / 10_000) ** 0.5)
    assert Rates.unseen(0.99).upper(0) == 0.99


def test_rates_survive_json() -> None:
    rates = Rates.unseen(0.05, 0.02).learned((7, 3, 1), 1.3).learned((5000, 3, 1), 1.3)
    assert Rates.load(json.loads(json.dumps(rates.state()))) == rates


def test_latencies_fade() -> None:
    recent = RecentLatencies(fade=60.0, keeps=500.0)
    for _ in range(100):
        recent.learn({index(10_000): 100}, 1.0)
    assert recent.quantile_us(0.95) == upper_edge_us(index(10_000))
    for _ in range(10):
        recent.learn({index(90_000): 100}, 1.0)
    assert recent.quantile_us(0.95) == upper_edge_us(index(90_000))
    assert recent.quantile_us(0.5) == upper_edge_us(index(10_000))
    for _ in range(600):
        recent.learn({index(90_000): 100}, 1.0)
    assert recent.quantile_us(0.01) == upper_edge_us(index(90_000))
    assert recent.seen == 71_000


def test_few_latencies_do_not_fade() -> None:
    recent = RecentLatencies(fade=60.0, keeps=500.0)
    recent.learn({index(10_000): 400}, 1.0)
    recent.learn({}, 86_400.0)
    assert recent.state() == [400, 0.0, [[index(10_000), 400.0]]]


def test_nothing_is_known_of_nothing() -> None:
    assert RecentLatencies(60.0, 500.0).quantile_us(0.95) is None
