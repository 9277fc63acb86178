"""The demo's users as a process of its own: `python -m canaryproxy.cli.demo.load PORT [RATE USERS]`, started by `story`.

Open loop: requests are due by the clock, not by the last answer, so a slow or hanging variant is not spared; what is
outstanding is capped, so a proxy that answers nothing does not fill the machine. Every request carries its number, its user
and the moment it was sent. A real client with keep-alive connections, but no general one: answers have a Content-Length.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

from canaryproxy.cli.demo.report import run, tell, tell_until_stopped
from canaryproxy.cli.demo.scenario import ANSWER_LIMIT, LATELY, RATE, USERS
from canaryproxy.clock import SystemClock

_TICK = 0.005
_CONNECTIONS = 32
_OUTSTANDING = 512
#: Most requests sent in one tick: a process that was stopped for a moment does not make up for it in one burst.
_BURST = 20
#: Seconds after which a user gives up: longer than the proxy lets any upstream take.
_PATIENCE = ANSWER_LIMIT + 2.0
_NOW = SystemClock.monotonic
_REQUEST = (
    b"GET /products/%d HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
    b"X-User-Id: %b\r\nX-Demo-Number: %d\r\nX-Sent: %.6f\r\n\r\n"
)


class Sent(NamedTuple):
    """One request on its way."""

    number: int
    user: str
    at: float


class Answer(NamedTuple):
    """What came back: `status` 0 and `version` '' where nothing did."""

    status: int
    version: str = ""


def parse_answer(received: bytes) -> tuple[Answer, bytes, bool] | None:
    """(answer, bytes after it, whether the connection may be kept), or None while it is not complete. ValueError: not HTTP."""
    head, blank, rest = received.partition(b"\r\n\r\n")
    if not blank:
        return None
    status_line, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status, length = int(status_line.split(" ")[1]), int(fields["content-length"])
    if len(rest) < length:
        return None
    keep = fields.get("connection", "").lower() != "close"
    return Answer(status, fields.get("x-app-version", "")), rest[length:], keep


class Connection(asyncio.Protocol):
    """One keep-alive connection to the proxy with at most one request on it."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._received = b""
        self.sent: Sent | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def send(self, sent: Sent) -> None:
        """Send the request of this number and user."""
        assert self.transport is not None
        self.sent = sent
        self.transport.write(_REQUEST % (sent.number % 500, sent.user.encode(), sent.number, sent.at))

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            parsed = parse_answer(self._received)
        except (ValueError, KeyError, IndexError):
            parsed = Answer(0), b"", False
        if parsed is not None:
            answer, self._received, keep = parsed
            self._end(answer, keep=keep)

    def connection_lost(self, exc: Exception | None) -> None:
        self._users.forget(self)
        self._end(Answer(0), keep=False)

    def give_up(self) -> None:
        """The user has waited long enough."""
        self._end(Answer(0), keep=False)

    def _end(self, answer: Answer, *, keep: bool) -> None:
        sent, self.sent = self.sent, None
        if sent is not None:
            self._users.note(sent, answer)
        if keep:
            self._users.idle.append(self)
        elif self.transport is not None:
            self.transport.close()


class Users:
    """All users and their connections: sends what is due, counts what comes back."""

    def __init__(self, connect: Callable[[Users], Any], rng: random.Random, rate: int = RATE, users: int = USERS) -> None:
        self.idle: deque[Connection] = deque()
        self._connect, self._rng, self._rate, self._population = connect, rng, rate, users
        self._open: set[Connection] = set()
        self._number = 0
        self._seen: set[str] = set()
        self._new_failures: list[tuple[int, str, float, str, int]] = []
        self._lately: deque[tuple[float, str, float]] = deque()
        self._skipped = 0
        self.outstanding = 0
        self._none_out = asyncio.Event()

    async def start(self) -> None:
        """Open the first connections."""
        for _ in range(_CONNECTIONS):
            self.idle.append(await self._connected())

    async def _connected(self) -> Connection:
        connection: Connection = await self._connect(self)
        self._open.add(connection)
        return connection

    async def keep_sending(self, stopped: Callable[[], bool]) -> None:
        """Send `rate` requests a second until `stopped()`."""
        due, last = 0.0, _NOW()
        async with asyncio.TaskGroup() as opening:
            while not stopped():
                await asyncio.sleep(_TICK)
                now = _NOW()
                due, last = min(due + (now - last) * self._rate, _BURST), now
                while due >= 1:
                    due -= 1
                    self._send_one(opening, now)
                self._give_up_before(now - _PATIENCE)

    def _send_one(self, opening: asyncio.TaskGroup, now: float) -> None:
        if self.outstanding >= _OUTSTANDING:
            self._skipped += 1
            return
        self._number += 1
        self.outstanding += 1
        user = f"user-{self._rng.randrange(self._population)}"
        self._seen.add(user)
        sent = Sent(self._number, user, now)
        if self.idle:
            self.idle.popleft().send(sent)  # the longest unused first: none grows old enough to be closed by the proxy
        else:
            opening.create_task(self._send_on_new(sent))

    async def _send_on_new(self, sent: Sent) -> None:
        try:
            connection = await self._connected()
        except OSError:
            self.note(sent, Answer(0))
        else:
            connection.send(sent._replace(at=_NOW()))

    def _give_up_before(self, moment: float) -> None:
        for connection in [c for c in self._open if c.sent is not None and c.sent.at < moment]:
            connection.give_up()

    async def drain(self) -> None:
        """Wait for the answers that are still out, for as long as a user would."""
        if self.outstanding:
            self._none_out.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._none_out.wait(), _PATIENCE)
        self._give_up_before(_NOW())

    def note(self, sent: Sent, answer: Answer) -> None:
        """Count the end of a request: whatever is not a 200 of the application has failed."""
        self.outstanding -= 1
        if not self.outstanding:
            self._none_out.set()
        now = _NOW()
        if answer.version:
            self._lately.append((now, answer.version, now - sent.at))
        if answer.status != 200 or not answer.version:
            self._new_failures.append((sent.number, sent.user, now, answer.version, answer.status))

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def counts(self) -> dict[str, Any]:
        """One line for the parent: totals, and the failures since the last line."""
        failures, self._new_failures = self._new_failures, []
        return {
            "sent": self._number,
            "skipped": self._skipped,
            "users": len(self._seen),
            "failures": failures,
            "lately": self._describe_lately(),
        }

    def _describe_lately(self) -> dict[str, dict[str, float]]:
        """Answers and their p95 of each version in the last `LATELY` seconds."""
        while self._lately and self._lately[0][0] < _NOW() - LATELY:
            self._lately.popleft()
        took: dict[str, list[float]] = {}
        for _, version, elapsed in self._lately:
            took.setdefault(version, []).append(elapsed)
        return {
            version: {"answers": len(times), "p95_ms": sorted(times)[int(0.95 * len(times))] * 1000}
            for version, times in took.items()
        }


async def send(port: int, rate: int = RATE, population: int = USERS) -> None:
    """Send the demo's load to the proxy until SIGTERM, then wait for what is out and tell the last counts."""
    loop = asyncio.get_running_loop()

    async def connect(users: Users) -> Connection:
        return (await loop.create_connection(lambda: Connection(users), "127.0.0.1", port))[1]

    users = Users(connect, random.Random(port), rate, population)
    await users.start()
    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(tell_until_stopped(users.counts))
        tasks.create_task(users.keep_sending(telling.done))
    await users.drain()
    tell(users.counts())


if __name__ == "__main__":
    run(send(*map(int, sys.argv[1:])))
