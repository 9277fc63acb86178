"""A process that does nothing but wait for one moment and kill: alone with its interpreter, it is exact to some microseconds.

Run as a script by `strike`; a line of JSON in, a line out. It kills the given pids (negative: the group) `after_us` after the
first of: at once, the bytes `send` were sent to `port`, the file `watch` has changed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

_LIMIT = 8.0
_ANSWER = 3.0


class Struck(NamedTuple):
    """When it happened and when the bytes were sent (monotonic seconds), whether what was awaited came, and the answer."""

    at: float
    sent: float
    aimed: bool
    answered: float
    status: int
    answer: str


class Killer:
    """The process; `with` ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, __file__), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def strike(self, pids: Sequence[int], after_us: int, *, port: int = 0, send: str = "", watch: Path | None = None) -> Struck:
        """Have it done; blocks until it is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"pids": pids, "after_us": after_us, "port": port, "send": send, "watch": str(watch or "")}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Struck(*json.loads(self._process.stdout.readline()))


def _mark(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _obey(order: dict[str, Any]) -> Struck:
    began = time.monotonic()
    aimed = True
    connection = None
    if order["send"]:
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", order["port"]), timeout=_ANSWER)
            began = time.monotonic()
            connection.sendall(order["send"].encode())
    elif order["watch"]:
        before = _mark(order["watch"])
        while _mark(order["watch"]) == before and (aimed := time.monotonic() < began + _LIMIT):
            pass
    until = time.monotonic() + order["after_us"] / 1e6
    while time.monotonic() < until:
        pass
    for pid in order["pids"]:
        with suppress(ProcessLookupError):
            (os.kill if pid > 0 else os.killpg)(abs(pid), signal.SIGKILL)
    at = time.monotonic()
    status, answer = _answer(connection) if connection else (0, "")
    return Struck(at, began, aimed, time.monotonic(), status, answer)


def _answer(connection: socket.socket) -> tuple[int, str]:
    """Status and body; (0, "") where the answer does not come, or not whole."""
    received = b""
    with suppress(OSError), connection:
        while data := connection.recv(65536):
            received += data
            head, blank, body = received.partition(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            if blank and f"content-length: {len(body)}".encode() in lines:
                return int(lines[0].split(b" ")[1]), body.decode()
    return 0, ""


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_obey(json.loads(line))), flush=True)
