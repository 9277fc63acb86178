"""Marks: whole, lasting without a write, and no obstacle where they cannot be."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from canaryproxy.errors import StoreError
from canaryproxy.store.marks import End, Mark, Marks

MARK = Mark(7, 2**32 - 1, End.ROLLED_BACK)


def test_a_mark_is_there_for_who_opens_the_file_next(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "state.db")
    assert marks.read("shop") is None
    marks.write("shop", MARK)
    marks.write("api", Mark(2**30 - 1, 0, End.PROMOTED))
    marks.write("shop", MARK._replace(revision=8))
    marks.settle(5)
    again = Marks(tmp_path / "state.db")
    assert again.read("shop") == MARK._replace(revision=8)
    assert again.read("api") == Mark(2**30 - 1, 0, End.PROMOTED)
    assert again.read("other") is None
    assert (tmp_path / "state.db.marks").stat().st_mode & 0o777 == 0o600


def test_it_needs_no_room_once_it_is_made_and_no_goodbye(tmp_path: Path) -> None:
    """A process that cannot write one byte to any file marks something, and is killed."""
    script = """
import os, resource, signal, sys
from canaryproxy.store.marks import End, Mark, Marks
marks = Marks(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
marks.write("shop", Mark(7, 2**32 - 1, End.ROLLED_BACK))
marks.settle(5)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "state.db")], check=False)
    assert ended.returncode == -9
    assert Marks(tmp_path / "state.db").read("shop") == MARK
    assert os.stat(tmp_path / "state.db.marks").st_blocks * 512 >= 64 * 1024, "its blocks are not reserved"


class StandingDisk:
    """Stores wait until `goes_on` is set, the first of them once `waits` is; `stored` is where they went, in words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, marks: Marks) -> None:
        self.waits, self.goes_on, self.stored = threading.Event(), threading.Event(), list[int]()
        begin, really = ctypes.addressof(marks._page), ctypes.memmove

        def store(at: int, words: bytes, count: int) -> None:
            self.waits.set()
            self.goes_on.wait(30)
            self.stored.append((at - begin) // 8)
            really(at, words, count)

        monkeypatch.setattr("canaryproxy.store.marks.ctypes.memmove", store)


def test_a_disk_that_stands_still_holds_up_nobody_and_gets_the_newest_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = Marks(tmp_path / "state.db")
    disk = StandingDisk(monkeypatch, marks)
    for revision in range(3):
        marks.write("shop", MARK._replace(revision=revision))
        assert disk.waits.wait(5)
        marks.write("api", MARK._replace(revision=revision))
        marks.settle()
        assert (marks.is_settled, marks.read("shop")) == (False, MARK._replace(revision=revision))
    assert Marks(tmp_path / "state.db").read("shop") is None
    disk.goes_on.set()
    marks.settle(5)
    assert marks.is_settled
    again = Marks(tmp_path / "state.db")
    assert (again.read("shop"), again.read("api")) == (MARK._replace(revision=2),) * 2
    assert disk.stored == [2, 2, 4], "the one that was on its way once more, then what came after it, once"


def test_where_no_thread_can_be_it_is_marked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    marks = Marks(tmp_path / "state.db")
    marks.write("shop", MARK)
    assert marks.is_settled
    assert Marks(tmp_path / "state.db").read("shop") == MARK


def test_routes_beyond_its_room_have_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canaryproxy.store.marks._WORDS", 512)
    marks = Marks(tmp_path / "state.db")
    for n in range(300):
        marks.write(f"route {n}", MARK)
    assert [marks.read(f"route {n}") is not None for n in range(300)] == [True] * 255 + [False] * 45


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state.db.marks").write_text("something of mine\n" * 9000)
    with pytest.raises(StoreError, match=r"state.db.marks: was not written by canaryproxy; move it away"):
        Marks(tmp_path / "state.db")
    assert (tmp_path / "state.db.marks").read_text().startswith("something of mine")


def test_without_room_it_says_so(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot be made or mapped \(file too large\); give .* the room") as error:
            Marks(tmp_path / "state.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not re.search("\n", str(error.value))
