"""Heads that came before: equal bytes need no second parse.

One for each worker and set of rules; asked by `proxy.downstream` and `proxy.upstream` for each head. A client that keeps its
connection repeats its header block byte for byte, and so do the answers of one second; a lookup costs a hash of the bytes, a
parse ten times that (bench/README.md). Bounded: heads over `_LONGEST` are not kept, and all of one kind are forgotten when
they are `_MOST` bytes together (with what is derived from them about five times that).
"""

from __future__ import annotations

from typing import TypeVar

from canaryproxy.http1 import forward
from canaryproxy.http1.framing import RequestFraming, frame_request
from canaryproxy.http1.head import (
    HeadRules,
    MessageError,
    RequestBlock,
    RequestLine,
    find_request_head,
    parse_request_block,
    parse_request_line,
)
from canaryproxy.http1.response import ResponseHead, parse_response_head
from canaryproxy.routing.identity import Identity

_LONGEST = 2048
_MOST = 4 << 20
_PLAIN_GET = RequestLine(b"GET", b"/", 1, None)

T = TypeVar("T")


class _Memory(dict[bytes, T]):
    """What was made of some bytes, by these bytes."""

    size = 0

    def keep(self, raw: bytes, value: T) -> None:
        if len(raw) <= _LONGEST:
            self.size += len(raw)
            if self.size > _MOST:
                self.clear()
                self.size = len(raw)
            self[raw] = value


class Block:
    """A header block, and what follows from it for any request line, user rule, and way on."""

    __slots__ = ("_identity", "_user", "fields", "get_framing", "lines", "raw")

    def __init__(self, fields: RequestBlock, get_framing: RequestFraming | MessageError) -> None:
        self.raw = fields.raw
        self.fields = fields
        #: The framing for a GET of HTTP/1.1 in origin-form.
        self.get_framing = get_framing
        #: What goes after the request line to the upstream, by (client address, variant).
        self.lines: dict[tuple[bytes, bytes], bytes] = {}
        self._identity: Identity | None = None
        self._user: bytes | None = None

    def user(self, identity: Identity) -> bytes | None:
        """The user's key by this rule."""
        if identity is not self._identity:
            self._identity, self._user = identity, identity.user_key(self.fields)
        return self._user


class Recall:
    """The memory of one worker for heads read by `rules`."""

    def __init__(self, rules: HeadRules, via: bytes | None) -> None:
        self.rules = rules
        self._via = via
        self._lines: _Memory[RequestLine] = _Memory()
        self._blocks: _Memory[Block] = _Memory()
        self._responses: _Memory[ResponseHead] = _Memory()

    def head(self, data: bytes, seen: int, last: Block | None) -> tuple[bytes, Block, int] | MessageError | None:
        """The first request line in `data`, its header block, and where they end; as `find_request_head` else.

        `last` is the block that this client sent last: where all that follows the first line is equal to it, or to another
        that came before, its end need not be looked for.
        """
        line_end = data.find(b"\r\n")
        raw = data[line_end + 2 : -2]
        block = last if last is not None and last.raw == raw else self._blocks.get(raw)
        if block is not None and line_end > 0 and len(data) == line_end + len(raw) + 4 and data.endswith(b"\r\n"):
            return data[:line_end], block, len(data)
        found = find_request_head(data, self.rules, seen)
        if found is None or isinstance(found, MessageError):
            return found
        parsed = self.block(found.block)
        return parsed if isinstance(parsed, MessageError) else (found.line, parsed, found.end)

    def line(self, raw: bytes) -> RequestLine | MessageError:
        """`parse_request_line(raw)`."""
        line = self._lines.get(raw)
        if line is not None:
            return line
        parsed = parse_request_line(raw, self.rules)
        if isinstance(parsed, RequestLine):
            self._lines.keep(raw, parsed)
        return parsed

    def block(self, raw: bytes) -> Block | MessageError:
        """`parse_request_block(raw)`, with room for what follows from it."""
        block = self._blocks.get(raw)
        if block is not None:
            return block
        fields = parse_request_block(raw, self.rules)
        if isinstance(fields, MessageError):
            return fields
        if self._via is not None and forward.is_loop(fields, self._via):
            return MessageError(508, "loop")
        block = Block(fields, frame_request(_PLAIN_GET, fields, self.rules))
        self._blocks.keep(raw, block)
        return block

    def framing(self, line: RequestLine, block: Block) -> RequestFraming | MessageError:
        """`frame_request(line, block)`."""
        if line.method == b"GET" and line.minor == 1 and line.authority is None:
            return block.get_framing
        return frame_request(line, block.fields, self.rules)

    def response(self, raw: bytes, method: bytes) -> ResponseHead | MessageError:
        """`parse_response_head(raw, method)`."""
        if method == b"HEAD":
            return parse_response_head(raw, method, self.rules)
        head = self._responses.get(raw)
        if head is not None:
            return head
        parsed = parse_response_head(raw, method, self.rules)
        if isinstance(parsed, ResponseHead):
            self._responses.keep(raw, parsed)
        return parsed
