"""The demo's processes: started on a leash, listened to, and ended for certain. Used by `story` only.

Each child is the leader of a session of its own: Ctrl-C in the terminal reaches the demo alone, which ends them in order, and a
whole group can be killed if it does not go by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from canaryproxy.errors import StartError

_LEASH = str(Path(__file__).with_name("leash.py"))
_TAIL = 8


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
