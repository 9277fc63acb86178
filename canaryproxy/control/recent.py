"""One variant's last minute, for people and dashboards: rates and a percentile. No decision is made from it.

Kept by `control.sampler`; the judge has its own, fading memory.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from canaryproxy.analysis.sample import ArmTick
from canaryproxy.stats import histogram

#: Seconds that are shown.
SPAN = 60.0


class _Moment(NamedTuple):
    elapsed: float
    requests: int
    arm: ArmTick


class Recent:
    """The ticks of the last `SPAN` seconds of one variant."""

    def __init__(self) -> None:
        self._moments: deque[_Moment] = deque()
        self._elapsed = 0.0

    def add(self, elapsed: float, requests: int, arm: ArmTick) -> None:
        """Take in a tick of `elapsed` seconds in which `requests` began."""
        self._moments.append(_Moment(elapsed, requests, arm))
        self._elapsed += elapsed
        while len(self._moments) > 1 and self._elapsed > SPAN:
            self._elapsed -= self._moments.popleft().elapsed

    @property
    def requests_per_second(self) -> float:
        """Requests that began, whoever they came from."""
        return sum(moment.requests for moment in self._moments) / self._elapsed if self._elapsed else 0.0

    @property
    def error_rate(self) -> float | None:
        """Share of the judged requests that failed by the upstream's fault; None without any."""
        resolved = sum(moment.arm.resolved for moment in self._moments)
        return sum(moment.arm.failed for moment in self._moments) / resolved if resolved else None

    @property
    def p95_us(self) -> int | None:
        """95th percentile of the time to the whole response; None without any."""
        latencies: Counter[int] = Counter()
        for moment in self._moments:
            latencies.update(moment.arm.latency)
        return histogram.quantile(latencies, 0.95)
