"""The split as promised to users: the share is the weight, and a changing weight moves only those it must."""

from __future__ import annotations

from math import sqrt

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.routing.split import BUCKETS, SWAPPED, choose_variant, seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board

weights = st.integers(0, BUCKETS)
salts = st.integers(0, 0xFFFFFFFF)
keys = st.binary(min_size=1, max_size=64)


@given(weights, weights, salts, keys)
@settings(max_examples=200, deadline=None)
def test_raising_the_weight_only_moves_users_to_the_canary(one: int, other: int, salt: int, key: bytes) -> None:
    low, high = sorted((one, other))
    assert choose_variant(low, seat(salt, key)) <= choose_variant(high, seat(salt, key))


@given(weights, salts, keys, st.integers(0, 0xFFFFFFFF), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_same_user_gets_the_same_variant_whatever_else_the_word_says(
    weight: int, salt: int, key: bytes, epoch: int, swapped: bool
) -> None:
    word = epoch << 32 | (SWAPPED if swapped else 0) | weight
    assert choose_variant(word, seat(salt, key)) == choose_variant(weight, seat(salt, key)) == (seat(salt, key).bucket < weight)


@given(weights, salts)
@settings(max_examples=50, deadline=None)
def test_the_share_of_users_is_the_weight(weight: int, salt: int) -> None:
    count = 4_000
    share = weight / BUCKETS
    canary = sum(choose_variant(weight, seat(salt, b"user-%d" % n)) for n in range(count))
    # 5 standard deviations: one example in two million fails by chance
    assert abs(canary - count * share) <= 5 * sqrt(count * share * (1 - share)) + 1e-9


@given(salts, salts)
@settings(max_examples=30, deadline=None)
def test_another_salt_is_another_draw(one: int, other: int) -> None:
    users = [b"user-%d" % n for n in range(2_000)]
    both = sum(choose_variant(1_000, seat(one, user)) & choose_variant(1_000, seat(other, user)) for user in users)
    assert both < 60 or one == other, "about 1 % of them, not 10 %"


@given(st.lists(st.tuples(weights, st.booleans(), salts, st.booleans()), min_size=1, max_size=10))
@settings(max_examples=100, deadline=None)
def test_the_board_says_what_was_published(splits: list[tuple[int, bool, int, bool]]) -> None:
    board = Board(layout.create(2, 1))
    for weight, swapped, salt, overrides in splits:
        before = board.read(1)
        epoch = board.publish(1, weight, swapped=swapped, salt=salt, overrides=overrides)
        assert board.read(1) == (epoch, weight, swapped, salt, overrides)
        assert epoch == before.epoch + (before.epoch == 0 or before[1:] != (weight, swapped, salt, overrides))
        assert board.read(0) == (0, 0, False, 0, False)
