"""Judges a latency quantile: is the canary's more than a margin above stable's? (docs/statistics.md 3) Pure.

Q_c <= Q_s + m for a quantile means P_c(L > q + m) <= P_s(L > q) with q = stable's; so the events are "slower than q" for stable
and "slower than q + m/4, m/2, m" for the canary, counted by the second in which requests *started*: one that never answers
is slow. Rolls back when m is proven, or m/4 is and a window shows all of m; pauses when m/2 is proven.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from canaryproxy.analysis import words
from canaryproxy.analysis.baseline import ENOUGH, Baseline
from canaryproxy.analysis.comparison import HarmClaim, HealthClaim, Ruling
from canaryproxy.analysis.difference import Clause, Difference, Size, Spec
from canaryproxy.analysis.metric import Scene
from canaryproxy.analysis.sample import T_HANG, ArmTick, Tick
from canaryproxy.analysis.settings import HARM_SHARES, LATENCY_MARGIN_SHARE, JudgeSettings, LatencyRule, weaker
from canaryproxy.analysis.verdict import Action
from canaryproxy.stats.histogram import round_up_us, upper_edge_us
from canaryproxy.stats.memory import Rates, RecentLatencies

_HARM, _NOTICE, _MARGIN = 0, 1, 2
#: Thresholds above q, in margins; the numbers of the events that belong to the claims.
_FRACTIONS = (0.0, 0.25, 0.5, 1.0)
_AT_HARM, AT_NOTICE, _AT_MARGIN = 1, 2, 3
#: Increases to bet on (docs/statistics.md 1).
INCREASES = (0.015, 0.04, 0.10, 0.30, 0.90)
#: Canary requests in a window before its size is believed.
_SIZED = 40
#: Seconds and requests over which the canary's quantile is taken, for display only.
_SHOWN_FADE, _SHOWN_KEEPS = 15.0, 100.0
#: q while stable's quantile is not known.
_FIRST_Q_US = 1_000_000


def thresholds_us(q_us: int | None, margin_us: int) -> tuple[int, ...]:
    """q and q + 1/4, 1/2, 1 margin, each rounded up to a bucket edge, none above `T_HANG`, at which every answer is late."""
    last = T_HANG * 1_000_000
    q = min(_FIRST_Q_US if q_us is None else q_us, max(last - margin_us, upper_edge_us(0)))
    return tuple(min(round_up_us(q + fraction * margin_us), last) for fraction in _FRACTIONS)


class Latency(Difference):
    """The metric of one quantile: requests slower than thresholds around stable's."""

    def __init__(self, rule: LatencyRule, settings: JudgeSettings, others: int, state: dict[str, Any] | None = None) -> None:
        """`others`: how many quantiles besides the p95 there are."""
        self.rule, self._wanted = rule, settings
        main = rule.name == "latency_p95"
        harm = HARM_SHARES["latency_p95"] if main else HARM_SHARES["other_latency"] / others * 6 / 7
        margin = LATENCY_MARGIN_SHARE if main else HARM_SHARES["other_latency"] / others / 7
        harm_at, margin_at = settings.harm_threshold(harm), settings.harm_threshold(margin)
        above = 1 - rule.quantile
        name, margin_us = rule.name, rule.margin_us
        spec = Spec(
            name=name,
            priors=(above, 0.8 * above, 0.6 * above, 0.4 * above),
            harms=(
                HarmClaim(_AT_HARM, 0.0, INCREASES, harm_at),
                HarmClaim(AT_NOTICE, 0.0, INCREASES, harm_at),
                HarmClaim(_AT_MARGIN, 0.0, INCREASES, margin_at, alone=True),
            ),
            # By definition at most this share is above the quantile: a canary with less over q + margin has its own below that.
            health=HealthClaim(_AT_MARGIN, 0.0, (0.0,), settings.health_threshold, floor=above),
            clauses=(
                Clause(_HARM, rule.action, "harm", 0.0, _AT_MARGIN, Size(0.0, _AT_MARGIN, _SIZED), joint=True),
                Clause(_MARGIN, rule.action, f"more than {words.latency(margin_us)} of harm", 0.0, _AT_MARGIN),
                Clause(
                    _NOTICE,
                    weaker(rule.action),
                    f"more than {words.latency(margin_us // 2)} of harm",
                    0.0,
                    AT_NOTICE,
                ),
            ),
            describe=self._describe,
            events=lambda arm: slow_counts(arm, name),
            shares=(harm, 0.0, margin) if rule.action is Action.ROLLBACK and not rule.dry_run else (),
            suspects=None if rule.quantile < 0.9 else lambda group: group.slow,
            age=1.0,
            clusters="slow",
            required=main,
            dry_run=rule.dry_run,
            key=rule.margin_us,
        )
        super().__init__(spec, state)
        known = state or {"warm": [0.0, 0], "canary": None}
        self._age: float
        self._started: int
        self._age, self._started = known["warm"]
        self._canary = RecentLatencies(_SHOWN_FADE, _SHOWN_KEEPS, known["canary"])

    def questions(self, baseline: Baseline) -> Sequence[int]:
        """Four thresholds."""
        return thresholds_us(baseline.quantile_us(self.rule.quantile), self.rule.margin_us)

    def learn(self, tick: Tick, baseline: Baseline) -> None:
        """Take in stable's side, once its quantile is known: before, the thresholds mean nothing."""
        if baseline.is_known:
            super().learn(tick, baseline)

    def begin_rollout(self) -> None:
        """Forget all evidence, and warm up again."""
        super().begin_rollout()
        self._age, self._started = 0.0, 0

    def weigh(self, scene: Scene) -> None:
        """Take in a tick."""
        self._canary.learn(scene.tick.canary.latency, scene.tick.elapsed)
        self._spread = self._measure_spread(scene)  # also while nothing is weighed: it is said, and not saved
        if self._is_warming_up():
            self._age += scene.tick.elapsed
            self._started += int(self.spec.events(scene.tick.canary)[0])
        elif not self._waiting(scene):
            super().weigh(scene)

    def _is_warming_up(self) -> bool:
        return self._age < self._wanted.warmup or self._started < self._wanted.warmup_requests

    def _waiting(self, scene: Scene) -> str:
        if self._is_warming_up():
            seconds = max(self._wanted.warmup - self._age, 0)
            requests = max(self._wanted.warmup_requests - self._started, 0)
            return f"warming up: judged after {seconds:.0f} more seconds and {requests} more canary requests"
        if not scene.baseline.is_known or (scene.alone and self.rates.requests < ENOUGH):
            return "stable has answered too few requests to compare with"
        return ""

    def _describe(self, ruling: Ruling, scene: Scene, rates: Rates) -> tuple[str, dict[str, Any]]:
        quantile = f"p{100 * self.rule.quantile:g}"
        stable_us, canary_us = scene.baseline.quantile_us(self.rule.quantile), self._canary.quantile_us(self.rule.quantile)
        thresholds = self.questions(scene.baseline)
        shown = AT_NOTICE if ruling.claim == _NOTICE else _AT_MARGIN
        q, over = thresholds[0], thresholds[shown]
        n_s, x_s, n_c, x_c = ruling.seen.block.counts(shown)
        stable = f"{words.share(x_s, n_s)} of stable's over {words.latency(q)} ({words.percent(x_s, n_s)})"
        if scene.alone:
            stable = f"{words.percent(rates.value(0), 1)} of stable's over {words.latency(q)} before (it has no traffic now)"
        canary = f"{words.share(x_c, n_c)} canary requests took over {words.latency(over)} ({words.percent(x_c, n_c)})"
        shown_us = f"{quantile} of answered requests: canary {words.latency(canary_us)}, stable {words.latency(stable_us)}"
        return (
            f"{ruling.seen.prefix}{canary}, {stable}, {ruling.proof}; {shown_us}",
            {
                "canary": {"requests": n_c, "slow": x_c, "over_us": over, f"{quantile}_us": canary_us},
                "stable": {"requests": n_s, "slow": x_s, "over_us": q, f"{quantile}_us": stable_us},
                "concurrent": not scene.alone,
            },
        )

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return super().state() | {"warm": [self._age, self._started], "canary": self._canary.state()}


def slow_counts(arm: ArmTick, question: str) -> tuple[float, ...]:
    """Requests of the cohorts that became final, then how many of them exceeded each of the question's four thresholds."""
    cohorts = arm.cohorts.get(question, ())
    started = sum(cohort.started for cohort in cohorts)
    return started, *(started - sum(cohort.within[i] for cohort in cohorts) for i in range(len(_FRACTIONS)))
