"""One small shop application as a process of its own: `python -m canaryproxy.cli.demo.apps VERSION FAULT SECONDS [PORT SHARE]`.

Started twice by `story`, as v1 without a fault and as v2 with the scenario's, and so by the drill (`drill.stage`), which
says by SIGUSR1 when the fault begins and by SIGUSR2 when it ends. It answers JSON after a lognormal few milliseconds and tells
its parent its port first, then whom it has hurt: so no figure rests on what the proxy says of itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from typing import Any, cast

from canaryproxy.cli.demo.report import run, tell, tell_until_stopped
from canaryproxy.cli.demo.scenario import ERROR_SHARE, HANG_SHARE, SLOWER, Fault
from canaryproxy.clock import SystemClock

#: Answer time: median 12 ms, p95 about 27 ms.
_MEDIAN = 0.012
_SIGMA = 0.5
_HEAD_LIMIT = 65_536
_NOW = SystemClock.monotonic


class App:
    """The application's state: its fault (from `fault_after` seconds after its first request on), and what it counts."""

    def __init__(self, version: str, fault: Fault, fault_after: float, rng: random.Random, share: float | None = None) -> None:
        """`share`: of the requests that errors and hangs hit, the demo's if None."""
        self.version, self._fault, self._fault_after, self._rng = version, fault, fault_after, rng
        self._share = share if share is not None else {Fault.ERRORS: ERROR_SHARE, Fault.HANG: HANG_SHARE}.get(fault, 1.0)
        self._faulty_from = float("inf")
        self._served = 0
        self._last_sent = self._last_began = 0.0
        self._first_fault: float | None = None
        self._last_fault: float | None = None
        self._new_faults: list[tuple[int, str]] = []

    def decide(self, now: float, sent: float) -> tuple[float | None, int, bool]:
        """(seconds until the answer or None for never, status, whether that is the fault) for a request that came in now."""
        if self._served == 0:
            self._faulty_from = now + self._fault_after
        self._served += 1
        self._last_sent, self._last_began = max(self._last_sent, sent), now
        delay = self._rng.lognormvariate(0, _SIGMA) * _MEDIAN
        if now < self._faulty_from:
            return delay, 200, False
        if self._fault is Fault.ERRORS and self._rng.random() < self._share:
            return delay, 500, True
        if self._fault is Fault.SLOW:
            return delay + SLOWER, 200, True
        if self._fault is Fault.HANG and self._rng.random() < self._share:
            return None, 0, True
        return delay, 200, False

    def begin_fault(self, now: float) -> None:
        """From now on the fault is served; what was told of an earlier one is over."""
        self._faulty_from, self._first_fault = now, None

    def end_fault(self) -> None:
        """From now on it is not."""
        self._faulty_from = float("inf")

    def note_fault(self, now: float, request_id: int, user: str) -> None:
        """Count a fault at the moment it is served (a hang: begins)."""
        self._first_fault = self._first_fault or now
        self._last_fault = now
        self._new_faults.append((request_id, user))

    def counts(self) -> dict[str, Any]:
        """One line for the parent: totals, and the faults since the last line."""
        faults, self._new_faults = self._new_faults, []
        return {
            "served": self._served,
            "last_sent": self._last_sent,
            "last_began": self._last_began,
            "first_fault": self._first_fault,
            "last_fault": self._last_fault,
            "faults": faults,
        }


class Connection(asyncio.Protocol):
    """One keep-alive connection from the proxy: GETs, one after the other."""

    def __init__(self, app: App) -> None:
        self._app = app
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
        if len(self._received) > _HEAD_LIMIT:
            self._transport.close()

    def _take(self, head: str) -> None:
        request_line, *lines = head.split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        now = _NOW()
        delay, status, faulty = self._app.decide(now, float(fields.get("x-sent", 0)))
        caused = (int(fields.get("x-demo-number", 0)), fields.get("x-user-id", "")) if faulty else None
        if delay is None:
            if caused:
                self._app.note_fault(now, *caused)
            return
        path = request_line.split(" ")[1] if request_line.count(" ") == 2 else "/"
        close = fields.get("connection", "").lower() == "close"
        self._loop.call_later(delay, self._answer, path, status, close, caused)

    def _answer(self, path: str, status: int, close: bool, caused: tuple[int, str] | None) -> None:
        if self._transport.is_closing():
            return
        if caused:
            self._app.note_fault(_NOW(), *caused)
        body = json.dumps({"version": self._app.version, "path": path, "ok": status == 200}).encode()
        reason = "OK" if status == 200 else "Internal Server Error"
        self._transport.write(
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"X-App-Version: {self._app.version}\r\n\r\n".encode()
            + body
        )
        if close:
            self._transport.close()


async def serve(version: str, fault: Fault, fault_after: float, port: int = 0, share: float | None = None) -> None:
    """Serve on a port of the loopback (0: a free one) until SIGTERM; the first line to the parent is the port."""
    app = App(version, fault, fault_after, random.Random(version), share)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: app.begin_fault(_NOW()))
    loop.add_signal_handler(signal.SIGUSR2, app.end_fault)
    server = await loop.create_server(lambda: Connection(app), "127.0.0.1", port)
    tell({"port": server.sockets[0].getsockname()[1]})
    await tell_until_stopped(app.counts)
    tell(app.counts())


if __name__ == "__main__":
    run(serve(sys.argv[1], Fault(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:5]), *map(float, sys.argv[5:6])))
