"""The sampler against a real segment and real counters: every request is counted once, when it is due, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.analysis.sample import SIZE_COLUMNS, ArmTick, Cohort, Group, Tick
from canaryproxy.control.sampler import Questions, Sampler
from canaryproxy.routing.split import Seat, seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, STABLE, Count
from canaryproxy.shared.ledger import Counters
from canaryproxy.stats import histogram

BEGIN = 1000.2
SLOT = 2
THRESHOLDS = (100_000, 150_000, 200_000, 300_000)
ASKED = {"latency": THRESHOLDS}
SLOW_US = 250_000


class World:
    """A slot with two workers; `at` moves the time, ticking each second on the way."""

    def __init__(self, questions: Questions = ASKED) -> None:
        self.segment = layout.create(4, 2)
        for worker in range(2):
            AckRow(self.segment, worker).enter(100 + worker, BEGIN)
        self.counters = [[Counters(self.segment, worker, SLOT, v) for v in (STABLE, CANARY)] for worker in range(2)]
        self.board = Board(self.segment)
        self.questions = questions
        self.now = BEGIN
        self.sampler = Sampler(self.segment, SLOT, self.now)
        self.sampler.publish(self.now, questions, SLOW_US)

        self._begun: dict[tuple[float, int, int, int], list[tuple[int, Seat | None]]] = {}

    def begin(
        self,
        started: float,
        variant: int = CANARY,
        worker: int = 0,
        *,
        judged: bool = True,
        user: Seat | None = None,
        name: int = 0,
    ) -> None:
        cohort = self.counters[worker][variant].begin(started, user, judged)
        self._begun.setdefault((started, variant, worker, name), []).append((cohort, user))

    def end(
        self,
        started: float,
        elapsed: float,
        count: Count = Count.C2XX,
        *,
        variant: int = CANARY,
        worker: int = 0,
        failed: bool = False,
        size: int = 0,
        name: int = 0,
    ) -> None:
        cohort, user = self._begun[started, variant, worker, name].pop(0)
        self.counters[worker][variant].finish(count, cohort, elapsed, user, failed, 0, size, 0)

    def request(
        self,
        started: float,
        elapsed: float,
        count: Count = Count.C2XX,
        *,
        failed: bool = False,
        user: Seat | None = None,
        variant: int = CANARY,
        size: int = 0,
    ) -> None:
        self.begin(started, variant, user=user)
        self.end(started, elapsed, count, failed=failed, variant=variant, size=size)

    def tick(self, at: float) -> Tick:
        self.now = at
        tick = self.sampler.sample(at)
        self.sampler.publish(at, self.questions, SLOW_US)
        return tick

    def ticks(self, seconds: int) -> Iterator[Tick]:
        for _ in range(seconds):
            yield self.tick(self.now + 1)


def latency(tick: Tick) -> tuple[Cohort, ...]:
    return tick.canary.cohorts.get("latency", ())


def totals(ticks: list[Tick]) -> tuple[int, int]:
    return sum(tick.canary.resolved for tick in ticks), sum(tick.canary.failed for tick in ticks)


def test_an_answer_is_counted_in_the_tick_after_it() -> None:
    world = World()
    world.request(1001.5, 0.1)
    world.request(1001.5, 0.2, Count.C5XX, failed=True)
    expected = ArmTick(resolved=2, failed=1, latency=_histogram(0.1, 0.2), began=2, goals=(0,) * 8)
    assert world.tick(1002.2).canary == expected
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
    assert [cohort.started for cohort in latency(world.tick(1003.2))] == [0]  # second 1001; 1002 is due at 1003.4
    world.end(1002.9, 0.9)
    assert latency(world.tick(1004.2))[0] == Cohort(THRESHOLDS, 5, (1, 2, 3, 4))


def test_who_left_early_is_not_in_the_cohort_and_who_left_late_is_slow() -> None:
    world = World()
    ticks = list(world.ticks(2))
    world.request(1002.5, 0.01)
    world.request(1002.5, 0.02, Count.CLIENT_GONE)
    world.request(1002.5, 0.35, Count.CLIENT_GONE)
    ticks += world.ticks(20)
    cohorts = [cohort for tick in ticks for cohort in latency(tick) if cohort.started]
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
    later = (1_000_000, 1_100_000, 1_200_000, 1_300_000)
    world.questions = {"latency": later}
    world.tick(1002.2)  # publishes from 1003 on
    world.request(1002.5, 0.5)
    ticks = [world.tick(1003.2)]
    world.request(1003.5, 0.5)
    ticks += world.ticks(4)
    cohorts = [cohort for tick in ticks for cohort in latency(tick) if cohort.started]
    assert cohorts == [Cohort(THRESHOLDS, 1, (0, 0, 0, 0)), Cohort(later, 1, (1, 1, 1, 1))]


def test_a_second_without_thresholds_gives_no_cohort_but_counts_for_errors() -> None:
    world = World({})
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
    cohorts = [cohort.started for tick in ticks for cohort in latency(tick)]
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
    cohorts = [cohort for tick in world.ticks(30) for cohort in latency(tick)]
    assert cohorts
    assert all(cohort.started == 0 for cohort in cohorts)


def test_thresholds_are_never_changed_for_a_second_that_has_begun() -> None:
    world = World()
    world.sampler.publish(1000.95, {"latency": (1, 2, 3, 4)}, SLOW_US)  # second 1001 begins within the grace
    assert world.board.edges(SLOT, 1001) == THRESHOLDS
    assert world.board.edges(SLOT, 1002) == (1, 2, 3, 4)
    assert world.board.edges(SLOT, 1004) == (1, 2, 3, 4)


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


# Questions: each is told of a second when its own largest threshold has passed.


def test_each_question_is_told_of_a_second_when_it_is_due() -> None:
    world = World({"latency": (100_000, 200_000), "stalls": (2_000_000,), "hang": (60_000_000,)})
    world.tick(1001.2)
    for elapsed in (0.05, 0.15, 1.5, 3.0):
        world.begin(1002.5)
        world.end(1002.5, elapsed)
    world.begin(1002.5)  # never ends
    told: dict[str, list[tuple[int, Cohort]]] = {}
    for tick in world.ticks(14):
        for name, cohorts in tick.canary.cohorts.items():
            told.setdefault(name, []).extend((int(world.now), cohort) for cohort in cohorts if cohort.started)
    assert told == {
        "latency": [(1004, Cohort((100_000, 200_000), 5, (1, 2)))],
        "stalls": [(1005, Cohort((2_000_000,), 5, (3,)))],
        "hang": [(1013, Cohort((60_000_000,), 5, (4,)))],
    }


def test_who_left_is_slow_to_the_questions_that_had_passed_and_unknown_to_the_others() -> None:
    world = World({"latency": (100_000, 200_000), "stalls": (2_000_000,)})
    world.tick(1001.2)
    for elapsed in (0.15, 0.5, 3.0):
        world.request(1002.5, elapsed, Count.CLIENT_GONE)
    world.request(1002.5, 0.05)
    started = {"latency": 0, "stalls": 0}
    within = dict(started)
    for tick in world.ticks(12):
        for name, cohorts in tick.canary.cohorts.items():
            started[name] += sum(cohort.started for cohort in cohorts)
            within[name] += sum(cohort.within[-1] for cohort in cohorts)
    assert (started, within) == ({"latency": 3, "stalls": 2}, {"latency": 1, "stalls": 1})


def test_a_question_may_come_and_go_while_others_wait() -> None:
    world = World({"stalls": (5_000_000,)})
    world.tick(1001.2)
    world.request(1002.5, 0.1)
    world.questions = {"latency": (100_000,), "stalls": (5_000_000,)}
    ticks = list(world.ticks(5))
    world.request(1006.5, 0.05)
    world.questions = {}
    ticks += world.ticks(12)
    for name, count in (("stalls", 2), ("latency", 1)):
        assert sum(cohort.started for tick in ticks for cohort in tick.canary.cohorts.get(name, ())) == count


def test_too_many_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="16 latency edges"):
        World({"one": tuple(range(1, 9)), "other": tuple(range(100, 108))})


# What else a tick says.


def test_refusals_are_of_judged_requests() -> None:
    world = World()
    for count, times in ((Count.C4XX, 3), (Count.C429, 2), (Count.C2XX, 1)):
        for _ in range(times):
            world.request(1001.5, 0.1, count)
    world.begin(1001.5, judged=False)
    world.end(1001.5, 0.1, Count.C429)
    canary = world.tick(1002.2).canary
    assert (canary.resolved, canary.refused, canary.limited, canary.began) == (6, 3, 2, 6)


def test_in_flight_is_what_may_still_be_answered() -> None:
    world = World()
    flights = []
    for second in range(1001, 1020):
        if second == 1002:
            for _ in range(3):
                world.begin(1001.9)
            world.end(1001.9, 0.05)
        flights.append(world.tick(second + 0.2).canary.in_flight)
    assert flights == [0] + [2] * 10 + [0] * 8, "after T_HANG they hang"
    world.end(1001.9, 17.0)
    world.begin(1020.1)
    assert world.tick(1020.2).canary.in_flight == 1


def test_a_new_sampler_has_seen_nothing_in_flight() -> None:
    world = World()
    world.begin(1000.6)
    world.sampler = Sampler(world.segment, SLOT, 1000.9)
    world.begin(1001.1)
    assert world.tick(1001.2).canary.in_flight == 1


def test_groups_of_the_canary_come_at_once_and_stable_s_every_ten_seconds() -> None:
    world = World()
    anna, ben = seat(1, b"anna"), seat(1, b"ben")
    for variant in (STABLE, CANARY):
        world.request(1001.5, 0.1, user=anna, variant=variant)
        world.request(1001.5, 0.3, Count.C5XX, failed=True, user=ben, variant=variant)
        world.begin(1001.5, variant, user=ben)
    expected = {anna.group: Group(1, 1, 0, 0), ben.group: Group(2, 1, 1, 1)}
    ticks = list(world.ticks(25))
    assert [tick.canary.groups for tick in ticks] == [expected, *[{}] * 24]
    assert [tick.stable.groups for tick in ticks if tick.stable.groups] == [expected]
    assert sum(group.started for group in ticks[9].stable.groups.values()) == 3


def test_sizes_come_every_five_seconds() -> None:
    world = World()
    for size in (0, 900, 1000):
        world.request(1001.5, 0.1, size=size)
    sizes = [tick.canary.sizes for tick in world.ticks(12)]
    assert [told for told in sizes if told] == [{0: 1, 10: 2}]
    assert SIZE_COLUMNS > 10


def test_conversions_are_told_for_each_goal_of_the_route() -> None:
    world = World()
    world.sampler = Sampler(world.segment, SLOT, world.now, goals=2)
    world.counters[0][CANARY].add_goals(0b11)
    world.counters[1][CANARY].add_goals(0b10)
    assert [tick.canary.goals for tick in world.ticks(2)] == [(1, 2), (0, 0)]


def test_users_are_of_the_rollout_and_of_all_workers() -> None:
    world = World()
    world.board.publish(SLOT, 100, swapped=False, salt=5)
    for n in range(40):
        user = seat(5, b"user-%d" % (n % 30))
        world.begin(1001.5, worker=n % 2, user=user)
        world.end(1001.5, 0.1, Count.C5XX if n % 30 == 3 else Count.C2XX, worker=n % 2, failed=n % 30 == 3)
    tick = world.tick(1002.2)
    assert (tick.canary.users, tick.canary.hurt) == (30, 1)
    assert (tick.stable.users, tick.stable.hurt) == (0, 0)
    assert world.tick(1003.2).canary.users == 30
    world.board.publish(SLOT, 100, swapped=False, salt=6)
    assert world.tick(1004.2).canary.users == 0


def test_a_tick_says_the_weight() -> None:
    world = World()
    world.board.publish(SLOT, 2_500, swapped=True, salt=5)
    tick = world.tick(1001.2)
    assert (tick.weight, tick.share) == (0.25, None)


def _histogram(*latencies: float) -> dict[int, int]:
    return {histogram.index(int(latency * 1e6)): 1 for latency in latencies}


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
    for name, (offset, elapsed, (outcome, is_failure), worker, judged) in enumerate(requests):
        started = 1000 + offset
        script.append((started, partial(world.begin, started, worker=worker, judged=judged, name=name)))
        if outcome is not None:
            end = partial(world.end, started, elapsed, outcome, worker=worker, failed=is_failure, name=name)
            script.append((started + elapsed, end))
        left = outcome is Count.CLIENT_GONE
        in_time = outcome is not None and int(elapsed * 1e6) <= 10_000_000
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
        for cohort in latency(tick):
            assert 0 <= cohort.within[0] <= cohort.within[1] <= cohort.within[2] <= cohort.within[3] <= cohort.started
