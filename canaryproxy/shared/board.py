"""The board: one split word for each slot, what goes with it, and who has seen it.

A split is one 64-bit word, `epoch:32 | flags:4 | spare:14 | weight in basis points:14`, so a worker reads it whole or not at
all. Written by the controller; by the supervisor only while no controller lives. Read by workers at each request (they hold
`words` and the index from `split_index` and use `routing.split`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from canaryproxy.routing.split import OVERRIDES, QUARANTINED, SWAPPED, WEIGHT_MASK
from canaryproxy.shared.layout import (
    ACK_WORDS,
    EDGE_WORDS,
    EDGES,
    EDGES_AT,
    NEVER,
    NEXT_SALT,
    QUARANTINE_AT,
    QUARANTINE_WORDS,
    RING,
    SALT,
    Ack,
    Header,
    Segment,
    WorkerState,
)

_EPOCH_SHIFT = 32


class Split(NamedTuple):
    """One slot's split. `swapped`: the pools have changed roles since the workers were forked (after a promotion).

    `overrides`: beta groups get the canary, whatever the weight is.
    """

    epoch: int
    weight_bp: int
    swapped: bool
    salt: int
    overrides: bool


class Applied(NamedTuple):
    """How many of the `workers` that serve have acknowledged an epoch."""

    applied_by: int
    workers: int


class Board:
    """Access to the board and the acknowledgements of a segment."""

    def __init__(self, segment: Segment) -> None:
        self._words = segment.words
        self._layout = segment.layout

    def read(self, slot: int) -> Split:
        """What workers obey at this moment."""
        row = self._layout.board_row(slot)
        word = self._words[row]
        salt = self._words[row + SALT]
        return Split(word >> _EPOCH_SHIFT, word & WEIGHT_MASK, bool(word & SWAPPED), salt, bool(word & OVERRIDES))

    def publish(self, slot: int, weight_bp: int, *, swapped: bool, salt: int, overrides: bool = False) -> int:
        """Make a split true for every request from now on; the new epoch, or the present one if nothing changed.

        With another salt the weight passes through 0 first, so that no request combines the old weight with the new salt; and
        the quarantine ends, for its groups were of the old one.
        """
        row, words = self._layout.board_row(slot), self._words
        present = self.read(slot)
        if present[1:] == (weight_bp, swapped, salt, overrides) and present.epoch:
            return present.epoch
        epoch = (present.epoch + 1) & 0xFFFFFFFF
        kept = words[row] & QUARANTINED
        if present.salt != salt:
            words[row] = present.epoch << _EPOCH_SHIFT | (SWAPPED if present.swapped else 0)
            words[row + SALT] = salt
            kept = 0
            self._write_quarantine(row, 0)
        flags = kept | (SWAPPED if swapped else 0) | (OVERRIDES if overrides else 0)
        words[row] = epoch << _EPOCH_SHIFT | flags | weight_bp
        return epoch

    def take_down(self, slot: int) -> bool:
        """Take the canary off a slot, beta groups too; whether it had anybody. Of the supervisor, while no controller lives."""
        split = self.read(slot)
        had = bool(split.weight_bp or split.overrides)
        if had:
            self.publish(slot, 0, swapped=split.swapped, salt=split.salt)
        return had

    def publish_next_salt(self, slot: int, salt: int) -> None:
        """Say which salt the next rollout will have: while the weight is 0, what users send is counted under it."""
        self._words[self._layout.board_row(slot) + NEXT_SALT] = salt

    def next_salt(self, slot: int) -> int:
        """The salt that the next rollout will have; 0 before one was drawn."""
        return self._words[self._layout.board_row(slot) + NEXT_SALT]

    def quarantine(self, slot: int, groups: Sequence[int]) -> None:
        """Leave exactly these groups of users out of what both variants are judged by; no new epoch: nobody's variant changes."""
        row, words = self._layout.board_row(slot), self._words
        self._write_quarantine(row, sum(1 << group for group in set(groups)))
        words[row] = words[row] & ~QUARANTINED | (QUARANTINED if groups else 0)

    def quarantined(self, slot: int) -> tuple[int, ...]:
        """The groups in quarantine, ascending."""
        at = self._layout.board_row(slot) + QUARANTINE_AT
        bits = sum(word << 64 * n for n, word in enumerate(self._words[at : at + QUARANTINE_WORDS]))
        return tuple(group for group in range(bits.bit_length()) if bits >> group & 1)

    def _write_quarantine(self, row: int, bits: int) -> None:
        for n in range(QUARANTINE_WORDS):
            self._words[row + QUARANTINE_AT + n] = bits >> 64 * n & 0xFFFF_FFFF_FFFF_FFFF

    def publish_edges(self, slot: int, second: int, edges_us: Sequence[int], slow_us: int) -> None:
        """Fix the latency edges (ascending, at most `EDGES`) of the requests that start in `second`, which has not begun.

        `slow_us`: a request over it counts as slow for its group of users; 0: none does.
        """
        if len(edges_us) > EDGES:
            raise ValueError(f"{len(edges_us)} latency edges, the ring has room for {EDGES}")
        at = self._layout.board_row(slot) + EDGES_AT + second % RING * EDGE_WORDS
        for offset, value in enumerate((*edges_us, *[NEVER] * (EDGES - len(edges_us)), slow_us or NEVER)):
            self._words[at + offset] = value

    def edges(self, slot: int, second: int) -> tuple[int, ...]:
        """The latency edges of the requests that start in `second`, ascending, in microseconds, without those that are unused."""
        at = self._layout.board_row(slot) + EDGES_AT + second % RING * EDGE_WORDS
        return tuple(edge for edge in self._words[at : at + EDGES] if 0 < edge < NEVER)

    def all_workers(self) -> range:
        """Every worker's row, whether or not a process has it now."""
        return range(self._layout.workers)

    def serving(self) -> list[int]:
        """The workers that obey splits now (old generations that still drain included)."""
        return [w for w in range(self._layout.workers) if self.worker(w, Ack.STATE) != WorkerState.FREE]

    def applied(self, slot: int, epoch: int) -> Applied:
        """Who has acknowledged `epoch` or a later one, of those that have this slot."""
        column = ACK_WORDS + slot
        seen = [self._words[self._layout.ack_row(worker) + column] for worker in self.serving()]
        return Applied(sum(word > epoch for word in seen), sum(word > 0 for word in seen))

    def worker(self, worker: int, word: Ack) -> int:
        """One word of a worker's row."""
        return self._words[self._layout.ack_row(worker) + word]

    def free_worker(self, worker: int) -> None:
        """Mark the row of a worker that has gone (by the supervisor, after it was reaped)."""
        row = self._layout.ack_row(worker)
        self._words[row + Ack.STATE] = WorkerState.FREE
        self._words[row + Ack.PID] = 0

    def controller_pulse(self) -> int:
        """Monotonic milliseconds of the controller's last sign of life."""
        return self._words[Header.CONTROLLER_PULSE]

    def beat_controller(self, now: float) -> None:
        """Say that the controller lives."""
        self._words[Header.CONTROLLER_PULSE] = int(now * 1000)


class AckRow:
    """A worker's own row: its pulse, its state, and the epochs it obeys."""

    def __init__(self, segment: Segment, worker: int) -> None:
        self._words = segment.words
        self._row = segment.layout.ack_row(worker)
        self._layout = segment.layout

    def enter(self, pid: int, now: float) -> None:
        """Say that this worker serves."""
        for column in range(self._row + ACK_WORDS, self._row + ACK_WORDS + self._layout.slots):
            self._words[column] = 0  # a predecessor's
        self._words[self._row + Ack.PID] = pid
        self._words[self._row + Ack.PULSE] = int(now * 1000)
        self._words[self._row + Ack.STATE] = WorkerState.SERVING

    def set_state(self, state: WorkerState) -> None:
        """Say what this worker does from now on."""
        self._words[self._row + Ack.STATE] = state

    def add_refused(self, refused: Mapping[Ack, int]) -> None:
        """Count connections that were closed before HTTP, each in the word for it."""
        for word, count in refused.items():
            self._words[self._row + word] += count

    def beat(self, now: float, connections: int, slots: tuple[int, ...]) -> None:
        """Say that this worker lives, and which epoch of each slot its next request obeys."""
        words, row = self._words, self._row
        words[row + Ack.PULSE] = int(now * 1000)
        words[row + Ack.CONNECTIONS] = connections
        for slot in slots:
            words[row + ACK_WORDS + slot] = (words[self._layout.board_row(slot)] >> _EPOCH_SHIFT) + 1  # 0: not this worker's slot
