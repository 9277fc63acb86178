"""The connection of one client: reads requests one at a time, writes what the exchange gives it.

Called by the event loop, by `proxy.exchange` and by the worker's sweep. Requests are answered in their order; what a client sends
ahead stays unread beyond one buffer (C2). One deadline at a time, looked at by the sweep: no timer for a request.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from canaryproxy.http1 import forward
from canaryproxy.http1.chunked import CHUNK_END, LAST_CHUNK, ChunkedReader, chunk_head
from canaryproxy.http1.framing import Body
from canaryproxy.http1.head import MessageError
from canaryproxy.http1.reply import CONTINUE, reply
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.route import VARIANT_NAMES

if TYPE_CHECKING:
    from canaryproxy.proxy.recall import Block, Line
    from canaryproxy.proxy.worker import Worker

_NONE, _, _CHUNKED, _ = Body  # an enum's attributes are slow to look up
_RESET = struct.pack("ii", 1, 0)
#: After an early end, this much is read and thrown away, so that the client sees the answer before a reset (C13).
_LINGER_BYTES, _LINGER_SECONDS = 256 * 1024, 5.0


class Downstream(asyncio.BufferedProtocol):
    """One client connection."""

    __slots__ = (
        # process
        "_worker",
        # connection
        "_block",
        "_holding",
        "_lines",
        "_linger_left",
        "_pending",
        "_reading_heads",
        "_recall",
        "_requests",
        "_seen",
        "_write_paused",
        "_written",
        "deadline",
        "peer",
        "transport",
        # request
        "_chunked",
        "_remaining",
        "exchange",
    )

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self.exchange: Exchange | None = None
        self.peer = b""
        self._recall = worker.recall
        self.deadline = 0.0
        self._requests = 0
        self._pending = b""
        self._seen = 0
        self._reading_heads = False
        self._linger_left = -1
        self._write_paused = False
        self._written = 0
        self._remaining = 0
        self._chunked: ChunkedReader | None = None
        self._block: Block | None = None
        self._lines: list[bytes | None] = []
        self._holding = False

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(0)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]).removeprefix("::ffff:").encode() if peer else b""  # IPv4 on a [::] listener
        self._recall = self._worker.recall_for(self.peer)
        self.deadline = self._worker.now + self._worker.timeouts.keep_alive
        if not self._worker.welcome(self):
            self.refuse(MessageError(503, "too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.downstreams.discard(self)
        self._call_off()

    def eof_received(self) -> bool:
        exchange = self.exchange
        if exchange is not None and exchange.request_done and not exchange.framing.keep_alive:
            return True  # the client said that this was its last request: it waits for the answer
        self._call_off()
        self._worker.flush()  # what it gets must have been written: the transport closes now
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._worker.request_view

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._worker.request_view[:nbytes])
        exchange = self.exchange
        if exchange is None:
            if self._linger_left < 0:
                self._read_heads(data)
            else:
                self._discard(nbytes)
        elif exchange.request_done:
            self._hold(data)
        else:
            self._read_body(exchange, data)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._written = self.transport.get_write_buffer_size()
        self.deadline = self._worker.now + self._worker.timeouts.send_idle
        if self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        exchange = self.exchange
        if exchange is None:
            if self._linger_left < 0:
                self._next_request()
        else:
            self.await_response(exchange)
            if exchange.upstream is not None and not exchange.upstream.transport.is_closing():
                exchange.upstream.transport.resume_reading()

    # Reading requests.

    def _read_heads(self, data: bytes) -> None:
        """Begin the exchanges that `data` holds, until one has to wait for its upstream."""
        seen = 0
        if self._pending:
            data, self._pending = self._pending + data, b""
            seen, self._seen = self._seen, 0  # what was held back has not been looked at
        self._reading_heads = True
        while True:
            found = self._recall.head(data, seen, self._block)
            if found is None:
                self._await_head(data, seen)
                data = b""
                break
            data, seen = self._begin(found, data), 0
            if not data or self.exchange is not None or self._linger_left >= 0 or self._write_paused:
                break
        self._reading_heads = False
        if data and self._linger_left < 0:
            self._hold(data)

    def _await_head(self, data: bytes, seen: int) -> None:
        """Keep the beginning of a head until its end is there."""
        if not seen:  # the time counts from the first byte, however slowly the others come
            self.deadline = self._worker.now + self._worker.timeouts.request_head
        self._pending, self._seen = data, len(data)

    def _begin(self, found: tuple[Line, Block, int] | MessageError, data: bytes) -> bytes:
        """Begin the exchange of the head that was found in `data`; what follows the request there."""
        if isinstance(found, MessageError):
            return self.refuse(found)
        line, block, end = found
        if block is not self._block:
            self._block, self._lines = block, block.lines_for(self.peer)
        framing = block.get_framing if line.plain else self._recall.framing(line, block)
        if isinstance(framing, MessageError):
            return self.refuse(framing)
        self._requests += 1
        exchange = self.exchange = Exchange(self._worker, self, line, block, framing)
        if exchange.request_done:
            exchange.start()
            return data[end:] if len(data) > end else b""
        self._remaining = framing.length
        self._chunked = ChunkedReader() if framing.body is _CHUNKED else None
        exchange.start()
        rest = data[end:]
        return self._read_body(exchange, rest) if rest else b""

    def _read_body(self, exchange: Exchange, data: bytes) -> bytes:
        """Give body bytes to the exchange; what follows the request."""
        body = exchange.body
        if exchange.ended or body is None:
            return b""
        if self._chunked is not None:
            pieces = self._chunked.feed(data)
            if isinstance(pieces, MessageError):
                exchange.client_error(pieces)
                return b""
            done, rest = self._chunked.done, self._chunked.rest
            size = sum(map(len, pieces))
            framed = [chunk_head(size), *pieces, CHUNK_END] if size else []
            if done:
                framed.append(LAST_CHUNK)
        else:
            rest = data[self._remaining :]
            piece = data[: self._remaining] if rest else data
            size = len(piece)
            self._remaining -= size
            done = self._remaining == 0
            framed = [piece] if piece else []
        self.deadline = self._worker.now + self._worker.timeouts.request_body_idle
        exchange.request_data(body, framed, size, done=done)
        if done and exchange.upstream is not None:
            self.await_response(exchange)
        if rest and not self._reading_heads:
            self._hold(rest)
        return rest

    def _hold(self, data: bytes) -> None:
        """Keep what was sent ahead and read no more until it is its turn."""
        self._pending += data
        self._holding = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _discard(self, nbytes: int) -> None:
        self._linger_left = max(0, self._linger_left - nbytes)
        if not self._linger_left:
            self.transport.pause_reading()  # a reset now would overtake the answer: the deadline closes

    # Called by the exchange: what it asks of the request.

    def forward_lines(self, exchange: Exchange, variant: int, authority: bytes) -> bytes:
        """What follows the request line to the upstream; made once for each block, client and variant."""
        plain = exchange.line.plain and not self._worker.host_by_upstream
        lines = self._lines[variant] if plain else None
        if lines is None:
            lines = forward.request_lines(
                exchange.block.fields,
                exchange.framing,
                variant=VARIANT_NAMES[variant],
                peer=self.peer,
                upstream_authority=authority,
                trusted=self._recall.rules.trust_forwarded,
                **self._worker.hop,
            )
            if plain:
                self._lines[variant] = lines
        return lines

    def send_continue(self) -> None:
        """Ask for the body that the client announced (C8)."""
        self.write(CONTINUE)

    def await_response(self, exchange: Exchange) -> None:
        """From now on it is the upstream's turn, or the client's if its body is still to come."""
        worker = self._worker
        if self._write_paused:
            if exchange.upstream is not None:  # it may have come after the pause
                exchange.upstream.transport.pause_reading()
        elif exchange.status:
            self.deadline = worker.now + worker.timeouts.response_body_idle
        elif exchange.request_done:
            self.deadline = worker.now + worker.timeouts.response_head
        else:
            self.deadline = worker.now + worker.timeouts.request_body_idle

    def pause_request(self) -> None:
        """Read no more of the request's body: the upstream cannot take it."""
        self._holding = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_request(self) -> None:
        """Read on, unless a next request waits already."""
        if not self._pending and not self.transport.is_closing():
            self._holding = False
            self.transport.resume_reading()

    # Called by the exchange: what it asks of the response.

    def may_keep_alive(self) -> bool:
        """Whether this connection may serve another request."""
        return self._requests < self._worker.max_requests

    def write(self, data: bytes) -> None:
        """Write to the client at the end of this turn, if it is still there."""
        self._worker.send(self.transport, data)

    def write_now(self, pieces: Sequence[bytes]) -> None:
        """Write much in one go, and at once, for only that can pause the upstream's next read."""
        if not self.transport.is_closing():
            self._worker.flush()
            self.transport.writelines(pieces)

    def await_body(self) -> None:
        """More of the response is to come."""
        if not self._write_paused:
            self.deadline = self._worker.now + self._worker.timeouts.response_body_idle

    def write_view(self, view: memoryview) -> None:
        """Write body bytes straight from the worker's read buffer, which is left to the transport if it cannot send them all."""
        worker, transport = self._worker, self.transport
        if not transport.is_closing():
            if worker.outbox:
                worker.flush()
            transport.write(view)
            if transport.get_write_buffer_size():
                worker.replace_read_buffer()
        self.await_body()

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The response is written: go on to the next request, or close."""
        exchange = self.exchange
        self.exchange = None
        if keep_alive:
            if not self._reading_heads and not self._write_paused:
                self._next_request()
        elif self._pending or (exchange is not None and not exchange.request_done):
            self._linger()  # closing on what the client has sent would be a reset
        else:
            self._close()

    def _next_request(self) -> None:
        """Begin what was sent ahead, or wait for it."""
        self.deadline = self._worker.now + self._worker.timeouts.keep_alive
        if self._holding:
            self._holding = False
            self.transport.resume_reading()
            if self._pending and not self.transport.is_closing():
                self._read_heads(b"")

    def refuse(self, error: MessageError, *, keep_alive: bool = False) -> bytes:
        """Answer in the proxy's own name; nothing of what follows is looked at unless the connection is kept."""
        exchange = self.exchange
        keep_alive = keep_alive and self.may_keep_alive()
        head_only = exchange is not None and exchange.line.is_head
        retry_after = 1 if error.status == 503 else None
        self.write(reply(*error, close=not keep_alive, head_only=head_only, date=self._worker.date, retry_after=retry_after))
        if keep_alive:
            self.exchange_done(keep_alive=True)
        else:
            self.exchange = None
            self._linger()
        return b""

    # Ends.

    def _call_off(self) -> None:
        """The client has left, or might as well have: so ends what it had in hand."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None and not exchange.ended:
            exchange.client_gone()

    def _linger(self) -> None:
        """Say that nothing more comes, and let the client finish reading before the connection goes (C13)."""
        self._pending = b""
        self._linger_left = _LINGER_BYTES
        self.deadline = self._worker.now + _LINGER_SECONDS
        if not self.transport.is_closing():
            self._worker.flush()
            self.transport.write_eof()
            self.transport.resume_reading()

    def _close(self) -> None:
        self._linger_left = 0
        self.deadline = self._worker.now + self._worker.timeouts.send_idle
        self._worker.flush()
        self.transport.close()

    def cut(self) -> None:
        """End with a reset, so that what was sent cannot be taken for whole."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.exchange = None
        self.transport.abort()

    # Called by the worker's sweep.

    def is_idle(self, since: float) -> bool:
        """Whether no request is in hand, and none came after `since`."""
        quiet = self.exchange is None and not self._pending and self._linger_left < 0
        return quiet and self.deadline - self._worker.timeouts.keep_alive <= since

    def on_deadline(self, now: float) -> None:
        """The deadline has passed: find out whose turn it was, and end it."""
        exchange = self.exchange
        if self._write_paused:
            left = self.transport.get_write_buffer_size()
            if left < self._written:
                self._written, self.deadline = left, now + self._worker.timeouts.send_idle
            else:
                self._call_off()
                self.cut()
        elif exchange is None:
            if self._pending:
                self.refuse(MessageError(408, "request_head_timeout"))
            else:
                self.transport.abort() if self.transport.is_closing() else self._close()
        elif exchange.upstream is None:
            self.deadline = now + 1.0  # the connect has its own limit
        elif exchange.request_done or not self.transport.is_reading():
            exchange.response_overdue()  # a body that is not read is one that the upstream does not take
        else:
            exchange.client_error(MessageError(408, "request_body_timeout"))

    def end_drain(self) -> None:
        """Give up what is still in hand when the drain's time is over."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None and not exchange.ended:
            exchange.abandon()
        self.cut()
