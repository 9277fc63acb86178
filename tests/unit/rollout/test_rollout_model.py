"""The record: made from configuration, written as JSON, read back, refused when it is impossible."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from canaryproxy.config import schema
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import StoreError
from canaryproxy.rollout.model import Phase, Plan, PlanStep, Rollout, SetWeight, Split

PLAN = Plan((PlanStep(100, 60.0), PlanStep(500, 90.0)), 600.0, 3600.0, OnInconclusive.EXTEND, skip_when_certain=True)
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
    settled=("v0",),
)


def test_the_plan_is_what_the_configuration_says() -> None:
    text = {"steps": [{"weight": "2%", "hold": "90s"}], "bake": "1m", "max_step_duration": "1h", "on_inconclusive": "rollback"}
    plan = Plan.from_config(schema.Rollout.model_validate(text))
    assert plan == Plan((PlanStep(200, 90),), 60, 3600, OnInconclusive.ROLLBACK)
    asked = schema.Rollout.model_validate(text | {"skip_steps_when_certain": "true"})
    assert Plan.from_config(asked) == replace(plan, skip_when_certain=True)


def test_the_record_reads_back_whole_from_json() -> None:
    assert Rollout.from_dict(json.loads(json.dumps(BUSY.to_dict()))) == BUSY


def test_fields_that_an_older_version_did_not_write_take_their_defaults_and_unknown_ones_are_left() -> None:
    record = BUSY.to_dict()
    del record["waived"], record["settled"], record["frozen"], record["plan"]["skip_when_certain"]
    plan = replace(PLAN, skip_when_certain=False)
    assert Rollout.from_dict(record | {"colour": "green"}) == replace(BUSY, plan=plan, waived=False, frozen=False, settled=())


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
        replace(BUSY, phase=Phase.ROLLED_BACK, paused_from=None, frozen=False)


def test_nothing_is_frozen_that_is_not_in_progress() -> None:
    with pytest.raises(ValueError, match="frozen in phase rolled_back"):
        replace(BUSY, phase=Phase.ROLLED_BACK, paused_from=None, weight_bp=0)


def test_shares_are_of_pools_whatever_their_role() -> None:
    assert BUSY.split == Split("v1", "v2", 500, 0xFFFF_FFFF)
    assert [BUSY.share_of(pool) for pool in ("v1", "v2", "v3", None)] == [9500, 500, 0, 0]
    assert replace(BUSY, phase=Phase.IDLE, paused_from=None, frozen=False, weight_bp=0, canary=None).share_of(None) == 0


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
