"""What the judge is told of a simulated service: `Tick`s as `control.sampler` makes them, from requests. See `analysis.sample`.

The delays are the real ones: a question that the judge asks after a tick is for the requests of the second after the next, and is
answered when they are past its largest threshold and `GRACE`; a request that hangs is resolved, failed, after `T_HANG`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from bench.detection.world import Ints, Second, World
from canaryproxy.analysis.sample import GROUPS, SIZE_COLUMNS, T_HANG, ArmTick, Cohort, Group, Tick
from canaryproxy.stats import histogram

#: As in `control.sampler`.
GRACE = 0.1
_STABLE_GROUPS_EVERY = 10
_EDGES = np.array([histogram.upper_edge_us(bucket) for bucket in range(histogram.COUNT - 1)])
#: Sizes of good answers by power of two: one class of requests, 1 to 16 KiB. Nothing is ever wrong with them here.
_SIZES = {10: 0.1, 11: 0.3, 12: 0.4, 13: 0.2}
_REFUSED = 0.01

Questions = Mapping[str, tuple[int, ...]]


class _Ended(NamedTuple):
    """Requests and when they end: with an answer, or hung."""

    end: Ints
    begun: Ints
    latency_us: Ints
    user: Ints
    canary: Ints
    failed: Ints
    hung: Ints


class Sampling:
    """Makes the ticks of one run. `quarantine` is what the data plane is told to leave out."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world, self._rng = world, rng
        self._open: _Ended | None = None
        self._latencies: dict[int, tuple[Ints, Ints]] = {}
        self._due: dict[int, list[tuple[int, str, tuple[int, ...]]]] = {}
        self._questions: dict[int, Questions] = {}
        self._slow_us: dict[int, int] = {}
        self._groups = np.zeros((2, 4, GROUPS), np.int64)
        self._left_out = np.zeros(GROUPS, np.bool_)
        self._users, self._hurt = np.zeros(world.people, np.bool_), np.zeros(world.people, np.bool_)
        self._shares: dict[float, float | None] = {}

    def quarantine(self, groups: tuple[int, ...]) -> None:
        """These groups' requests are not judged from now on."""
        self._left_out[:] = False
        self._left_out[list(groups)] = True

    def ask(self, now: int, questions: Questions, slow_us: int) -> None:
        """The judge's questions after the tick that ended at `now`: for the second that begins at `now + 1`."""
        self._questions[now + 1], self._slow_us[now + 1] = dict(questions), slow_us

    def tick(self, second: int, requests: Second, goals: tuple[int, int], weight: float) -> Tick:
        """The tick [second, second + 1): `requests` (all of them, judged or not) start in it."""
        judged = requests.only(requests.judged & ~self._left_out[self._world.group[requests.user]])
        latency_us = np.minimum(judged.latency * 1e6, 1e12).astype(np.int64)
        self._expect(second, judged.canary, latency_us)
        self._count_groups(0, judged.user, judged.canary, np.ones(len(judged.user), np.bool_))
        done, in_flight = self._ended(second, judged, latency_us)
        late = np.fromiter((self._slow_us.get(begun, 0) for begun in range(second - T_HANG - 1, second + 1)), np.int64)
        slow_us = late[np.maximum(done.begun - (second - T_HANG - 1), 0)]
        answered = ~done.hung
        for kind, which in (
            (1, answered),
            (2, done.failed & answered),
            (3, answered & (slow_us > 0) & (done.latency_us > slow_us)),
        ):
            self._count_groups(kind, done.user, done.canary, which)
        self._users[judged.user[judged.canary]] = True
        self._hurt[done.user[done.canary & done.failed]] = True
        cohorts = self._cohorts(second + 1)
        arms = []
        for arm, mine in enumerate((~done.canary, done.canary)):
            failed = int(np.count_nonzero(done.failed[mine]))
            resolved = int(np.count_nonzero(mine))
            good = int(self._rng.binomial(resolved - failed, 1 - _REFUSED))
            counted = self._rng.multinomial(good, list(_SIZES.values())).tolist()
            began = int(np.count_nonzero(judged.canary))
            arms.append(
                ArmTick(
                    resolved=resolved,
                    failed=failed,
                    cohorts={name: tuple(found[arm]) for name, found in cohorts.items()},
                    latency=_histogram(done.latency_us[mine & answered]),
                    refused=resolved - failed - good,
                    began=began if arm else len(judged.user) - began,
                    in_flight=in_flight[arm],
                    sizes={SIZE_COLUMNS + column: n for column, n in zip(_SIZES, counted, strict=True) if n},
                    goals=(goals[arm],),
                    groups=self._take_groups(arm) if arm or (second + 1) % _STABLE_GROUPS_EVERY == 0 else {},
                    users=int(np.count_nonzero(self._users)) if arm else 0,
                    hurt=int(np.count_nonzero(self._hurt)) if arm else 0,
                )
            )
        if weight not in self._shares:
            self._shares[weight] = self._world.share(weight)
        return Tick(1.0, arms[0], arms[1], weight, self._shares[weight])

    def begin_rollout(self) -> None:
        """A new salt: users and hurt are counted anew."""
        self._users[:] = self._hurt[:] = False

    def _expect(self, second: int, canary: Any, latency_us: Ints) -> None:
        self._latencies[second] = np.sort(latency_us[~canary]), np.sort(latency_us[canary])
        self._latencies.pop(second - T_HANG - 4, None)
        for name, thresholds in self._questions.pop(second, {}).items():
            if thresholds:
                due = ceil(second + 1 + min(thresholds[-1] / 1e6, T_HANG) + GRACE)
                self._due.setdefault(due, []).append((second, name, thresholds))

    def _cohorts(self, now: int) -> dict[str, tuple[list[Cohort], list[Cohort]]]:
        found: dict[str, tuple[list[Cohort], list[Cohort]]] = {}
        for second, name, thresholds in self._due.pop(now, ()):
            for latencies, cohorts in zip(self._latencies[second], found.setdefault(name, ([], [])), strict=True):
                within = np.searchsorted(latencies, thresholds, side="right").tolist()
                cohorts.append(Cohort(thresholds, len(latencies), tuple(within)))
        return found

    def _ended(self, second: int, judged: Second, latency_us: Ints) -> tuple[_Ended, tuple[int, int]]:
        """Those that end in this second, and how many of each variant have not yet."""
        hung = judged.latency >= T_HANG
        end = judged.start + np.minimum(judged.latency, T_HANG)
        begun = np.full(len(end), second)
        new = _Ended(end, begun, latency_us, judged.user, judged.canary, judged.failed | hung, hung)
        if self._open is not None:
            new = _Ended(*(np.concatenate(both) for both in zip(self._open, new, strict=True)))
        over = new.end < second + 1
        self._open = _Ended(*(column[~over] for column in new))
        canary = int(np.count_nonzero(self._open.canary))
        return _Ended(*(column[over] for column in new)), (len(self._open.canary) - canary, canary)

    def _count_groups(self, kind: int, user: Ints, canary: Any, which: Any) -> None:
        group = self._world.group[user[which]] + GROUPS * canary[which]
        self._groups[:, kind] += np.bincount(group, minlength=2 * GROUPS).reshape(2, GROUPS)

    def _take_groups(self, arm: int) -> dict[int, Group]:
        counts = self._groups[arm]
        active = np.flatnonzero(counts.any(axis=0))
        found = {group: Group(*values) for group, values in zip(active.tolist(), counts[:, active].T.tolist(), strict=True)}
        counts[:] = 0
        return found


def _histogram(latency_us: Ints) -> dict[int, int]:
    counts = np.bincount(np.searchsorted(_EDGES, latency_us), minlength=1)
    buckets = np.flatnonzero(counts)
    return dict(zip(buckets.tolist(), counts[buckets].tolist(), strict=True))
