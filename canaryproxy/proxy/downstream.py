"""The connection of one client: reads requests one at a time, writes what the exchange gives it.

Called by the event loop, by `proxy.exchange` and by the worker's sweep. Requests are answered in their order; what a client sends
ahead stays unread beyond one buffer (C2). One deadline at a time, looked at by the sweep: no timer for a request.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, cast

from canaryproxy.http1 import forward
from canaryproxy.http1.chunked import CHUNK_END, LAST_CHUNK, ChunkedReader, chunk_head, last_chunk
from canaryproxy.http1.framing import Body, may_go_on
from canaryproxy.http1.head import MessageError
from canaryproxy.http1.reply import CONTINUE, reply
from canaryproxy.proxy.client import Client
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.route import VARIANT_NAMES
from canaryproxy.proxy.tls import count_taken, let_go, set_buffer_limits
from canaryproxy.routing.client import client_address

if TYPE_CHECKING:
    from canaryproxy.http1.proxy_protocol import Header
    from canaryproxy.proxy.exchange import Trailers
    from canaryproxy.proxy.ingress import Ingress
    from canaryproxy.proxy.recall import Block, Line
    from canaryproxy.proxy.worker import Worker

_NONE, _, _CHUNKED, _ = Body  # an enum's attributes are slow to look up
_OVERLOADED = MessageError(503, "overloaded")
_BODY_TOO_LARGE = MessageError(413, "body_too_large")


class Downstream(Client):
    """One client connection."""

    __slots__ = ("_block", "_chunked", "_lines", "_reading_heads", "_recall", "_remaining", "_requests", "_seen")

    def __init__(self, worker: Worker, ingress: Ingress, header: Header | None = None) -> None:
        """`header` is what a trusted load balancer said of the client in the PROXY protocol."""
        super().__init__(worker, ingress, header)
        # connection
        self._recall = ingress.recall
        self._requests = 0
        self._seen = 0
        self._reading_heads = False
        self._block: Block | None = None
        self._lines: list[bytes | None] = []
        # request
        self._remaining = 0
        self._chunked: ChunkedReader | None = None

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        set_buffer_limits(self.transport)
        if self._header is not None and self._header.source is not None:
            self.peer = self._header.source
        else:
            peer = transport.get_extra_info("peername")
            self.peer = str(peer[0]).removeprefix("::ffff:").encode() if peer else b""  # IPv4 on a [::] listener
        if self._worker.is_trusted(self.peer):
            self._recall = self._ingress.trusting
        self.deadline = self._worker.now + self._worker.timeouts.keep_alive
        unwelcome = self._worker.welcome(self)
        if unwelcome is not None:
            self.reject(unwelcome)

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.part(self)
        self._call_off()
        let_go(self.transport)

    def eof_received(self) -> bool:
        exchange = self.exchange
        waits = exchange is not None and exchange.request_done and not exchange.framing.keep_alive
        if waits and not self._ingress.tls:  # of TLS both ways end at once
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
        self._written = count_taken(self.transport)
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
            return self.reject(found)
        line, block, end = found
        if block is not self._block:
            self._block, self._lines = block, block.lines_for(self.peer)
        framing = block.get_framing if line.plain else self._recall.framing(line, block)
        worker = self._worker
        if isinstance(framing, MessageError):
            return self.reject(framing, line, block, data[end:])
        if worker.is_full:
            return self.reject(_OVERLOADED, line, block)
        if 0 < worker.max_body < framing.length:
            return self.reject(_BODY_TOO_LARGE, line, block)
        self._requests += 1
        exchange = self.exchange = Exchange(worker, self, line, block, framing)
        if exchange.request_done:
            exchange.start()
            return data[end:] if len(data) > end else b""
        self._remaining = framing.length
        self._chunked = ChunkedReader(**worker.chunk_limits) if framing.body is _CHUNKED else None
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
                framed.append(self._end_of_body(exchange, self._chunked.trailers))
            if 0 < self._worker.max_body < body.received + size:
                exchange.client_error(_BODY_TOO_LARGE)
                return b""
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

    def _end_of_body(self, exchange: Exchange, trailers: Trailers) -> bytes:
        """The last chunk, with those trailers that are wanted, if the client speaks of them (F17)."""
        wanted = self._worker.request_trailers
        if not trailers or not wanted or not exchange.block.fields.te_trailers:
            return LAST_CHUNK
        return last_chunk(trailer for trailer in trailers if trailer[0].lower() in wanted)

    # Called by the exchange: what it asks of the request.

    def client_address(self, block: Block) -> bytes:
        """Whose request it is: this connection's peer, or the client that trusted proxies name (H4)."""
        if self._recall is self._ingress.recall:
            return self.peer
        return client_address(self.peer, block.fields.joined(b"x-forwarded-for"), self._worker.is_trusted)

    def forward_lines(self, exchange: Exchange, variant: int, authority: bytes) -> bytes:
        """What follows the request line to the upstream, but its id and the empty line.

        Made once for each block, client and variant.
        """
        lines = self._lines[variant]
        if lines is None or not exchange.line.plain:
            lines = forward.request_lines(
                exchange.block.fields,
                exchange.framing,
                variant=VARIANT_NAMES[variant],
                peer=self.peer,
                upstream_authority=authority,
                trusted=self._recall.rules.trust_forwarded,
                upgrade=exchange.upgrade,
                **self._ingress.hop,
            )[:-2]
            if exchange.line.plain and exchange.upgrade is None and self._ingress.hop["host_header"] != "upstream":
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

    # Called by the exchange: what it asks of the response.

    def may_keep_alive(self) -> bool:
        """Whether this connection may serve another request."""
        return self._requests < self._worker.max_requests

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The response is written: go on to the next request, or close."""
        exchange = self.exchange
        self.exchange = None
        if keep_alive:
            if self._reading_heads:
                self.deadline = self._worker.now + self._worker.timeouts.keep_alive
            elif not self._write_paused:
                self._next_request()
        elif self._pending or (exchange is not None and not exchange.request_done):
            self._linger()  # closing on what the client has sent would be a reset
        else:
            self._close()

    def hand_over(self) -> bytes:
        """Leave the connection to a tunnel; what the client had sent ahead."""
        self._worker.downstreams.discard(self)
        self.exchange = None
        held, self._pending = self._pending, b""
        return held

    def _next_request(self) -> None:
        """Begin what was sent ahead, or wait for it."""
        if self._holding or not self._pending:  # else a head has begun, and its time runs
            self.deadline = self._worker.now + self._worker.timeouts.keep_alive
        if self._holding:
            self._holding = False
            self.transport.resume_reading()
            if self._pending and not self.transport.is_closing():
                self._read_heads(b"")

    def reject(self, error: MessageError, line: Line | None = None, block: Block | None = None, rest: bytes = b"") -> bytes:
        """Answer what no exchange of a variant has begun for; what remains of `rest`, which came behind it, to be read next."""
        if self._worker.access_log is not None:
            self._worker.access_log.rejected(self, error, line, block)
        kept = line is not None and block is not None and may_go_on(error, line.parsed, block.fields) and self.may_keep_alive()
        self.refuse(error, line, keep_alive=kept)
        return rest if kept else b""

    def refuse(self, error: MessageError, line: Line | None, extra: bytes = b"", *, keep_alive: bool = False) -> None:
        """Answer in the proxy's own name, with these lines too; nothing more is looked at unless the connection is kept."""
        keep_alive = keep_alive and self.may_keep_alive()
        head_only = line is not None and line.is_head
        retry_after = 1 if error.status == 503 else None
        self.write(
            reply(
                *error,
                close=not keep_alive,
                head_only=head_only,
                date=self._worker.date,
                retry_after=retry_after,
                extra=extra + (b"Connection: keep-alive\r\n" if keep_alive and line is not None and not line.minor else b""),
            )
        )
        if keep_alive:
            self.exchange_done(keep_alive=True)
        else:
            self.exchange = None
            self._linger()

    # Ends.

    def _call_off(self, how: bytes = b"C") -> None:
        """The client has left, or might as well have: so ends what it had in hand."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None and not exchange.ended:
            exchange.client_gone(how)

    # Called by the worker's sweep.

    def on_deadline(self, now: float) -> None:
        """The deadline has passed: find out whose turn it was, and end it."""
        exchange = self.exchange
        if self._write_paused:
            if self._takes_on():
                self.deadline = now + self._worker.timeouts.send_idle
            else:
                self._call_off(b"c")
                self.cut()
        elif exchange is None:
            if self._pending:
                self.reject(MessageError(408, "request_head_timeout"))
            elif self._linger_left < 0 and self._has_input():
                self.deadline = now + 1.0  # it came just now
            else:
                self.transport.abort() if self.transport.is_closing() else self._close()
        elif exchange.upstream is None:
            self.deadline = now + 1.0  # the connect, and the line for a server, have their own limits
        elif exchange.request_done:
            exchange.response_overdue()
        elif not self.transport.is_reading():  # because the upstream does not take it
            if self._upload_goes_on(exchange.upstream.transport):
                self.deadline = now + self._worker.timeouts.request_body_idle
            else:
                exchange.response_overdue()
        else:
            exchange.client_error(MessageError(408, "request_body_timeout"))

    def retire(self) -> None:
        """Serve no request beyond the next one, whose response says so: it is old enough (C1)."""
        self._requests = sys.maxsize

    def end_drain(self) -> None:
        """Give up what is still in hand when the drain's time is over."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None and not exchange.ended:
            exchange.abandon()
        self.cut()
