"""Judges a canary tick by tick: counts in, a verdict with its reasons out. Pure; called by `control` once a second.

Ordered rules, the worst finding wins: roll back, freeze (stable itself is bad), pause, then promote if every required metric has
proven health, else go on. The evidence may be looked at after every tick and acted on at once (e-processes, `stats.evidence`);
whatever rests on one user alone is held back, and that user's group put in quarantine (`analysis.groups`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import exp, log
from typing import Any

from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.difference import Difference
from canaryproxy.analysis.drops import Goal, Throughput
from canaryproxy.analysis.floor import SuccessFloor
from canaryproxy.analysis.groups import CanaryGroups, StableGroups
from canaryproxy.analysis.latency import AT_NOTICE, Latency
from canaryproxy.analysis.metric import Finding, Metric, Scene
from canaryproxy.analysis.outage import Outage
from canaryproxy.analysis.outside import Outside
from canaryproxy.analysis.response_size import ResponseSize
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.settings import HARM_SHARES, JudgeSettings
from canaryproxy.analysis.shadow import Shadow
from canaryproxy.analysis.shares import Stalls, client_errors, error_rate
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome, Verdict

__all__ = ["Judge", "JudgeSettings"]

_FORMAT = 2
#: Seconds without promotion after evidence was held back; groups in quarantine, beyond which it is no longer about single users.
_HELD_BACK, _MOST_QUARANTINED = 60.0, 8


class Judge:
    """The evidence of one route's rollout and what is known of its stable pool."""

    def __init__(self, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        """Goes on from `state`; evidence on another margin than these is dropped, it would prove something else."""
        self._settings = settings
        known: dict[str, Any] = state if state and state["format"] == _FORMAT else {}
        self._baseline = Baseline(known.get("baseline"))
        self._stable, self._canary = StableGroups(known.get("stable")), CanaryGroups(known.get("canary"))
        self._outage = Outage(known.get("outage"))
        self.shadow = Shadow(settings, known.get("shadow"))
        self._metrics: list[Metric] = list(_metrics(settings, known.get("metrics", {})))
        self._errors = next(one for one in self._metrics if isinstance(one, Difference))
        # Only this one's cohorts say what is slow: half of the requests are over a p50.
        self._p95 = next((one.name for one in self._metrics if one.name == "latency_p95"), "")
        self._since_step, self._held_back, self._unreported = known.get("times", (0.0, 0.0, 0.0))
        #: The highest weight of this rollout, and the seconds since it was reached.
        self._highest, self._since_rise = known.get("rise", (0.0, 0.0))
        self._weight: float = known.get("weight", 0.0)
        self._quarantine: tuple[int, ...] = tuple(known.get("quarantine", ()))

    @property
    def questions(self) -> Mapping[str, tuple[int, ...]]:
        """Ascending latency thresholds, by metric, of the cohorts that start from now on; they come from past ticks only."""
        asked = ((one.name, tuple(one.questions(self._baseline))) for one in self._metrics)
        return {name: thresholds for name, thresholds in asked if thresholds}

    @property
    def slow_us(self) -> int:
        """A request that takes longer counts as slow in its user's group: over stable's p95 and half the margin.

        Half, for at that the metric pauses: a canary that is so much slower may have nothing over all of it.
        """
        asked = self.questions
        return asked[self._p95][AT_NOTICE] if self._p95 else asked.get("stalls", (self._baseline.stall_us,))[-1]

    def observe(self, tick: Tick) -> None:
        """Take in a tick without a rollout: only what is known of stable grows, and the rehearsals go on."""
        if self._highest:  # a rollout has ended, the next one has another salt
            self._highest = 0.0
            self._stable.rehashed()
        self._outage.update(tick, self._p95, float("inf"))
        self._learn(tick)
        self._unreported += tick.elapsed
        if tick.stable.groups:
            self.shadow.add(tick.stable.groups, self._unreported, self._stable)
            self._unreported = 0.0

    def begin_rollout(self) -> None:
        """Forget all evidence; what is known of stable stays."""
        if self._highest:  # a new version in the middle of a rollout: with its salt come other groups
            self._stable.rehashed()
        for metric in self._metrics:
            metric.begin_rollout()
        self._canary = CanaryGroups()
        self._outage.take_blame()  # an older rollout's
        self._quarantine = ()
        self._since_step = self._held_back = self._highest = self._since_rise = self._weight = 0.0

    def begin_step(self) -> None:
        """Health must be proven anew; evidence of harm goes on."""
        for metric in self._metrics:
            metric.begin_step()
        self._canary.new_step()
        self._since_step = 0.0

    def counted_anew(self) -> None:
        """The counting was interrupted: the ends of what was in flight are in no tick."""
        self._canary.forget_waiting()

    def judge(self, tick: Tick, *, full_weight: bool) -> Verdict:
        """The finding after this tick. `full_weight`: stable has no traffic, so its past stands in for it."""
        self._canary.add(tick.canary.groups, tick.elapsed, tick.canary.users)
        self._since_step += tick.elapsed
        self._since_rise = self._since_rise + tick.elapsed if tick.weight <= self._highest else 0.0
        self._highest = max(self._highest, tick.weight)
        self._held_back = max(self._held_back - tick.elapsed, 0.0)
        scene = Scene(
            tick,
            full_weight,
            self._baseline,
            self._canary,
            self._stable,
            self._since_step,
            max(self.shadow.spread, 1.0),
            self.slow_us,
            moved=tick.weight != self._weight,
        )
        self._weight = tick.weight
        for metric in self._metrics:
            metric.weigh(scene)
        culprit = self._culprit()
        findings = [metric.find(scene, forced=metric is culprit) for metric in self._metrics]
        if not full_weight:
            self._outage.update(tick, self._p95, self._since_rise)
            self._learn(tick)  # after the bets of this tick were made
        self._put_in_quarantine([one for metric, one in zip(self._metrics, findings, strict=True) if not metric.dry_run])
        return replace(self._combine(findings, full_weight), quarantine=self._quarantine)

    def _learn(self, tick: Tick) -> None:
        for metric in self._metrics:
            metric.learn(tick, self._baseline)
        self._baseline.learn(tick)
        self._stable.add(tick.stable.groups, tick.elapsed)

    def _culprit(self) -> Metric | None:
        """The metric with the most evidence, if all together prove harm: sum of w E >= 1/alpha, valid however they depend."""
        total, most, culprit = 0.0, 0.0, None
        for metric in self._metrics:
            won = sum(share * exp(min(log_e, 600.0)) for share, log_e in metric.stakes())
            total += won
            if won > most:
                most, culprit = won, metric
        return culprit if total >= 1 / self._settings.alpha else None

    def _put_in_quarantine(self, findings: list[Finding]) -> None:
        """Leave out who dominates, and begin again without what they did."""
        if any(one.withheld for one in findings):
            self._held_back = _HELD_BACK
        dominating = {one.dominating for one in findings if one.dominating is not None} - set(self._quarantine)
        if dominating and len(self._quarantine) < _MOST_QUARANTINED:
            self._quarantine = tuple(sorted({*self._quarantine, *dominating}))  # ascending, as the board's are: they are compared
            for metric in self._metrics:
                metric.forget()
            self._canary.forget()

    def _combine(self, findings: list[Finding], full_weight: bool) -> Verdict:
        acting = [one.verdict for metric, one in zip(self._metrics, findings, strict=True) if not metric.dry_run]
        shown = tuple(
            _dry_run(one.verdict) if metric.dry_run else one.verdict for metric, one in zip(self._metrics, findings, strict=True)
        )
        if worst := _worst(acting, Action.ROLLBACK):
            return Verdict(Outcome.FAIL, Action.ROLLBACK, worst.sentence, shown)
        if self._outage.is_on and not full_weight:  # at full weight there is no stable to be well again
            action = Action.STEP_BACK if self._outage.take_blame() else Action.FREEZE
            return Verdict(Outcome.INCONCLUSIVE, action, f"frozen: {self._outage.why}", shown)
        if worst := _worst(acting, Action.PAUSE):
            return Verdict(Outcome.FAIL, Action.PAUSE, worst.sentence, shown)
        return self._health(acting, shown)

    def _health(self, acting: list[MetricVerdict], shown: tuple[MetricVerdict, ...]) -> Verdict:
        required = [one for one in acting if one.required]
        missing = self._settings.min_requests - int(self._errors.evidence.windows.step.block.canary[0])
        if not required:
            sentence = "every metric that could prove health is a dry run or off: nothing can prove it"
        elif any(one.outcome is not Outcome.PASS for one in required):
            worst = max(required, key=lambda one: one.outcome)
            return Verdict(worst.outcome, _warn(shown), worst.sentence, shown)
        elif missing > 0:
            sentence = f"needs {missing} more canary requests in this step (at least {self._settings.min_requests})"
        elif self._held_back > 0:
            sentence = f"healthy, but evidence of harm was held back: no step for {self._held_back:.0f} more seconds"
        else:
            sentence = "health proven in this step: " + "; ".join(one.sentence for one in required)
            level = -log(self._settings.skip_alpha)
            certain = all(one.certain(level) for one in self._metrics if one.required and not one.dry_run)
            return Verdict(Outcome.PASS, Action.PROMOTE, sentence, shown, certain)
        return Verdict(Outcome.INCONCLUSIVE, _warn(shown), sentence, shown)

    def state(self) -> dict[str, Any]:
        """JSON-ready; `Judge(settings, state)` goes on exactly where this one is, rehearsals apart."""
        return {
            "format": _FORMAT,
            "baseline": self._baseline.state(),
            "stable": self._stable.state(),
            "canary": self._canary.state(),
            "outage": self._outage.state(),
            "shadow": self.shadow.state(),
            "metrics": {metric.name: metric.state() for metric in self._metrics},
            "times": [self._since_step, self._held_back, self._unreported],
            "rise": [self._highest, self._since_rise],
            "weight": self._weight,
            "quarantine": list(self._quarantine),
        }


def _metrics(settings: JudgeSettings, known: Mapping[str, Any]) -> Iterator[Metric]:
    """Every metric that the settings ask for, errors first."""
    yield error_rate(settings, known.get("error_rate"))
    others = sum(rule.name != "latency_p95" for rule in settings.latency)
    for rule in sorted(settings.latency, key=lambda rule: rule.name != "latency_p95"):
        yield Latency(rule, settings, others, known.get(rule.name))
    if settings.stalls is not None:
        yield Stalls(settings.stalls, settings, known.get("stalls"))
    if settings.throughput is not None:
        yield Throughput(settings.throughput, settings, known.get("throughput"))
    if settings.client_errors is not None:
        yield client_errors(settings.client_errors, settings, known.get("client_errors"))
    if settings.response_size is not None:
        yield ResponseSize(settings.response_size, settings, known.get("response_size"))
    if settings.success_floor is not None:
        yield SuccessFloor(settings.success_floor, settings, known.get("success_floor"))
    for index, goal in enumerate(settings.goals):
        yield Goal(index, goal, settings, HARM_SHARES["goals"] / len(settings.goals), known.get(goal.name))
    for outside in settings.outside:
        yield Outside(outside, known.get(outside.name))


def _worst(acting: list[MetricVerdict], action: Action) -> MetricVerdict | None:
    culprits = [one for one in acting if one.action is action]
    return max(culprits, key=lambda one: one.evidence - one.threshold) if culprits else None


def _dry_run(finding: MetricVerdict) -> MetricVerdict:
    """The finding as it is shown when it must not act: at most a warning."""
    action = Action.CONTINUE if finding.action is Action.PROMOTE or finding.action is Action.CONTINUE else Action.WARN
    return replace(finding, action=action, sentence=f"dry run: {finding.sentence}", numbers={**finding.numbers, "dry_run": True})


def _warn(metrics: tuple[MetricVerdict, ...]) -> Action:
    return Action.WARN if any(one.action is Action.WARN for one in metrics) else Action.CONTINUE
