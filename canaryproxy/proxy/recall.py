"""Heads that came before: equal bytes need no second parse.

One for each worker and set of rules; asked by `proxy.downstream` and `proxy.upstream` for each head. A client that keeps its
connection repeats its header block byte for byte, and so do the answers of one second; a lookup costs a hash of the bytes, a
parse ten times that (bench/README.md). Bounded: heads over `_LONGEST` are not kept, and all of one kind are forgotten when
they are `_MOST` bytes together (with what is derived from them about five times that).
"""

from __future__ import annotations

from collections.abc import Sequence
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
from canaryproxy.http1.response import ResponseHead, find_response_head, parse_response_head
from canaryproxy.routing.goals import GoalRule, match_goals
from canaryproxy.routing.identity import Identity
from canaryproxy.routing.override import Overrides, Wish
from canaryproxy.routing.split import Seat, seat
from canaryproxy.shared.ledger import size_row

_LONGEST = 2048
#: Client addresses for which one header block's forwarded form is kept.
_MOST_CLIENTS = 2
_MOST = 4 << 20
_PLAIN_GET = RequestLine(b"GET", b"/", 1, None)
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})

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


class Line:
    """A request line, and what follows from it for any header block."""

    __slots__ = (
        *("_goals", "_rules", "idempotent", "is_head", "method", "minor", "parsed", "plain", "size_row", "start", "target"),
    )

    def __init__(self, parsed: RequestLine) -> None:
        self.parsed = parsed
        self.method, self.target, self.minor = parsed.method, parsed.target, parsed.minor
        #: Framed as its header block alone says.
        self.plain = parsed.method == b"GET" and parsed.minor == 1 and parsed.authority is None
        self.is_head = parsed.method == b"HEAD"
        self.idempotent = parsed.method in _IDEMPOTENT
        self.start = forward.request_line(parsed)
        #: Where the sizes of the answers to such requests are counted.
        self.size_row = size_row(parsed.method, parsed.target)
        self._rules: Sequence[GoalRule | None] | None = None
        self._goals = 0

    def goals(self, rules: Sequence[GoalRule | None]) -> int:
        """The goals that it may be by these rules, a bit for each."""
        if rules is not self._rules:
            self._rules, self._goals = rules, match_goals(rules, self.method, self.target)
        return self._goals


class Block:
    """A header block, and what follows from it for any request line, user rule, and way on."""

    __slots__ = ("_asks", "_identity", "_user", "_seat", "_seated", "fields", "get_framing", "_lines", "tail")

    def __init__(self, fields: RequestBlock, get_framing: RequestFraming | MessageError) -> None:
        self.fields = fields
        #: The end of a request that has this block: the CRLF of its line, the block, and the empty line.
        self.tail = b"\r\n%b\r\n" % fields.raw
        #: The framing for a GET of HTTP/1.1 in origin-form.
        self.get_framing = get_framing
        self._lines: dict[bytes, list[bytes | None]] = {}
        self._identity: Identity | None = None
        self._asks: tuple[Overrides, bool, tuple[Wish | None, Wish | None]] | None = None
        self._user: bytes | None = None
        self._seated = b""
        self._seat: Seat | None = None

    def user(self, identity: Identity) -> bytes | None:
        """The user's key by this rule."""
        if identity is not self._identity:
            self._identity, self._user = identity, identity.user_key(self.fields)
        return self._user

    def asks(self, overrides: Overrides, trusted: bool) -> tuple[Wish | None, Wish | None]:
        """What it asks for by these rules, from a network that is trusted or not (`Overrides.read`)."""
        known = self._asks
        if known is None or known[0] is not overrides or known[1] is not trusted:
            known = self._asks = (overrides, trusted, overrides.read(self.fields, trusted=trusted))
        return known[2]

    def seat(self, salt: int, key: bytes) -> Seat:
        """The seat of the user with this key, who sent this block, under this salt: one hash as long as both stay."""
        known = self._seat
        if known is None or known[0] != salt or key is not self._seated:
            self._seated, self._seat = key, (known := seat(salt, key))
        return known

    def lines_for(self, peer: bytes) -> list[bytes | None]:
        """What goes after the request line to the upstream, for each variant, for a client of that address; to be filled in."""
        lines = self._lines.get(peer)
        if lines is None:
            if len(self._lines) >= _MOST_CLIENTS:
                self._lines.clear()
            lines = self._lines[peer] = [None, None]
        return lines


class Recall:
    """The memory of one worker for heads read by `rules`."""

    def __init__(self, rules: HeadRules, via: bytes | None = None) -> None:
        self.rules = rules
        self._via = via
        self._lines: _Memory[Line] = _Memory()
        self._blocks: _Memory[Block] = _Memory()
        #: Final responses to other methods than HEAD.
        self._responses: _Memory[ResponseHead] = _Memory()

    def head(self, data: bytes, seen: int, last: Block | None) -> tuple[Line, Block, int] | MessageError | None:
        """The first request line in `data`, its header block, and where they end; as `find_request_head` else.

        `last` is the block that this client sent last. Where `data` ends in it, or in another that came before, and the
        line before it is known too, nothing is searched or parsed. (A line that is known holds no CRLF.)
        """
        if last is not None and data.endswith(last.tail):
            line = self._lines.get(data[: -len(last.tail)])
            if line is not None:
                return line, last, len(data)
        line_end = data.find(b"\r\n")
        block = self._blocks.get(data[line_end:]) if line_end > 0 else None
        if block is not None:
            raw_line, end = data[:line_end], len(data)
        else:
            found = find_request_head(data, self.rules, seen)
            if found is None or isinstance(found, MessageError):
                return found
            parsed = self.block(found.block)
            if isinstance(parsed, MessageError):
                return parsed
            raw_line, block, end = found.line, parsed, found.end
        read = self.line(raw_line)
        return read if isinstance(read, MessageError) else (read, block, end)

    def line(self, raw: bytes) -> Line | MessageError:
        """`parse_request_line(raw)`, with what follows from it."""
        line = self._lines.get(raw)
        if line is not None:
            return line
        parsed = parse_request_line(raw, self.rules)
        if isinstance(parsed, MessageError):
            return parsed
        line = Line(parsed)
        self._lines.keep(raw, line)
        return line

    def block(self, raw: bytes) -> Block | MessageError:
        """`parse_request_block(raw)`, with room for what follows from it."""
        block = self._blocks.get(b"\r\n%b\r\n" % raw)
        if block is not None:
            return block
        fields = parse_request_block(raw, self.rules)
        if isinstance(fields, MessageError):
            return fields
        if self._via is not None and forward.is_loop(fields, self._via):
            return MessageError(508, "loop")
        block = Block(fields, frame_request(_PLAIN_GET, fields, self.rules))
        self._blocks.keep(block.tail, block)
        return block

    def framing(self, line: Line, block: Block) -> RequestFraming | MessageError:
        """`frame_request(line, block)`."""
        return block.get_framing if line.plain else frame_request(line.parsed, block.fields, self.rules)

    def response(self, data: bytes, seen: int, line: Line) -> tuple[ResponseHead, int] | MessageError | None:
        """The first response head in `data`, as the answer to a request with that line, and where it ends.

        `seen` as for `find_response_head`.
        """
        if not seen:
            known = data.find(b"\r\n\r\n") + 2
            head = self._responses.get(data[:known])
            if head is not None and not line.is_head:
                return head, known + 2
        end = find_response_head(data, self.rules, seen)
        if end is None or isinstance(end, MessageError):
            return end
        raw = data[: end - 2]
        parsed = parse_response_head(raw, line.method, self.rules)
        if isinstance(parsed, MessageError):
            return parsed
        if not line.is_head:
            self._responses.keep(raw, parsed)
        return parsed, end
