"""Users for the system tests: real connections to the proxy, each request noted with when it began and how it ended.

A failure is what a user would see: no connection, no whole answer, or a status of the proxy's or application's own making.
Nothing is tried again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

_LIMIT = 15.0


@dataclass(slots=True, eq=False)
class Request:
    """One request: times are monotonic seconds; `local_port` is the client's end of its connection."""

    number: int
    user: str
    local_port: int
    began: float
    ended: float = 0.0
    status: int = 0
    version: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        return self.status != 200


class Client:
    """One connection to the proxy, opened when it is needed."""

    def __init__(self, port: int, numbers: itertools.count[int] | None = None) -> None:
        self._port, self._numbers = port, numbers or itertools.count(10**9)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.local_port = 0

    async def connect(self) -> None:
        """Open the connection, unless it is open."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            self.local_port = self._streams[1].get_extra_info("sockname")[1]

    async def get(self, path: str = "/", user: str = "somebody") -> Request:
        """Send a request and wait for its end."""
        request = Request(next(self._numbers), user, self.local_port, time.monotonic())
        return await self.send(request, f"GET {path} HTTP/1.1\r\n".encode(), b"")

    async def send(self, request: Request, line: bytes, rest: bytes) -> Request:
        """Send this head (its end is `rest`) and wait for the answer; what goes wrong is noted in the request."""
        fields = f"Host: shop\r\nX-User-Id: {request.user}\r\nX-Request-Number: {request.number}\r\n"
        try:
            async with asyncio.timeout(_LIMIT):
                await self.connect()
                assert self._streams is not None
                request.local_port = self.local_port
                self._streams[1].write(line + fields.encode() + rest + b"\r\n")
                await self._read(request, self._streams[0])
        except (OSError, EOFError, TimeoutError) as error:
            request.error = repr(error)
            await self.close()
        request.ended = time.monotonic()
        return request

    async def _read(self, request: Request, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        request.error = (await reader.readexactly(int(fields["content-length"]))).decode("latin-1")
        request.status, request.version = int(head[0].split(" ")[1]), fields.get("x-version", "")
        if fields.get("connection", "").lower() == "close":
            await self.close()

    async def upload(self, size: int, pieces: int, pause: float) -> Request:
        """Send a body of `pieces` times `size` bytes, slowly."""
        await self.connect()
        assert self._streams is not None
        writer, reader = self._streams[1], self._streams[0]
        request = Request(next(self._numbers), "uploader", self.local_port, time.monotonic())
        try:
            writer.write(f"POST /upload HTTP/1.1\r\nHost: shop\r\nContent-Length: {size * pieces}\r\n\r\n".encode())
            for _ in range(pieces):
                writer.write(b"x" * size)
                await writer.drain()
                await asyncio.sleep(pause)
            await self._read(request, reader)
        except (OSError, EOFError) as error:
            request.error = repr(error)
        return request

    async def close(self) -> None:
        """Close the connection, if it is open."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


class Traffic:
    """Users who send requests while the `async with` lasts: some on kept connections, some on a new one each time.

    About `rate` requests a second in total. Paths are taken in turn, users at random.
    """

    def __init__(
        self, port: int, *, keep: int = 8, fresh: int = 2, rate: float = 200, users: int = 1000, paths: Sequence[str] = ("/",)
    ) -> None:
        self._port, self._pause, self._users = port, (keep + fresh) / rate, users
        self._kinds = (True,) * keep + (False,) * fresh
        self._paths = itertools.cycle(paths)
        self._numbers = itertools.count()
        self._random = random.Random(port)
        self._stopped = False
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.requests: list[Request] = []
        self.clients: list[Client] = []

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._use(keep)) for keep in self._kinds]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        await asyncio.gather(*self._tasks)

    def stop(self) -> None:
        """Begin no more requests."""
        self._stopped = True

    async def _use(self, keep: bool) -> None:
        client = Client(self._port, self._numbers)
        if keep:
            self.clients.append(client)
        await asyncio.sleep(self._random.random() * self._pause)
        while not self._stopped:
            began = time.monotonic()
            user = f"user-{self._random.randrange(self._users)}"
            self.requests.append(await client.get(next(self._paths), user))
            self._ended.set()
            if not keep:
                await client.close()
            await asyncio.sleep(max(0.0, began + self._pause - time.monotonic()))
        await client.close()

    async def more(self, count: int) -> None:
        """Wait until `count` more requests have ended."""
        wanted = len(self.requests) + count
        while len(self.requests) < wanted:
            self._ended.clear()
            await self._ended.wait()

    @property
    def failures(self) -> list[Request]:
        """The requests that failed so far."""
        return [request for request in self.requests if request.failed]

    def versions(self, *, since: float = 0.0) -> Counter[str]:
        """How many requests that began after `since` each version answered."""
        return Counter(request.version for request in self.requests if request.began > since and not request.failed)
