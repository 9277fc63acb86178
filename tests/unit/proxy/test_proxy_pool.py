"""The servers of a pool: idle connections, who may be used, ejections, who waits, addresses. Connections are stand-ins."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import pytest

from canaryproxy.config.quantities import Address
from canaryproxy.config.upstreams import Pool as PoolConfig
from canaryproxy.proxy.pool import Event, Pool, Server


class Connection:
    """What a server looks at."""

    def __init__(self, idle_since: float, address: Address | None = None, born: float = 0.0) -> None:
        self.idle_since = idle_since
        self.born = born
        self.address = address
        self.transport = self
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing


def pool(count: int = 1, max_idle: int = 64, **settings: Any) -> Pool:
    """A pool of the servers s0, s1 ..., unless the settings name others."""
    config = PoolConfig.model_validate({"servers": [f"http://s{number}" for number in range(count)], **settings})
    return Pool("v1", config, max_idle, random.Random(1).random)


def server(max_idle: int = 64) -> Server:
    return pool(max_idle=max_idle).servers[0]


def fail(failing: Server, times: int, now: float = 100.0) -> Event | None:
    """The event of the last of these failures; the ones before it must have none."""
    events = [failing.failed(now, "upstream_reset") for _ in range(times)]
    assert not any(events[:-1])
    return events[-1]


def hosts(servers: list[Server]) -> str:
    return "".join(server.host[1:] for server in servers)


# Idle connections.


def kept(server: Server, *times: float) -> list[Any]:
    connections = [cast(Any, Connection(since)) for since in times]
    for connection in connections:
        server.keep(connection)
    return connections


def test_the_last_in_is_the_first_out() -> None:
    one = server(max_idle=3)
    first, second = kept(one, 1, 2)
    assert [one.take_idle(), one.take_idle(), one.take_idle()] == [second, first, None]


def test_what_closes_is_passed_over() -> None:
    one = server(max_idle=3)
    first, second = kept(one, 1, 2)
    second.closing = True
    assert one.idle_since == 2
    assert [one.take_idle(), one.take_idle()] == [first, None]
    assert one.idle_since == 0


def test_the_oldest_makes_room() -> None:
    one = server(max_idle=2)
    first, second = kept(one, 1, 2)
    third = cast(Any, Connection(3))
    assert one.keep(third) is first
    assert one.idle == [second, third]


def test_only_the_expired_are_taken_out() -> None:
    one = server(max_idle=9)
    first, second, third = kept(one, 1, 2, 3)
    assert one.expire(1) == []
    assert one.expire(2.5) == [first, second]
    assert one.idle == [third]


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://a", b"a"),
        ("http://a:81", b"a:81"),
        ("http://a:443", b"a:443"),
        ("https://a", b"a"),
        ("https://a:80", b"a:80"),
        ("http://[::1]:81", b"[::1]:81"),
        ("http://[::1]", b"[::1]"),
        ("unix:/run/app.sock", b"localhost"),
    ],
)
def test_the_authority_of_a_server(url: str, authority: bytes) -> None:
    assert pool(servers=[url]).servers[0].authority == authority


# Choice.


def test_the_failed_server_is_chosen_only_if_there_is_no_other() -> None:
    single, double = pool(1), pool(2)
    assert single.choose(excluded=single.servers[0]) is single.servers[0]
    assert all(double.choose(excluded=double.servers[0]) is double.servers[1] for _ in range(20))
    double.servers[1].mark_down()
    assert double.choose(excluded=double.servers[0]) is double.servers[0]


@pytest.mark.parametrize("balance", ["least_request", "round_robin"])
def test_a_full_server_is_not_chosen(balance: str) -> None:
    three = pool(3, max_connections=2, balance=balance)
    for _ in range(6):
        chosen = three.choose()
        assert chosen is not None
        chosen.active += 1
    assert [server.active for server in three.servers] == [2, 2, 2]
    assert three.choose() is None
    three.servers[1].active -= 1
    assert [three.choose() for _ in range(5)] == [three.servers[1]] * 5
    assert three.choose(excluded=three.servers[1]) is None


def test_a_single_server_can_be_full() -> None:
    single = pool(1, max_connections=1)
    single.servers[0].active = 1
    assert single.choose() is None


@pytest.mark.parametrize("count", [1, 2])
def test_none_is_chosen_when_all_are_down(count: int) -> None:
    down = pool(count)
    for one in down.servers:
        one.mark_down()
    assert down.choose() is None
    assert not down.wait(cast(Any, "exchange"), 0.0)
    down.servers[0].mark_up(1.0)
    assert down.choose() is down.servers[0]


def test_the_weights_are_those_of_the_configuration() -> None:
    weighted = pool(servers=["http://s0", {"url": "http://s1", "weight": 3}], balance="round_robin")
    assert Counter(chosen.host for _ in range(8) if (chosen := weighted.choose())) == {"s0": 2, "s1": 6}


# Ejection.


def test_failures_in_a_row_eject_and_the_next_ones_change_nothing() -> None:
    three = pool(3)
    assert fail(three.servers[0], 4) is None
    assert fail(three.servers[0], 1) == Event(
        "v1", "http://s0:80", "ejected", "5 failures in a row, the last one upstream_reset; out for 10s"
    )
    assert hosts(three.usable) == "12"
    assert fail(three.servers[0], 9) is None
    assert three.servers[0].ejected_until == 110


def test_a_success_ends_the_row() -> None:
    double = pool(2)
    fail(double.servers[0], 4)
    double.servers[0].succeeded()
    assert fail(double.servers[0], 4) is None
    assert hosts(double.usable) == "01"


def test_the_last_usable_server_is_never_ejected() -> None:
    double = pool(2)
    assert fail(double.servers[0], 5) is not None
    assert fail(double.servers[1], 50) is None
    assert hosts(double.usable) == "1"
    double.sweep(110)
    assert hosts(double.usable) == "01"
    assert fail(double.servers[1], 1, now=111) is not None  # it has not answered yet, and now there is another one
    assert hosts(double.usable) == "0"


def test_zero_failures_turns_ejection_off() -> None:
    double = pool(2, eject={"failures": 0})
    assert fail(double.servers[0], 50) is None


def test_an_ejection_ends_and_one_more_failure_begins_the_next_which_is_longer() -> None:
    double, now, seconds = pool(2, eject={"base": "10s", "max": "60s"}), 100.0, []
    failing = double.servers[0]
    fail(failing, 4)
    for _ in range(5):
        assert fail(failing, 1, now) is not None
        seconds.append(failing.ejected_until - now)
        assert double.sweep(failing.ejected_until - 0.1) == []
        now = failing.ejected_until
        assert double.sweep(now) == [Event("v1", "http://s0:80", "back", "its ejection is over")]
        assert hosts(double.usable) == "01"
    assert seconds == [10, 20, 40, 60, 60]


@pytest.mark.parametrize(("calm", "seconds"), [(19, 40), (20, 20), (29, 20), (30, 10), (36, 10), (10_000, 10)])
def test_an_ejection_is_forgiven_after_as_long_in_use(calm: float, seconds: float) -> None:
    double = pool(2)
    failing = double.servers[0]
    fail(failing, 5, now=100)  # 10 s
    double.sweep(110)
    fail(failing, 1, now=110)  # 20 s
    double.sweep(130)
    failing.succeeded()
    fail(failing, 5, now=130 + calm)
    assert failing.ejected_until - 130 - calm == seconds


def test_many_of_the_longest_ejections_are_forgiven_like_one() -> None:
    double, now = pool(2, eject={"base": "10s", "max": "20s"}), 100.0
    failing = double.servers[0]
    fail(failing, 4)
    for calm, seconds in [(0, 10), *[(0, 20)] * 20, (20, 20), (30, 10)]:
        now += calm
        assert fail(failing, 1, now) is not None
        assert failing.ejected_until == now + seconds
        now = failing.ejected_until
        double.sweep(now)


def test_ejected_servers_are_used_when_no_other_is_left() -> None:
    three = pool(3)
    fail(three.servers[0], 5)
    fail(three.servers[1], 5)
    three.servers[2].mark_down()
    assert hosts(three.usable) == "01"
    assert fail(three.servers[0], 9) is None
    three.servers[2].mark_up(105)
    assert hosts(three.usable) == "2"


def test_a_server_that_is_down_is_not_used_when_its_ejection_is_over() -> None:
    double = pool(2)
    fail(double.servers[0], 5)
    double.servers[0].mark_down()
    assert double.sweep(110) == []
    assert hosts(double.usable) == "1"


def test_checks_that_pass_again_end_an_ejection() -> None:
    double = pool(2)
    fail(double.servers[0], 5)
    double.servers[0].mark_down()
    double.servers[0].mark_up(101)
    assert hosts(double.usable) == "01"
    assert fail(double.servers[0], 4) is None


# Slow start.


@pytest.mark.parametrize("balance", ["least_request", "round_robin"])
def test_a_server_that_comes_back_gets_its_share_slowly(balance: str) -> None:
    double = pool(2, slow_start="10s", balance=balance)
    assert [server.share for server in double.servers] == [1, 1]  # not at the start
    double.servers[0].mark_down()
    double.servers[0].mark_up(100)

    def share(now: float) -> int:
        return sum(double.choose(now) is double.servers[0] for _ in range(1100))

    assert share(100) < 30
    assert 70 < share(101) < 130  # 0.1 of 1.1
    assert 300 < share(105) < 430  # 0.5 of 1.5
    assert 450 < share(110) < 650
    assert [server.share for server in double.servers] == [1, 1]


def test_a_slow_start_is_a_part_of_the_weight_and_follows_an_ejection_too() -> None:
    double = pool(servers=["http://s0", {"url": "http://s1", "weight": 4}], slow_start="10s")
    fail(double.servers[1], 5)
    double.sweep(110)
    double.choose(115)
    assert [server.share for server in double.servers] == [1, 2]
    double.choose(125)
    assert [server.share for server in double.servers] == [1, 4]


def test_a_starting_server_that_is_alone_takes_everything() -> None:
    single = pool(1, slow_start="10s")
    single.servers[0].mark_down()
    single.servers[0].mark_up(100)
    assert single.choose(100) is single.servers[0]


# Retries.


@pytest.mark.parametrize(("active", "allowed"), [(0, 3), (15, 3), (20, 4), (100, 20), (104, 20)])
def test_retries_keep_to_a_part_of_what_is_in_hand(active: int, allowed: int) -> None:
    double = pool(2)
    double.servers[0].active, double.servers[1].active = active // 2, active - active // 2
    double.retries = allowed - 1
    assert double.may_retry()
    double.retries = allowed
    assert not double.may_retry()


def test_retries_can_be_turned_off() -> None:
    assert not pool(1, retries={"budget": "0%", "min": 0}).may_retry()


# Who waits.


def waiters(count: int) -> list[Any]:
    return [f"exchange {number}" for number in range(count)]


def test_who_waits_begins_in_order_on_the_server_that_was_released() -> None:
    single = pool(1, max_connections=1, queue=2)
    one = single.servers[0]
    one.active = 1
    first, second, third = waiters(3)
    assert [single.wait(waiter, 1.0) for waiter in (first, second, third)] == [True, True, False]
    assert single.released(one) is None  # it is still full
    one.active = 0
    assert [single.released(one), single.released(one), single.released(one)] == [first, second, None]


def test_who_leaves_the_line_is_not_called() -> None:
    single = pool(1)
    first, second, third = waiters(3)
    for waiter in (first, second, third):
        single.wait(waiter, 1.0)
    single.withdraw(second)
    single.withdraw(second)
    assert [single.released(single.servers[0]) for _ in range(3)] == [first, third, None]


def test_nobody_begins_on_a_server_that_is_out_of_use() -> None:
    double = pool(2)
    (waiter,) = waiters(1)
    double.wait(waiter, 1.0)
    double.servers[0].mark_down()
    assert double.released(double.servers[0]) is None
    assert double.released(double.servers[1]) is waiter


def test_who_waits_begins_when_a_server_comes_back() -> None:
    double = pool(2, max_connections=1)
    double.servers[0].mark_down()
    double.servers[1].active = 1
    first, second = waiters(2)
    for waiter in (first, second):
        double.wait(waiter, 1.0)
    assert double.next_waiting(2.0) is None
    double.servers[0].mark_up(2.0)
    assert double.next_waiting(2.0) == (first, double.servers[0])
    double.servers[0].active = 1
    assert double.next_waiting(2.0) is None
    assert list(double.waiting) == [second]


def test_who_has_waited_too_long_is_taken_out() -> None:
    single = pool(1)
    first, second, third = waiters(3)
    for since, waiter in enumerate((first, second, third)):
        single.wait(waiter, float(since))
    assert single.expired(1.9, 1.0) == [first]
    assert single.expired(1.9, 1.0) == []
    assert single.expired(3.0, 1.0) == [second, third]


# Addresses.

A, B, C = (Address(f"10.0.0.{number}", 80) for number in (1, 2, 3))


def test_a_server_without_addresses_is_connected_to_as_it_is_written() -> None:
    assert server().attempts()[0] == ("s0", 80)
    assert list(pool(servers=["http://127.0.0.1:8000"]).servers[0].attempts()) == [("127.0.0.1", 8000)]


def test_addresses_take_turns_and_all_of_them_are_tried() -> None:
    one = server()
    one.resolved([A, B, C])
    assert [one.attempts()[0] for _ in range(6)] == [B, C, A] * 2
    assert [tuple(one.attempts()) for _ in range(3)] == [(B, C, A), (C, A, B), (A, B, C)]


def test_an_address_that_failed_is_tried_last_until_the_next_look_up() -> None:
    one = server()
    one.resolved([A, B, C])
    one.avoid(B)
    assert {one.attempts()[0] for _ in range(6)} == {A, C}
    assert all(one.attempts()[-1] is B for _ in range(6))
    one.resolved([A, B, C])
    assert {one.attempts()[0] for _ in range(6)} == {A, B, C}


def test_all_addresses_may_have_failed() -> None:
    one = server()
    one.resolved([A, B])
    for address in (A, B):
        one.avoid(address)
    assert {one.attempts()[0] for _ in range(4)} == {A, B}


def test_idle_connections_to_addresses_that_went_away_are_given_up() -> None:
    one = server()
    one.resolved([A, B])
    connections = [cast(Any, Connection(1.0, address)) for address in (A, B, A)]
    for connection in connections:
        assert one.keep(connection) is None
    assert one.resolved([B, A]) == []  # only the order is another
    assert one.resolved([Address("10.0.0.2", 80), C]) == [connections[0], connections[2]]
    assert one.idle == [connections[1]]
    assert one.keep(connections[0]) is connections[0]  # it was in use meanwhile
    assert one.idle == [connections[1]]
