"""Judges a canary tick by tick: counts in, a verdict with its reasons out. Pure; called by `control` once a second.

Ordered rules, the worst finding wins: roll back, pause, then promote if every metric that acts has proven health, else go on.
The evidence may be looked at after every tick and acted on at once (e-processes, `stats.evidence`). Each request counts
as one user here: gates against one user dominating belong between a metric's evidence and its ruling.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.error_rate import ErrorRate
from canaryproxy.analysis.latency import Latency
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.settings import JudgeSettings
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome, Verdict

__all__ = ["Judge", "JudgeSettings"]

_FORMAT = 1


class Judge:
    """The evidence of one route's rollout and what is known of its stable pool."""

    def __init__(self, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        """Goes on from `state`; evidence on other margins than these is dropped, it would prove something else."""
        self._settings = settings
        known = state if state and state["format"] == _FORMAT else {"baseline": None, "margins": None}
        same = known["margins"] == self._margins
        self._baseline = Baseline(known["baseline"])
        self._errors = ErrorRate(settings, known["error_rate"] if same else None)
        self._latency = Latency(settings, known["latency_p95"] if same else None)

    @property
    def _margins(self) -> list[float]:
        return [self._settings.error_margin, self._settings.latency_margin_us]

    @property
    def thresholds_us(self) -> tuple[int, ...]:
        """Latency thresholds, ascending, for the cohorts that start from now on; they come from past ticks only."""
        return self._latency.thresholds_us(self._baseline)

    def observe(self, tick: Tick) -> None:
        """Take in a tick without a rollout: only what is known of stable grows."""
        self._baseline.learn(tick)

    def begin_rollout(self) -> None:
        """Forget all evidence; what is known of stable stays."""
        self._errors = ErrorRate(self._settings)
        self._latency = Latency(self._settings)

    def begin_step(self) -> None:
        """Health must be proven anew; evidence of harm goes on."""
        self._errors.new_step()
        self._latency.new_step()

    def judge(self, tick: Tick, *, full_weight: bool) -> Verdict:
        """The finding after this tick. `full_weight`: stable has no traffic, so its past stands in for it."""
        findings = (
            self._errors.judge(tick, self._baseline, full_weight),
            self._latency.judge(tick, self._baseline, full_weight),
        )
        if not full_weight:
            self._baseline.learn(tick)  # after the bets of this tick were made
        dry = (self._settings.error_dry_run, self._settings.latency_dry_run)
        acting = [finding for finding, is_dry in zip(findings, dry, strict=True) if not is_dry]
        shown = tuple(_dry_run(finding) if is_dry else finding for finding, is_dry in zip(findings, dry, strict=True))
        return self._combine(acting, shown)

    def _combine(self, acting: list[MetricVerdict], metrics: tuple[MetricVerdict, ...]) -> Verdict:
        for action in (Action.ROLLBACK, Action.PAUSE):
            culprits = [one for one in acting if one.action is action]
            if culprits:
                worst = max(culprits, key=lambda one: one.evidence - one.threshold)
                return Verdict(Outcome.FAIL, action, worst.sentence, metrics)
        missing = self._settings.min_requests - self._errors.canary_requests
        if acting and all(one.outcome is Outcome.PASS for one in acting):
            if missing <= 0:
                sentence = "health proven in this step: " + "; ".join(one.sentence for one in acting)
                return Verdict(Outcome.PASS, Action.PROMOTE, sentence, metrics)
            sentence = f"needs {missing} more canary requests in this step (at least {self._settings.min_requests})"
            return Verdict(Outcome.INCONCLUSIVE, _warn(metrics), sentence, metrics)
        if not acting:
            sentence = "every metric is a dry run: nothing can prove health"
            return Verdict(Outcome.INCONCLUSIVE, _warn(metrics), sentence, metrics)
        worst = max(acting, key=lambda one: one.outcome)
        return Verdict(worst.outcome, _warn(metrics), worst.sentence, metrics)

    def state(self) -> dict[str, Any]:
        """JSON-ready; `Judge(settings, state)` goes on exactly where this one is."""
        return {
            "format": _FORMAT,
            "margins": self._margins,
            "baseline": self._baseline.state(),
            "error_rate": self._errors.state(),
            "latency_p95": self._latency.state(),
        }


def _dry_run(finding: MetricVerdict) -> MetricVerdict:
    """The finding as it is shown when it must not act: at most a warning."""
    action = Action.CONTINUE if finding.action is Action.PROMOTE or finding.action is Action.CONTINUE else Action.WARN
    return replace(finding, action=action, sentence=f"dry run: {finding.sentence}", numbers={**finding.numbers, "dry_run": True})


def _warn(metrics: tuple[MetricVerdict, ...]) -> Action:
    return Action.WARN if any(one.action is Action.WARN for one in metrics) else Action.CONTINUE
