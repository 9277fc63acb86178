"""Which variant a user gets: a pure function of the split word, the salt and the user's key.

`bucket = mmh3_x64_128(key, seed=salt) mod 10000`, canary if it is below the weight. So the share equals the weight, raising it
only moves users to the canary and lowering it only back, and every worker and node agrees without talking. The salt is new
for each rollout: the same people are not first every time.
"""

from __future__ import annotations

import mmh3

#: Shares are counted in basis points.
BUCKETS = 10_000
#: Bits of a split word (`shared.board`): the weight, and the flag that the two pools have swapped roles.
WEIGHT_MASK = 0x3FFF
SWAPPED = 1 << 28


def bucket(salt: int, key: bytes) -> int:
    """The user's place on the scale 0..9999 under this salt (32 bits)."""
    return int(mmh3.mmh3_x64_128_uintdigest(key, salt)) % BUCKETS


def choose_variant(word: int, salt: int, key: bytes | None) -> int:
    """1 (canary) or 0 (stable) for this user under this split; a request without a user is stable until the canary has all."""
    weight = word & WEIGHT_MASK
    if weight == 0 or key is None:
        return 1 if weight == BUCKETS else 0
    return 1 if mmh3.mmh3_x64_128_uintdigest(key, salt) % BUCKETS < weight else 0
