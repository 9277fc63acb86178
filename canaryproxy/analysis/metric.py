"""What a metric is: something that weighs each tick, then says what it finds. Pure; owned by `analysis.judge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.groups import CanaryGroups, StableGroups
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.verdict import MetricVerdict

#: No threshold of latency.
NO_QUESTION: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """A tick and all that is known beside it. `alone`: the canary has everybody, stable's past stands in for stable.

    `since_step` is the time in this step so far, in seconds; `slow_us` that after which a group's request counts as slow.
    What is known of stable is from earlier ticks.
    """

    tick: Tick
    alone: bool
    baseline: Baseline
    canary: CanaryGroups
    stable: StableGroups
    since_step: float = 0.0
    least_spread: float = 1.0
    slow_us: int = 0
    #: The weight is another one than at the last tick, so nobody knows how much of this tick was under which.
    moved: bool = False


class Stake(NamedTuple):
    """A part of alpha, and the log evidence that was won with it (its design effect taken off)."""

    share: float
    log_e: float


class Finding(NamedTuple):
    """A metric's verdict; the group of users that dominates it, if that is why nothing follows from it."""

    verdict: MetricVerdict
    dominating: int | None = None
    withheld: bool = False


class Metric(Protocol):
    """One thing that the canary is judged by. What it knows of stable outlives rollouts; its evidence begins with each."""

    name: str
    dry_run: bool
    required: bool

    def questions(self, baseline: Baseline) -> Sequence[int]:
        """Ascending latency thresholds, in microseconds, of the cohorts that it wants; none for most metrics."""

    def learn(self, tick: Tick, baseline: Baseline) -> None:
        """Take in what stable did, after this tick was judged (or while nothing is)."""

    def begin_rollout(self) -> None:
        """Forget all evidence."""

    def begin_step(self) -> None:
        """Health must be proven anew; evidence of harm goes on."""

    def forget(self) -> None:
        """Drop the evidence of this rollout: users who are left out from now on are in it."""

    def weigh(self, scene: Scene) -> None:
        """Take in a tick."""

    def find(self, scene: Scene, *, forced: bool = False) -> Finding:
        """What follows. `forced`: all metrics together have proven harm, and this one has the most evidence of it."""

    def stakes(self) -> Sequence[Stake]:
        """What it has won, as of the last tick; none if it cannot roll back."""

    def certain(self, log_e: float) -> bool:
        """Whether its evidence of health reaches `log_e`, its design effect taken off."""

    def state(self) -> Mapping[str, Any]:
        """JSON-ready; the same metric made with it goes on exactly here."""
