"""Pausing on uvloop, with a socket that somebody else holds too, as the supervisor does."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import uvloop

from canaryproxy.proxy.listening import PausableServer


class Greeter(asyncio.Protocol):
    """Answers what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"got " + data)


def run(script: Callable[[PausableServer, socket.socket], Awaitable[None]]) -> None:
    """Play the script on uvloop with a server that is not started yet, and another process's copy of its socket."""

    async def play() -> None:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        server = PausableServer(held.dup(), Greeter)
        try:
            await asyncio.wait_for(script(server, held), 20)
        finally:
            server.close()
            held.close()
            await asyncio.sleep(0.002)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


def client(held: socket.socket, data: bytes = b"x") -> socket.socket:
    """A connection that has been made and has sent this."""
    sock = socket.create_connection(held.getsockname(), timeout=5)
    sock.sendall(data)
    sock.setblocking(False)
    return sock


async def answer(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 100)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def is_silent(sock: socket.socket) -> bool:
    """Whether nothing has come: no byte, no end, no reset."""
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    return True


def test_what_comes_in_a_pause_waits() -> None:
    async def script(server: PausableServer, held: socket.socket) -> None:
        server.start()
        with client(held, b"a") as before:
            assert await answer(before) == b"got a"
            for _ in range(3):
                server.pause()
                waiting = [client(held, b"%d" % n) for n in range(50)]
                await turns()
                assert all(is_silent(sock) for sock in waiting)
                before.send(b"b")
                assert await answer(before) == b"got b", "a pause is of accepting only"
                assert server.resume()
                for n, sock in enumerate(waiting):
                    assert await answer(sock) == b"got %d" % n
                    sock.close()

    run(script)


def test_pauses_and_resumes_may_come_twice() -> None:
    async def script(server: PausableServer, held: socket.socket) -> None:
        server.start()
        server.pause()
        server.pause()
        paused = server.is_accepting
        assert (paused, server.resume(), server.resume(), server.is_accepting) == (False, True, True, True)
        with client(held) as sock:
            assert await answer(sock) == b"got x"
        server.pause()
        with client(held) as sock:
            await turns()
            assert is_silent(sock), "a second resume left no second server"

    run(script)


def test_closing_takes_in_who_waits_and_leaves_those_who_come_to_others() -> None:
    async def script(server: PausableServer, held: socket.socket) -> None:
        server.start()
        server.pause()
        with client(held, b"early") as early:
            server.close()
            assert server.pending == 1
            assert not server.resume()
            assert await answer(early) == b"got early"
            assert server.pending == 0
            with client(held, b"late") as late:
                await turns()
                assert is_silent(late)
                successor = PausableServer(held.dup(), Greeter)
                successor.start()
                assert await answer(late) == b"got late"
                successor.close()

    run(script)


@contextmanager
def no_file_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_file_it_stays_paused() -> None:
    async def script(server: PausableServer, held: socket.socket) -> None:
        server.start()
        server.pause()
        with client(held) as sock:
            with no_file_left():
                assert not server.resume()
            assert is_silent(sock)
            assert server.resume()
            assert await answer(sock) == b"got x"

    run(script)


async def test_another_loop_is_refused() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = PausableServer(sock, Greeter)
    with pytest.raises(RuntimeError, match="run on uvloop"):
        server.start()
    server.close()
