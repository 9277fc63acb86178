"""Lines of the access log: one exchange as JSON, or as Apache's "combined", which goaccess and most log tools read.

Pure. `proxy.accesslog` asks once for each exchange, on the request path.

* Never in a line: cookies, Authorization, bodies. The target is logged as it came, so **query strings are logged**.
* Whatever a client sent, a line is printable ASCII and ends in its only LF.
* A line of JSON has every key, the fields of `Entry` in their order; what has no value is null. Each character of a text stands
  for one byte of the wire (latin-1): `"\\u00c3\\u00a9"` was C3 A9. Times are in seconds.
* In a line of combined `"`, `\\`, control and non-ASCII bytes are `\\xHH` (nginx's escape); what has no value is `-`, and a
  response that was never begun has nginx's status 499, as goaccess drops lines with a status that it does not know.
* A line has at most `MAX_LINE` bytes; the longest values are cut for that, and end in `...` then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import not_
from typing import Final, NamedTuple, TypeAlias

#: PIPE_BUF of Linux (pipe(7)): a write up to this size to a pipe stays in one piece, whoever else writes to it.
MAX_LINE: Final = 4096


class Entry(NamedTuple):
    """What is logged of one exchange. Made by position it costs a third of what it costs by keyword."""

    time: float = 0.0  #: wall-clock seconds since 1970-01-01 UTC at which the exchange began
    # Texts: bytes as they came, b"" for none.
    request_id: bytes = b""
    trace_id: bytes = b""  #: `trace_id(...)` of the request's traceparent
    client_ip: bytes = b""  #: the user's address, as far as trusted proxies are believed
    peer: bytes = b""  #: the address that is connected to us
    method: bytes = b""
    target: bytes = b""
    proto: bytes = b""  #: b"HTTP/1.1"
    host: bytes = b""
    status_from: bytes = b""  #: who made the status: b"proxy" or b"upstream"
    error: bytes = b""  #: machine word of an answer of our own
    route: bytes = b""
    variant: bytes = b""  #: b"stable" or b"canary"
    assignment: bytes = b""  #: why that variant: b"header", b"cookie", b"issued", b"ip", b"override", b"no_user", b"fallback" ...
    override: bytes = b""  #: what put it there: b"header", b"cookie", b"users" or b"match"
    upstream: bytes = b""  #: b"host:port" of the last attempt
    #: Two letters like HAProxy's. Who ended it: `-` nobody before its end, C client, S upstream, P proxy, c and s their timeouts.
    #: In which phase: R request, Q queue, C connect, H response head, D data, `-` done.
    termination: bytes = b""
    user_agent: bytes = b""
    referer: bytes = b""
    # Numbers.
    status: int = 0  #: 0: no response was begun
    bytes_in: int = 0  #: of bodies
    bytes_out: int = 0
    t_total: float | None = None  #: these in seconds; None: that phase was not reached
    t_queue: float | None = None
    t_connect: float | None = None
    t_ttfb: float | None = None
    t_body: float | None = None
    attempts: int = 0
    reused: bool = False  #: sent on a connection to the upstream that was used before


#: Where an entry has its texts.
_FIRST: Final = 1
_END: Final = 19
#: How a field is written in JSON: with a value; without one, of which nothing must be written then (`%.0a` is its first 0
#: characters).
_Form: TypeAlias = tuple[bytes] | tuple[bytes, bytes]
_TEXT: Final[_Form] = (b'"%b"', b"null%b")
_COUNT: Final[_Form] = (b"%d",)
_STATUS: Final[_Form] = (b"%d", b"null%.0a")
_SECONDS: Final[_Form] = (b"%.6f", b"null%.0a")
_BOOL: Final[_Form] = (b"true%.0a", b"false%.0a")
_NUMBERS: Final = (_STATUS, _COUNT, _COUNT, _SECONDS, _SECONDS, _SECONDS, _SECONDS, _SECONDS, _COUNT, _BOOL)
_JSON_FORMS: Final[Sequence[_Form]] = ((b"%.6f",), *[_TEXT] * (_END - _FIRST), *_NUMBERS)
_COMBINED_LINE: Final = b'%b - - [%b] "%b" %d %d "%b" "%b"\n'

#: What stands for itself in both formats. To delete these from all values at once is the fastest way to see if any is left.
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
_JSON_ESCAPES: Final = [json.dumps(chr(byte))[1:-1].encode() for byte in range(256)]
_HEX_ESCAPES: Final = [bytes([byte]) if byte in _PLAIN else b"\\x%02X" % byte for byte in range(256)]
#: The longest beginning that does not end within an escape of either kind.
_match_whole = re.compile(rb"(?:[^\\]++|\\x..|\\u....|\\[^xu])*+").match

_MONTHS: Final = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # not strftime's, which follow the locale

#: The lookahead: no version ff, and nothing more in version 00.
_match_traceparent = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
).fullmatch


def as_json(entry: Entry) -> bytes:
    """One line of JSON, LF included."""
    texts: Sequence[bytes] = entry[_FIRST:_END]
    if b"".join(texts).translate(None, _PLAIN):
        texts = _escape(texts, _JSON_ESCAPES)
        entry = _with_texts(entry, texts)
    line = _format_json(entry, texts)
    if len(line) > MAX_LINE:
        line = _format_json(_with_texts(entry, _cut(texts, len(line) - MAX_LINE)), texts)
    return line


def as_combined(entry: Entry) -> bytes:
    """One line of `%h - - %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"` in UTC, LF included; `%h` is the client's address."""
    texts: Sequence[bytes] = (entry.client_ip, entry.method, entry.target, entry.proto, entry.referer, entry.user_agent)
    if b"".join(texts).translate(None, _PLAIN) or b" " in entry.client_ip:
        texts = _escape(texts, _HEX_ESCAPES)
        texts[0] = texts[0].replace(b" ", b"\\x20")  # the only text without quotes around it
    line = _format_combined(entry, texts)
    return line if len(line) <= MAX_LINE else _format_combined(entry, _cut(texts, len(line) - MAX_LINE))


def trace_id(traceparent: bytes | None) -> bytes:
    """The trace id (32 hex digits) of a valid traceparent, else b"" (W3C Trace Context section 3.2).

    Later versions than 00 may have more behind a dash.
    """
    match = _match_traceparent(traceparent) if traceparent else None
    return match[1] if match else b""


def _format_json(entry: Entry, texts: Iterable[bytes]) -> bytes:
    status, _, _, total, queue, connect, ttfb, body, _, reused = entry[_END:]
    absent = (not status, total is None, queue is None, connect is None, ttfb is None, body is None, not reused)
    return _json_template(*map(not_, texts), *absent) % entry


@lru_cache(maxsize=512)
def _json_template(*absent: bool) -> bytes:
    """What makes a line of an entry, given which of the fields that may be without a value are so. A site has some dozens."""
    flags = iter(absent)
    forms = [form[next(flags)] if len(form) == 2 else form[0] for form in _JSON_FORMS]
    return b"{%b}\n" % b",".join([b'"%b":%b' % (name.encode(), form) for name, form in zip(Entry._fields, forms, strict=True)])


def _format_combined(entry: Entry, texts: Iterable[bytes]) -> bytes:
    client_ip, method, target, proto, referer, user_agent = texts
    return _COMBINED_LINE % (
        client_ip or b"-",
        _local_time(int(entry.time)),
        b"%b %b %b" % (method, target, proto) if method or target or proto else b"-",
        entry.status or 499,
        entry.bytes_out,
        referer or b"-",
        user_agent or b"-",
    )


@lru_cache(maxsize=4)
def _local_time(second: int) -> bytes:
    time = datetime.fromtimestamp(second, UTC)
    month = _MONTHS[time.month - 1]
    return b"%02d/%b/%04d:%02d:%02d:%02d +0000" % (time.day, month, time.year, time.hour, time.minute, time.second)


def _with_texts(entry: Entry, texts: Iterable[bytes]) -> Entry:
    return Entry._make((entry[0], *texts, *entry[_END:]))


def _escape(texts: Iterable[bytes], escapes: Sequence[bytes]) -> list[bytes]:
    """The texts with each byte as `escapes` has it; of a text that will be cut anyway, not all."""
    return [b"".join([escapes[byte] for byte in text[:MAX_LINE]]) for text in texts]


def _cut(texts: Iterable[bytes], excess: int) -> list[bytes]:
    """The texts, escaped before, with the longest ones cut until all together are shorter by `excess` bytes or more."""
    cut = list(texts)
    room = sum(map(len, cut)) - excess
    while (over := sum(map(len, cut)) - room) > 0:
        longest = max(range(len(cut)), key=lambda index: len(cut[index]))
        text = cut[longest]
        size = max(len(text) - over, len(text) // 2) - len(b"...")
        whole = _match_whole(text, 0, size)
        cut[longest] = (whole[0] if whole else b"") + b"..."
    return cut
