"""Active health checks: each worker asks each server of a pool that wants it, on connections of their own.

Started and stopped by the worker. An answer in HTTP with a wanted status is good, by the same reader that the data plane uses;
so many bad ones in a row take the server out, so many good ones bring it back (`Streak`, which is pure). A server counts as up
until then. The body says nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from canaryproxy.config.quantities import Address, format_duration
from canaryproxy.http1.framing import Body
from canaryproxy.http1.head import HeadRules, MessageError
from canaryproxy.http1.response import ResponseHead, parse_response_head
from canaryproxy.proxy.pool import Event
from canaryproxy.proxy.resolve import connect_in_turn, jittered

if TYPE_CHECKING:
    from canaryproxy.config.upstreams import Health
    from canaryproxy.proxy.balance import Draw
    from canaryproxy.proxy.pool import Pool, Server

log = logging.getLogger("canaryproxy.worker")

Streams: TypeAlias = tuple[StreamReader, StreamWriter]
#: Opens a connection to a server within so many seconds, or raises OSError.
Connect: TypeAlias = Callable[["Server", float], Awaitable[Streams]]

#: What keeps us from connecting without any fault of the upstream: no file, no port, no memory of ours is left.
OUR_OWN_WANT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
#: Read of a body, so that a server that answers at length is not told of a broken connection each time.
_BODY_BYTES: Final = 65536
_BODY_SECONDS: Final = 0.5
_RULES: Final = HeadRules()


class Streak:
    """Checks in a row that contradict what a server counts as."""

    __slots__ = ("count", "up", "_fall", "_rise")

    def __init__(self, fall: int, rise: int) -> None:
        self._fall, self._rise = fall, rise
        self.up = True
        self.count = 0

    def add(self, *, good: bool) -> bool:
        """Whether the server counts as something else from this check on."""
        if good is self.up:
            self.count = 0
            return False
        self.count += 1
        if self.count < (self._fall if self.up else self._rise):
            return False
        self.up, self.count = good, 0
        return True


class HealthChecks:
    """One task for each server that is checked."""

    def __init__(self, connect: Connect, draw: Draw = random.random, max_interim: int = 8) -> None:
        self._connect = connect
        self._max_interim = max_interim
        self._draw = draw
        self._tasks: list[asyncio.Task[None]] = []
        #: Of each server, the connection of its last check, which may still say goodbye.
        self._leaving: dict[Server, asyncio.WriteTransport] = {}

    def start(self, pools: Iterable[Pool]) -> None:
        """Check the servers of all pools that say how."""
        loop = asyncio.get_running_loop()
        self._tasks += [
            loop.create_task(self._watch(server, pool.config.health), name=f"check {server.name}")
            for pool in pools
            if pool.config.health is not None
            for server in pool.servers
        ]

    async def stop(self) -> None:
        """Check nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for server in list(self._leaving):
            self._part(server)

    def _part(self, server: Server) -> None:
        """Cut the last check's connection if it is still there: uvloop cannot close a loop in which TLS is saying goodbye."""
        transport = self._leaving.pop(server, None)
        if transport is not None:
            transport.abort()

    async def _watch(self, server: Server, rule: Health) -> None:
        streak = Streak(rule.fall, rule.rise)
        await asyncio.sleep(rule.interval * self._draw())
        while True:
            begun = monotonic()
            wrong = await self.check(server, rule)
            if wrong is not None and streak.add(good=not wrong):
                _turn(server, rule, wrong)
            await asyncio.sleep(jittered(rule.interval, self._draw) - (monotonic() - begun))

    async def check(self, server: Server, rule: Health) -> str | None:
        """What is wrong with the server, or "" if nothing is; None if that cannot be found out, for want of our own."""
        writer = None
        self._part(server)
        try:
            async with asyncio.timeout(rule.timeout):
                reader, writer = await self._connect(server, rule.timeout)
                writer.write(request(server, rule))
                head = await _read_head(reader, self._max_interim)
            if isinstance(head, MessageError):
                return head.reason
            await _read_body(reader, head)
            return "" if any(first <= head.status <= last for first, last in rule.status) else f"status {head.status}"
        except TimeoutError:
            return f"no answer within {format_duration(rule.timeout)}"
        except OSError as error:
            return None if error.errno in OUR_OWN_WANT else error.strerror or str(error) or type(error).__name__
        except asyncio.IncompleteReadError:
            return "closed without an answer"
        except asyncio.LimitOverrunError:
            return "upstream_head_too_large"
        except Exception as error:
            log.exception("cannot check %s", server.name)
            return repr(error)
        finally:
            if writer is not None:
                writer.close()
                self._leaving[server] = writer.transport


def _turn(server: Server, rule: Health, wrong: str) -> None:
    if wrong:
        server.mark_down()
        why = f"{rule.fall} checks in a row failed, the last one: {wrong}"
        log.warning("%s", Event(server.pool.name, server.name, "down", why))
    else:
        server.mark_up(monotonic())
        log.warning("%s", Event(server.pool.name, server.name, "up", f"{rule.rise} checks in a row were good"))


def request(server: Server, rule: Health) -> bytes:
    """The bytes of a check."""
    host = rule.host.encode() or server.authority
    return b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: canaryproxy-health\r\nConnection: close\r\n\r\n" % (
        rule.path.encode(),
        host,
    )


async def _read_head(reader: StreamReader, max_interim: int) -> ResponseHead | MessageError:
    for _ in range(max_interim + 1):
        head = parse_response_head((await reader.readuntil(b"\r\n\r\n"))[:-2], b"GET", _RULES)
        if isinstance(head, MessageError) or head.status >= 200:
            return head
    return MessageError(502, "upstream_too_many_interim")


async def _read_body(reader: StreamReader, head: ResponseHead) -> None:
    if head.body is not Body.NONE:
        with suppress(OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_BODY_SECONDS):
                await reader.readexactly(min(_BODY_BYTES, head.length if head.body is Body.LENGTH else _BODY_BYTES))


async def open_stream(
    server: Server, seconds: float, tls: ssl.SSLContext | None = None, server_name: str = "", preface: bytes = b""
) -> Streams:
    """Connect to a server; say `preface` (a PROXY header that names nobody) before TLS begins. Raises OSError.

    `server_name` is the one to find in its certificate; empty: the host of its URL.
    """

    async def connect(address: Address) -> Streams:
        return await prepare(*await asyncio.open_connection(*address))

    async def prepare(reader: StreamReader, writer: StreamWriter) -> Streams:
        try:
            if preface:
                writer.write(preface)
            if tls is not None:
                await writer.start_tls(tls, server_hostname=server_name or server.host)
        except BaseException:
            writer.close()
            raise
        return reader, writer

    if server.path:
        return await prepare(*await asyncio.open_unix_connection(server.path))
    return await connect_in_turn(server, seconds, connect)
