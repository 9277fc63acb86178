"""What a rollout waits for beside evidence: which gate is next, and what opening one does. Pure; called by `ticks` and `machine`.

Only a tick comes to a gate, and only a tick goes on after one was opened: so nothing rises while stable is bad, and the next step
still has the evidence of that second. An operator's `promote` leaves every gate out. None of them disarms anything: while a hook
is waited for, the phase and its armed ticks stay what they were; a `pause` of the plan is a pause.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from canaryproxy.config.quantities import format_duration
from canaryproxy.rollout.changes import Cause, Transition, because, change, place
from canaryproxy.rollout.model import Gate, OpenGate, Phase, Rollout

#: Before the first step's weight, before that of each other step and the bake, and before the promotion; in this order.
_FIRST = (Gate.CONFIRM_ROLLOUT, Gate.PRE_ROLLOUT, Gate.CONFIRM_STEP)
_NEXT = (Gate.PAUSE, Gate.CONFIRM_STEP)
_LAST = (Gate.CONFIRM_PROMOTION,)


def next_gate(rollout: Rollout) -> Gate | None:
    """The gate before what comes next; None where the way is free."""
    ahead = _LAST if rollout.is_baking else _NEXT if rollout.begun else _FIRST
    asked = {*rollout.plan.hooks, *((Gate.PAUSE,) if rollout.plan.steps[rollout.step].pause is not None else ())}
    return next((gate for gate in ahead if gate in asked and gate not in rollout.passed), None)


def wait_for(rollout: Rollout, gate: Gate, cause: Cause) -> Transition:
    """At the gate; for a pause of the plan paused, for a hook as it was."""
    paused: dict[str, Any] = {"phase": Phase.PAUSED, "paused_from": rollout.phase} if gate is Gate.PAUSE else {}
    after = replace(rollout, gate=gate, gate_held=0.0, reason=waiting(rollout, gate), **paused)
    return change(rollout, after, cause, "gate", f"{after.reason} at {place(after)}{because(cause.reason)}")


def waiting(rollout: Rollout, gate: Gate) -> str:
    """For whom or what: `waits for confirm_step`."""
    if gate is not Gate.PAUSE:
        return f"waits for {gate}"
    seconds = rollout.plan.steps[rollout.step].pause
    return f"waits for {format_duration(seconds)}" if seconds else "waits for somebody to resume"


def open_gate(rollout: Rollout, event: OpenGate, now: float) -> Transition:
    """No longer waiting; the next tick goes on. Another gate than the one it waits for: nothing."""
    if rollout.gate is not event.gate:
        return rollout, ()
    return opened(rollout, event.gate, Cause(event.by, event.reason))


def opened(rollout: Rollout, gate: Gate, cause: Cause) -> Transition:
    """The gate is open, and in its place until the weight changes."""
    # Of a pause of the plan or of the judge the phase before it is where it goes on; a pause by hand stays.
    after = replace(rollout, gate=None, gate_held=0.0, passed=(*rollout.passed, gate))
    if gate is Gate.PAUSE and not rollout.hand_paused:
        after = replace(after, phase=rollout.paused_from or Phase.PROGRESSING, paused_from=None)
    if after.phase is not Phase.PAUSED:
        after = replace(after, reason="")
    sentence = f"no longer {waiting(rollout, gate)} at {place(after)}: opened by {cause.by}{because(cause.reason)}"
    return change(rollout, after, cause, "gate_open", sentence)
