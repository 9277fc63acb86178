"""The choice among the servers of a pool: power of two choices by requests in hand, or smooth weighted round robin.

Decides from its arguments alone; made by `proxy.pool` anew when the servers or their shares change, so that a choice looks at
nothing else. Sources: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001); nginx,
`ngx_http_upstream_round_robin.c` (the smooth form: 5, 1, 1 gives a a b a c a a and not a a a a a b c).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from canaryproxy.proxy.pool import Server

#: A number from 0 up to, not including, 1: `random.random`, or that of a `random.Random` with a seed.
Draw: TypeAlias = Callable[[], float]
#: Gives a server for each call.
Choice: TypeAlias = Callable[[], "Server"]


def least_request(servers: Sequence[Server], draw: Draw) -> Choice:
    """Of two servers taken at random the one with fewer exchanges in hand, for its share; the first of two that are equal.

    With unequal shares the two are drawn by their shares, perhaps the same one twice: so an idle pool is divided by shares too,
    where there is nothing to compare.
    """
    count = len(servers)
    if count == 1 or any(server.share != servers[0].share for server in servers):
        return _least_request_by_share(servers, draw)
    ring, others = (*servers, *servers), count - 1
    pairs = count * others

    def choose() -> Server:
        drawn = int(draw() * pairs)  # one draw for both: 180 ns in all, and 240 with two
        place = drawn // others
        first, second = ring[place], ring[place + 1 + drawn % others]
        return first if first.active <= second.active else second

    return choose


def _least_request_by_share(servers: Sequence[Server], draw: Draw) -> Choice:
    ends = list(accumulate(server.share for server in servers))
    total, last = ends[-1], len(servers) - 1

    def choose() -> Server:
        first, second = servers[bisect(ends, draw() * total, 0, last)], servers[bisect(ends, draw() * total, 0, last)]
        return first if first.active * second.share <= second.active * first.share else second

    return choose


def round_robin(servers: Sequence[Server], _draw: Draw) -> Choice:
    """Each server in its turn, as often as its share says, and spread evenly."""
    total = sum(server.share for server in servers)

    def choose() -> Server:
        best = servers[0]
        for server in servers:
            server.lead += server.share
            if server.lead > best.lead:
                best = server
        best.lead -= total
        return best

    return choose


#: By the word for it in the configuration.
BALANCES: Final = {"least_request": least_request, "round_robin": round_robin}
