"""What holds for every byte string, by part: `head`, `chunked`, `framing`, `response`. No function here lets an exception pass.

Each takes the bytes and the places where they are cut on their way, raises AssertionError where an invariant is broken, and
returns what kind of input it was, so that a fuzzer can keep one of each kind. The limits are small, so that they are met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from canaryproxy.http1.chunked import ChunkedReader
from canaryproxy.http1.fields import TEXT
from canaryproxy.http1.forward import Hop, is_loop, request_head, response_head
from canaryproxy.http1.framing import Body, may_go_on, wanted_upgrade
from canaryproxy.http1.head import HeadRules, MessageError, RequestBlock, RequestLine, parse_request_block, parse_request_line
from canaryproxy.http1.response import parse_response_head

from .reading import (
    Request,
    Response,
    find_end_of_response_head,
    find_head,
    pieces_of,
    read_chunked,
    read_request,
    read_response,
    write_body,
)

Check: TypeAlias = Callable[[bytes, Sequence[int]], Hashable]

RULES: Final = HeadRules(request_line=200, head=600, headers=12, response_head=600, response_headers=12)
_TRUSTING: Final = replace(RULES, trust_forwarded=True)
#: Of what we write: it has lines of ours beside those that came, and what was trusted then is looked at.
SENT_RULES: Final = HeadRules(underscore="allow", trust_forwarded=True)
HOP: Final[Hop] = {"variant": b"stable", "peer": b"192.0.2.1", "port": b"80", "upstream_authority": b"up:1"}
_GONE: Final = (
    *(b"proxy-connection:", b"proxy-authorization:", b"proxy-authenticate:", b"keep-alive:", b"trailer:", b"http2-settings:"),
    *(b"expect:", b"forwarded:", b"x-real-ip:"),
)
_PROTECTED: Final = frozenset(b"host content-length transfer-encoding cookie authorization via x-forwarded-for forwarded".split())
_NOT_NOMINABLE: Final = frozenset({b"date", b"content-length", b"connection", b"upgrade"})
_bad_byte: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n").search
_NEXT: Final = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
_NEXT_RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"


def _kind(result: object) -> str:
    return result.reason if isinstance(result, MessageError) else type(result).__name__


def head(data: bytes, cuts: Sequence[int]) -> Hashable:
    """A head is found alike however it is cut; found, it is within the limits and its parts are its bytes; none is invented.

    While it is not found, it may become one.
    """
    found = find_head(data, (), RULES)
    in_pieces = find_head(data, cuts, RULES)
    if found is None or isinstance(found, MessageError):
        assert in_pieces == found or in_pieces == MessageError(400, "bad_byte")
        assert found is not None or (_bad_byte(data) is None and len(data) <= RULES.head + 64)
        return _kind(found), _kind(in_pieces)
    before = data[: found.end].removesuffix(found.line + b"\r\n" + found.block + b"\r\n")
    assert before == b"\r\n" * (len(before) // 2)
    assert len(before) <= 64
    assert len(before) + len(found.line) + len(found.block) + 4 == found.end
    assert len(found.line) <= RULES.request_line
    assert len(found.line) + len(found.block) + 4 <= RULES.head
    line, block = parse_request_line(found.line, RULES), parse_request_block(found.block, RULES)
    if isinstance(line, RequestLine):
        assert line.authority is not None or found.line.startswith(b"%b %b HTTP/1." % (line.method, line.target))
        assert found.line.isascii()
    if in_pieces != found:  # the bad byte was seen before the end
        assert in_pieces == MessageError(400, "bad_byte")
        assert isinstance(line, MessageError) or isinstance(block, MessageError)
    if isinstance(block, RequestBlock):
        came = found.block.splitlines(True)
        assert len(came) <= RULES.headers
        assert b"".join(came) == found.block
        _assert_subsequence(block.forward.splitlines(True), came)
        assert block.forward.translate(None, TEXT) == b"\r\n" * block.forward.count(b"\r\n")
        assert not (block.chunked and block.content_length is not None)
        assert block.content_length is None or block.content_length < 1 << 63
        assert not _connection_options(came) & _PROTECTED
        assert block.request_id is None
    return _kind(line), _kind(block)


def _connection_options(lines: Iterable[bytes]) -> set[bytes]:
    fields = [line.lower().partition(b":") for line in lines]
    return {option.strip() for name, _, value in fields if name == b"connection" for option in value.split(b",")} - {b""}


def _assert_subsequence(lines: Sequence[bytes], of: Sequence[bytes]) -> None:
    left = iter(of)
    assert all(line in left for line in lines)


def chunked(data: bytes, cuts: Sequence[int]) -> Hashable:
    """A body is the same however it is cut; what follows it is untouched; written anew it reads the same; the limits hold."""
    content = read_chunked([data])
    in_pieces = read_chunked(pieces_of(data, cuts))
    if in_pieces != content:  # two things are wrong with a size line, and another one is seen first
        assert {in_pieces, content} == {MessageError(400, "bad_chunk_size"), MessageError(400, "chunk_extensions_too_large")}
    in_response = read_chunked([data], upstream=True)
    if isinstance(content, MessageError):
        assert in_response == MessageError(502, "upstream_" + content.reason)
    else:
        assert in_response == content
    if content is None:
        reader = ChunkedReader()
        assert isinstance(reader.feed(data), list)
        assert len(reader._unread) <= 8192 + 3
        return "unfinished"
    if isinstance(content, MessageError):
        return content.reason
    assert data.endswith(content.rest)
    end = len(data) - len(content.rest)
    assert all(read_chunked([data[:cut]]) is None for cut in cuts if cut < end)
    extensions, trailers = _overhead(data[:end])
    assert extensions <= 4096
    assert trailers <= 8192
    assert all(name.lower() not in (b"content-length", b"transfer-encoding", b"host") for name, _ in content.trailers)
    anew = write_body(content, chunked=True, trailers=True)
    assert read_chunked([anew + _NEXT]) == content._replace(rest=_NEXT)
    return min(len(content.body), 3), min(len(content.trailers), 3), bool(content.rest)


def _overhead(message: bytes) -> tuple[int, int]:
    """Bytes of the extensions and of the trailers in this good chunked message."""
    at, extensions = 0, 0
    while True:
        end = message.index(b"\r\n", at)
        digits = message[at:end].partition(b";")[0]
        extensions += end - at - len(digits)
        at = end + 2
        if not int(digits, 16):
            return extensions, len(message) - at - 2
        at += int(digits, 16) + 2


def framing(data: bytes, cuts: Sequence[int]) -> Hashable:
    """A request is taken whole or not at all; what goes on is one request, with the same meaning, whatever follows it."""
    request = read_request(data, RULES)
    if not isinstance(request, Request):
        return _kind(request)
    line, block, framed, content = request
    end = len(data) - len(content.rest)
    assert data.endswith(content.rest)
    assert all(read_request(data[:cut], RULES) is None for cut in cuts if cut < end)
    alone = read_request(data[:end], RULES)
    assert isinstance(alone, Request)
    assert (alone.line, alone.framing, alone.content.body) == (line, framed, content.body)
    assert not may_go_on(MessageError(400, "x"), line, block)
    upgrade = wanted_upgrade(line, block, framed)
    assert upgrade is None or (framed.body is Body.NONE and block.content_length is None and line.minor)
    assert line.minor or not (block.chunked or framed.expect_continue)
    assert not framed.expect_continue or framed.body is not Body.NONE
    assert framed.host == (block.host or b"" if line.authority is None else line.authority)
    hop: Hop = {**HOP, "upgrade": upgrade}
    sent_head = request_head(line, block, framed, request_id=b"a-1", **hop)
    fields = sent_head.lower().split(b"\r\n")[1:-2]
    assert not any(field.startswith(_GONE) for field in fields)
    for own in (b"host:", b"x-request-id:", b"x-canary-variant:", b"x-forwarded-for:"):
        assert sum(field.startswith(own) for field in fields) == 1
    assert any(field.startswith(b"connection:") for field in fields) is (upgrade is not None or block.te_trailers)
    sent = sent_head + write_body(content, chunked=framed.body is Body.CHUNKED)
    for follows in (b"", _NEXT):
        again = read_request(sent + follows, SENT_RULES)
        assert isinstance(again, Request)
        assert (again.line.method, again.line.target, again.line.minor) == (line.method, line.target, 1)
        assert again.line.authority is None
        assert (again.framing.body, again.framing.length) == (framed.body, framed.length)
        assert again.framing.host == (framed.host or HOP["upstream_authority"])
        assert (again.content.body, again.content.rest) == (content.body, follows)
        assert again.block.request_id == b"a-1"
    _check_trusted_hop(data, request)
    return framed.body, framed.keep_alive, framed.expect_continue, upgrade, block.te_trailers, bool(content.rest)


def _check_trusted_hop(data: bytes, request: Request) -> None:
    """It does not depend on trust what the request is; the address of a trusted peer joins the chain, and Via names us."""
    believed = read_request(data, _TRUSTING)
    assert isinstance(believed, Request)
    assert (believed.framing, believed.content) == (request.framing, request.content)
    block = believed.block
    assert block.cookie(b"a") is None or b"a" in (block.cookies or b"")
    hop: Hop = {**HOP, "trusted": True, "via": b"edge", "host_header": "upstream"}
    sent = request_head(believed.line, block, believed.framing, block.request_id, **hop)
    again = read_request(sent + write_body(believed.content, chunked=block.chunked) + _NEXT, SENT_RULES)
    assert isinstance(again, Request)
    assert (again.content.body, again.content.rest) == (request.content.body, _NEXT)
    assert (again.framing.body, again.framing.length, again.framing.host) == (*request.framing[:2], b"up:1")
    assert (again.block.joined(b"x-forwarded-for") or b"").endswith(HOP["peer"])
    assert again.block.request_id == block.request_id
    assert is_loop(again.block, b"edge")


def response(data: bytes, cuts: Sequence[int]) -> Hashable:
    """A response is read alike however it is cut; what goes on is one response with the same meaning, to each kind of client."""
    found = find_end_of_response_head(data, (), RULES)
    in_pieces = find_end_of_response_head(data, cuts, RULES)
    if in_pieces != found:
        assert isinstance(in_pieces, MessageError)
        assert not isinstance(found, int) or isinstance(parse_response_head(data[: found - 2], b"GET", RULES), MessageError)
    kinds: list[Hashable] = []
    for method in (b"GET", b"HEAD"):
        read = read_response(data, method, RULES)
        if isinstance(read, Response):
            _check_response(read, data, method, cuts)
            head = read.head
            kinds.append((head.status // 100, head.minor, head.body, head.reusable, head.has_date))
        else:
            assert read is None or read.status == 502
            kinds.append(_kind(read))
    return tuple(kinds)


def _check_response(read: Response, data: bytes, method: bytes, cuts: Sequence[int]) -> None:
    head, content = read
    assert 100 <= head.status <= 999
    assert data.endswith(content.rest)
    end = len(data) - len(content.rest)
    if head.body is not Body.UNTIL_CLOSE:
        assert all(read_response(data[:cut], method, RULES) is None for cut in cuts if cut < end)
    else:
        assert not head.reusable
    lines = head.forward.lower().splitlines()[1:]
    came = head.raw.splitlines()[1:]
    gone = _connection_options(came) - _NOT_NOMINABLE | {b"transfer-encoding", b"keep-alive", b"trailer", b"te"}
    assert not {line.partition(b":")[0] for line in lines} & gone
    if head.status == 204 or head.status < 200:
        assert not any(line.startswith(b"content-length:") for line in lines)
        assert not head.reusable or not any(
            line.lower().startswith((b"content-length: 5", b"transfer-encoding:")) for line in came
        )
    if head.status < 200:
        return
    for client_minor in (0, 1):
        chunk = client_minor == 1 and head.body in (Body.CHUNKED, Body.UNTIL_CLOSE)
        keep_alive = chunk or head.body in (Body.NONE, Body.LENGTH)
        sent = response_head(head, client_minor=client_minor, keep_alive=keep_alive, date=b"now", chunk_body=chunk)
        assert sent.lower().count(b"\nconnection:") == (not client_minor or not keep_alive)
        sent += write_body(content, chunked=chunk, trailers=True)
        again = read_response(sent + (_NEXT_RESPONSE if keep_alive else b""), method, SENT_RULES)
        assert isinstance(again, Response)
        assert (again.head.status, again.head.minor, again.head.has_date) == (head.status, 1, True)
        assert again.content == (content.body, content.trailers if chunk else (), _NEXT_RESPONSE if keep_alive else b"")
        assert again.head.reusable is keep_alive


CHECKS: Final[dict[str, Check]] = {"head": head, "chunked": chunked, "framing": framing, "response": response}
