"""One worker process: an event loop on its listening sockets that serves clients until it is told to leave.

Forked by the supervisor. Reads split words, writes its own counters and acknowledgements; knows nothing of rollouts. One coarse
timer does all that time asks for: the pulse, the acknowledgements, the deadlines (`proxy.sweep`), the date, the log.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from email.utils import formatdate
from secrets import token_hex
from time import monotonic
from typing import Any, Final, TypedDict

import uvloop

from canaryproxy.config.schema import Config
from canaryproxy.http1.forward import request_ids
from canaryproxy.http1.head import MessageError
from canaryproxy.proxy.accesslog import check_path
from canaryproxy.proxy.connect import NOWHERE, Connector
from canaryproxy.proxy.downstream import Downstream
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.health import HealthChecks
from canaryproxy.proxy.listeners import Listeners
from canaryproxy.proxy.outcome import Failure
from canaryproxy.proxy.overload import Level, Overload, count_open_files, keep_alive_timeout, read_rss, trim_memory
from canaryproxy.proxy.placement import Placement
from canaryproxy.proxy.pool import Event, Pool, Server
from canaryproxy.proxy.record import Record
from canaryproxy.proxy.resolve import Lookups
from canaryproxy.proxy.route import build_routes
from canaryproxy.proxy.sweep import SWEEP_SECONDS, Sweep
from canaryproxy.proxy.tunnel import Tunnel
from canaryproxy.shared.board import AckRow
from canaryproxy.shared.layout import Segment, WorkerState

log = logging.getLogger("canaryproxy.worker")

#: One read from an upstream. As a write buffer holds its reader back as soon as anything is unsent, this is all that a slow
#: client makes its connection hold. Half of it for requests, which clients may send ahead (C2).
_READ_SIZE = 128 * 1024
_BEAT_SECONDS: Final = 0.1
_SWEEP_BEATS: Final = round(SWEEP_SECONDS / _BEAT_SECONDS)
#: After a beat that comes so late the machine stood still: what arrived meanwhile is read before any deadline is looked at.
_LATE_SECONDS = 2.0
#: A draining worker closes a client's connection when it has been quiet for so long, else after its next response. A client that
#: asks once a second shall not meet the close half-way.
_QUIET_SECONDS = 5.0
#: For a client to take its leave, over TLS; then the connection is cut.
_FAREWELL_SECONDS: Final = 2.0
#: Between two attempts to give memory back, each of which may take 30 ms.
_TRIM_SECONDS: Final = 10.0
_TOO_MANY: Final = MessageError(503, "too_many_connections")
_TOO_MANY_OF_ONE: Final = MessageError(503, "too_many_connections_of_one_client")


class ChunkLimits(TypedDict):
    """Of a chunked message, in bytes."""

    extensions: int
    trailers: int


class Worker:
    """What the connections of this process share."""

    def __init__(self, config: Config, segment: Segment, row: int, slots: Mapping[str, int]) -> None:
        self.words = segment.words
        self.timeouts = config.timeouts
        limits = config.limits
        #: Of one connection; 0 while none is to be kept.
        self.max_requests = limits.requests_per_connection
        self.max_body = limits.request_body
        self.body_rate = limits.body_rate
        self.max_interim = limits.interim_responses
        self.replay_body = limits.replay_body
        self.chunk_limits: ChunkLimits = {"extensions": limits.chunk_extensions, "trailers": limits.trailers}
        self.keep_alive = config.timeouts.keep_alive
        #: New requests are refused.
        self.is_full = False
        self.request_trailers = frozenset(name.lower().encode() for name in config.request_trailers)
        self.upgrades = frozenset(protocol.lower().encode() for protocol in config.upgrades)
        self.expose_request_id = config.expose_request_id
        self.request_ids: Iterator[bytes] = request_ids(token_hex(8).encode())
        self.access_log = Record(config.access_log.format, config.access_log.path) if config.access_log else None
        self._config = config
        self._trusted = [ipaddress.ip_network(network) for network in config.trusted_proxies]
        self._addresses: dict[bytes, int] = {}
        max_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._listeners = Listeners(self, config, max_files)
        self.ingress = self._listeners.plain
        self.recall = self.ingress.recall
        self.outbox: list[tuple[asyncio.Transport, bytes]] = []
        #: Counts flushes: what was given to `send` since the last one has not gone out yet.
        self.turn = 0
        self.replace_read_buffer()
        self.router, self.routes, self.pools = build_routes(config, segment, row, slots)
        self._slots = tuple(route.slot for route in self.routes)
        self._ack = AckRow(segment, row)
        self._tasks: set[asyncio.Task[None]] = set()
        self._most_clients = min(limits.client_connections, int(0.8 * max_files))
        self._overload = Overload(limits, max_files)
        self._lag = self._trim_at = 0.0
        self._beats = 0
        self._drain_until = 0.0
        self._stopped: asyncio.Event = asyncio.Event()
        self.downstreams: set[Downstream] = set()
        self.tunnels: dict[Tunnel, Exchange] = {}
        self.draining = False
        self.now = monotonic()
        self.date = b""
        self._connector = Connector(self, self.pools)
        totals = any(route.total_timeout for route in self.routes)
        self._sweep = Sweep(self, totals, limits.body_rate, limits.body_grace)

    async def run(self, sockets: Sequence[socket.socket], tls_sockets: Sequence[socket.socket] = ()) -> None:
        """Serve until told to leave, and until what was in hand then is done."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.drain)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_log)
        checks, lookups = HealthChecks(self._connector.check_stream, max_interim=self.max_interim), Lookups()
        self._beat()
        lookups.start(self.pools)
        checks.start(self.pools)
        self._listeners.start(sockets, tls_sockets)
        gc.collect()
        gc.freeze()
        self._ack.enter(os.getpid(), self.now)
        self._ack.beat(self.now, len(self.downstreams), self._slots)
        await self._stopped.wait()
        await checks.stop()
        await lookups.stop()
        for pool in self.pools:
            self._sweep.expire(pool, float("inf"))
        if self.access_log is not None:
            self.access_log.close()
        self._ack.add_refused(self._listeners.take_refused())
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
        self.turn += 1
        for transport, data in outbox:
            if not transport.is_closing():
                transport.write(data)

    def say(self, event: Event | None) -> None:
        """Log what has become of a server, if anything has."""
        if event is not None:
            log.warning("%s", event)

    def _reopen_log(self) -> None:
        if self.access_log is not None:
            self.access_log.reopen()

    # Connections.

    def is_trusted(self, address: bytes) -> bool:
        """Whether what this address says of its clients is believed."""
        if not self._trusted or not address:
            return False
        try:
            known = ipaddress.ip_address(address.decode("latin-1").partition("%")[0])
        except ValueError:
            return False
        return any(known in network for network in self._trusted)

    def welcome(self, downstream: Downstream) -> MessageError | None:
        """Take a new client in; what to answer if there are too many already."""
        limits = self._config.limits
        self.downstreams.add(downstream)
        if limits.connections_per_ip:
            count = self._addresses[downstream.peer] = self._addresses.get(downstream.peer, 0) + 1
            if count > limits.connections_per_ip:
                return _TOO_MANY_OF_ONE
        count = len(self.downstreams) + len(self.tunnels)
        if count >= self._most_clients:
            self._listeners.pause()
        return _TOO_MANY if count > self._most_clients else None

    def part(self, downstream: Downstream) -> None:
        """A client has left."""
        if downstream in self.downstreams:
            self.downstreams.discard(downstream)
            self._release(downstream.peer)

    def tunnel_ended(self, tunnel: Tunnel, downstream: Downstream) -> None:
        """The connection that this client had made a tunnel of is gone."""
        del self.tunnels[tunnel]
        self._release(downstream.peer)

    def _release(self, peer: bytes) -> None:
        """One connection fewer from this address."""
        count = self._addresses.pop(peer, 0) - 1
        if count > 0:
            self._addresses[peer] = count
        if self.draining:
            self._stop_if_done()

    def connect(self, exchange: Placement, server: Server) -> None:
        """Open a connection to this server and give it to the exchange."""
        self._spawn(self._connect(exchange, server))

    async def _connect(self, exchange: Placement, server: Server) -> None:
        ends = exchange.downstream.ends() if server.pool.config.send_proxy else NOWHERE
        opened = await self._connector.open(server, ends)
        if isinstance(opened, Failure):
            exchange.connect_failed(opened)
        else:
            exchange.connected(opened)

    def admit_soon(self, pool: Pool, server: Server) -> None:
        """Give the room that this server has again to who waits for it, once what is done now is done."""

        def admit() -> None:
            while (waiting := pool.released(server)) is not None:
                waiting.admitted(server)

        self.call_soon(admit)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work beside the callbacks, kept alive until it is done. Connections are opened so, requests are not."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self.draining:
            self._stop_if_done()

    # The coarse timer.

    def _beat(self) -> None:
        asyncio.get_running_loop().call_later(_BEAT_SECONDS, self._beat)  # first: whatever fails below, the pulse goes on
        now = monotonic()
        lag = now - self.now - _BEAT_SECONDS
        late, self._lag, self.now = lag > _LATE_SECONDS, max(lag, self._lag), now
        self.flush()  # what was decided under an older split goes out before the newer one is acknowledged
        self._ack.beat(now, len(self.downstreams) + len(self.tunnels), self._slots)
        if self.access_log is not None:
            self.access_log.flush()
        if self._beats % _SWEEP_BEATS == 0 or late:
            self.date = formatdate(usegmt=True).encode()
        if self._beats % _SWEEP_BEATS == 0 and not late:
            self.sweep(now)
        self._beats += 1

    def sweep(self, now: float) -> None:
        """Look at everything that time asks for."""
        self._sweep.look(now)
        self._listeners.sweep(now)
        self._ack.add_refused(self._listeners.take_refused())
        self._connector.reload_if_changed(now)
        if self.draining:
            self._sweep_drain(now)
        else:
            self._look_at_load()

    def _look_at_load(self) -> None:
        """Do less when there is more in hand than this worker can bear."""
        overload, limits = self._overload, self._config.limits
        clients, before = len(self.downstreams) + len(self.tunnels), (overload.level, overload.reasons)
        files = count_open_files(clients + sum(server.active + len(server.idle) for p in self.pools for server in p.servers))
        lag, self._lag = self._lag, 0.0
        level = overload.update(lag, read_rss() if limits.memory else 0, clients, files)
        if (level, overload.reasons) != before:
            log.warning("load is %s %s", level.name.lower(), f"({', '.join(overload.reasons)})" if overload.reasons else "again")
        if "memory" in overload.reasons and self.now >= self._trim_at:
            self._trim_at = self.now + _TRIM_SECONDS
            trim_memory()
        self.is_full = overload.sheds
        self.max_requests = 0 if overload.parts else limits.requests_per_connection
        self.keep_alive = keep_alive_timeout(self.timeouts.keep_alive, clients, self._most_clients)
        if clients >= self._most_clients:
            self._make_room()
        if level is Level.FULL or clients >= self._most_clients:
            self._listeners.pause()
        else:
            self._listeners.resume()

    def _make_room(self) -> None:
        """Close those who have been idle for longest, up to a tenth: whoever waits in the kernel's queue may want something."""
        idle = [d for d in self.downstreams if d.is_idle(self.now) and not d.transport.is_closing()]
        for downstream in sorted(idle, key=lambda d: d.deadline)[: max(1, self._most_clients // 10)]:
            downstream.transport.close()
            downstream.deadline = self.now + _FAREWELL_SECONDS

    # Leaving.

    def drain(self) -> None:
        """Accept no more, finish what is in hand, then leave; at the latest after the drain timeout."""
        if self.draining:
            return
        self.draining = True
        self.max_requests = 0
        now = monotonic()
        self._drain_until = now + self.timeouts.drain
        self._listeners.close()
        self._ack.set_state(WorkerState.DRAINING)
        self.call_soon(lambda: self._sweep_drain(now))  # whom the loop has accepted in this turn joins in first

    def _sweep_drain(self, now: float) -> None:
        for downstream in [d for d in self.downstreams if d.is_idle(now - _QUIET_SECONDS) and not d.transport.is_closing()]:
            downstream.transport.close()
            downstream.deadline = now + _FAREWELL_SECONDS
        if now >= self._drain_until:
            self._listeners.give_up()
            for task in self._tasks:
                task.cancel()
            for downstream in list(self.downstreams):
                downstream.end_drain()
            for tunnel in list(self.tunnels):
                tunnel.close("drain")
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        # A connection that came after the end would stay open, and uvloop waits for it for ever: hence the tasks.
        if not self.downstreams and not self.tunnels and not self._listeners.pending and not self._tasks:
            self._stopped.set()


def run_worker(  # noqa: PLR0917  # the processes' bodies are called by the supervisor alone
    config: Config,
    segment: Segment,
    row: int,
    slots: Mapping[str, int],
    sockets: Sequence[socket.socket],
    tls_sockets: Sequence[socket.socket] = (),
) -> None:
    """Body of a worker process. Returns when it has drained; raises StartError or OSError if it cannot begin."""

    if config.access_log is not None:
        check_path(config.access_log.path)

    async def main() -> None:
        await Worker(config, segment, row, slots).run(sockets, tls_sockets)

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the usual soft limit, 1024, is kept low for select() alone
    gc.set_threshold(20_000, 20, 50)
    uvloop.run(main())
