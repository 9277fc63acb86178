"""Business events of one route: those that an app tells the admin API, put beside those that the workers saw.

Owned by `control.route`; `admin.goals` posts. An event counts for the variant that its user has *now* (intention to treat): the
split is sticky, so whichever version the user met, the expected share is the canary's weight at every moment however late the
event comes. What is remembered to tell repeats apart is bounded, and lost at a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from canaryproxy.analysis.sample import ArmTick, Tick
from canaryproxy.config.metrics import GoalMetric
from canaryproxy.routing.split import choose_variant, seat
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import CANARY, STABLE
from canaryproxy.shared.userlist import UserList

#: Seconds in which an id that comes again is a repeat, and in which a user counts once for a goal (as `proxy` counts requests).
REMEMBERED, ONCE_WITHIN = 3600.0, 60.0
#: Ids and users remembered at most, the latest; an entry takes about 150 bytes.
_MOST = 100_000


class Event(NamedTuple):
    """One conversion: the goal's name, the user's key as requests have it, and an id that a repeat has too."""

    goal: str
    user: str
    id: str


class Posted(NamedTuple):
    """What came of events: counted; not again; of beta users, and of users whose group is in quarantine."""

    counted: int
    duplicates: int
    left_out: int


class PostedGoals:
    """The route's goals in the order of the file, and how often each was reached since this process began (`totals`)."""

    def __init__(self, goals: Mapping[str, GoalMetric], board: Board, slot: int, beta: UserList | None = None) -> None:
        """`beta` users are not judged, whatever version they have."""
        self.names = tuple(goals)
        #: Those that an app tells; the others are counted from requests, and would count twice.
        self.posted = tuple(name for name, metric in goals.items() if metric.goal is None)
        self.totals = ([0] * len(goals), [0] * len(goals))
        self._fresh = ([0] * len(goals), [0] * len(goals))
        self._board, self._slot, self._beta = board, slot, beta
        self._ids, self._users = _Memory(REMEMBERED), _Memory(ONCE_WITHIN)

    def post(self, events: list[Event], now: float) -> Posted:
        """Take in events of goals that are `posted`, at monotonic time `now`."""
        split = self._board.read(self._slot)
        quarantined = self._board.quarantined(self._slot) if split.weight_bp else ()  # at rest groups are of another salt
        counted = duplicates = left_out = 0
        for event in events:
            repeated = self._ids.has((event.goal, event.id), now)
            if repeated or self._users.has((event.goal, event.user), now):
                duplicates += 1
                continue
            key = event.user.encode()
            place = seat(split.salt, key)
            if place.group in quarantined or (self._beta is not None and key in self._beta):
                left_out += 1
            else:
                counted += 1
                self._fresh[choose_variant(split.weight_bp, place)][self.names.index(event.goal)] += 1
        return Posted(counted, duplicates, left_out)

    def take(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Stable's and the canary's posted conversions since the last call, one number for each goal."""
        fresh, self._fresh = self._fresh, ([0] * len(self.names), [0] * len(self.names))
        return tuple(fresh[STABLE]), tuple(fresh[CANARY])

    def merge(self, tick: Tick) -> Tick:
        """The tick with the posted conversions since the last one in it; all of them go into the totals."""
        if not self.names:
            return tick
        arms = [_add(arm, posted) for arm, posted in zip((tick.stable, tick.canary), self.take(), strict=True)]
        for arm, totals in zip(arms, self.totals, strict=True):
            totals[:] = map(sum, zip(totals, arm.goals, strict=True))
        return replace(tick, stable=arms[STABLE], canary=arms[CANARY])


def _add(arm: ArmTick, posted: tuple[int, ...]) -> ArmTick:
    seen = (*arm.goals, *[0] * len(posted))  # the ledger may have more than the route, and a tick of no requests none
    return replace(arm, goals=tuple(map(sum, zip(seen, posted, strict=False))))


class _Memory:
    """What was seen in the last `span` seconds, the latest `_MOST` of it."""

    def __init__(self, span: float) -> None:
        self._span = span
        # by hash, 64 bits with a seed of this process: nobody makes two events collide, and a long id costs no more than a short
        self._seen: dict[int, float] = {}

    def has(self, what: tuple[str, str], now: float) -> bool:
        """Whether it was seen; from now on it was."""
        seen, key = self._seen, hash(what)
        while seen and (seen[first := next(iter(seen))] <= now - self._span or len(seen) > _MOST):
            del seen[first]
        if key in seen:
            return True
        seen[key] = now
        return False
