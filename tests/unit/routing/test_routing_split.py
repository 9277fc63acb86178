"""Seats and variants: known values, so that every version and every node agrees; and what is cut from one hash is independent."""

from __future__ import annotations

from collections import Counter

import mmh3
import pytest

from canaryproxy.routing.split import BUCKETS, QUARANTINED, SWAPPED, WEIGHT_MASK, Seat, choose_variant, seat

USERS = 100_000
ANNA = Seat(salt=0, bucket=2029, cap=7970, group=206, register=2992, rank=2)


def test_the_seat_of_a_user_is_fixed_for_ever() -> None:
    assert [seat(salt, b"anna").bucket for salt in (0, 1, 0xFFFFFFFF)] == [
        mmh3.hash128(b"anna", salt, True, signed=False) % 10_000 for salt in (0, 1, 0xFFFFFFFF)
    ]
    assert seat(0, b"anna") == ANNA
    assert seat(1, b"anna").bucket != seat(0, b"anna").bucket


def test_a_seat_has_a_place_in_every_table() -> None:
    seats = [seat(3, b"user-%d" % n) for n in range(USERS)]
    for field, values in (("group", 256), ("register", 4096)):
        assert {getattr(one, field) for one in seats} == set(range(values))
    for field, values in (("bucket", BUCKETS), ("cap", 1 << 16)):
        places = [getattr(one, field) for one in seats]
        assert min(places) >= 0
        assert 0.999 * values < max(places) < values
    ranks = Counter(one.rank for one in seats)
    assert min(ranks) == 1
    assert max(ranks) <= 29
    assert ranks[1] == pytest.approx(USERS / 2, rel=0.02)
    assert ranks[4] == pytest.approx(USERS / 16, rel=0.05)


@pytest.mark.parametrize("salt", [0, 7, 0xDEADBEEF])
@pytest.mark.parametrize(
    ("one", "other"), [("bucket", f) for f in ("group", "cap", "register", "rank")] + [("group", "register")]
)
def test_no_field_of_a_seat_says_anything_of_another(salt: int, one: str, other: str) -> None:
    """Chi-square of a table of 10 x 8 cells, 63 degrees of freedom: 117 is passed by 1 in 20,000."""

    def tenth(value: int) -> int:
        return value * 10 // BUCKETS if one == "bucket" else value % 10

    def eighth(value: int) -> int:
        return min(value, 4) if other == "rank" else value % 8

    cells, rows, columns = Counter[tuple[int, int]](), Counter[int](), Counter[int]()
    for n in range(USERS // 2):
        user = seat(salt, b"user-%d" % n)
        row, column = tenth(getattr(user, one)), eighth(getattr(user, other))
        cells[row, column] += 1
        rows[row] += 1
        columns[column] += 1
    expected = {(row, column): rows[row] * columns[column] * 2 / USERS for row in rows for column in columns}
    assert sum((cells[cell] - mean) ** 2 / mean for cell, mean in expected.items()) < 117


@pytest.mark.parametrize("flags", [0, SWAPPED, QUARANTINED, 1 << 32, 0xFFFFFFFF << 32 | SWAPPED | QUARANTINED])
def test_only_the_weight_bits_count(flags: int) -> None:
    anna = seat(5, b"anna")
    assert choose_variant(flags | anna.bucket, anna) == 0
    assert choose_variant(flags | anna.bucket + 1, anna) == 1


def test_without_a_user_stable_serves_until_the_canary_has_all() -> None:
    assert [choose_variant(weight, None) for weight in (0, 1, BUCKETS - 1, BUCKETS)] == [0, 0, 0, 1]


def test_a_whole_weight_fits_its_bits() -> None:
    assert BUCKETS & WEIGHT_MASK == BUCKETS
    assert len({WEIGHT_MASK, SWAPPED, QUARANTINED}) == 3
    assert not WEIGHT_MASK & SWAPPED
    assert not (WEIGHT_MASK | SWAPPED) & QUARANTINED
