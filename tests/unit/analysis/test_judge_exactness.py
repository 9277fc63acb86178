"""The judge as a whole bets only with what it knew before: enumerate every outcome of the next block, from a saved state.

If anything of a block leaked into the bets on it (rates, thresholds, limits, mass), the mean evidence under the null would rise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import comb, exp

import pytest
from judged_world import of

from canaryproxy.analysis.comparison import HarmClaim, HealthClaim
from canaryproxy.analysis.difference import Difference
from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.sample import SIZE_COLUMNS, ArmTick, Cohort, Tick
from canaryproxy.analysis.settings import FloorRule, GoalRule, JudgeSettings, LatencyRule
from canaryproxy.analysis.verdict import MetricVerdict
from canaryproxy.analysis.windows import Block
from canaryproxy.stats.counts import share_at
from canaryproxy.stats.evidence import HarmEvidence, HealthEvidence
from canaryproxy.stats.memory import Rates

_SETTINGS = JudgeSettings(
    warmup=0,
    warmup_requests=0,
    latency=(LatencyRule(), LatencyRule("latency_p99", 0.99)),
    goals=(GoalRule("order"),),
    success_floor=FloorRule(0.95),
)
_EXACT = 1 + 1e-9
#: Long enough for the metrics whose blocks last for some seconds.
_SECONDS = 5.0
_SHARE = 0.1
_DIFFERENCES = ("error_rate", "latency_p95", "latency_p99", "stalls", "client_errors", "response_size")

Arm = tuple[int, int]


def _arm(of_what: dict[str, Arm]) -> ArmTick:
    """Requests and, of them, those with the event of each metric that is named; of the others there are none."""
    cohorts = {}
    for name in ("latency_p95", "latency_p99", "stalls"):
        n, x = of_what.get(name, (0, 0))
        if n:
            cohorts[name] = (Cohort((1, 2, 3, 4), n, (n - x,) * 4),)
    resolved = max(of_what.get(name, (0, 0))[0] for name in ("error_rate", "client_errors", "success_floor"))
    failed = max(of_what.get(name, (0, 0))[1] for name in ("error_rate", "success_floor"))
    sent, short = of_what.get("response_size", (0, 0))
    n, x = of_what.get("latency_p95", (0, 0))
    return ArmTick(
        resolved,
        failed,
        cohorts,
        {100: n - x, 200: x} if n else {},
        refused=of_what.get("client_errors", (0, 0))[1],
        began=of_what.get("throughput", (0, 0))[0],
        sizes={12: sent - short, 3: short, SIZE_COLUMNS + 12: 1},
        goals=(of_what.get("order", (0, 0))[0],),
    )


def _tick(stable: dict[str, Arm], canary: dict[str, Arm]) -> Tick:
    return Tick(_SECONDS, _arm(stable), _arm(canary), _SHARE, _SHARE)


def _all(n: int, x: int) -> dict[str, Arm]:
    return dict.fromkeys((*_DIFFERENCES, "throughput", "order", "success_floor"), (n, x))


@pytest.fixture(scope="module", name="state")
def _state() -> dict[str, object]:
    judge = Judge(_SETTINGS)
    for _ in range(3):
        judge.observe(_tick(_all(60, 4), {}))
    judge.begin_rollout()
    judge.begin_step()
    for failed in (0, 1, 0):
        judge.judge(_tick(_all(40, 2), _all(3, failed)), full_weight=False)
    return judge.state()


def _finding(state: dict[str, object], tick: Tick, metric: str, full_weight: bool = False) -> MetricVerdict:
    return of(Judge(_SETTINGS, state).judge(tick, full_weight=full_weight), metric)


def _outcomes(n: int, p: float) -> list[tuple[int, float]]:
    return [(x, comb(n, x) * p**x * (1 - p) ** (n - x)) for x in range(n + 1)]


def _growth(state: dict[str, object], metric: str, p_s: float, p_c: float, full_weight: bool = False) -> tuple[float, float]:
    """Expected evidence of harm and of health after the next block, each over what it is before."""
    before = _finding(state, _tick({}, {}), metric, full_weight)
    harm = health = 0.0
    for (x_s, chance_s), (x_c, chance_c) in product(_outcomes(4, p_s), _outcomes(3, p_c)):
        stable = {} if full_weight else {metric: (4, x_s)}
        after = _finding(state, _tick(stable, {metric: (3, x_c)}), metric, full_weight)
        harm += chance_s * chance_c * exp(after.evidence - before.evidence)
        health += chance_s * chance_c * exp(after.promote_evidence - before.promote_evidence)
    return harm, health


@pytest.mark.parametrize("p_s", [0.0, 0.005, 0.05, 0.5])
@pytest.mark.parametrize(
    ("metric", "harm", "health"),
    [("error_rate", 0.002, 0.01), ("stalls", 0.01, 0.02), ("client_errors", 0.005, 0.02), ("response_size", 0.01, 0.02)],
)
def test_shares(state: dict[str, object], metric: str, harm: float, health: float, p_s: float) -> None:
    assert 0.5 < _growth(state, metric, p_s, p_s + harm)[0] <= _EXACT
    assert 0.5 < _growth(state, metric, p_s, p_s + health)[1] <= _EXACT


@pytest.mark.parametrize("p", [0.0, 0.02, 0.05, 0.2, 0.7])
@pytest.mark.parametrize(("metric", "above"), [("latency_p95", 0.05), ("latency_p99", 0.01)])
def test_latency(state: dict[str, object], metric: str, above: float, p: float) -> None:
    assert 0.5 < _growth(state, metric, p, p)[0] <= _EXACT
    unhealthy = max(p, above)  # a canary with less than 5 % over q + margin has its p95 below that, whatever stable has
    assert 0.5 < _growth(state, metric, p, unhealthy)[1] <= _EXACT


@pytest.mark.parametrize(("metric", "null"), [("throughput", 0.8), ("order", 1.0)])
def test_counts(state: dict[str, object], metric: str, null: float) -> None:
    before = exp(_finding(state, _tick({}, {}), metric).evidence)
    for truth, least in ((null, 0.999), (1.2 * null, 0.3)):
        for n in (1, 12):
            mean = sum(
                chance * exp(_finding(state, _tick({metric: (n - x, 0)}, {metric: (x, 0)}), metric).evidence)
                for x, chance in _outcomes(n, share_at(truth, _SHARE))
            )
            assert least < mean / before <= _EXACT


def test_the_floor(state: dict[str, object]) -> None:
    for p, least in ((0.05, 1 - 1e-9), (0.01, 0.3), (0.0, 0.3)):
        assert least < _growth(state, "success_floor", 0.9, p)[0] <= _EXACT


def test_without_stable_traffic_the_limit_is_the_past_plus_the_margin(state: dict[str, object]) -> None:
    rate = Judge(_SETTINGS, state)._errors.rates.value(0)
    harm, health = _growth(state, "error_rate", 0.0, rate + 0.01, full_weight=True)
    assert 0.5 < harm < 1  # less than 1: the past is an estimate, two standard errors are granted
    assert health == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("metric", _DIFFERENCES[:-1])  # what a short response is, is learned at every tick
def test_a_block_of_several_ticks_is_bet_on_as_if_it_were_one(state: dict[str, object], metric: str) -> None:
    """While a block waits for the canary, stable's first ticks teach the rates; the bets on the block must not know."""
    in_parts, at_once = Judge(_SETTINGS, state), Judge(_SETTINGS, state)
    in_parts.judge(_tick({metric: (200, 150)}, {}), full_weight=False)
    parts = of(in_parts.judge(_tick({metric: (4, 2)}, {metric: (3, 1)}), full_weight=False), metric)
    both = replace(_tick({metric: (204, 152)}, {metric: (3, 1)}), elapsed=2 * _SECONDS)
    once = of(at_once.judge(both, full_weight=False), metric)
    assert parts.evidence == once.evidence
    assert parts.promote_evidence == once.promote_evidence
    assert parts.evidence != _finding(state, _tick({}, {}), metric).evidence


@pytest.mark.parametrize("metric", _DIFFERENCES)
def test_the_bets_are_those_of_the_rates_before(state: dict[str, object], metric: str) -> None:
    """Whatever comes out, the evidence grows by the factors that the claim and the saved rates alone give."""
    difference = next(one for one in Judge(_SETTINGS, state)._metrics if one.name == metric)
    assert isinstance(difference, Difference)
    known = difference.state()
    rates, spec = Rates.load(known["rates"]), difference.spec
    for x_s, x_c in ((0, 0), (4, 3), (50, 0), (0, 3)):
        after = next(
            one for one in _judged(state, _tick({metric: (50, x_s)}, {metric: (3, x_c)}))._metrics if one.name == metric
        ).state()
        kinds = len(spec.priors)
        stable, canary = _row(50, x_s, kinds, metric), _row(3, x_c, kinds, metric)
        block = Block(_SECONDS, stable, canary)
        for claim, old, new in zip(spec.harms, known["evidence"]["harm"], after["evidence"]["harm"], strict=True):
            assert _evidence(claim, old, claim.log_factors(block, rates, False)) == new
        health = HealthEvidence(spec.health.alternatives, known["evidence"]["health"])
        health.update(spec.health.log_factors(block, rates, False))
        assert health.state() == after["evidence"]["health"]
        assert isinstance(spec.health, HealthClaim)


def _row(n: int, x: int, kinds: int, metric: str) -> tuple[float, ...]:
    return (n, x, 0) if metric == "client_errors" else (n, *(x,) * kinds)


def _judged(state: dict[str, object], tick: Tick) -> Judge:
    judge = Judge(_SETTINGS, state)
    judge.judge(tick, full_weight=False)
    return judge


def _evidence(claim: HarmClaim, state: dict[str, object], factors: list[float]) -> dict[str, object]:
    evidence = HarmEvidence(len(claim.increases), state)
    evidence.update(factors, _SECONDS)
    return evidence.state()


def _stable_only(tick: Tick) -> Tick:
    return replace(tick, canary=ArmTick())


@pytest.mark.parametrize("change", [lambda tick: tick, _stable_only])
def test_thresholds_come_from_the_past(state: dict[str, object], change: Callable[[Tick], Tick]) -> None:
    judge = Judge(_SETTINGS, state)
    before = judge.questions
    assert all(list(thresholds) == sorted(thresholds) for thresholds in before.values())
    slow = ArmTick(latency={300: 1000})
    tick = change(Tick(1.0, slow, slow))
    judge.judge(tick, full_weight=False)
    assert judge.questions["latency_p95"][0] > before["latency_p95"][0], "stable's teach it, for seconds that are to come"
    again = Judge(_SETTINGS, state)
    again.judge(replace(tick, stable=ArmTick()), full_weight=False)
    assert again.questions == before, "the canary's never do"
