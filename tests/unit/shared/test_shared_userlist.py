"""The list of beta users: read when it has rested, kept when it cannot be used, never waited for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from canaryproxy.shared import userlist
from canaryproxy.shared.userlist import LOOK_SECONDS, UserList


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "beta.txt"
    made.write_bytes(b"anna\nben\n")
    return made


@pytest.fixture(autouse=True)
def _hears(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "canaryproxy.users")


class Watched(UserList):
    """A list and its time."""

    now = 100.0

    def after_looks(self, count: int = 1) -> Watched:
        """The same after so many looks, each with what its thread did."""
        for _ in range(count):
            self.now += LOOK_SECONDS
            self.look(self.now)
            if self._thread is not None:
                self._thread.join()
                self.look(self.now)
        return self


def said(caplog: pytest.LogCaptureFixture, level: str = "ERROR") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == level]


def test_it_is_read_at_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    users = Watched(str(file))
    assert (b"anna" in users, b"clara" in users, len(users)) == (True, False, 2)
    users.after_looks(3)
    assert said(caplog, "INFO") == [], "an unchanged file is not read again"
    file.write_bytes(b"")
    users.after_looks(3)
    assert said(caplog, "INFO") == [f"{file}: read again, 0 users"]


def test_a_changed_file_is_read_when_it_has_rested(file: Path) -> None:
    users = Watched(str(file)).after_looks()
    file.write_bytes(b"anna\ncl")
    assert b"ben" in users.after_looks(), "half a file is half a list"
    file.write_bytes(b"anna\nclara\n")
    assert b"ben" in users.after_looks()
    users.after_looks()
    assert (b"ben" in users, b"clara" in users, b"cl" in users) == (False, True, False)


def test_it_looks_now_and_then(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Watched(str(file))
    users.look(100.0)
    looks: list[str] = []
    monkeypatch.setattr(userlist, "_stamp", looks.append)
    users.look(100.0 + LOOK_SECONDS - 0.1)
    assert not looks
    users.look(100.0 + LOOK_SECONDS)
    assert looks == [str(file)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"dora\nan\0na\n", "line 2: has a control character; write plain text, one user's key a line"),
        (b"x" * 5000, "line 1: is longer than 1024 bytes; write one user's key a line"),
    ],
)
def test_what_cannot_be_used_changes_nothing_and_is_said_once(
    file: Path, content: bytes | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    users = Watched(str(file)).after_looks()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    users.after_looks(5)
    assert (len(users), b"anna" in users, b"dora" in users) == (2, True, False)
    assert said(caplog) == [f"{file}: cannot be used ({reason}); the 2 users read before stay in use"]
    file.write_bytes(b"dora\n")
    assert b"dora" in users.after_looks(2)
    assert len(said(caplog)) == 1


def test_a_directory_in_its_place_is_no_list(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    users = Watched(str(file))
    file.unlink()
    file.mkdir()
    assert len(users.after_looks(3)) == 2
    assert "is not a file" in said(caplog)[0]


def test_one_that_is_bad_from_the_start_has_nobody_until_it_is_mended(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is forked again must serve, whatever has become of the list since the start."""
    file.write_bytes(b"\0")
    users = Watched(str(file)).after_looks(2)
    assert (len(users), len(said(caplog))) == (0, 1)
    file.write_bytes(b"anna\n")
    assert b"anna" in users.after_looks(2)


def test_mended_permissions_are_a_change(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave the time of the content as it is."""
    refused = True

    def read(path: str) -> list[bytes]:
        if refused:
            raise PermissionError(13, "Permission denied")
        return [b"anna"]

    monkeypatch.setattr(userlist, "read_users", lambda path: iter(read(path)))
    users = Watched(str(file)).after_looks(2)
    assert len(users) == 0
    refused = False
    os.chmod(file, 0o640)
    assert b"anna" in users.after_looks(2)


def test_no_thread_to_be_had_is_tried_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Watched(str(file))
    file.write_bytes(b"clara\n")

    def start(self: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", start)
        assert b"clara" not in users.after_looks(3)
    assert b"clara" in users.after_looks(1)


def test_a_long_list_is_waited_for_only_where_nothing_else_waits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userlist, "_SHORT", 8)
    assert len(Watched(str(file), wait=True)) == 2
    beside = Watched(str(file), wait=False)
    assert beside._thread is not None
    beside._thread.join()
    assert len(beside) == 0
    assert len(beside.after_looks()) == 2
    monkeypatch.setattr(userlist, "_SHORT", 9)
    assert len(Watched(str(file), wait=False)) == 2


def test_a_long_list_is_replaced_and_forgotten(file: Path) -> None:
    file.write_bytes(b"".join(b"user-%d\n" % n for n in range(5000)))
    users = Watched(str(file))
    assert (len(users), b"user-4999" in users) == (5000, True)
    file.write_bytes(b"anna\n")
    users.after_looks(3)
    assert (len(users), b"anna" in users, b"user-1" in users) == (1, True, False)
