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
_RING: Final = RING
_THRESHOLDS: Final = THRESHOLDS
_COHORT_WORDS: Final = COHORT_WORDS


class Counters:
    """One worker's counters of one slot and variant. `begin` and `finish` are on the request path.

    Times are monotonic seconds; an exchange belongs to the cohort of second `int(started)`.
    """

    __slots__ = ("_block", "_bytes_in", "_cohorts", "_failed", "_histogram", "_latency_sum", "_resolved", "_thresholds", "_words")

    def __init__(self, segment: Segment, worker: int, slot: int, variant: int) -> None:
        self._words = segment.words
        self._block = block = segment.layout.block(worker, slot, variant)
        self._cohorts = block + COHORT_AT
        self._histogram = block + HISTOGRAM_AT
        self._thresholds = segment.layout.board_row(slot) + THRESHOLDS_AT
        self._latency_sum = block + int(Count.LATENCY_SUM_US)
        self._resolved = block + int(Count.RESOLVED)
        self._failed = block + int(Count.FAILED)
        self._bytes_in = block + int(Count.BYTES_IN)

    def begin(self, started: float, *, judged: bool) -> None:
        """Count an exchange that starts now."""
        words = self._words
        words[self._block] += 1
        if judged:
            words[self._cohorts + int(started) % _RING * _COHORT_WORDS] += 1

    def finish(self, count: int, started: float, now: float, *, judged: bool, failed: bool) -> None:
        """Count its end: `count` is the outcome; `failed` says that it was the upstream's fault."""
        words = self._words
        elapsed_us = int((now - started) * 1e6)
        words[self._block + count] += 1
        if not judged:
            return
        if count < _CLIENT_GONE:
            words[self._latency_sum] += elapsed_us
            words[self._histogram + bucket_index(elapsed_us)] += 1
        if elapsed_us > _T_HANG_US:
            return  # its cohort was due without it, and it has been counted as failed and slow
        if count < _CLIENT_GONE:
            words[self._resolved] += 1
            if failed:
                words[self._failed] += 1
            self._classify(int(started), elapsed_us)
        else:
            self._withdraw(int(started), elapsed_us)

    def answered(self, started: float, head_at: float, *, judged: bool) -> None:
        """Judge a response that goes on for long (a stream, a big file, a slow reader) by the time of its head."""
        if not judged:
            return
        words, elapsed_us = self._words, int((head_at - started) * 1e6)
        words[self._latency_sum] += elapsed_us
        words[self._histogram + bucket_index(elapsed_us)] += 1
        if elapsed_us <= _T_HANG_US:
            words[self._resolved] += 1
            self._classify(int(started), elapsed_us)

    def withdraw(self, started: float) -> None:
        """Take an exchange that began out of its cohort."""
        self._withdraw(int(started), 0)

    def finish_answered(self, count: int, *, judged: bool, failed: bool) -> None:
        """Count the end of a response that was judged by its head; a failure after it is one more that failed."""
        words = self._words
        words[self._block + count] += 1
        if judged and failed:
            words[self._resolved] += 1
            words[self._failed] += 1

    def add_bytes(self, received: int, sent: int) -> None:
        """Count body bytes from and to the client."""
        words, at = self._words, self._bytes_in
        if received:
            words[at] += received
        words[at + 1] += sent

    def add_retry(self) -> None:
        """Count one more try of an exchange."""
        self._words[self._block + Count.RETRIES] += 1

    def _classify(self, second: int, elapsed_us: int) -> None:
        words, position, cls = self._words, second % _RING, 1
        threshold = self._thresholds + position * _THRESHOLDS
        while cls <= _THRESHOLDS and elapsed_us > words[threshold]:
            cls += 1
            threshold += 1
        words[self._cohorts + position * _COHORT_WORDS + cls] += 1

    def _withdraw(self, second: int, elapsed_us: int) -> None:
        """A client that left says nothing of the variant, unless every latency threshold had already passed."""
        position = second % _RING
        if elapsed_us > self._words[self._thresholds + position * _THRESHOLDS + _THRESHOLDS - 1] > 0:
            self._classify(second, elapsed_us)
        else:
            self._words[self._cohorts + position * _COHORT_WORDS + COHORT_WITHDRAWN] += 1


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
