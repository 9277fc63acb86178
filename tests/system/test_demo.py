"""The demo as a user starts it: each story ends as it should, nothing stays behind, and what cannot start is said in a line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import left_behind

pytestmark = pytest.mark.system

DEMO = (sys.executable, "-m", "canaryproxy", "demo", "--plain")


class Run:
    """One demo with a temporary directory of its own, by which its processes are known."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        environment = os.environ | {"TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            (*DEMO, *options), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def finish(self, limit: float) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, complaints = self.process.communicate(timeout=limit)
        return self.process.returncode, out, complaints

    def wait_for_line(self, words: str) -> None:
        """Read lines until one has these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                return
        pytest.fail(f"no line with {words!r}")

    def left_behind(self) -> list[str]:
        """Command lines of all processes with this run's temporary directory in their environment."""
        return left_behind(self.folder)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A demo of errors that is ended for certain."""
    running = Run(tmp_path, "--scenario", "errors")
    yield running
    running.process.kill()
    running.process.communicate()


def figure(out: str, what: str) -> str:
    """The figure of this name in the summary."""
    found = re.search(rf"^{re.escape(what)}\s+(\S.*)$", out, re.MULTILINE)
    assert found, out
    return found[1]


@pytest.mark.timeout(180)  # the demo itself gives up after about 130 s
@pytest.mark.parametrize(
    ("scenario", "ending", "within"),
    [("errors", "rolled back", 30), ("slow", "rolled back", 60), ("hang", "rolled back", 60), ("healthy", "promoted", 90)],
)
def test_a_story_ends_as_it_should(tmp_path: Path, scenario: str, ending: str, within: float) -> None:
    run = Run(tmp_path, "--scenario", scenario)
    code, out, complaints = run.finish(limit=160)
    assert code == 0, out + complaints
    assert complaints == ""
    ended = re.fullmatch(rf"{ending} after ([\d.]+) s", figure(out, "ending"))
    assert ended, out
    assert float(ended[1]) < within
    assert figure(out, "failures without a fault") == "0"
    assert figure(out, "requests hurt by v2").startswith("0 of ") == (scenario == "healthy")
    assert run.left_behind() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(run: Run, number: signal.Signals) -> None:
    run.wait_for_line("all on v1")
    run.process.send_signal(number)
    code, _, complaints = run.finish(limit=20)
    assert (code, complaints) == (128 + number, "")
    assert run.left_behind() == []
    assert list(run.folder.iterdir()) == []


def test_nothing_outlives_a_demo_that_is_killed(run: Run) -> None:
    run.wait_for_line("all on v1")
    run.process.kill()
    until = time.monotonic() + 20
    while (left := run.left_behind()) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []


def test_a_reader_that_leaves_ends_everything(run: Run) -> None:
    run.wait_for_line("all on v1")
    assert run.process.stdout is not None
    run.process.stdout.close()
    assert run.process.wait(timeout=30) == 1
    assert run.process.stderr is not None
    assert run.process.stderr.read() == ""
    assert run.left_behind() == []


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = Run(tmp_path, "--port", str(port))
        code, _, complaints = run.finish(limit=30)
    assert code == 1
    assert complaints.startswith("canaryproxy: proxy: ended with exit code 1: ")
    assert f"127.0.0.1:{port}" in complaints
    assert complaints.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
