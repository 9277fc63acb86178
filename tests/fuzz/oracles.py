"""The same bytes to our parser, to h11 and to httptools (llhttp): we never take what either refuses, nor read another body.

We may refuse more. What we take and an oracle does not, all of it on purpose:

* empty lines before a request (RFC 9112 section 2.2; h11 knows none), HTTP/1.2 to 1.9 (RFC 9110 section 2.5; neither does), any
  token for a method (httptools has a list), trailers with the names of framing fields (RFC 9110 section 6.5.1 lets us drop them;
  both refuse some, and httptools obeys a `Connection: close` there), and Proxy-Connection, which httptools takes for Connection
  (RFC 9112 appendix C.2.2 warns of that). `_as_usual` makes of such a message an equal one without it, and that is compared.
* HTTP/1.0 with keep-alive is not compared with h11 as to the connection: it never keeps one.
* A request with Upgrade is not given to httptools: it takes the upgrade for granted and leaves the body unread. Neither is the
  answer to HEAD (it cannot be told), nor a 101, nor 104 to 199: it looks for a body there (RFC 9112 section 6.3: there is none).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any, Final, NamedTuple

import h11
import httptools  # type: ignore[import-untyped,unused-ignore]

from canaryproxy.http1.framing import Body
from canaryproxy.http1.head import HeadRules

from .reading import Request, Response, read_request, read_response

RULES: Final = HeadRules(underscore="allow")
_LARGEST_HEAD = 200_000


class Read(NamedTuple):
    """What was read: method or status, body, and whether the connection may serve another."""

    subject: bytes | int
    body: bytes
    keep_alive: bool


def request(data: bytes, cuts: Sequence[int] = ()) -> Hashable:
    """A request that we take is taken alike by both oracles."""
    ours = read_request(data, RULES)
    if isinstance(ours, Request):
        data = _as_usual(data, rb" HTTP/1\.[2-9]\r\n", b" HTTP/1.1\r\n", chunked=ours.framing.body is Body.CHUNKED)
        ours = read_request(data, RULES)
    if not isinstance(ours, Request):
        return ours and ours.reason
    line, block, framing, content = ours
    message = data[: len(data) - len(content.rest)]
    expected = Read(line.method, content.body, framing.keep_alive)
    for follows in (b"", content.rest, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"):
        _compare("h11", read_request_with_h11(message, follows), expected, old=line.minor == 0)
    if block.upgrade is None:
        message, expected = b"POST" + message[len(line.method) :], expected._replace(subject=b"POST")
        for cut in (len(message) - 1, *(cut for cut in cuts if cut < len(message))):
            _compare("httptools", read_request_with_httptools(message, cut), expected)
    return framing.body, framing.keep_alive


def response(data: bytes, cuts: Sequence[int] = ()) -> Hashable:
    """A response that we take is taken alike by both oracles, whatever it is the answer to."""
    return tuple([_response(data, method) for method in (b"GET", b"HEAD")])


def _response(data: bytes, method: bytes) -> Hashable:
    ours = read_response(data, method, RULES)
    if isinstance(ours, Response):
        data = _as_usual(data, rb"\AHTTP/1\.[2-9] ", b"HTTP/1.1 ", chunked=ours.head.body is Body.CHUNKED)
        ours = read_response(data, method, RULES)
    if not isinstance(ours, Response):
        return ours and ours.reason
    head, content = ours
    message = data[: len(data) - len(content.rest)]
    expected = Read(head.status, content.body, head.reusable)
    _compare("h11", read_response_with_h11(message, content.rest, method), expected, old=head.minor == 0)
    if method != b"HEAD" and head.status != 101 and not 104 <= head.status < 200:
        _compare("httptools", read_response_with_httptools(message, head.body), expected)
    return head.status // 100, head.body, head.reusable


def _as_usual(data: bytes, version: bytes, usual_version: bytes, *, chunked: bool) -> bytes:
    while data.startswith(b"\r\n"):
        data = data[2:]
    data = re.sub(version, usual_version, data, count=1)
    data = re.sub(rb"(?i)\r\nproxy-connection:", b"\r\nX-Dropped:", data)
    if chunked:
        end = data.index(b"\r\n\r\n") + 2  # what is left may have such a line in its data too, which then changes for all
        data = data[:end] + re.sub(rb"(?i)\r\n(content-length|transfer-encoding|connection):", b"\r\nX-Dropped:", data[end:])
    return data


def _compare(oracle: str, read: Read, expected: Read, *, old: bool = False) -> None:
    assert (read.subject, read.body) == (expected.subject, expected.body), (oracle, read, expected)
    assert read.keep_alive or not expected.keep_alive or old, f"{oracle} closes"


def read_request_with_h11(message: bytes, follows: bytes) -> Read:
    """The message must end exactly where `message` ends."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)
    connection.receive_data(message + follows)
    event, body = connection.next_event(), b""
    assert isinstance(event, h11.Request), event
    while isinstance(part := connection.next_event(), h11.Data):
        body += part.data
    assert isinstance(part, h11.EndOfMessage), part
    assert connection.trailing_data[0] == follows
    return Read(event.method, body, connection.their_state not in (h11.MUST_CLOSE, h11.CLOSED))


def read_response_with_h11(message: bytes, follows: bytes, method: bytes) -> Read:
    """The message must end exactly where `message` ends."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEAD)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(message + follows)
    event, body = connection.next_event(), b""
    if isinstance(event, h11.InformationalResponse):
        assert connection.trailing_data[0] == follows
        return Read(event.status_code, b"", True)
    assert isinstance(event, h11.Response), event
    while isinstance(part := connection.next_event(), h11.Data):
        body += part.data
    if part is h11.NEED_DATA:
        connection.receive_data(b"")
        part = connection.next_event()
    assert isinstance(part, h11.EndOfMessage), part
    assert connection.trailing_data[0] == follows
    return Read(event.status_code, body, connection.their_state is h11.DONE)


class _Collected:
    """What httptools calls."""

    def __init__(self, kind: Any) -> None:
        self.body = b""
        self.heads = self.messages = 0
        self.keep_alive = False
        self.parser = kind(self)

    def on_headers_complete(self) -> None:
        self.heads += 1

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1
        self.keep_alive = self.parser.should_keep_alive()  # afterwards it has forgotten


def read_request_with_httptools(message: bytes, cut: int) -> Read:
    """The message must end exactly where `message` ends; it comes in pieces."""
    collected = _Collected(httptools.HttpRequestParser)
    collected.parser.feed_data(message[:cut])
    collected.parser.feed_data(message[cut:-1])
    assert collected.messages == 0
    collected.parser.feed_data(message[-1:])
    assert (collected.heads, collected.messages) == (1, 1)
    return Read(collected.parser.get_method(), collected.body, collected.keep_alive)


def read_response_with_httptools(message: bytes, body: Body) -> Read:
    """The message must end exactly where `message` ends, or with the connection."""
    collected = _Collected(httptools.HttpResponseParser)
    collected.parser.feed_data(message[:-1])
    assert collected.messages == 0
    collected.parser.feed_data(message[-1:])
    assert (collected.heads, collected.messages) == (1, int(body is not Body.UNTIL_CLOSE))
    return Read(collected.parser.get_status_code(), collected.body, collected.keep_alive)
