"""The request vectors that real proxies answer differently, as far as parser and framing decide them.

Each is run the way the proxy runs a request: find the head, parse the line and the block, frame, read the body, write the
head for the upstream. An error is always answered with close (F19).
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from canaryproxy.http1.chunked import ChunkedReader
from canaryproxy.http1.forward import request_head
from canaryproxy.http1.framing import Body, frame_request, wanted_upgrade
from canaryproxy.http1.head import HeadRules, MessageError, find_request_head, parse_request_block, parse_request_line

RULES = HeadRules()


class Taken(NamedTuple):
    head: bytes
    body: bytes
    rest: bytes
    keep_alive: bool
    expect_continue: bool
    upgrade: bytes | None


def take(data: bytes, rules: HeadRules = RULES) -> Taken | MessageError | None:
    """The first request in `data` as it would be sent on; None if it is incomplete."""
    raw = find_request_head(data, rules)
    if raw is None or isinstance(raw, MessageError):
        return raw
    line = parse_request_line(raw.line, rules)
    if isinstance(line, MessageError):
        return line
    block = parse_request_block(raw.block, rules)
    if isinstance(block, MessageError):
        return block
    framing = frame_request(line, block, rules)
    if isinstance(framing, MessageError):
        return framing
    upgrade = wanted_upgrade(line, block, framing)
    head = request_head(
        line, block, framing, variant=b"stable", peer=b"192.0.2.1", port=b"80", upstream_authority=b"up:1", upgrade=upgrade
    )
    body, rest = b"", data[raw.end :]
    if framing.body is Body.LENGTH:
        if len(rest) < framing.length:
            return None
        body, rest = rest[: framing.length], rest[framing.length :]
    elif framing.body is Body.CHUNKED:
        reader = ChunkedReader()
        pieces = reader.feed(rest)
        if isinstance(pieces, MessageError):
            return pieces
        if not reader.done:
            return None
        body, rest = b"".join(pieces), reader.rest
    return Taken(head, body, rest, framing.keep_alive, framing.expect_continue, upgrade)


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1", body: bytes = b"", host: bytes = b"Host: a\r\n") -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return get(*lines, start=b"POST / HTTP/1.1", body=body)


CHUNKED = b"Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    "CL+TE": (400, post(b"Content-Length: 5", CHUNKED, body=HELLO)),
    "TE identity+CL": (501, post(b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"hello")),
    "TE xchunked": (501, post(b"Transfer-Encoding: xchunked", body=HELLO)),
    "TE gzip, chunked": (501, post(b"Transfer-Encoding: gzip, chunked", body=HELLO)),
    "TE chunked HTTP/1.0": (400, get(CHUNKED, start=b"POST / HTTP/1.0", body=HELLO)),
    "TE ,chunked": (501, post(b"Transfer-Encoding: ,chunked", body=HELLO)),
    "TE dup header": (400, post(CHUNKED, CHUNKED, body=HELLO)),
    "CL dup same": (400, post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")),
    "CL 1, 1": (400, post(b"Content-Length: 1, 1", body=b"h")),
    "CL +1": (400, post(b"Content-Length: +1", body=b"h")),
    "bare LF request line": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF header": (400, b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    "bare LF everywhere": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "obs-fold": (400, get(b"X: a", b" b")),
    "space before colon": (400, get(b"X : a")),
    "NUL in value": (400, get(b"X: a\0b")),
    "CTL 0x01 in value": (400, get(b"X: a\x01b")),
    "bare CR in value": (400, get(b"X: a\rb")),
    "no Host": (400, get(host=b"")),
    "2 Host": (400, get(b"Host: b")),
    "2 equal Host": (400, get(b"Host: a")),
    "Host a/b": (400, get(host=b"Host: a/b\r\n")),
    "fragment in target": (400, get(start=b"GET /#f HTTP/1.1")),
    "target raw UTF-8": (400, get(start="GET /é HTTP/1.1".encode())),
    "two SP in request line": (400, get(start=b"GET  / HTTP/1.1")),
    "HTTP/2.0": (505, get(start=b"GET / HTTP/2.0")),
    "TRACE": (405, get(start=b"TRACE / HTTP/1.1")),
    "CONNECT": (501, get(start=b"CONNECT a:443 HTTP/1.1")),
    "chunk bare ;": (400, post(CHUNKED, body=b"5;\r\nhello\r\n0\r\n\r\n")),
    "chunk LF term": (400, post(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n")),
    "chunk ext LF": (400, post(CHUNKED, body=b"5;a=b\nhello\r\n0\r\n\r\n")),
    "chunk size sp": (400, post(CHUNKED, body=b"5 \r\nhello\r\n0\r\n\r\n")),
    "chunk 0x1": (400, post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n")),
    "chunk data no CRLF": (400, post(CHUNKED, body=b"5\r\nhello0\r\n\r\n")),
    "Connection: Content-Length": (400, post(b"Connection: Content-Length", b"Content-Length: 1", body=b"x")),
    "Connection: X-Forwarded-For": (400, get(b"Connection: X-Forwarded-For", b"X-Forwarded-For: 1.2.3.4")),
    "Expect: foo": (417, post(b"Expect: foo", b"Content-Length: 1", body=b"x")),
    "Expect: y 100-continue": (417, post(b"Expect: y 100-continue", b"Content-Length: 1", body=b"x")),
    "70 KB header": (431, get(b"X: " + b"a" * 70_000)),
    "10 KB URL": (414, get(start=b"GET /" + b"a" * 10_240 + b" HTTP/1.1")),
    "200 headers": (431, get(*[b"X-%d: y" % number for number in range(200)])),
}


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(status: int, data: bytes) -> None:
    taken = take(data)
    assert isinstance(taken, MessageError)
    assert taken.status == status


#: Vector: (request, must be in the head that goes on, must not be in it, body)
PASSED: dict[str, tuple[bytes, bytes, bytes, bytes]] = {
    "plain GET": (get(), b"GET / HTTP/1.1\r\nHost: a\r\n", b"Content-Length", b""),
    "TE chunked trailing sp": (post(CHUNKED + b" ", body=HELLO), b"\r\nTransfer-Encoding: chunked\r\n", b"chunked ", b"hello"),
    "CL 01": (post(b"Content-Length: 01", body=b"x"), b"\r\nContent-Length: 1\r\n", b": 01", b"x"),
    "underscore header": (get(b"X_A: b"), b"Host: a\r\n", b"X_A", b""),
    "absolute-form, other Host": (get(start=b"GET http://b/c HTTP/1.1"), b"GET /c HTTP/1.1\r\nHost: b\r\n", b"Host: a", b""),
    "target backslash": (get(start=b"GET /a\\b HTTP/1.1"), b"GET /a\\b HTTP/1.1\r\n", b"/a/b", b""),
    "dot segments": (get(start=b"GET //..%2f/../x HTTP/1.1"), b"GET //..%2f/../x HTTP/1.1\r\n", b"GET /x", b""),
    "HTTP/1.2": (get(start=b"GET / HTTP/1.2"), b"GET / HTTP/1.1\r\n", b"1.2\r", b""),
    "method FOO": (get(start=b"FOO / HTTP/1.1"), b"FOO / HTTP/1.1\r\n", b"GET", b""),
    "method lower get": (get(start=b"get / HTTP/1.1"), b"get / HTTP/1.1\r\n", b"GET", b""),
    "OPTIONS *": (get(start=b"OPTIONS * HTTP/1.1"), b"OPTIONS * HTTP/1.1\r\n", b"OPTIONS /", b""),
    "GET with CL body": (get(b"Content-Length: 5", body=b"hello"), b"\r\nContent-Length: 5\r\n", b"chunked", b"hello"),
    "chunk ext": (post(CHUNKED, body=b'5;a=b;c="d;\\""\r\nhello\r\n0\r\n\r\n'), b"chunked\r\n", b"a=b", b"hello"),
    "request trailer": (
        post(CHUNKED, b"Trailer: X-T", body=b"5\r\nhello\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n"),
        b"chunked\r\n",
        b"Trailer",
        b"hello",
    ),
    "Connection: X-A nominated": (get(b"Connection: X-A, close", b"X-A: 1", b"X-B: 2"), b"X-B: 2\r\n", b"X-A", b""),
    "Expect 100 + body": (post(b"Expect: 100-Continue", b"Content-Length: 1", body=b"x"), b"Content-Length: 1", b"Expect", b"x"),
    "20 KB header": (get(b"X: " + b"a" * 20_000), b"a" * 20_000, b"Y", b""),
    "Upgrade ws + CL body": (
        get(b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 1", body=b"x"),
        b"Content-Length: 1\r\n",
        b"pgrade",
        b"x",
    ),
}


@pytest.mark.parametrize(("data", "there", "not_there", "body"), PASSED.values(), ids=PASSED.keys())
def test_passed(data: bytes, there: bytes, not_there: bytes, body: bytes) -> None:
    taken = take(data)
    assert isinstance(taken, Taken)
    assert there in taken.head
    assert not_there not in taken.head
    assert (taken.body, taken.rest) == (body, b"")


def test_hop_by_hop_set_is_stripped() -> None:
    taken = take(
        get(
            b"Connection: close",
            b"Proxy-Connection: keep-alive",
            b"Keep-Alive: timeout=5",
            b"TE: gzip",
            b"Trailer: X",
            b"Upgrade: h2c",
            b"Proxy-Authenticate: Basic",
            b"Proxy-Authorization: Basic x",
            b"HTTP2-Settings: AAMAAABk",
            b"X-Kept: 1",
        )
    )
    assert isinstance(taken, Taken)
    assert taken.head.startswith(b"GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 1\r\nX-Forwarded-Host: a\r\n")
    assert not taken.keep_alive
    assert b"TE:" not in taken.head


def test_upgrade_foo_and_a_pipelined_request() -> None:
    data = get(b"Connection: upgrade", b"Upgrade: foo")
    taken = take(data + data)
    assert isinstance(taken, Taken)
    assert taken.upgrade is None
    assert b"pgrade" not in taken.head
    assert taken.rest == data


def test_absolute_form_in_strict_mode() -> None:
    rules = HeadRules(strict_authority=True)
    assert take(get(start=b"GET http://b/c HTTP/1.1"), rules) == MessageError(400, "host_differs_from_target")
    assert isinstance(take(get(start=b"GET http://A/c HTTP/1.1"), rules), Taken)


def test_a_bad_request_in_the_middle_of_a_pipeline() -> None:
    rest = b"".join([get()] * 50 + [get(b"X : y")] + [get()] * 49)
    for _ in range(50):
        taken = take(rest)
        assert isinstance(taken, Taken)
        rest = taken.rest
    assert take(rest) == MessageError(400, "bad_header_name")


class TestAttacks:
    """Known holes of other proxies, as far as they are decided without a connection."""

    def test_bytes_after_upgrade_are_not_of_the_request(self) -> None:
        """Pingora CVE-2026-2833: they must not be sent on before the 101."""
        taken = take(get(b"Connection: Upgrade", b"Upgrade: websocket", body=b"GET /admin HTTP/1.1\r\n\r\n"))
        assert isinstance(taken, Taken)
        assert taken.upgrade == b"websocket"
        assert taken.head.endswith(b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (taken.body, taken.rest) == (b"", b"GET /admin HTTP/1.1\r\n\r\n")

    def test_http_1_0_with_transfer_encoding(self) -> None:
        """Pingora CVE-2026-2835."""
        data = get(CHUNKED, start=b"GET / HTTP/1.0", body=HELLO)
        assert take(data) == MessageError(400, "transfer_encoding_in_http_1_0")

    def test_upgrade_with_a_body_is_no_upgrade(self) -> None:
        """nghttpx CVE-2026-58055; a length of 0 too, because it costs nothing."""
        for length in (b"0", b"5"):
            taken = take(get(b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: " + length, body=b"hello"))
            assert isinstance(taken, Taken)
            assert taken.upgrade is None

    def test_connection_transfer_encoding(self) -> None:
        """Akamai CVE-2026-26365."""
        data = post(b"Connection: Transfer-Encoding", CHUNKED, body=HELLO)
        assert take(data) == MessageError(400, "protected_field_in_connection")

    def test_expect_leaves_the_body_to_be_read(self) -> None:
        """Go CVE-2024-24791: the body that was announced is still due, whatever the upstream answers."""
        data = post(b"Expect: 100-continue", b"Content-Length: 5")
        assert take(data) is None
        taken = take(data + b"hello" + get())
        assert isinstance(taken, Taken)
        assert (taken.expect_continue, taken.body, taken.rest) == (True, b"hello", get())

    def test_a_header_smuggled_as_an_underscore_name(self) -> None:
        taken = take(post(b"Content-Length: 5", b"Transfer_Encoding: chunked", b"X_Forwarded_For: ::1", body=b"hello"))
        assert isinstance(taken, Taken)
        assert b"_" not in taken.head
