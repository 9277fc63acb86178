"""How the demo's own processes (apps, load) tell their parent what they count: one JSON object a line on stdout, four a second.

Times in the lines are monotonic seconds, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

_EVERY = 0.25


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a child's main coroutine to its end; a parent that is gone ends it quietly."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(main)
        except (KeyboardInterrupt, BrokenPipeError):
            # the interpreter flushes stdout once more at its end, and must not complain of the same pipe again
            sys.stdout = None


def tell(line: dict[str, Any]) -> None:
    """Send one line to the parent at once."""
    print(json.dumps(line), flush=True)


async def tell_until_stopped(counts: Callable[[], dict[str, Any]]) -> None:
    """Tell the counts four times a second until SIGTERM; the last counts are the caller's to tell."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    while not stopped.is_set():
        tell(counts())
        try:
            await asyncio.wait_for(stopped.wait(), _EVERY)
        except TimeoutError:
            continue
