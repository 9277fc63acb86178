"""Metrics of plain shares: errors, stalls, refusals. Does the canary have more of them than stable, and by how much? Pure.

Specifications for `analysis.difference`; docs/statistics.md 2 has the figures. Errors roll back when harm (over a fifth of the
margin) is proven and a window shows the whole margin, or when the margin itself is proven; proven but small harm pauses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from canaryproxy.analysis import words
from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.comparison import HarmClaim, HealthClaim, Ruling, ladder
from canaryproxy.analysis.difference import Clause, Difference, Size, Spec
from canaryproxy.analysis.metric import Finding, Scene
from canaryproxy.analysis.sample import ArmTick
from canaryproxy.analysis.settings import ERROR_MARGIN_SHARE, HARM_SHARES, JudgeSettings, Rule, weaker
from canaryproxy.analysis.verdict import Action, Outcome
from canaryproxy.stats.memory import Rates

#: Margin, then increases to bet on (docs/statistics.md 1).
HARM_LADDER = (0.002, 0.004, 0.008, 0.016, 0.04, 0.15, 0.60)
MARGIN_LADDER = (0.01, 0.016, 0.025, 0.05, 0.12, 0.35, 0.80)
#: The harm that is tested, as part of the margin.
HARM_OF_MARGIN, _REFUSED_OF_MARGIN = 0.2, 0.25
#: Canary requests in a window before its size is believed.
_SIZED = 8
#: Seconds of a block of what need not be found within one.
SLOW_BLOCK = 4.5

Described = Callable[[Ruling, Scene, Rates], tuple[str, dict[str, Any]]]


def describe(verb: str, key: str) -> Described:
    """Sentences like `canary 8/402 failed (2.0 %), stable 41/39800 (0.10 %), evidence ...`."""

    def said(ruling: Ruling, scene: Scene, rates: Rates) -> tuple[str, dict[str, Any]]:
        n_s, x_s = ruling.seen.block.stable[:2]
        n_c, x_c = ruling.seen.block.canary[:2]
        stable = f"stable {words.share(x_s, n_s)} ({words.percent(x_s, n_s)})"
        if scene.alone:
            stable = f"stable {words.percent(rates.value(0), 1)} of about {rates.requests:.0f} before (it has no traffic now)"
        return (
            f"{ruling.seen.prefix}canary {words.share(x_c, n_c)} {verb} ({words.percent(x_c, n_c)}), {stable}, {ruling.proof}",
            {"canary": {"requests": n_c, key: x_c}, "stable": {"requests": n_s, key: x_s}, "concurrent": not scene.alone},
        )

    return said


def _two_claims(
    margin: float, part: float, settings: JudgeSettings, harm_share: float, margin_share: float
) -> tuple[HarmClaim, HarmClaim]:
    """Some of the margin, and all of it."""
    harm = part * margin
    return (
        HarmClaim(0, harm, ladder(harm, HARM_LADDER), settings.harm_threshold(harm_share)),
        HarmClaim(0, margin, ladder(margin, MARGIN_LADDER), settings.harm_threshold(margin_share), alone=True),
    )


def _clauses(margin: float, part: float, action: Action, *, strict: bool = False) -> tuple[Clause, ...]:
    proven = Clause(1, action, f"more than {words.points(margin)} of harm", margin, 0, joint=strict)
    little = "harm" if strict else f"harm, though of less than {words.points(margin)}"
    small = Clause(0, weaker(action), little, part * margin, 0)
    if strict:
        return (proven, small)
    return (Clause(0, action, "harm", margin, 0, Size(margin, 0, _SIZED), joint=True), proven, small)


def error_rate(settings: JudgeSettings, state: dict[str, Any] | None = None) -> Difference:
    """The metric `error_rate`: failures by the upstream's fault among resolved requests. Every request counts, from the first."""
    rule = settings.error_rate
    spec = Spec(
        name="error_rate",
        priors=(0.005,),
        harms=_two_claims(rule.margin, HARM_OF_MARGIN, settings, HARM_SHARES["error_rate"], ERROR_MARGIN_SHARE),
        health=HealthClaim(0, rule.margin, (0.0, 0.35), settings.health_threshold),
        clauses=_clauses(rule.margin, HARM_OF_MARGIN, rule.action, strict=settings.strict_margin),
        describe=describe("failed", "failed"),
        events=lambda arm: (arm.resolved, arm.failed),
        # Strictly nothing rolls back for harm alone, so it has no stake in a rollback.
        shares=_shares(rule, 0.0 if settings.strict_margin else HARM_SHARES["error_rate"], ERROR_MARGIN_SHARE),
        suspects=lambda group: group.failed,
        clusters="failed",
        required=True,
        dry_run=rule.dry_run,
        key=rule.margin,
    )
    return Difference(spec, state)


def client_errors(rule: Rule, settings: JudgeSettings, state: dict[str, Any] | None = None) -> Difference:
    """The metric `client_errors`: 4xx among resolved requests, 429 among them. It pauses: clients make them too."""
    share = HARM_SHARES["client_errors"]
    spec = Spec(
        name="client_errors",
        priors=(0.02, 0.001),
        harms=_two_claims(rule.margin, _REFUSED_OF_MARGIN, settings, 6 / 7 * share, share / 7),
        health=HealthClaim(0, rule.margin, (0.0,), settings.health_threshold),
        clauses=_clauses(rule.margin, _REFUSED_OF_MARGIN, rule.action)[:2],
        describe=_describe_refusals,
        events=lambda arm: (arm.resolved, arm.refused + arm.limited, arm.limited),
        shares=_shares(rule, 6 / 7 * share, share / 7),
        every=SLOW_BLOCK,
        dry_run=rule.dry_run,
        key=rule.margin,
    )
    return Difference(spec, state)


def _describe_refusals(ruling: Ruling, scene: Scene, rates: Rates) -> tuple[str, dict[str, Any]]:
    sentence, numbers = describe("answered 4xx", "refused")(ruling, scene, rates)
    limited = ruling.seen.block.canary[2]
    numbers["canary"]["limited"] = limited
    return (f"{sentence}; {limited:.0f} of them 429" if limited else sentence), numbers


def _shares(rule: Rule, *shares: float) -> tuple[float, ...]:
    return shares if rule.action is Action.ROLLBACK and not rule.dry_run else ()


class Stalls(Difference):
    """The metric `stalls`: requests that take, or wait, longer than `Baseline.stall_us`. It finds a hang, answered or not.

    A deterministic net lies under it: a canary that piles requests up and completes none for 3 s is rolled back at once.
    """

    #: Seconds without any answer, and requests in flight beyond what stable's latency explains.
    _SILENT, _PILE, _TIMES = 3.0, 20, 10

    def __init__(self, rule: Rule, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        share = HARM_SHARES["stalls"]
        at = settings.harm_threshold(share)
        spec = Spec(
            name="stalls",
            priors=(0.001,),
            harms=(HarmClaim(0, rule.margin, ladder(rule.margin, MARGIN_LADDER), at, alone=True),),
            health=HealthClaim(0, 2 * rule.margin, (0.0,), settings.health_threshold),
            clauses=(Clause(0, rule.action, f"more than {words.points(rule.margin)} of harm", rule.margin, 0, joint=True),),
            describe=describe("hung", "hung"),
            events=stalled,
            shares=_shares(rule, share),
            suspects=lambda group: group.slow,
            age=1.0,
            clusters="slow",
            dry_run=rule.dry_run,
            key=rule.margin,
        )
        super().__init__(spec, state)
        self._action = rule.action
        self._silence: float
        self._rate: float
        self._silence, self._rate = state["net"] if state and "net" in state else (0.0, 0.0)

    def questions(self, baseline: Baseline) -> Sequence[int]:
        """One threshold."""
        return (baseline.stall_us,)

    def begin_rollout(self) -> None:
        """Forget all evidence."""
        super().begin_rollout()
        self._silence = self._rate = 0.0

    def weigh(self, scene: Scene) -> None:
        """Take in a tick."""
        super().weigh(scene)
        canary, elapsed = scene.tick.canary, scene.tick.elapsed
        # A stable that answers nothing either has a fault that both share.
        silent = canary.in_flight > 0 and not canary.latency and (scene.alone or bool(scene.tick.stable.latency))
        self._silence = self._silence + elapsed if silent else 0.0
        if not silent and elapsed > 0:
            self._rate += (canary.began / elapsed - self._rate) * min(elapsed / 10, 1.0)

    def find(self, scene: Scene, *, forced: bool = False) -> Finding:
        """What follows."""
        found = super().find(scene, forced=forced)
        waiting = scene.tick.canary.in_flight
        usual = (scene.baseline.quantile_us(0.95) or 1_000_000) / 1e6 * self._rate
        # At first nothing can have been answered yet, so it is silent only after longer than an answer takes.
        silent = self._silence >= max(self._SILENT, scene.baseline.stall_us / 1e6)
        if not silent or waiting <= self._TIMES * usual + self._PILE:
            return found
        sentence = f"canary has answered nothing for {self._silence:.0f} s and {waiting} requests wait for it"
        verdict = replace(found.verdict, outcome=Outcome.FAIL, action=self._action, sentence=sentence)
        return found._replace(verdict=verdict, dominating=None, withheld=False)

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return super().state() | {"net": [self._silence, self._rate]}


def stalled(arm: ArmTick) -> tuple[float, float]:
    """Requests of the cohorts that became final, and how many of them stalled."""
    cohorts = arm.cohorts.get("stalls", ())
    started = sum(cohort.started for cohort in cohorts)
    return started, started - sum(cohort.within[-1] for cohort in cohorts)
