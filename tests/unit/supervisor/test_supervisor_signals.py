"""SIGUSR1: from the supervisor to its workers, who survive it until they have something to do with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from canaryproxy.config.schema import Config
from canaryproxy.supervisor.child import Child, fork
from canaryproxy.supervisor.main import Supervisor


@pytest.fixture
def blocked() -> Iterator[None]:
    """Signals wait for the supervisor, as they do while it runs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("blocked")
def test_it_goes_to_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "state": {"path": str(tmp_path / "state.db")},
        "pools": {"v1": {"servers": ["http://a"]}},
        "routes": {"shop": {"stable": "v1"}},
    }
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(Child, "signal", lambda child, number: told.append((child.name, number)))
    supervisor = Supervisor(Config.model_validate(data), None)
    monkeypatch.setattr(supervisor, "_reap", lambda: None)
    monkeypatch.setattr(supervisor, "_look", lambda: None)
    supervisor._workers = {pid: Child(pid, f"worker {pid}", 0.0) for pid in (1, 2)}
    supervisor._controller = Child(3, "controller", 0.0)
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        assert supervisor._step()
    finally:
        supervisor._stop(grace=0)
    assert told[:2] == [("worker 1", signal.SIGUSR1), ("worker 2", signal.SIGUSR1)]
    assert signal.SIGUSR1 not in {number for _, number in told[2:]}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_child_that_is_just_beginning_is_not_killed_by_it(number: int) -> None:
    reading, writing = os.pipe()

    def body() -> None:
        os.kill(os.getpid(), number)
        os.write(writing, b"alive")

    pid = fork(body, "child")
    os.close(writing)
    assert os.read(reading, 10) == b"alive"
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
