"""One request and its response: routed, sent, relayed, and accounted for at one exit.

Made by `proxy.downstream` for each request head. Its phases: start (route, user, variant) -> try (server, connection) -> send ->
response head -> response body -> `_finish`, the only exit, which counts exactly one outcome. A client's fault never counts
against a variant; a retry stays on the same variant. The rules' numbers (C5, R3 ...) are those of docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from canaryproxy.http1 import forward
from canaryproxy.http1.chunked import CHUNK_END, chunk_head, last_chunk
from canaryproxy.http1.framing import Body, RequestFraming
from canaryproxy.http1.head import MessageError
from canaryproxy.http1.response import ResponseHead
from canaryproxy.proxy.body import RequestBody
from canaryproxy.routing.identity import Cookieless, Identity
from canaryproxy.routing.split import SWAPPED, WEIGHT_MASK, choose_variant
from canaryproxy.shared.layout import Count

if TYPE_CHECKING:
    from canaryproxy.proxy.downstream import Downstream
    from canaryproxy.proxy.pool import Pool, Server
    from canaryproxy.proxy.recall import Block, Line
    from canaryproxy.proxy.upstream import Upstream
    from canaryproxy.proxy.worker import Worker
    from canaryproxy.shared.ledger import Counters

Trailers: TypeAlias = Sequence[tuple[bytes, bytes]]

#: A request that cannot be sent twice takes only a connection that was used within these seconds: app servers close one that
#: is unused for 2 s (gunicorn) or 5 s (Node, uvicorn), perhaps just now.
_YOUNG = 1.5
#: By the status's first digit; what is no status of HTTP (6xx-9xx) is the upstream's failure.
_STATUS_COUNTS = tuple(int(c) for c in (0, 0, Count.C2XX, Count.C3XX, Count.C4XX, *[Count.C5XX] * 5))
_NONE, _, _CHUNKED, _ = Body  # an enum's attributes are slow to look up
#: Up to this size, copying a body behind its head costs less than a second buffer in the system call.
_JOINED: Final = 4096
_CONNECT_REASON = {
    Count.CONNECT_FAILED: (502, "upstream_connect"),
    Count.CONNECT_TIMEOUT: (504, "upstream_connect_timeout"),
    Count.ABANDONED: (503, "no_connection_left"),  # our own want; withdrawn from what the variants are judged by
}


class Exchange:
    """A request in hand. `upstream` is set while a connection serves it."""

    __slots__ = (
        # request
        "block",
        "downstream",
        "body",
        "framing",
        "line",
        "request_done",
        "started",
        "worker",
        # assignment
        "_by_head",
        "_counters",
        "_head_at",
        "_judged",
        "_key",
        "_pool",
        "_route",
        "_set_cookie",
        "_variant",
        # try
        "_fresh",
        "_server",
        "_tries",
        "upstream",
        # response
        "_bytes_out",
        "_chunk",
        "_keep_alive",
        "ended",
        "status",
    )

    def __init__(self, worker: Worker, downstream: Downstream, line: Line, block: Block, framing: RequestFraming) -> None:
        self.worker = worker
        self.downstream = downstream
        self.line = line
        self.block = block
        self.framing = framing
        if framing.body is _NONE:
            self.request_done = True
            self.body: RequestBody | None = None
        else:
            self.request_done = False
            self.body = RequestBody(keep=line.idempotent)
        self.started = monotonic()
        self.upstream: Upstream | None = None
        self.ended = self._by_head = False
        self.status = self._tries = self._bytes_out = 0
        self._set_cookie = b""

    # Start: who is it, and which variant.

    def start(self) -> None:
        """Choose route, variant and server, and send the request or begin to connect."""
        worker, downstream = self.worker, self.downstream
        router = worker.router
        route = router.only or router.match(self.framing.host, self.line.target)
        if route is None:
            self.ended = True
            downstream.refuse(MessageError(404, "no_route"))
            return
        key = self.block.user(route.identity)
        if key is None and worker.words[route.row] & WEIGHT_MASK:
            key = self._identify(route.identity)
        self._route, self._key = route, key
        self._assign()
        self._try(self._pool.choose())

    def _identify(self, identity: Identity) -> bytes | None:
        """The key of a user whom nothing identifies, during a rollout; None is stable at once."""
        if identity.cookieless is Cookieless.IP:
            return self.downstream.peer
        issued = token_hex(16).encode()
        self._set_cookie = identity.set_cookie(issued)
        return issued if identity.cookieless is Cookieless.ISSUE else None

    def _assign(self) -> None:
        """Begin as an exchange of the variant that the board has for this user now."""
        route, key, words = self._route, self._key, self.worker.words
        row = route.row
        word = words[row]
        self._variant = variant = choose_variant(word, words[row + 1], key)
        self._pool: Pool = route.pools[variant ^ 1 if word & SWAPPED else variant]
        # Who is unknown is never on the canary, so during a rollout only identified users can be compared.
        self._judged = judged = key is not None or not word & WEIGHT_MASK
        self._counters: Counters = route.counters[variant]
        self._counters.begin(self.started, judged=judged)

    def _moved(self) -> bool:
        """Begin again where the user belongs by now, if that is another pool: nothing may be sent to the one chosen before."""
        route, words = self._route, self.worker.words
        word = words[route.row]
        variant = choose_variant(word, words[route.row + 1], self._key)
        if route.pools[variant ^ 1 if word & SWAPPED else variant] is self._pool:
            return False
        self._server.active -= 1
        self._counters.finish(Count.ABANDONED, self.started, monotonic(), judged=self._judged, failed=False)
        self.started, self._tries = monotonic(), 0
        if self.body is not None:
            self.body.seconds = 0.0
        self._assign()
        self._try(self._pool.choose())
        return True

    # Try: a server and a connection.

    def _try(self, server: Server, *, fresh: bool = False) -> None:
        self._server = server
        server.active += 1
        self._tries += 1
        connection = None
        if not fresh and (self.line.idempotent or server.idle_since > self.worker.now - _YOUNG):
            connection = server.take_idle()
        if connection is None:
            self.worker.connect(self, server)
        else:
            self._send(connection)

    def connected(self, connection: Upstream) -> None:
        """A new connection is there. If the exchange has ended meanwhile, it serves another one."""
        if self.ended or self._moved():
            connection.used = True  # like any idle one, it may have gone stale when its turn comes
            connection.keep()
        else:
            self._send(connection)

    def connect_failed(self, count: Count) -> None:
        """No connection to this server: nothing was sent, so another server of the same variant may try once."""
        if self.ended or self._moved():
            return
        failed = self._server
        other = self._pool.choose(excluded=failed)
        if other is not failed and self._tries < 2:
            failed.active -= 1
            self._counters.add_retry()
            self._try(other)
        else:
            self._fail(*_CONNECT_REASON[count], count)

    def _send(self, connection: Upstream) -> None:
        self.upstream = connection
        self._fresh = connection.begin(self)
        downstream, body = self.downstream, self.body
        head = self.line.start + downstream.forward_lines(self, self._variant, self._server.authority)
        if body is None:
            self.worker.send(connection.transport, head)
        else:
            downstream.resume_request()  # before the write, which may pause it again
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
        minor = self.line.minor
        streamed = head.body >= _CHUNKED
        self._chunk = chunk = streamed and minor == 1
        self._keep_alive = keep_alive = (
            self.framing.keep_alive and self.request_done and chunk == streamed and self.downstream.may_keep_alive()
        )
        if keep_alive and minor and head.has_date and not streamed and not self._set_cookie:
            return head.complete
        return forward.response_head(
            head, client_minor=minor, keep_alive=keep_alive, extra=self._set_cookie, date=self.worker.date, chunk_body=chunk
        )

    def _write(self, head: bytes, pieces: Sequence[bytes], end: bytes = b"") -> None:
        """Write a part of the response in one go: the head before its first bytes, `end` after its last."""
        size = sum(map(len, pieces))
        self._bytes_out += size
        if self._chunk and size:
            head, end = head + chunk_head(size), CHUNK_END + end
        if size <= _JOINED:
            self.downstream.write(b"".join((head, *pieces, end)))
        else:
            self.downstream.write_now((head, *pieces, end))

    def response_data(self, head: bytes, pieces: Sequence[bytes]) -> None:
        """Pass on body bytes, with the head before the first of them."""
        if head:
            self._head_at = monotonic()
        self._write(head, pieces)
        self.downstream.await_body()

    def judge_by_head(self) -> None:
        """The response goes on for long: how long it takes in all says more of its size and its reader than of the variant."""
        if not self._by_head:
            self._by_head = True
            self._counters.answered(self.started, self._head_at - (self.body.seconds if self.body else 0.0), judged=self._judged)

    def withdraw(self) -> None:
        """The client takes long to send its request: that says nothing of the variant."""
        if self._judged:
            self._judged = False
            self._counters.withdraw(self.started)

    def response_view(self, view: memoryview) -> None:
        """Pass on body bytes of known length that lie in the worker's read buffer."""
        self._bytes_out += len(view)
        self.downstream.write_view(view)

    def response_whole(self, connection: Upstream, head: bytes, body: bytes) -> None:
        """A response of known length came in one read, as small ones do: pass on all of it, and end."""
        self.upstream = None  # first: what cannot be written at once shall not pause it
        self._bytes_out = len(body)
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
        self._finish(_STATUS_COUNTS[status // 100], failed=status >= 500)
        self.downstream.exchange_done(keep_alive=self._keep_alive)

    # What goes wrong upstream: the upstream's fault.

    def upstream_lost(self, connection: Upstream, *, answered: bool) -> None:
        """The connection ended early. A reused one may have been stale: where that is safe the request goes out again (C5)."""
        connection.close()
        self.upstream = None
        if self.status:
            self.response_broken()
        elif answered or self._fresh or not self._may_be_sent_again():
            self._fail(502, "upstream_reset", Count.RESPONSE_INVALID)
        else:
            self._server.active -= 1
            self._tries -= 1
            self._counters.add_retry()
            if self.body is not None:
                self.body.wait_again()
            self._try(connection.server, fresh=True)

    def _may_be_sent_again(self) -> bool:
        return self.line.idempotent and (self.body is None or self.body.can_be_sent_again())

    def response_invalid(self, reason: str) -> None:
        """The upstream's answer is not HTTP that can be passed on: 502, and never that connection again."""
        self._fail(502, reason, Count.RESPONSE_INVALID)

    def response_broken(self) -> None:
        """The response cannot be completed: cut the client's connection, so that it is never taken for whole (R3)."""
        self._drop_upstream()
        self._finish(Count.TRUNCATED, failed=True)
        self.downstream.cut()

    def response_overdue(self) -> None:
        """The upstream has kept silent for longer than is allowed."""
        if self.status:
            self.response_broken()
        elif self.upstream is not None:
            self._fail(504, "upstream_timeout", Count.RESPONSE_TIMEOUT)

    def _fail(self, status: int, reason: str, count: Count) -> None:
        self._drop_upstream()
        self._finish(count, failed=True)
        self.downstream.refuse(MessageError(status, reason), keep_alive=self.request_done and self.framing.keep_alive)

    # What goes wrong downstream: the client's doing.

    def client_gone(self) -> None:
        """The client has left; the request is called off."""
        self._drop_upstream()
        failed = self.status >= 500
        self._finish(Count.C5XX if failed else Count.CLIENT_GONE, failed=failed)

    def client_error(self, error: MessageError) -> None:
        """The request's body is malformed or does not come."""
        self._drop_upstream()
        self._finish(Count.CLIENT_ERROR, failed=False)
        if self.status:
            self.downstream.cut()
        else:
            self.downstream.refuse(error)

    def abandon(self) -> None:
        """The proxy itself gives the exchange up (the end of a drain)."""
        self._drop_upstream()
        self._finish(Count.ABANDONED, failed=False)

    def _drop_upstream(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None

    def _finish(self, count: int, *, failed: bool) -> None:
        """The one exit: exactly one outcome for each exchange that began."""
        self.ended = True
        self._server.active -= 1
        body, judged, sent = self.body, self._judged, self._bytes_out
        received, upload = (0, 0.0) if body is None else (body.received, body.seconds)
        if self._by_head:
            self._counters.finish_answered(count, judged=judged, failed=failed, received=received, sent=sent)
        else:
            now = monotonic() - upload
            self._counters.finish(count, self.started, now, judged=judged, failed=failed, received=received, sent=sent)
