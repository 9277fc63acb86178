"""The ledger: what each worker counts, and how the controller reads the sum.

Written by one worker for each block, at one place (`proxy.exchange` begins and finishes); read by `control.sampler`. Counters
only grow, so a worker that takes over a dead one's row simply counts on, and a reader takes differences.

*Start cohorts* (docs/statistics.md 3): an exchange is counted in the second in which it started, and once more in its
latency class when it ends. What started and has no class by the time the cohort is due was slow, answered or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from canaryproxy.analysis.sample import T_HANG
from canaryproxy.shared.layout import (
    BLOCK_WORDS,
    COHORT_AT,
    COHORT_WITHDRAWN,
    COHORT_WORDS,
    HISTOGRAM_AT,
    RING,
    THRESHOLDS,
    THRESHOLDS_AT,
    Ack,
    Count,
    Segment,
)
from canaryproxy.stats import histogram
from canaryproxy.stats.histogram import index as bucket_index

_T_HANG_US: Final = T_HANG * 1_000_000
# Members of an IntEnum cost ten times a plain int to look up and to add: these are for the request path.
_CLIENT_GONE: Final = int(Count.CLIENT_GONE)
_RESOLVED: Final = int(Count.RESOLVED)
_FAILED: Final = int(Count.FAILED)
_BYTES_IN: Final = int(Count.BYTES_IN)
_BYTES_OUT: Final = int(Count.BYTES_OUT)
_LATENCY_SUM: Final = int(Count.LATENCY_SUM_US)


class Counters:
    """One worker's counters of one slot and variant. `begin` and `finish` are on the request path.

    Times are monotonic seconds; an exchange belongs to the cohort of second `int(started)`.
    """

    __slots__ = ("_block", "_board", "_thresholds")

    def __init__(self, segment: Segment, worker: int, slot: int, variant: int) -> None:
        at = segment.layout.block(worker, slot, variant)
        self._block = segment.words[at : at + BLOCK_WORDS]
        self._board = segment.words
        self._thresholds = segment.layout.board_row(slot) + THRESHOLDS_AT

    def begin(self, started: float, *, judged: bool) -> None:
        """Count an exchange that starts now."""
        block = self._block
        block[0] += 1
        if judged:
            block[COHORT_AT + int(started) % RING * COHORT_WORDS] += 1

    def finish(
        self, count: int, started: float, now: float, *, judged: bool, failed: bool, received: int = 0, sent: int = 0
    ) -> None:
        """Count its end: `count` is the outcome; `failed` says that it was the upstream's fault.

        `received` and `sent` are body bytes from and to the client.
        """
        block = self._block
        block[count] += 1
        if received:
            block[_BYTES_IN] += received
        block[_BYTES_OUT] += sent
        if not judged:
            return
        elapsed_us = int((now - started) * 1e6)
        if count < _CLIENT_GONE:
            block[_LATENCY_SUM] += elapsed_us
            block[HISTOGRAM_AT + bucket_index(elapsed_us)] += 1
            if elapsed_us > _T_HANG_US:
                return  # its cohort was due without it, and it has been counted as failed and slow
            block[_RESOLVED] += 1
            if failed:
                block[_FAILED] += 1
            position = int(started) % RING
            fast = elapsed_us <= self._board[self._thresholds + position * THRESHOLDS]
            block[COHORT_AT + position * COHORT_WORDS + (1 if fast else self._class(position, elapsed_us))] += 1
        elif elapsed_us <= _T_HANG_US:
            self._withdraw(started, elapsed_us)

    def answered(self, started: float, head_at: float, *, judged: bool) -> None:
        """Judge a response that goes on for long (a stream, a big file, a slow reader) by the time of its head."""
        if not judged:
            return
        block, elapsed_us = self._block, int((head_at - started) * 1e6)
        block[_LATENCY_SUM] += elapsed_us
        block[HISTOGRAM_AT + bucket_index(elapsed_us)] += 1
        if elapsed_us <= _T_HANG_US:
            block[_RESOLVED] += 1
            position = int(started) % RING
            block[COHORT_AT + position * COHORT_WORDS + self._class(position, elapsed_us)] += 1

    def withdraw(self, started: float) -> None:
        """Take an exchange that began out of its cohort."""
        self._withdraw(started, 0)

    def finish_answered(self, count: int, *, judged: bool, failed: bool, received: int, sent: int) -> None:
        """Count the end of a response that was judged by its head; a failure after it is one more that failed."""
        block = self._block
        block[count] += 1
        block[_BYTES_IN] += received
        block[_BYTES_OUT] += sent
        if judged and failed:
            block[_RESOLVED] += 1
            block[_FAILED] += 1

    def add_retry(self) -> None:
        """Count one more try of an exchange."""
        self._block[Count.RETRIES] += 1

    def _class(self, position: int, elapsed_us: int) -> int:
        """The latency class (1 is the fastest) by the thresholds of this place of the ring."""
        board, cls, threshold = self._board, 1, self._thresholds + position * THRESHOLDS
        while cls <= THRESHOLDS and elapsed_us > board[threshold]:
            cls += 1
            threshold += 1
        return cls

    def _withdraw(self, started: float, elapsed_us: int) -> None:
        """A client that left says nothing of the variant, unless every latency threshold had already passed."""
        position = int(started) % RING
        overdue = elapsed_us > self._board[self._thresholds + position * THRESHOLDS + THRESHOLDS - 1] > 0
        cls = self._class(position, elapsed_us) if overdue else COHORT_WITHDRAWN
        self._block[COHORT_AT + position * COHORT_WORDS + cls] += 1


@dataclass(frozen=True, slots=True)
class Block:
    """The sum over all workers of one slot and variant, cumulative: index it with `Count`, or take a part."""

    words: tuple[int, ...]

    def __getitem__(self, count: int) -> int:
        return self.words[count]

    def cohort(self, second: int) -> tuple[int, ...]:
        """(started, one count for each latency class, withdrawn) of the ring place of this second, cumulative."""
        at = COHORT_AT + second % RING * COHORT_WORDS
        return self.words[at : at + COHORT_WORDS]

    @property
    def latency(self) -> tuple[int, ...]:
        """Counts for each bucket of `stats.histogram`."""
        return self.words[HISTOGRAM_AT : HISTOGRAM_AT + histogram.COUNT]


def read_block(segment: Segment, slot: int, variant: int) -> Block:
    """The sum over every worker row that was ever used. One word is one load, so no count is torn."""
    layout, words = segment.layout, segment.words
    rows = []
    for worker in range(layout.workers):
        if words[layout.ack_row(worker) + Ack.PULSE]:
            at = layout.block(worker, slot, variant)
            rows.append(words[at : at + BLOCK_WORDS].tolist())
    if not rows:
        return Block((0,) * BLOCK_WORDS)
    return Block(tuple(rows[0]) if len(rows) == 1 else tuple(map(sum, zip(*rows, strict=True))))
