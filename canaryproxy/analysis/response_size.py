"""Judges what comes back: is a 200 of the canary empty, or far shorter than stable's usual? (docs/statistics.md 6) Pure.

A body is short if it is smaller than half of stable's 10th percentile for the same class of requests (method, shape of the path).
Sizes are counted in powers of two, so "half" is a half to a quarter, always in the canary's favour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.comparison import HarmClaim, HealthClaim, ladder
from canaryproxy.analysis.difference import Clause, Difference, Spec
from canaryproxy.analysis.sample import SIZE_COLUMNS, Tick
from canaryproxy.analysis.settings import HARM_SHARES, JudgeSettings, Rule
from canaryproxy.analysis.shares import MARGIN_LADDER, SLOW_BLOCK, describe
from canaryproxy.analysis.verdict import Action
from canaryproxy.analysis.windows import Block
from canaryproxy.analysis.words import points
from canaryproxy.stats.memory import RecentLatencies

#: Responses of stable in a class before its sizes are believed.
_KNOWN = 50
_FADE, _KEEPS = 300.0, 5000.0


class ResponseSize(Difference):
    """The metric `response_size`: short bodies among 2xx."""

    def __init__(self, rule: Rule, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        share = HARM_SHARES["response_size"]
        half = rule.margin / 2
        acts = rule.action is Action.ROLLBACK and not rule.dry_run
        spec = Spec(
            name="response_size",
            priors=(0.01,),
            harms=(HarmClaim(0, half, ladder(half, MARGIN_LADDER), settings.harm_threshold(share)),),
            health=HealthClaim(0, rule.margin, (0.0,), settings.health_threshold),
            clauses=(Clause(0, rule.action, f"more than {points(half)} of harm", half, 0, joint=True),),
            describe=describe("were empty or short", "short"),
            events=lambda arm: (0, 0),
            shares=(share,) if acts else (),
            every=SLOW_BLOCK,
            dry_run=rule.dry_run,
            key=rule.margin,
        )
        super().__init__(spec, state)
        #: Stable's recent sizes; its buckets are classes and columns here.
        self._sizes = RecentLatencies(_FADE, _KEEPS, state.get("sizes") if state else None)
        self._limits = _limits(self._sizes.weights)

    def learn(self, tick: Tick, baseline: Baseline) -> None:
        """Take in stable's side."""
        self.rates = self.rates.learned(self._counts(tick.stable.sizes), tick.elapsed)
        self._sizes.learn(tick.stable.sizes, tick.elapsed)
        if tick.stable.sizes:
            self._limits = _limits(self._sizes.weights)

    def _block(self, tick: Tick) -> Block:
        return Block(tick.elapsed, self._counts(tick.stable.sizes), self._counts(tick.canary.sizes))

    def _counts(self, sizes: Mapping[int, int]) -> tuple[int, int]:
        """2xx of the classes that are known, and how many of them were short."""
        seen = short = 0
        for index, count in sizes.items():
            size_class, column = divmod(index, SIZE_COLUMNS)
            limit = self._limits.get(size_class)
            if limit is not None:
                seen += count
                short += count if column < limit else 0
        return seen, short

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return super().state() | {"sizes": self._sizes.state()}


def _limits(weights: Mapping[int, float]) -> dict[int, int]:
    """For each class that is known, the column below which a body is short."""
    classes: dict[int, dict[int, float]] = {}
    for index, weight in weights.items():
        size_class, column = divmod(index, SIZE_COLUMNS)
        classes.setdefault(size_class, {})[column] = weight
    limits = {}
    for size_class, columns in classes.items():
        total = sum(columns.values())
        if total < _KNOWN:
            continue
        below = 0.0
        for column in sorted(columns):
            below += columns[column]
            if below >= 0.1 * total:
                limits[size_class] = max(column - 1, 0)
                break
    return limits
