"""What outlives a kill of every process while the disk is full: of each route, how its newest decision ended.

A small file beside the state, its blocks reserved when it is made, mapped into memory. A mark is sixteen aligned bytes: it needs
no room, is whole or not there, and stays in the page cache whoever is killed. So a rollback that has reached the workers is known
at the next start although the store could not take it, and so is that a state file was emptied, removed, restored or has lost its
-wal. A power cut may lose marks; what was committed to the state is not among what it loses.

Writing into a mapped page waits while the file system itself stands still (a snapshot that freezes it, a disk or an NFS server
that hangs). So one thread does that, without the interpreter's lock, and whoever marks waits for it at most `_BRIEFLY`.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import threading
from array import array
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from canaryproxy.errors import StoreError

_MAGIC = int.from_bytes(b"canarymk")
_WORDS = 8192  # 64 KiB: 4095 routes, two words each, after the magic
_SALT_SHIFT, _END_SHIFT = 32, 30
_REVISIONS = (1 << _END_SHIFT) - 1
_WITHOUT = "until then a rollback that cannot be saved is forgotten if every process is killed"
#: Seconds: far more than the thread needs to be woken, and nothing to who waits for a rollback.
_BRIEFLY = 0.002


class End(IntEnum):
    """What has become of a rollout. `TAKEN`: off the workers, by somebody who did not know whether there was one."""

    OPEN = 0
    PROMOTED = 1
    ROLLED_BACK = 2
    TAKEN = 3


class Mark(NamedTuple):
    """The newest decision known of a route: its revision (30 bits), its rollout's salt (32 bits)."""

    revision: int
    salt: int
    end: End


class Marks:
    """The marks beside the state file at `state`, made on first use. Raises StoreError when they cannot be used.

    Whoever writes has them for himself meanwhile: they are read once, here.
    """

    def __init__(self, state: str | Path) -> None:
        place = f"{state}.marks"
        try:
            file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, _WORDS * 8)  # a store into a hole of a full disk would be a SIGBUS
                self._words = array("Q", os.pread(file, _WORDS * 8, 0))
                self._page = (ctypes.c_uint64 * _WORDS).from_buffer(mmap.mmap(file, _WORDS * 8))
            finally:
                os.close(file)
        except OSError as error:
            what = f"cannot be made or mapped ({(error.strerror or str(error)).lower()})"
            raise StoreError(place, what, f"give this user the right and the disk the room; {_WITHOUT}") from None
        if self._words[0] not in (0, _MAGIC):
            raise StoreError(place, "was not written by canaryproxy", f"move it away and restart; {_WITHOUT}")
        if self._words[0] == 0:
            self._words[0] = _MAGIC
            self._store(0)
        #: Indices of what is not in the page yet, oldest first.
        self._due: dict[int, None] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stands_still = False

    def read(self, route: str) -> Mark | None:
        """What is marked of a route; None if nothing ever was."""
        at = self._place(route)
        if at is None or self._words[at] == 0 or (word := self._words[at + 1]) == 0:
            return None
        return Mark(word & _REVISIONS, word >> _SALT_SHIFT, End(word >> _END_SHIFT & 3))

    def write(self, route: str, mark: Mark) -> None:
        """Have a route marked; returns at once. Where there is no room for one more route, it has no mark."""
        if (at := self._note(route, mark)) is None:
            return
        with self._changed:
            self._due[at] = None
            self._changed.notify_all()
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="marks", daemon=True)  # one that hangs holds up no end
            try:
                thread.start()
            except RuntimeError:  # this machine has no room for a thread
                self._store(at)
                del self._due[at]
            else:
                self._thread = thread

    @property
    def is_settled(self) -> bool:
        """Whether all that was marked survives a kill."""
        return not self._due

    def settle(self, limit: float | None = None) -> None:
        """Return when that is so, or after so many seconds; None: `_BRIEFLY`, and at once where the disk stands still already."""
        if limit is None:
            limit = 0.0 if self._stands_still else _BRIEFLY
        with self._changed:
            self._stands_still = not self._changed.wait_for(lambda: self.is_settled, limit)

    def take_back(self, route: str, salt: int) -> None:
        """Mark that a rollout was taken off the workers by somebody who has no record of it: newer than whatever is recorded.

        Returns when that is so, however long the disk stands still.
        """
        known = self.read(route)
        if (at := self._note(route, Mark(known.revision + 1 if known else 1, salt, End.TAKEN))) is not None:
            self._store(at)

    def _work(self) -> None:
        """Write what is due, in its order; what was marked anew meanwhile once more."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due)
                at = next(iter(self._due))
            written = self._store(at)
            with self._changed:
                if self._pair(at) == written:
                    del self._due[at]
                self._stands_still = False
                self._changed.notify_all()

    def _note(self, route: str, mark: Mark) -> int | None:
        """Its index, once it is known here; None where there is no room for it."""
        at = self._place(route)
        if at is not None:
            word = mark.salt << _SALT_SHIFT | mark.end << _END_SHIFT | mark.revision & _REVISIONS
            self._words[at : at + 2] = array("Q", (_digest(route), word))
        return at

    def _store(self, at: int) -> bytes:
        """Put what is known into the page: by a foreign call, for those give up the interpreter's lock."""
        pair = self._pair(at)
        ctypes.memmove(ctypes.addressof(self._page) + at * 8, pair, len(pair))
        return pair

    def _pair(self, at: int) -> bytes:
        return self._words[at : at + 2].tobytes()

    def _place(self, route: str) -> int | None:
        """The index of this route's words, or of the first that are free."""
        digest = _digest(route)
        return next((at for at in range(2, _WORDS, 2) if self._words[at] in (0, digest)), None)


def _digest(route: str) -> int:
    return int.from_bytes(hashlib.sha256(route.encode()).digest()[:8]) or 1
