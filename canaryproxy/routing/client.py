"""Who the client is behind proxies that we trust, and which addresses are taken for one user.

Pure; asked by `proxy` once for each connection, or for each header block of a trusted peer. X-Forwarded-For is read from its end:
only what a trusted hop has appended is known, all before it may be the client's own invention (rule H4).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

#: Hops that are looked at; no chain of proxies is so long, and each costs some microseconds.
_MOST_HOPS: Final = 32
#: An address, or `192.0.2.1:80` or `[2001:db8::1]:80`, as some proxies write. No zone: it would be another machine's.
_IPV6: Final = rb"[0-9A-Fa-f]{0,4}+:[0-9A-Fa-f]{0,4}+:[0-9A-Fa-f:.]*+"
_hop = re.compile(rb"(?:([0-9.]++)|\[(" + _IPV6 + rb")\])(?::[0-9]{1,5}+)?|(" + _IPV6 + rb")").fullmatch


def client_address(peer: bytes, forwarded_for: bytes | None, trusted: Callable[[bytes], bool]) -> bytes:
    """The right-most address of the chain that is no trusted proxy's; never one that only an untrusted hop vouches for.

    `peer` is the address of the connection, `forwarded_for` the value of X-Forwarded-For (its lines joined by commas), `trusted`
    is asked about normalised addresses. Where the chain is malformed or ends among trusted proxies, the last hop that is known.
    """
    client = normalise_address(peer)
    if forwarded_for is None:
        return client
    hops = forwarded_for.rsplit(b",", _MOST_HOPS)[-_MOST_HOPS:]
    while hops and trusted(client):
        before = _read_hop(hops.pop())
        if before is None:
            break
        client = before
    return client


def normalise_address(address: bytes) -> bytes:
    """The one way to write this address: IPv6 shortened (RFC 5952), IPv4 not as ::ffff:192.0.2.1; what is no address as it is."""
    if b":" not in address:
        return address
    return _normalise(address) or address


def user_address(address: bytes) -> bytes:
    """The network that is one user where nothing else identifies one: /24 of IPv4, /64 of IPv6, the least that a client is given.

    `address` is normalised; what is none is returned as it is (a Unix socket has none).
    """
    if b":" not in address:
        network, dot, _ = address.rpartition(b".")
        return network + b".0/24" if dot and network.replace(b".", b"").isdigit() else address
    try:
        number = int(IPv6Address(address.decode("latin-1")))
    except ValueError:
        return address
    return b"%b/64" % str(IPv6Address(number >> 64 << 64)).encode()


def _read_hop(text: bytes) -> bytes | None:
    match = _hop(text.strip(b" \t"))
    return match and _normalise(match[1] or match[2] or match[3])


def _normalise(text: bytes) -> bytes | None:
    try:
        address: IPv4Address | IPv6Address | None = ip_address(text.decode("latin-1"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return str(address).encode()
