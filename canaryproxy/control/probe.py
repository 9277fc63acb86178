"""Whether a pool is there: asked before a rollout starts by itself, or for a deploy."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable

import aiohttp

from canaryproxy.config.quantities import Server
from canaryproxy.config.upstreams import Health, Pool, UpstreamTls
from canaryproxy.control.lookup import Lookup

_LIMIT = 1.0


async def trouble_with(pool: Pool) -> str:
    """Why a rollout to this pool cannot start now: a server that accepts no connection or is not healthy; empty: it can."""
    return next(filter(None, await asyncio.gather(*(_trouble(server, pool) for server in pool.servers))), "")


async def _trouble(server: Server, pool: Pool) -> str:
    if not await _accepts(server):
        return f"{server} does not accept connections"
    try:
        # a server that expects a PROXY header would not understand: its workers' own checks have to do
        return await _look(server, pool.health, pool.tls) if pool.health and not pool.send_proxy else ""
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return f"{server} does not answer its health check ({str(error).lower() or type(error).__name__})"


async def _accepts(server: Server) -> bool:
    try:
        async with asyncio.timeout(_LIMIT):
            if server.path:
                return await _opens(asyncio.open_unix_connection(server.path))
            found = await Lookup().resolve(server.host, server.port)
            return any([await _opens(asyncio.open_connection(address["host"], server.port)) for address in found])
    except (OSError, TimeoutError):
        return False


async def _opens(opening: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> bool:
    try:
        _, writer = await opening
    except OSError:
        return False
    writer.close()
    return True


async def _look(server: Server, health: Health, tls: UpstreamTls) -> str:
    """What its health check, made once as workers do but by another client, says against it."""
    if server.path:
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(server.path)
    else:
        connector = aiohttp.TCPConnector(ssl=_context(tls) if server.tls else True, resolver=Lookup())
    base = "http://localhost" if server.path else str(server._replace(weight=1))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(health.timeout)) as session:
        headers = {"Host": health.host} if health.host else None
        name = (tls.server_name or None) if server.tls else None
        async with session.get(base + health.path, headers=headers, allow_redirects=False, server_hostname=name) as answer:
            if any(good.first <= answer.status <= good.last for good in health.status):
                return ""
            return f"{server} answers its health check with {answer.status}"


def _context(tls: UpstreamTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if not tls.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
