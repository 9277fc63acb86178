"""The same bytes to our parser, to h11 and to httptools: we never take what either refuses, and never read another body.

We may refuse more. What we take on purpose and an oracle does not is kept out of the generated messages: methods unknown
to httptools, HTTP/1.2, a Content-Length among the trailers (we drop it), empty lines before a request (h11), and Upgrade,
at which httptools stops reading a request's body.
"""

from __future__ import annotations

from typing import Any

import h11
import httptools  # type: ignore[import-untyped,unused-ignore]
from h11._connection import _body_framing
from hypothesis import event, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.chunked import ChunkedReader
from canaryproxy.http1.forward import Hop, request_head, response_head
from canaryproxy.http1.framing import Body, RequestFraming, frame_request
from canaryproxy.http1.head import (
    HeadRules,
    MessageError,
    RawHead,
    RequestBlock,
    RequestLine,
    find_request_head,
    has_bad_byte,
    parse_request_block,
    parse_request_line,
)
from canaryproxy.http1.response import ResponseHead, find_response_head, parse_response_head

RULES = HeadRules(underscore="allow")
HOP: Hop = {"variant": b"stable", "peer": b"192.0.2.1", "port": b"80", "upstream_authority": b"up:1"}
profile = settings(max_examples=200, deadline=None)

Parsed = tuple[RequestLine, RequestBlock, RequestFraming, int]


def parse(data: bytes) -> Parsed | None:
    """The first request in `data` and where its head ends; None if it is refused or incomplete."""
    raw = find_request_head(data, RULES)
    if raw is None or isinstance(raw, MessageError):
        return None
    line = parse_request_line(raw.line, RULES)
    block = parse_request_block(raw.block, RULES)
    if isinstance(line, MessageError) or isinstance(block, MessageError):
        return None
    framing = frame_request(line, block, RULES)
    return None if isinstance(framing, MessageError) else (line, block, framing, raw.end)


def read_body(parsed: Parsed, data: bytes) -> tuple[bytes, int] | None:
    """The body and where the message ends; None if it is refused or incomplete."""
    _, _, framing, start = parsed
    if framing.body is Body.CHUNKED:
        reader = ChunkedReader()
        pieces = reader.feed(data[start:])
        return None if isinstance(pieces, MessageError) or not reader.done else (b"".join(pieces), len(data) - len(reader.rest))
    end = start + framing.length
    return None if len(data) < end else (data[start:end], end)


def read_with_h11(data: bytes) -> tuple[h11.Request, bytes, int]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    connection.receive_data(data)
    request, body = connection.next_event(), b""
    assert isinstance(request, h11.Request), request
    while isinstance(part := connection.next_event(), h11.Data):
        body += part.data
    assert isinstance(part, h11.EndOfMessage), part
    return request, body, len(data) - len(connection.trailing_data[0])


class Collected:
    """What httptools calls."""

    def __init__(self) -> None:
        self.body = b""
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def read_with_httptools(message: bytes) -> bytes:
    """The body, if the message ends exactly where `message` ends."""
    collected = Collected()
    parser: Any = httptools.HttpRequestParser(collected)
    parser.feed_data(message[:-1])
    complete_early = collected.complete
    parser.feed_data(message[-1:])
    assert (complete_early, collected.complete) == (False, True)
    return collected.body


def some(*fragments: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(fragments)


#: Lines as they should be, and lines as they come from an attacker.
GOOD_LINE = some(
    *[b"Accept: */*\r\n", b"X-A:\xe9 b\t\r\n", b"x-empty:\r\n", b"Cookie: a=b\r\n", b"X_Y: z\r\n"],
    *[
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Connection: X-A, TE\r\n",
        b"TE: trailers\r\n",
        b"Expect: 100-continue\r\n",
    ],
)
EVIL_LINE = st.one_of(
    st.builds(
        b"%b:%b%b%b%b".__mod__,
        st.tuples(
            some(
                b"Content-Length",
                b"Transfer-Encoding",
                b"Host",
                b"Connection",
                b"X-A",
                b"Content-Length ",
                b" Transfer-Encoding",
                b"",
            ),
            some(b"", b" ", b" ", b"\t", b"\x0b", b"\r\n "),
            some(
                *[b"0", b"5", b"+5", b"05", b"5, 5", b"5,", b"0x5", b"5 5", b"", b"-1", b"18446744073709551621"],
                *[
                    b"chunked",
                    b"Chunked",
                    b"identity",
                    b"gzip, chunked",
                    b"chunked, gzip",
                    b",chunked",
                    b"xchunked",
                    b"\x0bchunked",
                ],
                *[b"a", b"a b", b"a/b", b"a,b", b"[::1]", b"a\0", b"Transfer-Encoding", b"Content-Length"],
            ),
            some(b"", b" ", b"\t", b"\x0b"),
            some(b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\n\r", b"\r\n\r\n", b"\r\n "),
        ),
    ),
    st.binary(max_size=6),
)
BODIES: list[tuple[bytes, list[bytes]]] = [
    (b"", [b"", b"GET / HTTP/1.1\r\n\r\n"]),
    *[
        (line, [b"hello", b"helloGET /", b"5\r\nhello\r\n0\r\n\r\n"])
        for line in (b"Content-Length: 5\r\n", b"content-length:05 \r\n")
    ],
    (
        b"Transfer-Encoding: chunked\r\n",
        [b"5\r\nhello\r\n0\r\n\r\n", b"1;a=b\r\nx\r\nA\r\n0123456789\r\n0\r\n\r\nGET", b"0\r\nA: b\r\n\r\n"],
    ),
    (
        b"transfer-encoding:Chunked \r\n",
        [b'1;a="b;"\r\nx\r\n00\r\n\r\n', b"0\r\nHost: x\r\n\r\n", b"1 \r\nx\r\n0\r\n\r\n", b"0\r\nA\r\n\r\n"],
    ),
]


def edited(draw: st.DrawFn, data: bytes, chance: int) -> bytes:
    """`data`, or one time in `chance` with a byte changed, added or lost."""
    if draw(st.integers(1, chance)) > 1:
        return data
    at = draw(st.integers(0, len(data) - 1))
    evil = draw(some(b"", b"\r", b"\n", b" ", b"\t", b"\0", b":", b",", b"0", b";", b"_", b"\r\n"))
    return data[:at] + evil + data[at + draw(st.integers(0, 1)) :]


def fields(draw: st.DrawFn, *first: bytes) -> bytes:
    lines = [*first, *draw(st.lists(GOOD_LINE, max_size=3))]
    if draw(st.integers(1, 3)) == 1:
        lines.insert(draw(st.integers(0, len(lines))), draw(EVIL_LINE))
    return b"".join(lines)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that is mostly well formed, with evil in the usual places."""
    method = draw(some(b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS"))
    target = draw(some(*[b"/", b"/a?b=c", b"/%2e/"] * 4, b"*", b"http://h/x", b"/a#b", b"a", b"/\xc3\xa9", b"/\x7f"))
    version = draw(some(*[b"HTTP/1.1"] * 9, b"HTTP/1.0", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1"))
    host = draw(some(*[b"Host: a\r\n"] * 9, b"host:a\r\n", b""))
    framing, bodies = draw(st.sampled_from(BODIES))
    head = b"%b %b %b\r\n" % (method, target, version) + fields(draw, host, framing) + b"\r\n"
    return edited(draw, head + draw(st.sampled_from(bodies)), 4)


def kept_out(line: RequestLine, data: bytes) -> bool:
    """Whether an oracle is known to refuse this, see the module."""
    known = {b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS"}
    return (
        line.method not in known
        or data.startswith(b"\r")
        or b"upgrade" in data.lower()
        or data.split(b"\r", 1)[0][-3:] not in (b"1.0", b"1.1")
    )


@settings(profile, max_examples=600)
@given(requests())
def test_requests_that_we_take_are_taken_alike(data: bytes) -> None:
    parsed = parse(data)
    message = None if parsed is None else read_body(parsed, data)
    if parsed is None or message is None or kept_out(parsed[0], data):
        event("refused or incomplete")
        return
    event(f"taken, {parsed[2].body.name}")
    body, end = message
    request, h11_body, h11_end = read_with_h11(data)
    assert (request.method, h11_body, h11_end) == (parsed[0].method, body, end)
    assert read_with_httptools(data[:end]) == body


@profile
@given(requests())
def test_a_head_that_goes_on_is_one_request_with_the_same_meaning(data: bytes) -> None:
    parsed = parse(data)
    if parsed is None:
        return
    line, block, framing, _ = parsed
    sent = request_head(line, block, framing, **HOP)
    again = parse(sent)
    assert again is not None
    assert again[0][:2] == line[:2]
    assert again[2][:2] == framing[:2]
    assert again[2].host == framing.host or b"up:1"
    assert again[3] == len(sent)
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == line[:2]
    length = {
        Body.NONE: ("content-length", (0,)),
        Body.LENGTH: ("content-length", (framing.length,)),
        Body.CHUNKED: ("chunked", ()),
    }
    assert _body_framing(request.method, request) == length[framing.body]


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    status = draw(some(*[b"200 OK"] * 6, b"204 No Content", b"304 Not Modified", b"404", b"503 ", b"099 x", b"20 x"))
    version = draw(some(*[b"HTTP/1.1"] * 6, b"HTTP/1.0", b"HTTP/2.0"))
    framing, _ = draw(st.sampled_from(BODIES))
    return edited(draw, b"%b %b\r\n" % (version, status) + fields(draw, framing), 4)


@settings(profile, max_examples=400)
@given(responses(), some(b"GET", b"HEAD"))
def test_responses_that_we_take_are_framed_alike(head: bytes, method: bytes) -> None:
    parsed = parse_response_head(head, method, RULES)
    if isinstance(parsed, MessageError):
        event("refused")
        return
    event(f"taken, {parsed.body.name}")
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.receive_data(head + b"\r\n")
    oracle = connection.next_event()
    assert isinstance(oracle, h11.Response)
    expected = {
        Body.NONE: ("content-length", (0,)),
        Body.LENGTH: ("content-length", (parsed.length,)),
        Body.CHUNKED: ("chunked", ()),
        Body.UNTIL_CLOSE: ("http/1.0", ()),
    }
    assert _body_framing(method, oracle) == expected[parsed.body]
    sent = response_head(
        parsed, client_minor=1, keep_alive=True, date=b"now", chunk_body=parsed.body in (Body.CHUNKED, Body.UNTIL_CLOSE)
    )
    again = parse_response_head(sent[:-2], method, RULES)
    assert isinstance(again, ResponseHead)
    assert again.status == parsed.status
    assert again.has_date
    assert again.body is (Body.CHUNKED if parsed.body is Body.UNTIL_CLOSE else parsed.body)
    assert again.length == parsed.length


@profile
@given(st.one_of(requests(), st.binary(max_size=200)), st.data())
def test_nothing_raises_and_pieces_make_no_difference(data: bytes, choice: st.DataObject) -> None:
    parse(data)
    parse_request_line(data, RULES)
    parse_request_block(data, RULES)
    parse_response_head(data, b"GET", RULES)
    find_response_head(data, RULES)
    whole = find_request_head(data, RULES)
    seen, found = 0, None
    for cut in [*sorted(choice.draw(st.lists(st.integers(0, len(data)), max_size=5))), len(data)]:
        found = find_request_head(data[:cut], RULES, seen)
        seen = cut
        if found is not None:
            break
    if isinstance(whole, RawHead) and found != whole:  # a bad byte was seen before the end of the head was there
        assert has_bad_byte(data[: whole.end])
        assert isinstance(found, MessageError)
    else:
        assert found == whole
