"""Judges what others measure: a number from Prometheus or Datadog, or any that a URL answers. (docs/statistics.md 11) Pure.

Nobody knows how such a number was made, so there is no evidence to weigh: measurements are counted. So many beyond a limit *in a
row* act, so many good ones in a step make it healthy, and what is missing or old does neither. Counted are measurements, not
ticks, each once. No part of alpha is spent here, and none of its guarantee covers it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from canaryproxy.analysis import words
from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.metric import NO_QUESTION, Finding, Scene, Stake
from canaryproxy.analysis.sample import Measurement, Tick
from canaryproxy.analysis.settings import OutsideRule
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome

#: Stable's latest values, whose median stands in for it once it has no users.
_PAST: Final = 5


class _Seen(NamedTuple):
    """The last measurement that said something, with the value of stable that it was compared with."""

    at: float
    age: float
    stable: float | None
    canary: float | None


class Outside:
    """One metric that is measured outside."""

    def __init__(self, rule: OutsideRule, state: dict[str, Any] | None = None) -> None:
        self._rule = rule
        self.name, self.required, self.dry_run = rule.name, rule.required, rule.dry_run
        self._key = repr(rule)
        known = state if state and state["key"] == self._key else {}
        #: Measurements in a row beyond a limit, and good ones in this step.
        self._bad: int = known.get("bad", 0)
        self._good: int = known.get("good", 0)
        self._seen = _Seen(*known["seen"]) if known.get("seen") else None
        self._error: str = known.get("error", "")
        self._past: list[float] = known.get("past", [])
        #: Seconds in which the canary has had users without a break, up to now.
        self._exposed: float = known.get("exposed", 0.0)

    def questions(self, baseline: Baseline) -> Sequence[int]:
        """None."""
        return NO_QUESTION

    def learn(self, tick: Tick, baseline: Baseline) -> None:
        """Nothing: what is measured comes with the ticks of a rollout."""

    def begin_rollout(self) -> None:
        """Forget all of it."""
        self._bad = self._good = 0
        self._seen, self._error, self._past, self._exposed = None, "", [], 0.0

    def begin_step(self) -> None:
        """Good measurements are needed anew; breaches go on."""
        self._good = 0

    def forget(self) -> None:
        """Nothing: users who are left out of our counts are still in theirs."""

    def weigh(self, scene: Scene) -> None:
        """Take in what came with a tick."""
        elapsed = scene.tick.elapsed
        self._exposed = self._exposed + elapsed if scene.tick.weight else 0.0
        if self._seen:
            self._seen = self._seen._replace(age=self._seen.age + elapsed)
        for one in scene.tick.outside:
            if one.metric == self.name:
                self._take(one, scene)

    def _take(self, one: Measurement, scene: Scene) -> None:
        """Count a measurement, if it is a new one about this canary."""
        self._error = one.error
        if one.age > self._rule.max_age:
            self._error = f"its newest sample is {one.age:.0f} s old, {self._rule.max_age:.0f} s are allowed"
        elif self._is_new(one):
            stable = self._stable(one, scene.alone)
            looked_back = one.age + self._rule.window
            breach = self._breach(stable, one.canary) if looked_back <= self._exposed else None
            if breach is None and one.error:
                return
            self._seen = _Seen(one.at, one.age, stable, one.canary)
            if breach:
                self._bad, self._good = self._bad + 1, 0
            elif breach is False:
                self._bad = 0
                self._good += looked_back <= scene.since_step

    def _is_new(self, one: Measurement) -> bool:
        """Whether it was not counted yet. What is fresh and yet seems far older than the last is of a clock that was set back."""
        return self._seen is None or not self._seen.at - self._rule.max_age <= one.at <= self._seen.at

    def _stable(self, one: Measurement, alone: bool) -> float | None:
        """What stands for stable: what was measured or, where it has no users, what was before."""
        if alone:
            return median(self._past) if self._past else None
        if one.stable is not None:
            self._past = [*self._past[1 - _PAST :], one.stable]
        return one.stable

    def _breach(self, stable: float | None, canary: float | None) -> bool | None:
        """Whether a limit is passed; None if none is but not all of them can be told."""
        if canary is None:
            return None
        passed = [None if limit is None else canary > limit if over else canary < limit for over, limit in self._limits(stable)]
        return True if True in passed else None if None in passed else False

    def _limits(self, stable: float | None) -> Iterator[tuple[bool, float | None]]:
        """Each limit: whether it is one from above, and where it is now; None while stable is not known."""
        rule = self._rule
        for over, bound in ((True, rule.increase), (False, rule.drop)):
            if bound is not None:
                distance = bound.value * abs(stable or 0.0) if bound.relative else bound.value
                yield over, None if stable is None else stable + distance if over else stable - distance
        if rule.most is not None:
            yield True, rule.most
        if rule.least is not None:
            yield False, rule.least

    def find(self, scene: Scene, *, forced: bool = False) -> Finding:
        """What follows from the measurements so far. Never `forced`: it has no stakes."""
        outcome, action, why = self._finding(scene)
        sentence = f"{self.name}: {why}" if self._seen is None else f"{self.name}: {self._values(self._seen, scene)}, {why}"
        numbers = {
            "stable": self._seen.stable if self._seen else None,
            "canary": self._seen.canary if self._seen else None,
            "age": round(self._seen.age, 1) if self._seen else None,
            "in_a_row": self._bad,
            "good": self._good,
            "error": self._error,
        }
        rule = self._rule
        return Finding(
            MetricVerdict(
                self.name, outcome, action, sentence, self._bad, rule.failures, self._good, rule.successes, numbers, self.required
            )
        )

    def _finding(self, scene: Scene) -> tuple[Outcome, Action, str]:
        rule, seen = self._rule, self._seen
        because = f": {self._error}" if self._error else ""
        if seen is None:
            return Outcome.INCONCLUSIVE, Action.CONTINUE, f"nothing measured yet{because}"
        if seen.age > rule.max_age:
            return Outcome.INCONCLUSIVE, Action.CONTINUE, f"{seen.age:.0f} s ago, nothing fresh since{because}"
        if self._bad >= rule.failures:
            return Outcome.FAIL, rule.action, self._in_a_row()
        if self._bad:
            return Outcome.INCONCLUSIVE, Action.CONTINUE, self._in_a_row()
        if scene.alone and self._compares and not self._past:
            return Outcome.INCONCLUSIVE, Action.CONTINUE, "stable has no users to compare with and none were measured before"
        if self._good < rule.successes:
            return (
                Outcome.INCONCLUSIVE,
                Action.CONTINUE,
                f"{self._good} of {rule.successes} good measurements in this step{because}",
            )
        return Outcome.PASS, Action.CONTINUE, f"{self._good} good measurements in this step"

    @property
    def _compares(self) -> bool:
        return self._rule.increase is not None or self._rule.drop is not None

    def _in_a_row(self) -> str:
        of = f" of {self._rule.failures}" if self._bad <= self._rule.failures else ""
        return f"{self._bad}{of} measurements in a row beyond the limit"

    def _values(self, seen: _Seen, scene: Scene) -> str:
        """`canary 0.42, stable 0.3 before 100 %, at most 0.36 allowed`."""
        said = [f"canary {words.number(seen.canary)}" if self._rule.of_a_variant else words.number(seen.canary)]
        if self._compares:
            said.append(f"stable {words.number(seen.stable)}{' before 100 %' if scene.alone else ''}")
        limits = [(over, limit) for over, limit in self._limits(seen.stable) if limit is not None]
        if lowest := [limit for over, limit in limits if not over]:
            said.append(f"at least {words.number(max(lowest))} allowed")
        if highest := [limit for over, limit in limits if over]:
            said.append(f"at most {words.number(min(highest))} allowed")
        return ", ".join(said)

    def stakes(self) -> Sequence[Stake]:
        """None: it spends nothing of alpha."""
        return ()

    def certain(self, log_e: float) -> bool:
        """It has no evidence that a step could be skipped for, and none that forbids it: what it asks for is asked for always."""
        return True

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "key": self._key,
            "bad": self._bad,
            "good": self._good,
            "seen": self._seen,
            "error": self._error,
            "past": self._past,
            "exposed": self._exposed,
        }
