"""Judges p95 latency: is the canary's more than a margin above stable's? (docs/statistics.md 3) Pure; called by `judge`.

Q_c <= Q_s + m for the p95 means P_c(L > q + m) <= P_s(L > q) with q = stable's p95; so the events are "slower than q" for stable
and "slower than q + m/4, m/2, m" for the canary, counted by the second in which requests *started*: one that never answers
is slow. Rolls back when m is proven, or m/4 is and a window shows all of m; pauses when m/2 is proven.
"""

from __future__ import annotations

from typing import Any

from canaryproxy.analysis import words
from canaryproxy.analysis.baseline import ENOUGH, Baseline, slow_counts
from canaryproxy.analysis.comparison import Comparison, HarmClaim, HealthClaim, Ruling
from canaryproxy.analysis.sample import T_HANG, Tick
from canaryproxy.analysis.settings import LATENCY_HARM_SHARE, LATENCY_MARGIN_SHARE, JudgeSettings, weaker
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome
from canaryproxy.analysis.windows import Block
from canaryproxy.stats.histogram import round_up_us, upper_edge_us
from canaryproxy.stats.memory import Rates, RecentLatencies

_HARM, _NOTICE, _MARGIN = 0, 1, 2
#: Thresholds above q, in margins; the numbers of the events that belong to the claims.
_FRACTIONS = (0.0, 0.25, 0.5, 1.0)
_AT_HARM, _AT_NOTICE, _AT_MARGIN = 1, 2, 3
#: By definition at most this share is above a p95: a canary with less over q + margin has its p95 below that.
_ABOVE_P95 = 0.05
#: Increases to bet on (docs/statistics.md 1).
_INCREASES = (0.015, 0.04, 0.10, 0.30, 0.90)
#: Canary requests in a window before its size is believed.
_SIZED = 40
#: Seconds and requests over which the canary's p95 is taken, for display only.
_SHOWN_FADE, _SHOWN_KEEPS = 15.0, 100.0
#: q while stable's p95 is not known.
_FIRST_Q_US = 1_000_000


def thresholds_us(p95_us: int | None, margin_us: int) -> tuple[int, ...]:
    """q and q + 1/4, 1/2, 1 margin, each rounded up to a bucket edge, none above `T_HANG`, at which every answer is late."""
    last = T_HANG * 1_000_000
    q = min(_FIRST_Q_US if p95_us is None else p95_us, max(last - margin_us, upper_edge_us(0)))
    return tuple(min(round_up_us(q + fraction * margin_us), last) for fraction in _FRACTIONS)


class Latency:
    """The metric `latency_p95`: requests slower than thresholds around stable's p95."""

    name = "latency_p95"

    def __init__(self, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        self._settings, self._on_breach = settings, settings.latency_action
        harm_at, margin_at = settings.harm_threshold(LATENCY_HARM_SHARE), settings.harm_threshold(LATENCY_MARGIN_SHARE)
        known = state or {"evidence": None, "warm": [0.0, 0], "canary": None}
        self._evidence = Comparison(
            kinds=len(_FRACTIONS),
            harms=(
                HarmClaim(_AT_HARM, 0.0, _INCREASES, harm_at),
                HarmClaim(_AT_NOTICE, 0.0, _INCREASES, harm_at),
                HarmClaim(_AT_MARGIN, 0.0, _INCREASES, margin_at, alone=True),
            ),
            health=HealthClaim(_AT_MARGIN, 0.0, (0.0,), settings.health_threshold, floor=_ABOVE_P95),
            state=known["evidence"],
        )
        self._age, self._started = known["warm"]
        self._canary = RecentLatencies(_SHOWN_FADE, _SHOWN_KEEPS, known["canary"])

    def thresholds_us(self, baseline: Baseline) -> tuple[int, ...]:
        """Ascending thresholds for the requests that start from now on."""
        return thresholds_us(baseline.p95_us, self._settings.latency_margin_us)

    def new_step(self) -> None:
        """Health must be proven anew."""
        self._evidence.new_step()

    def judge(self, tick: Tick, baseline: Baseline, alone: bool) -> MetricVerdict:
        """The finding after this tick; `baseline` is from earlier ones, `alone` means that stable has no traffic."""
        evidence = self._evidence
        block = Block(tick.elapsed, slow_counts(tick.stable), slow_counts(tick.canary))
        self._canary.learn(tick.canary.latency, tick.elapsed)
        waiting = self._not_yet(block, baseline, alone)
        if waiting:
            ruling = Ruling(Outcome.INCONCLUSIVE, Action.CONTINUE, _MARGIN, waiting, evidence.windows.step)
        else:
            evidence.windows.add(block)
            evidence.update(block, baseline.slow, alone)
            ruling = self._rule(baseline.slow, alone)
        return self._verdict(ruling, baseline, alone)

    def _not_yet(self, block: Block, baseline: Baseline, alone: bool) -> str:
        """Why this tick is not judged; '' if it is. Depends on time and arrivals only."""
        wanted = self._settings
        if self._age < wanted.warmup or self._started < wanted.warmup_requests:
            self._age += block.elapsed
            self._started += int(block.canary[0])
            seconds, requests = max(wanted.warmup - self._age, 0), max(wanted.warmup_requests - self._started, 0)
            return f"warming up: judged after {seconds:.0f} more seconds and {requests} more canary requests"
        if not baseline.knows_p95 or (alone and baseline.slow.requests < ENOUGH):
            return "stable has answered too few requests to compare with"
        return ""

    def _rule(self, rates: Rates, alone: bool) -> Ruling:
        evidence, step, margin_us = self._evidence, self._evidence.windows.step, self._settings.latency_margin_us
        if evidence.proven(_HARM) and not alone and (size := evidence.windows.worse_by(0.0, _AT_MARGIN, _SIZED)):
            return Ruling(Outcome.FAIL, self._on_breach, _HARM, evidence.proof(_HARM, "harm"), size)
        if evidence.proven(_MARGIN):
            proof = evidence.proof(_MARGIN, f"more than {words.latency(margin_us)} of harm")
            return Ruling(Outcome.FAIL, self._on_breach, _MARGIN, proof, step)
        if evidence.proven(_NOTICE) and not alone:
            proof = evidence.proof(_NOTICE, f"more than {words.latency(margin_us // 2)} of harm")
            return Ruling(Outcome.FAIL, weaker(self._on_breach), _NOTICE, proof, step)
        return evidence.health(_MARGIN if alone else _HARM, rates, alone)

    def _verdict(self, ruling: Ruling, baseline: Baseline, alone: bool) -> MetricVerdict:
        p95_us, canary_p95_us = baseline.p95_us, self._canary.quantile_us(0.95)
        thresholds = thresholds_us(p95_us, self._settings.latency_margin_us)
        shown = _AT_NOTICE if ruling.claim == _NOTICE else _AT_MARGIN
        q, over = thresholds[0], thresholds[shown]
        n_s, x_s, n_c, x_c = ruling.seen.block.counts(shown)
        stable = f"{words.share(x_s, n_s)} of stable's over {words.latency(q)} ({words.percent(x_s, n_s)})"
        if alone:
            stable = (
                f"{words.percent(baseline.slow.value(0), 1)} of stable's over {words.latency(q)} before (it has no traffic now)"
            )
        canary = f"{words.share(x_c, n_c)} canary requests took over {words.latency(over)} ({words.percent(x_c, n_c)})"
        return self._evidence.verdict(
            self.name,
            ruling,
            f"{ruling.seen.prefix}{canary}, {stable}, {ruling.proof}; "
            f"p95 of answered requests: canary {words.latency(canary_p95_us)}, stable {words.latency(p95_us)}",
            {
                "canary": {"requests": n_c, "slow": x_c, "over_us": over, "p95_us": canary_p95_us},
                "stable": {"requests": n_s, "slow": x_s, "over_us": q, "p95_us": p95_us},
                "concurrent": not alone,
            },
        )

    def state(self) -> dict[str, Any]:
        """JSON-ready; `Latency(settings, state)` goes on exactly here."""
        return {
            "evidence": self._evidence.state(),
            "warm": [self._age, self._started],
            "canary": self._canary.state(),
        }
