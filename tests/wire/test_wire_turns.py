"""What comes in one turn of the loop in an unlucky order, and what follows when two rules meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from wire import GET, OK, FarEnd, Wire

from canaryproxy.proxy import outcome
from canaryproxy.shared.layout import CANARY, Count


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        yield made


def idle_origin(wire: Wire) -> FarEnd:
    """An upstream connection that lies idle, and is looked at last in each turn."""
    client = wire.client()
    client.send(GET)
    origin = wire.origin
    origin.send(OK)
    assert client.read().endswith(b"ok")
    origin.read()
    wire.ends.remove(origin)
    wire.ends.append(origin)
    return origin


def one_server(**options: Any) -> Wire:
    """A wire whose stable pool has these options."""
    return Wire(pools={"v1": {"servers": ["http://10.0.1.1"], **options}, "v2": {"servers": ["http://10.0.2.1"]}})


@pytest.mark.parametrize("request_", [GET, b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n"])
@pytest.mark.parametrize("stray", [b"HTTP/1.1 408 Request Timeout\r\nDate: now\r\nContent-Length: 5\r\n\r\nstray", None])
def test_what_comes_before_the_request_has_gone_out_is_no_answer_to_it(wire: Wire, request_: bytes, stray: bytes | None) -> None:
    """R4, C4: nobody ever gets another one's answer; and who was not asked yet may be replaced by another connection."""
    idle = idle_origin(wire)
    first, second = wire.client(), wire.client()
    wire.ends.remove(idle)
    wire.ends.append(idle)
    first._sent += request_
    if stray is None:
        idle.send_fin()
    else:
        idle.send(stray)
    assert idle.gone
    assert idle.read() == b""
    assert first.read() == b""
    wire.origin.send(OK)
    assert first.read().endswith(b"ok")
    second.send(GET)
    wire.origin.send(OK.replace(b"ok", b"2!"))
    assert second.read().endswith(b"2!")


def test_nobody_overtakes_who_waits_for_a_server() -> None:
    with one_server(max_connections=1) as wire:
        busy, waiting, late = wire.client(), wire.client(), wire.client()
        busy.send(GET)
        waiting.send(GET)
        wire.origin._sent += OK
        late._sent += GET
        wire.settle()
        wire.origin.send(OK)
        assert waiting.read().endswith(b"ok")
        wire.origin.send(OK)
        assert late.read().endswith(b"ok")
        assert wire.outcomes() == {Count.C2XX: 3}


def test_who_waits_for_a_canary_that_goes_down_gets_stable() -> None:
    pools = {"v1": {"servers": ["http://10.0.1.1"]}, "v2": {"servers": ["http://10.0.2.1"], "max_connections": 1}}
    with Wire(pools=pools, affinity={"header": "x-u"}) as wire:
        wire.publish(10_000)
        request = GET[:-2] + b"X-U: anna\r\n\r\n"
        busy, waiting = wire.client(), wire.client()
        busy.send(request)
        waiting.send(request)
        wire.worker.pools[1].servers[0].mark_down()
        wire.advance(1.1)
        assert wire.origin.get_extra_info("peername")[0] == "10.0.1.1"
        wire.origin.send(OK)
        assert b"X-Canaryproxy-Fallback: no_healthy_upstream\r\n" in waiting.read()
        assert wire.outcomes(CANARY) == {Count.CONNECT_FAILED: 1}


def test_stable_does_not_answer_what_a_canary_may_have_done() -> None:
    with Wire(affinity={"header": "x-u"}) as wire:
        wire.publish(10_000)
        request = b"DELETE /thing HTTP/1.1\r\nHost: shop\r\nX-U: anna\r\n\r\n"
        first, second = wire.client(), wire.client()
        first.send(request)
        canary = wire.origin
        canary.send(OK)
        canary.read()
        wire.holds_connects = True
        second.send(request)
        assert canary.read().startswith(b"DELETE ")
        canary.send_fin()
        wire.refuse(outcome.REFUSED)
        assert second.read().startswith(b"HTTP/1.1 502 ")
        assert not wire.connecting


def test_a_whole_exchange_that_takes_too_long_is_blamed_on_who_is_slow() -> None:
    with Wire(timeouts={"total": "2s"}) as wire:
        reader, uploader = wire.client(), wire.client()
        reader.window = 0
        reader.send(GET)
        wire.origin.send(b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 900000\r\n\r\n" + bytes(600_000))
        uploader.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 300000\r\n\r\n")
        wire.origin.window = 0
        uploader.send(bytes(60_000))
        wire.advance(2.1)
        assert reader.was_reset
        assert uploader.read().startswith(b"HTTP/1.1 504 ")
        assert wire.outcomes() == {Count.CLIENT_GONE: 1, Count.RESPONSE_TIMEOUT: 1}


def test_answers_of_our_own_keep_a_connection_alive(wire: Wire) -> None:
    client = wire.client()
    for _ in range(100):
        wire.advance(1)
        client.send(b"TRACE / HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert client.read().startswith(b"HTTP/1.1 405 ")
    assert not client.gone


def test_a_refused_trace_keeps_the_connection_and_what_came_behind_it(wire: Wire) -> None:
    client = wire.client()
    client.send(b"TRACE / HTTP/1.1\r\nHost: shop\r\n\r\n" + GET)
    wire.origin.send(OK)
    answer = client.read()
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert answer.endswith(b"\r\n\r\nok")


def test_a_kept_connection_of_http_1_0_is_told_so_with_a_failure_too(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(b"GET / HTTP/1.0\r\nHost: shop\r\nConnection: keep-alive\r\n\r\n")
    wire.refuse(outcome.REFUSED)
    answer = client.read()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"\r\nConnection: keep-alive\r\n" in answer
    assert not client.gone


def test_a_response_has_trailers_only_for_those_who_can_read_them(wire: Wire) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    assert wire.exchange(GET, chunked).endswith(b"0\r\nX-Sum: 1\r\n\r\n")
    assert wire.exchange(b"GET / HTTP/1.0\r\nHost: shop\r\n\r\n", chunked).endswith(b"\r\n\r\nok")
    head = wire.exchange(b"HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n", chunked[: chunked.index(b"2\r\nok")])
    assert head.endswith(b"\r\n\r\n")
    assert b"X-Sum" not in head
