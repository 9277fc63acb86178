"""The users as a process of its own: `python -m bench.live.load '{"port": ..., ...}'`, started by `run`.

Poisson arrivals from a closed set of users with unequal rates. Open loop: requests are due by the clock, not by the last answer,
so a variant that is slow or hangs is not spared. Each request carries its number and its user; what is no 200 has failed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, cast

from bench.live.scenario import PATIENCE, RATE, USER_SIGMA, USERS
from canaryproxy.cli.demo.load import Answer, parse_answer
from canaryproxy.cli.demo.report import run, tell, tell_until_stopped
from canaryproxy.clock import SystemClock

_CONNECTIONS = 64
#: Most requests on their way: a proxy that answers nothing must not fill the machine.
_OUTSTANDING = 2_000
#: Seconds of arrivals that are made up for when this process was held up; the rest was never sent.
_LATE = 0.1
_NOW = SystemClock.monotonic
_PATHS = ("/", "/products/%d", "/products/%d", "/api/cart/%d")
_REQUEST = "GET {path} HTTP/1.1\r\nHost: shop.example.com\r\nAccept: */*\r\nX-User-Id: {user}\r\nX-Number: {number}\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """Whom to ask, and who asks. `only`: one user, the bot. `first`: the number of the first request, so none comes twice."""

    port: int
    seed: int
    rate: float = RATE
    users: int = USERS
    sigma: float = USER_SIGMA
    patience: float = PATIENCE
    only: str = ""
    first: int = 1


class Sent(NamedTuple):
    """One request on its way."""

    number: int
    user: str
    at: float


class Connection(asyncio.Protocol):
    """One keep-alive connection to the proxy with at most one request on it."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._received = b""
        self._sent: Sent | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def send(self, sent: Sent, request: bytes, patience: float) -> None:
        """Send the request; its user waits for `patience` seconds."""
        self._sent = sent
        self._patience = asyncio.get_running_loop().call_later(patience, self._end, Answer(0), False)
        self._transport.write(request)

    def close(self) -> None:
        """Hang up; what is on its way is not counted."""
        self._sent = None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            parsed = parse_answer(self._received)
        except (ValueError, KeyError, IndexError):
            parsed = Answer(0), b"", False
        if parsed is not None:
            answer, self._received, keep = parsed
            self._end(answer, keep)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.forget(self)
        self._end(Answer(0), False)

    def _end(self, answer: Answer, keep: bool) -> None:
        if self._patience is not None:
            self._patience.cancel()
        sent, self._sent = self._sent, None
        if sent is not None:
            self._crowd.note(sent, answer)
        if keep:
            self._crowd.idle.append(self)
        else:
            self._transport.close()


class Crowd:
    """All users and their connections: sends what is due, counts what comes back."""

    def __init__(self, load: Load) -> None:
        self.idle: deque[Connection] = deque()
        self._load, self._rng = load, random.Random(load.seed)
        self._users = [load.only] if load.only else [f"user-{index}" for index in range(load.users)]
        # who the heavy users are is drawn for each run, as the canary's share of the traffic depends on it
        self._weights = list(accumulate(self._rng.lognormvariate(0, load.sigma) for _ in self._users))
        self._number = load.first
        self._outstanding = self._sent = self._skipped = 0
        self._failures: list[tuple[int, str, float, int]] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._next: asyncio.TimerHandle | None = None
        self._open: set[Connection] = set()

    async def begin(self) -> None:
        """Open the first connections, and send from now on."""
        for _ in range(1 if self._load.only else _CONNECTIONS):
            self.idle.append(await self._connected())
        self._due = _NOW()
        self._send_due()

    def end(self) -> None:
        """Send no more, and hang up."""
        if self._next is not None:
            self._next.cancel()
        for task in self._opening:
            task.cancel()
        for connection in list(self._open):
            connection.close()

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        connection = (await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._load.port))[1]
        self._open.add(connection)
        return connection

    def _send_due(self) -> None:
        now = _NOW()
        while self._due <= now:
            if now - self._due > _LATE or self._outstanding >= _OUTSTANDING:
                self._skipped += 1
            else:
                self._send_one(now)
            self._due += self._rng.expovariate(self._load.rate)
        self._next = asyncio.get_running_loop().call_later(self._due - now, self._send_due)

    def _send_one(self, now: float) -> None:
        user = self._rng.choices(self._users, cum_weights=self._weights)[0]
        path = self._rng.choice(_PATHS)
        path = path % self._rng.randrange(1_000) if "%" in path else path
        sent = Sent(self._number, user, now)
        request = _REQUEST.format(path=path, user=user, number=sent.number).encode()
        self._number += 1
        self._sent += 1
        self._outstanding += 1
        if self.idle:
            self.idle.popleft().send(sent, request, self._load.patience)  # the longest unused first: none grows old
        else:
            task = asyncio.get_running_loop().create_task(self._send_on_new(sent, request))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _send_on_new(self, sent: Sent, request: bytes) -> None:
        try:
            connection = await self._connected()
        except OSError:
            self.note(sent, Answer(0))
        else:
            connection.send(sent, request, self._load.patience)

    def note(self, sent: Sent, answer: Answer) -> None:
        """Count the end of a request: whatever is not a 200 of the application has failed."""
        self._outstanding -= 1
        if answer.status != 200 or not answer.version:
            self._failures.append((sent.number, sent.user, sent.at, answer.status))

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def counts(self) -> dict[str, Any]:
        """One line for the parent: totals, and the failures since the last line. What is still on its way is not in it."""
        failures, self._failures = self._failures, []
        return {"sent": self._sent, "skipped": self._skipped, "failures": failures}


async def send(load: Load) -> None:
    """Send the load until SIGTERM, then tell the last counts."""
    crowd = Crowd(load)
    await crowd.begin()
    await tell_until_stopped(crowd.counts)
    crowd.end()
    tell(crowd.counts())


if __name__ == "__main__":
    run(send(Load(**json.loads(sys.argv[1]))))
