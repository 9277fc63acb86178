"""Rollbacks that are asked for past an admin API that does not answer: files beside the state, one for each.

The command line (`cli.lastresort`) writes one and signals the supervisor (`supervisor.takeback`); the next controller performs it
before anything else (`control.recovery`), puts it on record and removes the file. So it is lost by no kill at any moment, nor by
one of everything. How many the supervisor has obeyed is told without a disk: by which byte of the lock file it has locked.
Standard library only: `canaryproxy rollback` needs nothing here that may be broken.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from canaryproxy.errors import one_line

#: Bytes of a request at most, and characters of its texts.
_LONGEST, _LONGEST_TEXT = 8192, 500

#: In the lock file: byte 0 is locked by the supervisor, and the byte at this place plus the number of rollbacks it has obeyed.
_TALLY_AT = 1 << 20
_FLOCK = "hhqqi"  # struct flock of fcntl(2) on Linux: type, whence, start, length, pid

_log = logging.getLogger("canaryproxy.control")


@dataclass(frozen=True, slots=True)
class Takeback:
    """A rollback of `route`, or (None) of every rollout in progress, asked for at wall time `at`.

    `heard`: the supervisor that lives was signalled. If not, the file is of an earlier life, and may be about a rollout that has
    long ended: then times decide (`recovery`).
    """

    route: str | None
    reason: str
    by: str
    at: float
    heard: bool = True
    file: Path | None = None

    def refuse(self) -> None:
        """There is no such route: say so to who waits for it."""
        if self.file is not None:
            with suppress(OSError):
                self.file.rename(refusal_of(self.file))

    def forget(self) -> None:
        """It is on record: remove its file. One that cannot be removed is told from a new one by its time."""
        if self.file is not None:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)


def write_takeback(state: Path, takeback: Takeback, owner: tuple[int, int] | None = None) -> Path:
    """The file of this request, on the disk when this returns, for the user and group `owner` (None: for who writes).

    Raises OSError, and there is no file then.
    """
    unique = secrets.token_hex(8)
    final, draft = _place(state, f"rollback-{unique}"), _place(state, f"rollback.{unique}.part")
    asked = {"route": takeback.route, "reason": takeback.reason[:_LONGEST_TEXT], "by": takeback.by, "at": takeback.at}
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
            json.dump(asked, file)
            file.flush()
            os.fsync(descriptor)
        os.rename(draft, final)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    with suppress(OSError):
        _sync(final.parent)
    return final


def refusal_of(file: Path) -> Path:
    """What a request's file becomes if there is no such route."""
    return file.with_name(file.name.replace(".rollback-", ".refused-"))


def read_takebacks(state: Path, *, heard: bool) -> list[Takeback]:
    """Every request that waits beside this state, oldest first.

    What is not ours is left alone, and the log says so; what is ours and cannot be understood is a rollback of everything.
    """
    return sorted(_read_all(state, heard), key=lambda takeback: takeback.at)


def _read_all(state: Path, heard: bool) -> Iterator[Takeback]:
    for file in sorted(state.absolute().parent.glob(f"{_escaped(state.name)}.rollback-*")):
        try:
            found = _read(file)
        except FileNotFoundError:
            continue  # performed meanwhile
        except PermissionError as error:
            _log.error("%s: is not taken for a rollback (%s); remove it", file, error.strerror or error)
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log.error("%s: a rollback that cannot be read (%s): taken for one of everything", file, error)
            yield Takeback(None, "asked for in a file that cannot be read", "command line", _age(file), heard, file)
            continue
        route = found["route"]
        reason, by = one_line(str(found["reason"])), one_line(str(found["by"]))
        yield Takeback(None if route is None else one_line(str(route)), reason, by, found["at"], heard, file)


def _read(file: Path) -> dict[str, Any]:
    _refuse_others(os.lstat(file))  # a link, a directory or a socket of another user's cannot even be opened
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:
        _refuse_others(os.fstat(descriptor))
        found = json.loads(opened.read(_LONGEST))
    return {"route": found["route"], "reason": found["reason"], "by": found["by"], "at": float(found["at"])}


def _refuse_others(status: os.stat_result) -> None:
    """Raises PermissionError for what is no file, or could have been written by another user."""
    if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o022 or not stat.S_ISREG(status.st_mode):
        raise PermissionError(f"others could have written it, uid {status.st_uid}")


def _age(file: Path) -> float:
    with suppress(OSError):
        return file.lstat().st_mtime
    return 0.0


def _place(state: Path, ending: str) -> Path:
    return state.absolute().with_name(f"{state.name}.{ending}")


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- The lock file ---


class Holder(NamedTuple):
    """A supervisor: its pid (0: of another container), its admin endpoint, and the number of rollbacks it has obeyed."""

    pid: int
    admin: str
    obeyed: int


def lock_state(descriptor: int) -> None:
    """Take the lock of a state, until this process ends. Raises OSError if another process has it."""
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)


def tell_obeyed(descriptor: int, obeyed: int) -> None:
    """Tell how many rollbacks were obeyed."""
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _TALLY_AT + obeyed)
    fcntl.lockf(descriptor, fcntl.LOCK_UN, obeyed, _TALLY_AT)


def find_holder(state: Path) -> Holder | None:
    """The supervisor that has this state; None if there is none. Raises OSError where the lock file cannot be read."""
    try:
        descriptor = os.open(_place(state, "lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, encoding="utf-8", errors="replace") as lock:
        held, _, pid = _locked(descriptor, 0, 1)
        if not held:
            return None
        told, at, _ = _locked(descriptor, _TALLY_AT, 0)
        return Holder(pid, lock.readline().strip(), at - _TALLY_AT if told else 0)


def _locked(descriptor: int, start: int, length: int) -> tuple[bool, int, int]:
    """Whether another process has a lock there, where it begins, and whose it is (F_GETLK, fcntl(2))."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, at, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return kind != fcntl.F_UNLCK, at, pid
