"""Who is chosen among the servers that may be used: with a seed, and by count."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from canaryproxy.config.upstreams import Pool as PoolConfig
from canaryproxy.proxy.balance import BALANCES, Choice, least_request, round_robin
from canaryproxy.proxy.pool import Pool, Server


def servers(*weights: int) -> list[Server]:
    urls = [{"url": f"http://s{number}", "weight": weight} for number, weight in enumerate(weights)]
    config: dict[str, Any] = {"servers": urls, "max_connections": 100_000}
    return Pool("v1", PoolConfig.model_validate(config), 1).servers


def counted(choose: Choice, times: int) -> Counter[str]:
    return Counter(choose().host for _ in range(times))


def near(count: int, expected: float) -> bool:
    """Within five standard deviations of a Poisson count."""
    return abs(count - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_idle_servers_are_chosen_evenly(count: int) -> None:
    chosen = counted(least_request(servers(*[1] * count), random.Random(1).random), 10_000)
    assert len(chosen) == count
    assert all(near(times, 10_000 / count) for times in chosen.values()), chosen


def test_the_two_are_never_the_same_one() -> None:
    pair = servers(1, 1)
    pair[0].active = 1
    assert counted(least_request(pair, random.Random(1).random), 1000) == {"s1": 1000}


def test_every_pair_is_as_likely_in_both_orders() -> None:
    four = servers(1, 1, 1, 1)
    for server, active in zip(four, (2, 0, 2, 1), strict=True):
        server.active = active
    draws = [(number + 0.5) / 12 for number in range(12)]
    chosen = counted(least_request(four, iter(draws).__next__), 12)
    assert chosen == {"s1": 6, "s3": 4, "s0": 1, "s2": 1}  # the other two meet twice, and the first of equals is taken


def test_the_busiest_is_never_chosen_and_load_is_spread() -> None:
    five = servers(*[1] * 5)
    choose = least_request(five, random.Random(1).random)
    for _ in range(1000):
        choose().active += 1
    loads = [server.active for server in five]
    assert max(loads) - min(loads) <= 5
    five[3].active += 50
    assert counted(choose, 300)["s3"] == 0


def test_two_choices_are_better_than_one() -> None:
    """The most loaded of n servers after n choices: log log n, where single choices give log n / log log n."""
    many = servers(*[1] * 1000)
    choose, draw = least_request(many, random.Random(1).random), random.Random(1)
    for _ in range(1000):
        choose().active += 1
    single = Counter(draw.randrange(1000) for _ in range(1000))
    assert max(server.active for server in many) <= 3 < max(single.values())


def test_idle_servers_are_chosen_by_their_shares() -> None:
    chosen = counted(least_request(servers(1, 3, 6), random.Random(1).random), 10_000)
    assert all(near(chosen[host], expected) for host, expected in (("s0", 1000), ("s1", 3000), ("s2", 6000))), chosen


def test_exchanges_in_hand_come_to_be_divided_by_shares() -> None:
    three = servers(1, 3, 6)
    choose = least_request(three, random.Random(1).random)
    for _ in range(10_000):
        choose().active += 1
    assert [round(server.active / 1000) for server in three] == [1, 3, 6]


def test_a_busy_server_is_not_chosen_for_its_share() -> None:
    pair = servers(1, 3)
    pair[0].active, pair[1].active = 2, 7  # 2/1 < 7/3
    draws = iter([0.1, 0.9, 0.9, 0.1])
    choose = least_request(pair, lambda: next(draws))
    assert [choose().host, choose().host] == ["s0", "s0"]
    pair[1].active = 5
    draws = iter([0.1, 0.9, 0.9, 0.1])
    assert [choose().host, choose().host] == ["s1", "s1"]


def test_the_highest_draw_is_still_a_server() -> None:
    for weights in ((1, 1), (1, 3), (2,)):
        assert least_request(servers(*weights), lambda: 1 - 2**-53)() is not None


@pytest.mark.parametrize(("weights", "turns"), [((1, 1, 1), "012012"), ((5, 1, 1), "0010200" * 2), ((3,), "000")])
def test_each_server_has_its_turn_and_turns_are_spread(weights: tuple[int, ...], turns: str) -> None:
    choose = round_robin(servers(*weights), random.random)
    assert "".join(choose().host[1:] for _ in turns) == turns


def test_turns_stay_even_when_a_server_is_left_out_and_comes_back() -> None:
    three = servers(1, 1, 1)
    assert counted(round_robin(three, random.random), 4) == {"s0": 2, "s1": 1, "s2": 1}
    assert counted(round_robin(three[:2], random.random), 10) == {"s0": 4, "s1": 6}  # s0 had its turn
    chosen = counted(round_robin(three, random.random), 9)
    assert all(2 <= times <= 4 for times in chosen.values()), chosen


@pytest.mark.parametrize("balance", BALANCES)
def test_a_pool_balances_as_it_is_told(balance: str) -> None:
    config = PoolConfig.model_validate({"servers": ["http://a", "http://b"], "balance": balance})
    pool = Pool("v1", config, 1, draw=lambda: 0.0)
    first, second = pool.choose(), pool.choose()
    assert (first is second) == (balance == "least_request")
