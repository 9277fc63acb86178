"""What the judge is told to demand, and how the allowed chance of a wrong rollback is shared out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Final

from canaryproxy.analysis.verdict import Action

#: Shares of `JudgeSettings.alpha` (docs/statistics.md 4): their sum, 1, bounds the chance that a harmless canary is rolled back.
#: A metric that has two ways to roll back, "harm and size" and "margin", has a share for each; the margin's is 1/7: it costs it
#: ln 7 = 1.9 nats and hardly ever acts first. Several goals, or p50 and p99, divide theirs.
HARM_SHARES: Final = {
    "error_rate": 0.35,
    "latency_p95": 0.20,
    "stalls": 0.10,
    "goals": 0.08,
    "throughput": 0.07,
    "other_latency": 0.04,
    "response_size": 0.03,
    "client_errors": 0.03,
    "success_floor": 0.02,
}
ERROR_MARGIN_SHARE: Final = 0.05
LATENCY_MARGIN_SHARE: Final = 0.03


@dataclass(frozen=True, slots=True)
class Rule:
    """What one metric may differ by (a fraction of requests; for throughput and goals of the expected count) and what then."""

    margin: float
    action: Action = Action.ROLLBACK
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class LatencyRule:
    """The same for the quantile `quantile` of the latency; `name` is the metric's."""

    name: str = "latency_p95"
    quantile: float = 0.95
    margin_us: int = 50_000
    action: Action = Action.ROLLBACK
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class GoalRule:
    """A business event that is counted: a drop by more than `margin` of what is expected, `name` is the metric's."""

    name: str
    margin: float = 0.05
    action: Action = Action.ROLLBACK
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class FloorRule:
    """An absolute floor: at least `least` of the canary's requests must succeed, whatever stable does."""

    least: float = 0.99
    action: Action = Action.PAUSE
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """How far the canary may be from stable: `value` of the metric's own unit, or of stable's value where it is `relative`."""

    value: float
    relative: bool = False


@dataclass(frozen=True, slots=True)
class OutsideRule:
    """What a number that somebody else measures may be (`analysis.outside`); no share of alpha is its.

    `increase` and `drop` bound the canary's against stable's, `least` and `most` by itself; None: no such limit. `of_a_variant`:
    the number is the canary's own, and not one of everything. `failures` measurements in a row beyond a limit act, `successes`
    good ones make a step healthy. A measurement looks back over `window` seconds, and says nothing any more after `max_age`.
    """

    name: str
    increase: Bound | None = None
    drop: Bound | None = None
    least: float | None = None
    most: float | None = None
    of_a_variant: bool = True
    failures: int = 3
    successes: int = 3
    window: float = 30.0
    max_age: float = 120.0
    required: bool = True
    action: Action = Action.PAUSE
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """The rules, None for a metric that is off, and how sure to be.

    `alpha` is the chance that a harmless canary is ever rolled back in one rollout, `promote_alpha` the chance that one at the
    margin passes a step, `skip_alpha` the same for skipping one. `min_requests` counts judged canary requests in a step; `warmup`
    seconds and `warmup_requests` canary requests at a rollout's start are not judged for latency (cold caches), all else is
    from the first request. `strict_margin`: errors roll back only when the whole margin is proven.
    """

    error_rate: Rule = Rule(0.01)
    strict_margin: bool = False
    latency: tuple[LatencyRule, ...] = (LatencyRule(),)
    stalls: Rule | None = Rule(0.01)
    throughput: Rule | None = Rule(0.20)
    client_errors: Rule | None = Rule(0.02, Action.PAUSE)
    response_size: Rule | None = Rule(0.02, Action.PAUSE)
    goals: tuple[GoalRule, ...] = ()
    success_floor: FloorRule | None = None
    alpha: float = 0.01
    promote_alpha: float = 0.05
    skip_alpha: float = 0.001
    min_requests: int = 100
    warmup: float = 20.0
    warmup_requests: int = 50
    outside: tuple[OutsideRule, ...] = ()

    def harm_threshold(self, share: float) -> float:
        """Natural logarithm of the evidence at which a rule with this share of `alpha` acts."""
        return -log(self.alpha * share)

    @property
    def health_threshold(self) -> float:
        """Natural logarithm of the evidence at which a metric counts as healthy."""
        return -log(self.promote_alpha)


def weaker(action: Action) -> Action:
    """What a breach that is proven but small asks for: a pause, or only a warning where a whole one warns."""
    return Action.WARN if action is Action.WARN else Action.PAUSE
