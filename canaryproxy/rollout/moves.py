"""What each verb does to a rollout, and the moves that ticks make too. Pure; the handlers of `machine.TABLE`, with `ticks`."""

from __future__ import annotations

from dataclasses import replace

from canaryproxy.analysis.verdict import Action, Verdict
from canaryproxy.config.quantities import format_percent
from canaryproxy.rollout.changes import Cause, Transition, because, canary_of, change, enter, judged, leave, place
from canaryproxy.rollout.gates import next_gate, waiting
from canaryproxy.rollout.model import (
    EVERYBODY,
    FailGate,
    Gate,
    Pause,
    Phase,
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
    Start,
)

#: Seconds in a step before the next but one may follow: twice the two minutes that leaks and periodic jobs take to show at all.
_CERTAIN_AFTER = 240.0
#: Pools that are remembered as settled: each deploy settles one, and only those that the file names matter.
_SETTLED = 100


# --- Up ---


def start(rollout: Rollout, event: Start | Retry, now: float) -> Transition:
    """The first step, or the first gate with nobody on the canary yet, from wherever it was."""
    canary_of(rollout)
    kind, word = ("retry", "tried again") if isinstance(event, Retry) else ("start", "started")
    if rollout.in_progress:
        kind, word = "restart", "started anew"
    first = event.plan.steps[0].weight_bp
    fresh = {"plan": event.plan, "salt": event.salt, "step": 0, "weight_bp": first, "started_at": now, "ended_at": None}
    after = enter(rollout, Phase.PROGRESSING, now, reason="", lasted=0.0, **fresh)
    if gate := next_gate(replace(after, weight_bp=0, begun=False)):
        after = replace(after, weight_bp=0, begun=False, gate=gate, reason=waiting(after, gate))
        word += f", {after.reason}"
    # A new salt chooses other users. They must never get the old weight, not even for a moment: the old users leave first.
    stopped = replace(rollout, weight_bp=0)
    after, effects = change(stopped, after, Cause(event.by), kind, f"{word}: {place(after)}", ResetEvidence("rollout"))
    return after, effects if stopped == rollout else (SetSplit(stopped.split), *effects)


def begin(rollout: Rollout, cause: Cause, now: float) -> Transition:
    """The first step's weight, with the gates before it behind."""
    after = enter(rollout, Phase.PROGRESSING, now, weight_bp=rollout.plan.steps[0].weight_bp, reason=cause.reason)
    return change(rollout, after, cause, "step", place(after) + because(cause.reason), ResetEvidence("step"))


def next_step(rollout: Rollout, cause: Cause, now: float, *, skip: bool = False) -> Transition:
    """The next step, with `skip` the next but one; after the last one the bake."""
    step = rollout.step + 1
    if step == len(rollout.plan.steps):
        return bake(rollout, cause, now)
    skipped = f", step {step + 1} skipped" if skip else ""
    step += skip
    weight_bp = rollout.plan.steps[step].weight_bp
    after = enter(rollout, Phase.PROGRESSING, now, step=step, weight_bp=weight_bp, reason=cause.reason)
    return change(rollout, after, cause, "step", place(after) + skipped + because(cause.reason), ResetEvidence("step"))


def may_skip(rollout: Rollout, verdict: Verdict) -> bool:
    """Whether the next step can be left out; the bake, or a step that has everybody already, is never what follows instead.

    Nor is a step with a pause after it left out: somebody wanted to look there.
    """
    after_next = rollout.plan.steps[rollout.step + 2 :][:1]
    wanted = rollout.plan.skip_when_certain and verdict.certain and rollout.held >= _CERTAIN_AFTER
    if not wanted or not after_next or rollout.plan.steps[rollout.step + 1].pause is not None:
        return False
    return after_next[0].weight_bp < EVERYBODY


def bake(rollout: Rollout, cause: Cause, now: float) -> Transition:
    """Everybody, but for those whom the plan holds back."""
    last = len(rollout.plan.steps) - 1
    after = enter(rollout, Phase.BAKING, now, step=last, weight_bp=rollout.plan.bake_bp, reason=cause.reason)
    return change(rollout, after, cause, "bake", place(after) + because(cause.reason), ResetEvidence("step"))


def finish(rollout: Rollout, cause: Cause, now: float) -> Transition:
    """Promoted: the pools swap roles, so that everybody stays where they are and the next rollout can begin."""
    new, old = canary_of(rollout), rollout.stable
    roles = {"stable": new, "canary": old, "weight_bp": 0, "settled": _settled(rollout, new)}
    after = leave(rollout, Phase.PROMOTED, ended_at=now, reason=cause.reason, **roles)
    return change(rollout, after, cause, "promoted", f"promoted: {new} is stable now, {old} stands by{because(cause.reason)}")


def promote(rollout: Rollout, event: Promote, now: float) -> Transition:
    """The first step, the next one, the bake, or promoted; whatever gate was before it."""
    cause = Cause(event.by, f"promoted by {event.by}")
    if rollout.is_baking:
        return finish(rollout, cause, now)
    if event.full:
        return bake(rollout, cause, now)
    return next_step(rollout, cause, now) if rollout.begun else begin(rollout, cause, now)


# --- Down ---


def rollback(rollout: Rollout, event: Rollback, now: float) -> Transition:
    """Everybody on the old version, because somebody asked."""
    return roll_back(rollout, Cause(event.by, event.reason or f"asked for by {event.by}"), now)


def fail_gate(rollout: Rollout, event: FailGate, now: float) -> Transition:
    """Everybody on the old version, because what it waited for will not come. Another gate than that: nothing."""
    if rollout.gate is not event.gate:
        return rollout, ()
    return roll_back(rollout, Cause(event.by, f"{event.gate} failed{because(event.reason)}"), now)


def roll_back(rollout: Rollout, cause: Cause, now: float) -> Transition:
    """Everybody on the old version."""
    old, new = rollout.stable, canary_of(rollout)
    if rollout.phase is Phase.PROMOTED:
        old, new = new, old
    roles = {"stable": old, "canary": new, "weight_bp": 0, "settled": _settled(rollout, new)}
    after = leave(rollout, Phase.ROLLED_BACK, ended_at=now, reason=cause.reason, **roles)
    return change(rollout, after, cause, "rollback", f"rolled back: all users to {old}{because(cause.reason)}")


def decline(rollout: Rollout, event: Rollback, now: float) -> Transition:
    """A canary that was not started is settled: it does not start by itself any more."""
    if rollout.canary is None or rollout.canary in rollout.settled:
        return nothing_to_roll_back(rollout, event, now)
    cause = Cause(event.by, event.reason or f"asked for by {event.by}")
    after = replace(rollout, settled=_settled(rollout, rollout.canary), reason=cause.reason)
    sentence = f"rolled back: {rollout.canary} does not start by itself, all users are on {rollout.stable} already"
    return change(rollout, after, cause, "rollback", sentence + because(cause.reason))


def nothing_to_roll_back(rollout: Rollout, event: Rollback, now: float) -> Transition:
    """The same record; the data plane and the disk are told once more, in case the first time failed."""
    sentence = f"rollback asked for while {rollout.phase}: all users are on {rollout.stable} already"
    data = {"by": event.by, "from": rollout.phase, "to": rollout.phase, "reason": event.reason}
    return rollout, (SetSplit(rollout.split), Record("rollback", sentence, data), Save())


def _settled(rollout: Rollout, pool: str) -> tuple[str, ...]:
    return (*(known for known in rollout.settled if known != pool), pool)[-_SETTLED:]


# --- Held ---


def pause(rollout: Rollout, event: Pause, now: float) -> Transition:
    """Held by hand at the weight it has; also what is paused already, so that a pause of the plan does not end by itself."""
    judged_so = rollout.phase is Phase.PAUSED and not rollout.hand_paused and rollout.gate is not Gate.PAUSE
    rollout = replace(rollout, waived=rollout.waived or judged_so)  # a resume waives what the judge has paused, as ever
    return hold(rollout, Cause(event.by, event.reason or f"paused by {event.by}"), by_hand=True)


def hold(rollout: Rollout, cause: Cause, *, by_hand: bool = False) -> Transition:
    """Held at the weight it has; `by_hand`: by an operator."""
    paused_from = rollout.paused_from or rollout.phase
    after = replace(rollout, phase=Phase.PAUSED, paused_from=paused_from, hand_paused=by_hand, reason=cause.reason)
    return change(rollout, after, cause, "pause", f"paused at {place(after)}{because(cause.reason)}")


def set_weight(rollout: Rollout, event: SetWeight, now: float) -> Transition:
    """Held at this weight, on the highest step that it reaches: `resume` goes on from that step, `promote` from the next.

    A gate is waited for no longer; after a resume it comes again, but for those before the first step.
    """
    weight_bp = event.weight_bp
    cause = Cause(event.by, f"weight set to {format_percent(weight_bp)} by {event.by}")
    if weight_bp == rollout.weight_bp:
        paused_from = rollout.paused_from or rollout.phase
        after = replace(rollout, phase=Phase.PAUSED, paused_from=paused_from, hand_paused=True, reason=cause.reason)
        after = replace(after, begun=True, gate=None, gate_held=0.0)
        return change(rollout, after, cause, "weight", cause.reason)
    step = max((n for n, rung in enumerate(rollout.plan.steps) if rung.weight_bp <= weight_bp), default=0)
    on = {"step": step, "weight_bp": weight_bp, "paused_from": Phase.PROGRESSING, "hand_paused": True}
    after = enter(rollout, Phase.PAUSED, now, reason=cause.reason, **on)
    return change(rollout, after, cause, "weight", cause.reason, ResetEvidence("step"))


def resume(rollout: Rollout, event: Resume, now: float) -> Transition:
    """Back to the phase and to the plan's weight for it; a weight that was set by hand ends here.

    A pause of the plan is over with it, a hook that is waited for is not. Before the first step nobody gets the canary by it.
    """
    phase = rollout.paused_from or Phase.PROGRESSING
    weight_bp = rollout.plan.bake_bp if phase is Phase.BAKING else rollout.plan.steps[rollout.step].weight_bp
    cause = Cause(event.by, f"resumed by {event.by}")
    if weight_bp == rollout.weight_bp or not rollout.begun:
        planned = rollout.gate is Gate.PAUSE
        kept = {"frozen": rollout.frozen, "begun": rollout.begun, "passed": rollout.passed, "reason": cause.reason}
        if planned:
            kept["passed"] = (*rollout.passed, Gate.PAUSE)
        else:
            kept |= {"gate": rollout.gate, "gate_held": rollout.gate_held}
        waived = rollout.waived or not (rollout.hand_paused or planned)
        after = leave(rollout, phase, waited=0.0, waived=waived, **kept)
        return change(rollout, after, cause, "resume", f"resumed at {place(after)}")
    after = enter(rollout, phase, now, weight_bp=weight_bp, reason=cause.reason)
    return change(rollout, after, cause, "resume", f"resumed at {place(after)}", ResetEvidence("step"))


# --- Frozen: stable itself is bad ---


def freeze(rollout: Rollout, verdict: Verdict, now: float) -> Transition:
    """Time stands still; on the weight before where the last step up may be what broke both (a pause by whomever stays)."""
    cause = judged(verdict)
    below = _rung_below(rollout)
    if verdict.action is Action.STEP_BACK and rollout.phase is not Phase.PAUSED and below is not None:
        to = {"step": below, "weight_bp": rollout.plan.steps[below].weight_bp, "frozen": True}
        after = enter(rollout, Phase.PROGRESSING, now, reason=cause.reason, **to)
        sentence = f"stepped back and frozen at {place(after)}{because(cause.reason)}"
        return change(rollout, after, cause, "step_back", sentence, ResetEvidence("step"))
    reason = rollout.reason if rollout.phase is Phase.PAUSED else cause.reason
    after = replace(rollout, frozen=True, reason=reason)
    return change(rollout, after, cause, "freeze", f"frozen at {place(after)}{because(cause.reason)}")


def thaw(rollout: Rollout, verdict: Verdict) -> Transition:
    """Time goes on; health is to be proven from here, for what was seen in an outage says nothing of it."""
    reason = waiting(rollout, rollout.gate) if rollout.gate else ""
    if rollout.phase is Phase.PAUSED:
        reason = rollout.reason
    after = replace(rollout, frozen=False, reason=reason)
    sentence = f"no longer frozen at {place(after)}: stable is well again"
    return change(rollout, after, judged(verdict), "thaw", sentence, ResetEvidence("step"))


def _rung_below(rollout: Rollout) -> int | None:
    """The highest step before this one (or before the bake) with a smaller weight."""
    before = rollout.step + (rollout.phase is Phase.BAKING)
    below = (n for n in reversed(range(before)) if rollout.plan.steps[n].weight_bp < rollout.weight_bp)
    return next(below, None)
