"""What the judge is told at each tick: counts of both variants. Pure; made by `control.sampler`, read by `analysis`.

Only judged requests are in it (a client's own fault, and requests without a user, are left out by the data plane).
All counts are those that became final in this tick, never cumulative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Seconds after which a request without an answer is a failure, and slow, whether or not it ever completes.
T_HANG = 10


@dataclass(frozen=True, slots=True)
class Cohort:
    """The requests that *started* in one second, reported once all of them are past the largest latency threshold.

    `thresholds_us` (ascending) were fixed before the second began; `within[i]` is how many of the `started` requests had an
    answer within `thresholds_us[i]`. So `started - within[i]` exceeded it, the unanswered included: no survivorship bias.
    """

    thresholds_us: tuple[int, ...]
    started: int
    within: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ArmTick:
    """One variant's counts of one tick.

    `resolved` requests got their final answer or passed `T_HANG` without one in this tick; `failed` of them failed by the
    upstream's fault (5xx, connect failure, reset, timeout, unanswered). `latency` is a sparse histogram {bucket index:
    count} (`stats.histogram` gives the edges) of the requests completed in this tick.
    """

    resolved: int = 0
    failed: int = 0
    cohorts: tuple[Cohort, ...] = ()
    latency: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """Both variants over the last `elapsed` seconds (about 1)."""

    elapsed: float
    stable: ArmTick
    canary: ArmTick
