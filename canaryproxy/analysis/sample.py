"""What the judge is told at each tick: counts of both variants. Pure; made by `control.sampler`, read by `analysis`.

Only *judged* requests are in it. Left out by the data plane: a client's own fault, requests without a user during a rollout, what
one user sends beyond the cap (`docs/statistics.md` 5), and users whose group is in quarantine. All counts are those that became
final in this tick, never cumulative, but where it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: Seconds after which a request without an answer is a failure, and slow, whether or not it ever completes.
T_HANG = 10
#: Users fall into so many groups, by a hash that has nothing to do with the split; to the statistics a group is "one user".
GROUPS = 256
#: Response sizes are counted for so many classes of requests (method and shape of the path) ...
SIZE_CLASSES = 64
#: ... and powers of two: a 2xx of `size` body bytes is in row `class`, column `size.bit_length()`.
SIZE_COLUMNS = 44


@dataclass(frozen=True, slots=True)
class Cohort:
    """The requests that *started* in one second, reported once all of them are past the largest of these thresholds.

    `thresholds_us` (ascending) were fixed before the second began; `within[i]` is how many of the `started` requests had an
    answer within `thresholds_us[i]`. So `started - within[i]` exceeded it, the unanswered included: no survivorship bias.
    """

    thresholds_us: tuple[int, ...]
    started: int
    within: tuple[int, ...]


class Group(NamedTuple):
    """One group of users: requests that started, ended, failed, and ended slow (over the `slow` threshold of their second)."""

    started: int
    ended: int
    failed: int
    slow: int


@dataclass(frozen=True, slots=True)
class ArmTick:
    """One variant's counts of one tick.

    `resolved` requests got their final answer or passed `T_HANG` without one in this tick; `failed` of them failed by the
    upstream's fault (5xx, connect failure, reset, timeout, unanswered), `refused` were answered 4xx but not 429, `limited` 429.
    `cohorts` are by the name of the question (`Judge.questions`) that their thresholds belong to: one second's requests are
    reported to each question as soon as *its* largest threshold has passed. `latency` is a sparse histogram {bucket index: count}
    (`stats.histogram` gives the edges) of the requests completed in this tick, `sizes` one of 2xx bodies
    {class * SIZE_COLUMNS + column: count} (may lag by some seconds). `goals` counts conversions, one for each configured goal.

    `began`: requests that started in this tick. `in_flight` (not a difference): judged requests younger than `T_HANG` without an
    answer. `groups` {group: counts}: canary's of this tick; stable's come every 10 s, of the time since the last ones.
    `users` and `hurt` (not differences): distinct users that this variant has had since the rollout began, and those of them with
    a failed request, both estimated (HyperLogLog); canary only.
    """

    resolved: int = 0
    failed: int = 0
    cohorts: Mapping[str, tuple[Cohort, ...]] = field(default_factory=dict)
    latency: Mapping[int, int] = field(default_factory=dict)
    refused: int = 0
    limited: int = 0
    began: int = 0
    in_flight: int = 0
    sizes: Mapping[int, int] = field(default_factory=dict)
    goals: tuple[int, ...] = ()
    groups: Mapping[int, Group] = field(default_factory=dict)
    users: int = 0
    hurt: int = 0


class Measurement(NamedTuple):
    """What somebody outside said of the metric `metric` (`analysis.outside`), in the tick in which the answer came.

    `at` is when it was true by the sample's own time (wall seconds): of two with the same `at` the second is the first one again.
    `age`: how old it was in this tick, in seconds. `canary` is the value of what is the same for both variants, too; None stands
    for no data, and `error` then says why.
    """

    metric: str
    at: float
    age: float
    stable: float | None = None
    canary: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Both variants over the last `elapsed` seconds (about 1).

    `weight` is the canary's nominal share of the users (0..1). `share` is its expected share of the *requests* by what the users
    of its slots sent before the rollout; None where that is not known. `outside` is what others have measured, mostly nothing.
    """

    elapsed: float
    stable: ArmTick
    canary: ArmTick
    weight: float = 0.0
    share: float | None = None
    outside: tuple[Measurement, ...] = ()
