"""Many requests on one client connection: keep-alive, pipelining, limits, drain (C1, C2, C13, section 14)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wire import GET, OK, Wire

from canaryproxy.shared.layout import Count


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def number(target: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: shop\r\n\r\n" % target


def numbered(target: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 3\r\n\r\n%03d" % target


def test_requests_follow_each_other_on_both_connections(wire: Wire) -> None:
    client = wire.client()
    for target in range(3):
        client.send(number(target))
        assert wire.origin.read().startswith(b"GET /%d HTTP/1.1\r\n" % target)
        wire.origin.send(numbered(target))
        assert client.read() == numbered(target)
    assert len(wire.origins) == 1
    assert wire.outcomes() == {Count.C2XX: 3}


def test_a_hundred_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    client = wire.client()
    client.send(b"".join(map(number, range(100))))
    for target in range(100):
        assert wire.origin.read().startswith(b"GET /%d HTTP/1.1\r\n" % target), "one at a time, in order"
        wire.origin.send(numbered(target))
    assert client.read() == b"".join(map(numbered, range(100)))
    assert len(wire.origins) == 1


def test_pipelined_requests_cut_anywhere(wire: Wire) -> None:
    requests = number(1) + b"POST /2 HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody" + number(3)
    for cut in range(1, len(requests)):
        client = wire.client()
        client.send(requests[:cut], requests[cut:])
        for target in (1, 2, 3):
            wire.origin.send(numbered(target))
        assert client.read() == numbered(1) + numbered(2) + numbered(3), cut


def test_a_bad_request_among_a_hundred_ends_the_connection_after_the_good_ones(wire: Wire) -> None:
    client = wire.client()
    client.send(b"".join(map(number, range(50))) + b"GET  /bad HTTP/1.1\r\n\r\n" + b"".join(map(number, range(51, 100))))
    for target in range(50):
        wire.origin.send(numbered(target))
    answers = client.read()
    assert answers.startswith(b"".join(map(numbered, range(50))) + b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Connection: close\r\n" in answers
    assert client.got_fin
    assert wire.outcomes() == {Count.C2XX: 50}
    client.send_fin()
    assert client.was_closed


def test_input_sent_ahead_is_bounded(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    client.send(number(1) * 20_000)
    assert not client.is_reading()
    assert len(client._sent) > 20_000 * len(number(1)) - 2 * 65536, "at most one more buffer is read"


def test_a_client_of_http_1_0_must_ask_for_keep_alive(wire: Wire) -> None:
    client = wire.client()
    client.send(b"GET / HTTP/1.0\r\nHost: shop\r\nConnection: keep-alive\r\n\r\n")
    wire.origin.send(OK)
    assert b"\r\nConnection: keep-alive\r\n" in client.read()
    client.send(b"GET / HTTP/1.0\r\nHost: shop\r\n\r\n")
    wire.origin.send(OK)
    assert b"\r\nConnection: close\r\n" in client.read()
    assert client.was_closed


def test_connection_close_closes(wire: Wire) -> None:
    client = wire.client()
    client.send(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
    wire.origin.send(OK)
    assert b"\r\nConnection: close\r\n" in client.read()
    assert client.was_closed


def test_what_follows_the_last_request_does_not_reset_its_answer(wire: Wire) -> None:
    client = wire.client()
    client.send(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n" + GET)
    wire.origin.send(OK)
    client.send(GET)
    assert client.read().count(b"HTTP/1.1 200") == 1
    assert client.got_fin
    assert not client.gone
    client.send_fin()
    assert client.was_closed


def test_the_last_allowed_request_says_so() -> None:
    with Wire(limits={"requests_per_connection": 2}) as wire:
        client = wire.client()
        client.send(GET + GET + GET)
        wire.origin.send(OK)
        assert b"Connection: close" not in client.read()
        wire.origin.send(OK)
        assert b"\r\nConnection: close\r\n" in client.read()
        assert client.got_fin


def test_half_close_after_the_last_request_waits_for_the_answer(wire: Wire) -> None:
    client = wire.client()
    client.send(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
    client.send_fin()
    wire.origin.send(OK)
    assert client.read().endswith(b"ok")
    assert client.was_closed
    assert wire.outcomes() == {Count.C2XX: 1}


def test_half_close_while_connecting_waits_too(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
    client.send_fin()
    wire.accept()
    assert wire.origin.read().endswith(b"\r\n\r\nhi")
    wire.origin.send(OK)
    assert client.read().endswith(b"ok")
    assert client.was_closed


# Deadlines.


def test_an_idle_connection_is_closed(wire: Wire) -> None:
    client = wire.client()
    wire.advance(74)
    assert not client.gone
    wire.advance(2)
    assert client.was_closed
    assert client.read() == b""


def test_the_time_between_requests_counts_from_the_last_answer(wire: Wire) -> None:
    client = wire.client()
    wire.advance(70)
    client.send(GET)
    wire.origin.send(OK)
    wire.advance(70)
    assert not client.gone
    wire.advance(6)
    assert client.was_closed


def test_a_head_must_be_complete_in_time_however_it_trickles(wire: Wire) -> None:
    client = wire.client()
    for letter in b"GET / HTTP/1.1":
        client.send(bytes((letter,)))
        wire.advance(1)
    answer = client.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"X-Canaryproxy-Error: request_head_timeout\r\n" in answer
    assert client.got_fin


def test_the_time_of_a_head_begins_with_its_own_first_byte(wire: Wire) -> None:
    client = wire.client()
    client.send(GET[:-2])
    wire.advance(9)
    client.send(GET[-2:] + GET[:-2])
    wire.advance(9)
    wire.origin.send(OK)
    wire.advance(9)
    client.send(GET[-2:])
    wire.origin.send(OK)
    assert client.read() == OK + OK


def test_a_connection_beyond_the_limit_is_refused() -> None:
    with Wire(limits={"client_connections": 1}) as wire:
        wire.client()
        second = wire.client()
        answer = second.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in answer
        second.send(GET)
        second.send_fin()
        assert second.was_closed
        assert wire.counts()[Count.STARTED] == 0


# Lingering close (C13).


def test_after_an_error_the_rest_is_read_and_thrown_away(wire: Wire) -> None:
    client = wire.client()
    client.send(b"BAD\r\n\r\n")
    assert client.read().startswith(b"HTTP/1.1 400 ")
    assert client.got_fin
    client.send(GET * 1000)
    assert not client.gone
    client.send_fin()
    assert client.was_closed
    assert not wire.origins


def test_lingering_takes_no_more_than_its_share_and_its_time(wire: Wire) -> None:
    client = wire.client()
    client.send(b"BAD\r\n\r\n", bytes(1_000_000))
    assert len(client._sent) >= 1_000_000 - 256 * 1024 - 65536
    assert not client.gone, "the answer may still be on its way"
    wire.advance(0.9)
    assert not client.gone
    wire.advance(0.2)
    assert client.gone, "who is not read is not noticed when he leaves"


def test_a_client_that_sends_little_more_may_linger_for_longer(wire: Wire) -> None:
    client = wire.client()
    client.send(b"BAD\r\n\r\n", bytes(1_000))
    wire.advance(4)
    assert not client.gone
    wire.advance(2)
    assert client.gone


# Drain.


def test_drain_closes_the_idle_and_finishes_the_busy(wire: Wire) -> None:
    idle, busy, fresh = wire.client(), wire.client(), wire.client()
    busy.send(GET)
    wire.now += 5
    wire.worker.now = wire.now
    fresh.send(GET[:5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("canaryproxy.proxy.worker.monotonic", lambda: wire.now)
        wire.worker.drain()
    wire.settle()
    assert idle.was_closed
    assert not busy.gone
    wire.origin.send(OK)
    assert b"\r\nConnection: close\r\n" in busy.read()
    assert busy.was_closed
    fresh.send(GET[5:])
    wire.origin.send(OK)
    assert b"\r\nConnection: close\r\n" in fresh.read()
    wire.advance(0.5)
    assert wire.worker._stopped.is_set()
    assert wire.outcomes() == {Count.C2XX: 2}


def test_a_connection_that_was_just_used_may_ask_once_more_while_draining(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(OK)
    client.read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("canaryproxy.proxy.worker.monotonic", lambda: wire.now)
        wire.worker.drain()
    client.send(GET)
    wire.origin.send(OK)
    assert b"\r\nConnection: close\r\n" in client.read()
    assert client.was_closed


def test_the_end_of_a_drain_gives_up_what_is_left() -> None:
    with Wire(timeouts={"drain": "8s"}) as wire:
        client = wire.client()
        client.send(GET)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("canaryproxy.proxy.worker.monotonic", lambda: wire.now)
            wire.worker.drain()
        wire.advance(7)
        assert not client.gone
        wire.advance(2)
        assert client.was_reset
        assert wire.origin.gone
        assert wire.outcomes() == {Count.ABANDONED: 1}
        assert wire.counts()[Count.FAILED] == 0


def test_a_lingering_connection_may_linger_while_draining(wire: Wire) -> None:
    client = wire.client()
    client.send(b"BAD\r\n\r\n")
    wire.worker.draining = True
    wire.worker._drain_until = wire.now + 30
    wire.advance(1)
    assert not client.gone
