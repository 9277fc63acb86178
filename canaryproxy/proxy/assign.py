"""Who a user is whom nothing identifies, and who answers where a variant cannot. Called by `proxy.exchange`; no I/O."""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING

from canaryproxy.routing.client import user_address
from canaryproxy.routing.identity import Cookieless, Identity
from canaryproxy.shared.layout import CANARY

if TYPE_CHECKING:
    from canaryproxy.proxy.pool import Pool
    from canaryproxy.proxy.route import Route


def identify(identity: Identity, client: bytes, *, secure: bool) -> tuple[bytes | None, bytes]:
    """The key of a user whom nothing identifies, during a rollout, and the line that gives a cookie; None is stable at once.

    `client` is the client's address, as far as trusted proxies are believed; `secure`: it came over TLS.
    """
    if identity.cookieless is Cookieless.IP:
        return user_address(client), b""
    issued = token_hex(16).encode()
    return (issued if identity.cookieless is Cookieless.ISSUE else None), identity.set_cookie(issued, secure=secure)


def fallback_pool(route: Route, variant: int, pool: Pool) -> Pool | None:
    """The stable pool, for a request of the canary that nobody takes; None for a request of stable, or if it is not wanted."""
    if variant != CANARY or not route.fallback_to_stable:
        return None
    first, second = route.pools
    other = second if pool is first else first
    return None if other is pool else other
