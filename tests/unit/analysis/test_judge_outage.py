"""Both sides bad: freeze, and step back where the canary may have caused it; harm outranks both."""

from __future__ import annotations

from dataclasses import replace

from judged_world import COLD, HEALTHY, NONE, STABLE, a_judge, a_tick, actions, arm, run, until

from canaryproxy.analysis.settings import LatencyRule
from canaryproxy.analysis.verdict import Action, Outcome

_BAD_STABLE, _BAD_CANARY = arm(1000, 100), arm(100, 10)


def test_a_shared_outage_freezes_and_its_end_resumes() -> None:
    judge = a_judge()
    run(judge, HEALTHY, ticks=130)
    verdict = until(judge, _BAD_CANARY, Action.FREEZE, stable=_BAD_STABLE, ticks=5)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (
        verdict.sentence == "frozen: stable itself fails (just now 10 % of its requests failed, 0.10 % before; 3.0 % were slow)"
    )
    assert actions(judge, _BAD_CANARY, 60, stable=_BAD_STABLE) == {Action.FREEZE}
    assert actions(judge, HEALTHY, 59) == {Action.FREEZE}
    assert run(judge, HEALTHY, 2).action is not Action.FREEZE
    assert Action.FREEZE not in actions(judge, HEALTHY, 60)


def test_an_outage_of_quiet_stable_ends_once() -> None:
    """10 requests a second undo the evidence of a long outage more slowly than it ends."""
    quiet, bad = arm(10), arm(10, 8)
    judge = a_judge(seen=200, stable=quiet)
    run(judge, arm(5), ticks=130, stable=quiet)
    until(judge, arm(5, 4), Action.FREEZE, stable=bad, ticks=10)
    run(judge, arm(5, 4), ticks=60, stable=bad)
    assert run(judge, arm(5), ticks=61, stable=quiet).action is not Action.FREEZE
    assert actions(judge, arm(5), 30, stable=quiet).isdisjoint({Action.FREEZE, Action.STEP_BACK})


def test_both_must_be_well_again() -> None:
    judge = a_judge()
    run(judge, HEALTHY, ticks=130)
    until(judge, _BAD_CANARY, Action.FREEZE, stable=_BAD_STABLE, ticks=5)
    run(judge, HEALTHY, ticks=40)
    run(judge, arm(100, 8), ticks=1, stable=arm(1000, 80))
    assert actions(judge, HEALTHY, 59) == {Action.FREEZE}


def test_what_begins_within_two_minutes_of_a_step_is_stepped_back_from_once() -> None:
    judge = a_judge()
    run(judge, HEALTHY, ticks=115)
    verdict = until(judge, _BAD_CANARY, Action.STEP_BACK, stable=_BAD_STABLE, ticks=3)
    assert verdict.sentence.startswith("frozen: stable itself fails")
    judge.begin_step()
    assert actions(judge, _BAD_CANARY, 30, stable=_BAD_STABLE) == {Action.FREEZE}


def test_later_the_step_is_not_to_blame() -> None:
    judge = a_judge()
    run(judge, HEALTHY, ticks=125)
    assert actions(judge, _BAD_CANARY, 10, stable=_BAD_STABLE) <= {Action.PROMOTE, Action.CONTINUE, Action.FREEZE}


def test_an_outage_from_before_the_rollout_freezes_but_blames_nobody() -> None:
    judge = a_judge()
    for _ in range(20):
        judge.observe(a_tick(_BAD_STABLE, NONE))
    judge.begin_rollout()
    judge.begin_step()
    assert actions(judge, _BAD_CANARY, 20, stable=_BAD_STABLE) == {Action.FREEZE}


def test_an_older_rollout_s_blame_is_not_the_next_one_s() -> None:
    judge = a_judge()
    for _ in range(20):
        verdict = run(judge, arm(100, 90), stable=_BAD_STABLE)  # it rolls back, so nobody asks whether to step back
        if verdict.action is Action.ROLLBACK and judge.state()["outage"]["may_be_canary"]:
            break
    assert judge.state()["outage"]["may_be_canary"] is True
    judge.begin_rollout()
    judge.begin_step()
    assert actions(judge, _BAD_CANARY, 5, stable=_BAD_STABLE) == {Action.FREEZE}


def test_harm_outranks_it() -> None:
    judge = a_judge()
    run(judge, HEALTHY, ticks=130)
    until(judge, _BAD_CANARY, Action.FREEZE, stable=_BAD_STABLE, ticks=5)
    verdict = until(judge, arm(100, 60), Action.ROLLBACK, stable=_BAD_STABLE, ticks=5)
    assert "failed" in verdict.sentence


def test_slow_stable_is_an_outage_too() -> None:
    judge = a_judge()
    run(judge, HEALTHY, ticks=130)
    slow = (0.5, 0.5, 0.5, 0.5)
    verdict = until(judge, arm(100, 0, slow), Action.FREEZE, stable=arm(1000, 1, slow), ticks=5)
    assert "stable itself is slow" in verdict.sentence


def test_half_over_the_median_is_no_outage() -> None:
    only = replace(COLD, latency=(LatencyRule("latency_p50", 0.5),))
    half = {"latency_p50": (0.5, 0.4, 0.3, 0.2)}
    judge = a_judge(only)
    for _ in range(60):
        verdict = run(judge, arm(100, quantiles=half), stable=arm(1000, 1, quantiles=half))
        assert verdict.action is not Action.FREEZE, verdict.sentence


def test_a_bake_is_not_frozen_by_a_stable_that_has_no_traffic() -> None:
    judge = a_judge()
    run(judge, HEALTHY, ticks=130)
    until(judge, _BAD_CANARY, Action.FREEZE, stable=_BAD_STABLE, ticks=5)
    judge.begin_step()
    assert run(judge, HEALTHY, stable=NONE, full_weight=True).action is not Action.FREEZE


def test_without_500_requests_of_the_past_nothing_is_an_outage() -> None:
    judge = a_judge(seen=0)
    verdict = run(judge, arm(10, 3), stable=arm(100, 30), ticks=4)
    assert verdict.action is not Action.FREEZE
    assert until(judge, arm(10, 0), Action.FREEZE, stable=arm(100, 90), ticks=10)


def test_a_normal_day_is_never_one() -> None:
    judge = a_judge(replace(COLD, min_requests=10**9))
    for number in range(900):
        verdict = run(judge, HEALTHY, stable=arm(1000, (0, 3, 1, 7, 0, 2)[number % 6]))
        assert verdict.action is Action.CONTINUE, verdict.sentence
    assert STABLE.failed == 1
