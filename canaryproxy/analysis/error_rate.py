"""Judges the error rate: does the canary fail more than stable, and by how much? (docs/statistics.md 2) Pure; called by `judge`.

Rolls back when harm (more than a fifth of the margin) is proven and a window shows the whole margin, or when the margin itself
is proven; pauses when harm is proven but small. Every request counts, from the first.
"""

from __future__ import annotations

from typing import Any

from canaryproxy.analysis import words
from canaryproxy.analysis.baseline import ENOUGH, Baseline
from canaryproxy.analysis.comparison import Comparison, HarmClaim, HealthClaim, Ruling, ladder
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.settings import ERROR_HARM_SHARE, ERROR_MARGIN_SHARE, JudgeSettings, weaker
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome
from canaryproxy.analysis.windows import Block
from canaryproxy.stats.memory import Rates

_HARM, _MARGIN = 0, 1
_HARM_OF_MARGIN = 0.2
#: Margin, then increases to bet on (docs/statistics.md 1).
_HARM_LADDER = (0.002, 0.004, 0.008, 0.016, 0.04, 0.15, 0.60)
_MARGIN_LADDER = (0.01, 0.016, 0.025, 0.05, 0.12, 0.35, 0.80)
#: Canary requests in a window before its size is believed.
_SIZED = 8


class ErrorRate:
    """The metric `error_rate`: failures by the upstream's fault among resolved requests."""

    name = "error_rate"

    def __init__(self, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        self._margin, self._on_breach = settings.error_margin, settings.error_action
        harm = _HARM_OF_MARGIN * self._margin
        harm_at, margin_at = settings.harm_threshold(ERROR_HARM_SHARE), settings.harm_threshold(ERROR_MARGIN_SHARE)
        self._evidence = Comparison(
            kinds=1,
            harms=(
                HarmClaim(0, harm, ladder(harm, _HARM_LADDER), harm_at),
                HarmClaim(0, self._margin, ladder(self._margin, _MARGIN_LADDER), margin_at, alone=True),
            ),
            health=HealthClaim(0, self._margin, (0.0, 0.35), settings.health_threshold),
            state=state,
        )

    @property
    def canary_requests(self) -> int:
        """Canary requests judged in this step."""
        return int(self._evidence.windows.step.block.canary[0])

    def new_step(self) -> None:
        """Health must be proven anew."""
        self._evidence.new_step()

    def judge(self, tick: Tick, baseline: Baseline, alone: bool) -> MetricVerdict:
        """The finding after this tick; `baseline` is from earlier ones, `alone` means that stable has no traffic."""
        rates = baseline.errors
        block = Block(tick.elapsed, (tick.stable.resolved, tick.stable.failed), (tick.canary.resolved, tick.canary.failed))
        self._evidence.windows.add(block)
        if alone and rates.requests < ENOUGH:
            ruling = Ruling(
                Outcome.INCONCLUSIVE, Action.CONTINUE, _MARGIN, "too few to compare with", self._evidence.windows.step
            )
        else:
            self._evidence.update(block, rates, alone)
            ruling = self._rule(rates, alone)
        (n_s, x_s), (n_c, x_c) = ruling.seen.block.stable, ruling.seen.block.canary
        stable = f"stable {words.share(x_s, n_s)} ({words.percent(x_s, n_s)})"
        if alone:
            stable = f"stable {words.percent(rates.value(0), 1)} of about {rates.requests:.0f} before (it has no traffic now)"
        return self._evidence.verdict(
            self.name,
            ruling,
            f"{ruling.seen.prefix}canary {words.share(x_c, n_c)} failed ({words.percent(x_c, n_c)}), {stable}, {ruling.proof}",
            {"canary": {"requests": n_c, "failed": x_c}, "stable": {"requests": n_s, "failed": x_s}, "concurrent": not alone},
        )

    def _rule(self, rates: Rates, alone: bool) -> Ruling:
        evidence, step = self._evidence, self._evidence.windows.step
        harm = evidence.proven(_HARM) and not alone
        size = evidence.windows.worse_by(self._margin, 0, _SIZED)
        if harm and size:
            return Ruling(Outcome.FAIL, self._on_breach, _HARM, evidence.proof(_HARM, "harm"), size)
        if evidence.proven(_MARGIN):
            proof = evidence.proof(_MARGIN, f"more than {words.points(self._margin)} of harm")
            return Ruling(Outcome.FAIL, self._on_breach, _MARGIN, proof, step)
        if harm:
            proof = f"{evidence.proof(_HARM, 'harm')}, but of less than {words.points(self._margin)}"
            return Ruling(Outcome.FAIL, weaker(self._on_breach), _HARM, proof, step)
        return evidence.health(_MARGIN if alone else _HARM, rates, alone)

    def state(self) -> dict[str, Any]:
        """JSON-ready; `ErrorRate(settings, state)` goes on exactly here."""
        return self._evidence.state()
