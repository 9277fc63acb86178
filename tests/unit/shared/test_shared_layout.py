"""The map of the segment: every word has one place and one writer."""

from __future__ import annotations

import mmap
from itertools import pairwise

import pytest

from canaryproxy.analysis.sample import GROUPS, SIZE_CLASSES, SIZE_COLUMNS, T_HANG
from canaryproxy.routing.split import BUCKETS
from canaryproxy.shared import layout
from canaryproxy.shared.layout import (
    ACK_WORDS,
    BLOCK_WORDS,
    BOARD_WORDS,
    COHORT_AT,
    COHORT_WORDS,
    EDGE_WORDS,
    EDGES_AT,
    EXPOSED_AT,
    GOALS_AT,
    GROUP_ARRAYS,
    GROUPS_AT,
    HEADER_WORDS,
    HISTOGRAM_AT,
    HURT_AT,
    JUDGED_AT,
    MAGIC,
    OUTCOMES,
    QUARANTINE_AT,
    QUARANTINE_WORDS,
    REGISTER_WORDS,
    REGISTERS_SALT,
    RING,
    SIZES_AT,
    USERS_WORDS,
    VARIANTS,
    Ack,
    Count,
    Header,
    Layout,
)
from canaryproxy.stats import histogram


@pytest.mark.parametrize(("slots", "workers"), [(1, 1), (64, 16), (200, 64)])
def test_no_two_parts_overlap(slots: int, workers: int) -> None:
    parts = Layout(slots, workers)
    places = [(0, HEADER_WORDS)]
    places += [(parts.board_row(slot), BOARD_WORDS) for slot in range(slots)]
    places += [(parts.ack_row(worker), ACK_WORDS + slots) for worker in range(workers)]
    places += [(parts.block(w, s, v), BLOCK_WORDS) for w in range(workers) for s in range(slots) for v in range(VARIANTS)]
    places += [(parts.users(w, s), USERS_WORDS) for w in range(workers) for s in range(slots)]
    assert all(start + size <= after for (start, size), (after, _) in pairwise(places))
    assert sum(places[-1]) == parts.words
    assert parts.ledger % 512 == BLOCK_WORDS % 512 == USERS_WORDS % 512 == 0, "whole pages: two workers never share a cache line"


def test_a_block_has_room_for_everything() -> None:
    assert max(Count) < JUDGED_AT
    parts = [(JUDGED_AT + Count.TRUNCATED, 1), (GOALS_AT, 8), (COHORT_AT, RING * COHORT_WORDS), (HISTOGRAM_AT, histogram.COUNT)]
    parts += [(GROUPS_AT, GROUP_ARRAYS * GROUPS), (SIZES_AT, SIZE_CLASSES * SIZE_COLUMNS), (BLOCK_WORDS, 0)]
    assert all(start + size <= after for (start, size), (after, _) in pairwise(parts))
    assert EDGES_AT + RING * EDGE_WORDS == BOARD_WORDS
    assert QUARANTINE_AT + QUARANTINE_WORDS <= EDGES_AT
    assert QUARANTINE_WORDS * 64 == GROUPS
    assert max(Ack) < ACK_WORDS
    assert set(OUTCOMES) & {Count.STARTED, Count.BY_HEAD, Count.FAILED} == set()


def test_the_users_part_has_room_for_everything() -> None:
    assert BUCKETS <= REGISTERS_SALT < EXPOSED_AT
    assert EXPOSED_AT + REGISTER_WORDS == HURT_AT
    assert HURT_AT + REGISTER_WORDS <= USERS_WORDS


def test_the_ring_is_longer_than_a_hang() -> None:
    assert RING > T_HANG + 1 + 1


def test_a_new_segment_says_what_it_is_and_is_empty() -> None:
    segment = layout.create(slots=3, workers=2)
    words = segment.words
    assert words[Header.MAGIC] == MAGIC
    assert (words[Header.SLOTS], words[Header.WORKERS]) == (3, 2)
    assert words.format == "Q"
    assert len(words) * 8 == segment.layout.words * 8
    assert not any(words[HEADER_WORDS:])


def test_the_segment_is_shared_with_a_forked_child_not_copied() -> None:
    obj = layout.create(1, 1).words.obj
    assert isinstance(obj, mmap.mmap)
