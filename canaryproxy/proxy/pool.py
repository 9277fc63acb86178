"""The upstream connections of one worker: a stack of idle ones for each server, and the choice of a server.

Called by `proxy.exchange`. A pool returns what to use or to close; it does no I/O of its own. The most recently used connection
goes out first (LIFO), so that a burst's surplus ages out; both ends are O(1).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from canaryproxy.config.quantities import Address
from canaryproxy.config.quantities import Server as ServerUrl
from canaryproxy.config.schema import Pool as PoolConfig

if TYPE_CHECKING:
    from canaryproxy.proxy.upstream import Upstream


class Server:
    """One upstream address: its idle connections and how many exchanges it has in hand."""

    __slots__ = ("active", "authority", "host", "idle", "max_idle", "port")

    def __init__(self, url: ServerUrl, max_idle: int) -> None:
        self.host, self.port = url.host, url.port
        self.authority = str(Address(url.host, url.port)).removesuffix(":80").encode()
        self.max_idle = max_idle
        self.idle: list[Upstream] = []
        self.active = 0

    @property
    def idle_since(self) -> float:
        """When the idle connection used last was used; 0 if there is none."""
        return self.idle[-1].idle_since if self.idle else 0.0

    def take_idle(self) -> Upstream | None:
        """The idle connection used last, or None."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def keep(self, connection: Upstream) -> Upstream | None:
        """Keep a connection for the next exchange; the one to close instead, if there are too many."""
        idle = self.idle
        idle.append(connection)
        return idle.pop(0) if len(idle) > self.max_idle else None

    def expire(self, idle_since: float) -> list[Upstream]:
        """Take out the connections that are unused since before `idle_since` (the stack's bottom is the oldest)."""
        count = 0
        for connection in self.idle:
            if connection.idle_since >= idle_since:
                break
            count += 1
        expired, self.idle[:count] = self.idle[:count], []
        return expired


class Pool:
    """A variant's servers in this worker."""

    __slots__ = ("name", "servers")

    def __init__(self, name: str, config: PoolConfig, max_idle: int) -> None:
        self.name = name
        self.servers = [Server(url, max_idle) for url in config.servers]

    def choose(self, excluded: Server | None = None) -> Server:
        """A server for the next try: of two taken at random the one with less in hand (power of two choices).

        `excluded` has just failed; it is chosen only when there is no other.
        """
        servers = self.servers
        if len(servers) == 1:
            return servers[0]
        candidates = [server for server in servers if server is not excluded]
        if len(candidates) == 1:
            return candidates[0]
        first, second = random.sample(candidates, 2)
        return first if first.active <= second.active else second
