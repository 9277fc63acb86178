"""Names are looked up again and again, addresses are not; connections go to each in turn. The resolver is a stand-in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest

from canaryproxy.config.quantities import Address
from canaryproxy.config.upstreams import Pool as PoolConfig
from canaryproxy.proxy import resolve
from canaryproxy.proxy.pool import Pool, Server
from canaryproxy.proxy.resolve import Lookups, connect_in_turn, is_name, jittered

A, B = Address("10.0.0.1", 80), Address("10.0.0.2", 80)


def pool(*servers: str) -> Pool:
    config = PoolConfig.model_validate({"servers": servers or ["http://app.internal"], "resolve": "1s"})
    return Pool("v1", config.model_copy(update={"resolve": 0.001}), 9)


class Resolver:
    """Answers each look-up with the next of its answers, then with the last one again and again."""

    def __init__(self, *answers: Sequence[Address] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # of conditions there are many, and no event for each
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
async def running() -> AsyncIterator[Callable[[Resolver, Pool], Lookups]]:
    """Starts look-ups, and stops them after the test."""
    started: list[Lookups] = []

    def start(resolver: Resolver, pool: Pool) -> Lookups:
        lookups = Lookups(resolver)
        lookups.start([pool])
        started.append(lookups)
        return lookups

    yield start
    for lookups in started:
        await lookups.stop()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://app.internal", True),
        ("https://localhost:8000", True),
        ("http://10.0.0.1:8000", False),
        ("http://[::1]:8000", False),
        ("unix:/run/app.sock", False),
    ],
)
def test_only_names_are_looked_up(url: str, name: bool) -> None:
    assert is_name(pool(url).servers[0]) is name


def test_intervals_are_up_to_a_tenth_shorter_or_longer() -> None:
    assert [jittered(10, lambda draw=draw: draw) for draw in (0.0, 0.5, 0.999999)] == pytest.approx([9, 10, 11], abs=1e-4)  # type: ignore[misc]  # a default


async def test_each_name_is_looked_up_at_once_and_again(running: Callable[[Resolver, Pool], Lookups]) -> None:
    resolver, both = Resolver([A]), pool("http://a", "http://b", "http://10.0.0.9")
    running(resolver, both)
    await until(lambda: len(resolver.asked) >= 6)
    assert set(resolver.asked) == {"a", "b"}
    assert [server.addresses for server in both.servers] == [(A,), (A,), ()]


async def test_what_is_known_stays_while_the_resolver_fails_and_that_is_said_once(
    running: Callable[[Resolver, Pool], Lookups], caplog: pytest.LogCaptureFixture
) -> None:
    resolver, one = Resolver([A], OSError("no such host"), [], UnicodeError("label"), [A], [B]), pool()
    running(resolver, one)
    await until(lambda: one.servers[0].addresses == (B,))
    assert caplog.messages == [
        "pool v1: app.internal: is 10.0.0.1",
        "pool v1: app.internal: cannot be looked up: no such host; in use: 10.0.0.1",
        "pool v1: app.internal: is 10.0.0.1",
        "pool v1: app.internal: is 10.0.0.2",
    ]


async def test_a_name_that_is_unknown_at_first_is_used_once_it_is_known(
    running: Callable[[Resolver, Pool], Lookups], caplog: pytest.LogCaptureFixture
) -> None:
    one = pool()
    running(Resolver([], [], [A]), one)
    assert one.servers[0].attempts()[0] == ("app.internal", 80)
    await until(lambda: one.servers[0].attempts()[0] == A)
    assert caplog.messages[0] == "pool v1: app.internal: cannot be looked up: it has no address; in use: none"


async def test_idle_connections_to_an_address_that_went_away_are_closed(running: Callable[[Resolver, Pool], Lookups]) -> None:
    class Idle:
        address = A
        closed = False

        def close(self) -> None:
            self.closed = True

    one, idle = pool(), Idle()
    one.servers[0].keep(cast(Any, idle))
    running(Resolver([A], [A], [B]), one)
    await until(lambda: idle.closed)
    assert one.servers[0].idle == []


async def test_nothing_is_looked_up_after_the_end() -> None:
    resolver, lookups = Resolver([A]), Lookups(Resolver([A]))
    lookups.start([pool()])
    await lookups.stop()
    assert resolver.asked == []
    assert len(asyncio.all_tasks()) == 1


async def test_the_system_resolver_is_asked_through_the_loop() -> None:
    found = await resolve.look_up("localhost", 8000)
    assert found
    assert set(found) <= {Address("127.0.0.1", 8000), Address("::1", 8000)}


# Connecting.


def server_at(*addresses: Address) -> Server:
    server = pool().servers[0]
    server.resolved(addresses)
    return server


async def test_a_connection_goes_to_the_first_address_that_accepts_and_the_other_is_tried_last_from_then_on() -> None:
    server, tried = server_at(A, B), []

    async def connect(address: Address) -> str:
        tried.append(address)
        if address == B:
            raise ConnectionRefusedError
        return address.host

    assert [await connect_in_turn(server, 1, connect) for _ in range(3)] == [A.host] * 3
    assert tried == [B, A, A, A]


async def test_the_last_failure_is_told_when_none_accepts() -> None:
    failures = iter([ConnectionRefusedError("first"), ConnectionResetError("second")])

    async def connect(_: Address) -> None:
        raise next(failures)

    with pytest.raises(ConnectionResetError, match="second"):
        await connect_in_turn(server_at(A, B), 1, connect)


async def test_an_address_that_keeps_silent_gets_only_its_part_of_the_time() -> None:
    async def connect(address: Address) -> str:
        await asyncio.sleep(60 if address == B else 0.001)
        return address.host

    assert await connect_in_turn(server_at(A, B), 0.1, connect) == A.host
    with pytest.raises(TimeoutError):
        await connect_in_turn(server_at(B), 0.01, connect)


async def test_of_many_addresses_only_some_are_tried() -> None:
    tried = []

    async def connect(address: Address) -> None:
        tried.append(address)
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        await connect_in_turn(server_at(*(Address(f"10.0.0.{number}", 80) for number in range(9))), 1, connect)
    assert len(tried) == 3
