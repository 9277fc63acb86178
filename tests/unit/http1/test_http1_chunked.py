"""Chunked bodies: F16, F17, R4."""

from __future__ import annotations

import time

import pytest

from canaryproxy.http1.chunked import CHUNK_END, LAST_CHUNK, ChunkedReader, chunk_head, last_chunk
from canaryproxy.http1.head import MessageError


def feed_bytewise(reader: ChunkedReader, data: bytes) -> bytes | MessageError:
    body = b""
    for value in data:
        pieces = reader.feed(bytes([value]))
        if isinstance(pieces, MessageError):
            return pieces
        body += b"".join(pieces)
    return body


GOOD: dict[str, tuple[bytes, bytes]] = {
    "one": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two": (b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n", b"hello0123456789"),
    "empty": (b"0\r\n\r\n", b""),
    "zeros": (b"0000000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "lower-hex": (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "crlf-in-data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "F16-extensions": (b'5;a;b=c;d="e\\"; \xe9"\r\nhello\r\n0;z\r\n\r\n', b"hello"),
    "F17-trailers": (b"0\r\nA: b\r\nC:d\r\n\r\n", b""),
}


@pytest.mark.parametrize(("data", "body"), GOOD.values(), ids=GOOD.keys())
def test_good(data: bytes, body: bytes) -> None:
    for rest in (b"", b"GET / HTTP/1.1\r\n"):
        whole, bytewise = ChunkedReader(), ChunkedReader()
        pieces = whole.feed(data + rest)
        assert not isinstance(pieces, MessageError)
        assert b"".join(pieces) == body == feed_bytewise(bytewise, data + rest)
        assert whole.done
        assert bytewise.done
        assert whole.rest == bytewise.rest == rest


@pytest.mark.parametrize("data", [data for data, _ in GOOD.values()], ids=GOOD.keys())
def test_every_beginning_is_unfinished(data: bytes) -> None:
    for cut in range(len(data)):
        reader = ChunkedReader()
        assert isinstance(reader.feed(data[:cut]), list)
        assert not reader.done


BAD: dict[str, tuple[bytes, str]] = {
    "F16-0x": (b"0x5\r\nhello\r\n", "bad_chunk_size"),
    "F16-sign": (b"+5\r\nhello\r\n", "bad_chunk_size"),
    "F16-minus": (b"-5\r\nhello\r\n", "bad_chunk_size"),
    "F16-underscore": (b"1_0\r\nhello\r\n", "bad_chunk_size"),
    "F16-17-digits": (b"00000000000000005\r\nhello\r\n", "bad_chunk_size"),
    "F16-no-digit": (b"\r\nhello\r\n", "bad_chunk_size"),
    "F16-only-extension": (b";a=b\r\nhello\r\n", "bad_chunk_size"),
    "F16-space-before": (b" 5\r\nhello\r\n", "bad_chunk_size"),
    "F16-space-after": (b"5 \r\nhello\r\n", "bad_chunk_size"),
    "F16-lf": (b"5\nhello\r\n", "bad_chunk_size"),
    "F16-cr": (b"5\rhello\r\n", "bad_chunk_size"),
    "F16-extension-lf": (b"5;a\nhello\r\n", "bad_chunk_size"),
    "F16-extension-cr": (b"5;a\rb\r\nhello\r\n", "bad_chunk_size"),
    "F16-extension-empty": (b"5;\r\nhello\r\n", "bad_chunk_size"),
    "F16-extension-no-value": (b"5;a=\r\nhello\r\n", "bad_chunk_size"),
    "F16-extension-open-quote": (b'5;a="b\r\nhello\r\n', "bad_chunk_size"),
    "F16-extension-nul": (b"5;a=\0\r\nhello\r\n", "bad_chunk_size"),
    "F16-data-too-long": (b"5\r\nhello!\r\n0\r\n\r\n", "bad_chunk_end"),
    "F16-data-lf": (b"5\r\nhello\n0\r\n\r\n", "bad_chunk_end"),
    "F16-data-cr": (b"5\r\nhello\r0\r\n\r\n", "bad_chunk_end"),
    "F17-lf": (b"0\r\nA: b\n\n", "bad_trailer"),
    "F17-fold": (b"0\r\nA: b\r\n c\r\n\r\n", "bad_trailer"),
    "F17-space": (b"0\r\nA : b\r\n\r\n", "bad_trailer"),
    "F17-no-colon": (b"0\r\nGET / HTTP/1.1\r\n\r\n", "bad_trailer"),
    "F17-no-colon-but-a-token": (b"0\r\nA\r\n\r\n", "bad_trailer"),
    "F17-first-fold": (b"0\r\n \r\n\r\n", "bad_trailer"),
    "F17-nul": (b"0\r\nA: \0\r\n\r\n", "bad_trailer"),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD.keys())
def test_bad(data: bytes, reason: str) -> None:
    assert ChunkedReader().feed(data) == MessageError(400, reason)
    assert feed_bytewise(ChunkedReader(), data) == MessageError(400, reason)
    assert ChunkedReader(upstream=True).feed(data) == MessageError(502, "upstream_" + reason)


class TestLimits:
    def test_f16_extensions_of_the_whole_message(self) -> None:
        line = b"1;" + b"a" * 1022 + b"\r\nx\r\n"
        reader = ChunkedReader()
        assert isinstance(reader.feed(line * 4), list)
        assert reader.feed(line) == MessageError(400, "chunk_extensions_too_large")

    def test_f16_an_extension_without_end(self) -> None:
        reader = ChunkedReader()
        assert reader.feed(b"5;" + b"a" * 4000) == []
        assert isinstance(reader.feed(b"a" * 200), MessageError)

    def test_f17_trailers(self) -> None:
        fitting = b"A: " + b"b" * 8187 + b"\r\n"
        assert len(fitting) == 8192
        reader = ChunkedReader()
        reader.feed(b"0\r\n" + fitting + b"\r\n")
        assert reader.done
        too_large = MessageError(431, "trailers_too_large")
        assert ChunkedReader().feed(b"0\r\nA" + fitting + b"\r\n") == too_large
        assert ChunkedReader().feed(b"0\r\nA" + b"b" * 8192) == too_large


def test_f17_forbidden_trailers_are_dropped() -> None:
    names = (
        b"Transfer-Encoding Content-Length Host Content-Type Content-Encoding Authorization Set-Cookie Cookie Connection TE"
        b" Trailer Expect If-Match Range X-Forwarded-For Forwarded X-Real-IP Content_Length Cache-Control Proxy-Authorization"
        b" X-Request-ID WWW-Authenticate Max-Forwards Age Date Expires Location Retry-After Vary Via Keep-Alive Upgrade"
    ).split()
    for upstream in (False, True):
        reader = ChunkedReader(upstream=upstream)
        reader.feed(b"0\r\nGrpc-Status: 0 \r\n" + b"".join(name + b": 1\r\n" for name in names) + b"x-checksum:y\r\n\r\n")
        assert reader.done
        assert reader.trailers == [(b"Grpc-Status", b"0"), (b"x-checksum", b"y")]
        assert last_chunk(reader.trailers) == b"0\r\nGrpc-Status: 0\r\nx-checksum: y\r\n\r\n"


def test_r4_what_comes_after_the_end_is_kept_apart() -> None:
    reader = ChunkedReader()
    assert reader.feed(b"1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n") == [b"x"]
    assert reader.feed(b"more") == []
    assert reader.rest == b"HTTP/1.1 200 OK\r\nmore"


def test_data_inside_a_chunk_is_not_copied() -> None:
    reader = ChunkedReader()
    reader.feed(b"10000\r\n")
    data = b"x" * 4096
    pieces = reader.feed(data)
    assert isinstance(pieces, list)
    assert pieces[0] is data


def test_what_we_write_is_what_we_read() -> None:
    written = chunk_head(11) + b"hello world" + CHUNK_END + last_chunk([(b"A", b"b")])
    assert written == b"b\r\nhello world\r\n0\r\nA: b\r\n\r\n"
    reader = ChunkedReader()
    assert reader.feed(written) == [b"hello world"]
    assert reader.trailers == [(b"A", b"b")]
    assert last_chunk() == LAST_CHUNK


@pytest.mark.parametrize(
    "data",
    [
        b"1;" + b'a="' * 10_000,
        b"1" + b";a" * 20_000,
        b'1;a="' + b"\\\\" * 16_000,
        b"0\r\n" + b"a:\r\n" * 10_000,
        b"1\r\nx\r\n" * 6_000,
    ],
    ids=["quotes", "extensions", "escapes", "trailers", "tiny-chunks"],
)
def test_linear_time(data: bytes) -> None:
    started = time.process_time()
    ChunkedReader().feed(data)
    assert time.process_time() - started < 0.1
