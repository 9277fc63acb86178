"""The connection of one client, apart from HTTP: what is held back, what is written, how long to wait, how to end.

The base of `proxy.downstream`, which reads requests from it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from fcntl import ioctl
from termios import FIONREAD
from typing import TYPE_CHECKING

from canaryproxy.proxy.connect import NOWHERE
from canaryproxy.proxy.tls import count_taken, reset

if TYPE_CHECKING:
    from canaryproxy.http1.proxy_protocol import Header
    from canaryproxy.proxy.connect import Ends
    from canaryproxy.proxy.exchange import Exchange
    from canaryproxy.proxy.ingress import Ingress
    from canaryproxy.proxy.worker import Worker

_ZERO = struct.pack("i", 0)
#: After an early end, this much is read and thrown away, so that the client sees the answer before a reset (C13).
_LINGER_BYTES, _LINGER_SECONDS, _LINGER_FULL_SECONDS = 256 * 1024, 5.0, 1.0


class Client(asyncio.BufferedProtocol):
    """A client's connection. `deadline` (monotonic seconds) is looked at by the worker's sweep."""

    __slots__ = (
        "_header",
        "_holding",
        "_ingress",
        "_linger_left",
        "_pending",
        "_taken",
        "_worker",
        "_write_paused",
        "_written",
        "born",
        "deadline",
        "exchange",
        "peer",
        "transport",
    )

    def __init__(self, worker: Worker, ingress: Ingress, header: Header | None) -> None:
        self._worker = worker
        self._ingress = ingress
        self._header = header
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self.exchange: Exchange | None = None
        self.peer = b""
        self.born = worker.now
        self.deadline = 0.0
        #: What was sent ahead.
        self._pending = b""
        self._holding = False
        #: Bytes to throw away still; -1 while the connection is in use.
        self._linger_left = -1
        self._write_paused = False
        #: What the client has taken of the response, and the upstream of the request, when that was last looked at.
        self._written = self._taken = 0

    # Reading.

    def _hold(self, data: bytes) -> None:
        """Keep what was sent ahead and read no more until it is its turn."""
        self._pending += data
        self._holding = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _discard(self, nbytes: int) -> None:
        self._linger_left = max(0, self._linger_left - nbytes)
        if not self._linger_left:
            # A reset now could overtake the answer; but nobody notices when a client leaves that is not read.
            self.transport.pause_reading()
            self.deadline = min(self.deadline, self._worker.now + _LINGER_FULL_SECONDS)

    def pause_request(self) -> None:
        """Read no more of the request's body: the upstream cannot take it."""
        self._holding = True
        if self.exchange is not None and self.exchange.upstream is not None:
            self._taken = count_taken(self.exchange.upstream.transport)
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_request(self) -> None:
        """Read on, unless a next request waits already."""
        if not self._pending and not self.transport.is_closing():
            self._holding = False
            self.transport.resume_reading()

    # Writing.

    def write(self, data: bytes) -> None:
        """Write to the client at the end of this turn, if it is still there."""
        self._worker.send(self.transport, data)

    def write_now(self, pieces: Sequence[bytes]) -> None:
        """Write much in one go, and at once, for only that can pause the upstream's next read."""
        if not self.transport.is_closing():
            self._worker.flush()
            self.transport.writelines(pieces)

    def write_view(self, view: memoryview) -> None:
        """Write body bytes straight from the worker's read buffer, which is left to the transport if it cannot send them all."""
        worker, transport = self._worker, self.transport
        if not transport.is_closing():
            if worker.outbox:
                worker.flush()
            transport.write(view)
            if transport.get_write_buffer_size():
                worker.replace_read_buffer()
        self.await_body()

    def await_body(self) -> None:
        """More of the response is to come."""
        if not self._write_paused:
            self.deadline = self._worker.now + self._worker.timeouts.response_body_idle

    # Ends.

    def _linger(self) -> None:
        """Say that nothing more comes, and let the client finish reading before the connection goes (C13)."""
        self._pending = b""
        self._linger_left = _LINGER_BYTES
        self.deadline = self._worker.now + _LINGER_SECONDS
        if not self.transport.is_closing():
            self._worker.flush()
            if self._ingress.tls:
                self.transport.close()  # it says so to the client, and throws away what still comes
                return
            self.transport.write_eof()
            self.transport.resume_reading()

    def _close(self) -> None:
        self._linger_left = 0
        self.deadline = self._worker.now + self._worker.timeouts.send_idle
        self._worker.flush()
        self.transport.close()

    def cut(self) -> None:
        """End with a reset, so that what was sent cannot be taken for whole."""
        self.exchange = None
        if self.transport.is_closing():
            self.transport.abort()
        else:
            reset(self.transport)

    # What is known of it.

    @property
    def is_secure(self) -> bool:
        """Whether it comes over TLS."""
        return self._ingress.tls

    @property
    def is_slow(self) -> bool:
        """Whether it has yet to take what was written."""
        return self._write_paused

    def is_idle(self, since: float) -> bool:
        """Whether no request is in hand, and none came after `since`, not even unread: closing would be a reset."""
        quiet = self.exchange is None and not self._pending and self._linger_left < 0
        return quiet and self.deadline - self._worker.timeouts.keep_alive <= since and not self._has_input()

    def _has_input(self) -> bool:
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.is_closing():
            return False
        return bool(ioctl(sock.fileno(), FIONREAD, _ZERO) != _ZERO)

    def _takes_on(self) -> bool:
        """Whether the client has taken enough since the last look: as fast, on average, as a request's body must come."""
        taken, timeouts = count_taken(self.transport), self._worker.timeouts
        enough = taken - self._written >= max(1, timeouts.send_idle * self._worker.body_rate)
        self._written = taken
        return enough

    def _upload_goes_on(self, upstream: asyncio.Transport) -> bool:
        """Whether the upstream has taken anything of the request's body since the last look."""
        before, self._taken = self._taken, count_taken(upstream)
        return self._taken > before

    def ends(self) -> Ends:
        """Where this connection comes from and where it arrived, for a PROXY header (proxy-protocol.txt section 2)."""
        if self.transport.is_closing():
            return NOWHERE
        peer, here = (self.transport.get_extra_info(name) or ("", 0) for name in ("peername", "sockname"))
        port = int(peer[1]) if self._header is None or self._header.source is None else self._header.source_port
        return self.peer, port, str(here[0]).encode(), int(here[1])
