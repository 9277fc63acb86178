"""The record: made from configuration, written as JSON, read back, refused when it is impossible."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from canaryproxy.config import schema
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import StoreError
from canaryproxy.rollout.model import Gate, Phase, Plan, PlanStep, Rollout, SetWeight, Split

PLAN = Plan(
    (PlanStep(100, 60.0), PlanStep(500, 90.0, pause=30.0)),
    600.0,
    3600.0,
    OnInconclusive.EXTEND,
    skip_when_certain=True,
    hooks=(Gate.CONFIRM_ROLLOUT, Gate.CONFIRM_STEP),
    hold_back_bp=200,
    max_duration=7200.0,
)
BUSY = Rollout(
    "shop",
    "v1",
    "v2",
    "v1",
    "v2",
    PLAN,
    phase=Phase.PAUSED,
    step=1,
    weight_bp=500,
    salt=0xFFFF_FFFF,
    revision=9,
    held=12.25,
    waited=13.5,
    reason="p95",
    started_at=1.5,
    step_entered_at=2.5,
    paused_from=Phase.PROGRESSING,
    hand_paused=True,
    waived=True,
    warned=True,
    frozen=True,
    gate=Gate.CONFIRM_STEP,
    gate_held=4.5,
    passed=(Gate.PAUSE,),
    lasted=99.5,
    settled=("v0",),
)


def test_the_plan_is_what_the_configuration_says() -> None:
    text = {"steps": [{"weight": "2%", "hold": "90s"}], "bake": "1m", "max_step_duration": "1h", "on_inconclusive": "rollback"}
    plan = Plan.from_config(schema.Rollout.model_validate(text))
    assert plan == Plan((PlanStep(200, 90),), 60, 3600, OnInconclusive.ROLLBACK)
    asked = schema.Rollout.model_validate(text | {"skip_steps_when_certain": "true"})
    assert Plan.from_config(asked) == replace(plan, skip_when_certain=True)


def test_pauses_belong_to_the_step_before_and_hooks_of_gates_to_the_plan() -> None:
    text = {"steps": [{"weight": "2%"}, {"pause": {}}, {"weight": "10%"}, {"pause": {"duration": "1h"}}, {"weight": "50%"}]}
    asked = schema.Rollout.model_validate(text | {"hold_back": "2%", "max_duration": "1d"})
    types = ("event", "confirm_promotion", "confirm_step", "rollback", "pause", "confirm_step")
    plan = Plan.from_config(asked, [SimpleNamespace(type=one) for one in types])
    assert plan.steps == (PlanStep(200, 300, 0), PlanStep(1000, 300, 3600), PlanStep(5000, 300))
    assert (plan.hooks, plan.hold_back_bp, plan.max_duration) == ((Gate.CONFIRM_STEP, Gate.CONFIRM_PROMOTION), 200, 86400)
    assert plan.bake_bp == 9800
    assert replace(plan, steps=(PlanStep(9900, 1),)).bake_bp == 9900, "a bake never has fewer users than the step before"


def test_the_record_reads_back_whole_from_json() -> None:
    assert Rollout.from_dict(json.loads(json.dumps(BUSY.to_dict()))) == BUSY


def test_fields_that_an_older_version_did_not_write_take_their_defaults_and_unknown_ones_are_left() -> None:
    record = BUSY.to_dict()
    del record["waived"], record["settled"], record["frozen"], record["plan"]["skip_when_certain"]
    del record["begun"], record["gate"], record["gate_held"], record["passed"], record["lasted"]
    del record["plan"]["hooks"], record["plan"]["hold_back_bp"], record["plan"]["max_duration"]
    plan = replace(PLAN, skip_when_certain=False, hooks=(), hold_back_bp=0, max_duration=0.0)
    known = replace(BUSY, gate=None, gate_held=0.0, passed=(), lasted=0.0)
    assert Rollout.from_dict(record | {"colour": "green"}) == replace(known, plan=plan, waived=False, frozen=False, settled=())


@pytest.mark.parametrize(
    "damage",
    [
        {"phase": "flying"},
        {"plan": None},
        {"plan": {"steps": []}},
        {"step": 2},
        {"step": "1"},
        {"weight_bp": 10_001},
        {"phase": "idle"},
        {"paused_from": None},
        {"canary": None},
        {"settled": 3},
        {"gate": "lunch"},
        {"passed": ["lunch"]},
        {"begun": False},
        {"phase": "progressing", "paused_from": None, "gate": "pause"},
    ],
)
def test_an_impossible_record_is_refused_with_what_to_do(damage: dict[str, Any]) -> None:
    with pytest.raises(
        StoreError, match=r"saved rollout of route 'shop': cannot be understood .*; restore the state file"
    ) as error:
        Rollout.from_dict(BUSY.to_dict() | damage)
    assert "\n" not in str(error.value)


def test_users_on_the_canary_outside_a_rollout_cannot_be_written_down() -> None:
    with pytest.raises(ValueError, match="weight 500 in phase rolled_back"):
        replace(BUSY, phase=Phase.ROLLED_BACK, paused_from=None, frozen=False, gate=None)


def test_nothing_is_frozen_that_is_not_in_progress() -> None:
    with pytest.raises(ValueError, match="frozen in phase rolled_back"):
        replace(BUSY, phase=Phase.ROLLED_BACK, paused_from=None, weight_bp=0)


def test_nothing_waits_that_is_not_in_progress_and_nobody_has_the_canary_before_the_first_step() -> None:
    with pytest.raises(ValueError, match="gate confirm_step in phase rolled_back"):
        replace(BUSY, phase=Phase.ROLLED_BACK, paused_from=None, weight_bp=0, frozen=False)
    with pytest.raises(ValueError, match="weight 500 in phase paused before the first step"):
        replace(BUSY, begun=False)
    with pytest.raises(ValueError, match="a pause that is waited for in phase progressing"):
        replace(BUSY, phase=Phase.PROGRESSING, paused_from=None, gate=Gate.PAUSE)


def test_shares_are_of_pools_whatever_their_role() -> None:
    assert BUSY.split == Split("v1", "v2", 500, 0xFFFF_FFFF, True)
    assert [BUSY.share_of(pool) for pool in ("v1", "v2", "v3", None)] == [9500, 500, 0, 0]
    assert (
        replace(BUSY, phase=Phase.IDLE, paused_from=None, frozen=False, gate=None, weight_bp=0, canary=None).share_of(None) == 0
    )


def test_the_dwell_is_the_steps_or_the_bakes_also_while_paused() -> None:
    assert BUSY.dwell == 90
    assert replace(BUSY, paused_from=Phase.BAKING).dwell == 600


@pytest.mark.parametrize("weight_bp", [-1, 10_001])
def test_a_weight_outside_the_scale_is_refused(weight_bp: int) -> None:
    with pytest.raises(ValueError, match="not within 0 to 10000"):
        SetWeight(weight_bp)


def test_a_plan_has_steps_with_weights_on_the_scale() -> None:
    for steps in ((), (PlanStep(10_001, 1),)):
        with pytest.raises(ValueError, match="a plan needs"):
            Plan(steps, 1, 1)
