"""A chunked message means the same however the network cuts it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.http1.chunked import CHUNK_END, ChunkedReader, chunk_head, last_chunk
from canaryproxy.http1.head import MessageError

PART = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda data: chunk_head(len(data)) + data + CHUNK_END),
    st.sampled_from(
        [b"3;a=b\r\nabc\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"1\r\nx", b"2\r\n", b"\r", b"\n", b"1 \r\n", b"0\r\nA", b";"]
    ),
    st.binary(max_size=4),
)
MESSAGE = st.lists(PART, max_size=6).map(b"".join)

Result = tuple[bytes, bool, list[tuple[bytes, bytes]], bytes] | MessageError


def feed(pieces: list[bytes]) -> Result:
    reader = ChunkedReader()
    body = b""
    for piece in pieces:
        got = reader.feed(piece)
        if isinstance(got, MessageError):
            return got
        body += b"".join(got)
    return body, reader.done, reader.trailers, reader.rest


@settings(max_examples=200, deadline=None)
@given(MESSAGE, st.lists(st.integers(0, 200), max_size=6))
def test_whole_bytewise_and_at_random_splits(message: bytes, cuts: list[int]) -> None:
    whole = feed([message])
    edges = [0, *sorted(cuts), len(message)]
    assert feed([bytes([value]) for value in message]) == whole
    assert feed([message[start:end] for start, end in pairwise(edges)]) == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300)), st.binary(max_size=20))
def test_what_we_write_is_what_we_read(parts: list[bytes], after: bytes) -> None:
    message = b"".join(chunk_head(len(part)) + part + CHUNK_END for part in parts) + last_chunk([(b"A", b"b")])
    assert feed([message + after]) == (b"".join(parts), True, [(b"A", b"b")], after)
