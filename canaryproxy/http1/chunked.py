"""Chunked bodies: a reader for both directions, and what to write around our own chunks.

Pure; called by `proxy`. RFC 9112 section 7.1, stricter: no space around sizes and extensions; extensions are bounded and
thrown away. What is sent on is chunked anew, so no sender's chunk header ever reaches anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from canaryproxy.http1.fields import HOP_BY_HOP, TOKEN, is_token
from canaryproxy.http1.head import MessageError, has_bad_byte, is_identity

CHUNK_END: Final = b"\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSION = rb";" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?"
_size_line = re.compile(rb"([0-9A-Fa-f]{1,16}+)((?:" + _EXTENSION + rb")*+)\r\n").match
_unfinished_size_line = re.compile(rb"[0-9A-Fa-f]{1,16}+(?:;[\t -~\x80-\xff]*+)?\r?").fullmatch

#: Fields that would change what was already decided from the head (RFC 9110 section 6.5.1).
_NOT_IN_TRAILERS: Final = HOP_BY_HOP | frozenset(
    b"host authorization www-authenticate cookie set-cookie expect cache-control max-forwards range age date expires"
    b" location retry-after vary via x-canary-variant".split()
)


class ChunkedReader:
    """Takes a chunked message apart, however it is cut into pieces.

    Once `done`, `trailers` are the fields after the last chunk that may be passed on, and `rest` is what came after the message.
    """

    __slots__ = (
        *("_extensions", "_extensions_limit", "_trailers_limit"),
        *("_in_trailers", "_left", "_line_end_due", "_unread", "_upstream", "done", "rest", "trailers"),
    )

    def __init__(self, *, upstream: bool = False, extensions: int = 4096, trailers: int = 8192) -> None:
        """`upstream`: the body of a response, so errors are 502. The others are limits of one message in bytes.

        Extensions are limited since they were used to have much read for nothing (Go, CVE-2023-39326).
        """
        self._extensions_limit, self._trailers_limit = extensions, trailers
        self.done = False
        self.trailers: list[tuple[bytes, bytes]] = []
        self.rest = b""
        self._upstream = upstream
        self._left = 0  # bytes of the current chunk that are still to come
        self._line_end_due = False  # a chunk's data is complete, but not its CRLF
        self._in_trailers = False
        self._unread = b""  # an unfinished line
        self._extensions = 0

    def feed(self, data: bytes) -> list[bytes] | MessageError:
        """The body data in `data`, in pieces; nothing may be fed after an error."""
        if self.done:
            self.rest += data
            return []
        if self._unread:
            data, self._unread = self._unread + data, b""
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._line_end_due = not self._left
                continue
            after = self._read_line(data, at)
            if isinstance(after, MessageError):
                return after
            if after == at:
                self._unread = data[at:]
                break
            at = after
        return pieces

    def _read_line(self, data: bytes, at: int) -> int | MessageError:
        """Where the line at `at` ends; `at` itself if it is unfinished."""
        if self._line_end_due:
            if data.startswith(b"\r\n", at):
                self._line_end_due = False
                return at + 2
            return at if data[at:] == b"\r" else self._error(400, "bad_chunk_end")
        if self._in_trailers:
            return self._read_trailers(data, at)
        line = _size_line(data, at)
        if line is None:
            unfinished = _unfinished_size_line(data, at) and len(data) - at <= self._extensions_limit + 18
            return at if unfinished else self._error(400, "bad_chunk_size")
        digits, extensions = line.groups()
        self._extensions += len(extensions)
        if self._extensions > self._extensions_limit:
            return self._error(400, "chunk_extensions_too_large")
        self._left = int(digits, 16)
        self._in_trailers = not self._left
        return line.end()

    def _read_trailers(self, data: bytes, at: int) -> int | MessageError:
        if data.startswith(b"\r\n", at):
            stop = at  # no trailers
        else:
            last = data.find(b"\r\n\r\n", at)
            stop = last + 2 if last >= 0 else -1
        end = len(data) if stop < 0 else stop
        if has_bad_byte(data[at : min(end, at + self._trailers_limit)]):  # first, as if it had come byte by byte
            return self._error(400, "bad_trailer")
        if end - at > self._trailers_limit:
            return self._error(431, "trailers_too_large")
        if stop < 0:
            return at
        for line in data[at:stop].splitlines(True):  # without a colon the name has the CRLF in it
            name, _, value = line.partition(b":")
            if not is_token(name):
                return self._error(400, "bad_trailer")
            if _may_be_trailer(name.lower()):
                self.trailers.append((name, value.strip()))
        self.rest = data[stop + 2 :]
        self.done = True
        return len(data)

    def _error(self, status: int, reason: str) -> MessageError:
        return MessageError(502, f"upstream_{reason}") if self._upstream else MessageError(status, reason)


def _may_be_trailer(name: bytes) -> bool:
    return not (name in _NOT_IN_TRAILERS or name.startswith((b"content-", b"if-")) or is_identity(name) or b"_" in name)


def chunk_head(length: int) -> bytes:
    """What goes before `length` bytes of data (more than 0); `CHUNK_END` goes after them."""
    return b"%x\r\n" % length


def last_chunk(trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The end of a chunked message, with those trailers."""
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % trailer for trailer in trailers])
