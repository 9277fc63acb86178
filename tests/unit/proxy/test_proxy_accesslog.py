"""The access log's writer: never blocks who adds, never tears a line, loses only what it counts."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from canaryproxy.errors import StartError
from canaryproxy.http1.logline import Entry
from canaryproxy.proxy import accesslog
from canaryproxy.proxy.accesslog import AccessLog, check_path

Make = Callable[[str | Path], AccessLog]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make a log that is closed after the test, whose thread looks often."""
    monkeypatch.setattr(accesslog, "_POLL_MS", 5)
    logs: list[AccessLog] = []

    def make(path: str | Path) -> AccessLog:
        logs.append(AccessLog("json", str(path)))
        return logs[-1]

    yield make
    for log in logs:
        log.close(0)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python program, which is killed after the test if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(params=["opened anew", "shared", "shared, non-blocking"])
def pipe(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A small pipe in the place of stdout: (read end, write end)."""
    read, write = os.pipe()
    os.set_blocking(write, request.param != "shared, non-blocking")
    monkeypatch.setattr(accesslog, "_PIPE_SIZE", 8192)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 8192)
    put_stdout(monkeypatch, write)
    if request.param != "opened anew":
        monkeypatch.setattr(accesslog, "_STDOUT_PATH", "/none")
    yield read, write
    os.close(read)
    os.close(write)


def put_stdout(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    monkeypatch.setattr(accesslog, "_STDOUT", fd)
    monkeypatch.setattr(accesslog, "_STDOUT_PATH", f"/proc/self/fd/{fd}")


def wait_until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "does not come true"
        time.sleep(0.001)


def add(log: AccessLog, numbers: range, size: int = 0) -> None:
    for number in numbers:
        log.add(Entry(request_id=b"%d" % number, user_agent=b"u" * size))


def settle(log: AccessLog) -> None:
    """Return when the thread has done with all that was added."""
    log.flush()
    wait_until(lambda: log._taken == log._handed)


def numbers_in(data: bytes) -> list[int]:
    assert data.endswith(b"\n") or not data
    return [int(json.loads(line)["request_id"]) for line in data.splitlines()]


def drain(fd: int) -> bytes:
    """Everything that is in a pipe now."""
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 65536):
            data += piece
    except BlockingIOError:
        pass
    return data


def test_lines_come_in_order_with_the_flush(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = make(path)
    add(log, range(3))
    assert not path.exists()
    assert "access-log" not in [thread.name for thread in threading.enumerate()]  # it would not live through a fork
    settle(log)
    assert numbers_in(path.read_bytes()) == [0, 1, 2]
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0
    log.flush()
    add(log, range(3, 5))
    log.close()
    assert numbers_in(path.read_bytes()) == [0, 1, 2, 3, 4]
    assert log.lost == 0


def test_much_is_handed_over_before_the_flush(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.touch()
    add(make(path), range(150), 4000)
    wait_until(lambda: path.read_bytes().count(b"\n") == 128)


def test_combined(tmp_path: Path) -> None:
    log = AccessLog("combined", str(tmp_path / "access.log"))
    log.add(Entry(client_ip=b"192.0.2.1"))
    log.close()
    assert (tmp_path / "access.log").read_bytes().startswith(b"192.0.2.1 - - [01/Jan/1970")


def test_an_old_file_is_continued(make: Make, tmp_path: Path) -> None:
    (tmp_path / "access.log").write_text("before\n")
    log = make(tmp_path / "access.log")
    add(log, range(1))
    log.close()
    assert (tmp_path / "access.log").read_text().startswith("before\n{")


def test_rename_and_reopen(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = make(path)
    log.reopen()  # before anything is open
    add(log, range(5))
    settle(log)
    path.rename(tmp_path / "access.log.1")
    add(log, range(5, 7))
    log.reopen()
    add(log, range(7, 9))
    log.close()
    assert numbers_in((tmp_path / "access.log.1").read_bytes()) == list(range(7))
    assert numbers_in(path.read_bytes()) == [7, 8]


def test_a_file_that_cannot_be_reopened_is_kept(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "logs" / "access.log"
    path.parent.mkdir()
    log = make(path)
    add(log, range(1))
    settle(log)
    path.parent.rename(tmp_path / "former")
    log.reopen()
    add(log, range(1, 3))
    log.close()
    assert numbers_in((tmp_path / "former" / "access.log").read_bytes()) == [0, 1, 2]
    assert caplog.messages == [
        f"access log {path}: cannot be reopened (No such file or directory); the former file is still written"
    ]
    assert log.lost == 0


WORKER = """
import signal, sys, time
from canaryproxy.http1.logline import Entry
from canaryproxy.proxy.accesslog import AccessLog
log, told, number = AccessLog("json", sys.argv[1]), [], 0
signal.signal(signal.SIGUSR1, lambda *_: told.append("reopen"))
signal.signal(signal.SIGTERM, lambda *_: told.append("end"))
while "end" not in told:
    for _ in range(20):
        log.add(Entry(request_id=b"%d" % number, route=sys.argv[2].encode(), user_agent=b"u" * (number % 3000)))
        number += 1
    if "reopen" in told:
        told.remove("reopen")
        log.reopen()
    log.flush()
    time.sleep(0.002)
log.close()
print(number, log.lost)
"""


def test_two_workers_write_one_file_that_is_renamed(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    files = [tmp_path / "access.log.1", tmp_path / "access.log.2", path]
    workers = [start("-c", WORKER, str(path), name) for name in "ab"]

    def has_both() -> bool:
        data = path.read_bytes() if path.exists() else b""
        return b'"route":"a"' in data and b'"route":"b"' in data

    for renamed in files[:2]:
        wait_until(has_both)
        path.rename(renamed)
        for worker in workers:
            worker.send_signal(signal.SIGUSR1)
    wait_until(has_both)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    said = [worker.communicate(timeout=20)[0] for worker in workers]
    lines = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    for name, words in zip("ab", said, strict=True):
        added, lost = map(int, words.split())
        assert [int(line["request_id"]) for line in lines if line["route"] == name] == list(range(added))
        assert lost == 0


def test_a_pipe_that_nobody_reads(
    make: Make, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accesslog, "_WAITING", 100_000)
    flags = fcntl.fcntl(pipe[1], fcntl.F_GETFL)
    log = make("-")
    for start in range(0, 1000, 10):
        add(log, range(start, start + 10), 500)  # a megabyte
        log.flush()
    assert 0 < log.lost < 1000
    wait_until(lambda: caplog.messages)
    assert re.fullmatch(r"access log -: \d+ lines lost \(nobody reads it\)", caplog.messages[0])
    log.close(0.01)
    got = numbers_in(drain(pipe[0]))
    assert got == list(range(len(got)))
    assert 0 < len(got) == 1000 - log.lost
    assert sum(int(re.findall(r"\d+", message)[0]) for message in caplog.messages) == log.lost
    assert fcntl.fcntl(pipe[1], fcntl.F_GETFL) == flags
    add(log, range(5))
    log.flush()
    assert len(got) == 1005 - log.lost


def test_a_pipe_that_is_read_late(make: Make, pipe: tuple[int, int]) -> None:
    log = make("-")
    add(log, range(50), 500)
    log.flush()
    log.reopen()  # means nothing to stdout
    data = b""

    def has_all() -> bool:
        nonlocal data
        data += drain(pipe[0])
        return data.count(b"\n") == 50

    wait_until(has_all)
    assert numbers_in(data) == list(range(50))
    log.close()
    os.fstat(pipe[1])  # still open
    assert log.lost == 0


def test_lines_of_two_workers_do_not_mix_in_a_pipe(make: Make, pipe: tuple[int, int]) -> None:
    logs = [make("-"), make("-")]
    for index, log in enumerate(logs):
        add(log, range(index * 1000, index * 1000 + 500), 900)
        log.flush()
    data = b""

    def has_all() -> bool:
        nonlocal data
        data += drain(pipe[0])
        return data.count(b"\n") == 1000

    wait_until(has_all)
    got = numbers_in(data)
    assert [number for number in got if number < 1000] == list(range(500))
    assert [number for number in got if number >= 1000] == list(range(1000, 1500))


def test_stdout_that_is_a_file_is_shared_with_stderr(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "all.log"
    with path.open("wb", buffering=0) as both:  # as a shell's `> all.log 2>&1` opens it
        put_stdout(monkeypatch, both.fileno())
        log = make("-")
        both.write(b"first\n")
        add(log, range(2))
        log.close()
        both.write(b"last\n")
    first, *lines, last = path.read_bytes().splitlines(True)
    assert (first, numbers_in(b"".join(lines)), last) == (b"first\n", [0, 1], b"last\n")


def test_a_full_disk_is_reported_once_a_minute(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(accesslog, "monotonic", lambda: now[0])
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    log = make(path)
    for _ in range(3):
        add(log, range(4))
        settle(log)
    now[0] += 60
    add(log, range(1))
    settle(log)
    wait_until(lambda: len(caplog.messages) == 2)
    path.unlink()
    log.reopen()
    add(log, range(5))
    settle(log)
    assert numbers_in(path.read_bytes()) == list(range(5))
    assert log.lost == 13
    assert caplog.messages == [f"access log {path}: {count} lines lost (No space left on device)" for count in (4, 9)]


def test_a_line_that_a_full_disk_broke_off_stands_alone(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access.log"
    log = make(path)
    add(log, range(2))
    settle(log)
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * 2 + size // 4, hard))  # EFBIG, after half a line, as ENOSPC would come
    try:
        add(log, range(2, 7))
        settle(log)
        add(log, range(7, 8))
        settle(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.lost == 4
    add(log, range(8, 10))
    log.close()
    lines = path.read_bytes().splitlines(True)
    stump = lines.pop(4)
    assert stump.startswith(b'{"time"')
    assert b"}" not in stump
    assert numbers_in(b"".join(lines)) == [0, 1, 2, 3, 8, 9]
    assert caplog.messages[0] == f"access log {path}: 3 lines lost (File too large)"


def test_a_fifo_whose_readers_come_and_go(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(accesslog, "monotonic", lambda: now[0])
    path = tmp_path / "fifo"
    os.mkfifo(path)
    log = make(path)
    for start in (0, 20):
        add(log, range(start, start + 5))
        settle(log)  # nobody is there
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        now[0] += 1
        add(log, range(start + 5, start + 10))
        settle(log)
        assert numbers_in(drain(reader)) == list(range(start + 5, start + 10))
        os.close(reader)
    assert log.lost == 10


def test_a_path_that_can_be_written_later(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(accesslog, "monotonic", lambda: now[0])
    log = make(tmp_path / "logs" / "access.log")
    add(log, range(2))
    settle(log)
    (tmp_path / "logs").mkdir()
    now[0] += 0.9
    add(log, range(2, 4))
    settle(log)  # not tried again yet
    now[0] += 0.1
    add(log, range(4, 6))
    log.close()
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "2 lines lost (No such file or directory)",
        "2 lines lost (No such file or directory)",
    ]
    assert numbers_in((tmp_path / "logs" / "access.log").read_bytes()) == [4, 5]
    assert log.lost == 4


def test_no_thread_can_be_made(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    log = make(tmp_path / "access.log")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        add(log, range(3))
        log.flush()
    add(log, range(3, 5))
    log.close()
    assert numbers_in((tmp_path / "access.log").read_bytes()) == [3, 4]
    assert log.lost == 3


PROCESS = """
import os, sys
from canaryproxy.http1.logline import Entry
from canaryproxy.proxy.accesslog import AccessLog
log = AccessLog("json", sys.argv[1])
if os.fork() == 0:
    log.add(Entry(request_id=b"1"))
    log.close()
    os._exit(0)
os.wait()
stuck = AccessLog("json", "-")
for _ in range(10_000):
    stuck.add(Entry())
stuck.flush()
"""


def test_it_is_made_before_a_fork_and_keeps_no_process_alive(start: Start, tmp_path: Path) -> None:
    process = start("-c", PROCESS, str(tmp_path / "access.log"))
    assert process.wait(20) == 0  # though nobody reads its stdout
    assert numbers_in((tmp_path / "access.log").read_bytes()) == [1]


def test_close_does_not_wait_for_a_write_that_hangs(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = threading.Event()
    write = os.write

    def hang(fd: int, data: bytes) -> int:
        hanging.wait()
        return write(fd, data)

    monkeypatch.setattr("canaryproxy.proxy.accesslog.os.write", hang)
    log = make(tmp_path / "access.log")
    add(log, range(3))
    log.close(0.01)
    assert re.fullmatch(r"access log .*: \d+ bytes lost \(not written in time\)", caplog.messages[0])
    hanging.set()
    log.close()


def test_check_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_path(str(tmp_path / "access.log"))
    assert (tmp_path / "access.log").read_bytes() == b""
    os.mkfifo(tmp_path / "fifo")
    check_path(str(tmp_path / "fifo"))
    check_path("-")
    with pytest.raises(StartError, match=r"^access_log\.path: '.*/none/x' cannot be written \(No such file or directory\)$"):
        check_path(str(tmp_path / "none" / "x"))
    with pytest.raises(StartError, match="Is a directory"):
        check_path(str(tmp_path))
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(StartError, match=r"^access_log\.path: '-' is the standard output, and there is none$"):
        check_path("-")


def test_the_error_log_is_named() -> None:
    assert accesslog.log is logging.getLogger("canaryproxy.access")
