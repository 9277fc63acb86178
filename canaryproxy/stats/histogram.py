"""Latency buckets that every part shares: log-spaced, 2 % wide, from 0.1 ms to 100 s.

Pure. `proxy` counts each request into `index(us)`; `analysis` reads quantiles and makes thresholds of bucket edges.
Bucket i holds (edge of i-1, edge of i]; the first takes everything faster, the last everything slower. Both ends of a
quantile are thus known to 2 % (DDSketch's bound, Masson, Rim and Lee 2019, with alpha = 1 %).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import partial

_GROWTH = 1.02
_FIRST_US, _LAST_US = 100, 100_000_000
_STEPS = math.ceil(math.log(_LAST_US / _FIRST_US) / math.log(_GROWTH))
_EDGES_US = (*(round(_FIRST_US * _GROWTH**i) for i in range(_STEPS)), _LAST_US)
_INNER_EDGES_US = _EDGES_US[:-1]

#: Number of buckets.
COUNT = len(_EDGES_US)


#: The bucket of a latency in microseconds, 0 <= index < COUNT. On the request path: one bisection, all of it in C.
index: Callable[[int], int] = partial(bisect_left, _INNER_EDGES_US)


def upper_edge_us(bucket: int) -> int:
    """The largest latency that the bucket holds (for the last one nominal: 100 s)."""
    return _EDGES_US[bucket]


def round_up_us(us: float) -> int:
    """The smallest bucket edge that is not below `us` (at most 100 s)."""
    return _EDGES_US[bisect_left(_INNER_EDGES_US, us)]


def quantile(counts: Mapping[int, float], q: float) -> int | None:
    """The upper edge, in microseconds, of the bucket that holds the `q` quantile; None if nothing was counted."""
    total = sum(counts.values())
    if total <= 0:
        return None
    above, buckets = (1 - q) * total, sorted(counts, reverse=True)
    for bucket in buckets:  # from the slow end: the wanted quantiles are near it
        above -= counts[bucket]
        if above < 0:
            return _EDGES_US[bucket]
    return _EDGES_US[buckets[-1]]
