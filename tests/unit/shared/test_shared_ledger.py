"""The ledger's arithmetic; what the data plane makes of it is in tests/wire."""

from __future__ import annotations

import pytest

from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, COHORT_WITHDRAWN, OUTCOMES, STABLE, Count, Segment
from canaryproxy.shared.ledger import Counters, read_block


@pytest.fixture
def segment() -> Segment:
    segment = layout.create(slots=2, workers=3)
    for second in range(16):
        Board(segment).publish_thresholds(1, second, (1_000, 2_000, 3_000, 4_000))
    for worker in (0, 2):
        AckRow(segment, worker).enter(worker + 10, 1.0)
    return segment


def test_the_sum_is_over_all_rows_that_were_ever_used(segment: Segment) -> None:
    for worker in (0, 1, 2):
        Counters(segment, worker, 1, CANARY).begin(5.0, judged=True)
    block = read_block(segment, 1, CANARY)
    assert block[Count.STARTED] == 2, "nobody has entered row 1"
    assert block.cohort(5) == (2, 0, 0, 0, 0, 0, 0)
    assert block.cohort(5 + 16) == block.cohort(5)
    assert read_block(segment, 1, STABLE)[Count.STARTED] == read_block(segment, 0, CANARY)[Count.STARTED] == 0


def test_a_successor_counts_on(segment: Segment) -> None:
    for _ in range(2):
        counters = Counters(segment, 0, 1, STABLE)
        counters.begin(5.0, judged=True)
        counters.finish(Count.C2XX, 5.0, 5.0005, judged=True, failed=False, received=3, sent=4)
        counters.add_retry()
    block = read_block(segment, 1, STABLE)
    assert (block[Count.STARTED], block[Count.C2XX], block[Count.RESOLVED]) == (2, 2, 2)
    assert (block[Count.BYTES_IN], block[Count.BYTES_OUT], block[Count.RETRIES]) == (6, 8, 2)
    assert block.cohort(5) == (2, 2, 0, 0, 0, 0, 0)
    assert sum(block.latency) == 2


def test_nothing_was_ever_used() -> None:
    segment = layout.create(1, 2)
    assert not any(read_block(segment, 0, STABLE).words)


@pytest.mark.parametrize("count", [Count.CLIENT_GONE, Count.CLIENT_ERROR, Count.ABANDONED])
def test_an_end_that_is_not_the_upstreams_is_withdrawn(segment: Segment, count: Count) -> None:
    counters = Counters(segment, 0, 1, STABLE)
    counters.begin(5.0, judged=True)
    counters.finish(count, 5.0, 5.001, judged=True, failed=False)
    block = read_block(segment, 1, STABLE)
    assert block.cohort(5)[COHORT_WITHDRAWN] == 1
    assert block[Count.RESOLVED] == 0


def test_an_unknown_threshold_makes_nobody_slow(segment: Segment) -> None:
    """Slot 0 has none yet: its cohorts are not read, but they must add up."""
    counters = Counters(segment, 0, 0, STABLE)
    for count, elapsed in ((Count.C2XX, 0.5), (Count.CLIENT_GONE, 0.5)):
        counters.begin(5.0, judged=True)
        counters.finish(count, 5.0, 5.0 + elapsed, judged=True, failed=False)
    started, *ended = read_block(segment, 0, STABLE).cohort(5)
    assert started == sum(ended) == 2


@pytest.mark.parametrize("count", OUTCOMES)
def test_an_unjudged_exchange_is_in_no_cohort(segment: Segment, count: int) -> None:
    counters = Counters(segment, 0, 1, STABLE)
    counters.begin(5.0, judged=False)
    counters.finish(count, 5.0, 5.1, judged=False, failed=True)
    block = read_block(segment, 1, STABLE)
    assert block[count] == block[Count.STARTED] == 1
    assert block[Count.RESOLVED] == block[Count.FAILED] == 0
    assert not any(block.cohort(5))
