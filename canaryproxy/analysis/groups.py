"""The canary's users in 256 groups, and whether a finding rests on more than one or two of them. Pure; owned by `analysis.judge`.

Asked only when a metric has proven harm (docs/statistics.md 5): what is left without the groups with the most events must still
be as bad. So one bot, or one user with a broken client, never causes a rollback.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import log
from typing import Any, NamedTuple, Protocol

from canaryproxy.analysis.sample import GROUPS, T_HANG, Group
from canaryproxy.stats.dispersion import design_effect, drift_effect

#: Groups that must have the event, groups above which two instead of one are left out, users below which nothing can be left out.
_BREADTH, _MANY, FEW_USERS = 3, 20, 6
#: While there are few, two must have it, or it is clear after so many seconds of a rollout that there are no more.
_FEW_BREADTH, _NO_MORE = 2, 60.0
_SLICE, _SLICES = 5.0, 12
#: Stable's design effect is measured over two chunks of so many seconds, and the one that is being filled.
_CHUNK, _CHUNKS = 150.0, 2
#: Seconds over which the design effect was measured.
PERIOD = _CHUNK * _CHUNKS
#: A group has caused it by itself if it has so many of the events, and this share of them.
_DOMINATES = (5, 0.5)

#: However alike the users of a group are: with no limit the evidence that is asked for could be beyond all that is counted.
_MOST_CLUSTERED = 20.0

#: {group: what a `Group` has}, added up in place: this is done 256 times a tick.
_Counts = dict[int, list[int]]


class IsBad(Protocol):
    """Whether so many events among so many requests of a window are harm."""

    def __call__(self, requests: float, events: float, /, window: int) -> bool: ...


class Gate(NamedTuple):
    """Whether a finding rests on enough users; how many have the event; the group that dominates, if it fails because of one."""

    passed: bool
    users: int
    dominating: int | None = None


def _add(into: _Counts, groups: Mapping[int, Sequence[int]]) -> None:
    for group, counts in groups.items():
        sums = into.get(group)
        if sums is None:
            into[group] = list(counts)
        else:
            started, ended, failed, slow = counts
            sums[0] += started
            sums[1] += ended
            sums[2] += failed
            sums[3] += slow


class CanaryGroups:
    """What each group did in the last minute and in the step so far, and what it still waits for."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        known = state or {"step": [], "slices": [], "open": [], "young": [], "age": 0.0}
        self._step = _load(known["step"])
        self._slices: list[tuple[float, _Counts]] = [(elapsed, _load(rows)) for elapsed, rows in known["slices"]]
        self._open: dict[int, int] = dict(known["open"])
        self._young: deque[dict[int, int]] = deque((dict(pairs) for pairs in known["young"]), maxlen=T_HANG + 1)
        self._users = 0
        self._age: float = known["age"]

    def add(self, groups: Mapping[int, Group], elapsed: float, users: int) -> None:
        """Take in one tick; `users` the canary has had so far."""
        self._users = users
        self._age += elapsed
        _add(self._step, groups)
        if self._slices and self._slices[-1][0] + elapsed <= _SLICE * 1.05:
            self._slices[-1] = (self._slices[-1][0] + elapsed, self._slices[-1][1])
            _add(self._slices[-1][1], groups)
        else:
            self._slices = [*self._slices[1 - _SLICES :], (elapsed, {group: list(counts) for group, counts in groups.items()})]
        self._young.append({group: counts.started for group, counts in groups.items() if counts.started})
        for group, counts in groups.items():
            waiting = self._open.get(group, 0) + counts.started - counts.ended
            if waiting:
                self._open[group] = waiting
            else:
                self._open.pop(group, None)

    def new_step(self) -> None:
        """Count the step so far from here."""
        self._step = {}

    def forget(self) -> None:
        """Count everything from here, after a group was taken out."""
        self._step, self._slices = {}, []

    def forget_waiting(self) -> None:
        """What was in flight ends unseen: counting begins anew after a restart or a standstill."""
        self._open, self._young = {}, deque(maxlen=T_HANG + 1)

    @property
    def few(self) -> bool:
        """Whether there are too few users to leave any out."""
        return self._users < FEW_USERS

    def check(self, events: Callable[[Group], int], age: float, is_bad: IsBad) -> Gate:
        """Whether in a window `is_bad(requests, events, window)` holds without the groups that had most.

        Windows are those of `Windows.all`: 0 is the last 15 s, 1 the last 60 s, 2 the step. `events` counts a group's; requests
        without an answer for `age` seconds have the event too. With few users none can be left out; but the first may be the bot.
        """
        hung = self._hung(age)
        best = Gate(False, 0)
        for window, counts in enumerate((self._recent(3), self._recent(_SLICES), self._step)):
            gate = _check(counts, hung, events, partial(is_bad, window=window))
            if self.few:
                gate = Gate(gate.users >= _FEW_BREADTH or self._age >= _NO_MORE, gate.users)
            if gate.passed:
                return gate
            best = max(best, gate, key=lambda one: (one.dominating is not None, one.users))
        return best

    def _recent(self, slices: int) -> _Counts:
        total: _Counts = {}
        for _, counts in self._slices[-slices:]:
            _add(total, counts)
        return total

    def _hung(self, age: float) -> dict[int, int]:
        """At least so many of each group's requests wait for longer than `age`: what began since then is not counted."""
        young: dict[int, int] = {}
        for started in list(self._young)[-min(int(age) + 1, T_HANG + 1) :]:
            for group, count in started.items():
                young[group] = young.get(group, 0) + count
        hung = {group: waiting - young.get(group, 0) for group, waiting in self._open.items()}
        return {group: count for group, count in hung.items() if count > 0}

    def state(self) -> dict[str, Any]:
        """JSON-ready; `CanaryGroups(state)` goes on exactly here."""
        return {
            "step": _rows(self._step),
            "slices": [[elapsed, _rows(counts)] for elapsed, counts in self._slices],
            "open": list(self._open.items()),
            "young": [list(one.items()) for one in self._young],
            "age": self._age,
        }


def _check(
    counts: _Counts, hung: Mapping[int, int], events: Callable[[Group], int], is_bad: Callable[[float, float], bool]
) -> Gate:
    rows = {group: (one[1], events(Group(*one))) for group, one in counts.items()}
    for group, count in hung.items():
        n, x = rows.get(group, (0, 0))
        rows[group] = (n + count, x + count)
    ranked = sorted(((x, n, group) for group, (n, x) in rows.items() if n), reverse=True)
    affected = sum(x > 0 for x, _, _ in ranked)
    users = round(-GROUPS * log(1 - affected / GROUPS)) if affected < GROUPS else GROUPS
    rest = ranked[2 if len(ranked) > _MANY else 1 :]
    n, x = sum(row[1] for row in rest), sum(row[0] for row in rest)
    if affected >= _BREADTH and n and is_bad(n, x):
        return Gate(True, users)
    total = sum(row[0] for row in ranked)
    alone = ranked[0] if ranked else (0, 0, 0)
    least, share = _DOMINATES
    return Gate(False, users, alone[2] if alone[0] >= least and alone[0] >= share * total else None)


class StableGroups:
    """How much stable's users cluster, by their last 5 minutes or so and, for what drifts, the 5 minutes before."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        known = state or {"age": 0.0, "since": 0.0, "chunks": [[]], "alike": 0}
        #: Of the chunk that is being filled, as of the last report; and the seconds since that.
        self._age: float = known["age"]
        self._since: float = known["since"]
        self._chunks: list[_Counts] = [_load(rows) for rows in known["chunks"]]
        #: Whole chunks since the users were last hashed anew.
        self._alike: int = known["alike"]
        self.failed = self.slow = self.traffic = 1.0
        #: Share of stable's requests that were slow as `Group.slow` counts them: what is usual for the canary's groups.
        self.usually_slow = 0.0
        self._measure()

    def add(self, groups: Mapping[int, Group], elapsed: float) -> None:
        """Take in a tick; every tenth or so brings a report of the groups."""
        self._since += elapsed
        if not groups:
            return
        self._age, self._since = self._age + self._since, 0.0
        _add(self._chunks[-1], groups)
        if self._age >= _CHUNK:
            self._age = 0.0
            self._chunks = [*self._chunks[-2 * _CHUNKS :], {}]
            self._alike += 1
        self._measure()

    def rehashed(self) -> None:
        """Users are in other groups from now on (a rollout's end): their traffic cannot be compared with what it was before."""
        self._alike = -1  # the chunk that is being filled has both
        self.traffic = 1.0

    def _measure(self) -> None:
        before, now = self._chunks[: -_CHUNKS - 1], self._chunks[-_CHUNKS - 1 :]
        recent = [Group(*one) for one in _sum(now).values()]
        ended = sum(one.ended for one in recent)
        self.usually_slow = sum(one.slow for one in recent) / ended if ended else 0.0
        # It grows with the time that the same users are looked at; what is kept is the effect over one PERIOD.
        scale = min(PERIOD / max(_CHUNK * (len(now) - 1) + self._age, 1.0), 2.0)
        failed = design_effect([(one.ended, one.failed) for one in recent])
        slow = design_effect([(one.ended, one.slow) for one in recent])
        self.failed, self.slow = (min(1 + (effect - 1) * scale, _MOST_CLUSTERED) for effect in (failed, slow))
        drift = _drift(_sum(before), _sum(now[:-1])) if self._alike >= 2 * _CHUNKS else 1.0
        self.traffic = min(drift, _MOST_CLUSTERED)

    def state(self) -> dict[str, Any]:
        """JSON-ready; `StableGroups(state)` goes on exactly here."""
        return {
            "age": self._age,
            "since": self._since,
            "chunks": [_rows(one) for one in self._chunks],
            "alike": self._alike,
        }


def _sum(reports: Sequence[_Counts]) -> _Counts:
    total: _Counts = {}
    for one in reports:
        _add(total, one)
    return total


def _drift(before: _Counts, now: _Counts) -> float:
    return drift_effect({group: one[0] for group, one in before.items()}, {group: one[0] for group, one in now.items()})


def _rows(counts: _Counts) -> list[list[int]]:
    return [[group, *one] for group, one in counts.items()]


def _load(rows: Sequence[Sequence[int]]) -> _Counts:
    return {row[0]: list(row[1:]) for row in rows}
