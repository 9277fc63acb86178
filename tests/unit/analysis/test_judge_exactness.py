"""The judge as a whole bets only with what it knew before: enumerate every outcome of the next block, from a saved state.

If anything of a block leaked into the bets on it (rates, thresholds, mass), the expected evidence under the null would rise.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb, exp

import pytest

from canaryproxy.analysis.judge import Judge, JudgeSettings
from canaryproxy.analysis.sample import ArmTick, Cohort, Tick
from canaryproxy.analysis.verdict import MetricVerdict

_ERRORS, _LATENCY = 0, 1
_SETTINGS = JudgeSettings(warmup=0, warmup_requests=0)
_EXACT = 1 + 1e-9

Arm = tuple[int, int]


def _tick(stable: Arm, canary: Arm, slow: tuple[Arm, Arm] = ((0, 0), (0, 0))) -> Tick:
    """Requests and failures of both arms; requests and slow ones of both arms (slow: over every threshold)."""

    def arm(counts: Arm, cohort: Arm) -> ArmTick:
        started, late = cohort
        cohorts = (Cohort((1, 2, 3, 4), started, (started - late,) * 4),) if started else ()
        return ArmTick(counts[0], counts[1], cohorts, {100: started - late, 200: late} if started else {})

    return Tick(1.0, arm(stable, slow[0]), arm(canary, slow[1]))


def _start(full_weight: bool = False) -> Judge:
    judge = Judge(_SETTINGS)
    for _ in range(3):
        judge.observe(_tick((60, 1), (0, 0), ((60, 4), (0, 0))))
    judge.begin_rollout()
    judge.begin_step()
    for failed in (0, 1, 0):
        judge.judge(_tick((40, 1), (3, failed), ((40, 3), (3, failed))), full_weight=full_weight)
    return judge


def _finding(judge: Judge, tick: Tick, metric: int, full_weight: bool = False) -> MetricVerdict:
    return judge.judge(tick, full_weight=full_weight).metrics[metric]


def _outcomes(n: int, p: float) -> list[tuple[int, float]]:
    return [(x, comb(n, x) * p**x * (1 - p) ** (n - x)) for x in range(n + 1)]


def _growth(judge: Judge, metric: int, p_s: float, p_c: float, full_weight: bool = False) -> tuple[float, float]:
    """Expected evidence of harm and of health after the next block, each over what it is before."""
    state = judge.state()
    before = _finding(Judge(_SETTINGS, state), _tick((0, 0), (0, 0)), metric, full_weight)
    harm = health = 0.0
    for (x_s, chance_s), (x_c, chance_c) in product(_outcomes(4, p_s), _outcomes(3, p_c)):
        counts = ((4, x_s), (3, x_c))
        tick = _tick(*counts) if metric == _ERRORS else _tick((0, 0), (0, 0), counts)
        after = _finding(Judge(_SETTINGS, state), tick, metric, full_weight)
        harm += chance_s * chance_c * exp(after.evidence - before.evidence)
        health += chance_s * chance_c * exp(after.promote_evidence - before.promote_evidence)
    return harm, health


@pytest.mark.parametrize("p_s", [0.0, 0.005, 0.05, 0.5])
def test_errors(p_s: float) -> None:
    assert 0.5 < _growth(_start(), _ERRORS, p_s, p_s + 0.002)[0] <= _EXACT
    assert 0.5 < _growth(_start(), _ERRORS, p_s, p_s + 0.01)[1] <= _EXACT


@pytest.mark.parametrize("p", [0.0, 0.02, 0.05, 0.2, 0.7])
def test_latency(p: float) -> None:
    assert 0.5 < _growth(_start(), _LATENCY, p, p)[0] <= _EXACT
    unhealthy = max(p, 0.05)  # a canary with less than 5 % over q + margin has its p95 below that, whatever stable has
    assert 0.5 < _growth(_start(), _LATENCY, p, unhealthy)[1] <= _EXACT


def test_without_stable_traffic_the_limit_is_the_past_plus_the_margin() -> None:
    judge = _start()
    limit = judge.state()["baseline"]["errors"]
    rate = (limit[2][0] + 0.5) / (limit[1] + 100)
    harm, health = _growth(judge, _ERRORS, 0.0, rate + 0.01, full_weight=True)
    assert 0.5 < harm < 1  # less than 1: the past is an estimate, two standard errors are granted
    assert health == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("metric", [_ERRORS, _LATENCY])
def test_a_block_of_several_ticks_is_bet_on_as_if_it_were_one(metric: int) -> None:
    """While a block waits for the canary, stable's first ticks teach the baseline; the bets on the block must not know."""
    judge = _start()
    state = judge.state()
    first, last, both = ((200, 150), (0, 0)), ((4, 2), (3, 1)), ((204, 152), (3, 1))
    in_parts, at_once = Judge(_SETTINGS, state), Judge(_SETTINGS, state)
    for counts in (first, last):
        parts = _finding(in_parts, _tick(*counts, counts), metric)
    once = _finding(at_once, replace(_tick(*both, both), elapsed=2.0), metric)
    assert parts.evidence == once.evidence
    assert parts.promote_evidence == once.promote_evidence
    assert parts.evidence != _finding(Judge(_SETTINGS, state), _tick((0, 0), (0, 0)), metric).evidence


def test_thresholds_come_from_the_past() -> None:
    judge = _start()
    before = judge.thresholds_us
    assert list(before) == sorted(before)
    judge.judge(_tick((0, 0), (0, 0), ((0, 0), (900, 800))), full_weight=False)
    assert judge.thresholds_us == before
