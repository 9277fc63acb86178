"""Counting different users: the error against sets that are known, and unions."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from canaryproxy.stats.distinct import REGISTERS, estimate, merge


def registers(users: range, seed: int = 1) -> bytes:
    """What a perfect hash would leave behind."""
    file = bytearray(REGISTERS)
    for user in users:
        draw = random.Random(seed * 10_000_019 + user)
        place, rank = draw.randrange(REGISTERS), 29 - draw.getrandbits(28).bit_length()
        file[place] = max(file[place], rank)
    return bytes(file)


@pytest.mark.parametrize("users", [1, 10, 100, 1_000])
def test_few_are_counted_almost_exactly(users: int) -> None:
    assert abs(estimate(registers(range(users))) - users) <= max(1, 0.02 * users)


@pytest.mark.parametrize("users", [9_000, 10_300, 12_000, 60_000])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_error_is_the_paper_s(users: int, seed: int) -> None:
    """1.04 / sqrt(4096) = 1.6 %; three times that, below and above where the two estimators meet."""
    assert estimate(registers(range(users), seed)) == pytest.approx(users, rel=0.049)


def test_nobody_is_nobody() -> None:
    assert estimate(bytes(REGISTERS)) == 0


def test_more_users_are_never_fewer() -> None:
    counts = [estimate(registers(range(users))) for users in range(0, 20_000, 2_500)]
    assert all(one < other for one, other in pairwise(counts))


def test_a_user_whom_both_have_seen_counts_once() -> None:
    one, other, both = registers(range(3_000)), registers(range(2_000, 6_000)), registers(range(6_000))
    assert merge(one, other) == merge(other, one) == both
    assert merge(one, bytes(REGISTERS)) == merge(one, one) == one


def test_the_largest_ranks_do_not_borrow() -> None:
    high, low = bytes([29]) * REGISTERS, bytes([0, 29]) * (REGISTERS // 2)
    assert merge(high, low) == merge(low, high) == high
