"""What a tick of the analysis does: harm first, then a freeze, then doubt, then health. Pure; handlers of `machine.TABLE`."""

from __future__ import annotations

from dataclasses import replace

from canaryproxy.analysis.verdict import Action, Verdict
from canaryproxy.config.quantities import format_duration
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.rollout import gates, moves
from canaryproxy.rollout.changes import Cause, Transition, because, change, judged, place
from canaryproxy.rollout.model import Gate, Phase, Rollout, Tick


def tick_step(rollout: Rollout, tick: Tick, now: float) -> Transition:
    """Rolled back, frozen, paused, at the next gate or step, inconclusive, or in the same step a little longer."""
    if interrupted := _interrupted(rollout, tick, now):
        return interrupted
    rollout, verdict = _aged(rollout, tick.elapsed), tick.verdict
    if rollout.is_overdue:
        return _overdue(rollout, verdict, now)
    healthy = verdict.action is Action.PROMOTE
    if rollout.gate is not None:
        return _noted(rollout, verdict)
    if not rollout.begun and tick.elapsed:  # a tick of no time raises nothing (a deploy is handed over)
        return _gate_or_none(rollout, Cause("plan")) or moves.begin(rollout, Cause("plan"), now)
    if healthy and rollout.held >= rollout.dwell:
        skip = moves.may_skip(rollout, verdict)
        return _gate_or_none(rollout, judged(verdict)) or moves.next_step(rollout, judged(verdict), now, skip=skip)
    if not healthy and rollout.waited > rollout.plan.max_step_duration:
        return _inconclusive(rollout, verdict, now)
    return _noted(rollout, verdict)


def tick_bake(rollout: Rollout, tick: Tick, now: float) -> Transition:
    """Rolled back, frozen, paused, promoted or at the gate before it when the time is over and health proven, inconclusive, or
    baking a little longer."""
    if interrupted := _interrupted(rollout, tick, now):
        return interrupted
    rollout, verdict = _aged(rollout, tick.elapsed), tick.verdict
    if rollout.is_overdue:
        return _overdue(rollout, verdict, now)
    if rollout.gate is not None or rollout.held < rollout.dwell:
        return _noted(rollout, verdict)
    if verdict.action is Action.PROMOTE:
        return _gate_or_none(rollout, judged(verdict)) or moves.finish(rollout, judged(verdict), now)
    if rollout.waited > rollout.plan.max_step_duration:
        return _inconclusive(rollout, verdict, now)
    return _noted(rollout, verdict)


def tick_paused(rollout: Rollout, tick: Tick, now: float) -> Transition:
    """Rolled back on harm, frozen or no longer, rolled back when overdue, or the end of the plan's own pause; else time stands
    still."""
    if outranked := _outranked(rollout, tick, now):
        return outranked
    if rollout.hand_paused:
        return rollout, ()
    rollout = _aged(rollout, tick.elapsed)
    if rollout.is_overdue and rollout.plan.on_inconclusive is OnInconclusive.ROLLBACK:
        return _overdue(rollout, tick.verdict, now)
    duration = rollout.plan.steps[rollout.step].pause
    if rollout.gate is Gate.PAUSE and duration and rollout.gate_held >= duration:
        return gates.opened(rollout, Gate.PAUSE, Cause("plan"))
    return rollout, ()


def rest(rollout: Rollout, tick: Tick, now: float) -> Transition:
    """The same: nothing happens by itself here."""
    return rollout, ()


def _outranked(rollout: Rollout, tick: Tick, now: float) -> Transition | None:
    """What comes before everything else in every phase with users on the canary: harm, and the beginning and end of a freeze."""
    if tick.verdict.action is Action.ROLLBACK:
        return moves.roll_back(rollout, judged(tick.verdict), now)
    if tick.verdict.action in (Action.FREEZE, Action.STEP_BACK):
        return (rollout, ()) if rollout.frozen else moves.freeze(rollout, tick.verdict, now)
    return moves.thaw(rollout, tick.verdict) if rollout.frozen else None


def _interrupted(rollout: Rollout, tick: Tick, now: float) -> Transition | None:
    if outranked := _outranked(rollout, tick, now):
        return outranked
    if tick.verdict.action is Action.PAUSE and not rollout.waived:
        return moves.hold(rollout, judged(tick.verdict))
    return None


def _aged(rollout: Rollout, elapsed: float) -> Rollout:
    """The rollout so much later. What is spent at a gate or paused is neither dwell nor a wait for evidence."""
    rollout = replace(rollout, lasted=rollout.lasted + elapsed)
    if rollout.gate is not None:
        return replace(rollout, gate_held=rollout.gate_held + elapsed)
    if rollout.phase is Phase.PAUSED or not rollout.begun:
        return rollout
    rollout = replace(rollout, held=rollout.held + elapsed)
    if rollout.phase is Phase.BAKING and rollout.held < rollout.dwell:
        return rollout
    return replace(rollout, waited=rollout.waited + elapsed)


def _gate_or_none(rollout: Rollout, cause: Cause) -> Transition | None:
    gate = gates.next_gate(rollout)
    return None if gate is None else gates.wait_for(rollout, gate, cause)


def _overdue(rollout: Rollout, verdict: Verdict, now: float) -> Transition:
    limit = format_duration(rollout.plan.max_duration)
    cause = Cause("plan", f"not finished within {limit}: {verdict.sentence}", verdict)
    if rollout.plan.on_inconclusive is OnInconclusive.ROLLBACK:
        return moves.roll_back(rollout, cause, now)
    return moves.hold(rollout, cause)


def _inconclusive(rollout: Rollout, verdict: Verdict, now: float) -> Transition:
    limit = format_duration(rollout.plan.max_step_duration)
    span = f"{limit} beyond the bake" if rollout.phase is Phase.BAKING else limit
    cause = Cause("analysis", f"no evidence either way within {span}: {verdict.sentence}", verdict)
    match rollout.plan.on_inconclusive:
        case OnInconclusive.ROLLBACK:
            return moves.roll_back(rollout, cause, now)
        case OnInconclusive.PAUSE:
            return moves.hold(rollout, cause)
        case OnInconclusive.EXTEND:
            after = replace(rollout, waited=0.0, reason=cause.reason)
            return change(rollout, after, cause, "extend", f"extended by {limit} at {place(after)}{because(cause.reason)}")


def _noted(rollout: Rollout, verdict: Verdict) -> Transition:
    """Going on as it is; a breach that only warns (or whose pause was waived) is put on record once for each step."""
    if verdict.action not in (Action.WARN, Action.PAUSE) or rollout.warned:
        return rollout, ()
    return change(
        rollout, replace(rollout, warned=True), judged(verdict), "warning", f"warning at {place(rollout)}: {verdict.sentence}"
    )
