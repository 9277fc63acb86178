"""Which variant a user gets: a pure function of the split word, the salt and the user's key.

`bucket = mmh3_x64_128(key, seed=salt) mod 10000`, canary if it is below the weight. So the share equals the weight, raising it
only moves users to the canary and lowering it only back, and every worker and node agrees without talking. The salt is new
for each rollout: the same people are not first every time. What else the statistics want to know of a user is cut from other
bits of the same hash: it has nothing to do with the variant, and costs no second one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import mmh3

#: Shares are counted in basis points.
BUCKETS = 10_000
#: Bits of a split word (`shared.board`): the weight, the flag that the two pools have swapped roles, the flag that some group
#: of users is in quarantine, and the flag that the canary may have users: beta groups get it then, whatever the weight is.
WEIGHT_MASK = 0x3FFF
SWAPPED = 1 << 28
QUARANTINED = 1 << 29
OVERRIDES = 1 << 30

_RANK_BITS: Final = 28


class Seat(NamedTuple):
    """A user under one salt. `bucket` (0..9999) decides the variant; the others say who is the same user to the statistics.

    `cap` (0..65535) is the user's place in tables of one byte each, `group` (0..255) whom an unusual user is left out with,
    `register` (0..4095) and `rank` (1..29) are for counting different users (`stats.distinct`).
    """

    salt: int
    bucket: int
    cap: int
    group: int
    register: int
    rank: int


def seat(salt: int, key: bytes) -> Seat:
    """The seat of this user under this salt (32 bits)."""
    digest = int(mmh3.mmh3_x64_128_uintdigest(key, salt))
    rank = _RANK_BITS + 1 - (digest >> 100).bit_length()
    return Seat(salt, digest % BUCKETS, digest >> 72 & 0xFFFF, digest >> 64 & 0xFF, digest >> 88 & 0xFFF, rank)


def choose_variant(word: int, seat: Seat | None) -> int:
    """1 (canary) or 0 (stable) for this user under this split; a request without a user is stable until the canary has all."""
    weight = word & WEIGHT_MASK
    if weight == 0 or seat is None:
        return 1 if weight == BUCKETS else 0
    return 1 if seat[1] < weight else 0
