"""Whatever happens in whatever order: what can never be."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.gates import next_gate
from canaryproxy.rollout.machine import TABLE, advance
from canaryproxy.rollout.model import (
    Effect,
    Event,
    FailGate,
    Gate,
    OpenGate,
    Pause,
    Phase,
    Plan,
    PlanStep,
    Promote,
    Record,
    Resume,
    Retry,
    Rollback,
    Rollout,
    Save,
    SetSplit,
    SetWeight,
    Start,
    Tick,
)

weights = st.sampled_from([0, 1, 100, 500, 2500, 5000, 9999, 10_000])
salts = st.integers(0, 2**32 - 1)
plans = st.builds(
    Plan,
    st.lists(
        st.builds(PlanStep, weights, st.sampled_from([0.0, 2.0]), st.sampled_from([None, None, 0.0, 2.0])), min_size=1, max_size=4
    ).map(tuple),
    st.sampled_from([0.0, 3.0]),
    st.sampled_from([1.0, 4.0]),
    st.sampled_from(OnInconclusive),
    st.booleans(),
    st.lists(st.sampled_from([gate for gate in Gate if gate is not Gate.PAUSE]), unique=True, max_size=4).map(tuple),
    st.sampled_from([0, 0, 200, 500]),
    st.sampled_from([0.0, 0.0, 10.0]),
)
ticks = st.builds(
    Tick,
    st.builds(Verdict, st.sampled_from(Outcome), st.sampled_from(Action), st.just("as it is"), certain=st.booleans()),
    st.sampled_from([0.5, 1.0, 9.0, 300.0]),
)
#: A healthy second, and then a yes to whatever is waited for: or no script would come far.
WELL = Tick(Verdict(Outcome.PASS, Action.PROMOTE, "no worse"), 4.0)
YES = "yes"
events: st.SearchStrategy[Event] = st.one_of(
    ticks,
    st.builds(Start, plans, salts),
    st.builds(Retry, plans, salts),
    st.builds(Pause),
    st.builds(Resume),
    st.builds(Promote, st.booleans()),
    st.builds(SetWeight, weights),
    st.builds(Rollback),
    st.builds(OpenGate, st.sampled_from(Gate), st.just("hook ci")),
    st.builds(FailGate, st.sampled_from(Gate), st.just("hook ci")),
)
scripts = st.lists(
    st.one_of(
        st.just([WELL, YES]),
        st.just([WELL, YES, WELL]),
        st.just([YES, Resume(), WELL]),
        st.just([Pause(), Resume()]),
        st.lists(events, max_size=2),
    ),
    max_size=25,
).map(lambda parts: [event for part in parts for event in part])
#: What only ticks change, and nothing saves by itself.
CLOCKS: dict[str, Any] = {"held": 0.0, "waited": 0.0, "gate_held": 0.0, "lasted": 0.0}
beginnings = st.builds(
    Rollout, st.just("shop"), st.just("v1"), st.sampled_from(["v2", "v2", None]), st.just("v1"), st.just("v2"), plans
)


def check_record(before: Rollout, event: Event, after: Rollout) -> None:
    assert after.phase in TABLE[before.phase, type(event)].to
    assert Rollout.from_dict(json.loads(json.dumps(after.to_dict()))) == after
    asked = after.plan.steps[after.step].weight_bp
    match after.phase:
        case Phase.PROGRESSING:
            assert after.weight_bp == (asked if after.begun else 0), "a step has the plan's weight"
        case Phase.BAKING:
            assert after.weight_bp == after.plan.bake_bp
        case Phase.PAUSED:
            by_hand = event.weight_bp if isinstance(event, SetWeight) else before.weight_bp
            assert after.weight_bp == by_hand, "a pause keeps the weight, unless it was set"
        case _:
            assert after.weight_bp == 0
    if isinstance(event, Rollback) or (isinstance(event, Tick) and event.verdict.action is Action.ROLLBACK):
        assert after.weight_bp == 0
        assert not after.in_progress
    if isinstance(event, Tick) and before.in_progress:
        assert after.frozen == (event.verdict.action in (Action.FREEZE, Action.STEP_BACK)), "frozen is what the last tick said"
        assert not after.frozen or after.weight_bp <= before.weight_bp
        assert after.step <= before.step + (1 + (before.plan.skip_when_certain and event.verdict.certain))
        assert after.weight_bp != 10_000 or before.step + 1 >= after.step, "nobody skips to everybody"
        risen = after.weight_bp > before.weight_bp or after.phase is Phase.PROMOTED
        if risen:
            assert before.phase is not Phase.PAUSED, "what is paused does not rise by itself"
            assert before.gate is None, "nothing rises while it waits"
            assert next_gate(before) is None, "every gate was asked"
            assert event.verdict.action is Action.PROMOTE or not before.begun, "a step is taken on the evidence of that second"
        if before.frozen and event.verdict.action is not Action.ROLLBACK:
            assert (after.phase, after.weight_bp, after.held, after.waited) == (
                *(before.phase, before.weight_bp),
                *(before.held, before.waited),
            ), "while frozen, and in the tick that ends it, all stands still"
    if isinstance(event, OpenGate | FailGate):
        meant = before.gate is event.gate
        assert (after != before) == meant, "what is said of another gate changes nothing"
        assert after.weight_bp == (before.weight_bp if isinstance(event, OpenGate) or not meant else 0)
    if isinstance(event, Resume) and not before.begun:
        assert after.weight_bp == 0, "a resume is no yes"
    if isinstance(event, Promote | SetWeight | Start | Retry):
        assert after.gate is None or not after.begun, "an operator leaves the gates out"
    if before.phase is Phase.ROLLED_BACK and not isinstance(event, Start | Retry):
        assert after == before


def check_effects(before: Rollout, event: Event, after: Rollout, effects: tuple[Effect, ...]) -> None:
    """Wherever a kill interrupts the effects, the data plane gives the canary no more than the record on disk says."""
    board, disk = before.split, before
    trial = after.canary if after.phase is not Phase.PROMOTED else before.canary
    for effect in effects:
        match effect:
            case SetSplit(split):
                board = split
            case Save():
                disk = after
        users = 0 if trial is None else board.weight_bp if trial == board.canary else 10_000 - board.weight_bp
        assert users <= disk.share_of(trial)
        assert board.weight_bp == 0 or board.salt == disk.salt, "the users of one salt, the weight of another"
    assert board == after.split
    assert replace(disk, **CLOCKS) == replace(after, **CLOCKS)
    same = after == before or Save() not in effects
    assert sum(isinstance(effect, Record) for effect in effects) == effects.count(Save()), "one record for each transition"
    assert after.revision == before.revision + (0 if same else 1)
    lowered = after.share_of(trial) < before.share_of(trial)
    if lowered and not isinstance(event, Start | Retry):
        assert isinstance(effects[0], SetSplit)


def older(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it was written before there were gates."""
    added = ("begun", "gate", "gate_held", "passed", "lasted")
    plan = {key: value for key, value in record["plan"].items() if key not in ("hooks", "hold_back_bp", "max_duration")}
    plan["steps"] = [{"weight_bp": step["weight_bp"], "hold": step["hold"]} for step in plan["steps"]]
    return {key: value for key, value in record.items() if key not in added} | {"plan": plan}


@settings(max_examples=300, deadline=None)
@given(beginnings, plans, scripts)
def test_no_sequence_of_events_breaks_the_rules(rollout: Rollout, plan: Plan, script: list[Event | str]) -> None:
    for now, step in enumerate([Start(plan, 7), *script]):
        event = OpenGate(rollout.gate or Gate.CONFIRM_STEP, "hook ci") if isinstance(step, str) else step
        try:
            after, effects = advance(rollout, event, float(now))
        except IllegalTransitionError:
            assert (rollout.phase, type(event)) not in TABLE or rollout.canary is None
            continue
        check_record(rollout, event, after)
        check_effects(rollout, event, after, effects)
        rollout = after
    trial = rollout.stable if rollout.phase is Phase.PROMOTED else rollout.canary
    back, _ = advance(rollout, Rollback("the end"), 1e9)
    assert back.share_of(trial) == 0


@settings(max_examples=50, deadline=None)
@given(beginnings, plans, st.lists(events, max_size=10))
def test_a_record_from_before_there_were_gates_goes_on_where_it_was(rollout: Rollout, plan: Plan, script: list[Event]) -> None:
    for now, event in enumerate([Start(replace(plan, hooks=()), 7), *script]):
        try:
            rollout, _ = advance(rollout, event, float(now))
        except IllegalTransitionError:
            continue
    known = Rollout.from_dict(older(json.loads(json.dumps(rollout.to_dict()))))
    for field in fields(Rollout):
        if field.name not in ("plan", "begun", "gate", "gate_held", "passed", "lasted"):
            assert getattr(known, field.name) == getattr(rollout, field.name)
    assert (known.begun, known.gate) == (True, None)
