"""One request and its response: placed, sent, relayed, and accounted for at one exit.

Made by `proxy.downstream` for each request head. Its phases: start (route, user, variant) -> place (server, or a place in line)
-> try (connection), all of them in `proxy.placement`, then send -> response head -> response body -> `_finish`, the only exit,
which counts exactly one outcome. A client's fault never counts against a variant. The rules' numbers (C5, R3 ...) are those
of docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from canaryproxy.http1 import forward
from canaryproxy.http1.chunked import CHUNK_END, chunk_head, last_chunk
from canaryproxy.http1.framing import Body, wanted_upgrade
from canaryproxy.http1.head import MessageError
from canaryproxy.http1.response import ResponseHead
from canaryproxy.proxy import outcome
from canaryproxy.proxy.body import RequestBody
from canaryproxy.proxy.placement import Placement
from canaryproxy.proxy.tunnel import Tunnel, Who
from canaryproxy.routing.goals import reached
from canaryproxy.shared.layout import CANARY, Count

if TYPE_CHECKING:
    from canaryproxy.proxy.outcome import Failure
    from canaryproxy.proxy.upstream import Upstream
    from canaryproxy.routing.split import Seat

Trailers: TypeAlias = Sequence[tuple[bytes, bytes]]

_CHUNKED = Body.CHUNKED  # an enum's attributes are slow to look up
#: Up to this size, copying a body behind its head costs less than a second buffer in the system call.
_JOINED: Final = 4096


class Exchange(Placement):
    """A request in hand. `upstream` is set while a connection serves it."""

    __slots__ = ("_chunk", "_keep_alive")

    def _send(self, connection: Upstream) -> None:
        self.upstream = connection
        self.fresh = connection.begin(self)
        downstream, body, block, worker = self.downstream, self.body, self.block, self.worker
        if block.fields.upgrade is not None:
            self.upgrade = wanted_upgrade(self.line.parsed, block.fields, self.framing, worker.upgrades)
        if worker.access_log is not None:
            self.sent_at = monotonic()
        lines = downstream.forward_lines(self, self.variant, connection.server.authority)
        head = b"%b%bX-Request-ID: %b\r\n\r\n" % (self.line.start, lines, self.request_id)
        if body is None:
            connection.sent_in = worker.turn
            worker.send(connection.transport, head)
        else:
            downstream.resume_request()  # before the write, which may pause it again
            connection.sent_in = -1
            waiting, body.waiting = body.waiting, []
            connection.transport.writelines([head, *waiting])
            if self.framing.expect_continue and not self.request_done and not body.received:
                downstream.send_continue()
        downstream.await_response(self)

    # The request's body, from the downstream.

    def request_data(self, body: RequestBody, pieces: list[bytes], size: int, *, done: bool) -> None:
        """Send body bytes on, already framed for the upstream; `size` of them are the body's own."""
        body.add(pieces, size)
        self.request_done = done
        if done and not self.status:
            body.seconds = monotonic() - self.started
        if self.upstream is None:
            body.waiting += pieces
            if not done:
                self.downstream.pause_request()
        elif pieces and not self.upstream.transport.is_closing():
            self.upstream.transport.writelines(pieces)

    # The response, from the upstream.

    def interim_response(self, head: ResponseHead) -> None:
        """Pass on a 1xx; a 100 is ours to send, and HTTP/1.0 knows none (RFC 9110 section 15.2)."""
        if head.status != 100 and self.line.minor == 1:
            self.downstream.write(head.forward + b"\r\n")

    def response_head(self, head: ResponseHead) -> bytes:
        """The head for the client, to be written together with the first body bytes."""
        self.status = head.status
        server, worker, minor = self.server, self.worker, self.line.minor
        if server is not None and server.failures:
            server.succeeded()
        if worker.access_log is not None:
            self.head_at = monotonic()
        keep_alive = self.framing.keep_alive and self.request_done and self.downstream.may_keep_alive()
        if keep_alive and minor and head.is_complete and not self.extra:  # nearly always
            self._chunk, self._keep_alive = False, True
            return head.complete
        streamed = head.body >= _CHUNKED
        self._chunk = chunk = streamed and minor == 1
        self._keep_alive = keep_alive = keep_alive and chunk == streamed
        return forward.response_head(
            head, client_minor=minor, keep_alive=keep_alive, extra=self.extra, date=worker.date, chunk_body=chunk
        )

    def _write(self, head: bytes, pieces: Sequence[bytes], end: bytes = b"") -> None:
        """Write a part of the response in one go: the head before its first bytes, `end` after its last."""
        size = sum(map(len, pieces))
        self.bytes_out += size
        if self._chunk and size:
            head, end = head + chunk_head(size), CHUNK_END + end
        if size <= _JOINED:
            self.downstream.write(b"".join((head, *pieces, end)))
        else:
            self.downstream.write_now((head, *pieces, end))

    def response_data(self, head: bytes, pieces: Sequence[bytes]) -> None:
        """Pass on body bytes, with the head before the first of them."""
        if head:
            self.head_at = monotonic()
        self._write(head, pieces)
        self.downstream.await_body()

    def judge_by_head(self) -> None:
        """The response goes on for long: how long it takes in all says more of its size and its reader than of the variant."""
        if not self._by_head:
            self._by_head = True
            self._retry_done()
            self._counters.answered(self._cohort, self.head_at - self._upload_seconds - self.started, self._seat)

    def withdraw(self) -> None:
        """The client takes long to send its request: that says nothing of the variant."""
        self._counters.withdraw(self._cohort, self._seat)
        self._cohort = 0

    def response_view(self, view: memoryview) -> None:
        """Pass on body bytes of known length that lie in the worker's read buffer."""
        self.bytes_out += len(view)
        self.downstream.write_view(view)

    def response_whole(self, connection: Upstream, head: bytes, body: bytes) -> None:
        """A response of known length came in one read, as small ones do: pass on all of it, and end."""
        self.upstream = None  # first: what cannot be written at once shall not pause it
        self.bytes_out = len(body)
        if len(body) <= _JOINED:
            self.worker.send(self.downstream.transport, head + body)
        else:
            self.downstream.write_now((head, body))
        self._end(connection)

    def response_end(self, connection: Upstream, head: bytes, pieces: Sequence[bytes], trailers: Trailers = ()) -> None:
        """The response is complete: pass on its last bytes, and end."""
        self.upstream = None
        self._write(head, pieces, last_chunk(trailers) if self._chunk else b"")
        self._end(connection)

    def _end(self, connection: Upstream) -> None:
        """Count a complete response; keep or close both connections."""
        connection.release(request_done=self.request_done)
        status = self.status
        self._finish(outcome.STATUS_COUNTS[status], b"--", failed=status >= 500)
        self.downstream.exchange_done(keep_alive=self._keep_alive)

    # A tunnel, after a 101 that was asked for (R6, C9).

    def switch(self, connection: Upstream, head: ResponseHead, rest: bytes) -> None:
        """Join the two connections; `rest` came behind the 101. From here on only the tunnel's end is heard of."""
        if connection.transport.is_closing():
            return  # it was read from what a broken connection left: its loss is told next
        if self.downstream.transport.is_closing():
            self.client_gone()
            return
        self.status, self.head_at, self.upstream = 101, monotonic(), None
        self.judge_by_head()
        connection.server.succeeded()
        self.downstream.write(head.forward + self.extra + b"\r\n")
        tunnel = Tunnel(
            self.worker,
            self.downstream.transport,
            connection.transport,
            on_end=lambda to_upstream, to_client, who: self._tunnel_ended(tunnel, to_upstream, to_client, who),
        )
        self.worker.tunnels[tunnel] = self
        held = self.downstream.hand_over()
        connection.exchange = None
        tunnel.start(rest, held)

    def _tunnel_ended(self, tunnel: Tunnel, to_upstream: int, to_client: int, who: Who) -> None:
        self.worker.tunnel_ended(tunnel, self.downstream)
        self.body, self.bytes_out = RequestBody(None), to_client
        self.body.received = to_upstream
        broken = who == "upstream" and tunnel.reason != "eof"
        self._finish(Count.TRUNCATED if broken else Count.INFORMATIONAL, outcome.TUNNEL_ENDS[who], failed=broken)

    # What goes wrong upstream: the upstream's fault.

    def upstream_lost(self, connection: Upstream, *, answered: bool) -> None:
        """The connection ended early. A reused one may have been stale: where that is safe the request goes out again (C5)."""
        connection.close()
        self.upstream = None
        if self.status:
            self.response_broken()
        elif answered or self.fresh or not (connection.sent_in == self.worker.turn or self._may_be_sent_again()):
            self._blame(connection.server, outcome.RESET)
            self._fail(outcome.RESET)
        else:
            connection.server.active -= 1
            self.was_sent = self.was_sent or connection.sent_in != self.worker.turn
            self._counters.add_retry()
            if self.body is not None:
                self.body.wait_again()
            self._try(connection.server, fresh=True)

    def _may_be_sent_again(self) -> bool:
        return self.line.idempotent and (self.body is None or self.body.can_be_sent_again())

    def response_invalid(self, reason: str) -> None:
        """The upstream's answer is not HTTP that can be passed on: 502, and never that connection again."""
        failure, self.status = outcome.invalid(reason), 0  # nothing of it was sent
        if self.upstream is not None:
            self._blame(self.upstream.server, failure)
        self._fail(failure)

    def response_broken(self, how: bytes = b"SD") -> None:
        """The response cannot be completed: cut the client's connection, so that it is never taken for whole (R3)."""
        self._drop_upstream()
        self._finish(Count.TRUNCATED, how, failed=True)
        self.downstream.cut()

    def response_overdue(self) -> None:
        """The upstream has kept silent, or taken, for longer than is allowed."""
        if self.status:
            self.response_broken(b"sD")
        elif self.upstream is not None:
            self._blame(self.upstream.server, outcome.RESPONSE_TIMEOUT)
            self._fail(outcome.RESPONSE_TIMEOUT)

    def total_overdue(self) -> None:
        """The exchange as a whole takes longer than its route allows."""
        if self.status and self.downstream.is_slow:
            self.client_gone(b"c")
            self.downstream.cut()
        elif self.status:
            self.response_broken(b"sD")
        elif self.request_done or not self.downstream.transport.is_reading():
            self._fail(outcome.TOTAL_TIMEOUT)
        else:
            self.client_error(outcome.REQUEST_TIMEOUT)

    def _fail(self, failure: Failure) -> None:
        self._drop_upstream()
        self._finish(failure.counted, failure.how, failed=True, error=failure.error)
        keep_alive = self.request_done and self.framing.keep_alive
        self.downstream.refuse(failure.error, self.line, self.extra, keep_alive=keep_alive)

    # What goes wrong downstream: the client's doing.

    def client_gone(self, how: bytes = b"C") -> None:
        """The client has left, or takes nothing any more; the request is called off."""
        phase = outcome.phase_of(self)
        self._drop_upstream()
        failed = self.status >= 500
        self._finish(Count.C5XX if failed else Count.CLIENT_GONE, how + phase, failed=failed)

    def client_error(self, error: MessageError) -> None:
        """The request's body is malformed, too large, or does not come."""
        self._drop_upstream()
        failed = self.status >= 500
        count = Count.C5XX if failed else Count.CLIENT_ERROR
        self._finish(count, b"cR" if error.status == 408 else b"CR", failed=failed, error=error)
        if self.status:
            self.downstream.cut()
        else:
            self.downstream.refuse(error, self.line, self.extra)

    def abandon(self) -> None:
        """The proxy itself gives the exchange up (the end of a drain)."""
        phase = outcome.phase_of(self)
        self._drop_upstream()
        self._finish(Count.ABANDONED, b"P" + phase, failed=False)

    def _drop_upstream(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None

    @property
    def _upload_seconds(self) -> float:
        return 0.0 if self.body is None else self.body.seconds

    def _finish(self, count: int, how: bytes, *, failed: bool, error: MessageError | None = None) -> None:
        """The one exit: exactly one outcome for each exchange that began. `how` is the log's word for it."""
        self.ended = True
        server = self.server
        if server is None or self._retrying or self.pool.waiting:
            self._leave()
            self.server = server
        else:
            server.active -= 1
        body, cohort, seat, sent, now = self.body, self._cohort, self._seat, self.bytes_out, monotonic()
        received, upload = (0, 0.0) if body is None else (body.received, body.seconds)
        counters, size_row = self._counters, self.line.size_row
        if self._by_head:
            counters.finish_answered(count, cohort, seat, failed, received, sent, size_row)
        else:
            counters.finish(count, cohort, now - upload - self.started, seat, failed, received, sent, size_row)
        if self.route.goals and seat is not None and not failed:
            self._count_goals(seat)
        if self.worker.access_log is not None:
            self.worker.access_log.exchange_ended(self, now, how, error)

    def _count_goals(self, seat: Seat) -> None:
        """Count a conversion, once for a user, for whom the user belongs to, whoever has answered."""
        route = self.route
        if (met := self.line.goals(route.goals)) and (met := reached(route.goals, met, self.status)):
            route.counters[CANARY if self.fell_back else self.variant].add_goals(route.users.meet(seat.cap, met))
