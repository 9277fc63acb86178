"""Accepts clients where something has to come before HTTP: a PROXY header, a TLS handshake, or both.

Called by the worker, its sweep and the event loop. The header is looked at while it lies in the socket (MSG_PEEK), so that only
its bytes are taken and TLS finds its own. Section 2 of `proxy-protocol.txt`: never guess whether one is there, trust only those
that may send one, give up after a few seconds. What is refused here gets no answer: nobody knows yet who asks, or for what.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Collection
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from time import monotonic
from typing import Any, Final

from canaryproxy.http1.head import MessageError
from canaryproxy.http1.proxy_protocol import MAX_HEADER, Header, parse

log = logging.getLogger("canaryproxy.worker")

#: Connections taken in one turn of the loop, so that those in hand have theirs.
_BATCH: Final = 64
_MOST_WAITING: Final = 4096
#: Without a file descriptor left the listening socket stays readable: it is left alone for so long, in seconds.
_PAUSE_SECONDS: Final = 0.1

Network = IPv4Network | IPv6Network
ProtocolFactory = Callable[[Header | None], asyncio.BaseProtocol]


class _Newcomer:
    """A connection that is not handed over yet."""

    __slots__ = ("deadline", "seen", "sock", "task")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.seen = 0
        self.task: asyncio.Task[None] | None = None


class Listener:
    """One listening socket. `refused` counts the connections that were closed without an answer, by a fixed set of reasons."""

    def __init__(
        self,
        sock: socket.socket,
        factory: ProtocolFactory,
        *,
        proxies: Collection[Network] | None = None,
        header_timeout: float = 3.0,
        context: Callable[[], ssl.SSLContext] | None = None,
        handshake_timeout: float = 10.0,
        shutdown_timeout: float = 2.0,
        limit: int = 500,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """A PROXY header is demanded if `proxies`, who may send one, is not None; TLS is spoken if `context` is not None.

        At most `limit` connections are in their header or handshake at a time; the oldest makes room. `factory` is called
        with the header before the handshake; its protocol's `connection_made` after it, or never. Times are in seconds.
        """
        self.refused: Counter[str] = Counter()
        self._sock = sock
        self._factory = factory
        self._proxies = proxies
        self._header_timeout = header_timeout
        self._context = context
        self._timeouts = {"ssl_handshake_timeout": handshake_timeout, "ssl_shutdown_timeout": shutdown_timeout}
        self._limit = limit
        self._clock = clock
        self._newcomers: dict[_Newcomer, None] = {}  # a set that knows the oldest
        self._closed = self._paused = False
        self._complained = False
        self._loop = asyncio.get_running_loop()

    @property
    def pending(self) -> int:
        """The connections that are in their header or handshake."""
        return len(self._newcomers)

    def start(self, backlog: int = _MOST_WAITING) -> None:
        """Accept connections from now on."""
        self._sock.setblocking(False)
        self._sock.listen(backlog)
        self._loop.add_reader(self._sock, self._accept)

    def pause(self) -> None:
        """Leave those who come in the kernel's queue; what is in its header or handshake goes on."""
        if not self._closed:
            self._paused = True
            self._loop.remove_reader(self._sock)

    def resume(self) -> bool:
        """Accept again; whether it does."""
        self._paused = False
        self._try_again()
        return not self._closed

    def close(self) -> None:
        """Accept no more and close this process's copy of the socket; what is in its header or handshake goes on."""
        if not self._closed:
            for _ in range(_MOST_WAITING // _BATCH):  # the last close of a listening socket resets who waits
                if not self._accept():
                    break
            self._closed = True
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def give_up(self) -> None:
        """Close what is in its header or handshake still: the drain is over."""
        for newcomer in list(self._newcomers):
            self._drop(newcomer, "drained")

    def sweep(self, now: float) -> None:
        """Close those whose header has not come in time (monotonic seconds); the loop itself times handshakes."""
        for newcomer in [one for one in self._newcomers if one.deadline <= now]:
            self._drop(newcomer, "proxy_protocol_timeout")

    # Called by the event loop.

    def _accept(self) -> bool:
        """Take in who waits; whether there may be more."""
        for _ in range(_BATCH):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return False
            except ConnectionError:
                continue  # it left before it was accepted
            except OSError as error:
                self._rest(error)
                return False
            self._complained = False
            self._welcome(sock, peer)
        return True

    def _rest(self, error: OSError) -> None:
        if not self._complained:
            log.error("cannot accept connections (%s); trying again all the time", error.strerror)
        self._complained = True
        self._loop.remove_reader(self._sock)
        self._loop.call_later(_PAUSE_SECONDS, self._try_again)

    def _try_again(self) -> None:
        if not self._closed and not self._paused:
            self._loop.add_reader(self._sock, self._accept)

    def _welcome(self, sock: socket.socket, peer: Any) -> None:
        sock.setblocking(False)
        newcomer = _Newcomer(sock, self._clock() + self._header_timeout)
        if len(self._newcomers) >= self._limit:
            self._drop(next(iter(self._newcomers)), "too_many_handshakes")
        self._newcomers[newcomer] = None
        if self._proxies is None:
            self._hand_over(newcomer, None)
        elif self._is_proxy(peer):
            self._loop.add_reader(sock, self._read_header, newcomer)
            self._read_header(newcomer)  # it is mostly there already
        else:
            self._drop(newcomer, "proxy_protocol_untrusted")

    def _is_proxy(self, peer: Any) -> bool:
        address = ip_address(peer[0].partition("%")[0])
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address  # IPv4 on a [::] listener
        return any(address in network for network in self._proxies or ())

    def _read_header(self, newcomer: _Newcomer) -> None:
        sock = newcomer.sock
        try:
            data = sock.recv(MAX_HEADER, socket.MSG_PEEK)
            if len(data) <= newcomer.seen:
                self._drop(newcomer, "proxy_protocol_incomplete")  # readable without a new byte: the end
                return
            found = parse(data)
            if isinstance(found, Header):
                sock.recv(found.size)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                self._loop.remove_reader(sock)
                self._hand_over(newcomer, found)
            elif isinstance(found, MessageError):
                self._drop(newcomer, found.reason)
            else:
                # What was looked at is still there: not to be woken for it again and again, ask for more than that.
                newcomer.seen = len(data)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, newcomer.seen + 1)
        except BlockingIOError:
            return
        except OSError:
            self._drop(newcomer, "proxy_protocol_incomplete")

    # Handing over.

    def _hand_over(self, newcomer: _Newcomer, header: Header | None) -> None:
        newcomer.deadline = float("inf")
        newcomer.task = self._loop.create_task(self._connect(newcomer, header))

    async def _connect(self, newcomer: _Newcomer, header: Header | None) -> None:
        secure: dict[str, Any] = {} if self._context is None else {"ssl": self._context(), **self._timeouts}
        try:
            await self._loop.connect_accepted_socket(lambda: self._factory(header), newcomer.sock, **secure)
        except OSError:
            self._refuse(newcomer, "tls_handshake")
        except Exception:
            log.exception("cannot take a connection over")
            self._refuse(newcomer, "error")
        else:
            del self._newcomers[newcomer]

    # Ends.

    def _drop(self, newcomer: _Newcomer, reason: str) -> None:
        if newcomer.task is None:
            self._loop.remove_reader(newcomer.sock)
        else:
            newcomer.task.cancel()
        self._refuse(newcomer, reason)

    def _refuse(self, newcomer: _Newcomer, reason: str) -> None:
        self.refused[reason] += 1
        del self._newcomers[newcomer]
        newcomer.sock.close()  # once the loop has the socket for its own, it is the loop that closes it
