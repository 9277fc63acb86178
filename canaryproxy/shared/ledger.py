"""The ledger: what each worker counts. `shared.reading` has the sum.

Written by one worker for each block, at one place (`proxy.exchange` begins and finishes); read by `control.sampler`. Counters
only grow, so a worker that takes over a dead one's row simply counts on, and a reader takes differences.

*Start cohorts* (docs/statistics.md 3): an exchange is counted in the second in which it started, and once more in its
latency class when it ends. What started and has no class by the time the cohort is due was slow, answered or not. An exchange
that is not judged has the cohort 0, which is no word of a cohort.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from canaryproxy.analysis.sample import GROUPS, SIZE_CLASSES, SIZE_COLUMNS, T_HANG
from canaryproxy.routing.goals import size_class
from canaryproxy.routing.split import Seat
from canaryproxy.shared.layout import (
    BLOCK_WORDS,
    CANARY,
    CLASSES,
    COHORT_AT,
    COHORT_WORDS,
    EDGE_WORDS,
    EDGES,
    EDGES_AT,
    EXPOSED_AT,
    GOALS_AT,
    GROUPS_AT,
    HISTOGRAM_AT,
    HURT_AT,
    JUDGED_AT,
    NEVER,
    REGISTER_WORDS,
    REGISTERS_SALT,
    RING,
    SIZES_AT,
    USERS_WORDS,
    Count,
    Segment,
)
from canaryproxy.stats.histogram import index as bucket_index

_T_HANG_US: Final = T_HANG * 1_000_000
# Members of an IntEnum cost ten times a plain int to look up and to add: these are for the request path.
_C2XX: Final = int(Count.C2XX)
_CLIENT_GONE: Final = int(Count.CLIENT_GONE)
_BY_HEAD: Final = int(Count.BY_HEAD)
_FAILED: Final = int(Count.FAILED)
_BYTES_IN: Final = int(Count.BYTES_IN)
_BYTES_OUT: Final = int(Count.BYTES_OUT)
_LATENCY_SUM: Final = int(Count.LATENCY_SUM_US)
_ENDED_AT: Final = GROUPS_AT + GROUPS
_FAILED_AT: Final = GROUPS_AT + 2 * GROUPS
_SLOW_AT: Final = GROUPS_AT + 3 * GROUPS


def size_row(method: bytes, target: bytes) -> int:
    """Where `Counters.finish` counts the sizes of the answers to requests like this one."""
    return SIZE_COLUMNS * size_class(method, target, SIZE_CLASSES)


class Counters:
    """One worker's counters of one slot and variant. `begin` and `finish` are on the request path, hence positional arguments.

    Times are monotonic seconds; an exchange belongs to the cohort of second `int(started)`. `seat` is None for a request without
    a user, and for one whose group is in quarantine.
    """

    __slots__ = ("_block", "_board", "_cohort", "_edges", "_edges_at", "_exposed", "_hurt", "_salt", "_second", "_users")

    def __init__(self, segment: Segment, worker: int, slot: int, variant: int) -> None:
        layout, words = segment.layout, segment.words
        at, users = layout.block(worker, slot, variant), layout.users(worker, slot)
        self._block = words[at : at + BLOCK_WORDS]
        self._users = words[users : users + USERS_WORDS]
        #: For the canary: a byte for each register.
        self._exposed = self._users[EXPOSED_AT : EXPOSED_AT + REGISTER_WORDS].cast("B") if variant == CANARY else None
        self._hurt = self._users[HURT_AT : HURT_AT + REGISTER_WORDS].cast("B")
        self._salt = self._users[REGISTERS_SALT] - 1
        self._board = words
        self._edges_at = layout.board_row(slot) + EDGES_AT
        self._second = self._cohort = -1
        #: {cohort: (its edges, what is slow)}, as they were when its second's first request began.
        self._edges: dict[int, tuple[tuple[int, ...], int]] = {}

    # Begin.

    def begin(self, started: float, seat: Seat | None = None, judged: bool = True, at_rest: bool = False) -> int:
        """Count an exchange that starts now; its cohort. `at_rest`: the canary has no share, so `seat` is the next rollout's."""
        block, exposed = self._block, self._exposed
        if exposed is not None and seat is not None:
            if seat[0] != self._salt:
                self._begin_salt(seat[0])
            exposed[seat[4]] = max(exposed[seat[4]], seat[5])
        if not judged:
            block[0] += 1
            return 0
        second = int(started)
        if second != self._second:
            self._begin_second(second)
        cohort = self._cohort
        block[cohort] += 1
        if seat is not None:
            block[GROUPS_AT + seat[3]] += 1
            if at_rest:
                self._users[seat[1]] += 1
        return cohort

    def _begin_second(self, second: int) -> None:
        """The first request of a second finds the edges that were fixed for it."""
        self._second, place = second, second % RING
        self._cohort = COHORT_AT + place * COHORT_WORDS
        at = self._edges_at + place * EDGE_WORDS
        self._edges[self._cohort] = tuple(self._board[at : at + EDGES]), self._board[at + EDGES] or NEVER

    def _begin_salt(self, salt: int) -> None:
        """The registers are of one rollout: clear those of another one."""
        self._users[REGISTERS_SALT] = 0
        for index in range(EXPOSED_AT, HURT_AT + REGISTER_WORDS):
            self._users[index] = 0
        self._users[REGISTERS_SALT] = salt + 1
        self._salt = salt

    # End.

    def finish(  # noqa: PLR0917
        self,
        count: int,
        cohort: int,
        elapsed: float,
        seat: Seat | None = None,
        failed: bool = False,
        received: int = 0,
        sent: int = 0,
        size_row: int = 0,
    ) -> None:
        """Count the end of an exchange, `elapsed` seconds after it started: `count` is the outcome.

        `failed` says that it was the upstream's fault. `received` and `sent` are body bytes from and to the client, `size_row`
        is where the sizes of such requests are counted (`recall.Line`).
        """
        block = self._block
        if received:
            block[_BYTES_IN] += received
        block[_BYTES_OUT] += sent
        elapsed_us = int(elapsed * 1e6)
        if not cohort or count >= _CLIENT_GONE or elapsed_us > _T_HANG_US:
            self._finish_unusual(count, cohort, elapsed_us, seat, failed)
            return
        block[JUDGED_AT + count] += 1
        block[_LATENCY_SUM] += elapsed_us
        block[HISTOGRAM_AT + bucket_index(elapsed_us)] += 1
        edges, slow_us = self._edges[cohort]
        block[cohort + 1 + (0 if elapsed_us <= edges[0] else bisect_left(edges, elapsed_us))] += 1
        if seat is not None:
            group = seat[3]
            block[_ENDED_AT + group] += 1
            if elapsed_us > slow_us:
                block[_SLOW_AT + group] += 1
        if count == _C2XX:
            block[SIZES_AT + size_row + sent.bit_length()] += 1
        elif failed:
            block[_FAILED] += 1
            self._fail(seat, judged=True)

    def _finish_unusual(self, count: int, cohort: int, elapsed_us: int, seat: Seat | None, failed: bool) -> None:
        """The end of who is not judged, of who was called off, and of who has counted as hanging already."""
        block = self._block
        block[count] += 1
        if not cohort:
            if failed:
                self._fail(seat, judged=False)
            return
        if count < _CLIENT_GONE:
            block[_LATENCY_SUM] += elapsed_us
            block[HISTOGRAM_AT + bucket_index(elapsed_us)] += 1
        hung = elapsed_us > _T_HANG_US
        edges, slow_us = self._edges[cohort]
        if not hung:
            self._withdraw(cohort, edges, elapsed_us)
        if seat is not None:
            block[_ENDED_AT + seat[3]] += 1
            if elapsed_us > slow_us:
                block[_SLOW_AT + seat[3]] += 1
        if hung:
            self._fail(seat, judged=True)

    def answered(self, cohort: int, elapsed: float, seat: Seat | None) -> None:
        """Judge a response that goes on for long (a stream, a big file, a slow reader) by the time of its head."""
        if not cohort:
            return
        block, elapsed_us = self._block, int(elapsed * 1e6)
        block[_LATENCY_SUM] += elapsed_us
        block[HISTOGRAM_AT + bucket_index(elapsed_us)] += 1
        edges, slow_us = self._edges[cohort]
        if elapsed_us <= _T_HANG_US:
            block[_BY_HEAD] += 1
            block[cohort + 1 + bisect_left(edges, elapsed_us)] += 1
        if seat is not None:
            block[_ENDED_AT + seat[3]] += 1
            if elapsed_us > slow_us:
                block[_SLOW_AT + seat[3]] += 1

    def finish_answered(  # noqa: PLR0917
        self, count: int, cohort: int, seat: Seat | None, failed: bool, received: int, sent: int, size_row: int
    ) -> None:
        """Count the end of a response that was judged by its head; a failure after it is one more that failed."""
        block = self._block
        block[count] += 1
        block[_BYTES_IN] += received
        block[_BYTES_OUT] += sent
        if cohort and count == _C2XX:
            block[SIZES_AT + size_row + sent.bit_length()] += 1
        elif failed:
            if cohort:
                block[_BY_HEAD] += 1
                block[_FAILED] += 1
            self._fail(seat, judged=cohort > 0)

    def withdraw(self, cohort: int, seat: Seat | None) -> None:
        """Take an exchange that began out of its cohort."""
        if cohort:
            self._withdraw(cohort, (NEVER,), 0)
            if seat is not None:
                self._block[_ENDED_AT + seat[3]] += 1

    def _withdraw(self, cohort: int, edges: Sequence[int], elapsed_us: int) -> None:
        """A client that left says nothing of the variant to those questions whose last threshold had not passed by then."""
        self._block[cohort + 1 + CLASSES + bisect_left(edges, elapsed_us)] += 1

    def _fail(self, seat: Seat | None, *, judged: bool) -> None:
        """A user was hurt. Who met the canary, and who was hurt, is asked of everybody, also of requests beyond the cap."""
        if seat is None:
            return
        if judged:
            self._block[_FAILED_AT + seat[3]] += 1
        if self._exposed is not None and seat[0] == self._salt and seat[5] > self._hurt[seat[4]]:
            self._hurt[seat[4]] = seat[5]

    # Now and then.

    def add_retry(self) -> None:
        """Count one more try of an exchange."""
        self._block[Count.RETRIES] += 1

    def add_goals(self, goals: int) -> None:
        """Count a conversion for each goal whose bit is set."""
        for goal in range(goals.bit_length()):
            if goals >> goal & 1:
                self._block[GOALS_AT + goal] += 1
