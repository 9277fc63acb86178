"""What must be true whatever was killed. Each takes a life, and raises `BrokenError` with what it saw."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise

from .life import BEGINS, Life, Strike, Told
from .record import Look, Record

#: Seconds between two saves of the evidence and the dwell, and what a loaded machine may add.
_CHECKPOINT = 5.0 + 2.5
#: Seconds after which whoever was asked to end has ended, and nobody is served by old roles any more.
_GRACE = 3.0
#: Seconds from the answer to a deploy to its start, at most.
_HAND_OVER = 20.0
_DOWN = ("supervisor", "all")


class BrokenError(AssertionError):
    """An invariant does not hold."""


def _require(holds: object, what: str) -> None:
    if not holds:
        raise BrokenError(what)


def no_more_than_recorded(life: Life) -> int:
    """Nobody was answered by a version that no record on disk gave them at that time. User by user."""
    checked = 0
    for request in life.traffic.requests:
        if not request.version:
            continue
        known = life.watcher.possible(request.began, request.ended)
        allowed = any(record.allows(request.version, request.user) if record else request.version == "v1" for record in known)
        if any(record is not None and record.phase == "promoted" and record.canary == request.version for record in known):
            allowed |= any(told.verb == "rollback" and told.sent < request.ended for told in life.told)  # down first, then write
        _require(allowed, f"{request} was answered by {request.version}, and no record allowed it: {known}")
        checked += 1
    return checked


def no_lost_rollback(life: Life) -> int:
    """A rollback that was answered, or that a user has felt, is in force, and nobody reached what was rolled back since."""
    checked = 0
    for told in life.told:
        if told.verb != "rollback" or told.refused:
            continue
        begun = [other for other in life.told if other.verb in BEGINS and not other.refused and _may_follow(other, told)]
        if begun:
            continue
        victim = _rolled_back(life, told)
        if victim is None:
            continue
        checked += 1
        since = told.answered or max((strike.again for strike in life.strikes), default=0.0)
        late = [request for request in life.traffic.requests if request.began > since and request.version == victim]
        _require(not late, f"{told}, and then {len(late)} requests reached {victim}, the first {late[:1]}")
        for strike in _after(life, told.answered or told.sent):
            if strike.after is not None:
                phase = strike.after["phase"]
                _require(phase in ("rolled_back", "idle"), f"{told} was lost by {strike.victim} {strike.aim}: then {phase}")
    return checked


def _may_follow(other: Told, told: Told) -> bool:
    """Whether this may have been decided after that: no answer, or a later one; a deploy's start comes after its answer."""
    later = _HAND_OVER if other.verb == "deploy" else 0.0
    return other.answered + later > told.sent or not other.answered


def _rolled_back(life: Life, told: Told) -> str | None:
    """The version that has no users after this rollback; None where nobody can know that it was decided."""
    if told.answer is not None:
        return str(told.answer["canary"]["pool"])
    if told.answered or not life.strikes:
        return None
    ended = min((strike.at for strike in life.strikes if strike.at >= told.sent), default=0.0)
    for request in life.traffic.requests:  # who was on v2 by every record, and was not
        if request.version == "v1" and told.sent < request.began and request.ended < ended:
            known = life.watcher.possible(request.began, request.ended)
            if all(record is not None and record.canary == "v2" and record.has_seat(request.user) for record in known):
                lowered = [other for other in life.told if other.verb in ("weight", *BEGINS) and _may_follow(other, told)]
                return None if lowered else "v2"
    return None


def _after(life: Life, moment: float) -> list[Strike]:
    return [strike for strike in life.strikes if strike.at >= moment]


def promotions_stay(life: Life) -> int:
    """Once promoted is on disk, stable never flips back, on disk or to any user, unless somebody asked for it."""
    checked = 0
    looks = life.watcher.since(0.0)
    for index, look in enumerate(looks):
        if look.record is None or look.record.phase != "promoted" or (index and _same_phase(looks[index - 1], look)):
            continue
        undone = [told.sent for told in life.told if told.verb in (*BEGINS, "rollback") and not told.refused]
        undone = [sent for sent in undone if sent > look.first - 1]
        until = min(undone, default=float("inf"))
        stable = look.record.stable
        later = [other for other in looks[index:] if other.first < until]
        flipped = [other for other in later if other.record is None or other.record.stable != stable]
        _require(not flipped, f"promoted to {stable}, and then {flipped[:1]}")
        served = [r for r in life.traffic.requests if r.began > look.first + _GRACE and r.ended < until and r.version]
        wrong = [request for request in served if request.version != stable]
        _require(not wrong, f"promoted to {stable} at {look.first}, and then {len(wrong)} were answered by another: {wrong[:1]}")
        checked += len(served) + 1
    return checked


def _same_phase(before: Look, look: Look) -> bool:
    return before.record is not None and look.record is not None and before.record.phase == look.record.phase


def only_the_killed_fail(life: Life) -> int:
    """A request fails only on a worker that was killed, or while nothing ran; never because of a controller."""
    excused = [(s.at, s.again) for s in life.strikes if s.victim in (*_DOWN, "worker", "some child")]
    failures = life.traffic.failures
    for request in failures:
        harmed = request.status == 500 and request.version == "v2" and life.harmed
        down = any(request.ended >= since and request.began <= until + 1 for since, until in excused)
        _require(harmed or down, f"{request} failed, and nobody was killed who had it: {life.strikes}")
    return len(life.traffic.requests)


def it_says_what_happened(life: Life) -> int:
    """Every line is the product's own, none is a defect's, and each kill that somebody survived is named."""
    log = life.product.log
    for line in log:
        _require(line.startswith("canaryproxy: "), f"not a line of the log's form: {line!r}")
        _require(not re.search(r"Traceback|\b[A-Z]\w*Error\b|Exception|never awaited|failed$", line), f"a defect: {line!r}")
    named = sum("was killed by SIGKILL; starting another" in line for line in log)
    survived = sum(strike.victim in ("controller", "worker") for strike in life.strikes)
    if life.name in ("changes", "deploys") or any(strike.aim in ("reload", "hand-over") for strike in life.strikes):
        return len(log)  # who was about to leave is not replaced
    _require(named >= survived, f"{survived} were killed, {named} are named")
    return len(log)


def the_place_is_kept(life: Life) -> int:
    """After a kill in mid-step: the step, salt and phase that are on disk, and the dwell but for the last checkpoint."""
    checked = 0
    for strike in life.strikes:
        if strike.before is None or strike.after is None or strike.before["phase"] not in ("progressing", "paused", "baking"):
            continue
        names = ("revision", "salt_id")
        # what was lowered at once and killed unsaved leaves its revision to the next decision
        if any(strike.at <= told.sent <= (strike.again or told.sent) and not told.refused for told in life.told):
            continue
        if any(strike.before[name] != strike.after[name] for name in names):
            continue  # something was decided in between: the other invariants speak of that
        for name in ("phase", "step", "weight_percent", "started_at", "step_entered_at"):
            _require(strike.before[name] == strike.after[name], f"{name} is lost by {strike}")
        kept = strike.after["held"] >= strike.before["held"] - _CHECKPOINT
        _require(kept, f"held {strike.before['held']} became {strike.after['held']}")
        checked += 1
    return checked


def revisions_only_rise(life: Life) -> int:
    """No record on disk is ever replaced by an older one."""
    looks = [look.record for look in life.watcher.since(0.0)]
    for before, after in pairwise(looks):
        _require(after is not None or before is None, "the record is gone")
        if before is not None and after is not None:
            _require(after.revision >= before.revision, f"{before} was replaced by the older {after}")
    return len(looks)


def the_file_is_sound(life: Life) -> int:
    """PRAGMA integrity_check."""
    with closing(sqlite3.connect(f"{life.product.state.as_uri()}?mode=ro", uri=True, timeout=5)) as db:
        found = [row[0] for row in db.execute("PRAGMA integrity_check")]
    _require(found == ["ok"], f"integrity_check: {found}")
    return 1


Invariant = Callable[[Life], int]
#: Asked after each kill, and at the end.
ALWAYS: tuple[Invariant, ...] = (
    *(no_more_than_recorded, no_lost_rollback, promotions_stay, only_the_killed_fail, it_says_what_happened),
    *(the_place_is_kept, revisions_only_rise, the_file_is_sound),
)


def records(life: Life) -> Iterator[Record]:
    """The records that were on disk, in their order."""
    for look in life.watcher.since(0.0):
        if look.record is not None:
            yield look.record
