"""The rollout's state machine: one table of what may happen, and what follows. Pure; called by `control.controller`.

`advance(rollout, event, now) -> (rollout, effects)`; the handlers are in `rollout.moves` (verbs), `ticks` and `gates`. The
order of the effects is part of the decision. `docs/state-machine.md` is written from the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout import gates, moves, ticks
from canaryproxy.rollout.changes import Transition
from canaryproxy.rollout.model import (
    Event,
    FailGate,
    OpenGate,
    Pause,
    Phase,
    Promote,
    Resume,
    Retry,
    Rollback,
    Rollout,
    SetWeight,
    Start,
    Tick,
)


class Rule(NamedTuple):
    """What answers an event in a phase, and every phase it can lead to (first the usual one)."""

    handler: Callable[[Rollout, Any, float], Transition]
    to: tuple[Phase, ...]


_IDLE, _PROGRESSING, _PAUSED = Phase.IDLE, Phase.PROGRESSING, Phase.PAUSED
_BAKING, _PROMOTED, _ROLLED_BACK = Phase.BAKING, Phase.PROMOTED, Phase.ROLLED_BACK

# 1. A rollback is legal in every phase. Where there is nothing to take back it only keeps the canary from starting by itself.
#    It is also armed in every phase that has users on the canary: no pause, gate, hold, freeze or bake keeps a tick with harm
#    from it.
# 2. Harm outranks doubt, doubt outranks health: rollback, freeze, pause, next step, inconclusive, in this order.
# 3. A step, and the bake, ends with its dwell *and* evidence of health, never with time alone. Without evidence it ends as
#    inconclusive: a step after max_step_duration altogether, a bake so long after its own time. With far more evidence than
#    needed one step can be left out where the plan allows it, but nobody gets to 100 % that way.
# 4. What was paused, by the judge or by hand, goes on only by hand. Time does not count while paused. A pause of the plan that
#    has a duration goes on by itself, unless somebody pauses then; and a rollout that takes longer than max_duration is as
#    inconclusive as a step may be.
# 5. Rolled back stays rolled back until somebody starts or retries; no tick leaves idle, promoted or rolled_back.
# 6. A start while one is in progress is a new version: from the first step, with the new salt, the old users out first.
# 7. Promotion swaps the roles of the pools; a rollback from promoted swaps them back.
# 8. Where stable itself is bad nothing can be learnt: frozen, in whichever phase, it goes on by itself when stable is well, and
#    has to prove its health anew. If it began right after a step up, the weight before comes back first, once.
# 9. A gate is no phase: the rollout waits where it is, with nobody on the canary before its first step, until a hook has said
#    yes, or an operator leaves it out. What is said of a gate that is not waited for changes nothing, in any phase.
TABLE: dict[tuple[Phase, type[Event]], Rule] = {
    (_IDLE, Start): Rule(moves.start, (_PROGRESSING,)),
    (_IDLE, Rollback): Rule(moves.decline, (_IDLE,)),
    (_IDLE, Tick): Rule(ticks.rest, (_IDLE,)),
    (_PROGRESSING, Tick): Rule(ticks.tick_step, (_PROGRESSING, _BAKING, _PAUSED, _ROLLED_BACK)),
    (_PROGRESSING, Pause): Rule(moves.pause, (_PAUSED,)),
    (_PROGRESSING, Promote): Rule(moves.promote, (_PROGRESSING, _BAKING)),
    (_PROGRESSING, SetWeight): Rule(moves.set_weight, (_PAUSED,)),
    (_PROGRESSING, Start): Rule(moves.start, (_PROGRESSING,)),
    (_PROGRESSING, Rollback): Rule(moves.rollback, (_ROLLED_BACK,)),
    (_PROGRESSING, OpenGate): Rule(gates.open_gate, (_PROGRESSING,)),
    (_PROGRESSING, FailGate): Rule(moves.fail_gate, (_ROLLED_BACK, _PROGRESSING)),
    (_PAUSED, Tick): Rule(ticks.tick_paused, (_PAUSED, _PROGRESSING, _ROLLED_BACK)),
    (_PAUSED, Pause): Rule(moves.pause, (_PAUSED,)),
    (_PAUSED, Resume): Rule(moves.resume, (_PROGRESSING, _BAKING)),
    (_PAUSED, Promote): Rule(moves.promote, (_PROGRESSING, _BAKING, _PROMOTED)),
    (_PAUSED, SetWeight): Rule(moves.set_weight, (_PAUSED,)),
    (_PAUSED, Start): Rule(moves.start, (_PROGRESSING,)),
    (_PAUSED, Rollback): Rule(moves.rollback, (_ROLLED_BACK,)),
    (_PAUSED, OpenGate): Rule(gates.open_gate, (_PAUSED, _PROGRESSING)),
    (_PAUSED, FailGate): Rule(moves.fail_gate, (_ROLLED_BACK, _PAUSED)),
    (_BAKING, Tick): Rule(ticks.tick_bake, (_BAKING, _PROMOTED, _PAUSED, _PROGRESSING, _ROLLED_BACK)),
    (_BAKING, Pause): Rule(moves.pause, (_PAUSED,)),
    (_BAKING, Promote): Rule(moves.promote, (_PROMOTED,)),
    (_BAKING, SetWeight): Rule(moves.set_weight, (_PAUSED,)),
    (_BAKING, Start): Rule(moves.start, (_PROGRESSING,)),
    (_BAKING, Rollback): Rule(moves.rollback, (_ROLLED_BACK,)),
    (_BAKING, OpenGate): Rule(gates.open_gate, (_BAKING,)),
    (_BAKING, FailGate): Rule(moves.fail_gate, (_ROLLED_BACK, _BAKING)),
    (_PROMOTED, Start): Rule(moves.start, (_PROGRESSING,)),
    (_PROMOTED, Rollback): Rule(moves.rollback, (_ROLLED_BACK,)),
    (_PROMOTED, Tick): Rule(ticks.rest, (_PROMOTED,)),
    (_ROLLED_BACK, Retry): Rule(moves.start, (_PROGRESSING,)),
    (_ROLLED_BACK, Start): Rule(moves.start, (_PROGRESSING,)),
    (_ROLLED_BACK, Rollback): Rule(moves.nothing_to_roll_back, (_ROLLED_BACK,)),
    (_ROLLED_BACK, Tick): Rule(ticks.rest, (_ROLLED_BACK,)),
} | {(phase, event): Rule(ticks.rest, (phase,)) for phase in (_IDLE, _PROMOTED, _ROLLED_BACK) for event in (OpenGate, FailGate)}

#: The operators' word for each event; a tick and a hook's answer have none.
VERBS: dict[type[Event], str] = {
    Start: "start",
    Pause: "pause",
    Resume: "resume",
    Promote: "promote",
    SetWeight: "set-weight",
    Retry: "retry",
    Rollback: "rollback",
}
_WORDS: dict[type[Event], str] = VERBS | {Tick: "tick", OpenGate: "gate opens", FailGate: "gate fails"}


def advance(rollout: Rollout, event: Event, now: float) -> Transition:
    """The rollout after `event` at wall time `now`, and the effects to perform in their order.

    Raises IllegalTransitionError, which names the verbs that are possible, for what the table does not have.
    """
    rule = TABLE.get((rollout.phase, type(event)))
    if rule is None:
        raise IllegalTransitionError(
            f"route {rollout.route}",
            f"cannot {_WORDS[type(event)]} while {rollout.phase}",
            f"possible now: {', '.join(verbs(rollout.phase))}",
        )
    return rule.handler(rollout, event, now)


def verbs(phase: Phase) -> tuple[str, ...]:
    """The verbs that are possible in `phase`."""
    return tuple(VERBS[event] for at, event in TABLE if at is phase and event in VERBS)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    edges: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, event), rule in TABLE.items():
        for target in rule.to:
            if event in VERBS or target is not phase:
                edges.setdefault((phase, target), []).append(_WORDS[event])
    arrows = [f"    {a} --> {b}: {', '.join(words)}" for (a, b), words in edges.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> idle", *arrows]) + "\n"


def document() -> str:
    """The text of `docs/state-machine.md`."""
    head = "# The rollout's state machine\n\n"
    head += "Written from the table in `canaryproxy/rollout/machine.py` by its `document()`; a test compares.\n"
    possible = "".join(f"| {phase} | {', '.join(verbs(phase))} |\n" for phase in Phase)
    return f"{head}\n```mermaid\n{diagram()}```\n\n{_NOTES}\n| phase | possible |\n|---|---|\n{possible}"


_NOTES = """\
A *tick* is the analysis speaking, about once a second. Ticks that stay in their phase are not drawn; one of them, in
`progressing`, is the next step (or, where `skip_steps_when_certain` allows it, the next but one).

*Frozen* is no phase of its own: while stable itself is bad, `progressing`, `paused` and `baking` stand still, and go on by
themselves when it is well again. If that began right after a step up, the canary may be what broke both: the weight before
comes back first, from `baking` the last step's.

A *gate* is no phase either. Where the route has hooks of these types, a rollout waits for all of a type to say yes:
`confirm_rollout`, `pre_rollout` and `confirm_step`, in this order, with nobody on the canary before its first step;
`confirm_step` before each further raise, the one to the bake included; `confirm_promotion` before the promotion. It comes to a
gate when the step (or the bake) is over with its evidence, and while it waits, time is neither dwell nor a search for evidence.
A `{pause: {}}` of the plan comes first, in phase `paused`, until `resume` or for its duration; a `pause` by hand meanwhile keeps
it from ending by itself. After a gate was opened the next tick goes on, if it says that the canary is healthy then. All the while
harm rolls back, a freeze freezes and a finding pauses.
A hook that says no for good (`pre_rollout`) rolls back. `promote` leaves every gate out; `set-weight` and `start` clear it.

`max_duration` counts the time in progress, gates included, without freezes and pauses by hand. Once it is over, the rollout does
what `on_inconclusive` says (`extend` pauses too), and has as long again when somebody moves it on.

What the analysis has paused goes on only by hand, although the finding may fade: a harm that was proven and that nobody has
looked at is not gone because it is no longer seen, and a rollout that pauses and resumes by itself moves with nobody deciding.
Nor does a pause end in a rollback by time alone: it is armed all the while, and more evidence rolls it back like any other.
"""
