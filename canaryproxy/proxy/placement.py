"""Where a request goes: its route, user and variant, a server or a place in line for one, and a connection.

The first half of an exchange (`proxy.exchange` is the other). A retry stays on the same variant; where no server of the canary
takes a request, stable may answer it. The rules' numbers (C5, C6) are those of docs/architecture.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING

from canaryproxy.http1.framing import Body, RequestFraming
from canaryproxy.proxy import outcome
from canaryproxy.proxy.assign import fallback_pool, identify
from canaryproxy.proxy.body import RequestBody
from canaryproxy.routing.override import grant, is_granted
from canaryproxy.routing.split import QUARANTINED, SWAPPED, WEIGHT_MASK, Seat, choose_variant
from canaryproxy.shared.layout import NEXT_SALT, QUARANTINE_AT, SALT, STABLE, Count

if TYPE_CHECKING:
    from canaryproxy.proxy.downstream import Downstream
    from canaryproxy.proxy.outcome import Failure
    from canaryproxy.proxy.overrides import RouteOverrides
    from canaryproxy.proxy.pool import Pool, Server
    from canaryproxy.proxy.recall import Block, Line
    from canaryproxy.proxy.route import Route
    from canaryproxy.proxy.upstream import Upstream
    from canaryproxy.proxy.worker import Worker
    from canaryproxy.shared.ledger import Counters

#: A request that cannot be sent twice takes only a connection that was used within these seconds: app servers close one that
#: is unused for 2 s (gunicorn) or 5 s (Node, uvicorn), perhaps just now.
_YOUNG = 1.5
_NONE = Body.NONE  # an enum's attributes are slow to look up


class Placement(ABC):
    """A request on its way to a server."""

    __slots__ = (
        # request
        "block",
        "body",
        "downstream",
        "framing",
        "line",
        "request_done",
        "request_id",
        "started",
        "worker",
        # assignment
        "_by_head",
        "_cohort",
        "_counters",
        "_seat",
        "extra",
        "fell_back",
        "key",
        "override",
        "pool",
        "route",
        "variant",
        # try
        "_retrying",
        "fresh",
        "placed_at",
        "sent_at",
        "server",
        "tries",
        "upgrade",
        "upstream",
        "was_sent",
        # response
        "_chunk",
        "_keep_alive",
        "bytes_out",
        "ended",
        "head_at",
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
            self.body = RequestBody(worker.replay_body if line.idempotent else None)
        self.started = monotonic()
        self.upstream: Upstream | None = None
        self.server: Server | None = None
        #: Complete lines of ours for the response.
        self.extra = b""
        #: The protocol that the upstream is asked to change to, lower-case.
        self.upgrade: bytes | None = None
        self.ended = self._by_head = self.fell_back = self._retrying = self.was_sent = False
        self.status = self.tries = self.bytes_out = 0

    # Start: who is it, and which variant.

    def start(self) -> None:
        """Choose route, variant and server, and send the request or begin to connect."""
        worker, block = self.worker, self.block
        router = worker.router
        route = router.only or router.match(self.framing.host, self.line.target)
        if route is None:
            self.ended = True
            self.downstream.reject(outcome.NO_ROUTE, self.line, block)
            return
        if worker.access_log is not None:
            #: When it got a server, went to a connection, and its response began, in monotonic seconds: for the log only.
            self.placed_at = self.sent_at = self.head_at = 0.0
            self.fresh = True
        self.request_id = request_id = block.fields.request_id or next(worker.request_ids)
        if worker.expose_request_id:
            self.extra = b"X-Request-ID: %b\r\n" % request_id
        key = block.user(route.identity)
        if key is None and worker.words[route.row] & WEIGHT_MASK:
            key, cookie = identify(route.identity, self.downstream.client_address(block), secure=self.downstream.is_secure)
            self.extra += cookie
        self.route: Route = route
        self.key = key
        self._assign()
        self._place()

    def _assign(self) -> None:
        """Begin as an exchange of the variant that the board has for this user now."""
        route, words = self.route, self.worker.words
        word = words[route.row]
        if route.overrides is not None and self._assign_as_wished(route.overrides, word):
            return
        weight = word & WEIGHT_MASK
        seat = self._take_seat(weight)
        self.variant = variant = choose_variant(word, seat)
        self.pool: Pool = route.pools[variant ^ 1 if word & SWAPPED else variant]
        if seat is None:
            # Who is unknown is never on the canary, so during a rollout only identified users can be compared.
            judged = not weight
        elif word & QUARANTINED and weight and words[route.row + QUARANTINE_AT + (seat.group >> 6)] >> (seat.group & 63) & 1:
            seat, judged = None, False
        else:
            judged = route.users.admit(seat[2])
        self._seat: Seat | None = seat
        self._counters: Counters = route.counters[variant]
        #: Of whom it is one of the judged; 0 if it is not judged.
        self._cohort = self._counters.begin(self.started, seat, judged, not weight)

    def _assign_as_wished(self, overrides: RouteOverrides, word: int) -> bool:
        """Begin as an exchange that an override places, if one concerns it: that is no random sample, so it is never judged."""
        route = self.route
        wish = overrides.wish(self.downstream, self.block, self.key)
        #: Which override has placed it, for the log.
        self.override = wish.by if wish is not None and is_granted(wish, word) else b""
        if wish is None:
            return False
        self.variant = variant = grant(wish, word)
        self.pool = route.pools[variant ^ 1 if word & SWAPPED else variant]
        self._seat, self._counters = None, route.counters[variant]
        self._cohort = self._counters.begin(self.started, None, False)
        return True

    def _take_seat(self, weight: int) -> Seat | None:
        """The user's seat under the rollout's salt, or while nobody is split under the next one's."""
        if self.key is None:
            return None
        return self.block.seat(self.worker.words[self.route.row + (SALT if weight else NEXT_SALT)], self.key)

    def belongs_elsewhere(self) -> int | None:
        """The variant that the user has by now, if its pool is another one than this exchange's; None if all is as it was."""
        route, words = self.route, self.worker.words
        word = words[route.row]
        wish = None if route.overrides is None else route.overrides.wish(self.downstream, self.block, self.key)
        variant = choose_variant(word, self._take_seat(word & WEIGHT_MASK)) if wish is None else grant(wish, word)
        if self.fell_back or route.pools[variant ^ 1 if word & SWAPPED else variant] is self.pool:
            return None
        return variant

    def _moved(self) -> bool:
        """Begin again where the user belongs by now, if that is another pool: nothing may be sent to the one chosen before."""
        if self.belongs_elsewhere() is None:
            return False
        self._leave()
        self._counters.finish(Count.ABANDONED, self._cohort, monotonic() - self.started, self._seat)
        self.started, self.tries = monotonic(), 0
        if self.body is not None:
            self.body.seconds = 0.0
        self._assign()
        self._place()
        return True

    # Place and try: a server, or a place in line for one; a connection.

    def _place(self) -> None:
        pool, now = self.pool, self.worker.now
        server = None if pool.waiting else pool.choose(now)  # nobody overtakes who waits
        if server is not None:
            self._try(server)
        elif not pool.wait(self, now):
            if pool.usable:
                self._fail(outcome.QUEUE_FULL)
            else:
                self._unreachable(outcome.NO_SERVER)

    def admitted(self, server: Server) -> None:
        """Its turn has come: this server has room."""
        if not self._moved():
            self._try(server)

    def still_waiting(self) -> None:
        """Twice a second: leave the line if the user belongs elsewhere by now, or if no server is left to wait for."""
        if not self._moved() and not self.pool.usable:
            self._unreachable(outcome.NO_SERVER)

    def queue_overdue(self) -> None:
        """It has waited for a server for too long, and has been taken out of the line."""
        if self._moved():
            return
        if self.pool.usable:
            self._fail(outcome.QUEUE_TIMEOUT)
        else:
            self._unreachable(outcome.NO_SERVER)

    def _try(self, server: Server, *, fresh: bool = False) -> None:
        self.server = server
        server.active += 1
        self.tries += 1
        if self.worker.access_log is not None:
            self.placed_at, self.sent_at = monotonic(), 0.0
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

    def connect_failed(self, failure: Failure) -> None:
        """No connection to this server: nothing was sent, so another server of the same variant may try once."""
        server, pool, ours = self.server, self.pool, failure is outcome.NO_CONNECTION_LEFT
        if server is not None and not ours:
            self._blame(server, failure)
        if self.ended or self._moved():
            return
        if not ours and not self._retrying and pool.may_retry():
            other = pool.choose(self.worker.now, excluded=server)
            if other is not None and other is not server:
                self._leave()
                self._retrying = True
                pool.retries += 1
                self._counters.add_retry()
                self._try(other)
                return
        self._unreachable(failure)

    def _unreachable(self, failure: Failure) -> None:
        """No server of the variant takes the request, of which nothing was sent. Stable may answer for a canary (C6)."""
        falls_back = failure.falls_back and not self.was_sent
        pool = fallback_pool(self.route, self.variant, self.pool) if falls_back else None
        if pool is None:
            self._fail(failure)
            return
        self._leave()
        self._counters.finish(failure.counted, self._cohort, monotonic() - self.started, self._seat, True)
        self.fell_back, self.tries = True, 0
        self.extra += b"X-Canaryproxy-Fallback: %b\r\n" % failure.error.reason.encode()
        self.variant, self.pool, self._counters = STABLE, pool, self.route.counters[STABLE]
        self._cohort = self._counters.begin(self.started, None, False)
        self._place()

    def _leave(self) -> None:
        """Give up the server, or the place in line, that it has."""
        server, self.server = self.server, None
        if server is None:
            self.pool.withdraw(self)
        else:
            server.active -= 1
            if self.pool.waiting:
                self.worker.admit_soon(self.pool, server)
        self._retry_done()

    def _retry_done(self) -> None:
        """Its retry no longer counts among those in hand."""
        if self._retrying:
            self._retrying = False
            self.pool.retries -= 1

    def _blame(self, server: Server, failure: Failure) -> None:
        """Tell the server's health of a failure that is no answer of the app: those are the judge's."""
        self.worker.say(server.failed(self.worker.now, failure.error.reason))

    # Done by the exchange.

    @abstractmethod
    def _send(self, connection: Upstream) -> None:
        """Send the request on this connection."""

    @abstractmethod
    def _fail(self, failure: Failure) -> None:
        """Answer with this failure, and end."""
