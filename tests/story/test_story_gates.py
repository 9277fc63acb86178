"""Rollouts as scripts: what waits for a person or a hook, what is held back in the bake, what takes too long."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rollout_script import ANOTHER_SALT, PLAN, Story, at

from canaryproxy.analysis.verdict import Action
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.rollout.model import (
    FailGate,
    Gate,
    OpenGate,
    Pause,
    Phase,
    Plan,
    PlanStep,
    Promote,
    Resume,
    Retry,
    Rollback,
    Rollout,
    SetWeight,
    Split,
    Start,
)
from canaryproxy.routing.split import seat

CI = "hook ci"
HOOKS = tuple(gate for gate in Gate if gate is not Gate.PAUSE)
GATED = replace(PLAN, hooks=HOOKS)
#: 5 %, then somebody looks at it, then 50 % for an hour at least by the clock, then the bake.
PAUSING = Plan((PlanStep(500, 60, pause=0), PlanStep(5000, 60, pause=3600)), bake=60, max_step_duration=600)


def yes(story: Story, gate: Gate) -> Story:
    """The hooks of this type have all said yes, and a second passes."""
    assert story.rollout.gate is gate
    return story.do(OpenGate(gate, CI)).tick(Action.PROMOTE, "no worse")


def waiting_at(gate: Gate) -> Story:
    """A rollout that waits at this gate."""
    if gate is Gate.PAUSE:
        return Story(PAUSING).start().pass_time(60, Action.PROMOTE)
    story = Story(replace(PLAN, hooks=(gate,))).start()
    if gate is Gate.CONFIRM_PROMOTION:
        story.do(Promote(full=True)).pass_time(1800, Action.PROMOTE)
    assert story.rollout.gate is gate
    return story


# --- The way with every gate on it ---


def test_a_rollout_with_every_gate_waits_where_it_should_and_is_promoted() -> None:
    story = Story(GATED).start()
    assert (story.where, story.rollout.gate) == (("progressing", 0, 0), Gate.CONFIRM_ROLLOUT)
    assert story.said == "started, waits for confirm_rollout: step 1 of 3: 0% of users to v2"
    for gate in (Gate.CONFIRM_ROLLOUT, Gate.PRE_ROLLOUT):
        assert yes(story, gate).where == ("progressing", 0, 0), "nobody is on the canary before all have said yes"
    assert yes(story, Gate.CONFIRM_STEP).where == ("progressing", 0, 100)
    assert story.did == ["forget step", "save", "split 100"], "raised: write first, then up"
    assert story.pass_time(300, Action.PROMOTE).where == ("progressing", 0, 100)
    assert story.said == "waits for confirm_step at step 1 of 3: 1% of users to v2 (few requests yet)"
    assert yes(story, Gate.CONFIRM_STEP).where == ("progressing", 1, 500)
    assert yes(story.pass_time(600, Action.PROMOTE), Gate.CONFIRM_STEP).where == ("progressing", 2, 2500)
    assert yes(story.pass_time(600, Action.PROMOTE), Gate.CONFIRM_STEP).where == ("baking", 2, 10_000)
    assert story.pass_time(1800, Action.PROMOTE).where == ("baking", 2, 10_000)
    assert yes(story, Gate.CONFIRM_PROMOTION).where == ("promoted", 2, 0)
    kinds = [record.kind for record in story.log]
    opened = ["gate_open", "gate", "gate_open", "gate", "gate_open", "step"]
    assert kinds == [
        "start",
        *opened,
        *["gate", "gate_open", "step"] * 2,
        "gate",
        "gate_open",
        "bake",
        "gate",
        "gate_open",
        "promoted",
    ]
    assert story.log[1].data["by"] == CI
    assert (story.log[-3].data["gate"], story.log[-2].data["gate"]) == (Gate.CONFIRM_PROMOTION, None)


def test_one_gate_alone_lets_the_rest_pass() -> None:
    story = Story(replace(PLAN, hooks=(Gate.PRE_ROLLOUT,))).start()
    assert (story.where, story.rollout.gate) == (("progressing", 0, 0), Gate.PRE_ROLLOUT)
    assert yes(story, Gate.PRE_ROLLOUT).where == ("progressing", 0, 100)
    assert story.pass_time(300, Action.PROMOTE).where == ("progressing", 1, 500)


def test_a_gate_is_waited_for_without_end_and_its_time_is_neither_dwell_nor_a_search_for_evidence() -> None:
    story = waiting_at(Gate.CONFIRM_STEP)
    yes(story, Gate.CONFIRM_STEP).pass_time(300, Action.PROMOTE)
    held, waited = story.rollout.held, story.rollout.waited
    assert story.pass_time(2_000).where == ("progressing", 0, 100), "max_step_duration is 20 minutes"
    assert (story.rollout.held, story.rollout.waited, story.rollout.gate_held) == (held, waited, 2_000)
    assert len([record for record in story.log if record.kind == "gate"]) == 1, "said once"
    assert yes(story, Gate.CONFIRM_STEP).where == ("progressing", 1, 500)


def test_a_yes_is_no_evidence() -> None:
    story = waiting_at(Gate.CONFIRM_STEP)
    yes(story, Gate.CONFIRM_STEP).pass_time(300, Action.PROMOTE)
    story.do(OpenGate(Gate.CONFIRM_STEP, CI)).pass_time(100)
    assert story.where == ("progressing", 0, 100), "the evidence of before is not that of now"
    assert story.tick(Action.PROMOTE).where == ("progressing", 1, 500), "nobody is asked again"
    story = waiting_at(Gate.CONFIRM_PROMOTION).do(OpenGate(Gate.CONFIRM_PROMOTION, CI)).tick(Action.WARN)
    assert story.where == ("baking", 2, 10_000)


def test_each_step_is_asked_for_anew_also_after_a_step_back() -> None:
    story = Story(replace(PLAN, hooks=(Gate.CONFIRM_STEP,))).start().do(Promote()).do(Promote())
    story.tick(Action.STEP_BACK).tick(Action.CONTINUE).pass_time(300, Action.PROMOTE)
    assert (story.where, story.rollout.gate) == (("progressing", 0, 100), Gate.CONFIRM_STEP)


@pytest.mark.parametrize("gate", HOOKS)
def test_what_is_said_of_another_gate_changes_nothing(gate: Gate) -> None:
    story = waiting_at(gate)
    for other in Gate:
        before = story.rollout
        if other is not gate:
            assert story.do(OpenGate(other, CI)).do(FailGate(other, CI)).rollout == before
            assert story.did == []


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.PROMOTED, Phase.ROLLED_BACK])
def test_an_answer_that_comes_too_late_changes_nothing(phase: Phase) -> None:
    story = at(phase)
    before = story.rollout
    assert story.do(OpenGate(Gate.PRE_ROLLOUT, CI)).do(FailGate(Gate.PRE_ROLLOUT, CI)).rollout == before


# --- No gate disarms anything ---


@pytest.mark.parametrize("gate", list(Gate))
def test_harm_rolls_back_at_every_gate(gate: Gate) -> None:
    story = waiting_at(gate).pass_time(50).tick(Action.ROLLBACK, "canary 8/402 failed")
    assert story.where == ("rolled_back", story.rollout.step, 0)
    assert story.did == ["split 0", "save"]
    assert (story.rollout.gate, story.rollout.reason) == (None, "canary 8/402 failed")
    assert story.do(OpenGate(gate, CI)).where == ("rolled_back", story.rollout.step, 0)


@pytest.mark.parametrize("gate", list(Gate))
def test_an_operator_rolls_back_at_every_gate(gate: Gate) -> None:
    story = waiting_at(gate).do(Rollback("bad feeling", by="anna"))
    assert (story.where, story.rollout.gate) == (("rolled_back", story.rollout.step, 0), None)
    assert story.board == Split("v1", "v2", 0, 7)
    assert story.do(Retry(story.plan, ANOTHER_SALT)).rollout.passed == ()


@pytest.mark.parametrize("gate", HOOKS)
def test_a_hook_that_says_no_for_good_rolls_back_paused_or_not(gate: Gate) -> None:
    for story in (waiting_at(gate), waiting_at(gate).do(Pause("lunch"))):
        story.do(FailGate(gate, CI, "3 of 40 checks failed"))
        assert story.where == ("rolled_back", story.rollout.step, 0)
        assert story.said == f"rolled back: all users to v1 ({gate} failed (3 of 40 checks failed))"
        assert story.log[-1].data["by"] == CI


@pytest.mark.parametrize("gate", HOOKS)
@pytest.mark.parametrize("action", [Action.FREEZE, Action.STEP_BACK])
def test_a_freeze_holds_at_every_gate_and_nothing_rises_through_it(gate: Gate, action: Action) -> None:
    story = waiting_at(gate)
    weight = story.board.weight_bp
    story.tick(action, "stable fails too")
    assert story.rollout.frozen
    assert story.board.weight_bp <= weight
    if action is Action.FREEZE:
        assert story.rollout.gate is gate
        story.do(OpenGate(gate, CI)).pass_time(20, action)
        assert story.board.weight_bp == weight, "a yes while stable is bad raises nothing"
        story.tick(Action.PROMOTE)
        assert (story.board.weight_bp, story.log[-1].kind) == (weight, "thaw")
        assert story.tick(Action.PROMOTE).log[-1].kind in ("step", "promoted"), "and is remembered"


@pytest.mark.parametrize("gate", HOOKS)
def test_the_judge_pauses_at_every_gate_and_the_gate_is_still_there_after_it(gate: Gate) -> None:
    story = waiting_at(gate).tick(Action.PAUSE, "p95 30 ms above stable")
    assert (story.where[0], story.rollout.gate) == ("paused", gate)
    weight = story.board.weight_bp
    story.do(Resume())
    assert (story.board.weight_bp, story.rollout.gate) == (weight, gate), "a resume is no yes"
    assert story.tick(Action.CONTINUE).rollout.gate is gate


@pytest.mark.parametrize("gate", HOOKS)
def test_a_yes_while_paused_by_hand_waits_for_the_resume(gate: Gate) -> None:
    story = waiting_at(gate).do(Pause("lunch"))
    weight = story.board.weight_bp
    story.do(OpenGate(gate, CI)).pass_time(30, Action.PROMOTE)
    assert (story.where[0], story.board.weight_bp, story.rollout.reason) == ("paused", weight, "lunch")
    assert story.do(Resume()).board.weight_bp == weight
    assert story.tick(Action.PROMOTE).log[-1].kind in ("step", "promoted")


def test_a_warning_at_a_gate_is_recorded_once() -> None:
    story = waiting_at(Gate.CONFIRM_PROMOTION).pass_time(5, Action.WARN, "p95 is 40 ms above stable")
    assert [record.kind for record in story.log[-2:]] == ["gate", "warning"]


# --- Operators at a gate ---


def test_promote_leaves_every_gate_out() -> None:
    story = Story(GATED).start().do(Promote())
    assert (story.where, story.rollout.gate) == (("progressing", 0, 100), None), "the first step, not the second"
    assert story.do(Promote()).do(Promote()).where == ("progressing", 2, 2500)
    assert story.do(Promote()).do(Promote()).where == ("promoted", 2, 0)
    assert Story(GATED).start().do(Promote(full=True)).where == ("baking", 2, 10_000)
    assert waiting_at(Gate.PAUSE).do(Promote()).where == ("progressing", 1, 5000)


def test_a_weight_set_by_hand_clears_the_gate() -> None:
    story = Story(GATED).start().do(SetWeight(300))
    assert (story.where, story.rollout.gate) == (("paused", 0, 300), None)
    assert story.do(Resume()).where == ("progressing", 0, 100)
    story = Story(GATED).start().do(SetWeight(0))
    assert (story.where, story.rollout.gate) == (("paused", 0, 0), None)
    assert story.do(Resume()).where == ("progressing", 0, 100), "who sets the weight has decided that it begins"
    story = waiting_at(Gate.PAUSE).do(SetWeight(500))
    assert (story.rollout.gate, story.rollout.hand_paused) == (None, True)
    assert story.pass_time(1300, Action.PROMOTE).where == ("paused", 0, 500)


@pytest.mark.parametrize("gate", list(Gate))
def test_a_new_version_at_a_gate_begins_from_the_beginning_with_its_own_gates(gate: Gate) -> None:
    story = waiting_at(gate)
    story.do(Start(GATED, ANOTHER_SALT))
    assert (story.where, story.rollout.gate) == (("progressing", 0, 0), Gate.CONFIRM_ROLLOUT)
    assert story.board[:4] == ("v1", "v2", 0, ANOTHER_SALT)
    assert story.log[-1].kind == "restart"
    assert (story.rollout.passed, story.rollout.lasted, story.rollout.gate_held) == ((), 0, 0)


# --- Pauses of the plan ---


def test_a_pause_of_the_plan_comes_with_the_evidence_and_ends_with_a_resume() -> None:
    story = Story(PAUSING).start().pass_time(59, Action.PROMOTE)
    assert story.where == ("progressing", 0, 500)
    assert story.tick(Action.CONTINUE).where == ("progressing", 0, 500), "no evidence, no end of the step"
    assert story.tick(Action.PROMOTE, "no worse").where == ("paused", 0, 500)
    assert (story.rollout.gate, story.did) == (Gate.PAUSE, ["save"])
    assert story.said == "waits for somebody to resume at step 1 of 2: 5% of users to v2 (no worse)"
    assert story.pass_time(1300, Action.PROMOTE).where == ("paused", 0, 500)
    assert story.do(Resume()).where == ("progressing", 0, 500)
    assert not story.rollout.waived, "the judge's pause is armed as before"
    assert story.tick(Action.CONTINUE).where == ("progressing", 0, 500)
    assert story.tick(Action.PROMOTE).where == ("progressing", 1, 5000)


def test_a_pause_with_a_duration_ends_by_itself_and_stands_still_while_stable_is_bad() -> None:
    story = Story(PAUSING).start().do(Promote()).pass_time(60, Action.PROMOTE)
    assert story.said == "waits for 1h at step 2 of 2: 50% of users to v2 (few requests yet)"
    story.pass_time(1800).pass_time(5000, Action.FREEZE).tick(Action.CONTINUE).pass_time(1799)
    assert story.where == ("paused", 1, 5000)
    assert story.tick(Action.CONTINUE).where == ("progressing", 1, 5000)
    assert story.said == "no longer waits for 1h at step 2 of 2: 50% of users to v2: opened by plan"
    assert story.tick(Action.PROMOTE).where == ("baking", 1, 10_000)


def test_a_pause_by_hand_keeps_a_pause_of_the_plan_from_ending_by_itself() -> None:
    story = Story(replace(PAUSING, steps=(PlanStep(500, 60, pause=30), PlanStep(5000, 60)))).start()
    story.pass_time(61, Action.PROMOTE).do(Pause("I want to look"))
    assert (story.where, story.said) == (("paused", 0, 500), "paused at step 1 of 2: 5% of users to v2 (I want to look)")
    assert story.pass_time(300, Action.PROMOTE).where == ("paused", 0, 500)
    assert story.do(OpenGate(Gate.PAUSE, CI)).pass_time(300, Action.PROMOTE).where == ("paused", 0, 500)
    assert story.do(Pause("still")).rollout.reason == "still"
    assert story.do(Resume()).tick(Action.PROMOTE).where == ("progressing", 1, 5000)


def test_a_resume_waives_what_the_judge_paused_also_when_somebody_has_paused_it_too() -> None:
    story = Story(PAUSING).start().tick(Action.PAUSE).do(Pause("I want to look")).do(Pause()).do(Resume())
    assert story.tick(Action.PAUSE).where == ("progressing", 0, 500)


def test_the_judges_own_pause_is_no_pause_of_the_plan() -> None:
    story = Story(replace(PAUSING, steps=(PlanStep(500, 60, pause=30), PlanStep(5000, 60)))).start().tick(Action.PAUSE)
    assert story.pass_time(1300, Action.PROMOTE).where == ("paused", 0, 500)


def test_a_pause_of_the_plan_comes_before_the_hooks_of_the_step() -> None:
    story = Story(replace(PAUSING, hooks=(Gate.CONFIRM_STEP,))).start().do(Promote()).pass_time(60, Action.PROMOTE)
    assert story.rollout.gate is Gate.PAUSE
    assert story.do(Resume()).tick(Action.PROMOTE).rollout.gate is Gate.CONFIRM_STEP
    assert yes(story, Gate.CONFIRM_STEP).where == ("progressing", 1, 5000)


def test_no_step_with_a_pause_after_it_is_skipped() -> None:
    steps = (PlanStep(100, 60), PlanStep(500, 60, pause=0), PlanStep(2500, 60))
    for pause, step in ((0, 1), (None, 2)):
        story = Story(Plan((steps[0], replace(steps[1], pause=pause), steps[2]), 1800, 1200, skip_when_certain=True)).start()
        story.pass_time(299).tick(Action.PROMOTE, certain=True)
        assert story.rollout.step == step


# --- The bake holds some users back ---


def test_a_bake_may_leave_some_users_on_stable_until_the_promotion() -> None:
    story = Story(replace(PLAN, hold_back_bp=200)).start().do(Promote(full=True))
    assert story.where == ("baking", 2, 9800)
    assert story.said == "bake: 98% of users to v2 (promoted by operator)"
    assert story.do(Pause()).do(Resume()).where == ("baking", 2, 9800)
    assert story.pass_time(1800, Action.PROMOTE).board == Split("v2", "v1", 0, 7)
    assert story.did == ["save", "split 0"], "for who was held back it is a raise: write first, then up"
    assert story.do(Rollback("regret")).did == ["split 0", "save"]
    assert story.board == Split("v1", "v2", 0, 7)


def test_a_bake_never_has_fewer_users_than_the_last_step() -> None:
    everybody = Plan((PlanStep(10_000, 60),), 60, 600, hold_back_bp=500)
    assert Story(everybody).start().do(Promote()).where == ("baking", 0, 10_000)


# --- Too long altogether ---

LIMITED = replace(PLAN, max_duration=1000.0, max_step_duration=600)


def test_a_rollout_that_takes_too_long_pauses_and_has_its_time_again_after_a_resume() -> None:
    for choice in (OnInconclusive.PAUSE, OnInconclusive.EXTEND):
        story = Story(replace(LIMITED, on_inconclusive=choice)).start().pass_time(300, Action.PROMOTE)
        assert story.pass_time(700, Action.PROMOTE, "no worse").where[0] == "progressing"
        assert story.tick(Action.PROMOTE, "no worse").where == ("paused", 2, 2500)
        assert story.rollout.reason == "not finished within 16m40s: no worse"
        assert story.pass_time(50).log[-1].kind == "pause", "said once"
        assert story.do(Resume()).pass_time(1000, Action.PROMOTE).where[0] == "baking"
        assert story.tick(Action.PROMOTE).where[0] == "paused"


def test_a_rollout_that_takes_too_long_is_rolled_back_where_the_plan_says_so_also_at_a_gate_or_paused_by_the_judge() -> None:
    limited = replace(LIMITED, on_inconclusive=OnInconclusive.ROLLBACK)
    gated = Story(replace(limited, hooks=(Gate.CONFIRM_ROLLOUT,))).start()
    paused = Story(limited).start().tick(Action.PAUSE)
    for story, seconds in ((gated, 1000), (paused, 1000)):
        assert story.pass_time(seconds).rollout.in_progress
        assert story.tick(Action.CONTINUE).where == ("rolled_back", 0, 0)
        assert story.rollout.reason.startswith("not finished within 16m40s")


def test_freezes_and_pauses_by_hand_are_no_time_of_the_rollout() -> None:
    story = Story(LIMITED).start().pass_time(500).pass_time(3000, Action.FREEZE)
    story.do(Pause()).pass_time(3000, Action.FREEZE).tick(Action.CONTINUE).pass_time(3000)
    assert story.do(Resume()).rollout.lasted == 500


def test_harm_beats_a_rollout_that_takes_too_long() -> None:
    story = Story(LIMITED).start().do(Promote()).pass_time(500).do(Promote()).pass_time(500)
    assert story.tick(Action.ROLLBACK).where == ("rolled_back", 2, 0)
    assert story.rollout.reason == "canary 8/402 failed"


# --- Whatever happens to the record ---


def test_an_old_record_without_gates_goes_on() -> None:
    story = Story().start().pass_time(10)
    record = json.loads(json.dumps(story.rollout.to_dict()))
    for name in ("begun", "gate", "gate_held", "passed", "lasted"):
        del record[name]
    for name in ("hooks", "hold_back_bp", "max_duration"):
        del record["plan"][name]
    for step in record["plan"]["steps"]:
        del step["pause"]
    assert Rollout.from_dict(record) == replace(story.rollout, lasted=0.0)


def test_the_share_of_the_users_is_the_weight_through_any_steps_holds_and_gates() -> None:
    """The same users stay on the canary as it rises, however long it took to get there."""
    users = [seat(7, b"user %d" % n).bucket for n in range(20_000)]
    story = Story(replace(GATED, steps=(PlanStep(100, 5, pause=0), PlanStep(2500, 5)), bake=5, hold_back_bp=300)).start()
    exposed, shares = set[int](), [0]
    for _ in range(60):
        if story.rollout.gate is Gate.PAUSE:
            story.do(Resume())
        elif story.rollout.gate is not None:
            story.do(OpenGate(story.rollout.gate, CI))
        story.tick(Action.PROMOTE)
        if story.board.weight_bp not in (0, shares[-1]):
            now = {n for n, bucket in enumerate(users) if bucket < story.board.weight_bp}
            assert exposed <= now
            assert len(now) / len(users) == pytest.approx(story.board.weight_bp / 10_000, abs=0.01)
            exposed = now
            shares.append(story.board.weight_bp)
    assert (story.rollout.phase, shares) == (Phase.PROMOTED, [0, 100, 2500, 9700])
