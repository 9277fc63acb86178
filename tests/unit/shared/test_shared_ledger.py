"""The ledger's arithmetic; what the data plane makes of it is in tests/wire."""

from __future__ import annotations

import pytest

from canaryproxy.analysis.sample import SIZE_COLUMNS
from canaryproxy.routing.split import Seat, seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, COHORT_WORDS, OUTCOMES, STABLE, WITHDRAWN_AT, Count, Segment
from canaryproxy.shared.ledger import Counters, size_row
from canaryproxy.shared.reading import (
    Block,
    count_users,
    read_block,
    read_buckets,
    read_groups,
    read_registers,
    read_sizes,
)

SLOT = 1
ANNA, BEN = seat(7, b"anna"), seat(7, b"ben")


@pytest.fixture
def segment() -> Segment:
    segment = layout.create(slots=2, workers=3)
    for second in range(16):
        Board(segment).publish_edges(SLOT, second, (1_000, 2_000, 3_000, 4_000), 3_500)
    for worker in (0, 2):
        AckRow(segment, worker).enter(worker + 10, 1.0)
    return segment


def cohort(block: Block, second: int = 5) -> dict[int, int]:
    """The words of a cohort that are not 0."""
    return {n: count for n, count in enumerate(block.cohort(second)) if count}


def groups(segment: Segment, variant: int, user: Seat) -> list[int]:
    """(started, ended, failed, slow) of this user's group."""
    return list(read_groups(segment, SLOT, variant)[user.group])


def test_the_sum_is_over_all_rows_that_were_ever_used(segment: Segment) -> None:
    for worker in (0, 1, 2):
        Counters(segment, worker, SLOT, CANARY).begin(5.0, ANNA)
    block = read_block(segment, SLOT, CANARY)
    assert block[Count.STARTED] == 2, "nobody has entered row 1"
    assert cohort(block) == cohort(block, 5 + 16) == {0: 2}
    assert groups(segment, CANARY, ANNA) == [2, 0, 0, 0]
    assert read_block(segment, SLOT, STABLE)[Count.STARTED] == read_block(segment, 0, CANARY)[Count.STARTED] == 0


def test_a_successor_counts_on(segment: Segment) -> None:
    for _ in range(2):
        counters = Counters(segment, 0, SLOT, STABLE)
        counters.finish(Count.C2XX, counters.begin(5.0, ANNA), 0.0005, ANNA, False, 3, 4)
        counters.add_retry()
    block = read_block(segment, SLOT, STABLE)
    assert (block[Count.STARTED], block[Count.C2XX], block.judged(Count.C2XX), block.resolved) == (2, 2, 2, 2)
    assert (block[Count.BYTES_IN], block[Count.BYTES_OUT], block[Count.RETRIES]) == (6, 8, 2)
    assert cohort(block) == {0: 2, 1: 2}
    assert sum(block.latency) == 2
    assert groups(segment, STABLE, ANNA) == [2, 2, 0, 0]


def test_nothing_was_ever_used() -> None:
    segment = layout.create(1, 2)
    assert not any(read_block(segment, 0, STABLE).words)
    assert count_users([]) == 0


def test_a_class_ends_at_its_edge(segment: Segment) -> None:
    counters = Counters(segment, 0, SLOT, STABLE)
    for elapsed_us in (1_000, 1_001, 2_000, 4_000, 4_001, 9_999_999):
        counters.finish(Count.C2XX, counters.begin(5.0), (elapsed_us + 0.5) / 1e6)
    assert cohort(read_block(segment, SLOT, STABLE)) == {0: 6, 1: 1, 2: 2, 4: 1, 5: 2}


@pytest.mark.parametrize("count", [Count.CLIENT_GONE, Count.CLIENT_ERROR, Count.ABANDONED])
@pytest.mark.parametrize(("elapsed", "cls"), [(0.0005, 0), (0.0025, 2), (5.0, 4)])
def test_an_end_that_is_not_the_upstreams_is_withdrawn(segment: Segment, count: Count, elapsed: float, cls: int) -> None:
    counters = Counters(segment, 0, SLOT, STABLE)
    counters.finish(count, counters.begin(5.0, ANNA), elapsed, ANNA)
    block = read_block(segment, SLOT, STABLE)
    assert cohort(block) == {0: 1, WITHDRAWN_AT + cls: 1}
    assert (block.resolved, block[count], sum(block.latency)) == (0, 1, 0)
    assert groups(segment, STABLE, ANNA) == [1, 1, 0, int(elapsed > 0.0035)]


@pytest.mark.parametrize("count", [Count.C2XX, Count.C5XX, Count.CLIENT_GONE])
def test_who_ends_after_t_hang_has_counted_as_hanging(segment: Segment, count: Count) -> None:
    counters = Counters(segment, 0, SLOT, CANARY)
    counters.finish(count, counters.begin(5.0, ANNA), 10.1, ANNA, count is Count.C5XX)
    block = read_block(segment, SLOT, CANARY)
    assert cohort(block) == {0: 1}
    assert (block[count], block.judged(count), block.resolved, block[Count.FAILED]) == (1, 0, 0, 0)
    assert groups(segment, CANARY, ANNA) == [1, 1, 1, 1]
    assert [count_users(files) for files in read_registers(segment, SLOT, 7)] == [1, 1]


def test_an_unknown_edge_makes_nobody_slow(segment: Segment) -> None:
    """Slot 0 has none yet: its cohorts are not read, but they must add up."""
    counters = Counters(segment, 0, 0, STABLE)
    for count in (Count.C2XX, Count.CLIENT_GONE):
        counters.finish(count, counters.begin(5.0, ANNA), 0.5, ANNA)
    started, *ended = read_block(segment, 0, STABLE).cohort(5)
    assert started == sum(ended) == 2
    assert read_groups(segment, 0, STABLE)[ANNA.group] == (2, 2, 0, 0)


def test_edges_are_those_of_the_second_in_which_a_request_began(segment: Segment) -> None:
    counters = Counters(segment, 0, SLOT, STABLE)
    first = counters.begin(5.9)
    Board(segment).publish_edges(SLOT, 6, (50_000,), 0)
    second = counters.begin(6.1)
    assert second - first == COHORT_WORDS
    counters.finish(Count.C2XX, first, 0.045)
    counters.finish(Count.C2XX, second, 0.045)
    block = read_block(segment, SLOT, STABLE)
    assert (cohort(block, 5), cohort(block, 6)) == ({0: 1, 5: 1}, {0: 1, 1: 1})


@pytest.mark.parametrize("count", OUTCOMES)
def test_an_unjudged_exchange_is_counted_for_display_only(segment: Segment, count: int) -> None:
    counters = Counters(segment, 0, SLOT, CANARY)
    counters.finish(count, counters.begin(5.0, ANNA, judged=False), 0.1, ANNA, True, 1, 1)
    block = read_block(segment, SLOT, CANARY)
    assert block[count] == block[Count.STARTED] == block.ended == 1
    assert block.judged(count) == block.resolved == block[Count.FAILED] == 0
    assert not any(block.cohort(5))
    assert not any(map(any, read_groups(segment, SLOT, CANARY)))
    assert not any(read_sizes(segment, SLOT, CANARY))


@pytest.mark.parametrize("count", OUTCOMES)
def test_an_outcome_is_judged_if_it_is_an_answer(segment: Segment, count: int) -> None:
    counters = Counters(segment, 0, SLOT, CANARY)
    counters.finish(count, counters.begin(5.0), 0.1)
    block = read_block(segment, SLOT, CANARY)
    is_answer = count < Count.CLIENT_GONE
    assert (block[count], block.judged(count), block.resolved) == (1, is_answer, is_answer)


def test_a_failure_is_its_user_s_and_his_group_s(segment: Segment) -> None:
    counters = Counters(segment, 0, SLOT, CANARY)
    for user, count, failed in ((ANNA, Count.C5XX, True), (ANNA, Count.C429, False), (BEN, Count.C2XX, False)):
        counters.finish(count, counters.begin(5.0, user), 0.1, user, failed)
    assert groups(segment, CANARY, ANNA) == [2, 2, 1, 2]
    assert groups(segment, CANARY, BEN) == [1, 1, 0, 1]
    exposed, hurt = read_registers(segment, SLOT, 7)
    assert (count_users(exposed), count_users(hurt)) == (2, 1)


def test_hurt_is_also_who_is_not_judged(segment: Segment) -> None:
    counters = Counters(segment, 0, SLOT, CANARY)
    counters.finish(Count.C2XX, counters.begin(5.0, ANNA), 0.1, ANNA)
    counters.finish(Count.C5XX, counters.begin(5.0, ANNA, judged=False), 0.1, ANNA, True)
    assert count_users(read_registers(segment, SLOT, 7)[1]) == 1
    assert groups(segment, CANARY, ANNA) == [1, 1, 0, 1]


def test_users_are_of_one_rollout(segment: Segment) -> None:
    """Another salt clears the registers; a request of the rollout before, which ends now, hurts nobody of this one."""
    counters = Counters(segment, 0, SLOT, CANARY)
    old = counters.begin(5.0, ANNA)
    for n in range(50):
        counters.begin(5.0, seat(7, b"%d" % n))
    exposed, _ = read_registers(segment, SLOT, 7)
    assert abs(count_users(exposed) - 51) <= 2
    counters.begin(5.0, seat(8, b"anna"))
    counters.finish(Count.C5XX, old, 0.1, ANNA, True)
    assert read_registers(segment, SLOT, 7) == ([], [])
    assert [count_users(files) for files in read_registers(segment, SLOT, 8)] == [1, 0]
    Counters(segment, 0, SLOT, CANARY).begin(5.0, seat(8, b"ben"))
    assert count_users(read_registers(segment, SLOT, 8)[0]) == 2, "a successor goes on"


def test_the_users_of_two_workers_are_counted_once(segment: Segment) -> None:
    for worker, names in ((0, range(300)), (2, range(200, 500))):
        counters = Counters(segment, worker, SLOT, CANARY)
        for n in names:
            counters.begin(5.0, seat(7, b"%d" % n))
    assert count_users(read_registers(segment, SLOT, 7)[0]) == pytest.approx(500, rel=0.03)


def test_stable_s_users_are_counted_by_bucket_at_rest_only(segment: Segment) -> None:
    for worker, at_rest in ((0, True), (2, True), (2, True), (0, False)):
        Counters(segment, worker, SLOT, STABLE).begin(5.0, ANNA, at_rest=at_rest)
    Counters(segment, 0, SLOT, STABLE).begin(5.0, ANNA, judged=False, at_rest=True)
    buckets = read_buckets(segment, SLOT)
    assert (buckets[ANNA.bucket], sum(buckets)) == (3, 3)
    assert read_registers(segment, SLOT, 7) == ([], [])


def test_sizes_are_of_judged_2xx_by_class_and_power_of_two(segment: Segment) -> None:
    counters = Counters(segment, 0, SLOT, STABLE)
    row = size_row(b"GET", b"/item/5")
    for size in (0, 1, 1023, 1024, 1 << 40):
        counters.finish(Count.C2XX, counters.begin(5.0), 0.1, None, False, 0, size, row)
    counters.finish(Count.C4XX, counters.begin(5.0), 0.1, None, False, 0, 5, row)
    sizes = {n: count for n, count in enumerate(read_sizes(segment, SLOT, STABLE)) if count}
    assert row % SIZE_COLUMNS == 0
    assert sizes == {row: 1, row + 1: 1, row + 10: 1, row + 11: 1, row + 41: 1}


def test_a_response_judged_by_its_head_is_resolved_then(segment: Segment) -> None:
    counters = Counters(segment, 0, SLOT, CANARY)
    begun = counters.begin(5.0, ANNA)
    counters.answered(begun, 0.0025, ANNA)
    block = read_block(segment, SLOT, CANARY)
    assert (block.resolved, block.ended, sum(block.latency)) == (1, 0, 1)
    assert groups(segment, CANARY, ANNA) == [1, 1, 0, 0]
    counters.finish_answered(Count.C2XX, begun, ANNA, False, 1, 900, 0)
    block = read_block(segment, SLOT, CANARY)
    assert (block.resolved, block[Count.C2XX], block.judged(Count.C2XX)) == (1, 1, 0)
    assert read_sizes(segment, SLOT, CANARY)[10] == 1


def test_withdrawn_is_in_no_question(segment: Segment) -> None:
    counters = Counters(segment, 0, SLOT, CANARY)
    counters.withdraw(counters.begin(5.0, ANNA), ANNA)
    counters.withdraw(0, ANNA)
    assert cohort(read_block(segment, SLOT, CANARY)) == {0: 1, WITHDRAWN_AT: 1}
    assert groups(segment, CANARY, ANNA) == [1, 1, 0, 0]


def test_conversions_are_counted_by_goal(segment: Segment) -> None:
    counters = Counters(segment, 0, SLOT, CANARY)
    for goals in (0b1, 0b1000_0001, 0):
        counters.add_goals(goals)
    assert list(read_block(segment, SLOT, CANARY).goals) == [2, 0, 0, 0, 0, 0, 0, 1]
