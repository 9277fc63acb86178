"""The map of the shared segment: which 64-bit word lies where, and who writes it.

The segment is one anonymous `mmap`, made by the supervisor before it forks and inherited by every worker and controller: no
name, nothing to clean up. Every word has exactly one writer, so there is no lock; it is read and written only through
`memoryview.cast("Q")`, where one access is one 64-bit load or store (`struct.pack_into` tears, see docs/decisions).

    header   written by the supervisor                  sizes
    board    written by the controller                  a row for each slot: split word, salts, quarantine, latency edges
    acks     written by that worker                     a row for each worker: pid, pulse, state, epoch seen for each slot
    ledger   written by that worker                     a block for each worker, slot and variant: counters
    users    written by that worker                     a part for each worker and slot: who the canary met, who sends how much

A *slot* is a route with its two pools; the supervisor gives them out and a slot is not used again while a worker of an older
generation may still read it.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import IntEnum

from canaryproxy.analysis.sample import GROUPS, SIZE_CLASSES, SIZE_COLUMNS
from canaryproxy.routing.split import BUCKETS
from canaryproxy.stats import distinct, histogram

MAGIC = 0x43414E4152590001
VERSION = 2
#: Linux: pages are accounted for when they are touched. Capacity that nobody uses then counts for nothing, limits included.
_MAP_NORESERVE = 0x4000

#: Start cohorts are kept in a ring of seconds: longer than `analysis.sample.T_HANG` plus the second itself and a late tick.
RING = 16
#: Latency edges of a second, ascending; those that are not needed are `NEVER`. All of the judge's questions share them.
EDGES = 15
NEVER = 1 << 62

HEADER_WORDS = 16
#: A board row: the split word, the salt, the salt of the next rollout, the groups in quarantine (a bit for each), then the ring
#: of edges, each second's followed by its `slow_us`.
SALT, NEXT_SALT, QUARANTINE_AT, EDGES_AT = 1, 2, 3, 8
QUARANTINE_WORDS = GROUPS // 64
EDGE_WORDS = EDGES + 1
BOARD_WORDS = EDGES_AT + RING * EDGE_WORDS
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

    A beginning is counted in its cohort if the exchange is judged, else as `STARTED`; an end at `JUDGED_AT` + outcome if it is
    judged and was answered within `T_HANG`, else at the outcome's own word. The sums (`shared.reading.Block`) are what happened:
    for each beginning exactly one of the outcomes `INFORMATIONAL`..`ABANDONED`, or it is in flight. `BY_HEAD` are those that were
    judged by their head and are in no judged outcome; `FAILED` counts the failures among both.
    """

    STARTED = 0
    INFORMATIONAL = 1
    C2XX = 2
    C3XX = 3
    C4XX = 4
    C429 = 5
    C5XX = 6
    CONNECT_FAILED = 7
    CONNECT_TIMEOUT = 8
    RESPONSE_INVALID = 9
    RESPONSE_TIMEOUT = 10
    TRUNCATED = 11
    CLIENT_GONE = 12
    CLIENT_ERROR = 13
    ABANDONED = 14
    BY_HEAD = 16
    FAILED = 17
    BYTES_IN = 18
    BYTES_OUT = 19
    LATENCY_SUM_US = 20
    RETRIES = 21


OUTCOMES = range(Count.INFORMATIONAL, Count.ABANDONED + 1)

JUDGED_AT = 24
#: Conversions, for each of a route's goals.
GOALS = 8
GOALS_AT = 40
COHORT_AT = GOALS_AT + GOALS
#: A cohort's words: started; one for each latency class of who was answered (the last: over every edge, within T_HANG); the same
#: of who was withdrawn, because the client left or the proxy gave up.
CLASSES = EDGES + 1
COHORT_WORDS = 1 + 2 * CLASSES
WITHDRAWN_AT = 1 + CLASSES
HISTOGRAM_AT = COHORT_AT + RING * COHORT_WORDS
#: Requests by group of users: four arrays, as the fields of `analysis.sample.Group`.
GROUPS_AT = HISTOGRAM_AT + histogram.COUNT
GROUP_ARRAYS = 4
SIZES_AT = GROUPS_AT + GROUP_ARRAYS * GROUPS
_USED = SIZES_AT + SIZE_CLASSES * SIZE_COLUMNS
#: Whole pages for each block, so that two workers never write the same cache line.
BLOCK_WORDS = (_USED + 511) // 512 * 512

#: The users' part: judged requests that began while the weight was 0, by the user's bucket under the next salt; then (salt + 1)
#: of the register files that follow, a byte for each register: who met the canary, and who met one of its failures.
REGISTERS_SALT = BUCKETS
EXPOSED_AT = (REGISTERS_SALT + 8) // 8 * 8
REGISTER_WORDS = distinct.REGISTERS // 8
HURT_AT = EXPOSED_AT + REGISTER_WORDS
USERS_WORDS = (HURT_AT + REGISTER_WORDS + 511) // 512 * 512

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
    def people(self) -> int:
        return self.ledger + self.workers * self.slots * VARIANTS * BLOCK_WORDS

    @property
    def words(self) -> int:
        return self.people + self.workers * self.slots * USERS_WORDS

    def board_row(self, slot: int) -> int:
        """First word of a slot's row on the board."""
        return self.board + slot * BOARD_WORDS

    def ack_row(self, worker: int) -> int:
        """First word of a worker's row."""
        return self.acks + worker * (ACK_WORDS + self.slots)

    def block(self, worker: int, slot: int, variant: int) -> int:
        """First word of the counters of one worker, slot and variant."""
        return self.ledger + ((worker * self.slots + slot) * VARIANTS + variant) * BLOCK_WORDS

    def users(self, worker: int, slot: int) -> int:
        """First word of what one worker knows of a slot's users."""
        return self.people + (worker * self.slots + slot) * USERS_WORDS


@dataclass(frozen=True, slots=True)
class Segment:
    """The shared memory and its map. Untouched pages cost nothing, so the capacity is generous."""

    layout: Layout
    words: memoryview[int]


def create(slots: int, workers: int) -> Segment:
    """A new segment, all words zero but the header; to be made before forking."""
    layout = Layout(slots, workers)
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    words = memoryview(mmap.mmap(-1, layout.words * 8, flags=flags)).cast("Q")
    for index, value in ((Header.MAGIC, MAGIC), (Header.VERSION, VERSION), (Header.SLOTS, slots), (Header.WORKERS, workers)):
        words[index] = value
    return Segment(layout, words)
