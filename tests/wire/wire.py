"""The data plane without sockets: a real worker and a real segment between scripted far ends.

A `FarEnd` is one connection of the proxy, seen from the client or the origin at its other end; the proxy's protocol has it as its
transport. It does what uvloop's transports do (`test_wire_fake.py` compares). Time moves by `Wire.advance` only. When a `Wire`
is left, every exchange must have ended in exactly one outcome, and nothing may be left behind.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any
from unittest.mock import patch

from canaryproxy.config.schema import Config
from canaryproxy.proxy import outcome
from canaryproxy.proxy.downstream import Downstream
from canaryproxy.proxy.outcome import Failure
from canaryproxy.proxy.placement import Placement
from canaryproxy.proxy.pool import Server
from canaryproxy.proxy.upstream import Upstream
from canaryproxy.proxy.worker import Worker
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, OUTCOMES, RING, STABLE, Count
from canaryproxy.shared.reading import Block, read_block

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\n\r\nok"
THRESHOLDS_US = (100_000, 112_500, 125_000, 150_000)
SLOW_US = 300_000
_UNLIMITED = 1 << 60
_RESET = struct.pack("ii", 1, 0)
_READS_IN_A_TURN = 32  # libuv reads a stream so often while each read fills the buffer


class FarEnd(asyncio.Transport):
    """One connection of the proxy: its transport, and what the other end does and sees."""

    def __init__(self, wire: Wire, protocol: Downstream | Upstream, peer: str) -> None:
        super().__init__({"peername": (peer, 40000), "socket": self})
        self.protocol = protocol
        self.window = _UNLIMITED  # bytes that the far end will still take
        self.options: list[tuple[int, int]] = []
        self.got_fin = False
        self._wire = wire
        self._received = bytearray()
        self._sent = bytearray()  # not yet delivered to the protocol
        self._unsent = bytearray()  # written by the protocol, beyond the window
        self._fin = self._reading = self._paused = self._closing = self._eof = False
        self._low, self._high = 16384, 65536
        self._kept: list[tuple[memoryview, bytes]] = []
        self._error: OSError | None = None
        self._is_lost = False  # connection_lost will be called, or was
        self.gone = False
        protocol.connection_made(self)
        self._reading = not self._closing

    # What the far end does.

    def send(self, *pieces: bytes) -> None:
        """Send each of the pieces, and let the proxy do all that it can do then."""
        for piece in pieces:
            self._sent += piece
            self._wire.settle()

    def send_fin(self) -> None:
        """Say that nothing more will be sent."""
        self._fin = True
        self._wire.settle()

    def reset(self) -> None:
        """Break the connection: known to the proxy when it reads or writes."""
        self._error = ConnectionResetError("reset by the far end")
        self._wire.settle()

    def take(self, size: int = _UNLIMITED) -> None:
        """Receive `size` more bytes of what is kept back by the window."""
        self.window += size
        self._flush()
        self._wire.settle()

    # What the far end sees.

    def read(self) -> bytes:
        """What has come since the last call."""
        data = bytes(self._received)
        self._received.clear()
        return data

    @property
    def was_reset(self) -> bool:
        """Whether the connection has ended in a reset: asked for, or because the proxy had not read everything."""
        return self.gone and ((socket.SO_LINGER, 1) in self.options or bool(self._sent))

    @property
    def was_closed(self) -> bool:
        """Whether the connection has ended in order."""
        return self.gone and not self.was_reset

    def turn(self) -> bool:
        """One turn of the event loop: read what is there; false if there was nothing."""
        if self._error is not None and (self._reading or self._unsent) and not self._is_lost:
            self._force_close(self._error)
            return True
        read = 0
        while self._reading and self._sent and read < _READS_IN_A_TURN:
            view = self.protocol.get_buffer(-1)
            size = min(len(view), len(self._sent))
            view[:size] = self._sent[:size]
            del self._sent[:size]
            self.protocol.buffer_updated(size)
            read += 1
        if self._reading and self._fin and not self._sent:
            self._reading = False
            if not self.protocol.eof_received():
                self.close()
            return True
        return read > 0

    # What the protocol calls, as asyncio.Transport.

    def _alive(self) -> None:
        if self.gone:
            raise RuntimeError("the handler is closed")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if isinstance(data, memoryview):
            self.writelines([bytes(data)])
            if self._unsent:  # as uvloop: what it could not send at once it keeps, and does not copy
                self._kept.append((data, bytes(data)))
        else:
            self.writelines([data])

    def writelines(self, list_of_data: Any) -> None:
        self._alive()
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        pieces = list(list_of_data)
        assert all(isinstance(piece, bytes) for piece in pieces), "the shared read buffer must never be written"
        if self._is_lost:
            return
        if self._error is not None:
            self._force_close(self._error)
            return
        self._unsent += b"".join(pieces)
        self._flush()
        if len(self._unsent) > self._high and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def _flush(self) -> None:
        size = min(len(self._unsent), self.window)
        self._received += self._unsent[:size]
        del self._unsent[:size]
        assert all(view == data for view, data in self._kept), "a buffer was read into while it was sent from"
        if not self._unsent:
            self._kept.clear()
        self.window -= size
        if self._paused and len(self._unsent) <= self._low:
            self._paused = False
            self.protocol.resume_writing()
        if not self._unsent and self._closing:
            self._lose(None)
        elif not self._unsent and self._eof:
            self.got_fin = True

    def write_eof(self) -> None:
        self._alive()
        self._eof = True
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = not self._closing

    def is_reading(self) -> bool:
        return self._reading

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing, self._reading = True, False
            self._flush()

    def abort(self) -> None:
        if not self._is_lost:
            self._force_close(None)

    def _force_close(self, exc: Exception | None) -> None:
        self._closing, self._reading = True, False
        self._unsent.clear()
        self._lose(exc)

    def _lose(self, exc: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._wire.call_soon(self._tell_loss, exc)

    def _tell_loss(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)
        self.gone = True

    def fileno(self) -> int:
        """There is none; what is asked of this one is always empty."""
        return self._wire.nothing.fileno()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """As the socket's: what is asked for is kept in `options`."""
        assert level == socket.SOL_SOCKET
        self._alive()
        self.options.append((option, 1 if value in (1, _RESET) else 0))


class WireWorker(Worker):
    """A worker on the test's event loop, whose connections are made by the test."""

    wire: Wire

    def connect(self, exchange: Placement, server: Server) -> None:
        self.wire.connecting.append((exchange, server))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.wire.call_soon(callback)


class Wire:
    """One worker with one route: pools `v1` (stable, 10.0.1.x) and `v2` (canary, 10.0.2.x)."""

    def __init__(
        self,
        *,
        servers: int = 1,
        affinity: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        **sections: Any,
    ) -> None:
        pools = {f"v{pool}": {"servers": [f"http://10.0.{pool}.{n + 1}" for n in range(servers)]} for pool in (1, 2)}
        route = {
            "stable": "v1",
            "canary": "v2",
            "affinity": {"cookie": "uid", **(affinity or {})},
            "overrides": overrides or {},
        }
        config = Config.model_validate({"pools": pools, "routes": {"shop": route}, **sections})
        self.segment = layout.create(slots=len(config.routes), workers=2)
        self.board = Board(self.segment)
        self.now = 1000.0
        for second in range(RING):
            self.board.publish_edges(0, second, THRESHOLDS_US, SLOW_US)
        AckRow(self.segment, 0).enter(1, self.now)
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.worker = WireWorker(config, self.segment, 0, {name: slot for slot, name in enumerate(config.routes)})
        self.worker.wire = self
        self.worker.now = self.now
        self.worker.date = b"today"
        self.nothing, self._far_from_nothing = socket.socketpair()
        self.nothing.setblocking(False)
        self.connecting: list[tuple[Placement, Server]] = []
        self.holds_connects = False
        self.ends: list[FarEnd] = []
        self.origins: list[FarEnd] = []
        self.hung: int | None = 0  #: exchanges that the test has let run for longer than T_HANG; None: any

    def __enter__(self) -> Wire:
        self._clocks = [patch(f"canaryproxy.proxy.{part}.monotonic", lambda: self.now) for part in ("placement", "exchange")]
        for clock in self._clocks:
            clock.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._leave()
        finally:
            for clock in self._clocks:
                clock.stop()
            self.nothing.close()
            self._far_from_nothing.close()

    # Far ends.

    def client(self, peer: str = "192.0.2.1") -> FarEnd:
        """A new client connection."""
        client = FarEnd(self, Downstream(self.worker, self.worker.ingress), peer)
        self.ends.append(client)
        return client

    @property
    def origin(self) -> FarEnd:
        """The upstream connection that was made last."""
        return self.origins[-1]

    def accept(self, window: int = _UNLIMITED) -> FarEnd:
        """Accept the oldest connection that the proxy is waiting for, and take `window` bytes on it."""
        exchange, server = self.connecting.pop(0)
        upstream = Upstream(self.worker, server)
        origin = FarEnd(self, upstream, server.host)
        origin.window = window
        self.ends.append(origin)
        self.origins.append(origin)
        exchange.connected(upstream)
        self.settle()
        return origin

    def refuse(self, failure: Failure = outcome.REFUSED) -> None:
        """Let the oldest connection attempt fail."""
        exchange, _ = self.connecting.pop(0)
        exchange.connect_failed(failure)
        self.settle()

    # The event loop.

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call back after this turn's reading."""
        self._ready.append((callback, args))

    def settle(self) -> None:
        """Run until nothing more can happen by itself."""
        while sum([end.turn() for end in self.ends]) or self._ready or (self.connecting and not self.holds_connects):
            while self._ready:
                callback, args = self._ready.popleft()
                callback(*args)
            if self.connecting and not self.holds_connects:
                self.accept()

    # Time, weights and counts.

    def advance(self, seconds: float) -> None:
        """Let time pass and the worker look at its deadlines."""
        self.now += seconds
        self.worker.now = self.now
        self.worker.sweep(self.now)
        self.settle()

    def publish(self, weight_bp: int, *, swapped: bool = False, salt: int = 7, overrides: bool = True) -> int:
        """Set the canary's share; the epoch."""
        return self.board.publish(0, weight_bp, swapped=swapped, salt=salt, overrides=overrides)

    def counts(self, variant: int = STABLE) -> Block:
        """The ledger of one variant."""
        return read_block(self.segment, 0, variant)

    def outcomes(self, variant: int = STABLE) -> dict[Count, int]:
        """How this variant's exchanges have ended, without zeros."""
        block = self.counts(variant)
        return {Count(count): block[count] for count in OUTCOMES if block[count]}

    def exchange(self, request: bytes = GET, response: bytes = OK) -> bytes:
        """What a new client gets for this request when the origin answers so; its connection is closed afterwards."""
        client = self.client()
        client.send(request)
        self.origins = [end for end in self.origins if not end.gone]
        self.origin.send(response)
        got = client.read()
        client.send_fin()
        return got

    def _leave(self) -> None:
        for end in self.ends:
            if isinstance(end.protocol, Downstream) and not end.gone:
                end.window = _UNLIMITED
                end.resume_reading()
                end.reset()
        self.holds_connects = False
        self.settle()
        assert not self.worker.downstreams, "a client's connection is still known"
        for pool in self.worker.pools:
            for server in pool.servers:
                assert server.active == 0, f"{server.host} has {server.active} exchanges in hand"
                assert all(not idle.transport.is_closing() for idle in server.idle)
        for end in self.ends:
            upstream = end.protocol
            if isinstance(upstream, Upstream) and not end.gone:
                assert upstream in upstream.server.idle, "an upstream connection is neither closed nor idle"
                assert upstream.exchange is None
                assert end.is_reading(), "an idle upstream connection does not read"
                assert not end.get_write_buffer_size(), "an idle upstream connection has a request unsent"
        unresolved = 0
        for variant in (STABLE, CANARY):
            block = self.counts(variant)
            assert block[Count.STARTED] == sum(block[count] for count in OUTCOMES), self.outcomes(variant)
            for second in range(RING):
                started, *ended = block.cohort(second)
                assert started >= sum(ended)
                unresolved += started - sum(ended)
        assert self.hung in (None, unresolved), f"{unresolved} judged exchanges have no class, {self.hung} hung"
