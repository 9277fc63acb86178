"""The planner: the design's own figures, the closed form by itself, and the judge, who has to act when the plan says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, log
from statistics import NormalDist

import pytest

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.planning import Concern, Found, Rung, StepPlan, Traffic, concerns, crossing, first_weight, plan, spoken
from canaryproxy.analysis.sample import ArmTick, Cohort, Group, Tick
from canaryproxy.analysis.settings import GoalRule, JudgeSettings, Rule
from canaryproxy.analysis.verdict import Action
from canaryproxy.stats.histogram import index, round_up_us
from canaryproxy.stats.margin import project

_DEFAULT = JudgeSettings()
_COLD = JudgeSettings(warmup=0, warmup_requests=0)
#: An edge of the judge's buckets, so that it sees the same p95 as the plan.
_P95_US = round_up_us(200_000)
_TRAFFIC = Traffic(1000, errors=0.001, p95_us=_P95_US, users=20_000, goal_rate=5)
_WEIGHTS = (0.01, 0.05, 0.25, 0.50)
_ERRORS_ONLY = replace(_COLD, stalls=None, throughput=None, client_errors=None, response_size=None)
_RUNGS = tuple(map(Rung, _WEIGHTS, (300, 600, 600, 900)))


def _step(weight: float, traffic: Traffic = _TRAFFIC, settings: JudgeSettings = _DEFAULT, hold: float = 300) -> StepPlan:
    return plan(traffic, settings, [Rung(weight, hold)])[0]


def _found(step: StepPlan, regression: str) -> Found:
    return next(found for found in step.found if found.regression == regression)


# --- The design's figures ---


@pytest.mark.parametrize(
    ("regression", "requests"),
    [
        ("errors 1%", (1855, 1900, 2277, 3429)),
        ("errors 2%", (447, 463, 622, 1059)),
        ("errors 5%", (100, 107, 173, 321)),
        ("errors 50%", (5, 6, 12, 22)),
    ],
)
def test_canary_requests_to_prove_harm_are_those_of_the_design(regression: str, requests: tuple[int, ...]) -> None:
    # The design bets on the truth alone. The judge's mixture bets on its neighbours too, and gains up to a tenth by it.
    for weight, expected in zip(_WEIGHTS, requests, strict=True):
        assert _found(_step(weight), regression).requests == pytest.approx(expected, rel=0.03 if weight < 0.25 else 0.1, abs=1)


def _divergence(p: float, q: float) -> float:
    return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))


@pytest.mark.parametrize("weight", _WEIGHTS)
def test_health_of_errors_costs_what_the_closed_form_says_and_the_hedge_of_two_bets(weight: float) -> None:
    q = project(0.001, 0.001, 0.01, 1 - weight, weight)
    gain = _divergence(0.001, q + 0.01) + (1 - weight) / weight * _divergence(0.001, q)
    alone = log(20) / gain
    if weight == 0.01:
        assert alone == pytest.approx(392, rel=0.01)
    assert alone < _step(weight).needed["error_rate"] < alone + log(2) / gain


@pytest.mark.parametrize("regression", ["errors 2%", "errors 5%"])
def test_users_hurt_are_about_as_many_at_any_rate(regression: str) -> None:
    at_all = [_found(_step(0.05, replace(_TRAFFIC, rate=rate)), regression).hurt for rate in (10, 100, 1000)]
    assert at_all == pytest.approx([at_all[0]] * 3, rel=0.01)
    assert 4 < at_all[0] < 11


def test_conversions_are_found_when_the_simulation_found_them() -> None:
    assert _found(_step(0.5), "conversions -10%").seconds == pytest.approx(1500, rel=0.1)
    found = _found(_step(0.5, replace(_TRAFFIC, goal_rate=50)), "conversions -10%")
    assert found.seconds == pytest.approx(161, rel=0.1)
    assert found.rollback == 180


def test_a_clear_delay_waits_until_its_size_is_believed() -> None:
    assert _found(_step(0.01, replace(_TRAFFIC, p95_us=200_000)), "p95 +100 ms").requests == 40


def test_a_dip_of_conversions_is_rolled_back_after_three_windows_however_clear_it_is() -> None:
    settings = replace(_ERRORS_ONLY, goals=(GoalRule("checkout"),), latency=())
    found = _found(_step(0.5, replace(_TRAFFIC, goal_rate=500), settings), "conversions -10%")
    assert (round(found.seconds), found.rollback) == (16, 180)
    assert _acts(0.5, settings, Action.ROLLBACK, kept=0.9, goals=500) == 180


@pytest.mark.parametrize(("regression", "simulated"), [("p95 +60 ms", 259), ("p95 +100 ms", 50)])
def test_delays_take_about_what_the_simulation_took(regression: str, simulated: int) -> None:
    assert _found(_step(0.01, replace(_TRAFFIC, p95_us=200_000)), regression).requests == pytest.approx(simulated, rel=0.25)


# --- The judge, on expected counts ---

#: As many as it takes that leaving two out changes little.
_GROUPS = 50


def _arm(judge: Judge, requests: float, errors: float, delay_us: int = 0, goals: float = 0.0) -> ArmTick:
    """One second of `requests` from all groups alike: log-normal latencies, and so much more."""
    latency = NormalDist(log(_P95_US / 2.5), log(2.5) / NormalDist().inv_cdf(0.95))
    cohorts = {}
    for name, thresholds in judge.questions.items():
        within = tuple(requests * latency.cdf(log(max(edge - delay_us, 1))) for edge in thresholds)
        cohorts[name] = (Cohort(thresholds, requests, within),)  # type: ignore[arg-type]
    answers = {index(100_000): 0.9 * requests, index(_P95_US): 0.1 * requests}
    slow = 1 - latency.cdf(log(judge.slow_us - delay_us))
    million = round(1e6 * requests / _GROUPS)  # whole numbers are wanted, and only their proportions matter
    group = Group(million, million, round(million * errors), round(million * slow))
    return ArmTick(
        requests,  # type: ignore[arg-type]
        requests * errors,  # type: ignore[arg-type]
        cohorts,
        answers,  # type: ignore[arg-type]
        began=requests,  # type: ignore[arg-type]
        goals=(goals,),  # type: ignore[arg-type]
        groups=dict.fromkeys(range(_GROUPS), group),
        users=200,
    )


def _acts(
    weight: float,
    settings: JudgeSettings,
    *actions: Action,
    errors: float = 0.001,
    delay_us: int = 0,
    kept: float = 1.0,
    goals: float = 5.0,
) -> int:
    """The tick (first is 1) at which the judge asks for one of the actions."""
    judge = Judge(settings)
    for _ in range(60):
        judge.observe(Tick(1.0, _arm(judge, 1000, 0.001, goals=5), ArmTick()))
    judge.begin_rollout()
    judge.begin_step()
    for tick in range(1, 4000):
        stable = _arm(judge, 1000 * (1 - weight), 0.001, goals=goals * (1 - weight))
        canary = _arm(judge, 1000 * weight, errors, delay_us, goals=goals * weight * kept)
        verdict = judge.judge(Tick(1.0, stable, canary, weight=weight, share=weight), full_weight=False)
        if verdict.action in actions:
            return tick
    raise AssertionError("never")


@pytest.mark.parametrize("weight", [0.01, 0.25])
@pytest.mark.parametrize("errors", [0.01, 0.02, 0.05])
def test_the_judge_finds_errors_when_the_plan_says(weight: float, errors: float) -> None:
    found = _found(_step(weight, settings=_ERRORS_ONLY), f"errors {100 * errors:g}%")
    tick = _acts(weight, _ERRORS_ONLY, found.action, errors=errors)
    assert tick == pytest.approx(found.seconds, rel=0.1, abs=1.1)


def test_the_judge_finds_errors_when_the_plan_says_by_the_margin_alone() -> None:
    strict = replace(_ERRORS_ONLY, strict_margin=True)
    found = _found(_step(0.01, settings=strict), "errors 5%")
    assert found.rollback > 2 * _found(_step(0.01), "errors 5%").rollback
    assert _acts(0.01, strict, Action.ROLLBACK, errors=0.05) == pytest.approx(found.rollback, rel=0.1, abs=1.1)


@pytest.mark.parametrize("delay", [60, 100])
def test_the_judge_finds_a_delay_when_the_plan_says(delay: int) -> None:
    found = _found(_step(0.01, settings=_ERRORS_ONLY), f"p95 +{delay} ms")
    tick = _acts(0.01, _ERRORS_ONLY, Action.ROLLBACK, delay_us=1000 * delay)
    assert tick == pytest.approx(found.rollback, rel=0.15, abs=2.1)


@pytest.mark.parametrize("weight", _WEIGHTS)
def test_the_judge_promotes_when_the_plan_says(weight: float) -> None:
    step = _step(weight)
    assert _acts(weight, _DEFAULT, Action.PROMOTE) == pytest.approx(step.health, rel=0.1, abs=21 if weight > 0.01 else 1.1)
    cold = _step(weight, settings=_COLD)
    assert _acts(weight, _COLD, Action.PROMOTE) == pytest.approx(cold.health, rel=0.1, abs=1.1)


def test_the_judge_finds_missing_conversions_when_the_plan_says() -> None:
    settings = replace(_ERRORS_ONLY, goals=(GoalRule("checkout"),), latency=())
    found = _found(_step(0.5, settings=settings), "conversions -10%")
    tick = _acts(0.5, settings, Action.PAUSE, Action.ROLLBACK, kept=0.9)
    assert tick == pytest.approx(found.seconds, rel=0.1)


# --- The rules around it ---


def test_an_amount_at_which_a_mixture_crosses() -> None:
    assert crossing([0.5], 3.0) == pytest.approx(6)
    assert crossing([0.5, -9.0], 3.0) == pytest.approx((3 + log(2)) / 0.5)
    assert crossing([0.0, -1.0], 3.0) == inf


def test_a_harm_under_the_margin_is_only_paused() -> None:
    found = _found(_step(0.01), "errors 1%")
    assert (found.action, found.rollback) == (Action.PAUSE, inf)
    assert _found(_step(0.01), "errors 2%").action is Action.ROLLBACK


def test_what_stable_has_already_is_no_regression() -> None:
    names = [found.regression for found in _step(0.01, replace(_TRAFFIC, errors=0.02)).found]
    assert names[:2] == ["errors 5%", "errors 50%"]


def test_users_who_cluster_make_everything_slower() -> None:
    one, three = _step(0.01), _step(0.01, replace(_TRAFFIC, spread=3))
    assert three.needed["error_rate"] > 2.5 * one.needed["error_rate"]
    assert _found(three, "errors 5%").requests > 1.5 * _found(one, "errors 5%").requests


def test_no_more_users_are_hurt_than_the_canary_has() -> None:
    assert _found(_step(0.01, replace(_TRAFFIC, users=300)), "errors 2%").hurt == 3


def test_only_the_first_step_waits_for_cold_caches() -> None:
    first, second = plan(_TRAFFIC, _DEFAULT, [Rung(0.05, 300), Rung(0.0501, 300)])
    assert _found(first, "p95 +60 ms").seconds == pytest.approx(_found(second, "p95 +60 ms").seconds + 20, rel=0.01)
    assert first.health > 20 > second.health


def test_latency_and_conversions_are_planned_only_where_they_are_known() -> None:
    step = _step(0.01, Traffic(1000))
    assert set(step.needed) == {"error_rate", "min_requests"}
    assert all(found.regression.startswith("errors") for found in step.found)
    assert step.users is None


def test_a_dry_run_finds_nothing_and_proves_nothing() -> None:
    step = _step(0.01, Traffic(1000), replace(_DEFAULT, error_rate=Rule(0.01, dry_run=True)))
    assert step.found == ()
    assert step.health == inf


def test_the_first_weight_is_the_least_that_proves_health_in_a_quarter_of_an_hour() -> None:
    assert first_weight(replace(_TRAFFIC, rate=10), _DEFAULT) == 0.05  # 437 / (10 * 900)
    assert first_weight(replace(_TRAFFIC, rate=1000), _DEFAULT) == 0.01
    assert first_weight(replace(_TRAFFIC, rate=0.5), _DEFAULT) is None


def _concerns(traffic: Traffic, rungs: Sequence[Rung] = _RUNGS, max_step: float = 7200) -> list[Concern]:
    return concerns(plan(traffic, _DEFAULT, rungs), first_weight(traffic, _DEFAULT), max_step)


def test_a_busy_route_with_many_users_has_nothing_to_fear() -> None:
    assert _concerns(replace(_TRAFFIC, goal_rate=None)) == []


@pytest.mark.parametrize(
    ("traffic", "rungs", "expected"),
    [
        (
            Traffic(10),
            [Rung(0.01, 300)],
            [
                ("long_step", (1,), "step 1: health takes 72.8 min to prove: longer than 30.0 min"),
                (
                    "first_weight",
                    (1,),
                    "5% is the first weight that proves health within 15.0 min; this plan begins with 1%",
                ),
            ],
        ),
        (
            Traffic(10),
            [Rung(0.05, 300)],
            [("hold", (1,), "step 1: health takes 14.6 min to prove, so the step lasts longer than its hold of 5.0 min")],
        ),
        (
            Traffic(0.5),
            [Rung(0.1, 300)],
            [
                ("max_step_duration", (1,), "step 1: health takes 2.4 h to prove, and max_step_duration ends it after 2.0 h"),
                ("too_little_traffic", (), "no weight up to 50% proves health within 15.0 min"),
            ],
        ),
        (Traffic(1000), [Rung(0.01, 3600)], [("long_step", (1,), "step 1: it is held for 60.0 min: longer than 30.0 min")]),
        (
            Traffic(1000, users=1500),
            [Rung(0.01, 300), Rung(0.05, 300)],
            [("few_users", (1,), "step 1: 15 canary users, fewer than 20: one of them can hide a fault, or look like one")],
        ),
        (
            Traffic(1000, goal_rate=50),
            [Rung(0.01, 300), Rung(0.05, 300), Rung(0.5, 300)],
            [("conversions", (1, 2), "steps 1, 2: -10% conversions cannot be found before the step ends")],
        ),
    ],
)
def test_what_is_wrong_with_a_plan(traffic: Traffic, rungs: list[Rung], expected: list[tuple[str, tuple[int, ...], str]]) -> None:
    assert [tuple(concern) for concern in _concerns(traffic, rungs)] == expected


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(1.4, "1 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h"), (172_800, "2.0 d"), (inf, "never")],
)
def test_times_as_people_say_them(seconds: float, said: str) -> None:
    assert spoken(seconds) == said
