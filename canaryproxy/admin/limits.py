"""How often one client address may do something: a token bucket for each. Pure but for its own memory; used by `admin.guard`."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

#: Addresses remembered; beyond it the one that was seen longest ago is forgotten, with a full bucket.
_KEPT = 4096
#: A network of IPv6 that one client has to itself (RFC 6177).
_NETWORK = 64


class RateLimiter:
    """`per_minute` for each address, all of them at once if it likes; 0: no limit."""

    def __init__(self, per_minute: int) -> None:
        self._full, self._rate = float(per_minute), per_minute / 60
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, now: float) -> float:
        """0, and one is taken; or the seconds until there is one. `now` is in monotonic seconds."""
        if not self._rate:
            return 0.0
        key = _client(address)
        left, at = self._buckets.pop(key, (self._full, now))
        left = min(self._full, left + (now - at) * self._rate)
        taken = left >= 1
        self._buckets[key] = (left - taken, now)
        if len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - left) / self._rate


def _client(address: str) -> str:
    """What counts as one client: an address of IPv4, a /64 of IPv6."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:  # on a socket for both families: not all of IPv4 is one client
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _NETWORK), strict=False))
