"""What the record has forgotten and the mark beside it knows: a rollback that no disk took, a state file lost or set back.

Called by `control.recovery`. A mark is newer than the record after a kill of everything while the store failed, or when
somebody emptied, removed or restored the state file or removed its -wal. Then the canary is never given more than is safe:
rolled back stays rolled back, promoted stays promoted, and a canary of which nothing is known does not start by itself.
"""

from __future__ import annotations

from dataclasses import replace

from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Event, Phase, Promote, Record, Rollback, Rollout
from canaryproxy.store.marks import End, Mark

_BY = "recovery"
_UNSAVED = "it had been rolled back, which the record does not have: a rollback is never undone by a restart"
_OTHER = "the record is older than what was in force, of a rollout that had ended: the state file was set back"
_SET_BACK = "it had been promoted, and the record is older: the state file was set back, or its -wal removed"
_LOST = "its record is lost, the state file was removed or emptied; its last rollout {}; start it by hand"
_ENDS = {
    End.OPEN: "had not ended",
    End.PROMOTED: "was promoted: see which pool the file calls stable",
    End.ROLLED_BACK: "was rolled back",
    End.TAKEN: "was taken off the workers",
}


def mark_of(rollout: Rollout) -> Mark:
    """The mark of a rollout as it is."""
    ends = {Phase.PROMOTED: End.PROMOTED, Phase.ROLLED_BACK: End.ROLLED_BACK}
    return Mark(rollout.revision, rollout.salt, ends.get(rollout.phase, End.OPEN))


def remember(rollout: Rollout, mark: Mark | None, now: float, *, lost: bool) -> tuple[Rollout, tuple[Record, ...]]:
    """The rollout as it has to be after what is only marked, and what to put on record. `lost`: it has no record at all."""
    if mark is None or not (lost or rollout.revision < mark.revision):
        return rollout, ()
    events = _events(rollout, mark, lost)
    if events:  # what follows is newer than all that was known
        again = not lost and mark.end >= End.ROLLED_BACK and rollout.salt == mark.salt  # the same decision: the same number
        rollout = replace(rollout, salt=mark.salt if lost else rollout.salt, revision=mark.revision - again)
    records: list[Record] = []
    for event in events:
        rollout, effects = advance(rollout, event, now)
        records += [effect for effect in effects if isinstance(effect, Record)]
    return rollout, tuple(records)


def _events(rollout: Rollout, mark: Mark, lost: bool) -> tuple[Event, ...]:
    """What has to happen again, if anything."""
    if lost and mark == (1, mark.salt, End.TAKEN):
        return ()  # nothing was ever recorded of it
    if lost:
        return (Rollback(_LOST.format(_ENDS[mark.end]), _BY),) if rollout.canary is not None else ()
    same = rollout.salt == mark.salt
    if mark.end is End.TAKEN and same and rollout.phase is Phase.IDLE:
        return ()  # only beta groups could be on it
    if mark.end >= End.ROLLED_BACK and (rollout.phase is Phase.IDLE or (same and rollout.phase is not Phase.ROLLED_BACK)):
        return (Rollback(_UNSAVED, _BY),)
    if rollout.in_progress and not same:
        return (Rollback(_OTHER, _BY),)
    if rollout.in_progress and mark.end is End.PROMOTED:
        baking = Phase.BAKING in (rollout.phase, rollout.paused_from)
        return (Promote(by=f"{_BY}: {_SET_BACK}"),) if baking else (Promote(full=True, by=_BY), Promote(by=f"{_BY}: {_SET_BACK}"))
    return ()
