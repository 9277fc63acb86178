"""What has come of one request's body: what waits for a connection, and what is kept to be sent again (C5).

Made by `proxy.exchange` for requests that have a body; no I/O of its own.
"""

from __future__ import annotations

from collections.abc import Sequence


class RequestBody:
    """`received` are the body's own bytes so far; `seconds` how long the client took to send it, no part of the latency."""

    __slots__ = ("_limit", "_replay", "awaited", "received", "seconds", "waiting")

    def __init__(self, keep: int | None) -> None:
        """`keep`: up to so many bytes are kept, so that the request can be sent again; None: it may not be sent twice."""
        self._limit = keep or 0
        self.received = 0
        self.seconds = 0.0
        #: Seconds in which the client could have sent more, as the sweep has seen them.
        self.awaited = 0.0
        self.waiting: list[bytes] = []
        self._replay: bytearray | None = None if keep is None else bytearray()

    def add(self, pieces: Sequence[bytes], size: int) -> None:
        """Take note of `pieces`, framed as they go to the upstream; `size` of their bytes are the body's own."""
        self.received += size
        if self._replay is not None:
            if self.received > self._limit:
                self._replay = None
            else:
                self._replay += b"".join(pieces)

    def can_be_sent_again(self) -> bool:
        """Whether all that came is still there."""
        return self._replay is not None

    def wait_again(self) -> None:
        """Let all that was kept wait for the next connection."""
        if self._replay:
            self.waiting = [bytes(self._replay)]
