"""What time asks for, twice a second: every deadline of one worker is looked at here, so that no request needs a timer.

Called by the worker's beat.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from canaryproxy.http1.head import MessageError
from canaryproxy.shared.layout import CANARY

if TYPE_CHECKING:
    from canaryproxy.proxy.downstream import Downstream
    from canaryproxy.proxy.exchange import Exchange
    from canaryproxy.proxy.pool import Pool
    from canaryproxy.proxy.tunnel import Tunnel
    from canaryproxy.proxy.worker import Worker

SWEEP_SECONDS: Final = 0.5
#: Seconds after which a response that has begun is judged by its head, and a request that has not come to its end by nothing:
#: well below `T_HANG`, when a request counts as unanswered.
_LONG: Final = 5.0


class Sweep:
    """The deadlines of one worker. Times are monotonic seconds."""

    def __init__(self, worker: Worker, totals: bool, body_rate: int, body_grace: float) -> None:
        """`totals`: some route limits whole exchanges. `body_rate` in bytes a second, 0 for none, counts after `body_grace`."""
        self._worker = worker
        self._totals = totals
        self._body_rate = body_rate
        self._body_grace = body_grace
        #: When a tunnel is closed whose user belongs elsewhere by now.
        self._leaving: dict[Tunnel, float] = {}

    def look(self, now: float) -> None:
        """End what is overdue."""
        worker = self._worker
        slack = worker.timeouts.keep_alive - worker.keep_alive  # above 0 when connections run out
        for downstream in [d for d in worker.downstreams if d.deadline <= now + slack]:
            if downstream.deadline <= now or downstream.is_idle(now):
                downstream.on_deadline(now)
        born = self._oldest(now)
        for downstream in list(worker.downstreams):
            if downstream.born < born:
                downstream.retire()
            exchange = downstream.exchange
            if exchange is not None:
                self._look_at_exchange(downstream, exchange, now)
        for tunnel in [t for t in worker.tunnels if t.deadline <= now]:
            tunnel.on_deadline(now)
        self._end_tunnels_of_a_rollback(now)
        for route in worker.routes:
            route.users.look(now)
            if route.overrides is not None:
                route.overrides.look(now)
        for pool in worker.pools:
            self._look_at_pool(pool, now)

    def _oldest(self, now: float) -> float:
        """When a connection must have begun not to be too old."""
        age = self._worker.timeouts.connection_age
        return now - age if age else -inf

    def _look_at_exchange(self, downstream: Downstream, exchange: Exchange, now: float) -> None:
        body = exchange.body
        if body is not None and not exchange.request_done and downstream.transport.is_reading():
            body.awaited += SWEEP_SECONDS
            if self._body_rate and body.awaited > self._body_grace + body.received / self._body_rate:
                exchange.client_error(MessageError(408, "request_body_too_slow"))
                return
        if exchange.started < now - _LONG:
            if exchange.status:
                exchange.judge_by_head()
            elif not exchange.request_done and downstream.transport.is_reading():
                exchange.withdraw()
        if self._totals and 0 < exchange.route.total_timeout < now - exchange.started:
            exchange.total_overdue()

    def _end_tunnels_of_a_rollback(self, now: float) -> None:
        """A tunnel may stay when its user goes on to a canary, and to what it is promoted to, but not when he is taken back."""
        worker = self._worker
        for tunnel, exchange in list(worker.tunnels.items()):
            variant = exchange.belongs_elsewhere()
            if variant is None:
                self._leaving.pop(tunnel, None)
            elif variant == CANARY:
                self._leaving[tunnel] = inf
            elif now >= self._leaving.setdefault(tunnel, now + worker.timeouts.tunnel_grace):
                tunnel.close("rollback")
        for tunnel in self._leaving.keys() - worker.tunnels.keys():
            del self._leaving[tunnel]

    def _look_at_pool(self, pool: Pool, now: float) -> None:
        worker = self._worker
        for event in pool.sweep(now):
            worker.say(event)
        for exchange in pool.expired(now, worker.timeouts.queue):
            exchange.queue_overdue()
        for exchange in list(pool.waiting):
            exchange.still_waiting()
        while (admitted := pool.next_waiting(now)) is not None:
            exchange, server = admitted
            exchange.admitted(server)
        self.expire(pool, now - worker.timeouts.upstream_idle, self._oldest(now))

    @staticmethod
    def expire(pool: Pool, idle_since: float, born: float = -inf) -> None:
        """Close the upstream connections that are unused since before `idle_since`, or unused now and made before `born`."""
        for server in pool.servers:
            for connection in server.expire(idle_since, born):
                connection.close()
