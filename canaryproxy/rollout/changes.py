"""The shapes that every change of a rollout has: a record, its cause in words, and the effects in their safe order. Pure.

*Down first, then write; write first, then up*: a lowered share reaches the data plane before the disk, a raised one the disk
before the data plane. So whatever a kill interrupts, no more users are on the canary than the record knows. Evidence is reset
and the decision recorded before the `Save`, to be in its transaction. Called by the handlers (`gates`, `moves`, `ticks`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from canaryproxy.analysis.describe import describe_verdict
from canaryproxy.analysis.verdict import Verdict
from canaryproxy.config.quantities import format_percent
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.model import Effect, Phase, Record, ResetEvidence, Rollout, Save, SetSplit

_NO_CANARY = "canaryproxy start --canary URL --version V deploys one; or name one with `canary:` in the file"

Transition = tuple[Rollout, tuple[Effect, ...]]


class Cause(NamedTuple):
    """Who decided and why; `verdict` when it was the analysis."""

    by: str
    reason: str = ""
    verdict: Verdict | None = None


def judged(verdict: Verdict) -> Cause:
    """The cause that a verdict is."""
    return Cause("analysis", verdict.sentence, verdict)


def change(before: Rollout, after: Rollout, cause: Cause, kind: str, sentence: str, *evidence: ResetEvidence) -> Transition:
    """`after` under the next revision, with the effects that make it true in the order that is safe."""
    after = replace(after, revision=before.revision + 1)
    data: dict[str, Any] = {"by": cause.by, "from": before.phase, "to": after.phase, "step": after.step + 1}
    data |= {"weight_bp": after.weight_bp, "stable": after.stable, "canary": after.canary, "reason": cause.reason}
    data |= {"gate": after.gate}
    if cause.verdict is not None:
        data["verdict"] = describe_verdict(cause.verdict)
    write: tuple[Effect, ...] = (*evidence, Record(kind, sentence, data), Save())
    show = SetSplit(after.split)
    # What a promotion promotes is stable after it.
    trial = before.canary if after.phase is Phase.PROMOTED else after.canary
    lowered = after.share_of(trial) < before.share_of(trial)
    if lowered or kind == "rollback":
        return after, (show, *write)
    return after, write if after.split == before.split else (*write, show)


def enter(rollout: Rollout, phase: Phase, now: float, **changes: Any) -> Rollout:
    """The rollout in `phase`, its dwell begun anew."""
    return leave(rollout, phase, held=0.0, waited=0.0, step_entered_at=now, **changes)


def leave(rollout: Rollout, phase: Phase, **changes: Any) -> Rollout:
    """The rollout in `phase`, nothing left of a pause, a gate, a freeze or of what was noted in the step before.

    One that was overdue has its time again: whoever moves it on knows.
    """
    clear: dict[str, Any] = {"paused_from": None, "hand_paused": False, "waived": False, "warned": False, "frozen": False}
    clear |= {"begun": True, "gate": None, "gate_held": 0.0, "passed": ()}
    clear |= {"lasted": 0.0} if rollout.is_overdue else {}
    return replace(rollout, phase=phase, **clear | changes)


def canary_of(rollout: Rollout) -> str:
    """The canary pool; raises IllegalTransitionError where there is none."""
    if rollout.canary is None:
        raise IllegalTransitionError(f"route {rollout.route}", "has no canary pool", _NO_CANARY)
    return rollout.canary


def place(rollout: Rollout) -> str:
    """Where it is, for people: `step 2 of 4: 5% of users to v2`."""
    rung = "bake" if rollout.is_baking else f"step {rollout.step + 1} of {len(rollout.plan.steps)}"
    return f"{rung}: {format_percent(rollout.weight_bp)} of users to {rollout.canary}"


def because(reason: str) -> str:
    """The reason in brackets, with the space before it; nothing for none."""
    return f" ({reason})" if reason else ""
