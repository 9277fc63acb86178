"""What rests on one user never rolls back, and hides no real fault for long."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp

import pytest
from judged_world import COLD, HEALTHY, NONE, STABLE, a_judge, a_tick, actions, arm, groups, of, run, until, with_bot

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.sample import ArmTick, Group
from canaryproxy.analysis.settings import FloorRule, LatencyRule, Rule
from canaryproxy.analysis.verdict import Action, Outcome

_BOT = 200
_BAD = {Action.ROLLBACK, Action.PAUSE}


@pytest.mark.parametrize("settings", [COLD, replace(COLD, strict_margin=True), replace(COLD, success_floor=FloorRule())])
def test_a_bot_that_always_fails_is_put_in_quarantine_and_never_rolls_back(settings: object) -> None:
    judge = a_judge(settings)  # type: ignore[arg-type]
    verdict = run(judge, with_bot(arm(10), _BOT, failed=1))
    for _ in range(60):
        assert verdict.action not in _BAD, verdict.sentence
        if verdict.quarantine:
            break
        verdict = run(judge, with_bot(arm(10), _BOT, failed=1))
    assert verdict.quarantine == (_BOT,)
    assert "but one group of users dominates: nothing follows from it" in of(verdict, "error_rate").sentence
    # The data plane leaves it out from now on: no step for a minute, a real fault is found at once.
    assert actions(judge, HEALTHY, 59) == {Action.CONTINUE}
    assert run(judge, HEALTHY, 3).action is Action.PROMOTE
    verdict = until(judge, arm(10, 5), Action.ROLLBACK, ticks=3)
    assert verdict.quarantine == (_BOT,)


def test_a_bot_whose_counts_go_on_rolls_back_nothing() -> None:
    """The data plane may be late, or the bot have more groups than one."""
    judge = a_judge()
    for _ in range(400):
        verdict = run(judge, with_bot(arm(10), _BOT, failed=1))
        assert verdict.action not in _BAD, verdict.sentence
        assert verdict.quarantine in ((), (_BOT,))


def test_two_bots_roll_back_nothing() -> None:
    judge = a_judge()
    for _ in range(300):
        verdict = run(judge, with_bot(with_bot(arm(10), _BOT, failed=1), _BOT + 1, failed=1))
        assert verdict.action not in _BAD, verdict.sentence


def test_a_bot_that_hangs_rolls_back_nothing() -> None:
    """Of the others as many requests are slow as of stable's: 2 to 4 % over the p95 and half the margin."""
    reported = replace(STABLE, groups=groups(1000, 1, 40))
    judge = a_judge(stable=reported)
    for _ in range(300):
        verdict = run(judge, with_bot(arm(100), _BOT, failed=0, slow=5), stable=reported)
        assert verdict.action not in _BAD, verdict.sentence
    assert verdict.quarantine == (_BOT,)


def test_a_bot_after_an_outage_that_both_had_rolls_back_nothing() -> None:
    """The outage is in the step's counts of both; what is usual now is not what was usual then."""
    judge = a_judge()
    run(judge, arm(100), ticks=20)
    run(judge, arm(100, 30), stable=arm(1000, 300), ticks=5)
    run(judge, arm(100), ticks=20)
    for _ in range(120):
        verdict = run(judge, with_bot(arm(100), _BOT, failed=5))
        assert verdict.action not in _BAD, verdict.sentence
    assert verdict.quarantine == (_BOT,)


def test_a_bot_in_stable_makes_nobody_blind() -> None:
    stable = with_bot(arm(1000, 1), _BOT, failed=30)
    judge = a_judge(stable=stable)
    verdict = until(judge, arm(100, 10), Action.ROLLBACK, stable=stable, ticks=30)
    assert of(verdict, "error_rate").threshold < 1.2 * COLD.harm_threshold(0.35)


def test_clustered_users_raise_what_is_asked_for() -> None:
    unlike = {group: Group(20, 20, 10 if group < 8 else 0, 0) for group in range(50)}
    stable = replace(arm(1000, 80), groups=unlike)
    judge = a_judge(stable=stable)
    run(judge, arm(100, 8), ticks=10, stable=stable)
    early = of(run(judge, arm(100, 8), stable=stable), "error_rate").threshold
    late = of(run(judge, arm(100, 8), ticks=290, stable=stable), "error_rate").threshold
    assert early < late
    assert 2 * COLD.harm_threshold(0.35) < late <= 20 * COLD.harm_threshold(0.35)
    until(judge, arm(100, 60), Action.ROLLBACK, stable=stable, ticks=30)


def test_the_first_to_come_may_be_a_bot() -> None:
    judge = a_judge()
    bot = ArmTick(1, 1, began=1, groups={_BOT: Group(1, 1, 1, 0)}, users=1)
    for _ in range(10):
        verdict = run(judge, bot)
        assert verdict.action not in _BAD, verdict.sentence
    others = with_bot(arm(10), _BOT, failed=1)
    for _ in range(100):
        verdict = run(judge, others)
        assert verdict.action not in _BAD, verdict.sentence


def test_where_there_are_only_few_users_the_margin_alone_rolls_back() -> None:
    two = ArmTick(4, 4, began=4, groups={1: Group(2, 2, 2, 0), 2: Group(2, 2, 2, 0)}, users=2)
    verdict = until(a_judge(), two, Action.ROLLBACK, ticks=5)
    assert "more than 1 pp of harm" in verdict.sentence
    only = ArmTick(1, 1, began=1, groups={_BOT: Group(1, 1, 1, 0)}, users=1)
    judge = a_judge()
    for number in range(1, 70):  # noqa: B007
        verdict = run(judge, only)
        if verdict.action is Action.ROLLBACK:
            break
    assert number == 60
    assert verdict.quarantine == (), "who is the only user is not left out"


def test_a_fault_of_many_users_beside_a_bot_is_found() -> None:
    judge = a_judge()
    run(judge, with_bot(arm(10), _BOT, failed=1), ticks=3)
    verdict = until(judge, with_bot(arm(10, 5), _BOT, failed=1), Action.ROLLBACK, ticks=5)
    assert verdict.quarantine == ()


def test_no_more_than_eight_are_put_in_quarantine_and_then_it_waits() -> None:
    judge = a_judge()
    for number in range(700):
        verdict = run(judge, with_bot(arm(10), 200 + min(number // 60, 8), failed=2))
        assert verdict.action not in _BAD, verdict.sentence
    assert verdict.quarantine == tuple(range(200, 208))


def test_groups_in_quarantine_are_ascending_as_the_board_gives_them() -> None:
    judge = a_judge()
    for number in range(200):
        verdict = run(judge, with_bot(arm(10), 200 if number < 60 else 100, failed=2))
    assert verdict.quarantine == (100, 200)


def test_after_a_rollout_users_have_other_groups() -> None:
    judge = a_judge()
    reported = [
        replace(STABLE, groups={group: Group(1 + 9 * (group % 2 == odd), 1, 0, 0) for group in range(200)}) for odd in (0, 1)
    ]
    for number in range(900):
        tick = a_tick(replace(reported[0], groups=reported[0].groups if number % 10 == 0 else {}), HEALTHY)
        judge.judge(tick, full_weight=False)
    for number in range(500):
        judge.observe(a_tick(replace(reported[1], groups=reported[1].groups if number % 10 == 0 else {}), NONE))
    judge.begin_rollout()
    assert of(run(judge, HEALTHY), "throughput").threshold == pytest.approx(COLD.harm_threshold(0.07))


def test_a_new_version_in_the_middle_has_other_groups_too() -> None:
    judge = a_judge()
    for odd, ticks in ((0, 900), (1, 500)):
        judge.begin_rollout()
        shares = {group: Group(1 + 9 * (group % 2 == odd), 1, 0, 0) for group in range(200)}
        for number in range(ticks):
            judge.judge(a_tick(replace(STABLE, groups=shares if number % 10 == 0 else {}), HEALTHY), full_weight=False)
    assert of(run(judge, HEALTHY), "throughput").threshold == pytest.approx(COLD.harm_threshold(0.07))


def test_quarantine_ends_with_the_rollout() -> None:
    judge = a_judge()
    for _ in range(60):
        verdict = run(judge, with_bot(arm(10), _BOT, failed=1))
    assert verdict.quarantine == (_BOT,)
    judge.begin_step()
    assert run(judge, HEALTHY).quarantine == (_BOT,)
    assert run(Judge(COLD, json.loads(json.dumps(judge.state()))), HEALTHY).quarantine == (_BOT,)
    judge.begin_rollout()
    assert run(judge, HEALTHY).quarantine == ()


def test_a_dry_run_puts_nobody_in_quarantine() -> None:
    judge = a_judge(replace(COLD, error_rate=Rule(0.01, dry_run=True)))
    for _ in range(60):
        verdict = run(judge, with_bot(arm(20), _BOT, failed=1))
        assert verdict.quarantine == ()
    assert verdict.action is Action.PROMOTE


def test_forgetting_costs_no_more_than_what_was_given_out() -> None:
    """After a quarantine, no evidence is left but the mass that was not given out yet: less than 1."""
    judge = a_judge()
    before = 0.0
    for _ in range(60):
        verdict = run(judge, with_bot(arm(10), _BOT, failed=1))
        if verdict.quarantine:
            break
        before = of(verdict, "error_rate").evidence
    assert exp(before) > 1
    verdict = run(judge, NONE)
    assert 0.5 < exp(of(verdict, "error_rate").evidence) <= 1


def test_hung_requests_of_many_users_pass_the_gate() -> None:
    """Nothing ends, so groups say nothing but that they wait."""
    judge = a_judge(replace(COLD, latency=(LatencyRule(),)))
    hung = replace(
        arm(10, 0, (1.0, 1.0, 1.0, 1.0), stalled=10),
        resolved=0,
        latency={},
        groups={group: Group(1, 0, 0, 0) for group in range(10)},
    )
    verdict = until(judge, hung, Action.ROLLBACK, ticks=8)
    assert verdict.sentence.endswith("users") or "users" in verdict.sentence
    assert verdict.outcome is Outcome.FAIL


def test_what_stable_does_in_this_tick_does_not_move_the_bar_of_this_tick() -> None:
    judge = a_judge()
    state = judge.state()
    unlike = {group: Group(20, 20, 20 if group < 8 else 0, 0) for group in range(50)}
    one = Judge(COLD, state).judge(a_tick(STABLE, HEALTHY), full_weight=False)
    other = Judge(COLD, state).judge(a_tick(replace(STABLE, groups=unlike), HEALTHY), full_weight=False)
    assert [metric.threshold for metric in one.metrics] == [metric.threshold for metric in other.metrics]
