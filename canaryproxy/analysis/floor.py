"""Judges the canary by itself: do enough of its requests succeed, whatever stable does? (docs/statistics.md 7) Pure.

Guards what no comparison can see: a canary that drags a shared database down hurts both sides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from canaryproxy.analysis import words
from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.comparison import ladder
from canaryproxy.analysis.metric import NO_QUESTION, Finding, Scene, Stake
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.settings import HARM_SHARES, FloorRule, JudgeSettings
from canaryproxy.analysis.shares import MARGIN_LADDER
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome
from canaryproxy.analysis.windows import Block, Windows
from canaryproxy.stats.evidence import HarmEvidence
from canaryproxy.stats.margin import Counts, log_e_alone

_HIGHEST_BET = 0.98


class SuccessFloor:
    """The metric `success_floor`: the canary's failures against a fixed limit."""

    name, required = "success_floor", False

    def __init__(self, rule: FloorRule, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        self._rule, self.dry_run = rule, rule.dry_run
        self._limit = 1 - rule.least
        self._bets = [min(self._limit + rise, _HIGHEST_BET) for rise in ladder(max(self._limit, 0.001), MARGIN_LADDER)]
        share = HARM_SHARES[self.name]
        self._threshold = settings.harm_threshold(share)
        self._shares = (share,) if rule.action is Action.ROLLBACK and not rule.dry_run else ()
        known = state if state and state["key"] == rule.least else {"harm": None, "windows": None}
        self._evidence = HarmEvidence(len(self._bets), known["harm"])
        self._windows = Windows(1, known["windows"])
        self._spread = 1.0

    def questions(self, baseline: Baseline) -> Sequence[int]:
        """None."""
        return NO_QUESTION

    def learn(self, tick: Tick, baseline: Baseline) -> None:
        """Nothing: stable does not matter here."""

    def begin_rollout(self) -> None:
        """Forget all evidence."""
        self._evidence, self._windows = HarmEvidence(len(self._bets)), Windows(1)

    def begin_step(self) -> None:
        """Evidence of harm goes on."""
        self._evidence.new_step()
        self._windows.new_step()

    def forget(self) -> None:
        """Drop the evidence of this rollout."""
        self._evidence.forget()
        self._windows = Windows(1)

    def weigh(self, scene: Scene) -> None:
        """Take in a tick."""
        self._spread = max(scene.stable.failed, scene.least_spread)
        canary, elapsed = scene.tick.canary, scene.tick.elapsed
        self._windows.add(Block(elapsed, (0, 0), (canary.resolved, canary.failed)))
        counts = Counts(0, 0, canary.resolved, canary.failed)
        self._evidence.update([log_e_alone(self._limit, bet, counts) for bet in self._bets], elapsed)

    def find(self, scene: Scene, *, forced: bool = False) -> Finding:
        """What follows from the evidence."""
        requests, failed = self._windows.step.block.canary
        log_e, threshold = self._evidence.log_e, self._spread * self._threshold
        outcome, action, dominating, withheld, who = Outcome.PASS, Action.CONTINUE, None, False, ""
        if log_e >= threshold or forced:
            gate = None
            if scene.tick.canary.users:
                gate = scene.canary.check(lambda group: group.failed, 10.0, lambda n, x, window: x / n > self._limit)
            withheld = gate is not None and not gate.passed
            if gate is not None and withheld:
                outcome, dominating, who = Outcome.INCONCLUSIVE, gate.dominating, ", but too few users: nothing follows from it"
            else:
                outcome, action = Outcome.FAIL, self._rule.action
                who = f", {words.users(gate.users)}" if gate else ""
        sentence = (
            f"canary {words.share(failed, requests)} failed ({words.percent(failed, requests)}), at most "
            f"{words.percent(self._limit, 1)} allowed, evidence {words.odds(log_e)} {words.limit(threshold)}{who}"
        )
        numbers = {"window": "in this step", "canary": {"requests": requests, "failed": failed}, "least": self._rule.least}
        verdict = MetricVerdict(self.name, outcome, action, sentence, log_e, threshold, numbers=numbers, required=False)
        return Finding(verdict, dominating, withheld)

    def stakes(self) -> Sequence[Stake]:
        """What it has won."""
        return [Stake(share, self._evidence.log_e / self._spread) for share in self._shares]

    def certain(self, log_e: float) -> bool:
        """It proves no health."""
        return True

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"key": self._rule.least, "harm": self._evidence.state(), "windows": self._windows.state()}
