"""The processes of the demo and the drill: started on a leash, listened to, and ended for certain.

Each child is the leader of a session of its own: Ctrl-C in the terminal reaches the demo alone, which ends them in order, and a
whole group can be killed if it does not go by itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from canaryproxy.cli.client import Admin
from canaryproxy.clock import SystemClock
from canaryproxy.errors import StartError

_LEASH = str(Path(__file__).with_name("leash.py"))
_TAIL = 8
_START_LIMIT = 15.0
_PROXY_PATIENCE = 5.0
_SERVING = re.compile(r"serving on http://\S+?:(\d+)\b.*admin on (http://\S+:\d+)")


class Child:
    """One running process. Its stdout goes to `on_line`, line by line; the end of its stderr is kept."""

    def __init__(self, name: str, process: Process, on_line: Callable[[str], None], on_complaint: Callable[[str], None]) -> None:
        self.name = name
        self.complaints: deque[str] = deque(maxlen=_TAIL)
        self._process = process
        self._readers = [
            asyncio.ensure_future(self._read(process.stdout, on_line)),
            asyncio.ensure_future(self._read(process.stderr, on_complaint)),
        ]

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    @property
    def pid(self) -> int:
        """Of the command itself: the leash has become it."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def until_ready(self, ready: Callable[[], bool]) -> None:
        """Wait until it has said what it is to say at its start; raises StartError when that does not come."""
        limit = SystemClock.monotonic() + _START_LIMIT
        while not ready():
            if self.exit_code is not None or SystemClock.monotonic() > limit:
                raise await self.failure()
            await asyncio.sleep(0.02)

    async def stop(self, patience: float) -> None:
        """Ended, and all it said was heard: asked with SIGTERM, after `patience` seconds killed with all it started."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), patience)
        self.kill()
        await self._process.wait()
        await asyncio.gather(*self._readers)

    def kill(self) -> None:
        """Kill it and whatever is left of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def failure(self) -> StartError:
        """What is to be said of a child that ended by itself or never got ready; it has ended then."""
        end = "did not get ready" if self.exit_code is None else f"ended with exit code {self.exit_code}"
        await self.stop(0)
        said = " | ".join(line.strip() for line in self.complaints if line.strip())
        return StartError(self.name, f"{end}: {said}" if said else f"{end} and said nothing")

    async def _read(self, stream: asyncio.StreamReader | None, on_line: Callable[[str], None]) -> None:
        assert stream is not None
        while line := await stream.readline():
            text = line.decode(errors="replace").rstrip("\n")
            if stream is self._process.stderr:
                self.complaints.append(text)
            on_line(text)


def _ignore(_line: str) -> None:
    pass


@asynccontextmanager
async def child(
    name: str,
    *module: str,
    on_line: Callable[[str], None] = _ignore,
    on_complaint: Callable[[str], None] = _ignore,
    patience: float,
) -> AsyncIterator[Child]:
    """`python -m MODULE ARGUMENT...` as a child, ended at the end of the block whatever happens in it."""
    command = (sys.executable, "-S", "-E", _LEASH, str(os.getpid()), sys.executable, "-m", *module)
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True)
    running = Child(name, process, on_line, on_complaint)
    try:
        yield running
    finally:
        await running.stop(patience)


async def start_proxy(stack: AsyncExitStack, folder: Path, config: str) -> tuple[Child, int, Admin]:
    """A proxy with this configuration, its token in `folder/token`: its process, the port where it serves, its admin endpoint."""
    file, serving = folder / "canaryproxy.yaml", list[re.Match[str]]()
    file.write_text(config)

    def hear(line: str) -> None:
        serving.extend(filter(None, [_SERVING.search(line)]))

    command = ("canaryproxy", "run", "--config", str(file))
    proxy = await stack.enter_async_context(child("proxy", *command, on_complaint=hear, patience=_PROXY_PATIENCE))
    await proxy.until_ready(lambda: bool(serving))
    port, url = serving[0].groups()
    return proxy, int(port), Admin(url, folder / "token")


async def until_signal(work: Coroutine[Any, Any, int]) -> int:
    """The exit code of the work; the first signal ends it early (128 + number), more do not disturb the cleaning up."""
    working = asyncio.ensure_future(work)
    received: list[int] = []

    def end(number: int) -> None:
        if not received:
            working.cancel()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        return await working
    except asyncio.CancelledError:
        return 128 + received[0]
