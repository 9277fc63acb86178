"""A tunnel: after a matching 101 two connections carry bytes both ways, until one side ends (C9, C10, R6).

Made by `proxy.exchange` with the two transports, whose protocols it replaces. Called by the event loop, and by the worker's sweep
when `deadline` is over. What one side sends is written to the other at once; as long as a side has anything unsent, nothing more
is read from the other, so that one read, 128 KiB, is all that a slow side makes a direction hold.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Literal, TypeAlias

from canaryproxy.proxy.tls import count_taken, reset

if TYPE_CHECKING:
    from canaryproxy.proxy.worker import Worker

#: Who ended a tunnel. `proxy`: it was closed for a drain or a rollback.
Who: TypeAlias = Literal["client", "upstream", "idle", "proxy"]

#: From this size on, bytes go on without a copy.
_LARGE = 16 * 1024
#: Seconds that a tunnel which the proxy closes has for what is still unsent: the supervisor waits 2 s beyond the drain (C10).
_CLOSE_SECONDS = 1.0
#: Seconds without a byte until a probe, between probes, and probes without an answer until a peer counts as dead (C14).
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


class End(asyncio.BufferedProtocol):
    """One of the two connections: reads from it, and knows how writing to it goes."""

    __slots__ = (
        "_tunnel",
        "_taken",
        "_worker",
        "ended",
        "half_closes",
        "lost",
        "peer",
        "received",
        "stalls_at",
        "transport",
        "who",
    )

    def __init__(self, tunnel: Tunnel, worker: Worker, transport: asyncio.Transport, who: Literal["client", "upstream"]) -> None:
        self._tunnel = tunnel
        self._worker = worker
        self.transport = transport
        self.who: Who = who
        self.peer = self
        #: TLS ends both ways at once: what comes after its end is lost.
        self.half_closes = transport.can_write_eof()
        self.received = 0
        self.ended = False  # it has said that it will send no more
        self.lost = False
        self._taken = 0
        #: When the bytes that it does not take become its fault; never, if there are none.
        self.stalls_at = inf

    # Called by the tunnel.

    def take_over(self) -> None:
        """Have the transport talk to this end from now on."""
        self.transport.set_protocol(self)
        # TLS of uvloop pauses its writer from `high` bytes on, TCP above it: either way, as soon as anything is unsent
        self.transport.set_write_buffer_limits(0 if self.half_closes else 1)
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEP_ALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def begin(self, data: bytes) -> None:
        """Write what the peer had sent already, then read from the peer unless this has to be sent first."""
        self.peer.received += len(data)
        if data and not self.transport.is_closing():
            self.transport.write(data)
        if self.transport.get_write_buffer_size():
            self.pause_writing()  # once more, if the write has called it; it was another protocol's, if there was more
        else:
            self.peer.transport.resume_reading()

    def has_stalled(self, now: float) -> bool:
        """Whether no byte was taken for `timeouts.send_idle`; if some were, the time begins anew."""
        if self.stalls_at > now:
            return False
        before, self._taken = self._taken, count_taken(self.transport)
        self.stalls_at = now + self._worker.timeouts.send_idle
        return self._taken <= before

    def cut(self) -> None:
        """End with a reset, so that what was sent cannot be taken for whole."""
        if not self.lost:
            reset(self.transport)

    def part(self) -> None:
        """Let go of all that would keep both ends alive: uvloop's TLS remembers its protocol's methods for ever."""
        del self.peer, self.transport, self._tunnel

    # Called by the event loop.

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._worker.read_view

    def buffer_updated(self, nbytes: int) -> None:
        worker, transport = self._worker, self.peer.transport
        self.received += nbytes
        self._tunnel.last_read = worker.now
        view = worker.read_view[:nbytes]
        if nbytes < _LARGE:
            worker.send(transport, bytes(view))
        elif not transport.is_closing():
            if worker.outbox:
                worker.flush()
            transport.write(view)
            if transport.get_write_buffer_size():
                worker.replace_read_buffer()

    def eof_received(self) -> bool:
        self.ended = True
        self._tunnel.end_received(self)
        return self.half_closes

    def pause_writing(self) -> None:
        self._taken = count_taken(self.transport)
        self.stalls_at = self._worker.now + self._worker.timeouts.send_idle
        self._tunnel.look_at(self.stalls_at)
        self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self.stalls_at = inf
        if self.peer.ended:
            self._tunnel.linger()
        else:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._tunnel.end_lost(self, exc)


class Tunnel:
    """A client's and an upstream's connection, joined."""

    __slots__ = ("_client", "_closing", "_end_by", "_on_end", "_upstream", "_who", "_worker", "deadline", "last_read", "reason")

    def __init__(
        self,
        worker: Worker,
        client: asyncio.Transport,
        upstream: asyncio.Transport,
        *,
        on_end: Callable[[int, int, Who], None],
    ) -> None:
        """`on_end(bytes to upstream, bytes to client, who)` is called once, when both connections are gone."""
        self._worker = worker
        self._on_end = on_end
        self._client = End(self, worker, client, "client")
        self._upstream = End(self, worker, upstream, "upstream")
        self._client.peer, self._upstream.peer = self._upstream, self._client
        self._who: Who = "proxy"
        self._closing = False
        #: When a tunnel that has begun to end must have done so.
        self._end_by = inf
        self.last_read = worker.now
        #: When the sweep has to look again. Bytes do not move it: that they came is found out then.
        self.deadline = worker.now + worker.timeouts.tunnel_idle
        #: Why it ended, for the log: eof, reset, stalled, idle, or what `close` was told. The first cause; at first empty.
        self.reason = ""

    def start(self, to_client: bytes = b"", to_upstream: bytes = b"") -> None:
        """Take the connections over. The 101 itself must have been given to `Worker.send` or written.

        `to_client` came from the upstream behind its 101, `to_upstream` from the client behind its request; both count as
        tunnelled.
        """
        self._worker.flush()
        self._client.take_over()
        self._upstream.take_over()
        self._client.begin(to_client)
        self._upstream.begin(to_upstream)

    def close(self, reason: str) -> None:
        """Close both connections in order, for a drain or a rollback; what is unsent after a second is cut."""
        self._close("proxy", reason, _CLOSE_SECONDS)

    def on_deadline(self, now: float) -> None:
        """Find out what the time is over for, if anything, and end it."""
        timeouts, ends = self._worker.timeouts, (self._client, self._upstream)
        stalled = [end for end in ends if end.has_stalled(now)]
        idle_at = self.last_read + timeouts.tunnel_idle
        if stalled:
            self._cut(stalled[0].who, "stalled")
        elif self._end_by <= now and self._closing:
            self._cut(self._who, self.reason)
        elif self._end_by <= now:
            self._close(self._who, self.reason, timeouts.tunnel_linger)
        elif idle_at <= now:
            self._close("idle", "idle", timeouts.tunnel_linger)
        self.deadline = min(self._end_by, idle_at, *(end.stalls_at for end in ends))

    # Called by the two ends.

    def look_at(self, when: float) -> None:
        """Have the sweep look at `when`, if not before."""
        self.deadline = min(self.deadline, when)

    def linger(self) -> None:
        """One side has ended, and the other has all of it: its own end may take `timeouts.tunnel_linger`."""
        if not self._closing:
            self._end_by = self._worker.now + self._worker.timeouts.tunnel_linger
            self.look_at(self._end_by)

    def end_received(self, end: End) -> None:
        """Pass the end of input on; when both sides have said it, or one cannot say it alone, close."""
        if self._closing:
            return
        peer = end.peer
        if peer.ended or not (end.half_closes and peer.half_closes):
            self._close(end.who, "eof", self._worker.timeouts.tunnel_linger)
            return
        self._blame(end.who, "eof")
        self._worker.flush()
        if not peer.transport.is_closing():
            peer.transport.write_eof()
        if peer.stalls_at == inf:
            self.linger()

    def end_lost(self, end: End, exc: Exception | None) -> None:
        """One connection is gone: the other goes the same way, in order or by a reset."""
        if not self._closing and exc is None:
            self._close(end.who, "eof", self._worker.timeouts.tunnel_linger)
        elif not self._closing:
            self._cut(end.who, "reset")
        client, upstream = self._client, self._upstream
        if client.lost and upstream.lost:
            client.part()
            upstream.part()
            on_end = self._on_end
            del self._client, self._upstream, self._on_end
            self.deadline = inf
            on_end(client.received, upstream.received, self._who)

    # Ends.

    def _blame(self, who: Who, reason: str) -> None:
        """The first cause counts."""
        if not self.reason:
            self._who, self.reason = who, reason

    def _close(self, who: Who, reason: str, seconds: float) -> None:
        if self._closing:
            return
        self._blame(who, reason)
        self._closing = True
        self._end_by = self._worker.now + seconds
        self.look_at(self._end_by)
        self._worker.flush()
        self._client.transport.close()
        self._upstream.transport.close()

    def _cut(self, who: Who, reason: str) -> None:
        self._blame(who, reason)
        self._closing = True
        self._client.cut()
        self._upstream.cut()
