"""Processes of a run: started on a given core, waited for, measured with all their children, ended.

CPU time is read from /proc (proc(5), `stat`): in clock ticks of 10 ms, which is 0.3 % of a three second round.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
_START_TIMEOUT = 20.0


class CpuTime(NamedTuple):
    """CPU time used so far, in microseconds."""

    user_us: float
    system_us: float

    def since(self, earlier: CpuTime) -> CpuTime:
        """The time used between the two readings."""
        return CpuTime(self.user_us - earlier.user_us, self.system_us - earlier.system_us)

    @property
    def total_us(self) -> float:
        """User and system together."""
        return self.user_us + self.system_us


class _Stat(NamedTuple):
    pid: int
    parent: int
    user_ticks: int
    system_ticks: int


def _all_stats() -> Iterator[_Stat]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                fields = (entry / "stat").read_text().rpartition(")")[2].split()  # the name before it may hold anything
                user, system, children_user, children_system = map(int, fields[11:15])
                yield _Stat(int(entry.name), int(fields[1]), user + children_user, system + children_system)


def tree_cpu(root: int) -> CpuTime:
    """CPU time of the process `root` and all below it; children that were waited for count in their parent."""
    stats = list(_all_stats())
    members, size = {root}, 0
    while len(members) != size:
        size = len(members)
        members |= {stat.pid for stat in stats if stat.parent in members}
    tree = [stat for stat in stats if stat.pid in members]
    return CpuTime(sum(stat.user_ticks for stat in tree) * _TICK_US, sum(stat.system_ticks for stat in tree) * _TICK_US)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes started inside run on `core` only (they inherit it)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(command: Sequence[str], *, core: int, port: int, log: Path, cwd: Path | None = None) -> Iterator[int]:
    """The pid of `command`, running on `core` and answering on `port`; it is ended on the way out."""
    with log.open("wb") as output, on_core(core):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd)
    try:
        _wait_for(process, port, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    last_words = log.read_text(errors="replace").strip()[-600:]
    raise RuntimeError(f"{process.args!r}: does not answer on port {port}; its last words: {last_words!r}")


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
