"""The stack of idle connections and the choice of a server. It does no I/O, so the connections are stand-ins."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import pytest

from canaryproxy.config.quantities import Server as ServerUrl
from canaryproxy.config.schema import Pool as PoolConfig
from canaryproxy.proxy.pool import Pool, Server


class Connection:
    """What a server looks at."""

    def __init__(self, idle_since: float) -> None:
        self.idle_since = idle_since
        self.transport = self
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing


def kept(server: Server, *times: float) -> list[Any]:
    connections = [cast(Any, Connection(since)) for since in times]
    for connection in connections:
        server.keep(connection)
    return connections


def test_the_last_in_is_the_first_out() -> None:
    server = Server(ServerUrl("a", 80), max_idle=3)
    first, second = kept(server, 1, 2)
    assert [server.take_idle(), server.take_idle(), server.take_idle()] == [second, first, None]


def test_what_closes_is_passed_over() -> None:
    server = Server(ServerUrl("a", 80), max_idle=3)
    first, second = kept(server, 1, 2)
    second.closing = True
    assert server.idle_since == 2
    assert [server.take_idle(), server.take_idle()] == [first, None]
    assert server.idle_since == 0


def test_the_oldest_makes_room() -> None:
    server = Server(ServerUrl("a", 80), max_idle=2)
    first, second = kept(server, 1, 2)
    third = cast(Any, Connection(3))
    assert server.keep(third) is first
    assert server.idle == [second, third]


def test_only_the_expired_are_taken_out() -> None:
    server = Server(ServerUrl("a", 80), max_idle=9)
    first, second, third = kept(server, 1, 2, 3)
    assert server.expire(1) == []
    assert server.expire(2.5) == [first, second]
    assert server.idle == [third]


@pytest.mark.parametrize(
    ("host", "port", "authority"), [("a", 80, b"a"), ("a", 81, b"a:81"), ("::1", 81, b"[::1]:81"), ("::1", 80, b"[::1]")]
)
def test_the_authority_of_a_server(host: str, port: int, authority: bytes) -> None:
    assert Server(ServerUrl(host, port), 1).authority == authority


def pool(count: int) -> Pool:
    return Pool("v1", PoolConfig.model_validate({"servers": [f"http://s{n}" for n in range(count)]}), 1)


def test_the_failed_server_is_chosen_only_if_there_is_no_other() -> None:
    single, double = pool(1), pool(2)
    assert single.choose(excluded=single.servers[0]) is single.servers[0]
    assert all(double.choose(excluded=double.servers[0]) is double.servers[1] for _ in range(20))


def test_the_busiest_is_never_chosen_of_two_and_load_is_spread() -> None:
    random.seed(1)
    servers = pool(5)
    for _ in range(1000):
        servers.choose().active += 1
    loads = [server.active for server in servers.servers]
    assert max(loads) - min(loads) <= 5
    servers.servers[3].active += 50
    assert Counter(servers.choose().host for _ in range(300))["s3"] == 0
