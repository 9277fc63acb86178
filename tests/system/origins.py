"""Upstreams for the system tests: small HTTP/1.1 servers in the test's own event loop that note what reaches them.

`/slow/SECONDS` is answered after so long. A request's number (X-Request-Number) and body size come back in the notes, so a test
can say of each request which version it reached, even if its answer was lost.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import cast


class Origin:
    """One version of the application. `error_share` and `delay` (seconds) may be changed while it serves."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.error_share = 0.0
        self.delay = 0.0
        self.numbers: set[int] = set()
        self.paths: list[str] = []
        self.connections: set[_Connection] = set()
        self.port = 0
        self.random = random.Random(version)
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve, on a free port the first time and on the same one later."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and cut those there are."""
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    """One connection from the proxy; one request at a time, bodies with Content-Length only."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._received = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._origin.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._origin.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        request_line, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", 0))
        if len(rest) >= length:
            self._received = rest[length:]
            self._answer(request_line.split(" ")[1], fields, length)

    def _answer(self, path: str, fields: dict[str, str], length: int) -> None:
        origin = self._origin
        origin.paths.append(path)
        origin.numbers.add(int(fields.get("x-request-number", -1)))
        failed = origin.error_share > 0 and origin.random.random() < origin.error_share
        body = json.dumps({"version": origin.version, "received": length, "variant": fields.get("x-canary-variant")}).encode()
        head = (
            f"HTTP/1.1 {'500 Oops' if failed else '200 OK'}\r\nContent-Length: {len(body)}\r\nX-Version: {origin.version}\r\n\r\n"
        )
        delay = float(path.rpartition("/")[2]) if path.startswith("/slow/") else origin.delay
        if delay:
            asyncio.get_running_loop().call_later(delay, self._write, head.encode() + body)
        else:
            self._write(head.encode() + body)

    def _write(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
