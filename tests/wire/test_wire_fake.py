"""The fake transport against uvloop's: each script of calls is told to both, and must be answered alike."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

import pytest
import uvloop
from wire import FarEnd, Wire

Calls = list[str]


class Recorder(asyncio.BufferedProtocol):
    """Notes what it is told. `keep_open` is its answer to the end of input."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.calls: Calls = []
        self._view = memoryview(bytearray(65536))
        self._keep_open = keep_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(65536, 16384)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self.calls.append(f"read {nbytes}")

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self._keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(f"lost {type(exc).__name__}")


class Far(Protocol):
    """What a script may do at the far end."""

    async def send(self, data: bytes) -> None: ...
    async def fin(self) -> None: ...
    async def take_all(self) -> None: ...


class FakeFar:
    """The far end of a `FarEnd`; its window is closed until all is taken."""

    def __init__(self, end: FarEnd) -> None:
        self._end = end
        end.window = 0

    async def send(self, data: bytes) -> None:
        self._end.send(data)

    async def fin(self) -> None:
        self._end.send_fin()

    async def take_all(self) -> None:
        self._end.take()


class RealFar:
    """The far end of a real socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)
        await self._settle()

    async def fin(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)
        await self._settle()

    async def take_all(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)
            try:
                self._sock.recv(1 << 20)
            except BlockingIOError:
                continue

    async def _settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


Script = Callable[[Recorder, Far], Coroutine[Any, Any, None]]


def on_fake(script: Script, protocol: Recorder) -> Calls:
    with Wire() as wire:
        end = FarEnd(wire, cast(Any, protocol), "far")
        wire.ends.append(end)

        async def tell() -> None:
            await script(protocol, FakeFar(end))
            wire.settle()

        asyncio.run(tell())
        wire.ends.clear()
    return protocol.calls


def on_uvloop(script: Script, protocol: Recorder) -> Calls:
    async def tell() -> None:
        near, far = socket.socketpair()
        far.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near)
        await script(protocol, RealFar(far))
        for _ in range(20):
            await asyncio.sleep(0)
        calls = list(protocol.calls)
        transport.abort()
        await asyncio.sleep(0)
        far.close()
        protocol.calls = calls

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(tell())
    return protocol.calls


async def pause_is_synchronous(near: Recorder, far: Far) -> None:
    near.transport.write(bytes(8_000_000))
    near.calls.append("written")
    near.transport.write(bytes(8_000_000))
    await far.take_all()


async def end_after_pause_is_told_on_resume(near: Recorder, far: Far) -> None:
    near.transport.pause_reading()
    await far.send(b"abc")
    await far.fin()
    near.calls.append("resumed")
    near.transport.resume_reading()
    near.transport.resume_reading()
    await far.send(b"") if not near.calls else None


async def end_is_told_again_on_resume(near: Recorder, far: Far) -> None:
    await far.fin()
    near.calls.append(f"reading {near.transport.is_reading()}")
    near.transport.resume_reading()


async def closing_is_deaf_but_not_mute(near: Recorder, far: Far) -> None:
    near.transport.write(bytes(8_000_000))
    near.transport.close()
    near.transport.pause_reading()
    near.transport.resume_reading()
    near.calls.append(f"reading {near.transport.is_reading()} closing {near.transport.is_closing()}")
    near.transport.write(b"more")
    await far.take_all()


async def nothing_after_eof(near: Recorder, far: Far) -> None:
    near.transport.write_eof()
    near.transport.write_eof()
    with pytest.raises(RuntimeError, match="after write_eof"):
        near.transport.write(b"x")
    await far.send(b"still read")


async def abort_forgets(near: Recorder, far: Far) -> None:
    near.transport.write(bytes(8_000_000))
    near.transport.abort()
    near.transport.abort()
    near.transport.write(b"x")
    near.calls.append(f"closing {near.transport.is_closing()}")


async def gone_is_gone(near: Recorder, far: Far) -> None:
    await far.fin()
    await far.take_all()
    near.transport.close()
    near.transport.abort()
    near.transport.pause_reading()
    near.transport.resume_reading()
    with pytest.raises(RuntimeError):
        near.transport.write(b"x")


@pytest.mark.parametrize("keep_open", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        pause_is_synchronous,
        end_after_pause_is_told_on_resume,
        end_is_told_again_on_resume,
        closing_is_deaf_but_not_mute,
        nothing_after_eof,
        abort_forgets,
    ],
)
def test_both_transports_tell_the_same(script: Script, *, keep_open: bool) -> None:
    fake, real = (run(script, Recorder(keep_open=keep_open)) for run in (on_fake, on_uvloop))
    assert fake == real
    assert real or script is nothing_after_eof


def test_both_transports_are_gone_alike() -> None:
    assert on_fake(gone_is_gone, Recorder()) == on_uvloop(gone_is_gone, Recorder()) == ["eof", "lost NoneType"]
