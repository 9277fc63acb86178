"""Names to addresses for the controller's HTTP clients, in threads that nobody waits for.

A look-up cannot be called off: in the event loop's own threads, one that hangs keeps the process from ending (measured: uvloop
closes 30 s later where a name server says nothing for so long). So each runs in a daemon thread, at most one for each name; who
asked gives up when its own time is over.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult


class Lookup(AbstractResolver):
    """aiohttp's resolver for `TCPConnector`."""

    def __init__(self) -> None:
        self._going_on: dict[tuple[str, int, int], asyncio.Future[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AddressFamily.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name; raises OSError as getaddrinfo(3) does."""
        asked = (host, port, int(family))
        if (answer := self._going_on.get(asked)) is None:
            answer = self._going_on[asked] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(lambda done: self._forget(asked, done))
            threading.Thread(target=_look_up, args=(asked, answer), daemon=True, name=f"look up {host}").start()
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Nothing to wait for."""

    def _forget(self, asked: tuple[str, int, int], done: asyncio.Future[list[ResolveResult]]) -> None:
        self._going_on.pop(asked, None)
        if not done.cancelled():
            done.exception()  # nobody may be left to hear of it


def _look_up(asked: tuple[str, int, int], answer: asyncio.Future[list[ResolveResult]]) -> None:
    """In a thread of its own."""
    host, port, family = asked
    found: list[ResolveResult] = []
    failure: OSError | None = None
    try:
        for kind, _, protocol, _, address in socket.getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        ):
            numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            to, at = str(address[0]), int(address[1])
            found.append(ResolveResult(hostname=host, host=to, port=at, family=kind, proto=protocol, flags=numeric))
    except OSError as error:
        failure = error
    except UnicodeError:
        failure = OSError(f"{host!r} is no host name")

    def tell() -> None:
        if answer.done():
            return
        if failure is not None:
            answer.set_exception(failure)
        else:
            answer.set_result(found)

    with suppress(RuntimeError):  # the loop has been closed meanwhile
        answer.get_loop().call_soon_threadsafe(tell)
