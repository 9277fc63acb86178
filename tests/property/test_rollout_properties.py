"""Whatever happens in whatever order: what can never be."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.machine import TABLE, advance
from canaryproxy.rollout.model import (
    Effect,
    Event,
    Pause,
    Phase,
    Plan,
    PlanStep,
    Promote,
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
    st.lists(st.builds(PlanStep, weights, st.sampled_from([0.0, 2.0])), min_size=1, max_size=4).map(tuple),
    st.sampled_from([0.0, 3.0]),
    st.sampled_from([1.0, 4.0]),
    st.sampled_from(OnInconclusive),
    st.booleans(),
)
ticks = st.builds(
    Tick,
    st.builds(Verdict, st.sampled_from(Outcome), st.sampled_from(Action), st.just("as it is"), certain=st.booleans()),
    st.sampled_from([0.5, 1.0, 9.0, 300.0]),
)
events: st.SearchStrategy[Event] = st.one_of(
    ticks,
    ticks,
    st.builds(Start, plans, salts),
    st.builds(Retry, plans, salts),
    st.builds(Pause),
    st.builds(Resume),
    st.builds(Promote, st.booleans()),
    st.builds(SetWeight, weights),
    st.builds(Rollback),
)
beginnings = st.builds(
    Rollout, st.just("shop"), st.just("v1"), st.sampled_from(["v2", "v2", None]), st.just("v1"), st.just("v2"), plans
)


def check_record(before: Rollout, event: Event, after: Rollout) -> None:
    assert after.phase in TABLE[before.phase, type(event)].to
    assert Rollout.from_dict(json.loads(json.dumps(after.to_dict()))) == after
    asked = after.plan.steps[after.step].weight_bp
    match after.phase:
        case Phase.PROGRESSING:
            assert after.weight_bp == asked, "a step has the plan's weight"
        case Phase.BAKING:
            assert after.weight_bp == 10_000
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
        if before.frozen and event.verdict.action is not Action.ROLLBACK:
            assert (after.phase, after.weight_bp, after.held, after.waited) == (
                *(before.phase, before.weight_bp),
                *(before.held, before.waited),
            ), "while frozen, and in the tick that ends it, all stands still"
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
    assert replace(disk, held=0, waited=0) == replace(after, held=0, waited=0)
    same = after == before or Save() not in effects
    assert after.revision == before.revision + (0 if same else 1)
    lowered = after.share_of(trial) < before.share_of(trial)
    if lowered and not isinstance(event, Start | Retry):
        assert isinstance(effects[0], SetSplit)


@settings(max_examples=150, deadline=None)
@given(beginnings, st.lists(events, max_size=25))
def test_no_sequence_of_events_breaks_the_rules(rollout: Rollout, script: list[Event]) -> None:
    for now, event in enumerate(script):
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
