"""Requests with bodies: framing, 100-continue, early answers, what the client does wrong (F13-F19, C7, C8, C11, C12)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wire import GET, OK, FarEnd, Wire

from canaryproxy.shared.layout import Count

POST = b"POST /in HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST /in HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"4;ext=1\r\nabcd\r\nA\r\n0123456789\r\n0\r\nX-Trailer: 1\r\nContent-Length: 3\r\n\r\n"
EARLY = b"HTTP/1.1 413 Content Too Large\r\nDate: now\r\nContent-Length: 3\r\n\r\nbig"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def unchunk(data: bytes) -> bytes:
    """The body of a chunked message without extensions and trailers."""
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if size == b"0":
            assert data == b"\r\n", "no trailer goes on, and nothing after the end"
            return body
        length = int(size, 16)
        assert data[length : length + 2] == b"\r\n"
        body, data = body + data[:length], data[length + 2 :]


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"GET", b"SPECIAL"])
def test_a_body_of_known_length_passes(wire: Wire, method: bytes) -> None:
    client = wire.client()
    client.send(POST.replace(b"POST", method) + b"0123", b"456789")
    head, _, body = wire.origin.read().partition(b"\r\n\r\n")
    assert head.startswith(method + b" /in HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 10" in head
    assert body == b"0123456789"
    wire.origin.send(OK)
    assert client.read() == OK
    assert wire.counts()[Count.BYTES_IN] == 10
    assert wire.counts()[Count.BYTES_OUT] == 2


def test_a_chunked_body_is_chunked_anew(wire: Wire) -> None:
    client = wire.client()
    client.send(CHUNKED + CHUNKS)
    head, _, body = wire.origin.read().partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert unchunk(body) == b"abcd0123456789"
    assert b"ext" not in body
    wire.origin.send(OK)
    assert client.read() == OK
    assert wire.counts()[Count.BYTES_IN] == 14


@pytest.mark.parametrize(
    ("head", "body", "wanted"),
    [(POST, b"0123456789", b"0123456789"), (CHUNKED, CHUNKS, b"abcd0123456789")],
    ids=["length", "chunked"],
)
def test_a_request_cut_anywhere_is_the_same_request(wire: Wire, head: bytes, body: bytes, wanted: bytes) -> None:
    whole = head + body
    for cut in range(1, len(whole)):
        client = wire.client()
        client.send(whole[:cut], whole[cut:] + GET)
        got = wire.origin.read().partition(b"\r\n\r\n")[2]
        assert (unchunk(got) if head is CHUNKED else got) == wanted, cut
        wire.origin.send(OK)
        assert wire.origin.read().startswith(b"GET / "), cut
        wire.origin.send(OK)
        assert client.read() == OK + OK, cut
    assert len(wire.origins) == 1


def test_a_request_byte_by_byte(wire: Wire) -> None:
    client = wire.client()
    client.send(*(bytes((byte,)) for byte in CHUNKED + CHUNKS + POST + b"0123456789"))
    assert unchunk(wire.origin.read().partition(b"\r\n\r\n")[2]) == b"abcd0123456789"
    wire.origin.send(OK)
    assert wire.origin.read().endswith(b"\r\n\r\n0123456789")
    wire.origin.send(OK)
    assert client.read() == OK + OK


def test_a_body_that_comes_before_the_connection_waits_for_it(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(POST + b"0123")
    assert not client.is_reading(), "until somebody takes it"
    client.send(b"456789")
    wire.accept()
    assert wire.origin.read().endswith(b"\r\n\r\n0123456789")
    wire.origin.send(OK)
    assert client.read() == OK


# Expect: 100-continue (C8).


def expecting(length: int = 10) -> bytes:
    return b"PUT / HTTP/1.1\r\nHost: shop\r\nExpect: 100-Continue\r\nContent-Length: %d\r\n\r\n" % length


def test_the_body_is_asked_for_when_there_is_an_upstream_for_it(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(expecting())
    assert client.read() == b""
    wire.accept()
    assert client.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert b"xpect" not in wire.origin.read()
    client.send(b"0123456789")
    assert wire.origin.read() == b"0123456789"
    wire.origin.send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert client.read() == OK


def test_a_body_that_comes_unasked_is_not_asked_for(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(expecting() + b"01234")
    wire.accept()
    client.send(b"56789")
    assert client.read() == b""
    wire.origin.send(OK)
    assert client.read() == OK


def test_other_expectations_are_refused(wire: Wire) -> None:
    client = wire.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: shop\r\nExpect: y\r\nContent-Length: 1\r\n\r\n")
    assert client.read().startswith(b"HTTP/1.1 417 ")
    assert client.got_fin


def test_an_answer_instead_of_100_continue(wire: Wire) -> None:
    client = wire.client()
    client.send(expecting())
    client.read()
    wire.origin.send(EARLY)
    assert b"\r\nConnection: close\r\n" in client.read()
    assert wire.origin.gone, "its request was never finished"
    client.send_fin()
    assert client.was_closed
    assert wire.outcomes() == {Count.C4XX: 1}


# An early final answer (C7).


def upload(wire: Wire, length: int = 50_000_000) -> FarEnd:
    client = wire.client()
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % length, bytes(100_000))
    return client


def test_an_early_answer_is_passed_on_and_ends_both_connections(wire: Wire) -> None:
    client = upload(wire)
    wire.origin.send(EARLY)
    answer = client.read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"Connection: close\r\n\r\nbig")
    assert client.got_fin
    assert wire.origin.gone
    assert client.is_reading(), "what comes now is thrown away"
    client.send(bytes(1_000_000))
    assert len(client._sent) > 600_000, "no more than 256 KiB of the rest are read"
    wire.advance(6)
    assert client.gone
    assert wire.outcomes() == {Count.C4XX: 1}


def test_an_early_answer_of_an_upstream_that_hangs_up(wire: Wire) -> None:
    client = upload(wire)
    wire.origin.send(b"HTTP/1.1 413 Content Too Large\r\n\r\nbig")
    wire.origin.send_fin()
    assert unchunk(client.read().partition(b"\r\n\r\n")[2]) == b"big"
    assert client.got_fin
    assert wire.origin.gone


def test_an_early_answer_of_an_upstream_that_reads_no_more(wire: Wire) -> None:
    client = wire.client()
    wire.holds_connects = True
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\n\r\n", bytes(10))
    wire.accept().window = 0
    client.send(bytes(200_000))
    assert not client.is_reading()
    wire.origin.send(b"HTTP/1.1 413 Content Too Large\r\n\r\nbig")
    wire.origin.send_fin()
    assert client.read().startswith(b"HTTP/1.1 413 ")
    assert wire.origin.gone, "although not all could be written to it"


def test_request_and_answer_may_flow_at_the_same_time(wire: Wire) -> None:
    client = wire.client()
    client.send(CHUNKED + b"2\r\nhi\r\n")
    wire.origin.read()
    wire.origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    assert client.read().endswith(b"2\r\nhi\r\n")
    client.send(b"3\r\nyou\r\n0\r\n\r\n")
    assert wire.origin.read() == b"3\r\nyou\r\n0\r\n\r\n"
    wire.origin.send(b"3\r\nyou\r\n0\r\n\r\n")
    assert client.read() == b"3\r\nyou\r\n0\r\n\r\n"
    assert client.was_closed, "keeping the connection was not promised with the head"


def test_an_answer_before_all_was_sent_leaves_no_connection_behind(wire: Wire) -> None:
    client = wire.client()
    wire.holds_connects = True
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 200010\r\n\r\n", bytes(10))
    wire.accept().window = 0
    client.send(bytes(200_000))
    while client._sent:
        wire.origin.take(1_000)
    wire.origin.window = 0
    wire.origin.send(OK)
    assert client.read().endswith(b"ok")
    assert wire.origin.gone, "a part of the request is still unsent"


# What the client does wrong: never a failure of the variant.


@pytest.mark.parametrize("bad", [b"0x1\r\nx\r\n", b"1 \r\nx\r\n", b"2\r\nxyz", b"\r\n", b"1\nx\r\n"])
def test_a_bad_chunk_is_the_clients_error(wire: Wire, bad: bytes) -> None:
    client = wire.client()
    client.send(CHUNKED + b"1\r\nx\r\n", bad)
    assert client.read().startswith(b"HTTP/1.1 400 ")
    assert client.got_fin
    assert wire.origin.gone, "it must not take the cut body for a whole one"
    assert not wire.origin.read().endswith(b"0\r\n\r\n")
    assert wire.outcomes() == {Count.CLIENT_ERROR: 1}
    assert wire.counts()[Count.FAILED] == 0


def test_a_bad_chunk_after_the_answer_began_cuts(wire: Wire) -> None:
    client = wire.client()
    client.send(CHUNKED + b"1\r\nx\r\n")
    wire.origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
    client.send(b"zz\r\n")
    assert client.was_reset
    assert wire.outcomes() == {Count.CLIENT_ERROR: 1}


def test_a_body_that_stops_coming(wire: Wire) -> None:
    client = wire.client()
    client.send(POST + b"0123")
    wire.advance(29)
    client.send(b"4")
    wire.advance(29)
    assert client.read() == b""
    wire.advance(2)
    assert b"X-Canaryproxy-Error: request_body_timeout\r\n" in client.read()
    assert client.got_fin
    assert wire.origin.gone
    assert wire.outcomes() == {Count.CLIENT_ERROR: 1}


def test_a_slow_upload_says_nothing_of_the_variant(wire: Wire) -> None:
    client = wire.client()
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 24\r\n\r\n")
    for _ in range(12):
        wire.advance(1)
        client.send(b"ab")
    wire.origin.send(OK)
    assert client.read().endswith(b"ok")
    assert wire.outcomes() == {Count.C2XX: 1}
    assert (wire.counts().resolved, wire.counts()[Count.FAILED], sum(wire.counts().latency)) == (0, 0, 0)


def test_the_time_of_an_upload_is_no_latency(wire: Wire) -> None:
    client = wire.client()
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\n")
    wire.advance(3)
    client.send(b"abcd")
    wire.now += 0.05
    wire.origin.send(OK)
    assert wire.counts()[Count.LATENCY_SUM_US] == pytest.approx(50_000, abs=2)


def test_a_client_that_leaves_cancels_the_request(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    client.send_fin()
    assert client.was_closed
    assert wire.origin.gone
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}
    assert wire.counts()[Count.FAILED] == wire.counts().resolved == 0


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"], ids=["waiting", "receiving"])
def test_a_client_that_resets_cancels_the_request(wire: Wire, sent: bytes) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(sent)
    client.reset()
    assert wire.origin.gone
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}


def test_a_client_that_leaves_in_its_body(wire: Wire) -> None:
    client = wire.client()
    client.send(POST + b"0123")
    client.send_fin()
    assert wire.origin.gone
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}


def test_a_client_that_leaves_in_a_bad_answer_does_not_hide_it(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\nabc")
    client.reset()
    assert wire.outcomes() == {Count.C5XX: 1}
    assert wire.counts()[Count.FAILED] == 1


def test_a_client_that_leaves_while_connecting_leaves_the_connection_to_others(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(GET)
    client.send_fin()
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}
    wire.accept()
    assert not wire.origin.read()
    other = wire.client()
    other.send(GET)
    wire.origin.send(OK)
    assert other.read() == OK
    assert len(wire.origins) == 1


def test_a_client_that_leaves_while_connecting_in_vain(wire: Wire) -> None:
    wire.holds_connects = True
    client = wire.client()
    client.send(GET)
    client.reset()
    wire.refuse()
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}


def test_no_route() -> None:
    with Wire() as wire:
        wire.worker.router.only = None
        wire.worker.router.match = lambda host, target: None  # type: ignore[method-assign]
        client = wire.client()
        client.send(POST + b"0123456789" + GET)
        assert b"X-Canaryproxy-Error: no_route\r\n" in client.read()
        assert client.got_fin
        assert not wire.origins
