"""How many connections the admin endpoint has, and for how long: a flood of idle ones must not keep an operator out.

Made by `admin.serve`. Only a request in hand is worth keeping a connection for: where all places are taken, the one that has been
idle longest makes room, and one that has sent no whole head in time (from the beginning, or since its last answer) is closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

#: Connections at a time.
MOST_CONNECTIONS = 512
#: Seconds without a request in hand, and between two looks for that.
_IDLE, _LOOK = 15.0, 1.0


class Door:
    """The listening of a server, and its connections."""

    def __init__(self, *, most: int = MOST_CONNECTIONS, idle: float = _IDLE) -> None:
        self._most, self._idle = most, idle
        #: The request in hand of each connection.
        self._busy: dict[asyncio.Protocol, web.BaseRequest] = {}
        #: When a connection came, or had its last answer.
        self._since: dict[asyncio.Protocol, float] = {}
        self._servers: list[asyncio.Server] = []
        self._sweeping: asyncio.Task[None] | None = None

    def middleware(self) -> Middleware:
        """Knows what is in hand; to be the outermost."""

        @web.middleware
        async def in_hand(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            self._busy[connection] = request
            try:
                return await handler(request)
            finally:
                self._busy.pop(connection, None)
                self._since[connection] = asyncio.get_running_loop().time()

        return in_hand

    async def open(self, server: web.Server, sockets: Sequence[socket.socket]) -> None:
        """Listen; each new connection is one of `server`."""
        loop = asyncio.get_running_loop()

        def admit() -> asyncio.Protocol:
            connections = _open(server)
            if len(connections) >= self._most:
                self._make_room(connections)
            made = server()
            self._since[made] = loop.time()
            return made

        for sock in sockets:
            self._servers.append(await loop.create_server(admit, sock=sock))
        self._sweeping = asyncio.create_task(self._sweep(server), name="door")

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _make_room(self, connections: Sequence[web.RequestHandler]) -> None:
        idle = [connection for connection in connections if not self._is_busy(connection)]
        if idle:
            _shut(min(idle, key=lambda connection: self._since.get(connection, 0.0)))

    def _is_busy(self, connection: asyncio.Protocol) -> bool:
        """Whether it has a request in hand that has come whole: one whose body is awaited costs its client nothing either."""
        request = self._busy.get(connection)
        return request is not None and request.content.is_eof()

    async def _sweep(self, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_LOOK, self._idle))
            connections, now = _open(server), loop.time()
            self._since = {connection: self._since.get(connection, now) for connection in connections}
            for connection in connections:
                if not self._is_busy(connection) and now - self._since[connection] >= self._idle:
                    _shut(connection)


def _open(server: web.Server) -> list[web.RequestHandler]:
    return [connection for connection in server.connections if connection.connected]


def _shut(connection: web.RequestHandler) -> None:
    """End it, with what its client has not read."""
    transport = connection.transport
    connection.force_close()
    if transport is not None:
        transport.abort()
