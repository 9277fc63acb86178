"""What the judge is told to demand, and how the allowed chance of a wrong rollback is shared out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Final

from canaryproxy.analysis.verdict import Action

#: Shares of `JudgeSettings.alpha` (docs/statistics.md 4). A metric has two ways to roll back, "harm and size" and "margin";
#: each has a share of its own, so the sum (0.63; the rest is for metrics to come) honestly bounds the chance of any rollback
#: of a harmless canary. The margin gets 1/7: it costs it ln 7 = 1.9 nats and hardly ever acts first.
#: A latency pause is judged at the harm share and stands beside this sum: it is no rollback.
ERROR_HARM_SHARE: Final = 0.35
ERROR_MARGIN_SHARE: Final = 0.05
LATENCY_HARM_SHARE: Final = 0.20
LATENCY_MARGIN_SHARE: Final = 0.03


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Margins over stable (a fraction; microseconds), what a breach asks for, and how sure to be.

    `alpha` is the chance that a harmless canary is ever rolled back in one rollout, `promote_alpha` the chance that one at the
    margin passes a step. `min_requests` counts judged canary requests in a step; `warmup` seconds and `warmup_requests`
    canary requests at a rollout's start are not judged for latency (cold caches), errors are from the first request.
    """

    error_margin: float = 0.01
    error_action: Action = Action.ROLLBACK
    error_dry_run: bool = False
    latency_margin_us: int = 50_000
    latency_action: Action = Action.ROLLBACK
    latency_dry_run: bool = False
    alpha: float = 0.01
    promote_alpha: float = 0.05
    min_requests: int = 100
    warmup: float = 20.0
    warmup_requests: int = 50

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
