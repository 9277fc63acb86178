"""One variant's last reading of the ledger, and what is kept of earlier ones: its part of `control.sampler`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, count
from operator import ne, sub
from typing import Final, NamedTuple

from canaryproxy.analysis.sample import ArmTick, Cohort, Group
from canaryproxy.control.recent import Recent
from canaryproxy.shared.layout import CANARY, CLASSES, RING, Count, Segment
from canaryproxy.shared.reading import Block, count_users, read_block, read_groups, read_registers, read_sizes

#: Seconds between two readings of what is big and needs no haste.
_SIZES: Final = 5.0
_STABLE_GROUPS: Final = 10.0


class Due(NamedTuple):
    """A question's cohort: its second, the thresholds, and at which places of that second's edges they are."""

    second: int
    question: str
    thresholds_us: tuple[int, ...]
    places: tuple[int, ...]


class Arm:
    """The readings of one variant of a slot."""

    def __init__(self, segment: Segment, slot: int, variant: int, goals: int) -> None:
        self._segment, self._slot, self._variant, self._goals = segment, slot, variant, goals
        self._block = self._read()
        #: For each place: the cohort's words, and the unanswered requests, when it was last quiet.
        self._before: list[Sequence[int]] = self._block.cohorts
        self._unanswered: list[int | None] = [None] * RING
        #: The unanswered of each place that are no longer, or never were, on their way for this sampler.
        self._settled = [_unanswered(cohort) for cohort in self._before]
        self._resolved = self._failed = 0
        self._groups, self._groups_age = read_groups(segment, slot, variant), 0.0
        self._sizes, self._sizes_age = read_sizes(segment, slot, variant), 0.0
        self._files: tuple[list[bytes], list[bytes]] = ([], [])
        self._users = (0, 0)
        self.recent = Recent()

    def rest(self, quiet: Sequence[int]) -> None:
        """Keep the readings of the quiet places."""
        for place in quiet:
            self._before[place] = reading = self._block.cohort(place)
            self._unanswered[place] = self._settled[place] = _unanswered(reading)

    def tick(self, elapsed: float, due: Sequence[Due], quiet: Sequence[int], salt: int) -> ArmTick:
        """The differences to the last reading, `elapsed` seconds ago; `salt` is the rollout's."""
        last, self._block = self._block, self._read()
        block, cohorts, last_cohorts = self._block, self._block.cohorts, last.cohorts
        hung = sum(self._hung(cohorts[place], place) for place in quiet)
        resolved, failed = self._settle(block.resolved - last.resolved + hung, block[Count.FAILED] - last[Count.FAILED] + hung)
        reported: dict[str, tuple[Cohort, ...]] = {}
        for one in due:
            reported[one.question] = (*reported.get(one.question, ()), self._cohort(one))
        users, hurt = self.count_users(salt) if self._variant == CANARY else (0, 0)
        arm = ArmTick(
            resolved=resolved,
            failed=failed,
            cohorts=reported,
            latency=_differences(block.latency, last.latency),
            refused=block.judged(Count.C4XX) - last.judged(Count.C4XX),
            limited=block.judged(Count.C429) - last.judged(Count.C429),
            began=sum(new[0] - old[0] for new, old in zip(cohorts, last_cohorts, strict=True)),
            in_flight=max(0, sum(_unanswered(cohort) for cohort in cohorts) - self._not_in_flight(cohorts, quiet)),
            sizes=self._new_sizes(elapsed),
            goals=tuple(new - old for new, old in zip(block.goals, last.goals, strict=True))[: self._goals],
            groups=self._new_groups(elapsed),
            users=users,
            hurt=hurt,
        )
        self.recent.add(elapsed, block[Count.STARTED] - last[Count.STARTED], arm)
        return arm

    def _read(self) -> Block:
        return read_block(self._segment, self._slot, self._variant)

    def _hung(self, cohort: Sequence[int], place: int) -> int:
        known = self._unanswered[place]
        return 0 if known is None else _unanswered(cohort) - known

    def _not_in_flight(self, cohorts: Sequence[Sequence[int]], quiet: Sequence[int]) -> int:
        """Of the unanswered: those that hang, and those that this sampler has not seen begin."""
        return sum(_unanswered(cohorts[place]) if place in quiet else self._settled[place] for place in range(RING))

    def _settle(self, resolved: int, failed: int) -> tuple[int, int]:
        """Counts that can be given out: a hang that is taken back is subtracted from what comes, never below zero."""
        self._resolved += resolved
        self._failed += failed
        resolved = max(0, self._resolved)
        failed = min(max(0, self._failed), resolved)
        self._resolved -= resolved
        self._failed -= failed
        return resolved, failed

    def _cohort(self, due: Due) -> Cohort:
        """Whoever was withdrawn before the question's largest threshold is not in it; who was later was over it."""
        before, now = self._before[due.second % RING], self._block.cohort(due.second)
        counts = [new - old for new, old in zip(now, before, strict=True)]
        answered, withdrawn = counts[1 : 1 + CLASSES], counts[1 + CLASSES :]
        started = counts[0] - sum(withdrawn[: due.places[-1] + 1])
        return Cohort(due.thresholds_us, started, tuple(sum(answered[: place + 1]) for place in due.places))

    def _new_sizes(self, elapsed: float) -> dict[int, int]:
        self._sizes_age += elapsed
        if self._sizes_age < _SIZES:
            return {}
        last, self._sizes, self._sizes_age = self._sizes, read_sizes(self._segment, self._slot, self._variant), 0.0
        return _differences(self._sizes, last)

    def _new_groups(self, elapsed: float) -> dict[int, Group]:
        self._groups_age += elapsed
        if self._variant != CANARY and self._groups_age < _STABLE_GROUPS:
            return {}
        last, self._groups, self._groups_age = self._groups, read_groups(self._segment, self._slot, self._variant), 0.0
        grown = compress(count(), map(ne, self._groups, last))
        return {group: Group(*map(sub, self._groups[group], last[group])) for group in grown}

    def count_users(self, salt: int) -> tuple[int, int]:
        """How many users were met, and how many of them were hurt: counted anew only when some register has changed."""
        files = read_registers(self._segment, self._slot, salt)
        if files != self._files:
            (exposed, hurt), (old_exposed, old_hurt) = files, self._files
            self._files = files
            users = count_users(exposed) if exposed != old_exposed else self._users[0]
            self._users = (users, count_users(hurt) if hurt != old_hurt else self._users[1])
        return self._users


def _unanswered(cohort: Sequence[int]) -> int:
    return 2 * cohort[0] - sum(cohort)


def _differences(new: Sequence[int], old: Sequence[int]) -> dict[int, int]:
    """{index: growth} of the words that have grown."""
    return {index: new[index] - old[index] for index in compress(count(), map(ne, new, old))}  # few have, so they are found in C
