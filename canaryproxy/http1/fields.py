"""Field lines: their grammar, and which names mean something to a proxy.

Pure. Used by `head`, `response` and `chunked`. RFC 9110 sections 5 and 7.6.1, RFC 9112 sections 5 and 9.6.

A block of field lines goes through as raw lines; only the few lines that a proxy must read or cut are looked at. Two
tests of the whole block make that safe: it has no control byte but CRLF pairs, and every name is a token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
is_token = re.compile(TOKEN + rb"++").fullmatch

#: Every byte that a head may have, but CR and LF: HTAB, SP, VCHAR and obs-text (RFC 9110 section 5.5).
TEXT: Final = bytes(byte for byte in range(256) if byte == 0x09 or (byte >= 0x20 and byte != 0x7F))

#: What a `NameTable` says of a name instead of its lower-case form: cut its line unread; it is no name that we take.
CUT: Final = b""
BAD: Final = b":"

#: Between the values of a repeated field, in `take_special`: LF, because no value can have it.
REPEATED: Final = b"\n"

#: What is cut off around the values we read. Not HTAB, though RFC 9110 section 5.6.3 has it: parsers differ on it (httptools
#: and nginx do not take `chunked` with a tab), so only attackers put one beside a length or a coding. It makes those invalid.
_AROUND: Final = b" \r\n"
#: Meant for one hop only (RFC 9110 section 7.6.1), and what Go's reverse proxy strips too.
HOP_BY_HOP: Final = frozenset(
    b"connection proxy-connection keep-alive te trailer transfer-encoding upgrade"
    b" proxy-authenticate proxy-authorization http2-settings".split()
)
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()
_COMMON_OPTIONS: Final = {value: frozenset({value.lower()}) for value in (b"keep-alive", b"Keep-Alive", b"close", b"Close")}
_TABLE_SIZE = 32768  # bytes of names; a site's clients use about a hundred names


class NameTable:
    """What each field name, as it was written, means: None (passes), its lower-case form (read it), `CUT` or `BAD`.

    A memo of `classify`, which is asked only about tokens, in lower case. `marks` is for reading; it has the names seen
    so far, and is emptied when strangers have filled it.
    """

    __slots__ = ("_classify", "_size", "marks")

    def __init__(self, classify: Callable[[bytes], bytes | None]) -> None:
        self.marks: dict[bytes, bytes | None] = {}  # not a subclass with __missing__: indexing a plain dict is faster
        self._classify = classify
        self._size = 0

    def learn(self, lines: Iterable[bytes]) -> None:
        """After this `marks` has the names of all `lines`."""
        if self._size > _TABLE_SIZE:
            self.marks.clear()
            self._size = 0
        for line in lines:
            name = line.partition(b":")[0]
            if name not in self.marks:
                self.marks[name] = self._classify(name.lower()) if is_token(name) else BAD
                self._size += len(name)


def split_lines(block: bytes) -> list[bytes] | None:
    """The lines of `block`, each with its CRLF; None if there is a control byte, a bare CR or LF, or an unfinished line.

    `splitlines` breaks at every CR, LF and CRLF. With n lines and exactly n CR LF among the control bytes, each line
    ended in CRLF and nothing else was there.
    """
    lines = block.splitlines(True)
    return lines if block.translate(None, TEXT) == b"\r\n" * len(lines) else None


def take_special(lines: list[bytes], names: NameTable, kept: frozenset[bytes]) -> dict[bytes, bytes] | None:
    """The values that a proxy must read, by lower-case name, the repeated ones joined by `REPEATED`; None: a bad name.

    Of the lines that `names` marks, only those of `kept` have then been left in `lines`. A line without a colon has its
    CRLF in what is taken for the name, and one with a space before the colon or at its beginning (obs-fold) has it there:
    neither is a token (RFC 9112 sections 5.1 and 5.2).
    """
    marks = names.marks
    found: dict[bytes, bytes] = {}
    cut: list[bytes] = []
    try:
        for line in lines:
            name, _, value = line.partition(b":")
            mark = marks[name]
            if mark is not None:
                if mark not in kept:
                    cut.append(line)
                value = value.strip(_AROUND)
                found[mark] = found[mark] + REPEATED + value if mark in found else value
    except KeyError:
        names.learn(lines)
        return take_special(lines, names, kept)
    if BAD in found:
        return None
    for line in cut:
        lines.remove(line)
    return found


def drop_fields(lines: list[bytes], names: frozenset[bytes]) -> None:
    """Removes the lines of these lower-case names."""
    lines[:] = [line for line in lines if line.partition(b":")[0].lower() not in names]


def connection_options(value: bytes | None) -> frozenset[bytes]:
    """The options of Connection, lower-case (RFC 9110 section 7.6.1)."""
    if value is None:
        return _NO_OPTIONS
    return _COMMON_OPTIONS.get(value) or frozenset(list_elements(value))


def list_elements(value: bytes) -> list[bytes]:
    """The elements of a comma-separated value, lower-case, without the empty ones (RFC 9110 section 5.6.1)."""
    elements = value.replace(REPEATED, b",").lower().split(b",")
    return [element for element in map(bytes.strip, elements) if element]


def parse_length(value: bytes) -> int | None:
    """The value of a Content-Length: at most 19 digits and 2**63 - 1, leading zeros allowed (RFC 9110 section 8.6)."""
    if len(value) > 19 or not value.isdigit():  # of bytes: ASCII digits and nothing else, not even a sign
        return None
    length = int(value)
    return length if length < 1 << 63 else None


class Fields:
    """Field lines by name; kept raw and taken apart when somebody asks."""

    __slots__ = ("_fields", "raw")

    _fields: list[tuple[bytes, bytes]] | None
    raw: bytes

    def _lines(self) -> Iterable[bytes]:
        return self.raw.splitlines()

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """All (lower-case name, value without the space around it), as received."""
        if self._fields is None:
            parts = (line.partition(b":") for line in self._lines())
            self._fields = [(name.lower(), value.strip()) for name, _, value in parts]
        return self._fields

    def get(self, name: bytes) -> bytes | None:
        """The first value of that lower-case name."""
        for known, value in self.fields:
            if known == name:
                return value
        return None

    def last(self, name: bytes) -> bytes | None:
        """The last value of that lower-case name: of a field that hops add, what the nearest one added."""
        for known, value in reversed(self.fields):
            if known == name:
                return value
        return None

    def joined(self, name: bytes) -> bytes | None:
        """All values of that lower-case name as one list value (RFC 9110 section 5.3)."""
        return b", ".join([value for known, value in self.fields if known == name]) or None
