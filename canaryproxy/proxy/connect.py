"""Opens connections to upstreams: over TCP, to a Unix socket, with TLS, behind a PROXY header.

Called by the worker, in a task for each connection; a request on a pooled connection never comes here.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from canaryproxy.config.quantities import Address
from canaryproxy.http1.proxy_protocol import build_v1, build_v2
from canaryproxy.proxy import outcome
from canaryproxy.proxy.health import OUR_OWN_WANT, Streams, open_stream
from canaryproxy.proxy.outcome import Failure
from canaryproxy.proxy.resolve import connect_in_turn
from canaryproxy.proxy.tls import UpstreamContext
from canaryproxy.proxy.upstream import Upstream

if TYPE_CHECKING:
    from canaryproxy.proxy.pool import Pool, Server
    from canaryproxy.proxy.worker import Worker

log = logging.getLogger("canaryproxy.worker")

#: Address and port of where a client's connection comes from, and of where it arrived.
Ends: TypeAlias = tuple[bytes, int, bytes, int]
NOWHERE: Final[Ends] = (b"", 0, b"", 0)
_BUILD: Final = {"v1": build_v1, "v2": build_v2}
#: For the answer to our close_notify; whoever keeps it back keeps a socket of ours.
_TLS_SHUTDOWN_SECONDS: Final = 2.0


class Connector:
    """How each pool's servers are connected to."""

    def __init__(self, worker: Worker, pools: Iterable[Pool]) -> None:
        """Raises OSError if a file for TLS cannot be used."""
        self._worker = worker
        #: What was said of servers that are not trusted: once, until it is something else.
        self._untrusted: dict[Server, str] = {}
        self._tls = {pool.name: UpstreamContext(pool.config.tls) for pool in pools if any(server.tls for server in pool.servers)}

    def reload_if_changed(self, now: float) -> None:
        """Use certificates that have changed for the connections from now on (called by the sweep)."""
        for tls in self._tls.values():
            tls.reload_if_changed(now)

    async def check_stream(self, server: Server, seconds: float) -> Streams:
        """A connection for a health check, which names no client. Raises OSError."""
        tls = self._tls_of(server)
        context, name = (tls.context, tls.server_name(server.host)) if tls is not None else (None, "")
        return await open_stream(server, seconds, context, name, self._preface(server, NOWHERE))

    async def open(self, server: Server, ends: Ends) -> Upstream | Failure:
        """A new connection to this server for a client whose own has these ends, or why there is none."""
        seconds = self._worker.timeouts.connect
        try:
            async with asyncio.timeout(seconds):
                if server.path:
                    opened = await self._connect(server, None, ends)
                else:
                    opened = await connect_in_turn(server, seconds, lambda address: self._connect(server, address, ends))
            self._untrusted.pop(server, None)
            return opened
        except TimeoutError:
            return outcome.CONNECT_TIMEOUT
        except ssl.SSLError as error:
            self._complain(server, error.reason or str(error))
            return outcome.NOT_TRUSTED
        except OSError as error:
            return outcome.NO_CONNECTION_LEFT if error.errno in OUR_OWN_WANT else outcome.REFUSED
        except Exception:
            log.exception("cannot connect to %s", server.name)
            return outcome.REFUSED

    def _complain(self, server: Server, why: str) -> None:
        if self._untrusted.get(server) != why:
            self._untrusted[server] = why
            log.warning("%s: %s", server.name, why)

    async def _connect(self, server: Server, address: Address | None, ends: Ends) -> Upstream:
        preface = self._preface(server, ends)
        loop = asyncio.get_running_loop()
        upstream = Upstream(self._worker, server, address)
        tls = self._tls_of(server)
        secure: dict[str, Any] = {}
        if tls is not None:
            secure = {"server_hostname": tls.server_name(server.host), "ssl_shutdown_timeout": _TLS_SHUTDOWN_SECONDS}
        if not preface:
            await self._create(server, address, lambda: upstream, ssl=tls and tls.context, **secure)
            return upstream
        transport = await self._create(server, address, asyncio.Protocol)
        transport.write(preface)
        if tls is None:
            transport.set_protocol(upstream)
            upstream.connection_made(transport)
        else:
            secured = await loop.start_tls(transport, upstream, tls.context, **secure)
            assert secured is not None  # of asyncio's annotation: None only where the transport is closing
            upstream.connection_made(secured)
        return upstream

    async def _create(self, server: Server, address: Address | None, factory: Any, **options: Any) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        if address is None:
            transport, _ = await loop.create_unix_connection(factory, server.path, **options)
        else:
            transport, _ = await loop.create_connection(factory, address.host, address.port, **options)
        return transport

    def _tls_of(self, server: Server) -> UpstreamContext | None:
        return self._tls[server.pool.name] if server.tls else None

    @staticmethod
    def _preface(server: Server, ends: Ends) -> bytes:
        """The PROXY header that the connection begins with, if the pool wants one."""
        version = server.pool.config.send_proxy
        return _BUILD[version](*ends) if version else b""
