"""The servers of a variant in one worker: who may be used, idle connections, who waits, what failed.

Called by `proxy.exchange`, by the worker's sweep, by `proxy.health` and `proxy.resolve`. Decides from its arguments and `now`
(monotonic seconds) and says what to use, close, begin or log: no I/O of its own. The healthy path looks at `usable` and at
nothing else, which changes only when something happens. Rules C3 and C6 of docs/architecture.md.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from canaryproxy.config.quantities import Address, format_duration
from canaryproxy.config.quantities import Server as ServerUrl
from canaryproxy.config.upstreams import Pool as PoolConfig
from canaryproxy.proxy.balance import BALANCES, Draw

if TYPE_CHECKING:
    from canaryproxy.proxy.placement import Placement
    from canaryproxy.proxy.upstream import Upstream

#: Of its weight, what a server has at the beginning of a slow start: without any it could not be compared.
_FIRST_SHARE: Final = 0.01


class Event(NamedTuple):
    """A change of what a pool uses, to be logged. `state`: ejected, back, down or up."""

    pool: str
    server: str
    state: str
    why: str

    def __str__(self) -> str:
        return f"pool {self.pool}: {self.server} is {self.state}: {self.why}"


class Server:
    """One upstream: its connections, and what is known of its health. `share` is its weight, or less in a slow start."""

    __slots__ = (
        # configuration
        "authority",
        "host",
        "max_connections",
        "max_idle",
        "name",
        "path",
        "pool",
        "port",
        "tls",
        "weight",
        "_given",
        # connections
        "active",
        "addresses",
        "idle",
        "_avoided",
        "_turn",
        # health
        "ejected",
        "ejected_until",
        "ejection",
        "failures",
        "since",
        "up",
        # balance
        "lead",
        "share",
    )

    def __init__(self, url: ServerUrl, max_idle: int, pool: Pool) -> None:
        self.name, self.pool = str(url), pool
        self.host, self.port = url.host, url.port
        #: Of a Unix socket, else empty.
        self.path = url.path
        self.tls = url.tls
        self.authority = str(Address(url.host, url.port)).removesuffix(":443" if url.tls else ":80").encode()
        self._given = (Address(url.host, url.port),)
        self.max_connections = pool.config.max_connections
        self.max_idle = max_idle
        self.idle: list[Upstream] = []
        self.active = 0
        #: What its name was last found to stand for; empty for an IP address, and before the first answer.
        self.addresses: tuple[Address, ...] = ()
        self._avoided: set[Address] = set()
        self._turn = 0
        self.up = True
        self.ejected = False
        self.ejected_until = 0.0
        #: Seconds of the last one.
        self.ejection = 0.0
        #: Failures in a row; 0 on the healthy path.
        self.failures = 0
        #: When it came back last.
        self.since = 0.0
        self.weight = url.weight
        self.share: float = url.weight
        self.lead = 0.0

    # Idle connections.

    @property
    def idle_since(self) -> float:
        """When the idle connection used last was used; 0 if there is none."""
        return self.idle[-1].idle_since if self.idle else 0.0

    def take_idle(self) -> Upstream | None:
        """The idle connection used last, or None."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def keep(self, connection: Upstream) -> Upstream | None:
        """Keep a connection for the next exchange; the one to close instead, if there are too many or its address is gone."""
        if self.addresses and connection.address not in self.addresses:
            return connection
        idle = self.idle
        idle.append(connection)
        return idle.pop(0) if len(idle) > self.max_idle else None

    def expire(self, idle_since: float, born: float = -inf) -> list[Upstream]:
        """Take out the connections that are unused since before `idle_since`, or that were made before `born`."""
        expired = [one for one in self.idle if one.idle_since < idle_since or one.born < born]
        if expired:
            self.idle[:] = [one for one in self.idle if one not in expired]
        return expired

    # Addresses.

    def attempts(self) -> Sequence[Address]:
        """Where to connect to: in this order, until one accepts. Each call begins with the next; what failed last comes last."""
        addresses = self.addresses
        if len(addresses) < 2:
            return addresses or self._given
        self._turn = turn = (self._turn + 1) % len(addresses)
        turned = addresses[turn:] + addresses[:turn]
        return sorted(turned, key=self._avoided.__contains__) if self._avoided else turned

    def avoid(self, address: Address) -> None:
        """Try this address after all others, until names are looked up again: it did not accept a connection."""
        self._avoided.add(address)

    def resolved(self, addresses: Sequence[Address]) -> list[Upstream]:
        """Use these addresses from now on, at least one; the idle connections to others, taken out to be closed."""
        self._avoided.clear()
        if set(addresses) == set(self.addresses):
            return []
        self.addresses = tuple(addresses)
        gone = [connection for connection in self.idle if connection.address not in self.addresses]
        self.idle[:] = [connection for connection in self.idle if connection.address in self.addresses]
        return gone

    # Health.

    def succeeded(self) -> None:
        """It has answered. Needed only where `failures` is not 0."""
        self.failures = 0

    def failed(self, now: float, why: str) -> Event | None:
        """It did not accept, answer in time, or answer in HTTP (never: an app's 5xx, which the judge counts)."""
        self.failures += 1
        return self.pool.eject_if_failing(self, now, why)

    def mark_down(self) -> None:
        """Its checks fail: no new exchange goes there, even if there is no other server."""
        self.up = False
        self.pool.refresh()

    def mark_up(self, now: float) -> None:
        """Its checks pass again, and clear it of what failed before."""
        self.up, self.ejected, self.failures = True, False, 0
        self.pool.recover(self, now)


class Pool:
    """A variant's servers in this worker. `usable` are those that are up and not ejected; if all are ejected, all that are up."""

    __slots__ = (
        # configuration
        "config",
        "name",
        "servers",
        "_balance",
        "_draw",
        # choice
        "usable",
        "_next",
        "_only",
        "_ramping",
        # exchanges
        "retries",
        "waiting",
    )

    def __init__(self, name: str, config: PoolConfig, max_idle: int, draw: Draw = random.random) -> None:
        self.name, self.config = name, config
        self._balance, self._draw = BALANCES[config.balance], draw
        self.servers = [Server(url, max_idle, self) for url in config.servers]
        self._ramping: list[Server] = []
        #: Retries in hand: whoever begins one adds it, and takes it away at its end.
        self.retries = 0
        #: Who waits for a server, and since when; the first is the next.
        self.waiting: OrderedDict[Placement, float] = OrderedDict()
        self.refresh()

    # Choice.

    def choose(self, now: float = 0.0, excluded: Server | None = None) -> Server | None:
        """A server for the next try; None if all that may be used are full (then it may `wait`), or none may be used.

        `excluded` has just failed; it is chosen only when there is no other that may be used.
        """
        only = self._only
        if only is not None:
            return only if only.active < only.max_connections else None
        if excluded is None and not self._ramping and self.usable:
            server = self._next()
            if server.active < server.max_connections:
                return server
        return self._choose_among(now, excluded)

    def _choose_among(self, now: float, excluded: Server | None) -> Server | None:
        self._ramp(now)
        free = [server for server in self.usable if server is not excluded and server.active < server.max_connections]
        return self._balance(free, self._draw)() if free else None

    def refresh(self) -> None:
        """Find out anew who may be used."""
        up = [server for server in self.servers if server.up]
        self.usable = usable = [server for server in up if not server.ejected] or up
        self._only = usable[0] if len(usable) == 1 else None
        if usable:
            self._next = self._balance(usable, self._draw)

    def recover(self, server: Server, now: float) -> None:
        """Take a server into use again, slowly if that is wanted."""
        server.since = now
        if self.config.slow_start:
            server.share = server.weight * _FIRST_SHARE
            self._ramping = [other for other in self._ramping if other is not server] + [server]
        self.refresh()

    def _ramp(self, now: float) -> None:
        """Give each server that came back its share: linear over the time of a slow start."""
        if self._ramping:
            for server in self._ramping:
                done = (now - server.since) / self.config.slow_start
                server.share = server.weight * min(1.0, max(_FIRST_SHARE, done))
            self._ramping = [server for server in self._ramping if server.share < server.weight]
            self.refresh()

    # Failures.

    def eject_if_failing(self, server: Server, now: float, why: str) -> Event | None:
        """Put a server out of use for a while if it failed too often in a row, but never the last one that may be used."""
        rule, usable = self.config.eject, self.usable
        if not 0 < rule.failures <= server.failures or server.ejected or server not in usable or len(usable) == 1:
            return None
        seconds = min(rule.max, 2 * self._unforgiven(server, now) or rule.base)
        server.ejected, server.ejected_until, server.ejection = True, now + seconds, seconds
        self.refresh()
        what = f"{server.failures} failures in a row, the last one {why}; out for {format_duration(seconds)}"
        return Event(self.name, server.name, "ejected", what)

    def _unforgiven(self, server: Server, now: float) -> float:
        """Seconds of its last ejection, halved for each stretch in use that was as long, and forgotten below the first one's."""
        calm, seconds = now - server.since, server.ejection
        while 0 < seconds <= calm:
            calm -= seconds
            seconds = seconds / 2 if seconds / 2 >= self.config.eject.base else 0.0
        return seconds

    def sweep(self, now: float) -> list[Event]:
        """Take back whose ejection is over: `failures` stands as it was, so that the next one ejects it again at once."""
        back = [server for server in self.servers if server.ejected and server.ejected_until <= now]
        for server in back:
            server.ejected = False
            self.recover(server, now)
        return [Event(self.name, server.name, "back", "its ejection is over") for server in back if server.up]

    def may_retry(self) -> bool:
        """Whether one more retry keeps to the budget (C6): a part of what is in hand, but at least a few."""
        rule = self.config.retries
        return self.retries < max(rule.min, sum(server.active for server in self.servers) * rule.budget // 10_000)

    # Who waits for a server.

    def wait(self, waiter: Placement, now: float) -> bool:
        """Stand in line until a server is released; false if that is hopeless: too many wait, or no server may be used."""
        if len(self.waiting) >= self.config.queue or not self.usable:
            return False
        self.waiting[waiter] = now
        return True

    def withdraw(self, waiter: Placement) -> None:
        """Leave the line, wherever it stands in it."""
        self.waiting.pop(waiter, None)

    def released(self, server: Server) -> Placement | None:
        """An exchange on this server has ended (`active` says so already): who may begin on it now. Needed only if `waiting`."""
        if not self.waiting or server.active >= server.max_connections or server not in self.usable:
            return None
        return self.waiting.popitem(last=False)[0]

    def next_waiting(self, now: float) -> tuple[Placement, Server] | None:
        """Who may begin where, after servers came back; to be called until None, each begun before the next call."""
        server = self.choose(now) if self.waiting else None
        return None if server is None else (self.waiting.popitem(last=False)[0], server)

    def expired(self, now: float, seconds: float) -> list[Placement]:
        """Take out who has waited for so long."""
        late = []
        while self.waiting and next(iter(self.waiting.values())) <= now - seconds:
            late.append(self.waiting.popitem(last=False)[0])
        return late
