"""What each event does to a rollout, and the effects in their safe order. Pure; the handlers of `machine.TABLE`.

*Down first, then write; write first, then up*: a lowered share reaches the data plane before the disk, a raised one the disk
before the data plane. So whatever a kill interrupts, no more users are on the canary than the record knows. Evidence is reset
and the decision recorded before the `Save`, to be in its transaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from canaryproxy.analysis.describe import describe_verdict
from canaryproxy.analysis.verdict import Action, Verdict
from canaryproxy.config.quantities import format_duration, format_percent
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.model import (
    EVERYBODY,
    Effect,
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
    Tick,
)

Transition = tuple[Rollout, tuple[Effect, ...]]

#: Seconds in a step before the next but one may follow: twice the two minutes that leaks and periodic jobs take to show at all.
_CERTAIN_AFTER = 240.0


class Cause(NamedTuple):
    """Who decided and why; `verdict` when it was the analysis."""

    by: str
    reason: str = ""
    verdict: Verdict | None = None


# --- The two shapes of every change ---


def _change(before: Rollout, after: Rollout, cause: Cause, kind: str, sentence: str, *evidence: ResetEvidence) -> Transition:
    """`after` under the next revision, with the effects that make it true in the order that is safe."""
    after = replace(after, revision=before.revision + 1)
    data: dict[str, Any] = {"by": cause.by, "from": before.phase, "to": after.phase, "step": after.step + 1}
    data |= {"weight_bp": after.weight_bp, "stable": after.stable, "canary": after.canary, "reason": cause.reason}
    if cause.verdict is not None:
        data["verdict"] = describe_verdict(cause.verdict)
    write: tuple[Effect, ...] = (*evidence, Record(kind, sentence, data), Save())
    show = SetSplit(after.split)
    lowered = after.share_of(after.canary) < before.share_of(after.canary)
    if lowered or after.phase is Phase.ROLLED_BACK:
        return after, (show, *write)
    return after, write if after.split == before.split else (*write, show)


def _enter(rollout: Rollout, phase: Phase, now: float, **changes: Any) -> Rollout:
    """The rollout in `phase`, its dwell begun anew."""
    return _leave(rollout, phase, held=0.0, waited=0.0, step_entered_at=now, **changes)


def _leave(rollout: Rollout, phase: Phase, **changes: Any) -> Rollout:
    """The rollout in `phase`, nothing left of a pause, of a freeze or of what was noted in the step before."""
    clear = {"paused_from": None, "hand_paused": False, "waived": False, "warned": False, "frozen": False}
    return replace(rollout, phase=phase, **clear | changes)


def _canary(rollout: Rollout) -> str:
    if rollout.canary is None:
        raise IllegalTransitionError(f"route {rollout.route}", "has no canary pool", "name one with `canary:` in the file")
    return rollout.canary


def _place(rollout: Rollout) -> str:
    """Where it is, for people: `step 2 of 4: 5% of users to v2`."""
    baking = Phase.BAKING in (rollout.phase, rollout.paused_from)
    rung = "bake" if baking else f"step {rollout.step + 1} of {len(rollout.plan.steps)}"
    return f"{rung}: {format_percent(rollout.weight_bp)} of users to {rollout.canary}"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


# --- Up ---


def start(rollout: Rollout, event: Start | Retry, now: float) -> Transition:
    """The first step, from wherever it was."""
    _canary(rollout)
    kind, word = ("retry", "tried again") if isinstance(event, Retry) else ("start", "started")
    if rollout.in_progress:
        kind, word = "restart", "started anew"
    first = event.plan.steps[0].weight_bp
    begun = {"plan": event.plan, "salt": event.salt, "step": 0, "weight_bp": first, "started_at": now, "ended_at": None}
    after = _enter(rollout, Phase.PROGRESSING, now, reason="", **begun)
    # A new salt chooses other users. They must never get the old weight, not even for a moment: the old users leave first.
    stopped = replace(rollout, weight_bp=0)
    after, effects = _change(stopped, after, Cause(event.by), kind, f"{word}: {_place(after)}", ResetEvidence("rollout"))
    return after, effects if stopped == rollout else (SetSplit(stopped.split), *effects)


def _next_step(rollout: Rollout, cause: Cause, now: float, *, skip: bool = False) -> Transition:
    step = rollout.step + 1
    if step == len(rollout.plan.steps):
        return _bake(rollout, cause, now)
    skipped = f", step {step + 1} skipped" if skip else ""
    step += skip
    weight_bp = rollout.plan.steps[step].weight_bp
    after = _enter(rollout, Phase.PROGRESSING, now, step=step, weight_bp=weight_bp, reason=cause.reason)
    return _change(rollout, after, cause, "step", _place(after) + skipped + _because(cause.reason), ResetEvidence("step"))


def _may_skip(rollout: Rollout, verdict: Verdict) -> bool:
    """Whether the next step can be left out; the bake, or a step that has everybody already, is never what follows instead."""
    after_next = rollout.plan.steps[rollout.step + 2 :][:1]
    wanted = rollout.plan.skip_when_certain and verdict.certain and rollout.held >= _CERTAIN_AFTER
    return wanted and bool(after_next) and after_next[0].weight_bp < EVERYBODY


def _bake(rollout: Rollout, cause: Cause, now: float) -> Transition:
    last = len(rollout.plan.steps) - 1
    after = _enter(rollout, Phase.BAKING, now, step=last, weight_bp=EVERYBODY, reason=cause.reason)
    return _change(rollout, after, cause, "bake", _place(after) + _because(cause.reason), ResetEvidence("step"))


def _finish(rollout: Rollout, cause: Cause, now: float) -> Transition:
    """Promoted: the pools swap roles, so that everybody stays where they are and the next rollout can begin."""
    new, old = _canary(rollout), rollout.stable
    roles = {"stable": new, "canary": old, "weight_bp": 0, "settled": _settled(rollout, new)}
    after = _leave(rollout, Phase.PROMOTED, ended_at=now, reason=cause.reason, **roles)
    return _change(rollout, after, cause, "promoted", f"promoted: {new} is stable now, {old} stands by{_because(cause.reason)}")


def promote(rollout: Rollout, event: Promote, now: float) -> Transition:
    """The next step; everybody; or promoted."""
    cause = Cause(event.by, f"promoted by {event.by}")
    if Phase.BAKING in (rollout.phase, rollout.paused_from):
        return _finish(rollout, cause, now)
    return _bake(rollout, cause, now) if event.full else _next_step(rollout, cause, now)


# --- Down ---


def rollback(rollout: Rollout, event: Rollback, now: float) -> Transition:
    """Everybody on the old version, because somebody asked."""
    return _roll_back(rollout, Cause(event.by, event.reason or f"asked for by {event.by}"), now)


def _roll_back(rollout: Rollout, cause: Cause, now: float) -> Transition:
    old, new = rollout.stable, _canary(rollout)
    if rollout.phase is Phase.PROMOTED:
        old, new = new, old
    roles = {"stable": old, "canary": new, "weight_bp": 0, "settled": _settled(rollout, new)}
    after = _leave(rollout, Phase.ROLLED_BACK, ended_at=now, reason=cause.reason, **roles)
    return _change(rollout, after, cause, "rollback", f"rolled back: all users to {old}{_because(cause.reason)}")


def decline(rollout: Rollout, event: Rollback, now: float) -> Transition:
    """A canary that was not started is settled: it does not start by itself any more."""
    if rollout.canary is None or rollout.canary in rollout.settled:
        return nothing_to_roll_back(rollout, event, now)
    cause = Cause(event.by, event.reason or f"asked for by {event.by}")
    after = replace(rollout, settled=_settled(rollout, rollout.canary), reason=cause.reason)
    sentence = f"rolled back: {rollout.canary} does not start by itself, all users are on {rollout.stable} already"
    after, effects = _change(rollout, after, cause, "rollback", sentence + _because(cause.reason))
    return after, (SetSplit(after.split), *effects)


def nothing_to_roll_back(rollout: Rollout, event: Rollback, now: float) -> Transition:
    """The same record; the data plane and the disk are told once more, in case the first time failed."""
    sentence = f"rollback asked for while {rollout.phase}: all users are on {rollout.stable} already"
    data = {"by": event.by, "from": rollout.phase, "to": rollout.phase, "reason": event.reason}
    return rollout, (SetSplit(rollout.split), Record("rollback", sentence, data), Save())


def _settled(rollout: Rollout, pool: str) -> tuple[str, ...]:
    return tuple(sorted({*rollout.settled, pool}))


# --- Held ---


def pause(rollout: Rollout, event: Pause, now: float) -> Transition:
    """Held by hand at the weight it has."""
    return _hold(rollout, Cause(event.by, event.reason or f"paused by {event.by}"), by_hand=True)


def _hold(rollout: Rollout, cause: Cause, *, by_hand: bool = False) -> Transition:
    after = replace(rollout, phase=Phase.PAUSED, paused_from=rollout.phase, hand_paused=by_hand, reason=cause.reason)
    return _change(rollout, after, cause, "pause", f"paused at {_place(after)}{_because(cause.reason)}")


def set_weight(rollout: Rollout, event: SetWeight, now: float) -> Transition:
    """Held at this weight, on the highest step that it reaches: `resume` goes on from that step, `promote` from the next."""
    weight_bp = event.weight_bp
    cause = Cause(event.by, f"weight set to {format_percent(weight_bp)} by {event.by}")
    if weight_bp == rollout.weight_bp:
        paused_from = rollout.paused_from or rollout.phase
        after = replace(rollout, phase=Phase.PAUSED, paused_from=paused_from, hand_paused=True, reason=cause.reason)
        return _change(rollout, after, cause, "weight", cause.reason)
    step = max((n for n, rung in enumerate(rollout.plan.steps) if rung.weight_bp <= weight_bp), default=0)
    on = {"step": step, "weight_bp": weight_bp, "paused_from": Phase.PROGRESSING, "hand_paused": True}
    after = _enter(rollout, Phase.PAUSED, now, reason=cause.reason, **on)
    return _change(rollout, after, cause, "weight", cause.reason, ResetEvidence("step"))


def resume(rollout: Rollout, event: Resume, now: float) -> Transition:
    """Back to the phase and to the plan's weight for it; a weight that was set by hand ends here."""
    phase = rollout.paused_from or Phase.PROGRESSING
    weight_bp = EVERYBODY if phase is Phase.BAKING else rollout.plan.steps[rollout.step].weight_bp
    cause = Cause(event.by, f"resumed by {event.by}")
    if weight_bp == rollout.weight_bp:
        waived = rollout.waived or not rollout.hand_paused
        after = _leave(rollout, phase, waited=0.0, waived=waived, frozen=rollout.frozen, reason=cause.reason)
        return _change(rollout, after, cause, "resume", f"resumed at {_place(after)}")
    after = _enter(rollout, phase, now, weight_bp=weight_bp, reason=cause.reason)
    return _change(rollout, after, cause, "resume", f"resumed at {_place(after)}", ResetEvidence("step"))


# --- Frozen: stable itself is bad ---


def _freeze(rollout: Rollout, verdict: Verdict, now: float) -> Transition:
    """Time stands still; on the weight before where the last step up may be what broke both (a pause by whomever stays)."""
    cause = _judged(verdict)
    below = _rung_below(rollout)
    if verdict.action is Action.STEP_BACK and rollout.phase is not Phase.PAUSED and below is not None:
        to = {"step": below, "weight_bp": rollout.plan.steps[below].weight_bp, "frozen": True}
        after = _enter(rollout, Phase.PROGRESSING, now, reason=cause.reason, **to)
        sentence = f"stepped back and frozen at {_place(after)}{_because(cause.reason)}"
        return _change(rollout, after, cause, "step_back", sentence, ResetEvidence("step"))
    reason = rollout.reason if rollout.phase is Phase.PAUSED else cause.reason
    after = replace(rollout, frozen=True, reason=reason)
    return _change(rollout, after, cause, "freeze", f"frozen at {_place(after)}{_because(cause.reason)}")


def _thaw(rollout: Rollout, verdict: Verdict) -> Transition:
    """Time goes on; health is to be proven from here, for what was seen in an outage says nothing of it."""
    reason = rollout.reason if rollout.phase is Phase.PAUSED else ""
    after = replace(rollout, frozen=False, reason=reason)
    sentence = f"no longer frozen at {_place(after)}: stable is well again"
    return _change(rollout, after, _judged(verdict), "thaw", sentence, ResetEvidence("step"))


def _rung_below(rollout: Rollout) -> int | None:
    """The highest step before this one (or before the bake) with a smaller weight."""
    before = rollout.step + (rollout.phase is Phase.BAKING)
    below = (n for n in reversed(range(before)) if rollout.plan.steps[n].weight_bp < rollout.weight_bp)
    return next(below, None)


# --- Ticks: harm first, then a freeze, then doubt, then health ---


def tick_step(rollout: Rollout, tick: Tick, now: float) -> Transition:
    """Rolled back, frozen, paused, the next step, inconclusive, or the same step a little longer."""
    if interrupted := _interrupted(rollout, tick, now):
        return interrupted
    rollout = replace(rollout, held=rollout.held + tick.elapsed, waited=rollout.waited + tick.elapsed)
    healthy = tick.verdict.action is Action.PROMOTE
    if healthy and rollout.held >= rollout.dwell:
        return _next_step(rollout, _judged(tick.verdict), now, skip=_may_skip(rollout, tick.verdict))
    if not healthy and rollout.waited > rollout.plan.max_step_duration:
        return _inconclusive(rollout, tick.verdict, now)
    return _noted(rollout, tick.verdict)


def tick_bake(rollout: Rollout, tick: Tick, now: float) -> Transition:
    """Rolled back, frozen, paused, promoted when the time is over and health proven, inconclusive, or baking a little longer."""
    if interrupted := _interrupted(rollout, tick, now):
        return interrupted
    rollout = replace(rollout, held=rollout.held + tick.elapsed)
    if rollout.held < rollout.dwell:
        return _noted(rollout, tick.verdict)
    if tick.verdict.action is Action.PROMOTE:
        return _finish(rollout, _judged(tick.verdict), now)
    rollout = replace(rollout, waited=rollout.waited + tick.elapsed)
    if rollout.waited > rollout.plan.max_step_duration:
        return _inconclusive(rollout, tick.verdict, now)
    return _noted(rollout, tick.verdict)


def tick_paused(rollout: Rollout, tick: Tick, now: float) -> Transition:
    """Rolled back on harm, frozen or no longer; otherwise time stands still."""
    return _outranked(rollout, tick, now) or (rollout, ())


def rest(rollout: Rollout, tick: Tick, now: float) -> Transition:
    """The same: nothing happens by itself here."""
    return rollout, ()


def _outranked(rollout: Rollout, tick: Tick, now: float) -> Transition | None:
    """What comes before everything else in every phase with users on the canary: harm, and the beginning and end of a freeze."""
    if tick.verdict.action is Action.ROLLBACK:
        return _roll_back(rollout, _judged(tick.verdict), now)
    if tick.verdict.action in (Action.FREEZE, Action.STEP_BACK):
        return (rollout, ()) if rollout.frozen else _freeze(rollout, tick.verdict, now)
    return _thaw(rollout, tick.verdict) if rollout.frozen else None


def _interrupted(rollout: Rollout, tick: Tick, now: float) -> Transition | None:
    if outranked := _outranked(rollout, tick, now):
        return outranked
    if tick.verdict.action is Action.PAUSE and not rollout.waived:
        return _hold(rollout, _judged(tick.verdict))
    return None


def _inconclusive(rollout: Rollout, verdict: Verdict, now: float) -> Transition:
    limit = format_duration(rollout.plan.max_step_duration)
    span = f"{limit} beyond the bake" if rollout.phase is Phase.BAKING else limit
    cause = Cause("analysis", f"no evidence either way within {span}: {verdict.sentence}", verdict)
    match rollout.plan.on_inconclusive:
        case OnInconclusive.ROLLBACK:
            return _roll_back(rollout, cause, now)
        case OnInconclusive.PAUSE:
            return _hold(rollout, cause)
        case OnInconclusive.EXTEND:
            after = replace(rollout, waited=0.0, reason=cause.reason)
            return _change(rollout, after, cause, "extend", f"extended by {limit} at {_place(after)}{_because(cause.reason)}")


def _noted(rollout: Rollout, verdict: Verdict) -> Transition:
    """Going on as it is; a breach that only warns (or whose pause was waived) is put on record once for each step."""
    if verdict.action not in (Action.WARN, Action.PAUSE) or rollout.warned:
        return rollout, ()
    return _change(
        rollout, replace(rollout, warned=True), _judged(verdict), "warning", f"warning at {_place(rollout)}: {verdict.sentence}"
    )


def _judged(verdict: Verdict) -> Cause:
    return Cause("analysis", verdict.sentence, verdict)
