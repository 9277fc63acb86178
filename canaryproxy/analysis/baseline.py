"""Stable's latency before a tick is judged: the quantiles that thresholds are made from. Pure.

Owned by `analysis.judge`, which lets it learn from a tick only after that tick was judged: all bets come from earlier data.
"""

from __future__ import annotations

from typing import Any

from canaryproxy.analysis.sample import T_HANG, Tick
from canaryproxy.stats.memory import RecentLatencies

#: Completed requests of stable before its quantiles are believed, and requests before it may stand in for a control.
ENOUGH = 100
#: Seconds and requests over which quantiles are taken (docs/statistics.md 3).
_LATENCY_FADE, _LATENCY_KEEPS = 120.0, 500.0
#: A request stalls after this, or after so many times the p95, whichever is longer.
_STALL_US, _STALL_P95 = 1_000_000, 5


class Baseline:
    """Stable's recent latencies. It keeps them while there is no stable traffic to learn from."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.latency = RecentLatencies(_LATENCY_FADE, _LATENCY_KEEPS, state["latency"] if state else None)

    def learn(self, tick: Tick) -> None:
        """Take in stable's side of a tick that has been judged."""
        self.latency.learn(tick.stable.latency, tick.elapsed)

    @property
    def is_known(self) -> bool:
        """Whether stable has completed enough requests for its quantiles to be believed."""
        return self.latency.seen >= ENOUGH

    def quantile_us(self, q: float) -> int | None:
        """Stable's recent quantile, a bucket edge in microseconds; None while it is not known."""
        return self.latency.quantile_us(q) if self.is_known else None

    @property
    def stall_us(self) -> int:
        """The time after which a request stalls: at least 1 s and at most `T_HANG`."""
        p95_us = self.quantile_us(0.95)
        return min(max(_STALL_US, _STALL_P95 * (p95_us or _STALL_US)), T_HANG * 1_000_000)

    def state(self) -> dict[str, Any]:
        """JSON-ready; `Baseline(state)` goes on exactly here."""
        return {"latency": self.latency.state()}
