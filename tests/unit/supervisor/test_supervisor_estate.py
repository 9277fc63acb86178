"""What a dead worker had in hand: abandoned, and withdrawn from the cohorts, so that no variant is blamed for it."""

from __future__ import annotations

from canaryproxy.control.sampler import Sampler
from canaryproxy.routing.split import seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow
from canaryproxy.shared.layout import CANARY, STABLE, Count
from canaryproxy.shared.ledger import Counters
from canaryproxy.shared.reading import read_block
from canaryproxy.supervisor.estate import settle

BEGIN, SLOT, ROW = 1000.2, 2, 1


def test_what_was_in_hand_is_abandoned_and_blames_nobody() -> None:
    segment = layout.create(4, 2)
    AckRow(segment, ROW).enter(100, BEGIN)
    sampler = Sampler(segment, SLOT, BEGIN)
    counters = {variant: Counters(segment, ROW, SLOT, variant) for variant in (STABLE, CANARY)}
    for variant, started in ((STABLE, 3), (CANARY, 7)):
        for number in range(started):
            cohort = counters[variant].begin(BEGIN + number * 0.4)
        counters[variant].finish(Count.C2XX, cohort, 1.0)
    assert settle(segment, ROW, {SLOT}, BEGIN + 5) == 8
    for variant, lost in ((STABLE, 2), (CANARY, 6)):
        assert read_block(segment, SLOT, variant)[Count.ABANDONED] == lost
    ticks = [sampler.sample(BEGIN + second) for second in range(1, 40)]
    assert sum(tick.canary.failed + tick.stable.failed for tick in ticks) == 0
    assert sum(tick.canary.resolved + tick.stable.resolved for tick in ticks) == 2


def test_no_group_of_users_waits_for_a_dead_worker() -> None:
    segment = layout.create(4, 2)
    AckRow(segment, ROW).enter(100, BEGIN)
    sampler = Sampler(segment, SLOT, BEGIN)
    counters = Counters(segment, ROW, SLOT, CANARY)
    users = [seat(7, b"user %d" % number) for number in range(5)]
    for user in users:
        counters.begin(BEGIN, user)
    settle(segment, ROW, {SLOT}, BEGIN + 1)
    groups = sampler.sample(BEGIN + 2).canary.groups
    assert sum(group.started for group in groups.values()) == len(users)
    assert all(group.started == group.ended for group in groups.values())


def test_a_worker_that_left_in_order_leaves_nothing() -> None:
    segment = layout.create(4, 2)
    counters = Counters(segment, ROW, SLOT, CANARY)
    cohort = counters.begin(BEGIN)
    counters.finish(Count.CLIENT_GONE, cohort, 1.0)
    before = list(segment.words)
    assert settle(segment, ROW, {SLOT}, BEGIN + 2) == 0
    assert list(segment.words) == before


def test_a_request_that_had_hung_before_stays_a_failure() -> None:
    """It was the upstream that did not answer for ten seconds; the worker's death takes nothing of that back."""
    segment = layout.create(4, 2)
    AckRow(segment, ROW).enter(100, BEGIN)
    sampler = Sampler(segment, SLOT, BEGIN)
    failed = sum(sampler.sample(BEGIN + second).canary.failed for second in range(1, 20))
    Counters(segment, ROW, SLOT, CANARY).begin(BEGIN + 20)
    failed += sum(sampler.sample(BEGIN + second).canary.failed for second in range(20, 34))
    assert settle(segment, ROW, {SLOT}, BEGIN + 34) == 1
    failed += sum(sampler.sample(BEGIN + second).canary.failed for second in range(34, 60))
    assert failed == 1
