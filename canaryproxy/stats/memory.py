"""What is remembered of a stream: its recent rates and latencies. Pure; owned by `analysis.baseline`.

Memory fades with time but never below a number of requests, so that a quiet route still has an estimate. These estimates
are only bet with: a wrong one costs power, never validity (but see `Rates.upper`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, sqrt
from typing import Any

from canaryproxy.stats.histogram import quantile

#: Seconds in which rates fade to 1/e, and the number of requests below which they do not (docs/statistics.md 4).
_RATE_FADE, _RATE_KEEPS = 60.0, 2000.0
#: Weight, in requests, of what is believed before the first request.
_PRIOR_WEIGHT = 100.0
_FADE_EVERY = 10.0


def _kept(elapsed: float, fade: float, total: float, least: float) -> float:
    return max(exp(-elapsed / fade), min(1.0, least / total)) if total else 1.0


@dataclass(frozen=True, slots=True)
class Rates:
    """How often requests had each of several properties: (hits + 100 prior) / (requests + 100), both fading.

    A value: learning makes a new one, so a bet can keep the one it was made with.
    """

    priors: tuple[float, ...]
    requests: float
    hits: tuple[float, ...]

    @classmethod
    def unseen(cls, *priors: float) -> Rates:
        """The belief before the first request."""
        return cls(priors, 0.0, (0.0,) * len(priors))

    def learned(self, counts: Sequence[float], elapsed: float, fade: float = _RATE_FADE) -> Rates:
        """The belief after `elapsed` more seconds of traffic: requests, then hits of each kind. It fades over `fade` seconds."""
        kept = _kept(elapsed, fade, self.requests, _RATE_KEEPS)
        hits = tuple(old * kept + new for old, new in zip(self.hits, counts[1:], strict=True))
        return replace(self, requests=self.requests * kept + counts[0], hits=hits)

    def value(self, kind: int) -> float:
        """The estimate for property `kind`, strictly between 0 and 1."""
        return (self.hits[kind] + _PRIOR_WEIGHT * self.priors[kind]) / (self.requests + _PRIOR_WEIGHT)

    def upper(self, kind: int) -> float:
        """The estimate and two standard errors, at most 0.99: for a test in which it stands in for a control."""
        p = self.value(kind)
        return min(p + 2 * sqrt(p * (1 - p) / (self.requests + _PRIOR_WEIGHT)), 0.99)

    def state(self) -> list[Any]:
        """JSON-ready; `Rates.load(state)` is equal to this."""
        return [list(self.priors), self.requests, list(self.hits)]

    @classmethod
    def load(cls, state: Sequence[Any]) -> Rates:
        """What `state()` was made from, also after a trip through JSON."""
        priors, requests, hits = state
        return cls(tuple(priors), requests, tuple(hits))


class RecentLatencies:
    """A fading sparse histogram (buckets of `stats.histogram`); nothing fades below `keeps` requests.

    It fades in steps of 10 s and rounds, so that it is cheap each second and small when saved.
    """

    def __init__(self, fade: float, keeps: float, state: Sequence[Any] | None = None) -> None:
        self._fade, self._keeps = fade, keeps
        self._seen: int
        self._age: float
        self._seen, self._age, pairs = state or (0, 0.0, ())
        self._weights: dict[int, float] = dict(pairs)

    def learn(self, counts: Mapping[int, int], elapsed: float) -> None:
        """Add `elapsed` seconds of completed requests."""
        self._age += elapsed
        if self._age >= _FADE_EVERY:
            kept = _kept(self._age, self._fade, sum(self._weights.values()), self._keeps)
            faded = {bucket: round(weight * kept, 2) for bucket, weight in self._weights.items()}
            self._weights = {bucket: weight for bucket, weight in faded.items() if weight}
            self._age = 0.0
        for bucket, count in counts.items():
            self._weights[bucket] = self._weights.get(bucket, 0) + count
            self._seen += count

    @property
    def weights(self) -> Mapping[int, float]:
        """What is remembered of each bucket, in requests."""
        return self._weights

    @property
    def seen(self) -> int:
        """Requests counted since the beginning."""
        return self._seen

    def quantile_us(self, q: float) -> int | None:
        """The quantile's bucket edge in microseconds; None before the first request."""
        return quantile(self._weights, q)

    def state(self) -> list[Any]:
        """JSON-ready; `RecentLatencies(fade, keeps, state)` goes on exactly here."""
        return [self._seen, self._age, [[bucket, weight] for bucket, weight in self._weights.items()]]
