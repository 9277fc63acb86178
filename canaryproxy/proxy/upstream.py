"""The connection to one upstream: reads responses, tells the exchange what came.

Called by the event loop and by `proxy.exchange`. Between exchanges it lies in its server's stack, where any byte or an end closes
it (C4). A body of known length is passed on without being looked at; what follows a response's end is never a response.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from canaryproxy.http1.chunked import ChunkedReader
from canaryproxy.http1.framing import Body
from canaryproxy.http1.head import MessageError
from canaryproxy.http1.response import ResponseHead, switches_protocol
from canaryproxy.proxy.tls import let_go, set_buffer_limits

if TYPE_CHECKING:
    from canaryproxy.config.quantities import Address
    from canaryproxy.proxy.exchange import Exchange, Trailers
    from canaryproxy.proxy.pool import Server
    from canaryproxy.proxy.worker import Worker

_NONE, _LENGTH, _CHUNKED, _UNTIL_CLOSE = Body  # an enum's attributes are slow to look up

#: From this size on, body bytes go on without a copy.
_LARGE = 16 * 1024


class Upstream(asyncio.BufferedProtocol):
    """One upstream connection."""

    __slots__ = (
        # process
        "_worker",
        # connection
        "address",
        "born",
        "idle_since",
        "server",
        "transport",
        "used",
        # exchange
        "_body",
        "_chunked",
        "_interim",
        "_pending",
        "_remaining",
        "exchange",
        "head_seen",
        "reusable",
        "sent_in",
    )

    # Of the exchange: set by `begin`, and the rest with the response's head.
    _body: Body
    _chunked: ChunkedReader | None
    _interim: int
    _pending: bytes
    _remaining: int
    head_seen: bool
    reusable: bool
    sent_in: int  #: The worker's turn at whose end the request goes out; -1: it has gone out.

    def __init__(self, worker: Worker, server: Server, address: Address | None = None) -> None:
        """`address` is where it is connected to; None with a Unix socket."""
        self._worker = worker
        self.server = server
        self.address = address
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self.used = False
        self.born = worker.now
        self.idle_since = 0.0
        self.exchange: Exchange | None = None

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        set_buffer_limits(self.transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._worker.read_view

    def buffer_updated(self, nbytes: int) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()  # nobody asked: a late or stray response must never answer the next request
            return
        view = self._worker.read_view
        if not self.head_seen:
            if self.sent_in == self._worker.turn:
                self._ended(in_order=False)  # no answer: the request has not gone out yet (R4)
                return
            self._read_head(exchange, bytes(view[:nbytes]))
        elif self._body is _LENGTH and _LARGE <= nbytes < self._remaining:
            self._remaining -= nbytes
            exchange.response_view(view[:nbytes])
        else:
            self._read_body(exchange, bytes(view[:nbytes]), b"")

    def eof_received(self) -> bool:
        self._ended(in_order=True)  # now: the loss would be told only when all that is unsent has gone out
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.transport:  # lost in the handshake behind a PROXY header, before it was made: the connector knows
            return
        if exc is not None and self.transport.get_extra_info("ssl_object") is None:
            self._read_rest()
        self._ended(in_order=False)  # an end in order is told by eof_received; without one, TLS was cut off
        let_go(self.transport)

    def _ended(self, *, in_order: bool) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            if self in self.server.idle:
                self.server.idle.remove(self)
        elif in_order and self.head_seen and self._body is _UNTIL_CLOSE:
            exchange.response_end(self, b"", ())
        else:
            exchange.upstream_lost(self, answered=self.head_seen or bool(self._pending) or self._interim > 0)

    def _read_rest(self) -> None:
        """Read what lies behind a failed write: an upload may be refused by an answer and a reset (C7)."""
        with suppress(OSError), socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as rest:
            while self.exchange is not None and (size := rest.recv_into(self._worker.read_view)):
                self.buffer_updated(size)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.downstream.pause_request()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.downstream.resume_request()
            self.exchange.downstream.await_response(self.exchange)

    # Called by the exchange.

    def release(self, *, request_done: bool) -> None:
        """Wait for the next exchange if what comes next will be the answer to it, else close."""
        transport = self.transport
        if request_done and self.reusable and transport.is_reading() and not transport.get_write_buffer_size():
            self.keep()
        else:
            self.close()

    def keep(self) -> None:
        """Wait for the next exchange."""
        self.idle_since = self._worker.now
        surplus = self.server.keep(self)
        if surplus is not None:
            surplus.close()

    def begin(self, exchange: Exchange) -> bool:
        """Serve this exchange from now on; whether it is the first one."""
        self.exchange = exchange
        self._pending, self._interim, self.head_seen, self._chunked = b"", 0, False, None
        first = not self.used
        self.used = True
        return first

    def close(self) -> None:
        """Close at once; the exchange, if any, is told nothing."""
        self.exchange = None
        if self in self.server.idle:
            self.server.idle.remove(self)
        self.transport.abort()

    # Reading a response.

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        seen, recall = len(self._pending), self._worker.recall
        if seen:
            data, self._pending = self._pending + data, b""
        while True:
            found = recall.response(data, seen, exchange.line)
            if found is None:
                self._pending = data
                return
            if isinstance(found, MessageError):
                exchange.response_invalid(found.reason)
                return
            head, end = found
            data, seen = data[end:], 0
            if head.status >= 200:
                break
            self._interim += 1
            if head.status == 101:
                if switches_protocol(head, exchange.upgrade):
                    exchange.switch(self, head, data)
                else:
                    exchange.response_invalid("upstream_bad_upgrade")
                return
            if self._interim > self._worker.max_interim:
                exchange.response_invalid("upstream_too_many_interim")
                return
            exchange.interim_response(head)
        self._begin_body(exchange, head, data)

    def _begin_body(self, exchange: Exchange, head: ResponseHead, data: bytes) -> None:
        self._body = body = head.body
        self.reusable = head.reusable and exchange.upgrade is None  # who refuses to switch may yet read on as if it had (C9)
        out = exchange.response_head(head)
        if body is _LENGTH and len(data) == head.length:  # nearly always, of small answers: all of it in one read
            self.exchange = None
            exchange.response_whole(self, out, data)
            return
        self.head_seen = True
        self._remaining = head.length
        if body is _CHUNKED:
            self._chunked = ChunkedReader(upstream=True, **self._worker.chunk_limits)
        if body is _NONE:
            if data:
                self.reusable = False
            self._finish(exchange, out, ())
        elif data:
            self._read_body(exchange, data, out)
        else:
            exchange.response_data(out, ())

    def _read_body(self, exchange: Exchange, data: bytes, head: bytes) -> None:
        if self._body is _LENGTH:
            size, remaining = len(data), self._remaining
            if size < remaining:
                self._remaining = remaining - size
                exchange.response_data(head, (data,))
                return
            if size > remaining:
                data = data[:remaining]
                self.reusable = False
            self._finish(exchange, head, (data,))
        elif self._chunked is not None:
            self._read_chunked(exchange, self._chunked, data, head)
        else:
            exchange.response_data(head, (data,))

    def _read_chunked(self, exchange: Exchange, reader: ChunkedReader, data: bytes, head: bytes) -> None:
        pieces = reader.feed(data)
        if isinstance(pieces, MessageError):
            if head:  # nothing of it has been sent
                exchange.response_invalid(pieces.reason)
            else:
                exchange.response_broken()
        elif reader.done:
            if reader.rest:
                self.reusable = False
            self._finish(exchange, head, pieces, reader.trailers)
        elif pieces or head:
            exchange.response_data(head, pieces)

    def _finish(self, exchange: Exchange, head: bytes, pieces: Sequence[bytes], trailers: Trailers = ()) -> None:
        """The response is complete: part from the exchange first, so that its end may begin another one here."""
        self.exchange = None
        exchange.response_end(self, head, pieces, trailers)
