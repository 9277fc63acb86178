"""Connections of the admin endpoint: idle ones are closed, and make room for those that ask."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from canaryproxy.admin.door import Door


class Served:
    """A door with one path, which answers when it may."""

    def __init__(self, door: Door) -> None:
        self.door, self.go = door, asyncio.Event()
        self.asked = 0
        self.app = web.Application(middlewares=[door.middleware()])
        self.app.router.add_get("/", self.answer)
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.go.wait()
        return web.Response(text="answer")


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def served(door: Door) -> AsyncIterator[Served]:
    made = Served(door)
    runner = web.AppRunner(made.app, shutdown_timeout=0.1)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    made.port = listening.getsockname()[1]
    assert runner.server is not None
    await door.open(runner.server, [listening])
    yield made
    door.close()
    await runner.cleanup()


async def come(made: Served, sends: bytes = b"") -> Connection:
    reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
    writer.write(sends)
    return reader, writer


async def ended(connection: Connection) -> bool:
    """Whether the server has closed it."""
    with suppress(ConnectionError):
        return await asyncio.wait_for(connection[0].read(), 5) == b""
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_the_one_that_is_idle_longest_makes_room_and_none_that_is_served() -> None:
    async with served(Door(most=3)) as made:
        busy = await come(made, REQUEST)
        await until(lambda: made.asked == 1)
        first, second = await come(made, b"GET / HT"), await come(made)
        third = await come(made, REQUEST)
        assert await ended(first)
        await until(lambda: made.asked == 2)
        made.go.set()
        for connection in (busy, third):
            assert b"200 OK" in await connection[0].readuntil(b"answer")
        second[1].write(REQUEST)
        assert b"200 OK" in await second[0].readuntil(b"answer")
        for _, writer in (busy, first, second, third):
            writer.close()


async def test_a_flood_keeps_nobody_out() -> None:
    async with served(Door(most=10)) as made:
        made.go.set()
        flood = [await come(made, b"G") for _ in range(200)]
        reader, writer = await come(made, REQUEST)
        assert b"200 OK" in await reader.readuntil(b"answer")
        for _, other in (*flood, (reader, writer)):
            other.close()


async def test_who_sends_no_whole_head_in_time_is_closed() -> None:
    async with served(Door(idle=0.05)) as made:
        silent, half, busy = await come(made), await come(made, b"GET / HTTP/1.1\r\nHost:"), await come(made, REQUEST)
        await until(lambda: made.asked == 1)
        assert await ended(silent)
        assert await ended(half)
        made.go.set()
        assert b"200 OK" in await busy[0].readuntil(b"answer")
        assert await ended(busy), "after its answer it is idle as well"
        for _, writer in (silent, half, busy):
            writer.close()


async def test_one_whose_body_does_not_come_is_idle() -> None:
    async with served(Door(most=1)) as made:
        waits = await come(made, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        await until(lambda: made.asked == 1)
        other = await come(made, REQUEST)
        assert await ended(waits)
        made.go.set()
        assert b"200 OK" in await other[0].readuntil(b"answer")
        for _, writer in (waits, other):
            writer.close()
