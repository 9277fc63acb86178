from __future__ import annotations

import json
from itertools import product
from math import exp, log

import pytest

from canaryproxy.stats.evidence import HarmEvidence, HealthEvidence
from canaryproxy.stats.margin import Counts, log_e_harm, log_e_health

_HARM_BETS = (0.004, 0.008, 0.016, 0.04, 0.15, 0.60)
_MARGIN_BETS = (0.016, 0.025, 0.05, 0.12, 0.35, 0.80)


def _factors(counts: Counts, a: float, delta: float, bets: tuple[float, ...]) -> list[float]:
    return [log_e_harm(a, min(a + bet, 0.98), delta, counts) for bet in bets]


def test_no_strategy_of_looking_gains_under_the_null() -> None:
    """Every path of three blocks, stopping at the best moment that the counts alone can show: the mean stays <= 1."""
    p_s, delta, n_s = 0.2, 0.1, 2
    outcomes = [
        (Counts(n_s, x_s, 1, x_c), (1, 2, 1)[x_s] * p_s**x_s * (1 - p_s) ** (n_s - x_s) * (p_c if x_c else 1 - p_c))
        for p_c in (p_s + delta,)
        for x_s, x_c in product(range(3), range(2))
    ]
    mean = 0.0
    for path in product(outcomes, repeat=3):
        evidence, chance, stopped = HarmEvidence(2), 1.0, 0.0
        for number, (counts, one) in enumerate(path):
            if number == 1:
                evidence.new_step()
            evidence.update([log_e_harm(0.2, b, delta, counts) for b in (0.5, 0.9)], 1.0)
            chance *= one
            if not stopped and evidence.log_e > log(1.3):
                stopped = exp(evidence.log_e)
        mean += chance * (stopped or exp(evidence.log_e))
    assert 0.9 < mean <= 1 + 1e-12


def _table_row(failed: int, requests: int) -> tuple[float, float]:
    """Evidence of harm and of the margin after 10 canary and 990 stable requests a second (0.1 % failed), failures spread."""
    harm, margin = HarmEvidence(6), HarmEvidence(6)
    a_second = min(10, requests)
    ticks, stable = requests // a_second, 99 * a_second
    when = [int((i + 0.5) * ticks / failed) for i in range(failed)]
    for tick in range(ticks):
        x_s = int((tick + 1) * stable / 1000) - int(tick * stable / 1000)
        counts = Counts(stable, x_s, a_second, when.count(tick))
        harm.update(_factors(counts, 0.001, 0.002, _HARM_BETS), 1.0)
        margin.update(_factors(counts, 0.001, 0.01, _MARGIN_BETS), 1.0)
    return exp(harm.log_e), exp(margin.log_e)


@pytest.mark.parametrize(
    ("failed", "requests", "harm", "margin"),
    [
        (1, 50, 1.1, 0.9),
        (3, 150, 2.0, 0.9),
        (7, 350, 46, 1.0),
        (10, 500, 858, 1.0),
        (2, 20, 7, 1.6),
        (3, 10, 1030, 58),
        (4, 4, 6e6, 8e5),
    ],
)
def test_what_noise_looks_like(failed: int, requests: int, harm: float, margin: float) -> None:
    """The table of docs/statistics.md 2; ours differ most (by 3) where all falls into one tick: it depends on stable's count."""
    seen = _table_row(failed, requests)
    assert seen[0] == pytest.approx(harm, rel=0.4) or (requests == 10 and harm < seen[0] < 3 * harm)
    assert seen[1] == pytest.approx(margin, rel=0.4)
    assert (seen[0] >= 1 / 0.0035) == (harm >= 858)


def test_a_fault_after_hours_of_health_is_still_found() -> None:
    evidence = HarmEvidence(1)
    for _ in range(5 * 3600):
        evidence.update([-0.05], 1.0)
    assert evidence.log_e < 0
    for ticks in range(1, 60):  # noqa: B007
        evidence.update([1.0], 1.0)
        if evidence.log_e >= log(286):
            break
    assert ticks <= 20


def test_a_new_step_gives_a_fresh_start() -> None:
    late, stepped = HarmEvidence(1), HarmEvidence(1)
    for evidence in (late, stepped):
        for _ in range(300):
            evidence.update([-0.1], 1.0)
    stepped.new_step()
    late.update([5.0], 1.0)
    stepped.update([5.0], 1.0)
    assert stepped.log_e - late.log_e > 2


def test_the_mass_never_runs_out_and_never_exceeds_one() -> None:
    evidence = HarmEvidence(1)
    for _ in range(2000):
        evidence.new_step()
        evidence.update([0.0], 1e6)
    assert evidence.log_e == pytest.approx(0, abs=1e-9)
    assert evidence.state()["left"] > 0


def test_evidence_is_capped_and_plain_json() -> None:
    harm, health = HarmEvidence(2), HealthEvidence(2)
    assert json.loads(json.dumps(harm.state(), allow_nan=False)) == harm.state()
    for _ in range(10):
        harm.update([500.0, -5000.0], 1.0)
        health.update([500.0, -5000.0])
    assert harm.log_e <= 600
    assert health.log_e <= 600
    assert json.loads(json.dumps(harm.state(), allow_nan=False)) == harm.state()


def test_health_is_a_mean_over_alternatives() -> None:
    health = HealthEvidence(2)
    assert health.log_e == 0
    health.update([log(3), log(5)])
    assert exp(health.log_e) == pytest.approx(4)
    counts = Counts(990, 1, 10, 0)
    health.update([log_e_health(0.001, b, 0.01, counts) for b in (0.001, 0.0045)])
    assert exp(health.log_e) > 4


def test_forgetting_gains_nothing_either() -> None:
    """Who may throw the past away whenever it looks bad, by what it saw, still has a mean of at most 1."""
    p_s, delta, n_s = 0.2, 0.1, 2
    outcomes = [
        (Counts(n_s, x_s, 1, x_c), (1, 2, 1)[x_s] * p_s**x_s * (1 - p_s) ** (n_s - x_s) * (0.3 if x_c else 0.7))
        for x_s, x_c in product(range(3), range(2))
    ]
    mean = kept = 0.0
    for path in product(outcomes, repeat=4):
        evidence, plain, chance = HarmEvidence(2), HarmEvidence(2), 1.0
        for counts, one in path:
            factors = [log_e_harm(0.2, b, delta, counts) for b in (0.5, 0.9)]
            evidence.update(factors, 1.0)
            plain.update(factors, 1.0)
            chance *= one
            if evidence.log_e > log(1.2) or evidence.log_e < log(0.9):
                before = evidence.log_e
                evidence.forget()
                assert evidence.log_e <= min(before, 0.0)
        mean += chance * exp(evidence.log_e)
        kept += chance * exp(plain.log_e)
    assert 0.5 < mean < kept <= 1 + 1e-12


def test_after_forgetting_a_fault_is_found_as_at_a_step() -> None:
    evidence = HarmEvidence(1)
    for _ in range(60):
        evidence.update([1.0], 1.0)
    evidence.forget()
    assert -0.2 < evidence.log_e < 0
    for ticks in range(1, 30):  # noqa: B007
        evidence.update([1.0], 1.0)
        if evidence.log_e >= log(286):
            break
    assert ticks <= 8
