"""The ledger as the controller reads it: the sums over all workers, cumulative.

One word is one load, so no count is torn. What is big is read by itself, as seldom as it is needed (`control.sampler`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from canaryproxy.analysis.sample import GROUPS, SIZE_CLASSES, SIZE_COLUMNS
from canaryproxy.routing.split import BUCKETS
from canaryproxy.shared.layout import (
    COHORT_AT,
    COHORT_WORDS,
    EXPOSED_AT,
    GOALS,
    GOALS_AT,
    GROUP_ARRAYS,
    GROUPS_AT,
    HISTOGRAM_AT,
    HURT_AT,
    JUDGED_AT,
    OUTCOMES,
    REGISTER_WORDS,
    REGISTERS_SALT,
    RING,
    SIZES_AT,
    Ack,
    Count,
    Segment,
)
from canaryproxy.stats import distinct


@dataclass(frozen=True, slots=True)
class Block:
    """The counters of one slot and variant: index it with `Count`, or take a part."""

    words: Sequence[int]

    def __getitem__(self, count: int) -> int:
        """A counter; `STARTED` and the outcomes are of all exchanges, judged or not."""
        if count == Count.STARTED:
            return self.words[count] + sum(self.words[COHORT_AT:HISTOGRAM_AT:COHORT_WORDS])
        return self.words[count] + (self.words[JUDGED_AT + count] if count in OUTCOMES else 0)

    def judged(self, outcome: int) -> int:
        """The judged exchanges that were answered in time and ended so."""
        return self.words[JUDGED_AT + outcome]

    @property
    def resolved(self) -> int:
        """The judged exchanges that were answered in time."""
        return sum(self.words[JUDGED_AT : JUDGED_AT + len(OUTCOMES) + 1]) + self.words[Count.BY_HEAD]

    @property
    def ended(self) -> int:
        """All exchanges that have ended."""
        return sum(self[outcome] for outcome in OUTCOMES)

    @property
    def goals(self) -> Sequence[int]:
        """Conversions, for each goal."""
        return self.words[GOALS_AT : GOALS_AT + GOALS]

    @property
    def cohorts(self) -> list[Sequence[int]]:
        """For each place of the ring: started, the answered by class, the withdrawn by class."""
        return [self.cohort(place) for place in range(RING)]

    def cohort(self, second: int) -> Sequence[int]:
        """The words of the ring place of this second."""
        at = COHORT_AT + second % RING * COHORT_WORDS
        return self.words[at : at + COHORT_WORDS]

    @property
    def latency(self) -> Sequence[int]:
        """Counts for each bucket of `stats.histogram`."""
        return self.words[HISTOGRAM_AT:GROUPS_AT]


def read_block(segment: Segment, slot: int, variant: int) -> Block:
    """The counters, without what is read by itself."""
    return Block(_sum_blocks(segment, slot, variant, 0, GROUPS_AT))


def read_groups(segment: Segment, slot: int, variant: int) -> list[tuple[int, ...]]:
    """For each group of users its counts, as the fields of `analysis.sample.Group`."""
    counts = _sum_blocks(segment, slot, variant, GROUPS_AT, GROUP_ARRAYS * GROUPS)
    return list(zip(*(counts[array * GROUPS : (array + 1) * GROUPS] for array in range(GROUP_ARRAYS)), strict=True))


def read_sizes(segment: Segment, slot: int, variant: int) -> list[int]:
    """Counts of 2xx by class and size, as `analysis.sample.ArmTick.sizes` numbers them."""
    return _sum_blocks(segment, slot, variant, SIZES_AT, SIZE_CLASSES * SIZE_COLUMNS)


def read_buckets(segment: Segment, slot: int) -> list[int]:
    """Judged requests that began while the weight was 0, for each of the users' `BUCKETS` under the next salt."""
    layout = segment.layout
    return _sum(segment, [layout.users(worker, slot) for worker in _workers(segment)], BUCKETS)


def read_registers(segment: Segment, slot: int, salt: int) -> tuple[list[bytes], list[bytes]]:
    """Each worker's register files (who met the canary, who met a failure of it) of the rollout with this salt."""
    words, files = segment.words, []
    for worker in _workers(segment):
        users = segment.layout.users(worker, slot)
        if words[users + REGISTERS_SALT] == salt + 1:
            files.append([words[users + at : users + at + REGISTER_WORDS].tobytes() for at in (EXPOSED_AT, HURT_AT)])
    return [exposed for exposed, _ in files], [hurt for _, hurt in files]


def count_users(files: Sequence[bytes]) -> int:
    """How many different users these register files have seen."""
    return distinct.estimate(reduce(distinct.merge, files)) if files else 0


def _workers(segment: Segment) -> list[int]:
    """Every worker row that was ever used."""
    layout, words = segment.layout, segment.words
    return [worker for worker in range(layout.workers) if words[layout.ack_row(worker) + Ack.PULSE]]


def _sum_blocks(segment: Segment, slot: int, variant: int, offset: int, count: int) -> list[int]:
    layout = segment.layout
    return _sum(segment, [layout.block(worker, slot, variant) + offset for worker in _workers(segment)], count)


def _sum(segment: Segment, places: Sequence[int], count: int) -> list[int]:
    parts = [segment.words[at : at + count].tolist() for at in places]
    return reduce(lambda one, other: list(map(add, one, other)), parts) if parts else [0] * count
