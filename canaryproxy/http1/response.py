"""Response heads: from bytes to what to pass on and how the body ends, or to a 502.

Pure; called by `proxy.upstream`, once for each head, interim ones included. RFC 9112 sections 4, 6.3 and 9.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, TypeAlias

from canaryproxy.http1.fields import (
    REPEATED,
    Fields,
    connection_options,
    drop_fields,
    parse_length,
    split_lines,
    take_special,
)
from canaryproxy.http1.framing import Body
from canaryproxy.http1.head import HeadRules, MessageError, has_bad_byte

_Framing: TypeAlias = tuple[Body, int, bool]

_status_line = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*+))?\r\n").fullmatch
_COMMON_STATUS_LINES: Final = {b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()): int(status) for status in HTTPStatus}
_NONE, _LENGTH, _CHUNKED, _UNTIL_CLOSE = Body  # an enum's attributes are slow to look up
_READ_AND_KEPT: Final = frozenset({b"date", b"content-length"})
_LENGTH_FIELD: Final = frozenset({b"content-length"})
#: Connection may name these in vain: they are not for one hop only, or not field names at all.
_NOT_NOMINABLE: Final = frozenset({b"date", b"content-length", b"close", b"keep-alive", b"upgrade"})


class ResponseHead(Fields):
    """A response's head."""

    __slots__ = ("body", "complete", "forward", "has_date", "is_complete", "length", "minor", "reusable", "status", "upgrade")

    def __init__(
        self, raw: bytes, status: int, minor: int, framing: _Framing, found: dict[bytes, bytes], *, forward: bytes
    ) -> None:
        self.raw = raw
        self._fields = None
        self.status = status
        self.minor = minor
        #: `length` counts only with `Body.LENGTH`, and is then above 0. `reusable`: the connection may be kept afterwards.
        self.body, self.length, self.reusable = framing
        #: Status line of HTTP/1.1 and the lines that go on, as they came; Content-Length among them, Connection not.
        self.forward = forward
        self.has_date = b"date" in found
        #: All that a client of HTTP/1.1 gets whose connection is kept, if `is_complete`: if nothing of ours has to be added.
        self.complete = forward + b"\r\n"
        self.is_complete = self.has_date and self.body < _CHUNKED
        self.upgrade = found.get(b"upgrade")

    def _lines(self) -> Iterable[bytes]:
        return self.raw.splitlines()[1:]


def find_response_head(buffer: bytes, rules: HeadRules, seen: int = 0) -> int | MessageError | None:
    """Where the first response head in `buffer` ends, its blank line included; None while it is incomplete.

    `seen` is how much of `buffer` an earlier call has looked at.
    """
    end = buffer.find(b"\r\n\r\n", seen - 3 if seen > 3 else 0)
    if 0 <= end <= rules.response_head - 4:
        return end + 4
    if (end + 4 if end >= 0 else len(buffer)) > rules.response_head:
        return MessageError(502, "upstream_head_too_large")
    return MessageError(502, "upstream_bad_head") if has_bad_byte(buffer, seen) else None


def parse_response_head(head: bytes, request_method: bytes, rules: HeadRules) -> ResponseHead | MessageError:
    """`head` (each line with its CRLF, without the blank line) as the answer to a request of that method."""
    if len(head) > rules.response_head:
        return MessageError(502, "upstream_head_too_large")
    lines = split_lines(head)
    if not lines:
        return MessageError(502, "upstream_bad_head")
    if len(lines) - 1 > rules.response_headers:
        return MessageError(502, "upstream_too_many_headers")
    first = lines[0]
    minor = 1
    status = _COMMON_STATUS_LINES.get(first, 0)
    if not status:
        match = _status_line(first)
        if match is None:
            return MessageError(502, "upstream_bad_status_line")
        minor, status = int(match[1]), int(match[2])
        first = b"HTTP/1.1 %d %b\r\n" % (status, match[3] or b"")
    del lines[0]
    found = take_special(lines, rules.response_names, _READ_AND_KEPT)
    if found is None:
        return MessageError(502, "upstream_bad_header_name")
    options = connection_options(found.get(b"connection"))
    if status == 101 and REPEATED in found.get(b"upgrade", b""):
        return MessageError(502, "upstream_bad_upgrade")
    framing = _frame(found, status, minor, request_method, options)
    if isinstance(framing, MessageError):
        return framing
    nominated = options - _NOT_NOMINABLE
    if nominated:
        drop_fields(lines, nominated)
    if b"content-length" in found:
        _settle_length(lines, found[b"content-length"], status)
    if status == 101:
        lines.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % found.get(b"upgrade", b""))
    return ResponseHead(head, status, minor, framing, found, forward=first + b"".join(lines))


def _frame(
    found: dict[bytes, bytes], status: int, minor: int, request_method: bytes, options: frozenset[bytes]
) -> _Framing | MessageError:
    """RFC 9112 section 6.3, but for what it lets a recipient guess: that is an error."""
    length = None
    if b"content-length" in found:
        length = parse_length(found[b"content-length"])
        if length is None:
            return MessageError(502, "upstream_bad_content_length")
    chunked = b"transfer-encoding" in found
    if chunked and (length is not None or minor == 0 or found[b"transfer-encoding"].lower() != b"chunked"):
        return MessageError(502, "upstream_bad_transfer_encoding")
    persistent = b"close" not in options and (minor != 0 or b"keep-alive" in options)
    if status < 200 or status == 204:  # these cannot have a body; one that is announced may yet arrive
        return _NONE, 0, persistent and status != 101 and not length and not chunked
    if status == 304 or request_method == b"HEAD":
        return _NONE, 0, persistent
    if length is not None:
        return _LENGTH if length else _NONE, length, persistent
    return (_CHUNKED, 0, persistent) if chunked else (_UNTIL_CLOSE, 0, False)


def _settle_length(lines: list[bytes], value: bytes, status: int) -> None:
    """Content-Length is left in its place if everybody reads it alike, else written anew; 1xx and 204 must not have it."""
    forbidden = status < 200 or status == 204
    if forbidden or (value.startswith(b"0") and value != b"0"):
        drop_fields(lines, _LENGTH_FIELD)
        if not forbidden:
            lines.append(b"Content-Length: %d\r\n" % int(value))


def switches_protocol(head: ResponseHead, asked: bytes | None) -> bool:
    """Whether this 101 grants the upgrade that was asked for (lower-case); any other 101 is a bad response."""
    return head.status == 101 and asked is not None and head.upgrade is not None and head.upgrade.lower() == asked
