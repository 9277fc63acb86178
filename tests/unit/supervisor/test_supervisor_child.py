"""A forked process, as others on the machine see it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from canaryproxy.supervisor.child import fork, short_name


@pytest.mark.parametrize(
    ("name", "short"), [("worker 0", "canary: w0"), ("worker 63", "canary: w63"), ("controller", "canary: control")]
)
def test_names_fit(name: str, short: str) -> None:
    assert short_name(name) == short
    assert len(short.encode()) <= 15


def test_a_process_is_called_by_its_name() -> None:
    ready, tell = os.pipe()

    def body() -> None:
        os.write(tell, b".")
        signal.pause()

    pid = fork(body, "worker 3")
    try:
        os.read(ready, 1)
        assert Path(f"/proc/{pid}/comm").read_text() == "canary: w3\n"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)
