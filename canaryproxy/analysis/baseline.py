"""What is known of stable before a tick is judged: its error rate, its p95 and how often it exceeds it. Pure.

Owned by `analysis.judge`, which lets it learn from a tick only after that tick was judged: all bets come from earlier data.
"""

from __future__ import annotations

from typing import Any

from canaryproxy.analysis.sample import ArmTick, Tick
from canaryproxy.stats.memory import Rates, RecentLatencies

#: Completed requests of stable before its p95 is believed, and requests before it may stand in for a control.
ENOUGH = 100
_ERROR_PRIOR = 0.005
#: Seconds and requests over which the p95 is taken (docs/statistics.md 3).
_LATENCY_FADE, _LATENCY_KEEPS = 120.0, 500.0
# For the thresholds q, q + m/4, q + m/2, q + m, where q is the p95.
_SLOW_PRIORS = (0.05, 0.04, 0.03, 0.02)


def slow_counts(arm: ArmTick) -> tuple[int, int, int, int, int]:
    """Requests of the cohorts that became final, then how many of them exceeded each of the four thresholds."""
    started = sum(cohort.started for cohort in arm.cohorts)
    q, quarter, half, whole = (started - sum(cohort.within[i] for cohort in arm.cohorts) for i in range(4))
    return started, q, quarter, half, whole


class Baseline:
    """Stable's recent past. It keeps it while there is no stable traffic to learn from."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.errors = Rates.load(state["errors"]) if state else Rates.unseen(_ERROR_PRIOR)
        self.slow = Rates.load(state["slow"]) if state else Rates.unseen(*_SLOW_PRIORS)
        self.latency = RecentLatencies(_LATENCY_FADE, _LATENCY_KEEPS, state["latency"] if state else None)

    def learn(self, tick: Tick) -> None:
        """Take in stable's side of a tick that has been judged."""
        if self.knows_p95:  # before that, the cohorts ran under thresholds that mean nothing
            self.slow = self.slow.learned(slow_counts(tick.stable), tick.elapsed)
        self.errors = self.errors.learned((tick.stable.resolved, tick.stable.failed), tick.elapsed)
        self.latency.learn(tick.stable.latency, tick.elapsed)

    @property
    def knows_p95(self) -> bool:
        """Whether stable has completed enough requests for its p95 to be believed."""
        return self.latency.seen >= ENOUGH

    @property
    def p95_us(self) -> int | None:
        """Stable's recent 95th percentile, a bucket edge in microseconds; None while it is not known."""
        return self.latency.quantile_us(0.95) if self.knows_p95 else None

    def state(self) -> dict[str, Any]:
        """JSON-ready; `Baseline(state)` goes on exactly here."""
        return {"errors": self.errors.state(), "slow": self.slow.state(), "latency": self.latency.state()}
