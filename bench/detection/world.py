"""A simulated service: who calls it, when, and what becomes of each request. One run is one `World` with its own random stream.

Every request is drawn by itself, with its user, so that heavy users, sticky assignment, the per-user cap and broken clients are
what they are in the proxy, and not a formula's idea of them. What is random about a request (user, time, luck, speed) is drawn
before it is known whether the canary gets it: the same stream serves every schedule and every rule. Times are whole seconds since
the rollout began, negative before it. numpy's vectors are one window of `CAP_SECONDS` each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from canaryproxy.analysis.sample import GROUPS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[Any]

USERS = 20_000
#: Spread of the users' rates (sd of the logarithm): the busiest 1 % send a fifth of all requests.
RATE_SIGMA = 1.5
#: Of one user at most so many requests in so many seconds are judged (the data plane's cap), by a hash into so many places.
CAP, CAP_SECONDS, CAP_PLACES = 5, 10, 65536
#: A healthy latency: lognormal with this median and 95 % quantile, in seconds.
MEDIAN, P95 = 0.080, 0.200
_MU, _SIGMA = log(MEDIAN), log(P95 / MEDIAN) / 1.6448536269514722
#: A conversion counts once for each user in so many seconds.
GOAL_SECONDS = 60
BURST_EVERY, BURST_LENGTH, BURST_ERRORS = 120, 5, 0.30
BROKEN_SHARE, BROKEN_ERRORS = 0.003, 0.30
BOT_RATE = 10.0
#: What is known of the users before the rollout comes from so many seconds.
WEIGHTS_SECONDS = 300.0


@dataclass(frozen=True)
class Fault:
    """What the canary does differently: its probability of failing, seconds added, shares that hang, of traffic, of goals."""

    errors: float | None = None
    slower: float = 0.0
    hangs: float = 0.0
    traffic: float = 1.0
    goals: float = 1.0


@dataclass(frozen=True)
class Scenario:
    """A service and its users. `rate` requests/s in all, `base` failing; `drift_to` is what `base` has grown to after 1200 s.

    `bursts`: 30 % of all requests fail for 5 s every 120 s. `broken_clients`: 0.3 % of the users fail 30 % of the time, wherever
    they are. `bot`: one more user, 10 requests/s, all failing. `goals`: conversions/s in all.
    """

    rate: float = 1000.0
    base: float = 0.001
    drift_to: float | None = None
    bursts: bool = False
    broken_clients: bool = False
    bot: bool = False
    goals: float = 0.0


class Second(NamedTuple):
    """The requests that start in one second; `latency` in seconds, infinite for one that never gets an answer."""

    user: Ints
    canary: Bools
    judged: Bools
    start: Floats
    latency: Floats
    failed: Bools

    def only(self, which: Bools) -> Second:
        """Those that `which` says."""
        return Second(
            self.user[which],
            self.canary[which],
            self.judged[which],
            self.start[which],
            self.latency[which],
            self.failed[which],
        )


class World:
    """One service, drawn from `rng`; `second` must be asked for one second after the other."""

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        self._scenario, self._rng = scenario, rng
        rates = np.exp(RATE_SIGMA * rng.standard_normal(USERS))
        rates *= scenario.rate / rates.sum()
        if scenario.bot:
            rates = np.append(rates, BOT_RATE)
        people = len(rates)
        #: A user is the canary's while this is under the weight: a growing weight only adds users.
        self.cut: Floats = rng.random(people)
        self.group: Ints = rng.integers(GROUPS, size=people, dtype=np.int64)
        self._place = rng.integers(CAP_PLACES, size=people, dtype=np.uint16)
        self._cumulative, self._total = np.cumsum(rates) / rates.sum(), float(rates.sum())
        self._clumsy = np.zeros(people)
        if scenario.broken_clients:
            self._clumsy[rng.random(people) < BROKEN_SHARE] = BROKEN_ERRORS
        if scenario.bot:
            self._clumsy[-1] = 1.0
        self._known = rng.poisson(np.minimum(rates, CAP / CAP_SECONDS) * WEIGHTS_SECONDS)
        self._burst_phase = int(rng.integers(BURST_EVERY))
        self._window: tuple[int, Ints, list[Any]] = (-1 << 30, np.zeros(0), [])
        self._goal_rng = np.random.default_rng(rng.integers(1 << 63))
        self._converted = np.full(CAP_PLACES, -1 << 30)

    @property
    def people(self) -> int:
        """How many users there are, the bot included."""
        return len(self.cut)

    def share(self, weight: float) -> float | None:
        """The canary's expected share of the requests at `weight`, by what its users sent before; None if that is too little."""
        mine = int(self._known[self.cut < weight].sum())
        return mine / int(self._known.sum()) if mine >= 200 else None

    def base_errors(self, second: int) -> float:
        """The probability that a request of a healthy variant fails, broken clients apart."""
        scenario = self._scenario
        base = scenario.base
        if scenario.drift_to is not None:
            base += (scenario.drift_to - base) * min(max(second / 1200, 0.0), 1.0)
        if scenario.bursts and (second + self._burst_phase) % BURST_EVERY < BURST_LENGTH:
            base = BURST_ERRORS
        return base

    def second(self, second: int, weight: float, fault: Fault | None) -> Second:
        """The requests that start in `second` while the canary has `weight` of the users and, if any, this `fault`."""
        begin, bounds, columns = self._window
        if second // CAP_SECONDS != begin:
            self._window = begin, bounds, columns = self._draw(second // CAP_SECONDS)
        piece = slice(bounds[second % CAP_SECONDS], bounds[second % CAP_SECONDS + 1])
        user, judged, offset, luck, speed = (column[piece] for column in columns)
        canary = self.cut[user] < weight
        base = self.base_errors(second)
        probability = np.full(len(user), base)
        latency = np.exp(_MU + _SIGMA * speed)
        if fault is not None and fault.errors is not None:
            probability[canary] = fault.errors
        if fault is not None and fault.slower:
            latency[canary] += fault.slower
        if self._scenario.broken_clients or self._scenario.bot:
            probability = 1 - (1 - probability) * (1 - self._clumsy[user])
        whole = Second(user, canary, judged, second + offset, latency, luck < probability)
        if fault is not None and fault.hangs:
            latency[canary & (self._rng.random(len(user)) < fault.hangs)] = inf
        if fault is not None and fault.traffic < 1.0:
            whole = whole.only(~canary | (self._rng.random(len(user)) < fault.traffic))
        return whole

    def _draw(self, window: int) -> tuple[int, Ints, list[Any]]:
        counts = self._rng.poisson(self._total, CAP_SECONDS)
        n = int(counts.sum())
        user = np.searchsorted(self._cumulative, self._rng.random(n)).astype(np.int64)
        place = self._place[user]
        order = np.argsort(place, kind="stable")
        ordered = place[order]
        first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if n else np.zeros(0, np.int64)
        rank = np.arange(n) - np.repeat(first, np.diff(np.r_[first, n]))
        judged = np.empty(n, np.bool_)
        judged[order] = rank < CAP
        bounds = np.r_[0, np.cumsum(counts)]
        return window, bounds, [user, judged, self._rng.random(n), self._rng.random(n), self._rng.standard_normal(n)]

    def goals(self, second: int, weight: float, fault: Fault | None) -> tuple[int, int]:
        """Conversions of stable's and of the canary's users in `second`, each user's once in `GOAL_SECONDS`."""
        if not self._scenario.goals:
            return 0, 0
        user = self._goal_rng.integers(self.people, size=self._goal_rng.poisson(self._scenario.goals))
        canary = self.cut[user] < weight
        if fault is not None:
            kept = ~canary | (self._goal_rng.random(len(user)) < fault.goals)
            user, canary = user[kept], canary[kept]
        place, window = self._place[user], second // GOAL_SECONDS
        place, first = np.unique(place, return_index=True)
        new = self._converted[place] != window
        self._converted[place] = window
        mine = int(np.count_nonzero(canary[first][new]))
        return int(np.count_nonzero(new)) - mine, mine
