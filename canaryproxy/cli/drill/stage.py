"""The drill's processes, and what can be done to them: two apps, a proxy and users of its own, in a temporary folder.

Used by `rehearsals`; asyncio. Nothing of the user's is touched: every port is a free one of the loopback. The apps say when
their last request began, the users which of them failed; the proxy is asked only what an operator would ask it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from canaryproxy.cli.client import Admin, RefusedError, UnreachableError
from canaryproxy.cli.demo.children import Child, child, start_proxy
from canaryproxy.cli.demo.scenario import ANSWER_LIMIT, Fault
from canaryproxy.cli.drill.settings import RATE, ROUTE, USERS, config_text
from canaryproxy.cli.text import Answer
from canaryproxy.clock import SystemClock
from canaryproxy.config.schema import Route
from canaryproxy.errors import StartError

#: Share of the canary's requests that a fault hits.
FAULT_SHARE = 0.5
#: Seconds of stable traffic alone, so that the proxy knows what is normal.
_BASELINE = 4.0
#: Seconds without a request at the canary, after which there is none any more: its app tells four times a second.
_QUIET = 0.6
#: Seconds for what has to come at once.
_SOON = 10.0
_PATIENCE = 2.0
_NOW = SystemClock.monotonic


class Stage:
    """Everything that runs. Made by `raised`."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._ports: dict[str, int] = {}
        self._told: dict[str, Answer] = {"v1": {}, "v2": {}}
        self._heard_at = 0.0
        self._load: Answer = {}
        self._canary: Child
        self._children: list[Child] = []
        self._proxy: Child
        self.admin: Admin
        #: Users whom the canary has failed in this repetition, and those whose request failed whoever did it.
        self.failed_users: set[str] = set()
        self.hurt_users: set[str] = set()

    # Life.

    async def raise_all(self, route: Route) -> None:
        """Start everything; the users have sent for a while when this returns. Raises StartError."""
        try:
            name = self._stack.enter_context(TemporaryDirectory(prefix="canaryproxy-drill-", ignore_cleanup_errors=True))
        except OSError as error:
            why = f"no temporary folder can be made ({(error.strerror or str(error)).lower()})"
            raise StartError("drill", why, "set TMPDIR to a folder that this user may write") from None
        stable = await self._app("v1", Fault.NONE)
        self._canary = await self._app("v2", Fault.NONE)
        config = config_text(route, name, self._ports["v1"], self._ports["v2"])
        self._proxy, port, self.admin = await start_proxy(self._stack, Path(name), config)
        words = ("canaryproxy.cli.demo.load", str(port), str(RATE), str(USERS))
        users = child("users", *words, on_line=self._hear_load, patience=ANSWER_LIMIT + 4)
        sending = await self._stack.enter_async_context(users)
        await sending.until_ready(lambda: bool(self._load))
        self._children = [stable, self._proxy, sending]
        await asyncio.sleep(_BASELINE)

    async def cast(self, fault: Fault) -> None:
        """The canary is another app now, on the same port; its fault waits for `break_canary`."""
        await self._canary.stop(_PATIENCE)
        self._canary = await self._app("v2", fault)

    async def _app(self, version: str, fault: Fault) -> Child:
        port = str(self._ports.pop(version, 0))
        words = ("canaryproxy.cli.demo.apps", version, fault, "inf", port, str(FAULT_SHARE))
        starting = child(version, *words, on_line=lambda line: self._hear_app(version, line), patience=_PATIENCE)
        app = await self._stack.enter_async_context(starting)
        await app.until_ready(lambda: version in self._ports)
        return app

    def _hear_app(self, version: str, line: str) -> None:
        told = json.loads(line)
        if "port" in told:
            self._ports[version] = told["port"]
            self._told[version] = {}
            return
        self._told[version] = told
        if version == "v2":
            self._heard_at = _NOW()
            self.failed_users.update(user for _, user in told["faults"])

    def _hear_load(self, line: str) -> None:
        self._load = json.loads(line)
        self.hurt_users.update(user for _, user, *_ in self._load["failures"])

    # What an operator does.

    async def begin(self, weight: str | None = None) -> None:
        """A rollout is in its first step (or has this weight), and its canary is well and has users."""
        self._canary.signal(signal.SIGUSR2)
        status = await self.status()
        verb = "retry" if status["phase"] == "rolled_back" else "start"
        await asyncio.to_thread(self.admin.post, self.admin.route(ROUTE, verb), {})
        if weight is not None:
            await asyncio.to_thread(self.admin.put, self.admin.route(ROUTE, "weight"), {"weight": weight})
        served = self._told["v2"].get("served", 0)
        await self.until(lambda: self._told["v2"].get("served", 0) > served + 2, "the canary got no requests")
        self.failed_users.clear()
        self.hurt_users.clear()

    async def roll_back(self) -> Answer:
        """Ask for a rollback as the CLI does, until somebody answers; the answer."""
        limit = _NOW() + _SOON
        while True:
            try:
                return await asyncio.to_thread(self.admin.post, self.admin.route(ROUTE, "rollback"), {"reason": "drill"})
            except UnreachableError:
                if _NOW() > limit:
                    raise
                await asyncio.sleep(0.02)

    async def roll_back_by_command(self) -> Answer:
        """The same by `canaryproxy rollback`, a process of its own; raises RefusedError if it fails."""
        where = ("--admin", self.admin.url, "--token-file", str(self.admin.token_file), "--json")
        words = (sys.executable, "-m", "canaryproxy", "rollback", ROUTE, *where)
        process = await asyncio.create_subprocess_exec(*words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
        out, complaint = await process.communicate()
        if process.returncode:
            raise RefusedError("canaryproxy rollback", complaint.decode(errors="replace").strip())
        answer: Answer = json.loads(out)
        return answer

    async def status(self) -> Answer:
        """The route as the admin API shows it."""
        return await asyncio.to_thread(self.admin.get, self.admin.route(ROUTE))

    # What goes wrong.

    def break_canary(self) -> None:
        """Its fault begins."""
        self._canary.signal(signal.SIGUSR1)

    async def kill_canary(self) -> None:
        """It is gone: nothing listens there any more."""
        self._canary.kill()
        await self.until(lambda: self._canary.exit_code is not None, "the canary could not be killed")

    def kill_controller(self) -> bool:
        """The controller is gone, until the supervisor notices; False where it cannot be told from a worker."""
        if pid := self._controller():
            os.kill(pid, signal.SIGKILL)
        return pid is not None

    def forbid_writing(self, forbidden: bool) -> bool:
        """The controller can write no byte to any file (or can again), as on a full disk; False if that cannot be done.

        By a limit, not by permissions: those do not hold for root, nor for files that are open already.
        """
        pid = self._controller()
        if pid is None or not hasattr(resource, "prlimit"):
            return False
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if forbidden else hard, hard))
        return True

    def _controller(self) -> int | None:
        """The supervisor's one child that holds the admin socket (proc(5))."""
        port = self.admin.url.rpartition(":")[2]
        try:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
            inode = next(row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == int(port))
            children = Path(f"/proc/{self._proxy.pid}/task/{self._proxy.pid}/children").read_text(encoding="ascii").split()
            return next(int(pid) for pid in children if f"socket:[{inode}]" in _open_files(pid))
        except (OSError, StopIteration):
            return None

    # What is seen.

    @property
    def first_fault(self) -> float | None:
        """When the canary's fault was first served (monotonic)."""
        told: float | None = self._told["v2"].get("first_fault")
        return told

    async def last_canary_request(self, after: float) -> float | None:
        """When the last request at the canary began (monotonic), once there are none any more. None is due since `after`."""
        await self.until(
            lambda: self._heard_at > max(after, self._told["v2"].get("last_began", 0.0)) + _QUIET, "the canary is busy"
        )
        began: float | None = self._told["v2"].get("last_began")
        return began

    async def until(self, condition: Callable[[], Any], otherwise: str, limit: float = _SOON) -> None:
        """Wait for the condition; raises StartError when it does not come true, or when a process has ended."""
        end = _NOW() + limit
        while not condition():
            for running in self._children:
                if running.exit_code is not None:
                    raise await running.failure()
            if _NOW() > end:
                raise StartError("drill", f"{otherwise} within {limit:g} s", "is this machine overloaded?")
            await asyncio.sleep(0.01)


def _open_files(pid: str) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(entry))
        except OSError:
            continue
    return found
