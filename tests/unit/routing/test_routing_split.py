"""Buckets and variants: known values, so that every version and every node agrees."""

from __future__ import annotations

import mmh3
import pytest

from canaryproxy.routing.split import BUCKETS, SWAPPED, WEIGHT_MASK, bucket, choose_variant


def test_the_bucket_of_a_user_is_fixed_for_ever() -> None:
    assert [bucket(salt, b"anna") for salt in (0, 1, 0xFFFFFFFF)] == [
        mmh3.hash128(b"anna", salt, True, signed=False) % 10_000 for salt in (0, 1, 0xFFFFFFFF)
    ]
    assert bucket(0, b"anna") == 2029
    assert bucket(1, b"anna") != bucket(0, b"anna")


@pytest.mark.parametrize("flags", [0, SWAPPED, 1 << 32, 0xFFFFFFFF << 32 | SWAPPED])
def test_only_the_weight_bits_count(flags: int) -> None:
    place = bucket(5, b"anna")
    assert choose_variant(flags | place, 5, b"anna") == 0
    assert choose_variant(flags | place + 1, 5, b"anna") == 1


def test_without_a_user_stable_serves_until_the_canary_has_all() -> None:
    assert [choose_variant(weight, 5, None) for weight in (0, 1, BUCKETS - 1, BUCKETS)] == [0, 0, 0, 1]


def test_a_whole_weight_fits_its_bits() -> None:
    assert BUCKETS & WEIGHT_MASK == BUCKETS
    assert not WEIGHT_MASK & SWAPPED
