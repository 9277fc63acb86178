"""Rollouts as scripts: steps, harm, doubt, freezes, hands. Gates, pauses and limits are in `test_story_gates`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rollout_script import ANOTHER_SALT, OUTCOMES, PLAN, Story, at

from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.model import (
    Pause,
    Phase,
    Plan,
    PlanStep,
    Promote,
    Resume,
    Retry,
    Rollback,
    SetWeight,
    Split,
    Start,
    Tick,
)

# --- The good day ---


def test_a_healthy_version_climbs_the_steps_bakes_and_is_promoted() -> None:
    story = Story().start()
    assert story.where == ("progressing", 0, 100)
    assert story.did == ["forget rollout", "save", "split 100"]
    assert story.said == "started: step 1 of 3: 1% of users to v2"
    assert story.pass_time(299, Action.PROMOTE).where == ("progressing", 0, 100)
    assert story.tick(Action.PROMOTE, "errors no worse").where == ("progressing", 1, 500)
    assert story.did == ["forget step", "save", "split 500"]
    assert story.said == "step 2 of 3: 5% of users to v2 (errors no worse)"
    assert story.pass_time(600, Action.PROMOTE).where == ("progressing", 2, 2500)
    assert story.pass_time(600, Action.PROMOTE).where == ("baking", 2, 10_000)
    assert story.pass_time(1799).where == ("baking", 2, 10_000)
    assert story.tick(Action.PROMOTE).where == ("promoted", 2, 0)
    assert story.board == Split("v2", "v1", 0, 7), "everybody stays on v2, which is stable now"
    assert story.did == ["save", "split 0"]
    assert story.said.startswith("promoted: v2 is stable now, v1 stands by")
    assert [record.kind for record in story.log] == ["start", "step", "step", "bake", "promoted"]
    assert story.rollout.revision == 5


def test_the_next_version_starts_from_promoted_with_the_roles_swapped() -> None:
    story = at(Phase.PROMOTED).do(Start(PLAN, ANOTHER_SALT))
    assert story.board == Split("v2", "v1", 100, ANOTHER_SALT, True)
    assert story.do(Rollback()).board == Split("v2", "v1", 0, ANOTHER_SALT), "back to v2, which was promoted before"


# --- Harm ---


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.BAKING])
def test_harm_rolls_back_at_once_wherever_users_are_on_the_canary(phase: Phase) -> None:
    story = at(phase).tick(Action.ROLLBACK, "canary 8/402 failed (2.0%)")
    assert story.where == ("rolled_back", story.rollout.step, 0)
    assert story.did == ["split 0", "save"], "down first, then write"
    assert story.said == "rolled back: all users to v1 (canary 8/402 failed (2.0%))"
    assert story.rollout.reason == "canary 8/402 failed (2.0%)"
    assert story.log[-1].data["by"] == "analysis"
    assert story.log[-1].data["verdict"]["outcome"] == "fail"


@pytest.mark.parametrize("phase", list(Phase))
def test_an_operators_rollback_works_in_every_phase_and_twice(phase: Phase) -> None:
    story = at(phase).do(Rollback("bad feeling", by="anna"))
    assert story.board.weight_bp == 0
    assert (story.board.stable, story.board.canary) == ("v1", "v2")
    assert story.rollout.phase is (Phase.IDLE if phase is Phase.IDLE else Phase.ROLLED_BACK)
    assert story.did == ["split 0", "save"]
    assert story.log[-1].data["by"] == "anna"
    before = story.rollout
    story.do(Rollback("again"))
    assert story.rollout == before
    assert story.did == ["split 0", "save"], "the data plane and the disk are told again"


def test_a_hand_set_weight_never_disarms_the_rollback() -> None:
    story = at(Phase.PROGRESSING).do(SetWeight(3000))
    assert story.where == ("paused", 2, 3000)
    assert story.tick(Action.ROLLBACK).where == ("rolled_back", 2, 0)


def test_a_resume_over_the_judges_pause_never_disarms_the_rollback() -> None:
    story = at(Phase.PROGRESSING).tick(Action.PAUSE).do(Resume()).pass_time(5, Action.PAUSE)
    assert story.where == ("progressing", 1, 500)
    assert story.tick(Action.ROLLBACK).where == ("rolled_back", 1, 0)


def test_harm_beats_a_step_that_is_inconclusive_in_the_same_moment() -> None:
    story = Story(replace(PLAN, on_inconclusive=OnInconclusive.EXTEND)).start().pass_time(1200)
    assert story.tick(Action.ROLLBACK).where == ("rolled_back", 0, 0)
    story = Story().start().pass_time(1200)
    assert story.tick(Action.ROLLBACK).where == ("rolled_back", 0, 0)


def test_harm_beats_the_end_of_the_bake() -> None:
    story = at(Phase.BAKING).pass_time(1799)
    assert story.tick(Action.ROLLBACK).where == ("rolled_back", 2, 0)


def test_rolled_back_once_means_rolled_back() -> None:
    story = at(Phase.PROGRESSING).tick(Action.ROLLBACK)
    for action in Action:
        assert story.pass_time(3, action).where == ("rolled_back", 1, 0)
        assert story.did == []
    story.do(Retry(PLAN, ANOTHER_SALT))
    assert story.where == ("progressing", 0, 100)
    assert story.board.salt == ANOTHER_SALT
    assert story.said == "tried again: step 1 of 3: 1% of users to v2"
    assert story.rollout.settled == ("v2",), "yet it never starts by itself again"


def test_a_rollback_before_the_start_keeps_the_canary_from_starting_by_itself() -> None:
    story = Story().do(Rollback("not this one", by="anna"))
    assert (story.where, story.rollout.settled, story.rollout.revision) == (("idle", 0, 0), ("v2",), 1)
    assert story.rollout.reason == "not this one"
    assert story.said == "rolled back: v2 does not start by itself, all users are on v1 already (not this one)"
    assert story.start().where == ("progressing", 0, 100), "whoever starts it starts it"


# --- Doubt ---


def test_no_measurement_is_never_success() -> None:
    story = Story().start().pass_time(1200)
    assert story.where == ("progressing", 0, 100), "four times the dwell, no evidence, no step"
    assert story.pass_time(1).where == ("paused", 0, 100)
    assert story.rollout.reason == "no evidence either way within 20m: few requests yet"
    assert story.pass_time(50, Action.PROMOTE).where == ("paused", 0, 100), "what was paused goes on only by hand"


@pytest.mark.parametrize("action", [Action.CONTINUE, Action.WARN])
def test_a_bake_without_evidence_of_health_does_not_promote(action: Action) -> None:
    story = at(Phase.BAKING).pass_time(1800 + 1199, action)
    assert story.where == ("baking", 2, 10_000), "time alone promotes nothing"
    assert story.pass_time(2, action).where == ("paused", 2, 10_000)
    assert story.rollout.reason == "no evidence either way within 20m beyond the bake: few requests yet"
    assert story.do(Resume()).tick(Action.PROMOTE).where == ("promoted", 2, 0), "the time was over long ago"


def test_a_bake_that_is_inconclusive_is_extended_or_rolled_back_where_the_plan_says_so() -> None:
    story = Story(replace(PLAN, on_inconclusive=OnInconclusive.EXTEND)).start().do(Promote(full=True)).pass_time(3001)
    assert story.said.startswith("extended by 20m at bake: 100% of users to v2")
    assert story.tick(Action.PROMOTE).where == ("promoted", 2, 0)
    story = Story(replace(PLAN, on_inconclusive=OnInconclusive.ROLLBACK)).start().do(Promote(full=True)).pass_time(3001)
    assert story.where == ("rolled_back", 2, 0)


def test_an_inconclusive_step_is_extended_where_the_plan_says_so() -> None:
    story = Story(replace(PLAN, on_inconclusive=OnInconclusive.EXTEND)).start().pass_time(1201)
    assert story.where == ("progressing", 0, 100)
    assert story.did == ["save"]
    assert story.said.startswith("extended by 20m at step 1 of 3: 1% of users to v2 (no evidence either way")
    assert len(story.pass_time(1200).log) == 2, "said once"
    assert story.tick(Action.PROMOTE).where == ("progressing", 1, 500), "the dwell was over long ago; evidence came at last"


def test_an_inconclusive_step_is_rolled_back_where_the_plan_says_so() -> None:
    story = Story(replace(PLAN, on_inconclusive=OnInconclusive.ROLLBACK)).start().pass_time(1201)
    assert story.where == ("rolled_back", 0, 0)
    assert story.did == ["split 0", "save"]


def test_evidence_before_the_dwell_waits_for_it_however_long_that_is() -> None:
    patient = Plan((PlanStep(100, 100),), bake=0, max_step_duration=10)
    story = Story(patient).start().pass_time(99, Action.PROMOTE)
    assert story.where == ("progressing", 0, 100)
    assert story.tick(Action.PROMOTE).where == ("baking", 0, 10_000)


def test_a_resume_after_an_inconclusive_pause_gives_the_step_its_time_again() -> None:
    story = Story().start().pass_time(1201).do(Resume()).pass_time(1200)
    assert story.where == ("progressing", 0, 100)
    assert story.tick(Action.CONTINUE).where == ("paused", 0, 100)


def test_a_warning_is_recorded_once_for_each_step() -> None:
    story = Story().start().pass_time(20, Action.WARN, "p95 is 40 ms above stable")
    assert [record.kind for record in story.log] == ["start", "warning"]
    assert story.said == "warning at step 1 of 3: 1% of users to v2: p95 is 40 ms above stable"
    assert story.do(Promote()).tick(Action.WARN, "again").said == "warning at step 2 of 3: 5% of users to v2: again"


# --- Stable itself is bad ---


def test_a_freeze_stands_still_is_said_once_and_ends_by_itself() -> None:
    story = at(Phase.PROGRESSING).pass_time(100).pass_time(50, Action.FREEZE, "stable fails too: 30 %")
    assert story.where == ("progressing", 1, 500)
    assert (story.rollout.frozen, story.rollout.held, story.rollout.waited) == (True, 100, 100)
    assert [record.kind for record in story.log] == ["start", "step", "freeze"]
    assert story.said == "frozen at step 2 of 3: 5% of users to v2 (stable fails too: 30 %)"
    assert story.rollout.reason == "stable fails too: 30 %"
    story.tick(Action.PROMOTE)
    assert (story.rollout.frozen, story.rollout.held, story.did) == (False, 100, ["forget step", "save"])
    assert story.said == "no longer frozen at step 2 of 3: 5% of users to v2: stable is well again"
    assert story.pass_time(499, Action.PROMOTE).where == ("progressing", 1, 500), "the frozen time is no dwell"
    assert story.tick(Action.PROMOTE).where == ("progressing", 2, 2500)


def test_an_outage_is_no_inconclusive_step() -> None:
    story = Story().start().pass_time(1200).pass_time(5000, Action.FREEZE)
    assert story.where == ("progressing", 0, 100)
    assert story.pass_time(2).where == ("paused", 0, 100), "the second after the thaw counts again"


def test_an_outage_right_after_a_step_up_takes_it_back_once() -> None:
    story = at(Phase.PROGRESSING).tick(Action.STEP_BACK, "both fail since the step up")
    assert (story.where, story.rollout.frozen) == (("progressing", 0, 100), True)
    assert story.did == ["split 100", "forget step", "save"], "lowered: down first, then write"
    assert story.said == "stepped back and frozen at step 1 of 3: 1% of users to v2 (both fail since the step up)"
    assert story.log[-1].kind == "step_back"
    assert story.pass_time(10, Action.STEP_BACK).where == ("progressing", 0, 100)
    assert story.log[-1].kind == "step_back", "said once"
    assert (story.tick(Action.CONTINUE).rollout.frozen, story.rollout.held) == (False, 0)
    assert story.pass_time(300, Action.PROMOTE).where == ("progressing", 1, 500), "the whole step again"


def test_a_step_back_from_the_bake_is_to_the_last_step_that_is_lower() -> None:
    story = at(Phase.BAKING).pass_time(1000).tick(Action.STEP_BACK)
    assert (story.where, story.rollout.held) == (("progressing", 2, 2500), 0)
    all_of_them = Plan((PlanStep(500, 60), PlanStep(10_000, 60)), bake=60, max_step_duration=600)
    story = Story(all_of_them).start().do(Promote(full=True)).tick(Action.STEP_BACK)
    assert story.where == ("progressing", 0, 500)


def test_before_the_first_step_there_is_nothing_to_step_back_to() -> None:
    story = Story().start().tick(Action.STEP_BACK)
    assert (story.where, story.rollout.frozen, story.log[-1].kind) == (("progressing", 0, 100), True, "freeze")


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.BAKING])
@pytest.mark.parametrize("action", [Action.FREEZE, Action.STEP_BACK])
def test_a_freeze_never_disarms_the_rollback(phase: Phase, action: Action) -> None:
    story = at(phase).tick(action)
    assert story.log[-1].kind in ("freeze", "step_back")
    assert story.tick(Action.ROLLBACK, "the canary is worse still").where[::2] == ("rolled_back", 0)
    assert story.rollout.frozen is False
    assert at(phase).tick(action).do(Rollback()).where[::2] == ("rolled_back", 0)


@pytest.mark.parametrize("action", [Action.FREEZE, Action.STEP_BACK])
def test_a_pause_by_hand_stays_through_a_freeze(action: Action) -> None:
    story = at(Phase.PAUSED).pass_time(5, action, "stable fails too")
    assert (story.where, story.rollout.frozen, story.rollout.reason) == (("paused", 1, 500), True, "lunch")
    assert story.said == "frozen at step 2 of 3: 5% of users to v2 (stable fails too)"
    story.tick(Action.PROMOTE)
    assert (story.where, story.rollout.frozen, story.rollout.reason) == (("paused", 1, 500), False, "lunch")
    assert story.did == ["forget step", "save"]


def test_a_pause_and_a_resume_keep_a_freeze_and_a_promotion_by_hand_is_a_new_beginning() -> None:
    story = at(Phase.PROGRESSING).tick(Action.FREEZE).do(Pause("look")).do(Resume())
    assert (story.where, story.rollout.frozen) == (("progressing", 1, 500), True)
    story.do(Promote())
    assert (story.where, story.rollout.frozen) == (("progressing", 2, 2500), False)
    assert story.tick(Action.FREEZE).log[-1].kind == "freeze"


def test_a_finding_that_asks_for_a_pause_ends_the_freeze_first() -> None:
    story = at(Phase.PROGRESSING).tick(Action.FREEZE).tick(Action.PAUSE)
    assert (story.where, story.log[-1].kind) == (("progressing", 1, 500), "thaw")
    assert story.tick(Action.PAUSE).where == ("paused", 1, 500)


# --- More than proven ---

SKIPPING = Plan(
    (PlanStep(100, 60), PlanStep(500, 60), PlanStep(2500, 300), PlanStep(5000, 300)), 1800, 1200, skip_when_certain=True
)


def certain(story: Story, seconds: int, action: Action = Action.PROMOTE) -> Story:
    for _ in range(seconds):
        story.clock.advance(1)
        story.do(Tick(Verdict(OUTCOMES.get(action, Outcome.FAIL), action, "no worse", certain=True), 1.0))
    return story


def test_a_step_is_skipped_where_health_is_more_than_proven_and_four_minutes_are_over() -> None:
    story = certain(Story(SKIPPING).start().pass_time(239), 1)
    assert story.where == ("progressing", 2, 2500)
    assert story.said == "step 3 of 4: 25% of users to v2, step 2 skipped (no worse)"
    assert story.did == ["forget step", "save", "split 2500"]
    assert certain(story, 300).where == ("progressing", 3, 5000), "never the way to 100 %"
    assert certain(story, 300).where == ("baking", 3, 10_000)


def test_a_skip_is_never_waited_for_nor_taken_unasked() -> None:
    assert certain(Story(SKIPPING).start(), 60).where == ("progressing", 1, 500), "a step that is over is over"
    assert certain(Story(replace(SKIPPING, skip_when_certain=False)).start().pass_time(300), 1).where == ("progressing", 1, 500)
    assert Story(SKIPPING).start().pass_time(300).tick(Action.PROMOTE).where == ("progressing", 1, 500)
    assert certain(Story(SKIPPING).start().pass_time(300), 5, Action.WARN).where == ("progressing", 0, 100)
    everybody = replace(SKIPPING, steps=(PlanStep(100, 60), PlanStep(500, 60), PlanStep(10_000, 60)))
    assert certain(Story(everybody).start().pass_time(300), 1).where == ("progressing", 1, 500)


# --- Hands on ---


def test_time_stands_still_while_paused() -> None:
    story = Story().start().pass_time(200, Action.PROMOTE).do(Pause("standup"))
    assert story.did == ["save"], "the share stays"
    assert story.said == "paused at step 1 of 3: 1% of users to v2 (standup)"
    story.pass_time(2000, Action.PROMOTE).do(Resume())
    assert (story.rollout.held, story.where) == (200, ("progressing", 0, 100))
    assert story.pass_time(99, Action.PROMOTE).where == ("progressing", 0, 100)
    assert story.tick(Action.PROMOTE).where == ("progressing", 1, 500)


def test_the_judges_pause_holds_until_an_operator_resumes_and_then_stops_that_step_no_more() -> None:
    story = at(Phase.PROGRESSING).tick(Action.PAUSE, "p95 30 ms above stable")
    assert story.where == ("paused", 1, 500)
    assert story.rollout.reason == "p95 30 ms above stable"
    assert not story.rollout.hand_paused
    assert story.pass_time(10, Action.PROMOTE).where == ("paused", 1, 500)
    assert story.do(Resume()).pass_time(10, Action.PAUSE).where == ("progressing", 1, 500)
    assert story.log[-1].kind == "warning"
    assert story.do(Promote()).tick(Action.PAUSE).where == ("paused", 2, 2500), "the next step is another matter"


def test_a_resume_from_a_hand_pause_leaves_the_judges_pause_armed() -> None:
    assert at(Phase.PAUSED).do(Resume()).tick(Action.PAUSE).where == ("paused", 1, 500)


def test_the_bake_can_be_paused_and_resumed() -> None:
    story = at(Phase.BAKING).pass_time(100).do(Pause()).pass_time(2000)
    assert story.where == ("paused", 2, 10_000)
    assert story.said == "paused at bake: 100% of users to v2 (paused by operator)"
    assert story.do(Resume()).pass_time(1699).where == ("baking", 2, 10_000)
    assert story.tick(Action.PROMOTE).where == ("promoted", 2, 0)


def test_promote_takes_one_step_or_all_of_them() -> None:
    story = at(Phase.PAUSED).do(Promote())
    assert story.where == ("progressing", 2, 2500)
    assert story.do(Promote()).where == ("baking", 2, 10_000)
    assert story.do(Promote()).where == ("promoted", 2, 0)
    assert at(Phase.PAUSED).do(Promote(full=True)).where == ("baking", 2, 10_000)
    assert at(Phase.BAKING).do(Pause()).do(Promote()).where == ("promoted", 2, 0)


def test_a_weight_set_by_hand_is_held_on_the_step_that_it_reaches() -> None:
    story = at(Phase.PROGRESSING).pass_time(50).do(SetWeight(200))
    assert story.where == ("paused", 0, 200)
    assert story.did == ["split 200", "forget step", "save"], "lowered: down first, then write"
    assert story.do(SetWeight(700)).where == ("paused", 1, 700)
    assert story.did == ["forget step", "save", "split 700"], "raised: write first, then up"
    assert story.said == "weight set to 7% by operator"
    assert story.do(Resume()).where == ("progressing", 1, 500)
    assert story.rollout.held == 0
    assert story.do(SetWeight(0)).where == ("paused", 0, 0)
    assert story.do(Promote()).where == ("progressing", 1, 500)


def test_a_hand_set_weight_takes_a_bake_back_into_the_plan() -> None:
    story = at(Phase.BAKING).do(SetWeight(10_000))
    assert story.did == ["save"]
    assert story.do(Resume()).where == ("baking", 2, 10_000)
    assert story.do(SetWeight(5000)).where == ("paused", 2, 5000)
    assert story.do(Resume()).where == ("progressing", 2, 2500)


def test_setting_the_weight_it_has_only_pauses() -> None:
    story = at(Phase.PROGRESSING).pass_time(50).do(SetWeight(500))
    assert story.where == ("paused", 1, 500)
    assert (story.rollout.held, story.did) == (50, ["save"])


# --- A new version in the middle of it ---


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.BAKING])
def test_a_new_version_restarts_and_never_has_the_old_weight(phase: Phase) -> None:
    story = at(phase).do(Start(PLAN, ANOTHER_SALT))
    assert story.did == ["split 0", "forget rollout", "save", "split 100"]
    assert story.board == Split("v1", "v2", 100, ANOTHER_SALT, True)
    assert (story.rollout.held, story.rollout.started_at) == (0, story.clock.wall())
    assert story.said == "started anew: step 1 of 3: 1% of users to v2"


def test_what_is_not_possible_is_answered_with_what_is() -> None:
    story = Story()
    with pytest.raises(IllegalTransitionError) as error:
        story.do(Resume())
    assert str(error.value) == "route shop: cannot resume while idle; possible now: start, rollback"
    with pytest.raises(IllegalTransitionError, match="cannot retry while promoted; possible now: start, rollback"):
        at(Phase.PROMOTED).do(Retry(PLAN, 1))


def test_a_route_without_a_canary_pool_cannot_start() -> None:
    story = Story()
    story.rollout = replace(story.rollout, canary=None)
    with pytest.raises(
        IllegalTransitionError, match="route shop: has no canary pool; canaryproxy start --canary URL --version V"
    ):
        story.start()
