"""What a worker leaves behind when it dies: requests that began and will never end, settled in the ledger.

Called by the supervisor between the worker's death and its successor, when nobody else writes that row. Without it they would be
in flight for ever, and once they are overdue count as hung: the proxy's own loss would be held against a variant.
"""

from __future__ import annotations

from collections.abc import Iterable

from canaryproxy.analysis.sample import GROUPS, T_HANG
from canaryproxy.shared.layout import (
    BLOCK_WORDS,
    COHORT_AT,
    COHORT_WORDS,
    GROUPS_AT,
    RING,
    VARIANTS,
    WITHDRAWN_AT,
    Count,
    Segment,
)
from canaryproxy.shared.reading import Block


def settle(segment: Segment, row: int, slots: Iterable[int], now: float) -> int:
    """The number of requests that this worker had in hand, now counted as abandoned; `now` is in monotonic seconds."""
    return sum(_abandon(segment, row, slot, variant, int(now)) for slot in slots for variant in range(VARIANTS))


def _abandon(segment: Segment, row: int, slot: int, variant: int, second: int) -> int:
    at = segment.layout.block(row, slot, variant)
    words = segment.words
    block = Block(words[at : at + BLOCK_WORDS].tolist())
    lost = left = block[Count.STARTED] - block.ended
    words[at + Count.ABANDONED] += lost
    groups = at + GROUPS_AT + GROUPS  # no group of users waits for them either
    words[groups : groups + GROUPS] = words[at + GROUPS_AT : at + GROUPS_AT + GROUPS]
    for begun in range(second, second - T_HANG - 1, -1):
        started, *ended = block.cohort(begun)
        withdrawn = max(0, min(left, started - sum(ended)))
        words[at + COHORT_AT + begun % RING * COHORT_WORDS + WITHDRAWN_AT] += withdrawn
        left -= withdrawn
    return lost
