"""Responses: framing, interim ones, truncation, garbage (R1-R9, section 14)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wire import GET, OK, Wire

from canaryproxy.shared.layout import Count

GET_1_0 = b"GET / HTTP/1.0\r\nHost: shop\r\nConnection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 10\r\n\r\n0123456789"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = CHUNKED_HEAD + b"4;a=b\r\n0123\r\n6\r\n456789\r\n0\r\nX-Sum: 1\r\nSet-Cookie: no\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nDate: now\r\n\r\n0123456789"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def body_of(answer: bytes) -> bytes:
    """The body, unchunked; a chunked one must end as it should."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"\r\nTransfer-Encoding: chunked" not in head:
        return rest
    body = b""
    while not rest.startswith(b"0\r\n"):
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body, rest = body + rest[:length], rest[length + 2 :]
    assert rest.endswith(b"\r\n\r\n")
    return body


# Bodies.


@pytest.mark.parametrize("response", [LENGTH, CHUNKED, UNTIL_CLOSE], ids=["length", "chunked", "until close"])
@pytest.mark.parametrize("request_", [GET, GET_1_0], ids=["1.1", "1.0"])
def test_a_response_cut_anywhere_is_the_same_response(wire: Wire, response: bytes, request_: bytes) -> None:
    for cut in range(1, len(response) + 1):
        client = wire.client()
        client.send(request_)
        wire.origin.send(response[:cut], response[cut:])
        if response is UNTIL_CLOSE:
            wire.origin.send_fin()
            wire.origins.clear()
        answer = client.read()
        assert body_of(answer) == b"0123456789", cut
        framed = response is LENGTH or request_ is GET
        assert (b"\r\nConnection: close\r\n" in answer) is (not framed), "HTTP/1.0 has no other way to end it"
        assert client.gone is not framed
        client.send_fin()
    assert wire.outcomes() == {Count.C2XX: len(response)}


@pytest.mark.parametrize("response", [LENGTH, CHUNKED])
def test_a_response_byte_by_byte(wire: Wire, response: bytes) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(*(bytes((byte,)) for byte in response))
    assert body_of(client.read()) == b"0123456789"


def test_trailers_that_may_be_passed_on_are(wire: Wire) -> None:
    answer = wire.exchange(response=CHUNKED)
    assert answer.endswith(b"0\r\nX-Sum: 1\r\n\r\n")
    assert wire.counts()[Count.BYTES_OUT] == 10


def test_a_head_is_passed_on_at_once(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(CHUNKED_HEAD)
    assert client.read().startswith(b"HTTP/1.1 200 OK\r\n")
    wire.origin.send(b"1\r\nx\r\n")
    assert client.read() == b"1\r\nx\r\n", "events are flushed one by one"


@pytest.mark.parametrize(
    ("request_", "response", "kept"),
    [
        (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", True),
        (HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (HEAD, LENGTH, False),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", True),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n0123456789", False),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 10\r\n\r\n", False),
        (GET, b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
    ],
)
def test_responses_without_a_body(wire: Wire, request_: bytes, response: bytes, *, kept: bool) -> None:
    client = wire.client()
    client.send(request_)
    first = wire.origin
    first.send(response)
    head, _, body = client.read().partition(b"\r\n\r\n")
    assert body == b""
    assert (b"Content-Length: 10" in head) is (b"Content-Length: 10" in response and b" 204 " not in response)
    assert first.gone is not kept
    client.send(GET)
    wire.origin.send(OK)
    assert client.read() == OK, "whatever came too much is not the next answer"


# Interim responses (R5).


def test_early_hints_pass_and_100_does_not(wire: Wire) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    client = wire.client()
    client.send(GET)
    wire.origin.send(b"HTTP/1.1 100 Continue\r\n\r\n" + hints[:20], hints[20:])
    assert client.read() == hints
    wire.origin.send(hints + OK)
    assert client.read() == hints + OK
    assert not wire.origin.gone


def test_http_1_0_gets_no_interim_response(wire: Wire) -> None:
    client = wire.client()
    client.send(GET_1_0)
    wire.origin.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    assert client.read().startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_storm_of_interim_responses_is_refused(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 8)
    assert client.read().count(b"102 Processing") == 8
    wire.origin.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    assert b"X-Canaryproxy-Error: upstream_too_many_interim\r\n" in client.read()
    assert wire.origin.gone
    assert wire.outcomes() == {Count.RESPONSE_INVALID: 1}


def test_a_protocol_switch_that_nobody_asked_for(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nframes")
    assert client.read().startswith(b"HTTP/1.1 502 ")
    assert wire.origin.gone


# Bad responses: 502, never passed on (R1, R8, R9).


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"\x00\x01\x02",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + bytes(b"x" * 70_000),
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 201 + b"\r\n",
        CHUNKED_HEAD + b"zz\r\n",
    ],
)
def test_garbage_is_a_502(wire: Wire, response: bytes) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(response)
    answer = client.read()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"X-Canaryproxy-Error: upstream_" in answer
    assert wire.origin.gone
    client.send(GET)
    wire.origin.send(OK)
    assert client.read() == OK, "the client's connection goes on"
    assert wire.outcomes() == {Count.C2XX: 1, Count.RESPONSE_INVALID: 1}
    assert wire.counts()[Count.FAILED] == 1


def test_a_502_for_head_has_no_body(wire: Wire) -> None:
    client = wire.client()
    client.send(HEAD)
    wire.origin.send(b"bad\r\n\r\n")
    assert client.read().endswith(b"\r\n\r\n")


@pytest.mark.parametrize("early", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
@pytest.mark.parametrize("ending", ["send_fin", "reset"])
def test_no_head_is_a_502(wire: Wire, early: bytes, ending: str) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(early)
    getattr(wire.origin, ending)()
    assert b"HTTP/1.1 502 " in client.read()
    assert wire.outcomes() == {Count.RESPONSE_INVALID: 1}
    assert len(wire.origins) == 1, "a fresh connection's end is an answer, too"


# Truncation: never taken for whole (R3).


@pytest.mark.parametrize("ending", ["send_fin", "reset"])
@pytest.mark.parametrize("response", [LENGTH[:-1], CHUNKED_HEAD + b"5\r\n0123", CHUNKED_HEAD + b"4\r\n0123\r\n0\r\n"])
@pytest.mark.parametrize("request_", [GET, GET_1_0], ids=["1.1", "1.0"])
def test_a_truncated_response_is_cut(wire: Wire, request_: bytes, response: bytes, ending: str) -> None:
    client = wire.client()
    client.send(request_)
    wire.origin.send(response)
    getattr(wire.origin, ending)()
    answer = client.read()
    assert client.was_reset
    assert not answer.endswith(b"0\r\n\r\n")
    assert wire.outcomes() == {Count.TRUNCATED: 1}
    assert wire.counts()[Count.FAILED] == 1


@pytest.mark.parametrize("request_", [GET, GET_1_0], ids=["1.1", "1.0"])
def test_a_response_until_close_that_is_reset_is_cut(wire: Wire, request_: bytes) -> None:
    client = wire.client()
    client.send(request_)
    wire.origin.send(UNTIL_CLOSE)
    wire.origin.reset()
    assert client.was_reset
    assert not client.read().endswith(b"0\r\n\r\n")
    assert wire.outcomes() == {Count.TRUNCATED: 1}


def test_a_bad_chunk_later_on_cuts(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(CHUNKED_HEAD + b"1\r\nx\r\n", b"-1\r\n")
    assert client.was_reset
    assert wire.outcomes() == {Count.TRUNCATED: 1}


# Silence.


def test_no_head_in_time(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.advance(29)
    assert client.read() == b""
    wire.advance(2)
    assert client.read().startswith(b"HTTP/1.1 504 ")
    assert wire.origin.gone
    client.send(GET)
    wire.origin.send(OK)
    assert client.read() == OK
    assert wire.outcomes() == {Count.C2XX: 1, Count.RESPONSE_TIMEOUT: 1}
    wire.hung = 1


def test_a_body_that_stops_coming_is_cut(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.advance(25)
    wire.origin.send(LENGTH[:-4])
    wire.advance(50)
    wire.origin.send(LENGTH[-4:-2])
    wire.advance(59)
    assert not client.gone
    wire.advance(2)
    assert client.was_reset
    assert wire.outcomes() == {Count.TRUNCATED: 1}
    wire.hung = 1


def test_a_head_alone_gives_the_body_its_own_time(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.advance(25)
    wire.origin.send(CHUNKED_HEAD)
    wire.advance(50)
    wire.origin.send(b"1\r\nx\r\n0\r\n\r\n")
    assert body_of(client.read()) == b"x"
    wire.hung = 1


def test_an_upstream_that_does_not_take_the_body_is_at_fault(wire: Wire) -> None:
    client = wire.client()
    wire.holds_connects = True
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000000\r\n\r\n")
    wire.accept().window = 0
    client.send(bytes(500_000))
    assert not client.is_reading()
    wire.advance(31)
    assert client.read().startswith(b"HTTP/1.1 504 ")
    assert wire.outcomes() == {Count.RESPONSE_TIMEOUT: 1}
    wire.hung = 1


def test_a_client_that_stops_sending_in_the_middle_of_an_answer_is_at_fault(wire: Wire) -> None:
    client = wire.client()
    client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n01")
    wire.origin.send(CHUNKED_HEAD)
    wire.advance(61)
    assert client.was_reset
    assert wire.outcomes() == {Count.CLIENT_ERROR: 1}
    wire.hung = 1
