"""The listening sockets, open for the supervisor's whole life: a worker that dies or is replaced costs no connection.

One SO_REUSEPORT socket for each worker; the kernel spreads new connections over those that listen. The first worker to serve a
socket makes it listen, so a worker that never comes up gets no connection that would wait for it. A socket that listens is not
closed while its address is in use, for that would drop its accept queue; with fewer workers than sockets, a worker takes several.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import NamedTuple

from canaryproxy.config.check_network import reaches
from canaryproxy.config.quantities import Address
from canaryproxy.config.schema import Config
from canaryproxy.errors import StartError

BACKLOG = 4096
_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>; Python has no name for it
_DROP_ALL = struct.pack("HBBI", 6, 0, 0, 0)  # classic BPF: return 0


def refuse_more(sock: socket.socket) -> None:
    """Let nobody more into the accept queue, for every process that has this socket; who is in it can still be accepted.

    The last close of a listening socket resets its queue: it must be empty by then, and stay so.
    """
    program = ctypes.create_string_buffer(_DROP_ALL)
    with suppress(OSError):  # where it is forbidden, who comes between the last accept and the close is lost
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def _bind(address: Address, *, reuse_port: bool) -> socket.socket:
    try:
        family, kind, proto, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise StartError(str(address), f"cannot be resolved ({error.strerror})", "write an address of this machine") from None
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(target)
        if not reuse_port:
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(str(address), "is in use by another program", "stop that program or choose another port") from None
        raise StartError(str(address), f"cannot be listened on ({error.strerror})", "check the address and the rights") from None
    sock.setblocking(False)
    return sock


def open_exclusive(address: Address) -> socket.socket:
    """A listening socket that nobody shares (the admin endpoint's)."""
    return _bind(address, reuse_port=False)


def address_of(sock: socket.socket) -> str:
    """Where a socket listens, as people write it."""
    return "{}:{}".format(*sock.getsockname()[:2])


class Listener:
    """The sockets of one address, as many as there have ever been workers at a time."""

    def __init__(self, address: Address, ours: int = 0) -> None:
        """`ours` is a port that this program listens on already."""
        # SO_REUSEPORT would let a second program of this user take a share of the connections unnoticed: look first.
        if address.port != ours:
            open_exclusive(address).close()
        self.asked = address
        self.sockets = [_bind(address, reuse_port=True)]
        self.address = Address(address.host, self.sockets[0].getsockname()[1])

    def share(self, workers: int, index: int) -> list[socket.socket]:
        """The sockets of one of `workers` workers; opens more where there are too few."""
        while len(self.sockets) < workers:
            self.sockets.append(_bind(self.address, reuse_port=True))
        return self.sockets[index::workers]


class Share(NamedTuple):
    """The sockets of one worker."""

    http: list[socket.socket]
    https: list[socket.socket]


class Listeners:
    """The listeners of a configuration: for http, for https, or for both."""

    def __init__(self, config: Config, former: Listeners | None = None) -> None:
        """Takes the listeners over that have the same address in `former`. Raises StartError, and nothing is open then."""
        known = former._by_scheme if former else {}
        self._by_scheme: dict[str, Listener] = {}
        try:
            for scheme, address in (("http", config.listen), ("https", config.tls.listen if config.tls else None)):
                if address is not None:
                    self._by_scheme[scheme] = _take_over(scheme, address, known)
        except StartError:
            self.trim(former.all() if former else ())
            raise

    def urls(self) -> str:
        """Where users arrive: `http://0.0.0.0:8080, https://0.0.0.0:8443`."""
        return ", ".join(f"{scheme}://{listener.address}" for scheme, listener in self._by_scheme.items())

    def share(self, workers: int, index: int) -> Share:
        """The sockets of one of `workers` workers; opens more where there are too few."""
        listeners = map(self._by_scheme.get, Share._fields)
        return Share(*(listener.share(workers, index) if listener else [] for listener in listeners))

    def trim(self, kept: Collection[socket.socket] = ()) -> None:
        """Close this process's copies of all sockets but these."""
        for listener in self._by_scheme.values():
            for sock in [sock for sock in listener.sockets if sock not in kept]:
                sock.close()
                listener.sockets.remove(sock)

    def all(self) -> list[socket.socket]:
        """Every socket."""
        return [sock for listener in self._by_scheme.values() for sock in listener.sockets]


def _take_over(scheme: str, address: Address, known: Mapping[str, Listener]) -> Listener:
    """The listener of this scheme if it has this address, else a new one."""
    present = known.get(scheme)
    if present is not None and present.asked == address:
        return present
    for other, listener in known.items():
        # workers that still drain would answer on it in the other way
        if other != scheme and (reaches(address, listener.address) or reaches(listener.address, address)):
            raise StartError(str(address), f"serves {other} until now", "use another port, or restart")
    return Listener(address, ours=present.address.port if present else 0)
