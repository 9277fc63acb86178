"""The map of the shared segment: which 64-bit word lies where, and who writes it.

The segment is one anonymous `mmap`, made by the supervisor before it forks and inherited by every worker and controller: no
name, nothing to clean up. Every word has exactly one writer, so there is no lock; it is read and written only through
`memoryview.cast("Q")`, where one access is one 64-bit load or store (`struct.pack_into` tears, see docs/decisions).

    header   written by the supervisor                  sizes
    board    written by the controller                  a row for each slot: split word, salt, latency thresholds
    acks     written by that worker                     a row for each worker: pid, pulse, state, epoch seen for each slot
    ledger   written by that worker                     a block for each worker, slot and variant: counters

A *slot* is a route with its two pools; the supervisor gives them out and a slot is not used again while a worker of an older
generation may still read it.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import IntEnum

from canaryproxy.stats import histogram

MAGIC = 0x43414E4152590001
VERSION = 1

#: Start cohorts are kept in a ring of seconds: longer than `analysis.sample.T_HANG` plus the second itself and a late tick.
RING = 16
#: Latency thresholds of a cohort, as `analysis.sample.Cohort.thresholds_us`.
THRESHOLDS = 4

HEADER_WORDS = 16
#: A board row: the split word, the salt, then (from here) the ring of thresholds.
THRESHOLDS_AT = 8
BOARD_WORDS = THRESHOLDS_AT + RING * THRESHOLDS
ACK_WORDS = 8


class Header(IntEnum):
    """Words of the header."""

    MAGIC = 0
    VERSION = 1
    SLOTS = 2
    WORKERS = 3
    CONTROLLER_PULSE = 4


class Ack(IntEnum):
    """Words of a worker's row, before its epochs. `PULSE` is the monotonic time in milliseconds.

    The `REFUSED` ones count connections that were closed before HTTP; they only grow.
    """

    PID = 0
    PULSE = 1
    STATE = 2
    CONNECTIONS = 3
    REFUSED_TLS = 4
    REFUSED_PROXY_PROTOCOL = 5
    REFUSED_TOO_MANY = 6


class WorkerState(IntEnum):
    """What a worker says of itself. Only `SERVING` and `DRAINING` ones obey splits, and count for acknowledgements."""

    FREE = 0
    SERVING = 1
    DRAINING = 2


class Count(IntEnum):
    """Counters of a ledger block, before the cohorts and the histogram. They only grow.

    `STARTED` is every exchange that was given this variant; exactly one of the outcomes `C2XX`..`ABANDONED` follows, so the
    difference is what is in flight. `RESOLVED` and `FAILED` count judged exchanges answered within `T_HANG`.
    """

    STARTED = 0
    INFORMATIONAL = 1
    C2XX = 2
    C3XX = 3
    C4XX = 4
    C5XX = 5
    CONNECT_FAILED = 6
    CONNECT_TIMEOUT = 7
    RESPONSE_INVALID = 8
    RESPONSE_TIMEOUT = 9
    TRUNCATED = 10
    CLIENT_GONE = 11
    CLIENT_ERROR = 12
    ABANDONED = 13
    RESOLVED = 16
    FAILED = 17
    BYTES_IN = 18
    BYTES_OUT = 19
    LATENCY_SUM_US = 20
    RETRIES = 21


OUTCOMES = range(Count.INFORMATIONAL, Count.ABANDONED + 1)

COHORT_AT = 24
#: A cohort's words: started, one for each latency class (the last: over every threshold, within T_HANG), withdrawn.
COHORT_WORDS = 1 + THRESHOLDS + 1 + 1
COHORT_WITHDRAWN = COHORT_WORDS - 1
HISTOGRAM_AT = COHORT_AT + RING * COHORT_WORDS
_USED = HISTOGRAM_AT + histogram.COUNT
#: Whole pages for each block, so that two workers never write the same cache line.
BLOCK_WORDS = (_USED + 511) // 512 * 512

VARIANTS = 2
STABLE, CANARY = 0, 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in a segment for `slots` routes and `workers` processes, in words."""

    slots: int
    workers: int

    @property
    def board(self) -> int:
        return HEADER_WORDS

    @property
    def acks(self) -> int:
        return self.board + self.slots * BOARD_WORDS

    @property
    def ledger(self) -> int:
        return (self.acks + self.workers * (ACK_WORDS + self.slots) + 511) // 512 * 512

    @property
    def words(self) -> int:
        return self.ledger + self.workers * self.slots * VARIANTS * BLOCK_WORDS

    def board_row(self, slot: int) -> int:
        """First word of a slot's row on the board."""
        return self.board + slot * BOARD_WORDS

    def ack_row(self, worker: int) -> int:
        """First word of a worker's row."""
        return self.acks + worker * (ACK_WORDS + self.slots)

    def block(self, worker: int, slot: int, variant: int) -> int:
        """First word of the counters of one worker, slot and variant."""
        return self.ledger + ((worker * self.slots + slot) * VARIANTS + variant) * BLOCK_WORDS


@dataclass(frozen=True, slots=True)
class Segment:
    """The shared memory and its map. Untouched pages cost nothing, so the capacity is generous."""

    layout: Layout
    words: memoryview[int]


def create(slots: int, workers: int) -> Segment:
    """A new segment, all words zero but the header; to be made before forking."""
    layout = Layout(slots, workers)
    words = memoryview(mmap.mmap(-1, layout.words * 8)).cast("Q")
    for index, value in ((Header.MAGIC, MAGIC), (Header.VERSION, VERSION), (Header.SLOTS, slots), (Header.WORKERS, workers)):
        words[index] = value
    return Segment(layout, words)
