"""Rehearsals on stable's own users."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from scipy import stats

from canaryproxy.analysis.groups import StableGroups
from canaryproxy.analysis.sample import Group
from canaryproxy.analysis.settings import JudgeSettings, Rule
from canaryproxy.analysis.shadow import Shadow
from canaryproxy.analysis.verdict import Action

_LOW = JudgeSettings(alpha=0.05)


def _independent(rng: Random, p: float = 0.02) -> dict[int, Group]:
    # 20 requests a group, failures by the inverse of their distribution's first terms: quick.
    rows = {}
    for group in range(256):
        draw, failed, chance = rng.random(), 0, (1 - p) ** 20
        while draw > chance and failed < 20:
            draw -= chance
            failed += 1
            chance *= (21 - failed) / failed * p / (1 - p)
        rows[group] = Group(20, 20, failed, 0)
    return rows


def _play(shadow: Shadow, reports: list[dict[int, Group]], stable: StableGroups | None = None) -> None:
    known = stable or StableGroups()
    for report in reports:
        shadow.add(report, 10.0, known)
        if stable is not None:
            stable.add(report, 10.0)


def test_independent_users_raise_no_alarm() -> None:
    rng, shadow = Random(1), Shadow(JudgeSettings())
    _play(shadow, [_independent(rng) for _ in range(60 * 4)], StableGroups())
    assert shadow.rollouts == 16
    assert shadow.false_alarms == 0
    assert shadow.spread == 1.0
    assert shadow.upper == pytest.approx(0.206, abs=0.001)


def _clustered(rng: Random, sick: set[int]) -> dict[int, Group]:
    """Some users fail for minutes at a time, wholly: what no design effect of 20 makes up for."""
    return {group: Group(20, 20, 20 if group in sick else 0, 0) for group in range(256)}


def _restless(number: int) -> list[dict[int, Group]]:
    rng = Random(number)
    reports = []
    for _ in range(number):
        sick = {group for group in range(256) if rng.random() < 0.1}
        reports += [_clustered(rng, sick)] * 20
    return reports


@pytest.mark.parametrize("action", [Action.ROLLBACK, Action.PAUSE])
def test_clustered_users_raise_alarms_and_then_more_is_asked_for(action: Action) -> None:
    shadow = Shadow(replace(JudgeSettings(), error_rate=Rule(0.01, action, dry_run=action is Action.PAUSE)))
    _play(shadow, _restless(20))  # without what stable's groups would say: the rehearsals alone must find it
    assert shadow.false_alarms > 3
    assert 1.2 < shadow.spread <= 20
    assert shadow.upper is not None
    assert shadow.upper > 0.05


def test_as_many_alarms_as_alpha_allows_change_nothing() -> None:
    shadow = Shadow(_LOW, {"rollouts": 1000, "false_alarms": 3, "spread": 1.0})
    _play(shadow, _restless(6))
    assert 3 < shadow.false_alarms < 50
    assert shadow.spread == 1.0


def test_the_upper_end_is_clopper_and_pearsons() -> None:
    for k, n in ((0, 1), (0, 300), (1, 10), (3, 200), (10, 10), (40, 1000)):
        upper = Shadow(_LOW, {"rollouts": n, "false_alarms": k, "spread": 1.0}).upper
        expected = float(stats.binomtest(k, n).proportion_ci(0.95, "exact").high)
        assert upper == pytest.approx(expected, abs=1e-6)
    assert Shadow(_LOW).upper is None


def test_it_goes_on_from_json_and_the_same_traffic_gives_the_same() -> None:
    one, other = Shadow(JudgeSettings()), Shadow(JudgeSettings())
    for shadow in (one, other):
        _play(shadow, _restless(6))
    assert one.state() == other.state()
    again = Shadow(JudgeSettings(), json.loads(json.dumps(one.state())))
    assert (again.rollouts, again.false_alarms, again.spread) == (one.rollouts, one.false_alarms, one.spread)
