"""The sampler against a real segment and real counters: every request is counted once, when it is due, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.analysis.sample import ArmTick, Cohort, Tick
from canaryproxy.control.sampler import Sampler
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, STABLE, Count
from canaryproxy.shared.ledger import Counters
from canaryproxy.stats import histogram

BEGIN = 1000.2
SLOT = 2
THRESHOLDS = (100_000, 150_000, 200_000, 300_000)


class World:
    """A slot with two workers; `at` moves the time, ticking each second on the way."""

    def __init__(self, thresholds: tuple[int, ...] = THRESHOLDS) -> None:
        self.segment = layout.create(4, 2)
        for worker in range(2):
            AckRow(self.segment, worker).enter(100 + worker, BEGIN)
        self.counters = [[Counters(self.segment, worker, SLOT, v) for v in (STABLE, CANARY)] for worker in range(2)]
        self.board = Board(self.segment)
        self.thresholds = thresholds
        self.now = BEGIN
        self.sampler = Sampler(self.segment, SLOT, self.now)
        self.sampler.publish(self.now, thresholds)

    def begin(self, started: float, variant: int = CANARY, worker: int = 0, judged: bool = True) -> None:
        self.counters[worker][variant].begin(started, judged=judged)

    def end(
        self,
        started: float,
        elapsed: float,
        count: Count = Count.C2XX,
        *,
        variant: int = CANARY,
        worker: int = 0,
        judged: bool = True,
        failed: bool = False,
    ) -> None:
        self.counters[worker][variant].finish(count, started, started + elapsed, judged=judged, failed=failed)

    def request(self, started: float, elapsed: float, count: Count = Count.C2XX, *, failed: bool = False) -> None:
        self.begin(started)
        self.end(started, elapsed, count, failed=failed)

    def tick(self, at: float) -> Tick:
        self.now = at
        tick = self.sampler.sample(at)
        self.sampler.publish(at, self.thresholds)
        return tick

    def ticks(self, seconds: int) -> Iterator[Tick]:
        for _ in range(seconds):
            yield self.tick(self.now + 1)


def totals(ticks: list[Tick]) -> tuple[int, int]:
    return sum(tick.canary.resolved for tick in ticks), sum(tick.canary.failed for tick in ticks)


def test_an_answer_is_counted_in_the_tick_after_it() -> None:
    world = World()
    world.request(1001.5, 0.1)
    world.request(1001.5, 0.2, Count.C5XX, failed=True)
    assert world.tick(1002.2).canary == ArmTick(resolved=2, failed=1, latency=_histogram(0.1, 0.2))
    assert world.tick(1003.2).canary.resolved == 0


def test_both_arms_and_all_workers_are_counted() -> None:
    world = World()
    for worker in range(2):
        world.begin(1001.1, STABLE, worker)
        world.end(1001.1, 0.01, variant=STABLE, worker=worker)
    tick = world.tick(1002.2)
    assert (tick.stable.resolved, tick.canary.resolved) == (2, 0)
    assert tick.elapsed == pytest.approx(2.0)


def test_a_cohort_is_reported_once_it_is_past_its_largest_threshold() -> None:
    world = World()
    for elapsed in (0.05, 0.12, 0.18, 0.25, 0.9):
        world.begin(1002.9)
        if elapsed < 0.3:
            world.end(1002.9, elapsed)
    assert [cohort.started for cohort in world.tick(1003.2).canary.cohorts] == [0]  # second 1001; 1002 is due at 1003.4
    world.end(1002.9, 0.9)
    assert world.tick(1004.2).canary.cohorts[0] == Cohort(THRESHOLDS, 5, (1, 2, 3, 4))


def test_who_left_early_is_not_in_the_cohort_and_who_left_late_is_slow() -> None:
    world = World()
    ticks = list(world.ticks(2))
    world.request(1002.5, 0.01)
    world.request(1002.5, 0.02, Count.CLIENT_GONE)
    world.request(1002.5, 0.35, Count.CLIENT_GONE)
    ticks += world.ticks(20)
    cohorts = [cohort for tick in ticks for cohort in tick.canary.cohorts if cohort.started]
    assert cohorts == [Cohort(THRESHOLDS, 2, (1, 1, 1, 1))]
    assert totals(ticks) == (1, 0)


def test_a_request_without_an_answer_has_failed_after_t_hang() -> None:
    world = World()
    world.begin(1001.3)
    assert totals(list(world.ticks(11))) == (0, 0)
    assert world.now == pytest.approx(1011.2)
    assert totals([world.tick(1012.2)]) == (1, 1)
    world.end(1001.3, 11.5, Count.C5XX, failed=True)
    assert totals(list(world.ticks(40))) == (0, 0)


def test_thresholds_stay_those_of_the_second_s_beginning() -> None:
    world = World()
    world.tick(1001.2)
    world.thresholds = (1_000_000, 1_100_000, 1_200_000, 1_300_000)
    world.tick(1002.2)  # publishes from 1003 on
    world.request(1002.5, 0.5)
    ticks = [world.tick(1003.2)]
    world.request(1003.5, 0.5)
    ticks += world.ticks(4)
    cohorts = [cohort for tick in ticks for cohort in tick.canary.cohorts if cohort.started]
    assert cohorts == [Cohort(THRESHOLDS, 1, (0, 0, 0, 0)), Cohort(world.thresholds, 1, (1, 1, 1, 1))]


def test_a_second_without_thresholds_gives_no_cohort_but_counts_for_errors() -> None:
    world = World(thresholds=())
    world.request(1000.5, 0.01, Count.C5XX, failed=True)
    ticks = list(world.ticks(20))
    assert totals(ticks) == (1, 1)
    assert not any(tick.canary.cohorts for tick in ticks)


def test_a_late_tick_counts_everything_once_and_says_what_it_lost() -> None:
    world = World()
    ticks = list(world.ticks(12))
    for second in range(1013, 1053):
        world.request(second + 0.5, 0.01)
        world.begin(second + 0.6)  # hangs
    ticks.append(world.tick(1053.2))
    ticks += world.ticks(40)
    assert totals(ticks) == (80, 40)
    cohorts = [cohort.started for tick in ticks for cohort in tick.canary.cohorts]
    assert set(cohorts) <= {0, 2}


def test_an_end_that_is_written_too_late_takes_its_hang_back() -> None:
    world = World()
    world.begin(1001.3)
    ticks = list(world.ticks(12))
    assert totals(ticks) == (1, 1)
    world.end(1001.3, 9.9)  # a worker that was held up for seconds: the answer had come in time
    world.request(1012.3, 0.1, Count.C5XX, failed=True)
    ticks += world.ticks(20)
    assert totals(ticks) == (2, 1)


def test_a_new_sampler_begins_with_the_seconds_after_it() -> None:
    world = World()
    world.request(1000.5, 0.1)
    world.begin(1000.6)
    world.begin(1000.7)
    world.sampler = Sampler(world.segment, SLOT, 1000.9)
    world.end(1000.7, 1.0)  # answered later: counts
    world.begin(1001.5)  # hangs, after the restart: counts
    assert totals(list(world.ticks(40))) == (2, 1)


def test_a_restarted_sampler_reports_no_half_cohort() -> None:
    world = World()
    for second in range(1001, 1010):
        world.begin(second + 0.1)
        world.end(second + 0.1, 0.01)
    world.sampler = Sampler(world.segment, SLOT, 1009.5)
    world.begin(1009.6)
    world.end(1009.6, 0.01)
    world.now = 1009.2
    cohorts = [cohort for tick in world.ticks(30) for cohort in tick.canary.cohorts]
    assert cohorts
    assert all(cohort.started == 0 for cohort in cohorts)


def test_thresholds_are_never_changed_for_a_second_that_has_begun() -> None:
    world = World()
    world.sampler.publish(1000.95, (1, 2, 3, 4))  # second 1001 begins within the grace
    assert world.board.thresholds(SLOT, 1001) == THRESHOLDS
    assert world.board.thresholds(SLOT, 1002) == (1, 2, 3, 4)
    assert world.board.thresholds(SLOT, 1004) == (1, 2, 3, 4)


def test_recent_rates_are_of_the_last_minute() -> None:
    world = World()
    for second in range(1001, 1031):
        world.request(second + 0.1, 0.1, Count.C5XX if second % 2 else Count.C2XX, failed=bool(second % 2))
        world.tick(second + 1.2)
    _, recent = world.sampler.recent
    assert recent.error_rate == pytest.approx(0.5)
    assert recent.requests_per_second == pytest.approx(1.0, rel=0.05)
    assert recent.p95_us == pytest.approx(100_000, rel=0.02)
    list(world.ticks(61))
    assert (recent.error_rate, recent.requests_per_second, recent.p95_us) == (None, 0.0, None)


def _histogram(*latencies: float) -> dict[int, int]:
    return {histogram.index(int((1001.5 + latency - 1001.5) * 1e6)): 1 for latency in latencies}


# --- Whatever happens: each judged request is resolved once. ---

_ends = st.sampled_from(
    [(Count.C2XX, False), (Count.C5XX, True), (Count.CONNECT_FAILED, True), (Count.CLIENT_GONE, False), (None, False)]
)
_requests = st.lists(
    st.tuples(st.floats(1.0, 60.0), st.floats(0.0001, 14.0), _ends, st.integers(0, 1), st.booleans()), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(requests=_requests, gaps=st.lists(st.floats(0.3, 30.0), max_size=12))
def test_every_judged_request_is_resolved_once(
    requests: list[tuple[float, float, tuple[Count | None, bool], int, bool]], gaps: list[float]
) -> None:
    """However late the ticks come: resolved is all that was judged, but for those whose client left within T_HANG."""
    world = World()
    script: list[tuple[float, Callable[[], None]]] = []
    ticks: list[Tick] = []
    resolved = failed = 0
    for offset, elapsed, (outcome, is_failure), worker, judged in requests:
        started = 1000 + offset
        script.append((started, partial(world.begin, started, worker=worker, judged=judged)))
        if outcome is not None:
            end = partial(world.end, started, elapsed, outcome, worker=worker, judged=judged, failed=is_failure)
            script.append((started + elapsed, end))
        left = outcome is Count.CLIENT_GONE
        in_time = outcome is not None and int((started + elapsed - started) * 1e6) <= 10_000_000
        if judged and not (left and in_time):
            resolved += 1
            failed += is_failure or not in_time
    now = BEGIN  # the first seconds without a stall: until every place of the ring was quiet once
    for gap in [*[1.0] * 12, *gaps, *[4.0] * 25]:
        now += gap
        script.append((now, lambda at=now: ticks.append(world.tick(at))))  # type: ignore[misc]
    for _, happen in sorted(script, key=lambda entry: entry[0]):
        happen()
    assert totals(ticks) == (resolved, failed)
    for tick in ticks:
        assert 0 <= tick.canary.failed <= tick.canary.resolved
        for cohort in tick.canary.cohorts:
            assert 0 <= cohort.within[0] <= cohort.within[1] <= cohort.within[2] <= cohort.within[3] <= cohort.started
