"""Tunnels from TLS clients. TLS cannot half-close, and uvloop counts its unsent bytes differently."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trustme
from joined import READ_SIZE, Joined, held_back, joined, on_uvloop, tcp_pair, until

from canaryproxy.proxy.tunnel import End, Tunnel


class Peer(asyncio.Protocol):
    """The far end of a TLS connection."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.lost: list[Exception | None] = []
        self.eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.got += data

    def eof_received(self) -> bool:
        self.eof = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


@asynccontextmanager
async def joined_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> AsyncIterator[tuple[Joined, Peer]]:
    """A tunnel from a TLS client with small buffers to a TCP upstream."""
    server, client = contexts
    peer = Peer()
    async with joined(start=False) as both:
        both.near.pop("client").abort()
        near, far = tcp_pair(16384)
        connecting = asyncio.get_running_loop().create_connection(lambda: peer, sock=far, ssl=client, server_hostname="localhost")
        both.near["client"] = (await asyncio.gather(held_back(near, ssl=server), connecting))[0]
        both.make().start()
        yield both, peer
        peer.transport.abort()


@on_uvloop
async def test_tls_bytes_both_ways_and_the_clients_end(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    async with joined_tls(contexts) as (both, peer):
        data = os.urandom(3 << 20)
        peer.transport.write(data)
        assert await both.upstream.read(len(data)) == data
        for piece in (b"a", b"b", b"c"):  # one by one: uvloop pauses TLS at its limit already, not above it
            await both.upstream.send(piece)
            await until(lambda piece=piece: peer.got.endswith(piece))  # type: ignore[misc]  # a condition
            assert both.near["upstream"].is_reading()
        peer.transport.write(b"last words")
        peer.transport.close()
        assert await both.upstream.read_end() == b"last words"
        assert await both.end() == (len(data) + 10, 3, "client")
    assert not caplog.records


@on_uvloop
async def test_tls_is_closed_when_the_upstream_ends(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with joined_tls(contexts) as (both, peer):
        await both.upstream.send(b"z" * 200_000)
        both.upstream.send_fin()
        await until(lambda: peer.eof)
        assert peer.got == b"z" * 200_000
        assert await both.end() == (0, 200_000, "upstream")
        assert await both.upstream.read_end() == b""


@on_uvloop
async def test_tls_client_that_is_slow_is_bounded(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with joined_tls(contexts) as (both, peer):
        peer.transport.pause_reading()
        data = os.urandom(8 << 20)
        sending = asyncio.ensure_future(both.upstream.send(data))
        await until(both.near["client"].get_write_buffer_size)
        for _ in range(20):
            await asyncio.sleep(0.001)
            assert both.near["client"].get_write_buffer_size() <= 2 * READ_SIZE
        assert not both.near["upstream"].is_reading()
        peer.transport.resume_reading()
        await sending
        await until(lambda: len(peer.got) == len(data))
        assert peer.got == data


@on_uvloop
async def test_tls_reset(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with joined_tls(contexts) as (both, peer):
        both.upstream.reset()
        await until(lambda: peer.lost)
        assert isinstance(peer.lost[0], ConnectionResetError)
        assert (await both.end())[2] == "upstream"


@on_uvloop
async def test_tls_leaves_nothing(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    gc.collect()
    gc.disable()
    try:
        async with joined_tls(contexts) as (both, peer):
            peer.transport.close()
            await both.end()
            del both.tunnel
            both.near.clear()
            await asyncio.sleep(0.002)
            left = [type(thing) for thing in gc.get_objects() if isinstance(thing, (End, Tunnel))]
            assert not left, "a cycle keeps it"
    finally:
        gc.enable()
