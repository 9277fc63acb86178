"""The board and who has seen it."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.routing.split import OVERRIDES, QUARANTINED
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import EDGES, RING, Ack, Header, Segment, WorkerState


def test_an_epoch_is_new_only_if_something_changed() -> None:
    board = Board(layout.create(2, 1))
    first = board.publish(0, 0, swapped=False, salt=0)
    assert first == 1, "even the first split of all zeros is one to acknowledge"
    assert board.publish(0, 0, swapped=False, salt=0) == 1
    assert board.publish(0, 500, swapped=False, salt=0) == 2
    assert board.publish(0, 500, swapped=True, salt=0) == 3
    assert board.publish(0, 500, swapped=True, salt=9) == 4
    assert board.read(0) == (4, 500, True, 9, False)


def test_the_flag_for_beta_groups_is_part_of_the_split() -> None:
    segment = layout.create(2, 1)
    board, row = Board(segment), segment.layout.board_row(1)
    epoch = board.publish(1, 0, swapped=True, salt=5, overrides=True)
    assert board.read(1) == (epoch, 0, True, 5, True)
    assert segment.words[row] & OVERRIDES
    assert board.publish(1, 0, swapped=True, salt=5, overrides=True) == epoch
    board.quarantine(1, (3,))
    assert board.publish(1, 0, swapped=True, salt=5) == epoch + 1, "who has the canary has changed: to be acknowledged"
    assert board.read(1) == (epoch + 1, 0, True, 5, False)
    assert board.quarantined(1) == (3,)


class Watched:
    """Words that note every store."""

    def __init__(self, words: Any) -> None:
        self.words = words
        self.stores: list[tuple[int, int]] = []

    def __getitem__(self, index: Any) -> Any:
        return self.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.stores.append((index, value))
        self.words[index] = value


def test_a_weight_is_one_store() -> None:
    segment = layout.create(1, 1)
    Board(segment).publish(0, 100, swapped=False, salt=5)
    words = Watched(segment.words)
    Board(Segment(segment.layout, words)).publish(0, 0, swapped=False, salt=5)  # type: ignore[arg-type]
    row = segment.layout.board_row(0)
    assert words.stores == [(row, 2 << 32)]


def test_a_new_salt_is_stored_while_nobody_is_split_by_it() -> None:
    segment = layout.create(1, 1)
    Board(segment).publish(0, 100, swapped=True, salt=5)
    words = Watched(segment.words)
    Board(Segment(segment.layout, words)).publish(0, 200, swapped=False, salt=6)  # type: ignore[arg-type]
    row = segment.layout.board_row(0)
    assert [store for store in words.stores if not row + 3 <= store[0] < row + 7] == [
        (row, 1 << 32 | 1 << 28),
        (row + 1, 6),
        (row, 2 << 32 | 200),
    ]


def test_a_quarantine_holds_until_another_rollout_and_is_no_new_epoch() -> None:
    segment = layout.create(2, 1)
    board, row = Board(segment), segment.layout.board_row(1)
    epoch = board.publish(1, 100, swapped=True, salt=5)
    board.quarantine(1, (0, 63, 64, 255))
    assert board.quarantined(1) == (0, 63, 64, 255)
    assert board.read(1) == (epoch, 100, True, 5, False)
    assert segment.words[row] & QUARANTINED
    board.publish(1, 200, swapped=True, salt=5)
    assert board.quarantined(1) == (0, 63, 64, 255), "the next step leaves it"
    assert segment.words[row] & QUARANTINED
    board.quarantine(1, (3,))
    assert board.quarantined(1) == (3,)
    board.publish(1, 200, swapped=True, salt=6)
    assert board.quarantined(1) == ()
    assert not segment.words[row] & QUARANTINED
    board.quarantine(1, (3,))
    board.quarantine(1, ())
    assert not segment.words[row] & QUARANTINED
    assert board.quarantined(0) == ()


def test_the_next_salt_is_told_in_advance() -> None:
    board = Board(layout.create(2, 1))
    epoch = board.publish(1, 0, swapped=False, salt=5)
    board.publish_next_salt(1, 9)
    assert (board.next_salt(0), board.next_salt(1)) == (0, 9)
    assert board.read(1) == (epoch, 0, False, 5, False)


def test_who_serves_must_acknowledge() -> None:
    segment = layout.create(2, 3)
    board, rows = Board(segment), [AckRow(segment, worker) for worker in range(3)]
    epoch = board.publish(1, 100, swapped=False, salt=0)
    assert board.applied(1, epoch) == (0, 0)
    rows[0].enter(11, 5.0)
    rows[2].enter(12, 5.0)
    assert board.serving() == [0, 2]
    rows[2].beat(5.0, 0, (0,))
    assert board.applied(1, epoch) == (0, 0), "who does not have the slot is not asked"
    rows[0].beat(5.1, 3, (0, 1))
    rows[2].beat(5.1, 0, (0, 1))
    assert board.applied(1, epoch) == (2, 2)
    epoch = board.publish(1, 50, swapped=False, salt=0)
    assert board.applied(1, epoch) == (0, 2)
    rows[0].beat(5.1, 3, (0, 1))
    rows[2].set_state(WorkerState.DRAINING)
    assert board.applied(1, epoch) == (1, 2)
    rows[2].beat(5.1, 0, (0, 1))
    assert board.applied(1, epoch) == (2, 2), "who drains still obeys"
    rows[1].enter(13, 5.2)
    rows[1].beat(5.2, 0, (1,))
    rows[1].enter(14, 5.3)
    assert board.applied(1, epoch) == (2, 2), "what a predecessor acknowledged is forgotten"
    rows[1].set_state(WorkerState.FREE)
    board.free_worker(2)
    assert board.serving() == [0]
    assert board.worker(0, Ack.PID) == 11
    assert board.worker(0, Ack.PULSE) == 5100
    assert board.worker(0, Ack.CONNECTIONS) == 3


def test_edges_are_kept_for_each_second_of_the_ring() -> None:
    segment = layout.create(2, 1)
    board = Board(segment)
    for second in range(100, 100 + RING):
        board.publish_edges(1, second, (second, second + 1), second * 2)
    for second in range(100, 100 + RING):
        assert board.edges(1, second) == (second, second + 1)
    assert not any(board.edges(0, 100))
    board.publish_edges(1, 100, range(1, EDGES + 1), 0)
    assert board.edges(1, 100) == tuple(range(1, EDGES + 1))
    board.publish_edges(1, 100, (), 0)
    assert board.edges(1, 100) == (), "what an earlier second had is gone"
    with pytest.raises(ValueError, match="16 latency edges, the ring has room for 15"):
        board.publish_edges(1, 100, range(1, EDGES + 2), 0)


def test_the_controller_has_a_pulse() -> None:
    segment = layout.create(1, 1)
    board = Board(segment)
    board.beat_controller(12.3456)
    assert board.controller_pulse() == segment.words[Header.CONTROLLER_PULSE] == 12345
