"""Upstream connections: reuse, staleness, retries, failures to connect (C3-C6, R4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wire import GET, OK, FarEnd, Wire

from canaryproxy.proxy import outcome
from canaryproxy.shared.layout import Count

POST = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi"
PUT = POST.replace(b"POST", b"PUT")


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def used(wire: Wire) -> FarEnd:
    """An origin whose connection has served one request and is idle."""
    assert wire.exchange() == OK
    wire.origin.read()
    return wire.origin


def test_the_connection_used_last_is_used_next(wire: Wire) -> None:
    clients = [wire.client() for _ in range(3)]
    for client in clients:
        client.send(GET)
    first, second, third = wire.origins
    for origin in (third, first, second):
        origin.send(OK)
    clients[0].send(GET)
    assert second.read().count(b"GET") == 2
    second.send(OK)


def test_no_more_idle_connections_than_configured() -> None:
    with Wire(limits={"idle_per_server": 2}) as wire:
        clients = [wire.client() for _ in range(4)]
        for client in clients:
            client.send(GET)
        for origin in wire.origins:
            origin.send(OK)
        assert [origin.gone for origin in wire.origins] == [True, True, False, False], "the oldest go"


def test_no_idle_connections_at_all() -> None:
    with Wire(limits={"idle_per_server": 0}) as wire:
        assert wire.exchange() == OK
        assert wire.origin.gone


def test_an_unused_connection_is_closed_in_time(wire: Wire) -> None:
    origin = used(wire)
    wire.advance(29)
    assert not origin.gone
    wire.advance(2)
    assert origin.gone


@pytest.mark.parametrize("event", ["a byte", "an end", "a reset"])
def test_an_idle_connection_that_stirs_is_dropped(wire: Wire, event: str) -> None:
    origin = used(wire)
    if event == "a byte":
        origin.send(b"H")
    elif event == "an end":
        origin.send_fin()
    else:
        origin.reset()
    assert origin.gone
    assert wire.exchange() == OK
    assert wire.origin is not origin


@pytest.mark.parametrize("more", [b"x", OK, b"\r\n"])
def test_what_follows_a_response_is_no_response(wire: Wire, more: bytes) -> None:
    """Queue poisoning: the extra bytes must never answer the next request, whoever sends it."""
    client = wire.client()
    client.send(GET + GET)
    first = wire.origin
    first.send(OK + more)
    assert client.read() == OK
    assert first.gone
    wire.origin.send(OK)
    assert client.read() == OK


def test_what_follows_a_chunked_response_is_no_response(wire: Wire) -> None:
    client = wire.client()
    client.send(GET + GET)
    wire.origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + OK)
    assert wire.origins[0].gone
    client.read()
    wire.origin.send(OK)
    assert client.read() == OK


@pytest.mark.parametrize("word", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"])
def test_an_upstream_that_says_close_is_closed(wire: Wire, word: bytes) -> None:
    wire.exchange(response=word + b"Content-Length: 2\r\n\r\nok")
    assert wire.origin.gone


# A stale connection (C5): the upstream closes it just when it is used again.


def reuse(wire: Wire, request: bytes) -> tuple[FarEnd, FarEnd]:
    """(client, origin): a request that has gone out on a connection that was used before."""
    origin = used(wire)
    client = wire.client()
    client.send(request)
    assert wire.origin is origin
    return client, origin


@pytest.mark.parametrize("request_", [GET, PUT, GET.replace(b"GET", b"HEAD"), GET.replace(b"GET", b"DELETE")])
@pytest.mark.parametrize("ending", ["send_fin", "reset"])
def test_what_may_be_sent_twice_is_sent_again_on_a_fresh_connection(wire: Wire, request_: bytes, ending: str) -> None:
    client, stale = reuse(wire, request_)
    idle = used(wire)
    sent = stale.read()
    getattr(stale, ending)()
    assert wire.origin is not idle, "another idle connection may be as stale"
    assert wire.origin.read() == sent
    wire.origin.send(OK if not request_.startswith(b"HEAD") else OK[:-2])
    assert client.read().startswith(b"HTTP/1.1 200 OK")
    assert wire.outcomes() == {Count.C2XX: 3}
    assert wire.counts()[Count.RETRIES] == 1


def test_a_post_is_never_sent_twice(wire: Wire) -> None:
    client, stale = reuse(wire, POST)
    stale.send_fin()
    assert client.read().startswith(b"HTTP/1.1 502 ")
    assert len(wire.origins) == 1
    assert wire.outcomes() == {Count.C2XX: 1, Count.RESPONSE_INVALID: 1}


def test_a_request_is_sent_again_only_once(wire: Wire) -> None:
    client, stale = reuse(wire, GET)
    stale.send_fin()
    wire.origin.send_fin()
    assert client.read().startswith(b"HTTP/1.1 502 ")
    assert wire.counts()[Count.RETRIES] == 1


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_a_request_that_was_answered_in_part_is_not_sent_again(wire: Wire, begun: bytes) -> None:
    client, stale = reuse(wire, GET)
    stale.send(begun)
    stale.send_fin()
    assert b"HTTP/1.1 502 " in client.read()
    assert wire.counts()[Count.RETRIES] == 0


def test_a_body_that_was_sent_in_part_is_sent_again_whole(wire: Wire) -> None:
    client, stale = reuse(wire, PUT[:-2] + b"h")
    stale.send_fin()
    client.send(b"i")
    assert wire.origin.read().endswith(b"\r\n\r\nhi")
    wire.origin.send(OK)
    assert client.read() == OK


def test_a_body_too_large_to_keep_is_not_sent_again(wire: Wire) -> None:
    client, stale = reuse(wire, b"PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 70000\r\n\r\n" + bytes(69_999))
    stale.send_fin()
    assert client.read().startswith(b"HTTP/1.1 502 ")
    assert wire.counts()[Count.RETRIES] == 0


def test_a_request_that_cannot_be_sent_twice_takes_no_old_connection(wire: Wire) -> None:
    wire.exchange()
    idle = wire.origin
    wire.advance(4.5)
    client = wire.client()
    client.send(POST)
    assert wire.origin is not idle
    wire.origin.send(OK)
    assert client.read().endswith(b"ok")
    client.send(GET)
    assert not idle.read().count(b"POST")


def test_a_connection_made_for_a_client_that_left_may_be_stale(wire: Wire) -> None:
    wire.holds_connects = True
    gone = wire.client()
    gone.send(GET)
    gone.send_fin()
    stale = wire.accept()
    wire.holds_connects = False
    client = wire.client()
    client.send(GET)
    stale.send_fin()
    wire.origin.send(OK)
    assert client.read() == OK


def test_an_upstream_that_speaks_first_is_no_http_server(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(GET)
    origin = wire.accept()
    origin.send(b"220 mail ready\r\n\r\n")
    assert client.read().startswith(b"HTTP/1.1 502 ")


def test_a_connection_lost_before_it_is_handed_over(wire: Wire) -> None:
    client = wire.client()
    used(wire).send(b"")
    origin = wire.origin
    origin.protocol.transport.abort()
    client.send(GET)
    assert wire.origin is not origin
    wire.origin.send(OK)
    assert client.read() == OK


# Connecting (C6).


def test_a_refused_connection_is_a_502(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(GET + GET)
    wire.refuse()
    answer = client.read()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"X-Canaryproxy-Error: upstream_connect\r\n" in answer
    wire.accept()
    wire.origin.send(OK)
    assert client.read() == OK, "the client's connection goes on"
    assert wire.outcomes() == {Count.C2XX: 1, Count.CONNECT_FAILED: 1}
    assert wire.counts()[Count.FAILED] == 1


def test_no_connection_in_time_is_a_504(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(POST)
    wire.refuse(outcome.CONNECT_TIMEOUT)
    assert b"X-Canaryproxy-Error: upstream_connect_timeout\r\n" in client.read()
    assert wire.outcomes() == {Count.CONNECT_TIMEOUT: 1}


def test_our_own_want_is_no_failure_of_the_variant(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(GET)
    wire.refuse(outcome.NO_CONNECTION_LEFT)
    answer = client.read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in answer
    assert wire.outcomes() == {Count.ABANDONED: 1}
    assert wire.counts()[Count.FAILED] == wire.counts().resolved == 0


def test_the_deadline_of_a_request_waits_for_the_connect(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(POST)
    wire.advance(100)
    assert not client.gone
    wire.accept()
    wire.origin.send(OK)
    assert client.read() == OK
    wire.hung = 1


@pytest.mark.parametrize("request_", [GET, POST])
def test_another_server_of_the_same_pool_is_tried_once(request_: bytes) -> None:
    with Wire(servers=3) as wire:
        wire.publish(10_000)
        wire.holds_connects = True
        client = wire.client()
        client.send(request_)
        (first,) = {server.host for _, server in wire.connecting}
        wire.refuse()
        (second,) = {server.host for _, server in wire.connecting}
        assert first != second
        assert first.startswith("10.0.2.")
        assert second.startswith("10.0.2."), "never the other variant's"
        wire.refuse()
        assert wire.counts(1)[Count.RETRIES] == 1
        assert wire.outcomes(1) == {Count.CONNECT_FAILED: 1}
        ((_, third),) = wire.connecting
        assert third.host.startswith("10.0.1."), "after both, stable answers"


def test_after_a_stale_connection_another_server_may_still_be_tried() -> None:
    with Wire(servers=2) as wire:
        clients = [wire.client(), wire.client()]
        for client in clients:
            client.send(GET)
        for origin in wire.origins:
            assert origin.read()
            origin.send(OK)
        client = wire.client()
        client.send(GET)
        stale, other = sorted(wire.origins, key=lambda origin: not origin.read())
        wire.holds_connects = True
        stale.send_fin()
        wire.refuse()
        assert other.read()
        other.send(OK)
        assert client.read() == OK
        assert wire.outcomes() == {Count.C2XX: 3}


def test_of_two_servers_the_one_with_less_in_hand_is_chosen() -> None:
    with Wire(servers=2) as wire:
        for _ in range(10):
            wire.client().send(GET)
        hosts = [origin.get_extra_info("peername")[0] for origin in wire.origins]
        assert sorted(hosts.count(host) for host in set(hosts)) == [5, 5]


def test_the_upstream_connection_is_kept_alive_by_tcp(wire: Wire) -> None:
    used(wire)
    assert wire.origin.options
