"""Whether one stream has got worse, with nothing beside it to compare with: a CUSUM of e-values. Pure.

M_k <- max(M_k, 1) e_k for each bet, M = their mean (e-CUSUM of Shin, Ramdas and Rinaldo, arXiv 2203.03532): while the rate is at
most the limit, an alarm at M >= c comes after c blocks or more on average, and a fault is found wherever it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from canaryproxy.stats.margin import Counts, log_e_alone

_CAP = 50.0


class Cusum:
    """One stream of requests, some with an event, against "the rate is at most a limit"."""

    #: Above the limit, as shares of what is left to 1.
    BETS = (0.02, 0.06, 0.2, 0.6)

    def __init__(self, state: Sequence[float] | None = None) -> None:
        self._logs = list(state) if state is not None else [0.0] * len(self.BETS)

    def update(self, requests: float, events: float, limit: float) -> None:
        """Take in one block; `limit` must be from earlier ones."""
        counts = Counts(0, 0, requests, events)
        for n, bet in enumerate(self.BETS):
            grown = max(self._logs[n], 0.0) + log_e_alone(limit, limit + bet * (1 - limit), counts)
            self._logs[n] = min(grown, _CAP)

    @property
    def log_m(self) -> float:
        """Natural logarithm of M."""
        top = max(self._logs)
        return top + log(sum(exp(value - top) for value in self._logs) / len(self._logs))

    def state(self) -> list[float]:
        """JSON-ready; `Cusum(state)` goes on exactly here."""
        return list(self._logs)
