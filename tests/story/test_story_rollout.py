"""Rollouts as scripts on a hand-wound clock: what happens, and what must be answered. Every event meets a rollout that was just
read back from its JSON, so each story is also the story of a controller that was killed between any two lines of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.clock import ManualClock
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import (
    Event,
    Pause,
    Phase,
    Plan,
    PlanStep,
    Promote,
    Record,
    ResetEvidence,
    Resume,
    Retry,
    Rollback,
    Rollout,
    Save,
    SetSplit,
    SetWeight,
    Split,
    Start,
    Tick,
)

PLAN = Plan((PlanStep(100, 300), PlanStep(500, 600), PlanStep(2500, 600)), bake=1800, max_step_duration=1200)
OUTCOMES = {Action.PROMOTE: Outcome.PASS, Action.CONTINUE: Outcome.INCONCLUSIVE}
ANOTHER_SALT = 99


class Story:
    """A route with a data plane and a disk that do as they are told."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.plan, self.clock = plan, ManualClock()
        self.rollout = Rollout("shop", "v1", "v2", "v1", "v2", plan)
        self.board, self.disk = self.rollout.split, self.rollout
        self.log: list[Record] = []
        self.did: list[str] = []

    def do(self, event: Event) -> Story:
        """Let it happen; note in `did` what the effects were."""
        before = Rollout.from_dict(json.loads(json.dumps(self.rollout.to_dict())))
        assert before == self.rollout
        self.rollout, effects = advance(before, event, self.clock.wall())
        self.did = []
        for effect in effects:
            match effect:
                case SetSplit(split):
                    self.board = split
                    self.did.append(f"split {split.weight_bp}")
                case Save():
                    self.disk = self.rollout
                    self.did.append("save")
                case Record():
                    json.dumps(effect.data)
                    self.log.append(effect)
                case ResetEvidence(scope):
                    self.did.append(f"forget {scope}")
        assert self.board == self.rollout.split, "the data plane does what the record says"
        assert replace(self.disk, held=0, waited=0) == replace(self.rollout, held=0, waited=0), "nothing is left unsaved but time"
        return self

    def start(self) -> Story:
        return self.do(Start(self.plan, salt=7))

    def pass_time(self, seconds: int, action: Action = Action.CONTINUE, sentence: str = "few requests yet") -> Story:
        """One tick for each second, all with the same finding."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.do(Tick(Verdict(OUTCOMES.get(action, Outcome.FAIL), action, sentence), 1.0))
        return self

    def tick(self, action: Action, sentence: str = "canary 8/402 failed") -> Story:
        return self.pass_time(1, action, sentence)

    @property
    def where(self) -> tuple[str, int, int]:
        return self.rollout.phase.value, self.rollout.step, self.board.weight_bp

    @property
    def said(self) -> str:
        return self.log[-1].sentence


def at(phase: Phase) -> Story:
    """A story that has come to `phase`, at the second step where there is one."""
    story = Story()
    if phase is Phase.IDLE:
        return story
    story.start().do(Promote())
    match phase:
        case Phase.PAUSED:
            return story.do(Pause("lunch"))
        case Phase.BAKING:
            return story.do(Promote(full=True))
        case Phase.PROMOTED:
            return story.do(Promote(full=True)).do(Promote())
        case Phase.ROLLED_BACK:
            return story.do(Rollback("enough"))
    return story


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
    assert story.board == Split("v2", "v1", 100, ANOTHER_SALT)
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
    assert story.board == Split("v1", "v2", 100, ANOTHER_SALT)
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
    with pytest.raises(IllegalTransitionError, match="route shop: has no canary pool; name one with `canary:`"):
        story.start()
