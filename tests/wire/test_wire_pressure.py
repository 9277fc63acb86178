"""Back-pressure both ways, and clients that take nothing (C12, section 5)."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest
from wire import GET, OK, Wire

from canaryproxy.proxy.exchange import Exchange
from canaryproxy.shared.layout import Count

MEGABYTE = 1_000_000
HEAD = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def test_a_slow_reader_holds_a_fast_upstream_back(wire: Wire) -> None:
    client = wire.client()
    client.window = 0
    client.send(GET)
    wire.origin.send(HEAD % (5 * MEGABYTE) + bytes(5 * MEGABYTE))
    assert not wire.origin.is_reading()
    assert client.get_write_buffer_size() <= 65536 + 65536 + 1000
    received = 0
    while received < 5 * MEGABYTE:
        client.take(300_000)
        assert client.get_write_buffer_size() <= 65536 + 65536 + 1000
        received += len(client.read().rpartition(b"\r\n\r\n")[2])
    assert received == 5 * MEGABYTE
    assert wire.outcomes() == {Count.C2XX: 1}


def test_a_slow_upstream_holds_a_fast_client_back(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\n\r\n" + bytes(100_000))
    origin = wire.accept()
    origin.window = 0
    client.send(bytes(4_900_000))
    assert origin.get_write_buffer_size() <= 2 * 65536 + 1000
    while len(origin._received) < 5 * MEGABYTE:
        assert not client.is_reading()
        assert origin.get_write_buffer_size() <= 2 * 65536 + 1000
        origin.take(300_000)
    origin.send(OK)
    assert client.read() == OK


def test_a_connection_that_takes_nothing_at_first_is_held_back_too(wire: Wire) -> None:
    """What waited for the connection may already be too much for it."""
    used = wire.exchange()
    assert used == OK
    wire.origin.window = 0
    client = wire.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\n\r\n", bytes(5_000_000))
    assert wire.origin.get_write_buffer_size() <= 2 * 65536 + 1000


def test_what_waited_for_a_connection_may_fill_it_up(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\n\r\n" + bytes(5_000_000))
    wire.accept(window=0)
    assert wire.origin.get_write_buffer_size() <= 2 * 65536 + 1000
    assert not client.is_reading()
    wire.origin.take()
    wire.origin.send(OK)
    assert client.read() == OK


def test_pipelined_requests_wait_until_the_answers_are_taken(wire: Wire) -> None:
    client = wire.client()
    client.window = 0
    client.send(GET + GET + GET)
    wire.origin.send(HEAD % MEGABYTE + bytes(50_000))
    wire.origin.send(bytes(MEGABYTE - 50_000))
    for _ in range(20):
        client.take(100_000)
    assert wire.origin.read().count(b"GET") == 2
    client.window = 0
    wire.origin.send(HEAD % 70_000 + bytes(70_000))
    assert wire.origin.read() == b"", "the third has to wait"
    assert wire.outcomes() == {Count.C2XX: 2}
    client.take()
    assert wire.origin.read().count(b"GET") == 1
    wire.origin.send(OK)
    assert client.read().endswith(OK)


def test_an_upstream_is_never_left_paused_in_the_pool(wire: Wire) -> None:
    client = wire.client()
    client.window = 0
    client.send(GET)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % bytes(b"x" * 30_000)
    wire.origin.send(hints * 3 + OK)
    client.take()
    assert client.read().endswith(OK)
    other = wire.client()
    other.send(GET)
    wire.origin.send(OK)
    assert other.read() == OK


def test_the_time_of_a_client_that_took_its_answer_late_begins_anew(wire: Wire) -> None:
    client = wire.client()
    client.window = 0
    client.send(GET)
    wire.origin.send(HEAD % 100_000 + bytes(100_000))
    wire.advance(20)
    client.take()
    wire.advance(70)
    assert not client.gone, "75 s for the next request"
    wire.advance(6)
    assert client.was_closed


# A client that takes nothing.


def test_a_client_that_takes_nothing_is_cut(wire: Wire) -> None:
    client = wire.client()
    client.window = 0
    client.send(GET)
    wire.origin.send(HEAD % MEGABYTE + bytes(MEGABYTE // 2))
    wire.advance(29)
    assert not client.gone
    wire.advance(2)
    assert client.was_reset
    assert wire.origin.gone
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}


def test_a_client_that_takes_a_little_is_not_cut(wire: Wire) -> None:
    client = wire.client()
    client.window = 0
    client.send(GET)
    wire.origin.send(HEAD % MEGABYTE + bytes(MEGABYTE))
    for _ in range(5):
        wire.advance(29)
        client.take(20_000)
    assert not client.gone
    client.take()
    assert wire.outcomes() == {Count.C2XX: 1}


def test_a_client_that_takes_next_to_nothing_is_cut(wire: Wire) -> None:
    """As slow as a request's body must not come (`limits.body_rate`): it would hold its place for ever."""
    client = wire.client()
    client.window = 0
    client.send(GET)
    wire.origin.send(HEAD % MEGABYTE + bytes(MEGABYTE))
    for _ in range(3):
        wire.advance(29)
        client.take(1000)
    assert client.was_reset
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}


def test_an_upload_that_the_upstream_takes_slowly_is_nobody_s_fault(wire: Wire) -> None:
    client = wire.client()
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 300000\r\n\r\n")
    origin = wire.origin
    origin.window = 0
    client.send(bytes(60_000))
    for _ in range(4):
        wire.advance(29)
        origin.take(10_000)
    assert not client.gone
    origin.take()
    client.send(bytes(240_000))
    origin.send(OK)
    assert client.read().endswith(b"ok")
    assert wire.outcomes() == {Count.C2XX: 1}


@pytest.mark.parametrize(
    ("size", "connection"), [(65_530, b""), (65_470, b"Connection: close\r\n"), (100, b"Connection: close\r\n")]
)
def test_a_client_that_does_not_take_the_end_is_cut(wire: Wire, size: int, connection: bytes) -> None:
    client = wire.client()
    client.window = 0
    client.send(GET[:-2] + connection + b"\r\n")
    wire.origin.send(HEAD % size + bytes(size))
    assert wire.outcomes() == {Count.C2XX: 1}
    wire.advance(29)
    assert not client.gone
    wire.advance(2)
    assert client.gone


# Nothing is left.


def test_exchanges_are_freed_without_the_collector(wire: Wire) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert wire.exchange() == OK
        client = wire.client()
        client.send(GET)
        client.reset()
        wire.holds_connects = True
        client = wire.client()
        client.send(GET)
        wire.refuse()
        client.send_fin()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Exchange)]
    finally:
        gc.enable()


def test_a_body_in_tiny_chunks_costs_linear_time(wire: Wire) -> None:
    client = wire.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n")
    downstream = client.protocol
    began = time.process_time()
    for _ in range(15_000):
        downstream.get_buffer(-1)[:6] = b"1\r\nx\r\n"
        downstream.buffer_updated(6)
    assert time.process_time() - began < 1, "0.1 s, but 2 s where each chunk copies those before it"


def test_a_connection_that_comes_while_the_client_takes_nothing_waits_too(wire: Wire) -> None:
    """The client stopped taking between the request's begin and its connection: nobody was there yet to be paused."""
    client = wire.client()
    client.window = 0
    client.send(GET + GET)
    wire.origin.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4000\r\n\r\n" + bytes(4000))
    wire.origin.send(HEAD % (5 * MEGABYTE) + bytes(5 * MEGABYTE))
    assert client.get_write_buffer_size() <= 3 * 65536
    client.take()
    wire.origin.send(HEAD % (5 * MEGABYTE) + bytes(5 * MEGABYTE))
    assert client.read().endswith(bytes(5 * MEGABYTE))
