"""The table: complete, drawn, and true to what the handlers do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.machine import TABLE, VERBS, advance, diagram, document, verbs
from canaryproxy.rollout.model import (
    Event,
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
    Start,
    Tick,
)

PLAN = Plan((PlanStep(100, 1), PlanStep(500, 1)), bake=1, max_step_duration=10, on_inconclusive=OnInconclusive.PAUSE)
IDLE = Rollout("shop", "v1", "v2", "v1", "v2", PLAN)
NOW = 1_700_000_000.0


def test_the_document_in_the_repository_is_the_one_the_table_makes() -> None:
    path = Path(__file__).parents[3] / "docs" / "state-machine.md"
    assert path.read_text() == document(), "write machine.document() to docs/state-machine.md"


def test_the_diagram_draws_each_verb_and_no_tick_that_stays() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> idle"]
    assert "    promoted --> rolled_back: rollback" in lines
    assert "    baking --> promoted: tick, promote" in lines
    assert not [line for line in lines if line.startswith("    paused --> paused") and "tick" in line]
    assert "    paused --> progressing: tick, resume, promote, start, gate opens" in lines
    assert not [line for line in lines if "idle" in line and "gate" in line]


def test_rollback_and_ticks_are_legal_in_every_phase() -> None:
    for phase in Phase:
        assert (phase, Rollback) in TABLE
        assert (phase, Tick) in TABLE
        assert "rollback" in verbs(phase)


def test_what_is_said_of_a_gate_is_never_refused() -> None:
    for phase in Phase:
        assert (phase, OpenGate) in TABLE
        assert (phase, FailGate) in TABLE


def states() -> list[Rollout]:
    """One of every kind of state that matters to a transition."""
    step = replace(IDLE, phase=Phase.PROGRESSING, weight_bp=100)
    last = replace(step, step=1, weight_bp=500)
    bake = replace(last, phase=Phase.BAKING, weight_bp=10_000)
    return [
        IDLE,
        step,
        last,
        replace(step, waited=11),
        bake,
        replace(bake, plan=replace(PLAN, bake=5)),
        replace(step, phase=Phase.PAUSED, paused_from=Phase.PROGRESSING),
        replace(last, phase=Phase.PAUSED, paused_from=Phase.PROGRESSING),
        replace(bake, phase=Phase.PAUSED, paused_from=Phase.BAKING),
        replace(step, weight_bp=0, begun=False, gate=Gate.CONFIRM_ROLLOUT),
        replace(step, gate=Gate.CONFIRM_STEP),
        replace(step, phase=Phase.PAUSED, paused_from=Phase.PROGRESSING, gate=Gate.CONFIRM_STEP),
        replace(bake, gate=Gate.CONFIRM_PROMOTION),
        replace(
            step,
            plan=replace(PLAN, steps=(PlanStep(100, 1, pause=1), PlanStep(500, 1))),
            phase=Phase.PAUSED,
            paused_from=Phase.PROGRESSING,
            gate=Gate.PAUSE,
        ),
        replace(IDLE, phase=Phase.PROMOTED, stable="v2", canary="v1"),
        replace(IDLE, phase=Phase.ROLLED_BACK),
    ]


def events() -> list[Event]:
    ticks = [Tick(Verdict(Outcome.INCONCLUSIVE, action, ""), 1.0) for action in Action]
    asked: list[Event] = [
        Start(PLAN, 1),
        Retry(PLAN, 1),
        Pause(),
        Resume(),
        Promote(),
        Promote(full=True),
        SetWeight(300),
        Rollback(),
    ]
    told: list[Event] = [said(gate, "hook ci") for said in (OpenGate, FailGate) for gate in Gate]
    return [*ticks, *asked, *told]


def test_the_table_claims_exactly_the_transitions_that_happen() -> None:
    seen: dict[tuple[Phase, type[Event]], set[Phase]] = {}
    for state in states():
        for event in events():
            if (state.phase, type(event)) in TABLE:
                after, _ = advance(state, event, NOW)
                seen.setdefault((state.phase, type(event)), set()).add(after.phase)
    assert seen == {key: set(rule.to) for key, rule in TABLE.items()}


def test_everything_else_is_refused_with_the_verbs_that_are_possible() -> None:
    refused = 0
    for state in states():
        for event in events():
            if (state.phase, type(event)) not in TABLE:
                refused += 1
                with pytest.raises(IllegalTransitionError) as error:
                    advance(state, event, NOW)
                possible = ", ".join(verbs(state.phase))
                assert (
                    str(error.value) == f"route shop: cannot {VERBS[type(event)]} while {state.phase}; possible now: {possible}"
                )
    assert refused > 20


def test_the_decision_says_who_what_and_on_which_numbers() -> None:
    paused, effects = advance(replace(IDLE, phase=Phase.PROGRESSING, weight_bp=100), Pause("lunch", by="anna"), NOW)
    assert paused.hand_paused
    assert effects[0].data == {  # type: ignore[union-attr]
        "by": "anna",
        "from": "progressing",
        "to": "paused",
        "step": 1,
        "weight_bp": 100,
        "stable": "v1",
        "canary": "v2",
        "reason": "lunch",
        "gate": None,
    }
