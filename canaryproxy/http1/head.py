"""Request heads: from bytes to a request line and a block of fields, or to the error to answer.

Pure; called by `proxy.downstream`, once for each head. RFC 9112 sections 2, 3 and 5; the rules F1-F15 and H1-H8 are those
of docs/architecture.md, named in the tests. A failure is a value, and after one the connection is closed (F19).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from canaryproxy.http1.fields import (
    BAD,
    CUT,
    HOP_BY_HOP,
    REPEATED,
    TEXT,
    TOKEN,
    Fields,
    NameTable,
    connection_options,
    drop_fields,
    is_token,
    list_elements,
    parse_length,
    split_lines,
    take_special,
)


class MessageError(NamedTuple):
    """A head or body that we do not take: the status to answer (502: the upstream's fault) and a machine word."""

    status: int
    reason: str


#: Lower-case names that only we may set.
OWN_FIELDS: Final = frozenset({b"x-canary-variant"})


@dataclass(frozen=True, slots=True)
class HeadRules:
    """The limits (bytes, counts of fields) and choices of one listener; one for trusted peers and one for the others."""

    request_line: int = 8190
    head: int = 32768
    headers: int = 100
    response_head: int = 65536
    response_headers: int = 200
    underscore: Literal["drop", "reject", "allow"] = "drop"
    strict_authority: bool = False
    #: The peer is a trusted proxy: its X-Forwarded-*, Forwarded, X-Real-IP and X-Request-ID are believed.
    trust_forwarded: bool = False
    #: Responses get our X-Request-ID, so that of the upstream is cut.
    expose_request_id: bool = False
    #: Lower-case names that only we may set, or that are for us alone.
    own_fields: frozenset[bytes] = OWN_FIELDS
    request_names: NameTable = field(init=False, repr=False, compare=False)
    response_names: NameTable = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "request_names", NameTable(self._request_name))
        object.__setattr__(self, "response_names", NameTable(self._response_name))

    def _request_name(self, name: bytes) -> bytes | None:
        if b"_" in name:
            return self._underscore_name(name)
        if name in _READ or (name == _REQUEST_ID and self.trust_forwarded):
            return name
        if name in HOP_BY_HOP or name in self.own_fields or name in _WE_WRITE:
            return CUT
        return CUT if is_identity(name) and not self.trust_forwarded else None

    def _underscore_name(self, name: bytes) -> bytes | None:
        """F8: CGI and WSGI read X_Forwarded_For as X-Forwarded-For; what we read, cut or write never passes under that name."""
        if self.underscore == "reject":
            return BAD
        return CUT if self.underscore == "drop" or self._request_name(name.replace(b"_", b"-")) is not None else None

    def _response_name(self, name: bytes) -> bytes | None:
        if name in _READ_IN_RESPONSES:
            return name
        return CUT if name in HOP_BY_HOP or (name == _REQUEST_ID and self.expose_request_id) else None


class RawHead(NamedTuple):
    """A whole request head: its line without CRLF, its field lines each with CRLF, and where in the buffer it ends."""

    line: bytes
    block: bytes
    end: int


class RequestLine(NamedTuple):
    """`target` is what is forwarded: origin-form or `*`, byte-exact. `authority` is set where it came in absolute-form."""

    method: bytes
    target: bytes
    minor: int
    authority: bytes | None


_READ: Final = frozenset(b"host connection content-length transfer-encoding te upgrade expect cookie".split())
_READ_AND_KEPT: Final = frozenset({b"host", b"cookie"})
_READ_IN_RESPONSES: Final = frozenset(b"connection content-length transfer-encoding upgrade date".split())
_REQUEST_ID: Final = b"x-request-id"
_is_request_id = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
#: The forwarding fields that `forward` writes itself, from those that came in if the peer is trusted.
_WE_WRITE: Final = frozenset(b"x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port".split())
#: May not be named by Connection: who asks for that wants them lost on the way (CVE-2026-26365 and its like).
_PROTECTED: Final = frozenset(b"host content-length transfer-encoding cookie authorization via traceparent tracestate".split())
_OPTIONS_ONLY: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te"})

_new = tuple.__new__  # makes a named tuple in half the time of its constructor
_VCHAR_BUT_FRAGMENT: Final = rb"[!-\"$-~]"
_plain_line = re.compile(rb"(" + TOKEN + rb"++) (/" + _VCHAR_BUT_FRAGMENT + rb"*+) HTTP/1\.([01])").fullmatch
_is_target = re.compile(_VCHAR_BUT_FRAGMENT + rb"++").fullmatch
_absolute_form = re.compile(rb"(?i:https?)://([^/?]++)(" + _VCHAR_BUT_FRAGMENT + rb"*+)").fullmatch
_version = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch
# uri-host [ ":" port ], RFC 3986 section 3.2.2, without userinfo and without the comma that would make it a list
_PORT: Final = rb"[0-5]?[0-9]{0,4}|6(?:[0-4][0-9]{3}|5(?:[0-4][0-9]{2}|5(?:[0-2][0-9]|3[0-5])))"
#: Matches a host with or without a port.
is_authority = re.compile(
    rb"(?:(?:[A-Za-z0-9._~!$&'()*+;=-]++|%[0-9A-Fa-f]{2})++|\[[0-9A-Fa-f:.]++\])(?::(?:" + _PORT + rb"))?"
).fullmatch
_empty_lines = re.compile(rb"(?:\r\n){0,32}+").match


def find_request_head(buffer: bytes, rules: HeadRules, seen: int = 0) -> RawHead | MessageError | None:
    """The first request head in `buffer`; None while it is incomplete and may still become one.

    `seen` is how much of `buffer` an earlier call has looked at, so that a head that trickles in costs linear time. Empty
    lines before the request line are skipped (RFC 9112 section 2.2).
    """
    if not seen and not buffer.startswith(b"\r"):  # nearly always: a whole head in one piece
        line_end = buffer.find(b"\r\n")
        end = buffer.find(b"\r\n\r\n", line_end)
        if 0 <= line_end <= rules.request_line and 0 <= end <= rules.head - 4:
            return _new(RawHead, (buffer[:line_end], buffer[line_end + 2 : end + 2], end + 4))
    start = _empty_lines(buffer).end() if buffer.startswith(b"\r") else 0  # type: ignore[union-attr]  # it matches nothing too
    line_end = buffer.find(b"\r\n", start)
    if line_end - start > rules.request_line or (line_end < 0 and len(buffer) - start > rules.request_line + 1):
        return MessageError(414, "request_line_too_long")
    end = buffer.find(b"\r\n\r\n", max(line_end, seen - 3)) if line_end >= 0 else -1
    if (len(buffer) if end < 0 else end + 4) - start > rules.head:
        return MessageError(431, "head_too_large")
    if end < 0:
        return MessageError(400, "bad_byte") if has_bad_byte(buffer, seen) else None
    return RawHead(buffer[start:line_end], buffer[line_end + 2 : end + 2], end + 4)


def has_bad_byte(buffer: bytes, seen: int = 0) -> bool:
    """Whether this beginning of a head has a control byte, a bare CR or a bare LF past `seen`: no head will come of it."""
    part = buffer[max(seen - 1, 0) :] if buffer.startswith(b"\r", seen - 1) else buffer[seen:]
    return part.translate(None, TEXT) != b"\r\n" * part.count(b"\r\n") + b"\r" * part.endswith(b"\r")


def parse_request_line(line: bytes, rules: HeadRules) -> RequestLine | MessageError:
    """`line` (without CRLF) taken apart: method SP target SP HTTP-version, exactly one SP each (RFC 9112 section 3)."""
    if len(line) > rules.request_line:
        return MessageError(414, "request_line_too_long")
    plain = _plain_line(line)
    if plain is not None:
        method, target, minor = plain.groups()
        return _new(RequestLine, (method, target, 1 if minor == b"1" else 0, None))
    return _parse_rare_line(line)


def _parse_rare_line(line: bytes) -> RequestLine | MessageError:
    parts = line.split(b" ")
    version = _version(parts[-1])
    if len(parts) != 3 or version is None or not is_token(parts[0]):
        return MessageError(400, "bad_request_line")
    if version[1] != b"1":
        return MessageError(505, "unsupported_version") if version[1] > b"1" else MessageError(400, "bad_version")
    method, target, _ = parts
    minor = 0 if version[2] == b"0" else 1
    if not _is_target(target):
        return MessageError(400, "bad_target")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS") or method == b"CONNECT":
        return RequestLine(method, target, minor, None)
    absolute = _absolute_form(target)
    if absolute is None or not is_authority(absolute[1]):
        return MessageError(400, "bad_target")
    path = absolute[2]
    if not path.startswith(b"/"):  # RFC 9112 sections 3.2.1 and 3.2.4
        path = b"*" if method == b"OPTIONS" and not path else b"/" + path
    return RequestLine(method, path, minor, absolute[1])


def is_identity(name: bytes) -> bool:
    """Whether that lower-case field says whose request this is, or which: to be believed from trusted proxies only."""
    return name.startswith(b"x-forwarded-") or name in (b"forwarded", b"x-real-ip", _REQUEST_ID)


class RequestBlock(Fields):
    """The fields of a request, good for any request line that has these very bytes after it."""

    __slots__ = (
        *("chunked", "content_length", "cookies", "expect", "forward", "host", "keep_alive"),
        *("request_id", "te_trailers", "upgrade"),
    )

    def __init__(
        self, raw: bytes, found: dict[bytes, bytes], options: frozenset[bytes], length: int | None, forward: bytes
    ) -> None:
        self.raw = raw
        self._fields = None
        self.forward = forward  #: The lines that go on, as they came; Host among them, framing not.
        self.host = found.get(b"host")
        self.content_length = length
        self.chunked = b"transfer-encoding" in found
        #: What Connection says: True keep-alive, False close, None neither.
        self.keep_alive = None if not options else False if b"close" in options else b"keep-alive" in options or None
        self.upgrade = found.get(b"upgrade") if b"upgrade" in options else None  #: Counts only if Connection names it.
        self.expect = found[b"expect"].lower() if b"expect" in found else None
        self.te_trailers = b"te" in found and b"trailers" in list_elements(found[b"te"])
        self.cookies = found.get(b"cookie")
        #: The X-Request-ID of a trusted peer, if it has the form of one (H10). Not among the lines that go on.
        self.request_id = found[_REQUEST_ID] if _REQUEST_ID in found and _is_request_id(found[_REQUEST_ID]) else None

    def cookie(self, name: bytes) -> bytes | None:
        """The first value of that cookie over all Cookie lines (RFC 6265 section 4.2.1, read tolerantly)."""
        if self.cookies is None or name not in self.cookies:
            return None
        for pair in self.cookies.replace(REPEATED, b";").split(b";"):
            known, equals, value = pair.partition(b"=")
            if equals and known.strip() == name:
                return value.strip()
        return None


def parse_request_block(block: bytes, rules: HeadRules) -> RequestBlock | MessageError:
    """The field lines (each with its CRLF, without the empty line) checked and sorted into read, cut and kept.

    Everything that does not depend on the request line is decided here: the framing fields must be single and exact
    (RFC 9112 section 6; we take nothing that another parser could read otherwise), and so must Host.
    """
    if len(block) > rules.head:
        return MessageError(431, "head_too_large")
    lines = split_lines(block)
    if lines is None:
        return MessageError(400, "bad_header")
    if len(lines) > rules.headers:
        return MessageError(431, "too_many_headers")
    found = take_special(lines, rules.request_names, _READ_AND_KEPT)
    if found is None:
        return MessageError(400, "bad_header_name")
    if b"host" in found and not is_authority(found[b"host"]):
        return MessageError(400, "bad_host")
    length = None
    if b"content-length" in found or b"transfer-encoding" in found:
        decided = _body_length(found)
        if isinstance(decided, MessageError):
            return decided
        length = decided
    options = connection_options(found.get(b"connection"))
    nominated = options - _OPTIONS_ONLY
    if nominated:
        if any(name in _PROTECTED or name in rules.own_fields or is_identity(name) for name in nominated):
            return MessageError(400, "protected_field_in_connection")
        drop_fields(lines, nominated)
    return RequestBlock(block, found, options, length, b"".join(lines))


def _body_length(found: dict[bytes, bytes]) -> int | MessageError | None:
    """The Content-Length, None if the body is chunked."""
    encoding = found.get(b"transfer-encoding")
    if encoding is None:
        length = parse_length(found[b"content-length"])
        return MessageError(400, "bad_content_length") if length is None else length
    if REPEATED in encoding:
        return MessageError(400, "repeated_transfer_encoding")
    if encoding.lower() != b"chunked":
        return MessageError(501, "unsupported_transfer_encoding")
    return MessageError(400, "length_and_transfer_encoding") if b"content-length" in found else None
