"""Tunnels between real sockets on loopback, on uvloop, with a stub of the worker whose clock the test moves."""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import uvloop

from canaryproxy.proxy.tunnel import Tunnel

if TYPE_CHECKING:
    from canaryproxy.proxy.worker import Worker

P = ParamSpec("P")
READ_SIZE = 128 * 1024
RESET = struct.pack("ii", 1, 0)


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs on uvloop, as a worker does."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(*args, **kwargs), 20))  # signals, pytest-timeout's too, do not wake uvloop

    return run


async def until(is_true: Callable[[], object]) -> None:
    """Let the loop turn until the condition holds."""
    for _ in range(5000):
        if is_true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


class StubWorker:
    """What a tunnel asks of the worker."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timeouts = SimpleNamespace(tunnel_idle=3600.0, tunnel_linger=30.0, send_idle=20.0)
        self.outbox: list[tuple[asyncio.Transport, bytes]] = []
        self.buffers = 0
        self.replace_read_buffer()

    def replace_read_buffer(self) -> None:
        self.buffers += 1
        self.read_view = memoryview(bytearray(READ_SIZE))

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        if not self.outbox:
            asyncio.get_running_loop().call_soon(self.flush)
        self.outbox.append((transport, data))

    def flush(self) -> None:
        outbox, self.outbox = self.outbox, []
        for transport, data in outbox:
            if not transport.is_closing():
                transport.write(data)


class Before(asyncio.Protocol):
    """Has a connection until the tunnel takes it; holds back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.held = b""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(0)

    def data_received(self, data: bytes) -> None:
        self.held += data
        self.transport.pause_reading()


def tcp_pair(buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection on loopback, with send and receive buffers of about this size."""
    with socket.socket() as listener, socket.socket() as near:
        for sock in (listener, near):
            if buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        far.setblocking(False)
        return near.dup(), far


class Far:
    """The other end of one of the tunnel's connections."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read(self, size: int) -> bytes:
        """Exactly so much."""
        data = bytearray()
        while len(data) < size:
            piece = await asyncio.get_running_loop().sock_recv(self.sock, size - len(data))
            assert piece, f"ended after {len(data)} of {size} bytes"
            data += piece
        return bytes(data)

    async def read_end(self) -> bytes:
        """What comes before the end; a reset is raised."""
        data = bytearray()
        while piece := await asyncio.get_running_loop().sock_recv(self.sock, 65536):
            data += piece
        return bytes(data)

    def send_fin(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()


class Joined:
    """A tunnel, and the far ends of its two connections."""

    def __init__(self, worker: StubWorker, client: Far, upstream: Far) -> None:
        self.worker, self.client, self.upstream = worker, client, upstream
        self.ended: list[tuple[int, int, str]] = []
        self.near: dict[str, asyncio.Transport] = {}

    def make(self) -> Tunnel:
        near = self.near
        self.tunnel = Tunnel(cast("Worker", self.worker), near["client"], near["upstream"], on_end=self._end)
        return self.tunnel

    def _end(self, to_upstream: int, to_client: int, who: str) -> None:
        self.ended.append((to_upstream, to_client, who))

    def side(self, name: str) -> tuple[Far, Far]:
        """The far end of that name, and the other one."""
        return (self.client, self.upstream) if name == "client" else (self.upstream, self.client)

    def advance(self, seconds: float) -> None:
        """Let time pass and the sweep look at deadlines."""
        self.worker.now += seconds
        if self.tunnel.deadline <= self.worker.now:
            self.tunnel.on_deadline(self.worker.now)

    async def end(self) -> tuple[int, int, str]:
        await until(lambda: self.ended)
        assert len(self.ended) == 1
        return self.ended[0]


async def held_back(sock: socket.socket, **tls: Any) -> asyncio.Transport:
    """The transport of a connection of which nothing has been read yet."""
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Before, sock, **tls)
    transport.pause_reading()
    return transport


@asynccontextmanager
async def joined(
    *, slow: str = "", start: bool = True, pair: Callable[[int], tuple[socket.socket, socket.socket]] = tcp_pair
) -> AsyncIterator[Joined]:
    """Two connections, in a tunnel unless `start` is false; the `slow` side has small buffers."""
    pairs = {side: pair(16384 if side == slow else 0) for side in ("client", "upstream")}
    far = {side: sock for side, (_, sock) in pairs.items()}
    both = Joined(StubWorker(), Far(far["client"]), Far(far["upstream"]))
    for side, (near, _) in pairs.items():
        both.near[side] = await held_back(near)
    if start:
        both.make().start()
    try:
        yield both
    finally:
        for side in list(both.near):
            both.near[side].abort()
        for sock in far.values():
            sock.close()
        await asyncio.sleep(0.002)
