"""One worker process: an event loop on one listening socket that serves clients until it is told to leave.

Forked by the supervisor. Reads split words, writes its own counters and acknowledgements; knows nothing of rollouts. One coarse
timer does all that time asks for: the pulse, the acknowledgements, the deadlines, the date.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from time import monotonic
from typing import Any, TypedDict

import uvloop

from canaryproxy.config.schema import Config
from canaryproxy.http1.head import HeadRules
from canaryproxy.proxy.downstream import Downstream
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.pool import Server
from canaryproxy.proxy.recall import Recall
from canaryproxy.proxy.route import build_routes
from canaryproxy.proxy.upstream import Upstream
from canaryproxy.shared.board import AckRow
from canaryproxy.shared.layout import Count, Segment, WorkerState

log = logging.getLogger("canaryproxy.worker")

#: One read from an upstream. As a write buffer holds its reader back as soon as anything is unsent, this is all that a slow
#: client makes its connection hold. Half of it for requests, which clients may send ahead (C2).
_READ_SIZE = 128 * 1024
#: What keeps us from connecting without any fault of the upstream: no file, no port, no memory of ours is left.
_OUR_OWN_WANT = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
_BEAT_SECONDS = 0.1
_SWEEP_BEATS = 5
#: After a beat that comes so late the machine stood still: what arrived meanwhile is read before any deadline is looked at.
_LATE_SECONDS = 2.0
#: Seconds after which a response that has begun is judged by its head, and a request that has not come to its end by nothing:
#: well below `T_HANG`, when a request counts as unanswered.
_LONG = 5.0
#: A draining worker closes a client's connection at once when it has been quiet for so long, else after its next response.
_QUIET_SECONDS = 1.0


class Hop(TypedDict):
    """What this listener says of every request (`http1.forward.Hop`)."""

    host_header: str
    port: bytes
    proto: bytes
    via: bytes | None


class Worker:
    """What the connections of this process share."""

    def __init__(self, config: Config, segment: Segment, row: int, slots: Mapping[str, int]) -> None:
        self.words = segment.words
        self.timeouts = config.timeouts
        #: Of one connection; 0 while none is to be kept.
        self.max_requests = config.limits.requests_per_connection
        self._trusted = [ipaddress.ip_network(network) for network in config.trusted_proxies]
        self.hop: Hop = {
            "host_header": config.host_header,
            "port": str(config.listen.port if config.listen else 0).encode(),
            "proto": b"http",
            "via": config.via.encode() if config.via else None,
        }
        self.host_by_upstream = config.host_header == "upstream"
        rules = _head_rules(config)
        self.recall = Recall(rules, self.hop["via"])
        self._trusted_recall = Recall(replace(rules, trust_forwarded=True), self.hop["via"])
        self.outbox: list[tuple[asyncio.Transport, bytes]] = []
        self.replace_read_buffer()
        self.router, routes, self._pools = build_routes(config, segment, row, slots)
        self._slots = tuple(route.slot for route in routes)
        self._ack = AckRow(segment, row)
        self._max_connections = config.limits.client_connections
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._beats = 0
        self._drain_until = 0.0
        self._stopped: asyncio.Event = asyncio.Event()
        self.downstreams: set[Downstream] = set()
        self.draining = False
        self.now = monotonic()
        self.date = b""

    async def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serve until told to leave, and until what was in hand then is done."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.drain)
        self._beat()
        for listening in sockets:
            self._servers.append(await loop.create_server(lambda: Downstream(self), sock=listening, backlog=4096))
        gc.collect()
        gc.freeze()
        self._ack.enter(os.getpid(), self.now)
        self._ack.beat(self.now, len(self.downstreams), self._slots)
        await self._stopped.wait()
        self._expire(float("inf"))
        self._ack.set_state(WorkerState.FREE)

    # Reading and writing.

    def replace_read_buffer(self) -> None:
        """Give the one buffer that all connections read into away to whoever still sends from it, and take a new one."""
        self.read_view = memoryview(bytearray(_READ_SIZE))
        self.request_view = self.read_view[: _READ_SIZE // 2]

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write at the end of this turn of the loop, after all that the turn brought has been read.

        Writes in one burst wake a sleeping peer once; one at a time they wake it for each (docs/decisions/0006).
        """
        if not self.outbox:
            self.call_soon(self.flush)
        self.outbox.append((transport, data))

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have this called at the end of this turn of the loop."""
        asyncio.get_running_loop().call_soon(callback)

    def flush(self) -> None:
        """Write what waits for the end of the turn now: before a connection is closed."""
        outbox, self.outbox = self.outbox, []
        for transport, data in outbox:
            if not transport.is_closing():
                transport.write(data)

    # Connections.

    def recall_for(self, peer: bytes) -> Recall:
        """The rules for this address: what a trusted proxy says of its clients is believed."""
        if self._trusted and peer and any(ipaddress.ip_address(peer.decode()) in network for network in self._trusted):
            return self._trusted_recall
        return self.recall

    def welcome(self, downstream: Downstream) -> bool:
        """Take a new client in; false if there are too many already."""
        self.downstreams.add(downstream)
        return len(self.downstreams) <= self._max_connections

    def connect(self, exchange: Exchange, server: Server) -> None:
        """Open a connection to this server and give it to the exchange."""
        self._spawn(self._connect(exchange, server))

    async def _connect(self, exchange: Exchange, server: Server) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeouts.connect):
                _, connection = await loop.create_connection(lambda: Upstream(self, server), server.host, server.port)
        except TimeoutError:
            exchange.connect_failed(Count.CONNECT_TIMEOUT)
        except OSError as error:
            exchange.connect_failed(Count.ABANDONED if error.errno in _OUR_OWN_WANT else Count.CONNECT_FAILED)
        except Exception:
            log.exception("cannot connect to %s:%d", server.host, server.port)
            exchange.connect_failed(Count.CONNECT_FAILED)
        else:
            exchange.connected(connection)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work beside the callbacks, kept alive until it is done. Connections are opened so, requests are not."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The coarse timer.

    def _beat(self) -> None:
        asyncio.get_running_loop().call_later(_BEAT_SECONDS, self._beat)  # first: whatever fails below, the pulse goes on
        late = monotonic() - self.now > _LATE_SECONDS
        self.now = now = monotonic()
        self.flush()  # what was decided under an older split goes out before the newer one is acknowledged
        self._ack.beat(now, len(self.downstreams), self._slots)
        if self._beats % _SWEEP_BEATS == 0 or late:
            self.date = formatdate(usegmt=True).encode()
        if self._beats % _SWEEP_BEATS == 0 and not late:
            self._sweep(now)
        self._beats += 1

    def _sweep(self, now: float) -> None:
        for downstream in [d for d in self.downstreams if d.deadline <= now]:
            downstream.on_deadline(now)
        for downstream in self.downstreams:
            exchange = downstream.exchange
            if exchange is not None and exchange.started < now - _LONG:
                if exchange.status:
                    exchange.judge_by_head()
                elif not exchange.request_done and downstream.transport.is_reading():
                    exchange.withdraw()
        self._expire(now - self.timeouts.upstream_idle)
        if self.draining:
            self._sweep_drain(now)

    def _expire(self, idle_since: float) -> None:
        """Close the upstream connections that are unused since before `idle_since`."""
        for pool in self._pools:
            for server in pool.servers:
                for connection in server.expire(idle_since):
                    connection.close()

    # Leaving.

    def drain(self) -> None:
        """Accept no more, finish what is in hand, then leave; at the latest after the drain timeout."""
        if self.draining:
            return
        self.draining = True
        self.max_requests = 0
        self._drain_until = monotonic() + self.timeouts.drain
        self._ack.set_state(WorkerState.DRAINING)
        for server in self._servers:
            server.close()
        self._sweep_drain(monotonic())

    def _sweep_drain(self, now: float) -> None:
        for downstream in [d for d in self.downstreams if d.is_idle(now - _QUIET_SECONDS)]:
            downstream.transport.close()
        if now >= self._drain_until:
            for downstream in list(self.downstreams):
                downstream.end_drain()
        if not self.downstreams:
            self._stopped.set()


def _head_rules(config: Config) -> HeadRules:
    limits = config.limits
    return HeadRules(
        request_line=limits.request_line,
        head=limits.head,
        headers=limits.headers,
        response_head=limits.response_head,
        response_headers=limits.response_headers,
        underscore=config.underscore_headers,
        strict_authority=config.strict_authority,
    )


def run_worker(
    config: Config,
    segment: Segment,
    row: int,
    slots: Mapping[str, int],
    sockets: Sequence[socket.socket],
    tls_sockets: Sequence[socket.socket] = (),
) -> None:
    """Body of a worker process. Returns when it has drained."""

    async def main() -> None:
        await Worker(config, segment, row, slots).run(sockets)

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the usual soft limit, 1024, is kept low for select() alone
    gc.set_threshold(20_000, 20, 50)
    uvloop.run(main())
