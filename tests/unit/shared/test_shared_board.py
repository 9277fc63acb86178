"""The board and who has seen it."""

from __future__ import annotations

from typing import Any

from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import RING, Ack, Header, Segment, WorkerState


def test_an_epoch_is_new_only_if_something_changed() -> None:
    board = Board(layout.create(2, 1))
    first = board.publish(0, 0, swapped=False, salt=0)
    assert first == 1, "even the first split of all zeros is one to acknowledge"
    assert board.publish(0, 0, swapped=False, salt=0) == 1
    assert board.publish(0, 500, swapped=False, salt=0) == 2
    assert board.publish(0, 500, swapped=True, salt=0) == 3
    assert board.publish(0, 500, swapped=True, salt=9) == 4
    assert board.read(0) == (4, 500, True, 9)


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
    assert words.stores == [(row, 1 << 32 | 1 << 28), (row + 1, 6), (row, 2 << 32 | 200)]


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


def test_thresholds_are_kept_for_each_second_of_the_ring() -> None:
    board = Board(layout.create(2, 1))
    for second in range(100, 100 + RING):
        board.publish_thresholds(1, second, (second, second + 1, second + 2, second + 3))
    for second in range(100, 100 + RING):
        assert board.thresholds(1, second) == (second, second + 1, second + 2, second + 3)
    assert not any(board.thresholds(0, 100))


def test_the_controller_has_a_pulse() -> None:
    segment = layout.create(1, 1)
    board = Board(segment)
    board.beat_controller(12.3456)
    assert board.controller_pulse() == segment.words[Header.CONTROLLER_PULSE] == 12345
