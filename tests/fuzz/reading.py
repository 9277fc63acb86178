"""Whole messages, read and written the way `proxy` does it, but without connections: the subject of the invariants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from canaryproxy.http1.chunked import CHUNK_END, ChunkedReader, chunk_head, last_chunk
from canaryproxy.http1.framing import Body, RequestFraming, frame_request
from canaryproxy.http1.head import (
    HeadRules,
    MessageError,
    RawHead,
    RequestBlock,
    RequestLine,
    find_request_head,
    parse_request_block,
    parse_request_line,
)
from canaryproxy.http1.response import ResponseHead, find_response_head, parse_response_head

Trailers = tuple[tuple[bytes, bytes], ...]


class Content(NamedTuple):
    """A body, and what came behind the message."""

    body: bytes
    trailers: Trailers
    rest: bytes


class Request(NamedTuple):
    line: RequestLine
    block: RequestBlock
    framing: RequestFraming
    content: Content


class Response(NamedTuple):
    head: ResponseHead
    content: Content


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at these places."""
    return [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)])]


def find_head(data: bytes, cuts: Sequence[int], rules: HeadRules) -> RawHead | MessageError | None:
    """`find_request_head` for data that arrives in pieces."""
    seen, found = 0, None
    for cut in [*sorted(cuts), len(data)]:
        found = find_request_head(data[:cut], rules, seen)
        if found is not None:
            break
        seen = cut
    return found


def find_end_of_response_head(data: bytes, cuts: Sequence[int], rules: HeadRules) -> int | MessageError | None:
    """`find_response_head` for data that arrives in pieces."""
    seen, found = 0, None
    for cut in [*sorted(cuts), len(data)]:
        found = find_response_head(data[:cut], rules, seen)
        if found is not None:
            break
        seen = cut
    return found


def read_chunked(pieces: Iterable[bytes], *, upstream: bool = False) -> Content | MessageError | None:
    """A chunked body that arrives so; None if it is unfinished."""
    reader, body = ChunkedReader(upstream=upstream), b""
    for piece in pieces:
        got = reader.feed(piece)
        if isinstance(got, MessageError):
            return got
        body += b"".join(got)
    return Content(body, tuple(reader.trailers), reader.rest) if reader.done else None


def read_content(body: Body, length: int, data: bytes, *, upstream: bool = False) -> Content | MessageError | None:
    """The body at the beginning of `data`; None if it is unfinished."""
    if body is Body.CHUNKED:
        return read_chunked([data], upstream=upstream)
    if body is Body.UNTIL_CLOSE:
        return Content(data, (), b"")
    if body is Body.NONE:
        return Content(b"", (), data)
    return Content(data[:length], (), data[length:]) if len(data) >= length else None


def read_request(data: bytes, rules: HeadRules) -> Request | MessageError | None:
    """The first request in `data`; None if it is incomplete."""
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
    content = read_content(framing.body, framing.length, data[raw.end :])
    return Request(line, block, framing, content) if isinstance(content, Content) else content


def read_response(data: bytes, method: bytes, rules: HeadRules) -> Response | MessageError | None:
    """The first response in `data`, an interim one perhaps, to a request of that method; None if it is incomplete."""
    end = find_response_head(data, rules)
    if end is None or isinstance(end, MessageError):
        return end
    head = parse_response_head(data[: end - 2], method, rules)
    if isinstance(head, MessageError):
        return head
    content = read_content(head.body, head.length, data[end:], upstream=True)
    return Response(head, content) if isinstance(content, Content) else content


def write_body(content: Content, *, chunked: bool, trailers: bool = False) -> bytes:
    """The body as we send it on."""
    if not chunked:
        return content.body
    chunks = chunk_head(len(content.body)) + content.body + CHUNK_END if content.body else b""
    return chunks + last_chunk(content.trailers if trailers else ())
