"""Disks that are full or read-only, and state files that were damaged, removed or replaced: while stopped, and while it runs.

`python -m tests.chaos --disks` does all of it, the system tests a part. What needs a mount is left out where that is forbidden.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

#: Changes the files of a state that nobody has open.
Damage = Callable[[Path], object]


def beside(state: Path, end: str) -> Path:
    """A file that goes with the state file."""
    return Path(f"{state}{end}")


# The state file while the product is stopped.


def _rubbish(state: Path) -> None:
    state.write_bytes(random.Random(1).randbytes(state.stat().st_size))


def _foreign(state: Path) -> None:
    _gone(state)
    with closing(sqlite3.connect(state)) as other:
        other.execute("CREATE TABLE music (title)")


def _gone(state: Path) -> None:
    for end in ("", "-wal", "-shm"):
        beside(state, end).unlink(missing_ok=True)


def _a_directory(state: Path) -> None:
    _gone(state)
    state.mkdir()


def _one_page(state: Path) -> None:
    with state.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(random.Random(2).randbytes(4096))
    beside(state, "-wal").unlink(missing_ok=True)


def _half(state: Path) -> None:
    os.truncate(state, state.stat().st_size // 2 // 512 * 512)
    beside(state, "-wal").unlink()


def _alone(state: Path) -> None:
    for end in ("-wal", "-shm"):
        beside(state, end).unlink(missing_ok=True)


def truncated(length: int) -> Damage:
    """Cut off at so many bytes."""
    return lambda state: os.truncate(state, length)


#: What makes a start impossible: it ends with a word, and not with 0.
HOPELESS: dict[str, Damage] = {
    "rubbish": _rubbish,
    "text": lambda state: state.write_text("listen: 127.0.0.1\n" * 500),
    "another program's": _foreign,
    "a directory": _a_directory,
    "one page": _one_page,
    "half": _half,
}
#: After which it serves: what the state does not know any more is said, and the canary that was rolled back gets nobody.
FORGETFUL: dict[str, Damage] = {
    "emptied": truncated(0),
    "gone, its log is not": lambda state: state.unlink(),
    "all of it gone": _gone,
    "without its log": lambda state: beside(state, "-wal").unlink(),
    "without its log and index": _alone,
    "its log is cut off": lambda state: os.truncate(beside(state, "-wal"), beside(state, "-wal").stat().st_size // 2),
    "its log is rubbish": lambda state: beside(state, "-wal").write_bytes(b"\xa5" * 9000),
    "without index": lambda state: beside(state, "-shm").unlink(missing_ok=True),
}


# Disks.


def can_mount() -> bool:
    """Whether this user may mount a file system."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    place = Path(f"/tmp/canaryproxy-mount-{os.getpid()}")
    place.mkdir()
    try:
        with small_disk(place):
            return True
    except OSError:
        return False
    finally:
        place.rmdir()


@contextmanager
def small_disk(place: Path, size: str = "1m") -> Iterator[None]:
    """A disk of its own at this place; raises OSError where that is forbidden."""
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield
    finally:
        subprocess.run(("umount", "-l", str(place)), check=False, capture_output=True)


def remount(place: Path, how: str) -> None:
    """`ro` or `rw`; raises OSError while somebody has a file open for writing."""
    _mount("-o", f"remount,{how}", str(place))


def _mount(*words: str) -> None:
    done = subprocess.run(("mount", *words), check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


@contextmanager
def filled(place: Path) -> Iterator[None]:
    """Not one byte of room meanwhile."""
    ballast = place / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    try:
        yield
    finally:
        ballast.unlink()
