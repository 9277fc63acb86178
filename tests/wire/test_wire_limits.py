"""Limits that a configuration may move: what is within passes, what is beyond is refused."""

from __future__ import annotations

import pytest
from wire import GET, OK, Wire

from canaryproxy.shared.layout import Count

CHUNKED = b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(("size", "status"), [(30, b"200"), (40, b"400")])
def test_chunk_extensions(size: int, status: bytes) -> None:
    with Wire(limits={"chunk_extensions": 32}) as wire:
        client = wire.client()
        client.send(CHUNKED + b"2;%b\r\nhi\r\n0\r\n\r\n" % (b"x" * (size - 1)))
        if status == b"200":
            wire.origin.send(OK)
        assert client.read().startswith(b"HTTP/1.1 %b " % status)


@pytest.mark.parametrize(("size", "status"), [(50, b"200"), (90, b"431")])
def test_trailers(size: int, status: bytes) -> None:
    with Wire(limits={"trailers": 64}) as wire:
        client = wire.client()
        client.send(CHUNKED + b"2\r\nhi\r\n0\r\nX: %b\r\n\r\n" % (b"x" * (size - 5)))
        if status == b"200":
            wire.origin.send(OK)
        assert client.read().startswith(b"HTTP/1.1 %b " % status)


@pytest.mark.parametrize(("count", "answered"), [(2, True), (3, False)])
def test_interim_responses(count: int, answered: bool) -> None:
    with Wire(limits={"interim_responses": 2}) as wire:
        answer = wire.exchange(GET, b"HTTP/1.1 103 Early Hints\r\n\r\n" * count + OK)
        assert answer.endswith(b"ok" if answered else b"502 Bad Gateway\n")
        assert wire.outcomes() == {Count.C2XX if answered else Count.RESPONSE_INVALID: 1}


@pytest.mark.parametrize(("size", "again"), [(100, True), (101, False)])
def test_how_much_of_a_body_is_kept_to_be_sent_again(size: int, again: bool) -> None:
    with Wire(limits={"replay_body": 100}) as wire:
        client = wire.client()
        client.send(GET)
        stale = wire.origin
        stale.send(OK)
        client.read()
        client.send(b"PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        stale.send_fin()
        if again:
            wire.origin.send(OK)
        assert client.read().startswith(b"HTTP/1.1 200 " if again else b"HTTP/1.1 502 ")
