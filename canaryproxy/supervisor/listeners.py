"""The listening sockets, open for the supervisor's whole life: a worker that dies or is replaced costs no connection.

One SO_REUSEPORT socket for each worker; the kernel spreads new connections over those that listen. The first worker to serve a
socket makes it listen, so a worker that never comes up gets no connection that would wait for it. A socket that listens is not
closed while its address is in use, for that would drop its accept queue; with fewer workers than sockets, a worker takes several.
"""

from __future__ import annotations

import errno
import socket

from canaryproxy.config.quantities import Address
from canaryproxy.errors import StartError

BACKLOG = 4096


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


class Listeners:
    """The sockets of one address, as many as there have ever been workers at a time."""

    def __init__(self, address: Address, ours: int = 0) -> None:
        """`ours` is a port that this program listens on already."""
        # SO_REUSEPORT would let a second program of this user take a share of the connections unnoticed: look first.
        if address.port != ours:
            open_exclusive(address).close()
        self.asked = address
        self._sockets = [_bind(address, reuse_port=True)]
        self.address = Address(address.host, self._sockets[0].getsockname()[1])

    def share(self, workers: int) -> list[list[socket.socket]]:
        """The sockets of each of `workers` workers; opens more where there are too few."""
        while len(self._sockets) < workers:
            self._sockets.append(_bind(self.address, reuse_port=True))
        return [self._sockets[index::workers] for index in range(workers)]

    def trim(self, count: int) -> None:
        """Close this process's copies of the sockets beyond the first `count`: no worker was found for them."""
        for sock in self._sockets[count:]:
            sock.close()
        del self._sockets[count:]

    def all(self) -> list[socket.socket]:
        """Every socket of this address."""
        return list(self._sockets)

    def close(self) -> None:
        """Close this process's copies."""
        for sock in self._sockets:
            sock.close()
