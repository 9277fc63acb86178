"""The addresses behind the servers' names: looked up again and again in the background, and connected to in turn.

Started and stopped by the worker; `connect_in_turn` is called by whoever opens a connection. What the answers mean is decided in
`proxy.pool`; here is the waiting. An IP address and a Unix socket are never looked up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from canaryproxy.config.quantities import Address

if TYPE_CHECKING:
    from canaryproxy.proxy.balance import Draw
    from canaryproxy.proxy.pool import Pool, Server

log = logging.getLogger("canaryproxy.worker")

_T = TypeVar("_T")
LookUp: TypeAlias = Callable[[str, int], Awaitable[Sequence[Address]]]

#: Addresses that one connection tries at most: each gets its part of the time.
_MAX_ATTEMPTS: Final = 3
#: Intervals are up to so much longer or shorter, so that workers and servers fall out of step.
_JITTER: Final = 0.1


def jittered(seconds: float, draw: Draw) -> float:
    """`seconds`, up to 10 % more or less."""
    return seconds * (1 + _JITTER * (2 * draw() - 1))


def is_name(server: Server) -> bool:
    """Whether there is something to look up."""
    if server.path:
        return False
    try:
        ipaddress.ip_address(server.host)
    except ValueError:
        return True
    return False


async def look_up(host: str, port: int) -> Sequence[Address]:
    """The addresses of a host, in the resolver's order. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(Address(str(address[0]), port) for *_, address in found))


class Lookups:
    """One task for each server that is given by name."""

    def __init__(self, look_up: LookUp = look_up, draw: Draw = random.random) -> None:
        self._look_up = look_up
        self._draw = draw
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, pools: Iterable[Pool]) -> None:
        """Look up all names now, and then again and again. Until the first answer a connection looks up its own."""
        loop = asyncio.get_running_loop()
        servers = [server for pool in pools for server in pool.servers if is_name(server)]
        self._tasks += [loop.create_task(self._watch(server), name=f"look up {server.host}") for server in servers]

    async def stop(self) -> None:
        """Look up nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _watch(self, server: Server) -> None:
        well = True
        while True:
            well = await self._refresh(server, was_well=well)
            await asyncio.sleep(jittered(server.pool.config.resolve, self._draw))

    async def _refresh(self, server: Server, *, was_well: bool) -> bool:
        """Look a name up; what cannot be looked up keeps its addresses."""
        try:
            addresses, why = await self._look_up(server.host, server.port), "it has no address"
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA cannot encode
            addresses, why = (), str(error)
        where, before = f"pool {server.pool.name}: {server.host}", server.addresses
        if not addresses:
            if was_well:
                log.warning("%s: cannot be looked up: %s; in use: %s", where, why, _written(before))
            return False
        for connection in server.resolved(addresses):
            connection.close()
        if server.addresses != before or not was_well:
            log.info("%s: is %s", where, _written(server.addresses))
        return True


def _written(addresses: Sequence[Address]) -> str:
    return ", ".join(address.host for address in addresses) or "none"


async def connect_in_turn(server: Server, seconds: float, connect: Callable[[Address], Awaitable[_T]]) -> _T:
    """What `connect` makes of the first of the server's addresses that accepts. Raises OSError, of which TimeoutError is one."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    addresses = server.attempts()[:_MAX_ATTEMPTS]
    failure: OSError = OSError("no address")
    for count, address in enumerate(addresses):
        try:
            async with asyncio.timeout((end - loop.time()) / (len(addresses) - count)):
                return await connect(address)
        except OSError as error:
            server.avoid(address)
            failure = error
    raise failure
