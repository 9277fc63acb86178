"""The product as a user runs it, for the system tests: `canaryproxy run` in a folder of its own on free ports of the loopback.

Its processes are known by a mark in their environment, which forks inherit; which of them is the controller, and which worker
has a connection, by the sockets they hold (proc(5)). Nothing here sleeps for luck: `until` waits for a condition.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from origins import Origin
from traffic import Traffic

from canaryproxy.cli.client import Admin, RefusedError, UnreachableError

Status = dict[str, Any]
T = TypeVar("T")

PROGRAM = (sys.executable, "-m", "canaryproxy")
_LISTEN = "0A"
_PORTS = itertools.count(20_000 + os.getpid() % 500 * 20)


async def until(condition: Callable[[], T], limit: float = 10.0) -> T:
    """The first true value of the condition."""

    async def look() -> T | None:
        return condition() or None

    return await until_answered(look, limit)


async def until_answered(ask: Callable[[], Awaitable[T | None]], limit: float = 10.0) -> T:
    """The first answer that is not None."""
    end = time.monotonic() + limit
    while (answer := await ask()) is None:
        assert time.monotonic() < end, f"did not come true within {limit:g} s"
        await asyncio.sleep(0.02)
    return answer


def left_behind(folder: Path) -> list[str]:
    """Command lines of all processes with this temporary directory in their environment."""
    mark, found = f"TMPDIR={folder}".encode(), []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended while we looked
    return found


def free_port() -> int:
    """A port that nobody uses; below those that the kernel gives to outgoing connections, so it stays free between two starts."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put over it, objects member by member; None takes a member away."""
    result = dict(base)
    for name, value in changes.items():
        result[name] = merged(result.get(name, {}), value) if isinstance(value, dict) else value
    return {name: value for name, value in result.items() if value is not None}


class Product:
    """One canaryproxy and two origins, v1 and v2, for its one route `shop`. `log` is what it said, line by line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "canaryproxy.yaml"
        self.state, self.token_file = folder / "state.db", folder / "token"
        self.port, self.admin_port = free_port(), free_port()
        self.admin = Admin(f"http://127.0.0.1:{self.admin_port}", self.token_file)
        self.origins = {version: Origin(version) for version in ("v1", "v2")}
        self.mark = {"CANARYPROXY_SYSTEM_TEST": str(folder)}
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    # Life.

    def configure(self, route: dict[str, Any] | None = None, **changes: Any) -> None:
        """Write the configuration: the defaults of these tests with changes put over them, `route` over the route shop's."""
        rollout = {"steps": [{"weight": "25%", "hold": "10m"}], "bake": "10m", "i_accept_the_risk": True}
        shop = {"stable": "v1", "canary": "v2", "affinity": {"header": "X-User-Id"}, "rollout": rollout}
        base = {
            "listen": f"127.0.0.1:{self.port}",
            "workers": 2,
            "admin": {"listen": f"127.0.0.1:{self.admin_port}", "token_file": str(self.token_file)},
            "state": {"path": str(self.state)},
            "timeouts": {"drain": "5s"},
            "pools": {version: {"servers": [origin.url]} for version, origin in self.origins.items()},
            "routes": {"shop": merged(shop, route or {})},
        }
        self.file.write_text(json.dumps(merged(base, changes)))

    def launch(self, *, heard: bool = True) -> None:
        """Start it, and do not wait. Not `heard`: what would read its log has gone."""
        environment = os.environ | self.mark
        self._process = process = subprocess.Popen(
            (*PROGRAM, "run", "--config", str(self.file)),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if not heard:
            assert process.stderr is not None
            process.stderr.close()
            return
        self._reader = threading.Thread(target=self._listen_to, args=(process,))
        self._reader.start()

    async def start(self) -> None:
        """Start it; its workers serve when this returns."""
        before = self.said("serving on")
        self.launch()
        await until(lambda: self.said("serving on") > before or self.ended, 20)
        assert not self.ended, self.log

    def _listen_to(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line.rstrip("\n"))
        process.stderr.close()

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the supervisor has ended."""
        return self._process is None or self._process.poll() is not None

    async def exit_code(self, limit: float = 15.0) -> int:
        """The supervisor's exit code, and all its words are in the log."""
        assert self._process is not None
        await until(lambda: self.ended, limit)
        await until(lambda: self.processes() == [])
        if self._reader is not None:
            self._reader.join(5)
        return int(self._process.returncode)

    def signal(self, number: int) -> None:
        """Send the supervisor a signal."""
        os.kill(self.pid, number)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.exit_code()

    async def kill(self) -> None:
        """SIGKILL for all of it at once."""
        os.killpg(self.pid, signal.SIGKILL)
        await self.exit_code()

    async def end(self) -> None:
        """Stopped, with nothing left of it and no defect in its log."""
        if not self.ended:
            await self.stop()
        await until(lambda: self.processes() == [])
        assert not re.search("Traceback|Error: |never awaited", "\n".join(self.log)), "\n".join(self.log)

    def destroy(self) -> None:
        """Whatever happened: nothing of it runs on."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        if self._reader is not None:
            self._reader.join()

    # What it says.

    def said(self, words: str) -> int:
        """How many lines of its log have these words."""
        return sum(words in line for line in self.log)

    async def until_said(self, words: str, times: int = 1, limit: float = 10.0) -> None:
        """Wait until so many lines of the log have these words."""
        await until(lambda: self.said(words) >= times, limit)

    async def reload(self) -> None:
        """SIGHUP, and wait until a new generation serves and the old one takes no more connections."""
        before, old = self.said("reloaded"), set(self.workers)
        self.signal(signal.SIGHUP)
        await self.until_said("reloaded", before + 1)
        await until(lambda: self.workers and not old & set(self.workers))

    # Its admin API and its command line.

    async def status(self, route: str = "shop") -> Status:
        """The route's status; a controller that is just being replaced is waited for."""

        async def ask() -> Status | None:
            with suppress(UnreachableError):
                return await asyncio.to_thread(self.admin.get, f"/api/v1/routes/{route}")
            return None

        return await until_answered(ask)

    async def status_with(self, wanted: Callable[[Status], bool], limit: float = 15.0, route: str = "shop") -> Status:
        """The first status for which `wanted` is true."""

        async def ask() -> Status | None:
            status = await self.status(route)
            return status if wanted(status) else None

        return await until_answered(ask, limit)

    async def verb(self, verb: str, route: str = "shop", **body: Any) -> Status:
        """Ask for a verb; its answer."""
        return await asyncio.to_thread(self.admin.post, f"/api/v1/routes/{route}/{verb}", body)

    async def refusal(self, verb: str) -> str:
        """What is answered to a verb that is refused."""
        try:
            answer = await self.verb(verb)
        except RefusedError as error:
            return str(error)
        raise AssertionError(answer)

    async def set_weight(self, weight: str) -> Status:
        """Give the canary this share."""
        return await asyncio.to_thread(self.admin.put, "/api/v1/routes/shop/weight", {"weight": weight})

    async def metrics(self) -> str:
        """The /metrics page."""
        status, page = await asyncio.to_thread(self.admin.exchange, "GET", "/metrics")
        assert status == 200
        return page.decode()

    async def until_ticks(self, count: int) -> None:
        """Wait until this controller has judged so many seconds."""

        async def judged() -> float | None:
            found = re.search(r"^canaryproxy_ticks_total (\S+)", await self.metrics(), re.MULTILINE)
            return float(found[1]) if found and float(found[1]) >= count else None

        await until_answered(judged)

    async def cli(self, *words: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of an operator's command."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            *words,
            env=os.environ | (environment or {}),
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, complaints = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), complaints.decode()

    def traffic(self, **options: Any) -> Traffic:
        """Users of it, see `Traffic`."""
        return Traffic(self.port, **options)

    # What befalls it.

    def spoil_state(self) -> dict[Path, bytes]:
        """The state file is damaged from now on; its files as they were."""
        good = {file: file.read_bytes() for file in self.folder.glob(f"{self.state.name}*")}
        self.state.write_bytes(b"no database" * 1000)
        return good

    @asynccontextmanager
    async def full_disk(self) -> AsyncIterator[None]:
        """The controller cannot write one more byte to any file meanwhile."""
        controller = self.controller
        assert controller is not None
        soft, hard = resource.prlimit(controller, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                resource.prlimit(controller, resource.RLIMIT_FSIZE, (soft, hard))

    @contextmanager
    def held_state(self) -> Iterator[None]:
        """Another process writes to the state file, and does not end."""
        with closing(sqlite3.connect(self.state, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    # Its processes.

    def processes(self) -> list[int]:
        """Every process with this product's mark that has not ended."""
        mark = "=".join(*self.mark.items()).encode()
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return sorted(found)

    @property
    def controller(self) -> int | None:
        """The controller's pid, once it has taken its place."""
        return next((pid for pid in self._children() if self._listens(pid) == {self.admin_port}), None)

    @property
    def workers(self) -> list[int]:
        """The pids of the workers that accept connections."""
        return [pid for pid in self._children() if self._listens(pid) == {self.port}]

    async def until_workers(self, count: int) -> None:
        """Wait until so many workers accept connections."""
        await until(lambda: len(self.workers) == count)

    def worker_of(self, local_port: int) -> int | None:
        """The worker that has the connection from this port of a client."""
        inodes = {inode for local, remote, _, inode in _tcp() if (local, remote) == (self.port, local_port)}
        return next((pid for pid in self._children() if _sockets(pid) & inodes), None)

    def _children(self) -> list[int]:
        return [pid for pid in self.processes() if pid != self.pid]

    def _listens(self, pid: int) -> set[int]:
        held = _sockets(pid)
        return {local for local, _, state, inode in _tcp() if state == _LISTEN and inode in held}


def _tcp() -> list[tuple[int, int, str, str]]:
    """(local port, remote port, state, inode) of each IPv4 socket of this machine."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(int(line[1][-4:], 16), int(line[2][-4:], 16), line[3], line[9]) for line in lines]


def _sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process holds."""
    found = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(os.readlink(entry).removeprefix("socket:[").rstrip("]"))
    return found
