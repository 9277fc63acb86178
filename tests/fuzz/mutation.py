"""Small changes to a message, in the places where parsers differ: framing fields, white space, line ends, numbers, joints."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

_NAMES: Final = (
    *(
        b"Content-Length",
        b"Transfer-Encoding",
        b"content-length",
        b"TRANSFER-ENCODING",
        b"Host",
        b"Connection",
        b"TE",
        b"Upgrade",
    ),
    *(
        b"Expect",
        b"Content_Length",
        b"Transfer\xa0Encoding",
        b"Content-Length ",
        b" Transfer-Encoding",
        b"Content-Length\0",
        b"X-A",
        b"",
    ),
)
_VALUES: Final = (
    *(b"0", b"5", b"05", b"+5", b"-0", b"5, 5", b"5,", b"5 5", b"0x5", b"5_0", b"5.0", b"\xb5", b"", b"18446744073709551621"),
    *(b"9223372036854775807", b"9223372036854775808", b"chunked", b"Chunked", b"CHUNKED ", b"identity", b"gzip, chunked"),
    *(
        b"chunked, gzip",
        b",chunked",
        b"chunked,",
        b"xchunked",
        b"chunked;q=1",
        b'"chunked"',
        b"chunked\x0b",
        b"\tchunked",
        b"chunKed\t",
    ),
    *(b"a", b"a b", b"a/b", b"a,b", b"u@a", b"[::1]:80", b"a:99999", b"close", b"keep-alive", b"Close, TE", b"Transfer-Encoding"),
    *(b"Content-Length", b"upgrade", b"websocket", b"trailers", b"100-continue", b"y 100-continue", b"a\0b", b"a\x7f", b"\xff"),
)
_SPACES: Final = (b" ", b"\t", b"  ", b"\x0b", b"\x0c", b"\xa0", b"\x85", b"\0")
_LINE_ENDS: Final = (
    b"\n",
    b"\r",
    b"\n\r",
    b"\r\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\r\n\t",
    b"\0\r\n",
    b"",
    b" \r\n",
    b"\x85",
    b"\x1c",
)
_NUMBERS: Final = (
    b"0",
    b"1",
    b"2",
    b"00",
    b"A",
    b"f",
    b"10",
    b"-1",
    b"0x1",
    b"1_0",
    b"999",
    b"ffffffffffffffff",
    b"10000000000000000",
)
_delicate = re.compile(rb"[:, ;=]|\r\n")
_number = re.compile(rb"[0-9A-Fa-f]+")


def _at(matches: Sequence[re.Match[bytes]], random: Random) -> tuple[int, int]:
    return random.choice(matches).span() if matches else (0, 0)


def _double_line(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(True)
    if lines:
        lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
    return b"".join(lines)


def _move_line(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(True)
    if lines:
        line = lines.pop(random.randrange(len(lines)))
        lines.insert(random.randrange(len(lines) + 1), line)
    return b"".join(lines)


def _new_line(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(True)
    lines.insert(
        random.randrange(1, len(lines) + 1) if lines else 0, b"%b: %b\r\n" % (random.choice(_NAMES), random.choice(_VALUES))
    )
    return b"".join(lines)


def _other_value(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(True)
    fields = [number for number, line in enumerate(lines) if b":" in line]
    if fields:
        number = random.choice(fields)
        name, value = lines[number].split(b":", 1)
        if random.randrange(3):
            value = b" " + random.choice(_VALUES) + b"\r\n"
        else:
            name = random.choice(_NAMES)
        lines[number] = name + b":" + value
    return b"".join(lines)


def _space(data: bytes, random: Random) -> bytes:
    start, end = _at(list(_delicate.finditer(data)), random)
    at = random.choice((start, end))
    return data[:at] + random.choice(_SPACES) + data[at:]


def _line_end(data: bytes, random: Random) -> bytes:
    start, end = _at(list(re.finditer(rb"\r\n", data)), random)
    return data[:start] + random.choice(_LINE_ENDS) + data[end:]


def _every_line_end(data: bytes, random: Random) -> bytes:
    return data.replace(b"\r\n", random.choice(_LINE_ENDS))


def _other_number(data: bytes, random: Random) -> bytes:
    start, end = _at(list(_number.finditer(data)), random)
    return data[:start] + random.choice(_NUMBERS) + data[end:]


def _slice(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 1, 2, 4, 16, 64)))


def _case(data: bytes, random: Random) -> bytes:
    start, end = _slice(data, random)
    return data[:start] + data[start:end].swapcase() + data[end:]


def _cut(data: bytes, random: Random) -> bytes:
    start, end = _slice(data, random)
    return data[:start] + data[end:]


def _repeat(data: bytes, random: Random) -> bytes:
    start, end = _slice(data, random)
    return data[:end] + data[start:end] * random.choice((1, 1, 2, 30)) + data[end:]


def _byte(data: bytes, random: Random) -> bytes:
    start, _ = _slice(data, random)
    return data[:start] + bytes((random.randrange(256),)) + data[start + random.randrange(2) :]


MUTATIONS: Final[tuple[Callable[[bytes, Random], bytes], ...]] = (
    *(_double_line, _move_line, _new_line, _other_value, _other_value, _space, _line_end, _every_line_end, _other_number),
    *(_case, _cut, _repeat, _byte),
)


def mutate(data: bytes, others: Sequence[bytes], random: Random, limit: int = 16384) -> bytes:
    """`data` with a few changes, perhaps joined with another message; at most `limit` bytes."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
        if random.randrange(12):
            data = random.choice(MUTATIONS)(data, random)
        else:
            other = random.choice(others)
            data = data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]
    return data[:limit]
