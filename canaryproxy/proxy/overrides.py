"""The overrides of one route in one worker: what a request asks for, and whether it may. Made once; asked by `proxy.placement`.

What follows from a header block is remembered with it (`proxy.recall`), so a client that repeats its block costs two lookups.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from canaryproxy.config import overrides as config
from canaryproxy.routing.client import user_address
from canaryproxy.routing.identity import Cookieless, Identity
from canaryproxy.routing.override import LISTED, Overrides, Wish, override_rules
from canaryproxy.shared.userlist import UserList

if TYPE_CHECKING:
    from canaryproxy.proxy.downstream import Downstream
    from canaryproxy.proxy.recall import Block

#: Addresses of which it is remembered whether they are trusted.
_MOST_ADDRESSES: Final = 4096


class RouteOverrides:
    """Who gets one of the versions whatever the weight says."""

    __slots__ = ("_by_address", "_known", "_networks", "_users", "rules")

    def __init__(self, settings: config.Overrides, identity: Identity) -> None:
        self.rules: Overrides = override_rules(settings)
        self._networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = tuple(
            map(ipaddress.ip_network, settings.trusted)
        )
        self._known: dict[bytes, bool] = {}
        self._users = UserList(settings.users_file) if settings.users_file else None
        #: Who is unknown is the user that its address stands for, in the list too.
        self._by_address = self._users is not None and identity.cookieless is Cookieless.IP

    def wish(self, downstream: Downstream, block: Block, key: bytes | None) -> Wish | None:
        """What a request of this client with this header block asks for, whose user has this key."""
        trusted = bool(self._networks) and self._is_trusted(downstream.client_address(block))
        asked, matched = block.asks(self.rules, trusted)
        if asked is not None:
            return asked
        if self._users is not None:
            if key is None and self._by_address:
                key = user_address(downstream.client_address(block))
            if key is not None and key in self._users:
                return LISTED
        return matched

    def look(self, now: float) -> None:
        """Use a list of users that has changed (monotonic seconds)."""
        if self._users is not None:
            self._users.look(now)

    def _is_trusted(self, address: bytes) -> bool:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _MOST_ADDRESSES:
                self._known.clear()
            known = self._known[address] = _is_in(address, self._networks)
        return known


def route_overrides(settings: config.Overrides, identity: Identity) -> RouteOverrides | None:
    """The overrides that are configured; None if there are none: then a request pays nothing for them."""
    some = settings.header or settings.cookie or settings.users_file or settings.match
    return RouteOverrides(settings, identity) if some else None


def _is_in(address: bytes, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        client = ipaddress.ip_address(address.decode("latin-1").partition("%")[0])
    except ValueError:
        return False  # a Unix socket has none
    return any(client in network for network in networks)
