"""One version of the application as a process of its own: `python -m bench.live.origin VERSION SEED`, started by `run`.

It is healthy until it is told of a fault by a request for `fault_path`, and tells its parent its port first, then which requests
it has spoiled: so the figures do not rest on what the proxy says of itself.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any, NamedTuple, cast

from bench.live.scenario import ANSWER_MEDIAN, ANSWER_SIGMA, SLOWER, Fault
from canaryproxy.cli.demo.report import run, tell, tell_until_stopped
from canaryproxy.clock import SystemClock

_NOW = SystemClock.monotonic
_CONTROL = "/-/fault/"
#: Bytes of an answer, by the first part of the path: what kinds of answers the application has.
_SIZES = {"/": 6_000, "/products": 2_000, "/api": 250}
_BODY = b"x" * max(_SIZES.values())


class Ordered(NamedTuple):
    """A fault and when (monotonic seconds) it begins and ends. `user`: the bot, whose every request fails."""

    fault: Fault
    share: float
    begins: float
    ends: float
    user: str = ""


def fault_path(ordered: Ordered) -> str:
    """The path whose request tells an origin of a fault."""
    return _CONTROL + "/".join(str(part) for part in ordered)


def parse_fault(path: str) -> Ordered | None:
    """What `fault_path` made the path of; None for any other."""
    if not path.startswith(_CONTROL):
        return None
    fault, share, begins, ends, user = path.removeprefix(_CONTROL).split("/")
    return Ordered(Fault(fault), float(share), float(begins), float(ends), user)


class Reply(NamedTuple):
    """What a request gets: seconds until then or None for never, status, size of the body; whether that is the fault."""

    delay: float | None
    status: int
    size: int
    spoiled: bool


class App:
    """The application's state: its fault, and what it counts."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.ordered = Ordered(Fault.NONE, 0.0, 0.0, 0.0)
        self._served = 0
        self._last_request: float | None = None
        self._last_user = ""
        self._spoiled: list[tuple[int, str, float]] = []

    def reply(self, now: float, path: str, number: int, user: str) -> Reply:
        """Decide on a request that came in now, and count it."""
        self._served += 1
        self._last_request = now
        self._last_user = user
        delay = ANSWER_MEDIAN * self._rng.lognormvariate(0, ANSWER_SIGMA)
        size = _SIZES.get("/" + path.split("/")[1], _SIZES["/"])
        if not self._spoils(now, user):
            return Reply(delay, 200, size, False)
        self._spoiled.append((number, user, now))
        match self.ordered.fault:
            case Fault.SLOW:
                return Reply(delay + SLOWER, 200, size, True)
            case Fault.HANG:
                return Reply(None, 0, 0, True)
            case Fault.EMPTY:
                return Reply(delay, 200, 0, True)
            case _:
                return Reply(delay, 500, 100, True)

    def _spoils(self, now: float, user: str) -> bool:
        ordered = self.ordered
        if not ordered.begins <= now < ordered.ends:
            return False
        return user == ordered.user if ordered.fault is Fault.BOT else self._rng.random() < ordered.share

    def counts(self) -> dict[str, Any]:
        """One line for the parent: totals, and the requests that were spoiled since the last line."""
        spoiled, self._spoiled = self._spoiled, []
        return {"served": self._served, "last_request": self._last_request, "last_user": self._last_user, "spoiled": spoiled}


class Connection(asyncio.Protocol):
    """One keep-alive connection from the proxy: requests without a body, one after the other."""

    def __init__(self, version: str, app: App) -> None:
        self._version, self._app = version, app
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._take(head.decode("latin-1"))

    def _take(self, head: str) -> None:
        request_line, *lines = head.split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path = request_line.split(" ")[1]
        if (ordered := parse_fault(path)) is not None:
            self._app.ordered = ordered
            self._answer(204, 0)
            return
        reply = self._app.reply(_NOW(), path, int(fields.get("x-number", 0)), fields.get("x-user-id", ""))
        if reply.delay is not None:
            self._loop.call_later(reply.delay, self._answer, reply.status, reply.size)

    def _answer(self, status: int, size: int) -> None:
        if not self._transport.is_closing():
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {size}\r\nX-App-Version: {self._version}\r\n\r\n"
            self._transport.write(head.encode() + _BODY[:size])


_REASONS = {200: "OK", 204: "No Content", 500: "Internal Server Error"}


async def serve(version: str, seed: str) -> None:
    """Serve on a free port of the loopback until SIGTERM; the first line to the parent is the port."""
    app = App(random.Random(f"{seed} {version}"))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(version, app), "127.0.0.1", 0)
    tell({"port": server.sockets[0].getsockname()[1]})
    await tell_until_stopped(app.counts)
    tell(app.counts())


if __name__ == "__main__":
    run(serve(sys.argv[1], sys.argv[2]))
