"""WebSocket through a tunnel, spoken by `websockets`: frames of all sizes, and either end dying (C9)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
from joined import RESET, Before, StubWorker, on_uvloop, until
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from canaryproxy.proxy.tunnel import Tunnel

if TYPE_CHECKING:
    from canaryproxy.proxy.worker import Worker


class Front(Before):
    """Tunnels each client to one server from the first byte on."""

    def __init__(self, worker: StubWorker, port: int, tunnels: list[Tunnel], ended: list[tuple[int, int, str]]) -> None:
        self._worker, self._port, self._tunnels, self._ended = worker, port, tunnels, ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._joining = asyncio.ensure_future(self._join())

    async def _join(self) -> None:
        upstream, _ = await asyncio.get_running_loop().create_connection(Before, "127.0.0.1", self._port)
        tunnel = Tunnel(
            cast("Worker", self._worker), self.transport, upstream, on_end=lambda *end: self._ended.append(cast(Any, end))
        )
        tunnel.start(to_upstream=self.held)
        self._tunnels.append(tunnel)


class Web:
    """A WebSocket server behind a tunnel."""

    def __init__(self, url: str, tunnels: list[Tunnel], ended: list[tuple[int, int, str]]) -> None:
        self.url, self.tunnels, self.ended = url, tunnels, ended

    def connect(self) -> connect:
        return connect(self.url, max_size=None, compression=None, close_timeout=1)


@asynccontextmanager
async def web(serve_one: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[Web]:
    tunnels: list[Tunnel] = []
    ended: list[tuple[int, int, str]] = []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serve(serve_one, "127.0.0.1", 0, max_size=None, compression=None, close_timeout=1)
        )
        port = next(iter(server.sockets)).getsockname()[1]
        worker = StubWorker()
        front = await asyncio.get_running_loop().create_server(lambda: Front(worker, port, tunnels, ended), "127.0.0.1", 0)
        stack.callback(front.close)
        yield Web(f"ws://127.0.0.1:{front.sockets[0].getsockname()[1]}", tunnels, ended)
        await until(lambda: len(ended) == len(tunnels))


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@on_uvloop
async def test_websocket_big_frames() -> None:
    async with web(echo) as there, there.connect() as client:
        message = os.urandom(8 << 20)
        await client.send(message)
        assert await client.recv() == message
        await client.send(b"and a small one")
        assert await client.recv() == b"and a small one"


@on_uvloop
async def test_websocket_thousands_of_small_frames() -> None:
    async def send_all(client: ClientConnection) -> None:
        for n in range(3000):
            await client.send(str(n))

    async with web(echo) as there, there.connect() as client:
        sending = asyncio.ensure_future(send_all(client))
        assert [await client.recv() for n in range(3000)] == [str(n) for n in range(3000)]
        await sending
        await client.ping()
    assert len(there.ended) == 1


@on_uvloop
async def test_websocket_closed_by_either_side() -> None:
    async def leave(connection: ServerConnection) -> None:
        if await connection.recv() == "leave":
            await connection.close(4000, "bye")
        else:
            with pytest.raises(ConnectionClosedOK):
                await connection.recv()

    async with web(leave) as there:
        async with there.connect() as client:
            await client.send("leave")
            with pytest.raises(ConnectionClosedError, match="4000"):
                await client.recv()
        async with there.connect() as client:
            await client.send("stay")
    assert [who for _, _, who in there.ended] == ["upstream", "upstream"], "it is the server's to end the connection first"


@on_uvloop
async def test_websocket_client_dies() -> None:
    seen: list[str] = []

    async def wait(connection: ServerConnection) -> None:
        try:
            await connection.recv()
        except ConnectionClosedError as error:
            seen.append(type(error.__cause__).__name__)

    async with web(wait) as there, there.connect() as client:
        sock = client.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.transport.abort()
        await until(lambda: seen)
    assert seen == ["ConnectionResetError"]
    assert [who for _, _, who in there.ended] == ["client"]


@on_uvloop
async def test_websocket_server_dies() -> None:
    async def die(connection: ServerConnection) -> None:
        sock = connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.transport.abort()

    async with web(die) as there, there.connect() as client:
        with pytest.raises(ConnectionClosedError) as error:
            await client.recv()
        assert isinstance(error.value.__cause__, ConnectionResetError)
    assert [who for _, _, who in there.ended] == ["upstream"]


@on_uvloop
async def test_websocket_closed_at_the_drains_deadline() -> None:
    async with web(echo) as there, there.connect() as client:
        await client.send("x")
        assert await client.recv() == "x"
        there.tunnels[0].close("drain")
        with pytest.raises(ConnectionClosedError):
            await client.recv()
    assert [who for _, _, who in there.ended] == ["proxy"]
