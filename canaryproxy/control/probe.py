"""Whether a pool is there: used before a rollout starts by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from canaryproxy.config.quantities import Server

_LIMIT = 1.0


async def accepts_connections(servers: Sequence[Server]) -> bool:
    """Whether every server accepts a connection within a second."""
    return all(await asyncio.gather(*map(_accepts, servers)))


async def _accepts(server: Server) -> bool:
    address = server.host, server.port
    opening = asyncio.open_unix_connection(server.path) if server.path else asyncio.open_connection(*address)
    try:
        _, writer = await asyncio.wait_for(opening, _LIMIT)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
