"""Metrics of counts: does the canary have fewer events than its share of the users leads one to expect? Pure; owned by `judge`.

Requests (`throughput`): users of a broken front end stop calling. Business events (`goals`): they stop buying. Both by
`stats.counts`; docs/statistics.md 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from canaryproxy.analysis import words
from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.metric import NO_QUESTION, Finding, Scene, Stake
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.settings import HARM_SHARES, GoalRule, JudgeSettings, Rule
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome
from canaryproxy.analysis.windows import Block, Seen, Windows
from canaryproxy.stats.counts import log_e_drop
from canaryproxy.stats.evidence import HarmEvidence

_Counted = tuple[float, float]


class Drop:
    """Evidence that canary's events are fewer than `null` of what is expected. `expected` events are kept in the windows too."""

    required = False

    RATIOS: tuple[float, ...]

    def __init__(
        self, name: str, rule: Rule | GoalRule, settings: JudgeSettings, share: float, state: dict[str, Any] | None
    ) -> None:
        self.name, self.rule, self.dry_run = name, rule, rule.dry_run
        self.threshold = settings.harm_threshold(share)
        self._shares = (share,) if rule.action is Action.ROLLBACK and not rule.dry_run else ()
        known = state if state and state["key"] == rule.margin else {"harm": None, "windows": None}
        self.evidence = HarmEvidence(len(self.RATIOS), known["harm"])
        self.windows = Windows(1, known["windows"])
        self.spread = 1.0

    def questions(self, baseline: Baseline) -> Sequence[int]:
        """None."""
        return NO_QUESTION

    def learn(self, tick: Tick, baseline: Baseline) -> None:
        """Nothing: what is expected comes with the tick."""

    def begin_rollout(self) -> None:
        """Forget all evidence."""
        self.evidence, self.windows = HarmEvidence(len(self.RATIOS)), Windows(1)

    def begin_step(self) -> None:
        """Evidence of harm goes on."""
        self.evidence.new_step()
        self.windows.new_step()

    def forget(self) -> None:
        """Drop the evidence of this rollout."""
        self.evidence.forget()
        self.windows = Windows(1)

    def count(self, scene: Scene, events: _Counted, share: float, null: float, ratios: tuple[float, ...]) -> None:
        """Weigh one tick's events of stable and canary; `share` is the canary's expected one.

        Not where the weight has moved in it: most of the tick may have been under the old one, and look like a collapse.
        """
        if scene.moved:
            return
        tick, (stable, canary) = scene.tick, events
        factors = [log_e_drop(ratio, null, share, stable, canary) for ratio in ratios]
        self.evidence.update(factors + [0.0] * (len(self.RATIOS) - len(factors)), tick.elapsed)
        # Expected of the canary: what stable's users do, times how many of them the canary has.
        expected = stable * share / (1 - share) if 0 < share < 1 else 0.0
        self.windows.add(Block(tick.elapsed, (stable, expected), (canary, canary)))

    @property
    def proven(self) -> bool:
        """Whether there is enough evidence to act on."""
        return self.evidence.log_e >= self.spread * self.threshold

    @staticmethod
    def ratio(seen: Seen) -> float | None:
        """Canary's events to those expected; None where none are."""
        expected, canary = seen.block.stable[1], seen.block.canary[0]
        return canary / expected if expected else None

    def verdict(self, outcome: Outcome, action: Action, seen: Seen, what: str, more: str) -> MetricVerdict:
        """The finding on the counts of a window."""
        expected, canary = seen.block.stable[1], seen.block.canary[0]
        threshold = self.spread * self.threshold
        sentence = (
            f"{seen.prefix}canary {canary:.0f} {what}, {expected:.0f} expected ({words.percent(canary, expected)}), "
            f"evidence {words.odds(self.evidence.log_e)} for a drop {words.limit(threshold)}{more}"
        )
        numbers = {"window": seen.window, "canary": canary, "expected": expected, "stable": seen.block.stable[0]}
        return MetricVerdict(
            self.name, outcome, action, sentence, self.evidence.log_e, threshold, numbers=numbers, required=False
        )

    def stakes(self) -> Sequence[Stake]:
        """What it has won."""
        return [Stake(share, self.evidence.log_e / self.spread) for share in self._shares]

    def certain(self, log_e: float) -> bool:
        """It proves no health."""
        return True

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"key": self.rule.margin, "harm": self.evidence.state(), "windows": self.windows.state()}


class Throughput(Drop):
    """The metric `throughput`: requests that began, against the canary's expected share of them.

    The share is what the users of the canary's slots sent before the rollout. Where that is not known it is the weight, which
    is the share of the users, of whom some send ten times as much as others: then only a collapse is tested.
    """

    RATIOS = (0.6, 0.4, 0.15, 0.01)
    #: From this alternative on a drop is a collapse, and sure at once; smaller ones must last so many seconds, for sessions end
    #: by themselves.
    _COLLAPSE, _LASTS = 2, 10.0
    _UNKNOWN_NULL = 0.3

    def __init__(self, rule: Rule, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        super().__init__("throughput", rule, settings, HARM_SHARES["throughput"], state)

    def weigh(self, scene: Scene) -> None:
        """Take in a tick."""
        self.spread = max(scene.stable.traffic, scene.least_spread)
        tick, known = scene.tick, scene.tick.share is not None
        null = 1 - self.rule.margin if known else self._UNKNOWN_NULL
        share = tick.share if tick.share is not None else tick.weight
        # Below the null only: an alternative at or above it says nothing (and is 0), but keeps its place.
        self.count(scene, (tick.stable.began, tick.canary.began), 0.0 if scene.alone else share, null, self.RATIOS)

    def find(self, scene: Scene, *, forced: bool = False) -> Finding:
        """What follows from the evidence."""
        more = ""
        if self.proven or forced:
            now, recent = self.windows.last(1), self.windows.last(3)
            collapse = self.evidence.leading >= self._COLLAPSE
            for seen, least in ((recent, self._LASTS), (now, 0.0 if collapse else self._LASTS)):
                ratio = self.ratio(seen)
                if ratio is None or ratio > 1 - self.rule.margin:
                    more = ", but not any more"
                elif seen.block.elapsed < least:
                    more = f", not for {self._LASTS:.0f} s yet"
                else:
                    return Finding(self.verdict(Outcome.FAIL, self.rule.action, seen, "requests", ""))
        return Finding(self.verdict(Outcome.PASS, Action.CONTINUE, self.windows.step, "requests", more))


class Goal(Drop):
    """A business event: conversions by users of the canary against their share of the users, whatever they were served before.

    It pauses when a drop is proven and over the margin, and rolls back when that is so at three ends of a window in a row. A
    proven drop within the margin is none: chance alone gives the canary a per cent more or fewer users than its weight.
    """

    RATIOS = (0.95, 0.9, 0.75, 0.5, 0.1)
    WINDOW, CONFIRMED = 60.0, 3

    def __init__(
        self, index: int, rule: GoalRule, settings: JudgeSettings, share: float, state: dict[str, Any] | None = None
    ) -> None:
        super().__init__(rule.name, rule, settings, share, state)
        self._index = index
        self._age: float
        self._below: int
        self._age, self._below = state["trend"] if state and state["key"] == rule.margin else (0.0, 0)

    def begin_step(self) -> None:
        """Evidence goes on, the trend begins anew."""
        super().begin_step()
        self._age, self._below = 0.0, 0

    def begin_rollout(self) -> None:
        """Forget all evidence."""
        super().begin_rollout()
        self._age, self._below = 0.0, 0

    def weigh(self, scene: Scene) -> None:
        """Take in a tick."""
        tick = scene.tick
        self.spread = scene.least_spread
        counted = [arm.goals[self._index] if self._index < len(arm.goals) else 0 for arm in (tick.stable, tick.canary)]
        self.count(scene, (counted[0], counted[1]), 0.0 if scene.alone else tick.weight, 1.0, self.RATIOS)
        self._age += tick.elapsed
        if self._age >= self.WINDOW:
            self._age -= self.WINDOW
            ratio = self.ratio(self.windows.step)
            self._below = self._below + 1 if ratio is not None and ratio <= 1 - self.rule.margin else 0

    def find(self, scene: Scene, *, forced: bool = False) -> Finding:
        """What follows from the evidence."""
        step = self.windows.step
        ratio = self.ratio(step)
        if not (self.proven or forced) or ratio is None or ratio > 1 - self.rule.margin:
            more = f", but of less than {words.percent(self.rule.margin, 1)}" if self.proven else ""
            return Finding(self.verdict(Outcome.PASS, Action.CONTINUE, step, "conversions", more))
        if self._below >= self.CONFIRMED:
            more = f", in {self._below} windows in a row"
            return Finding(self.verdict(Outcome.FAIL, self.rule.action, step, "conversions", more))
        action = Action.WARN if self.rule.action is Action.WARN else Action.PAUSE
        return Finding(self.verdict(Outcome.FAIL, action, step, "conversions", ", not yet a trend"))

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return super().state() | {"trend": [self._age, self._below]}
