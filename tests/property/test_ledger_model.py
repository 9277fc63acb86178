"""Whatever exchanges do: what the ledger says after them is what a plain model of it says, over two workers."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.analysis.sample import SIZE_COLUMNS
from canaryproxy.routing.split import Seat, seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, CLASSES, OUTCOMES, STABLE, Count
from canaryproxy.shared.ledger import Counters
from canaryproxy.shared.reading import count_users, read_block, read_buckets, read_groups, read_registers, read_sizes
from canaryproxy.stats import histogram

EDGES, SLOW_US, SALT = (50_000, 200_000, 1_000_000), 300_000, 7
USERS = [None, *(seat(SALT, b"user-%d" % n) for n in range(6))]


class Exchange(NamedTuple):
    """One exchange: None as its outcome hangs; `by_head` is its outcome's latency, if it was judged so."""

    second: int
    worker: int
    variant: int
    user: Seat | None
    judged: bool
    outcome: int | None
    elapsed_us: int
    size: int
    by_head: bool


exchanges = st.builds(
    Exchange,
    st.integers(0, 15),
    st.integers(0, 1),
    st.sampled_from([STABLE, CANARY]),
    st.sampled_from(USERS),
    st.booleans(),
    st.sampled_from([None, *OUTCOMES]),
    st.sampled_from([10, 50_000, 50_001, 300_001, 5_000_000, 11_000_000]),
    st.sampled_from([0, 1, 70_000]),
    st.booleans(),
)


def failed(outcome: int) -> bool:
    return Count.C5XX <= outcome <= Count.TRUNCATED


def perform(counters: Counters, one: Exchange) -> None:
    cohort = counters.begin(float(one.second), one.user, one.judged, at_rest=one.variant == STABLE)
    if one.outcome is None:
        return
    is_failure, elapsed = failed(one.outcome), (one.elapsed_us + 0.5) / 1e6
    if one.by_head:
        counters.answered(cohort, elapsed, one.user)
        counters.finish_answered(one.outcome, cohort, one.user, is_failure, 1, one.size, SIZE_COLUMNS)
    else:
        counters.finish(one.outcome, cohort, elapsed, one.user, is_failure, 1, one.size, SIZE_COLUMNS)


class Model:
    """The counts of one variant, said once more and as plainly as can be."""

    def __init__(self, done: list[Exchange]) -> None:
        self.done = done
        judged = [one for one in done if one.judged]
        ended = [one for one in judged if one.outcome is not None]
        in_time = [one for one in ended if one.elapsed_us <= 10_000_000]
        answered = [one for one in in_time if one.by_head or one.outcome < Count.CLIENT_GONE]  # type: ignore[operator]
        late_failures = [one for one in ended if one.by_head and failed(one.outcome)]  # type: ignore[arg-type]
        self.outcomes = Counter(one.outcome for one in done if one.outcome is not None)
        self.resolved = len(answered) + len(late_failures)
        self.failed = len(late_failures) + sum(not one.by_head and failed(one.outcome) for one in in_time)  # type: ignore[arg-type]
        self.started = Counter(one.second for one in judged)
        self.classes = Counter((one.second, bisect_left(EDGES, one.elapsed_us)) for one in answered)
        gone = [one for one in in_time if one not in answered]
        self.withdrawn = Counter((one.second, bisect_left(EDGES, one.elapsed_us)) for one in gone)
        self.latency = Counter(
            histogram.index(one.elapsed_us)
            for one in ended
            if one.by_head or one.outcome < Count.CLIENT_GONE  # type: ignore[operator]
        )
        self.groups: Counter[tuple[int, int]] = Counter()
        for one in judged:
            if one.user is not None:
                hung = one.outcome is not None and not one.by_head and one.elapsed_us > 10_000_000
                facts = (
                    True,
                    one.outcome is not None,
                    one.outcome is not None and (hung or (failed(one.outcome) and one in late_failures + in_time)),
                    one.outcome is not None and one.elapsed_us > SLOW_US,
                )
                self.groups.update((array, one.user.group) for array, fact in enumerate(facts) if fact)
        good = [one for one in ended if one.outcome == Count.C2XX and (one.by_head or one in in_time)]
        self.sizes = Counter(SIZE_COLUMNS + one.size.bit_length() for one in good)
        self.met = {one.user for one in done if one.user is not None}
        self.hurt = {
            one.user
            for one in done
            if one.user in self.met and one.outcome is not None and (failed(one.outcome) or self._hung(one))
        }

    @staticmethod
    def _hung(one: Exchange) -> bool:
        return one.judged and not one.by_head and one.elapsed_us > 10_000_000


@settings(max_examples=150, deadline=None)
@given(st.lists(exchanges, max_size=60))
def test_the_ledger_counts_as_the_model_does(done: list[Exchange]) -> None:
    segment = layout.create(2, 2)
    for second in range(16):
        Board(segment).publish_edges(1, second, EDGES, SLOW_US)
    for worker in range(2):
        AckRow(segment, worker).enter(worker + 1, 1.0)
    counters = {(w, v): Counters(segment, w, 1, v) for w in range(2) for v in (STABLE, CANARY)}
    for one in done:
        perform(counters[one.worker, one.variant], one)
    for variant in (STABLE, CANARY):
        model, block = Model([one for one in done if one.variant == variant]), read_block(segment, 1, variant)
        assert block[Count.STARTED] == len(model.done)
        assert {outcome: block[outcome] for outcome in OUTCOMES if block[outcome]} == model.outcomes
        assert (block.resolved, block[Count.FAILED]) == (model.resolved, model.failed)
        for second, words in enumerate(block.cohorts):
            assert words[0] == model.started[second]
            assert list(words[1 : 1 + CLASSES]) == [model.classes[second, cls] for cls in range(CLASSES)]
            assert list(words[1 + CLASSES :]) == [model.withdrawn[second, cls] for cls in range(CLASSES)]
        assert Counter(dict(enumerate(block.latency))) == model.latency
        assert Counter(dict(enumerate(read_sizes(segment, 1, variant)))) == model.sizes
        groups = read_groups(segment, 1, variant)
        assert (
            Counter({(array, n): count for n, counts in enumerate(groups) for array, count in enumerate(counts)}) == model.groups
        )
    stable = [one for one in done if one.variant == STABLE and one.judged and one.user is not None]
    assert Counter(dict(enumerate(read_buckets(segment, 1)))) == Counter(one.user.bucket for one in stable if one.user)
    exposed, hurt = (count_users(files) for files in read_registers(segment, 1, SALT))
    model = Model([one for one in done if one.variant == CANARY])
    assert (exposed, hurt) == (len(model.met), len(model.hurt))
