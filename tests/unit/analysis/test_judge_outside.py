"""What others measure: which measurement counts, when it acts, and what silence means."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from judged_world import COLD, HEALTHY, NONE, STABLE, a_judge, of, run

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.sample import ArmTick, Measurement, Tick
from canaryproxy.analysis.settings import Bound, GoalRule, JudgeSettings, OutsideRule
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome, Verdict

#: A number of each variant, canary's at most 20 % over stable's; measured every 5 s, and each looks back over 5 s.
RULE = OutsideRule("cpu", increase=Bound(0.2, relative=True), failures=3, successes=2, window=5.0, max_age=20.0)


class Watched:
    """A judge in a rollout whose canary has users, and a clock of its own for what is measured."""

    def __init__(self, rule: OutsideRule = RULE, *, canary: ArmTick = NONE, settings: JudgeSettings = COLD) -> None:
        self.judge = a_judge(replace(settings, outside=(rule,), throughput=None))
        self.canary, self.at, self.weight, self.full = canary, 1000.0, 0.1, False
        self.verdict: Verdict

    def tick(self, *came: Measurement, seconds: float = 1.0) -> MetricVerdict:
        self.at += seconds
        tick = Tick(seconds, STABLE, self.canary, self.weight, outside=came)
        self.verdict = self.judge.judge(tick, full_weight=self.full)
        return of(self.verdict, "cpu")

    def measured(self, canary: float | None, stable: float | None = 1.0, age: float = 0.0, error: str = "") -> MetricVerdict:
        """Five seconds, and at their end what was true `age` seconds before."""
        self.tick(seconds=4.0)
        return self.tick(Measurement("cpu", self.at + 1 - age, age, stable, canary, error))


def counted(found: MetricVerdict) -> tuple[float, float]:
    """(beyond the limit in a row, good in this step)."""
    return found.evidence, found.promote_evidence


def test_exactly_so_many_in_a_row_act_and_a_good_one_begins_anew() -> None:
    world = Watched()
    found = [world.measured(value) for value in (1.3, 1.3, 1.1, 1.3, 1.3, 1.3, 1.3, 1.2)]
    assert [one.evidence for one in found] == [1, 2, 0, 1, 2, 3, 4, 0]
    assert [one.action for one in found] == [Action.CONTINUE] * 5 + [Action.PAUSE] * 2 + [Action.CONTINUE]
    assert found[5].sentence == "cpu: canary 1.3, stable 1, at most 1.2 allowed, 3 of 3 measurements in a row beyond the limit"
    assert found[6].sentence.endswith("allowed, 4 measurements in a row beyond the limit")
    assert (found[5].outcome, found[5].threshold) == (Outcome.FAIL, 3)
    assert found[5].numbers == {"stable": 1.0, "canary": 1.3, "age": 0.0, "in_a_row": 3, "good": 0, "error": ""}


@pytest.mark.parametrize("failures", [1, 2])
def test_one_means_the_first(failures: int) -> None:
    world = Watched(replace(RULE, failures=failures))
    found = [world.measured(2.0).action for _ in range(failures)]
    assert found == [Action.CONTINUE] * (failures - 1) + [Action.PAUSE]


def test_ticks_are_not_measurements_and_the_same_one_counts_once() -> None:
    world = Watched()
    first = Measurement("cpu", 1010.0, 0.0, 1.0, 9.0)
    world.tick(seconds=10.0)
    for _ in range(5):
        assert world.tick(first).evidence == 1
    assert world.tick(replace_at(first, 1009.0)).evidence == 1, "an older one that comes late is none either"
    assert world.tick(replace_at(first, 1010.5), replace_at(first, 1011.0)).evidence == 3, "two in one tick are two"


def test_a_clock_that_is_set_back_does_not_silence_it() -> None:
    world = Watched()
    assert world.measured(1.3).evidence == 1
    world.at -= 3600.0
    assert world.measured(1.3).evidence == 2


def replace_at(one: Measurement, at: float) -> Measurement:
    return one._replace(at=at)


def test_no_data_neither_counts_nor_begins_anew() -> None:
    world = Watched()
    assert counted(world.measured(1.3)) == (1, 0)
    missing = world.measured(None, None, error="no data: the query finds nothing")
    assert counted(missing) == (1, 0)
    assert missing.numbers["error"] == "no data: the query finds nothing"
    assert counted(world.measured(None, 1.0, error="canary: it hangs")) == (1, 0)
    assert counted(world.measured(1.3, None, error="stable: it hangs")) == (1, 0), "without stable nothing is compared"
    assert counted(world.measured(1.3)) == (2, 0)
    assert world.measured(1.3).action is Action.PAUSE


def test_what_was_not_new_enough_says_nothing() -> None:
    world = Watched()
    old = world.measured(9.0, age=21.0)
    assert (counted(old), old.outcome) == ((0, 0), Outcome.INCONCLUSIVE)
    assert old.sentence == "cpu: nothing measured yet: its newest sample is 21 s old, 20 s are allowed"
    world.tick(seconds=30.0)
    assert counted(world.measured(9.0, age=20.0)) == (1, 0)


@pytest.mark.parametrize("value", [1.0, 9.0])
def test_a_measurement_grows_old_and_then_nothing_follows_from_it(value: float) -> None:
    """Silence is neither health nor harm, whatever was said before it."""
    world = Watched()
    for _ in range(3):
        fresh = world.measured(value)
    assert fresh.outcome is (Outcome.PASS if value == 1.0 else Outcome.FAIL)
    held = world.tick(seconds=20.0)
    assert held.outcome is fresh.outcome
    silent = world.tick(seconds=1.0)
    assert (silent.outcome, silent.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
    assert "21 s ago, nothing fresh since" in silent.sentence
    again = world.measured(value)
    assert again.outcome is fresh.outcome, "it goes on where it was"
    assert counted(again) == (counted(fresh)[0] + (value > 1.2), counted(fresh)[1] + (value < 1.2))


def test_what_looks_back_before_the_canary_had_users_is_not_held_against_it() -> None:
    world = Watched(replace(RULE, window=12.0))
    found = [world.measured(9.0) for _ in range(4)]
    assert [one.evidence for one in found] == [0, 0, 1, 2], "after 5 and 10 s the 12 s before are not all its own"
    assert found[0].numbers["canary"] == 9.0, "it is shown nevertheless"
    world.weight = 0.0
    world.tick()
    world.weight = 0.1
    assert [world.measured(9.0).evidence for _ in range(3)] == [2, 2, 3], "after a time without users it begins again"


def test_good_measurements_are_those_of_this_step_but_harm_goes_on() -> None:
    world = Watched(replace(RULE, window=8.0))
    assert [counted(world.measured(1.0))[1] for _ in range(3)] == [0, 1, 2]
    assert counted(world.measured(1.3)) == (1, 0), "the last one is to be good as well"
    world.judge.begin_step()
    assert counted(world.measured(1.3)) == (2, 0), "it looks back into the step before: the canary is the same"
    assert world.measured(1.3).action is Action.PAUSE
    for _ in range(2):
        world.judge.begin_step()
        assert [counted(world.measured(1.0)) for _ in range(3)] == [(0, 0), (0, 1), (0, 2)]


def test_a_rollout_begins_with_nothing() -> None:
    world = Watched()
    for _ in range(3):
        world.measured(9.0)
    world.judge.begin_rollout()
    found = world.tick()
    assert (counted(found), found.sentence) == ((0, 0), "cpu: nothing measured yet")


@pytest.mark.parametrize(
    ("rule", "stable", "good", "bad"),
    [
        ({"increase": Bound(0.5)}, 2.0, 2.5, 2.51),
        ({"increase": Bound(0.5, relative=True)}, 2.0, 3.0, 3.01),
        ({"increase": Bound(0.5, relative=True)}, -2.0, -1.0, -0.99),
        ({"increase": Bound(0.5, relative=True)}, 0.0, 0.0, 0.01),
        ({"drop": Bound(0.5)}, 2.0, 1.5, 1.49),
        ({"drop": Bound(0.1, relative=True)}, 100.0, 90.0, 89.9),
        ({"drop": Bound(0.1, relative=True)}, -100.0, -110.0, -110.1),
        ({"most": 100.0}, None, 100.0, 100.1),
        ({"least": 0.9}, None, 0.9, 0.89),
        ({"increase": Bound(9.0), "most": 5.0}, 1.0, 5.0, 6.0),
        ({"increase": Bound(1.0), "drop": Bound(1.0)}, 1.0, 0.0, -0.1),
    ],
)
def test_limits(rule: dict[str, Any], stable: float | None, good: float, bad: float) -> None:
    limits = OutsideRule("cpu", window=5.0, **rule)
    assert counted(Watched(limits).measured(good, stable)) == (0, 1)
    assert counted(Watched(limits).measured(bad, stable)) == (1, 0)


def test_a_limit_that_is_passed_needs_no_other_one() -> None:
    """Without stable nobody knows whether it is good, but that it is over the maximum is known."""
    rule = replace(RULE, most=5.0)
    assert counted(Watched(rule).measured(6.0, None, error="stable: no data")) == (1, 0)
    assert counted(Watched(rule).measured(4.0, None, error="stable: no data")) == (0, 0)


def test_the_sentence_says_all_limits_and_a_number_of_everything_is_not_the_canarys() -> None:
    both = Watched(OutsideRule("cpu", increase=Bound(1.0), drop=Bound(0.5), least=0.1, most=1.8, window=5.0))
    assert both.measured(1.0).sentence == (
        "cpu: canary 1, stable 1, at least 0.5 allowed, at most 1.8 allowed, 1 of 3 good measurements in this step"
    )
    queue = Watched(OutsideRule("cpu", most=100.0, of_a_variant=False, window=5.0))
    assert queue.measured(1234567.0, None).sentence == (
        "cpu: 1.235e+06, at most 100 allowed, 1 of 3 measurements in a row beyond the limit"
    )


def test_at_full_weight_the_last_values_of_stable_stand_for_it() -> None:
    world = Watched()
    for stable in (1.0, 50.0, 2.0, 2.0, 2.0, 2.2):
        world.measured(2.0, stable)
    world.full, world.weight = True, 1.0
    good = world.measured(2.3, None)
    assert "stable 2 before 100 %" in good.sentence
    assert good.evidence == 0
    assert world.measured(2.5, 0.0).evidence == 1, "what stable says now is about no users"


def test_at_full_weight_from_the_start_nothing_is_compared() -> None:
    world = Watched()
    world.full, world.weight = True, 1.0
    for _ in range(4):
        found = world.measured(99.0, None)
    assert (found.outcome, counted(found)) == (Outcome.INCONCLUSIVE, (0, 0))
    assert "stable has no users to compare with" in found.sentence


@pytest.mark.parametrize("action", [Action.ROLLBACK, Action.PAUSE, Action.WARN])
def test_what_follows_is_what_was_asked_for(action: Action) -> None:
    world = Watched(replace(RULE, action=action))
    for _ in range(3):
        world.measured(9.0)
    assert world.verdict.action is action
    found = of(world.verdict, "cpu")
    assert "3 of 3 measurements in a row" in found.sentence
    assert world.verdict.sentence == found.sentence or action is Action.WARN


def test_a_dry_run_only_says_it() -> None:
    world = Watched(replace(RULE, action=Action.ROLLBACK, dry_run=True))
    for _ in range(3):
        found = world.measured(9.0)
    assert (found.action, world.verdict.action) == (Action.WARN, Action.WARN)
    assert found.sentence.startswith("dry run: cpu: canary 9")


def healthy(rule: OutsideRule) -> Watched:
    """A world whose canary is proven healthy, but for what the rule says."""
    world = Watched(rule, canary=HEALTHY)
    for _ in range(200):
        run(world.judge, HEALTHY)
    return world


def test_no_step_without_fresh_good_measurements() -> None:
    world = healthy(RULE)
    assert run(world.judge, HEALTHY).action is Action.CONTINUE
    assert run(world.judge, HEALTHY).sentence == "cpu: nothing measured yet"
    for _ in range(2):
        world.measured(1.0)
    assert run(world.judge, HEALTHY).action is Action.PROMOTE
    world.tick(seconds=21.0)
    assert world.verdict.action is Action.CONTINUE
    assert "nothing fresh since" in world.verdict.sentence


@pytest.mark.parametrize("rule", [replace(RULE, required=False), replace(RULE, dry_run=True)])
def test_a_step_does_not_wait_for_what_is_not_required(rule: OutsideRule) -> None:
    assert run(healthy(rule).judge, HEALTHY).action is Action.PROMOTE


def test_it_spends_nothing_of_alpha() -> None:
    world = Watched(replace(RULE, action=Action.ROLLBACK))
    for _ in range(3):
        world.measured(9.0)
    metric = next(one for one in world.judge._metrics if one.name == "cpu")
    assert list(metric.stakes()) == []


def test_a_judge_that_was_killed_goes_on_and_one_with_another_rule_begins_anew() -> None:
    world = Watched()
    world.measured(1.0)
    world.measured(1.3)
    world.measured(1.3)
    known = json.loads(json.dumps(world.judge.state()))
    settings = replace(COLD, outside=(RULE,), throughput=None)
    again = Judge(settings, known)
    assert again.state() == world.judge.state()
    world.judge = again
    assert world.measured(1.3).action is Action.PAUSE
    world.judge = Judge(replace(settings, outside=(replace(RULE, failures=4),)), known)
    assert world.measured(1.3).evidence == 1


def test_a_name_may_become_another_kind_of_metric_across_a_restart() -> None:
    goal, outside = replace(COLD, goals=(GoalRule("cpu"),)), replace(COLD, outside=(RULE,))
    for before, after in ((goal, outside), (outside, goal)):
        judge = a_judge(before)
        run(judge, HEALTHY, 5)
        again = Judge(after, json.loads(json.dumps(judge.state())))
        assert of(run(again, HEALTHY), "cpu").evidence == pytest.approx(0.0, abs=1.0)
