"""How often the judge would roll back on this traffic with no canary at all: rehearsals on stable's own users. Pure.

While nothing is rolled out, a few random groups of stable's users play the canary against the others, in rollouts of ten minutes,
with the same error metric, thresholds and gates. Every rollback among them is a false alarm: an honest figure for *these* users.
If there are more than alpha allows, the judge asks for more evidence (docs/statistics.md 5). Owned by `analysis.judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import exp, log
from typing import Any

from canaryproxy.analysis.baseline import Baseline
from canaryproxy.analysis.difference import Difference
from canaryproxy.analysis.groups import CanaryGroups, StableGroups
from canaryproxy.analysis.metric import Scene
from canaryproxy.analysis.sample import GROUPS, ArmTick, Group, Tick
from canaryproxy.analysis.settings import JudgeSettings, Rule
from canaryproxy.analysis.shares import error_rate
from canaryproxy.analysis.verdict import Action

#: Rehearsals at a time, the groups that play the canary in each, and seconds that each lasts.
_AT_ONCE, _GROUPS, _LASTS = 4, (3, 13, 64, 128), 600.0
#: What each false alarm beyond alpha adds to the evidence that is asked for.
_STRICTER = 1.2
_MOST_SPREAD = 20.0


class Shadow:
    """The rehearsals so far. `spread` is the least design effect that they ask for."""

    def __init__(self, settings: JudgeSettings, state: dict[str, Any] | None = None) -> None:
        known = state or {"rollouts": 0, "false_alarms": 0, "spread": 1.0}
        # Whatever the rule would do: a rehearsal asks how often it would do it.
        self._settings = replace(settings, error_rate=Rule(settings.error_rate.margin))
        self.rollouts: int = known["rollouts"]
        self.false_alarms: int = known["false_alarms"]
        self.spread: float = known["spread"]
        self._running: list[_Rehearsal] = []
        self._begun = self.rollouts

    @property
    def upper(self) -> float | None:
        """Upper end of the exact 95 % interval of the false-alarm rate (Clopper and Pearson 1934); None before the first."""
        n, k = self.rollouts, self.false_alarms
        if not n:
            return None
        if k == n:
            return 1.0
        low, high = k / n, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if _at_most(k, n, middle) > 0.025 else (low, middle)
        return high

    def add(self, groups: Mapping[int, Group], elapsed: float, stable: StableGroups) -> None:
        """Take in a report of stable's groups, of the last `elapsed` seconds."""
        while len(self._running) < _AT_ONCE:
            self._running.append(_Rehearsal(self._settings, self._begun, _GROUPS[self._begun % len(_GROUPS)]))
            self._begun += 1
        for one in list(self._running):
            alarm = one.add(groups, elapsed, stable, self.spread)
            if alarm or one.age >= _LASTS:
                self._running.remove(one)
                self.rollouts += 1
                self.false_alarms += alarm
                allowed = 1 + self.rollouts * self._settings.alpha
                if alarm and self.false_alarms > allowed:
                    self.spread = min(self.spread * _STRICTER, _MOST_SPREAD)

    def state(self) -> dict[str, Any]:
        """JSON-ready. Rehearsals that are running are begun anew."""
        return {"rollouts": self.rollouts, "false_alarms": self.false_alarms, "spread": self.spread}


class _Rehearsal:
    """One rollout of nothing."""

    def __init__(self, settings: JudgeSettings, number: int, size: int) -> None:
        # A multiplicative hash (Knuth) of the group in this rehearsal: chance enough, and the same in a replay.
        ranked = sorted(range(GROUPS), key=lambda group: (group * GROUPS + number + 1) * 2654435761 % 2**32)
        self._canary = frozenset(ranked[:size])
        self._metric: Difference = error_rate(settings)
        self._groups = CanaryGroups()
        self._baseline = Baseline()
        self.age = 0.0

    def add(self, groups: Mapping[int, Group], elapsed: float, stable: StableGroups, spread: float) -> bool:
        """Whether this report would have rolled it back."""
        canary = {group: counts for group, counts in groups.items() if group in self._canary}
        others = [counts for group, counts in groups.items() if group not in self._canary]
        tick = Tick(elapsed, _arm(others), _arm(list(canary.values()), users=len(canary) and GROUPS))
        self._groups.add(canary, elapsed, tick.canary.users)
        scene = Scene(tick, False, self._baseline, self._groups, stable, self.age, spread)
        self._metric.weigh(scene)
        finding = self._metric.find(scene)
        self._metric.learn(tick, self._baseline)
        self.age += elapsed
        return finding.verdict.action is Action.ROLLBACK


def _arm(groups: list[Group], users: int = 0) -> ArmTick:
    return ArmTick(resolved=sum(one.ended for one in groups), failed=sum(one.failed for one in groups), users=users)


def _at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial, 0 < p < 1, summed from its first term in logarithms (k is small)."""
    term, total = n * log(1 - p), 0.0
    for j in range(k + 1):
        total += exp(term)
        term += log((n - j) / (j + 1)) + log(p / (1 - p)) if j < n else 0.0
    return total
