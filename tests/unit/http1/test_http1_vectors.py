"""The 59 request vectors that nginx, HAProxy, Envoy, Caddy and Traefik answer differently, and the attacks that have a name.

Each is run the way the proxy runs a request: find the head, parse the line and the block, frame, read the body, write the
head for the upstream. `c` means that the connection is closed afterwards; 200 stands for whatever the upstream answers.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from canaryproxy.http1.chunked import ChunkedReader
from canaryproxy.http1.forward import request_head
from canaryproxy.http1.framing import Body, frame_request, may_go_on, wanted_upgrade
from canaryproxy.http1.head import HeadRules, MessageError, find_request_head, parse_request_block, parse_request_line

RULES = HeadRules()


class Taken(NamedTuple):
    head: bytes
    body: bytes
    rest: bytes
    keep_alive: bool
    expect_continue: bool
    upgrade: bytes | None


class Refused(NamedTuple):
    error: MessageError
    keep_alive: bool = False


def take(data: bytes, rules: HeadRules = RULES) -> Taken | Refused | None:
    """The first request in `data` as it would be sent on; None if it is incomplete."""
    raw = find_request_head(data, rules)
    if raw is None:
        return None
    if isinstance(raw, MessageError):
        return Refused(raw)
    line = parse_request_line(raw.line, rules)
    if isinstance(line, MessageError):
        return Refused(line)
    block = parse_request_block(raw.block, rules)
    if isinstance(block, MessageError):
        return Refused(block)
    framing = frame_request(line, block, rules)
    if isinstance(framing, MessageError):
        return Refused(framing, may_go_on(framing, line, block))
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
            return Refused(pieces)
        if not reader.done:
            return None
        body, rest = b"".join(pieces), reader.rest
    return Taken(head, body, rest, framing.keep_alive, framing.expect_continue, upgrade)


def taken(data: bytes, rules: HeadRules = RULES) -> Taken:
    request = take(data, rules)
    assert isinstance(request, Taken), request
    return request


def answers(data: bytes) -> str:
    """What the requests in `data` are answered with, as the table writes it: `100+200`, `400c`."""
    statuses, keep_alive = [], True
    while data and keep_alive:
        request = take(data)
        assert request is not None, "incomplete"
        keep_alive = request.keep_alive
        if isinstance(request, Refused):
            statuses.append(str(request.error.status))
            break
        statuses.append("100+200" if request.expect_continue else "200")
        data = request.rest
    return "+".join(statuses) + ("" if keep_alive else "c")


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1", body: bytes = b"", host: bytes = b"Host: a\r\n") -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return get(*lines, start=b"POST / HTTP/1.1", body=body)


CHUNKED = b"Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"

#: Vector: (our answer, request).
VECTORS: dict[str, tuple[str, bytes]] = {
    "plain GET": ("200", get()),
    "CL+TE": ("400c", post(b"Content-Length: 5", CHUNKED, body=HELLO)),
    "TE identity+CL": ("501c", post(b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"hello")),
    "TE xchunked": ("501c", post(b"Transfer-Encoding: xchunked", body=HELLO)),
    "TE gzip, chunked": ("501c", post(b"Transfer-Encoding: gzip, chunked", body=HELLO)),
    "TE chunked HTTP/1.0": ("400c", get(CHUNKED, start=b"POST / HTTP/1.0", body=HELLO)),
    'TE "chunked " trailing sp': ("200", post(CHUNKED + b" ", body=HELLO)),
    "TE ,chunked": ("501c", post(b"Transfer-Encoding: ,chunked", body=HELLO)),
    "TE dup header": ("400c", post(CHUNKED, CHUNKED, body=HELLO)),
    "CL dup same": ("400c", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")),
    "CL 1, 1": ("400c", post(b"Content-Length: 1, 1", body=b"h")),
    "CL 01": ("200", post(b"Content-Length: 01", body=b"x")),
    "CL +1": ("400c", post(b"Content-Length: +1", body=b"h")),
    "bare LF request line": ("400c", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF header": ("400c", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    "obs-fold": ("400c", get(b"X: a", b" b")),
    "space before colon": ("400c", get(b"X : a")),
    "NUL in value": ("400c", get(b"X: a\0b")),
    "CTL 0x01 in value": ("400c", get(b"X: a\x01b")),
    "bare CR in value": ("400c", get(b"X: a\rb")),
    "underscore header": ("200", get(b"X_A: b")),
    "no Host": ("400c", get(host=b"")),
    "2 Host": ("400c", get(b"Host: b")),
    "Host a/b": ("400c", get(host=b"Host: a/b\r\n")),
    "absolute-form, other Host": ("200", get(start=b"GET http://b/c HTTP/1.1")),
    "fragment in target": ("400c", get(start=b"GET /#f HTTP/1.1")),
    "target raw UTF-8": ("400c", get(start="GET /é HTTP/1.1".encode())),
    "target backslash": ("200", get(start=b"GET /a\\b HTTP/1.1")),
    "dot segments //..%2f": ("200", get(start=b"GET //..%2f/../x HTTP/1.1")),
    "two SP in request line": ("400c", get(start=b"GET  / HTTP/1.1")),
    "HTTP/1.2": ("200", get(start=b"GET / HTTP/1.2")),
    "HTTP/2.0": ("505c", get(start=b"GET / HTTP/2.0")),
    "method FOO": ("200", get(start=b"FOO / HTTP/1.1")),
    "method lower get": ("200", get(start=b"get / HTTP/1.1")),
    "TRACE": ("405", get(start=b"TRACE / HTTP/1.1")),
    "CONNECT": ("501c", get(start=b"CONNECT a:443 HTTP/1.1")),
    "OPTIONS *": ("200", get(start=b"OPTIONS * HTTP/1.1")),
    "GET with CL body": ("200", get(b"Content-Length: 5", body=b"hello")),
    "chunk ext": ("200", post(CHUNKED, body=b'5;a=b;c="d;\\""\r\nhello\r\n0\r\n\r\n')),
    "chunk bare ;": ("400c", post(CHUNKED, body=b"5;\r\nhello\r\n0\r\n\r\n")),
    "chunk LF term": ("400c", post(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n")),
    "chunk ext LF": ("400c", post(CHUNKED, body=b"5;a=b\nhello\r\n0\r\n\r\n")),
    "chunk size sp": ("400c", post(CHUNKED, body=b"5 \r\nhello\r\n0\r\n\r\n")),
    "chunk 0x1": ("400c", post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n")),
    "chunk data no CRLF": ("400c", post(CHUNKED, body=b"5\r\nhello0\r\n\r\n")),
    "request trailer": (
        "200",
        post(CHUNKED, b"Trailer: X-T", body=b"5\r\nhello\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n"),
    ),
    "Connection: X-A nominated": ("200c", get(b"Connection: X-A, close", b"X-A: 1", b"X-B: 2")),
    "Connection: Content-Length": ("400c", post(b"Connection: Content-Length", b"Content-Length: 1", body=b"x")),
    "Connection: X-Forwarded-For": ("400c", get(b"Connection: X-Forwarded-For", b"X-Forwarded-For: 1.2.3.4")),
    "hop-by-hop set": (
        "200",
        get(
            *[b"Connection: keep-alive", b"Proxy-Connection: keep-alive", b"Keep-Alive: timeout=5", b"TE: gzip", b"Trailer: X"],
            *[b"Upgrade: h2c", b"Proxy-Authenticate: Basic", b"Proxy-Authorization: Basic x", b"HTTP2-Settings: AAMAAABk"],
            b"X-Kept: 1",
        ),
    ),
    "Upgrade foo + pipelined": ("200+200", get(b"Connection: upgrade", b"Upgrade: foo") + get()),
    "Upgrade ws + CL body": (
        "200",
        get(b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 1", body=b"x"),
    ),
    "Expect 100 + body": ("100+200", post(b"Expect: 100-Continue", b"Content-Length: 1", body=b"x")),
    "Expect: foo": ("417c", post(b"Expect: foo", b"Content-Length: 1", body=b"x")),
    "Expect: y 100-continue": ("417c", post(b"Expect: y 100-continue", b"Content-Length: 1", body=b"x")),
    "20 KB header": ("200", get(b"X: " + b"a" * 20_000)),
    "70 KB header": ("431c", get(b"X: " + b"a" * 70_000)),
    "10 KB URL": ("414c", get(start=b"GET /" + b"a" * 10_240 + b" HTTP/1.1")),
    "200 headers": ("431c", get(*[b"X-%d: y" % number for number in range(200)])),
}


def test_the_table_is_complete() -> None:
    assert len(VECTORS) == 59
    assert [name for name, (answer, _) in VECTORS.items() if answer[:3] in ("100", "200")] == list(PASSED)


@pytest.mark.parametrize(("expected", "data"), VECTORS.values(), ids=VECTORS.keys())
def test_vector(expected: str, data: bytes) -> None:
    assert answers(data) == expected


#: Of those that pass: (must be in the head that goes on, must not be in it, body).
PASSED: dict[str, tuple[bytes, bytes, bytes]] = {
    "plain GET": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"Content-Length", b""),
    'TE "chunked " trailing sp': (b"\r\nTransfer-Encoding: chunked\r\n", b"chunked ", b"hello"),
    "CL 01": (b"\r\nContent-Length: 1\r\n", b": 01", b"x"),
    "underscore header": (b"Host: a\r\n", b"X_A", b""),
    "absolute-form, other Host": (b"GET /c HTTP/1.1\r\nHost: b\r\n", b"Host: a", b""),
    "target backslash": (b"GET /a\\b HTTP/1.1\r\n", b"/a/b", b""),
    "dot segments //..%2f": (b"GET //..%2f/../x HTTP/1.1\r\n", b"GET /x", b""),
    "HTTP/1.2": (b"GET / HTTP/1.1\r\n", b"1.2\r", b""),
    "method FOO": (b"FOO / HTTP/1.1\r\n", b"GET", b""),
    "method lower get": (b"get / HTTP/1.1\r\n", b"GET", b""),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n", b"OPTIONS /", b""),
    "GET with CL body": (b"\r\nContent-Length: 5\r\n", b"chunked", b"hello"),
    "chunk ext": (b"chunked\r\n", b"a=b", b"hello"),
    "request trailer": (b"chunked\r\n", b"Trailer", b"hello"),
    "Connection: X-A nominated": (b"X-B: 2\r\n", b"X-A", b""),
    "hop-by-hop set": (b"GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 1\r\nX-Forwarded-Host: a\r\n", b"TE:", b""),
    "Upgrade foo + pipelined": (b"Host: a\r\n", b"pgrade", b""),
    "Upgrade ws + CL body": (b"Content-Length: 1\r\n", b"pgrade", b"x"),
    "Expect 100 + body": (b"Content-Length: 1", b"Expect", b"x"),
    "20 KB header": (b"a" * 20_000, b"Y", b""),
}


@pytest.mark.parametrize("name", PASSED)
def test_passed(name: str) -> None:
    there, not_there, body = PASSED[name]
    request = taken(VECTORS[name][1])
    assert there in request.head
    assert not_there not in request.head
    assert request.body == body


@pytest.mark.parametrize("name", PASSED)
def test_none_is_taken_before_it_is_whole_nor_with_what_follows(name: str) -> None:
    data = VECTORS[name][1]
    data = data.removesuffix(taken(data).rest)
    assert all(take(data[:cut]) is None for cut in range(0, len(data) - 1, max(1, len(data) // 200)))
    assert taken(data + b"\0garbage").rest == b"\0garbage"


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\nHost: a\n\n", get(b"Host: a"), get(CHUNKED, start=b"TRACE / HTTP/1.1", body=HELLO)],
    ids=["bare LF everywhere", "2 equal Host", "TRACE with a body"],
)
def test_close_relatives(data: bytes) -> None:
    assert answers(data) in ("400c", "405c")


def test_absolute_form_in_strict_mode() -> None:
    rules = HeadRules(strict_authority=True)
    assert take(get(start=b"GET http://b/c HTTP/1.1"), rules) == Refused(MessageError(400, "host_differs_from_target"))
    assert isinstance(take(get(start=b"GET http://A/c HTTP/1.1"), rules), Taken)


def test_a_bad_request_in_the_middle_of_a_pipeline() -> None:
    rest = b"".join([get()] * 50 + [get(b"X : y")] + [get()] * 49)
    for _ in range(50):
        rest = taken(rest).rest
    assert take(rest) == Refused(MessageError(400, "bad_header_name"))


class TestAttacks:
    """Known holes of other proxies, as far as they are decided without a connection."""

    def test_bytes_after_upgrade_are_not_of_the_request(self) -> None:
        """Pingora CVE-2026-2833: they must not be sent on before the 101."""
        request = taken(get(b"Connection: Upgrade", b"Upgrade: websocket", body=b"GET /admin HTTP/1.1\r\n\r\n"))
        assert request.upgrade == b"websocket"
        assert request.head.endswith(b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (request.body, request.rest) == (b"", b"GET /admin HTTP/1.1\r\n\r\n")

    def test_http_1_0_with_transfer_encoding(self) -> None:
        """Pingora CVE-2026-2835."""
        data = get(CHUNKED, start=b"GET / HTTP/1.0", body=HELLO)
        assert take(data) == Refused(MessageError(400, "transfer_encoding_in_http_1_0"))

    def test_what_is_left_of_a_body_is_never_a_request(self) -> None:
        """Pingora CVE-2025-4366: the body is known to its last byte before anything behind it is looked at."""
        smuggled = get(start=b"GET /admin HTTP/1.1")
        for framed, body in (
            (b"Content-Length: %d" % len(smuggled), smuggled),
            (CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled)),
        ):
            data = get(framed, body=body)
            assert all(take(data[:cut]) is None for cut in range(len(data)))
            request = taken(data + get())
            assert (request.body, request.rest) == (smuggled, get())

    def test_upgrade_with_a_body_is_no_upgrade(self) -> None:
        """nghttpx CVE-2026-58055; a length of 0 too, because it costs nothing."""
        for length in (b"0", b"5"):
            request = taken(get(b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: " + length, body=b"hello"))
            assert request.upgrade is None
            assert b"pgrade" not in request.head

    def test_connection_transfer_encoding(self) -> None:
        """Akamai CVE-2026-26365."""
        data = post(b"Connection: Transfer-Encoding", CHUNKED, body=HELLO)
        assert take(data) == Refused(MessageError(400, "protected_field_in_connection"))

    def test_expect_leaves_the_body_to_be_read(self) -> None:
        """Go CVE-2024-24791: the body that was announced is still due, whatever the upstream answers."""
        data = post(b"Expect: 100-continue", b"Content-Length: 5")
        assert take(data) is None
        request = taken(data + b"hello" + get())
        assert (request.expect_continue, request.body, request.rest) == (True, b"hello", get())

    def test_a_header_smuggled_as_an_underscore_name(self) -> None:
        request = taken(post(b"Content-Length: 5", b"Transfer_Encoding: chunked", b"X_Forwarded_For: ::1", body=b"hello"))
        assert b"_" not in request.head
