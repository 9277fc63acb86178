"""The limits' defaults, each at its bound and one beyond it; and that a message in pieces meets the same bounds."""

from __future__ import annotations

from dataclasses import fields

import pytest

from canaryproxy.http1.chunked import ChunkedReader
from canaryproxy.http1.head import HeadRules, MessageError, RawHead, RequestBlock, find_request_head, parse_request_block
from canaryproxy.http1.response import ResponseHead, find_response_head, parse_response_head

RULES = HeadRules()


def test_defaults() -> None:
    numbers = {field.name: field.default for field in fields(HeadRules) if isinstance(field.default, int)}
    assert numbers == {
        "request_line": 8190,
        "head": 32 * 1024,
        "headers": 100,
        "response_head": 64 * 1024,
        "response_headers": 200,
        "strict_authority": False,
        "trust_forwarded": False,
        "expose_request_id": False,
    }


def in_pieces(data: bytes) -> RawHead | MessageError | None:
    """`find_request_head`, as it is called for a head that comes in pieces of 1000 bytes and then one."""
    seen, found = 0, None
    for cut in (*range(1000, len(data) - 1, 1000), len(data) - 1, len(data)):
        found = find_request_head(data[:cut], RULES, seen)
        seen = cut
        if found is not None:
            break
    return found


@pytest.mark.parametrize("over", [0, 1], ids=["at", "beyond"])
def test_request_line(over: int) -> None:
    head = b"GET /" + b"a" * (8190 - 14 + over) + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    found = find_request_head(head, RULES)
    assert in_pieces(head) == found
    assert found == MessageError(414, "request_line_too_long") if over else isinstance(found, RawHead)


@pytest.mark.parametrize("empty_lines", [0, 32])
@pytest.mark.parametrize("over", [0, 1], ids=["at", "beyond"])
def test_head(over: int, empty_lines: int) -> None:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    head = start + b"a" * (32768 - len(start) - 4 + over) + b"\r\n\r\n"
    data = b"\r\n" * empty_lines + head
    found = find_request_head(data, RULES)
    assert in_pieces(data) == found
    assert found == MessageError(431, "head_too_large") if over else isinstance(found, RawHead)


@pytest.mark.parametrize("over", [0, 1], ids=["at", "beyond"])
def test_fields(over: int) -> None:
    parsed = parse_request_block(b"A: b\r\n" * (100 + over), RULES)
    assert parsed == MessageError(431, "too_many_headers") if over else isinstance(parsed, RequestBlock)


@pytest.mark.parametrize("over", [0, 1], ids=["R8-at", "R8-beyond"])
def test_response(over: int) -> None:
    start = b"HTTP/1.1 200 OK\r\nX: "
    head = start + b"a" * (65536 - len(start) - 4 + over) + b"\r\n\r\n"
    found = find_response_head(head, RULES)
    assert found == MessageError(502, "upstream_head_too_large") if over else found == len(head)
    parsed = parse_response_head(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (200 + over), b"GET", RULES)
    assert parsed == MessageError(502, "upstream_too_many_headers") if over else isinstance(parsed, ResponseHead)


@pytest.mark.parametrize("over", [0, 1], ids=["F16-at", "F16-beyond"])
def test_chunk_extensions(over: int) -> None:
    size_line = b"0;" + b"a" * (4095 + over) + b"\r\n"
    for pieces in ([size_line + b"\r\n"], [bytes([value]) for value in size_line + b"\r\n"]):
        reader = ChunkedReader()
        results = [reader.feed(piece) for piece in pieces if not reader.done]
        errors = [result for result in results if isinstance(result, MessageError)]
        assert errors[:1] == [MessageError(400, "chunk_extensions_too_large")][:over]
        assert reader.done is not bool(over)


@pytest.mark.parametrize("over", [0, 1], ids=["F17-at", "F17-beyond"])
def test_trailers(over: int) -> None:
    trailer = b"A: " + b"b" * (8192 - 5 + over) + b"\r\n"
    reader = ChunkedReader()
    result = reader.feed(b"0\r\n" + trailer + b"\r\n")
    assert result == (MessageError(431, "trailers_too_large") if over else [])


@pytest.mark.parametrize(("at", "status"), [(8191, 400), (8192, 431)], ids=["F17-bad-byte-before", "F17-bad-byte-behind"])
def test_what_is_wrong_first_counts(at: int, status: int) -> None:
    data = b"0\r\nA: " + b"b" * (at - 3) + b"\0" + b"b" * 100
    results = []
    for pieces in ([data], [bytes([value]) for value in data]):
        reader = ChunkedReader()
        results.append(next(result for piece in pieces if (result := reader.feed(piece)) != []))
    assert [isinstance(result, MessageError) and result.status for result in results] == [status, status]
