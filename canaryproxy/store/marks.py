"""What outlives a kill of every process while the disk is full: of each route, how its newest decision ended.

A small file beside the state, its blocks reserved when it is made, mapped into memory. A mark is one aligned 8-byte store: it
needs no room, waits for nothing, is whole or not there, and stays in the page cache whoever is killed. So a rollback that has
reached the workers is known at the next start although the store could not take it, and so is that a state file was emptied,
removed, restored or has lost its -wal. A power cut may lose marks; what was committed to the state is not among what it loses.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from canaryproxy.errors import StoreError

_MAGIC = int.from_bytes(b"canarymk")
_WORDS = 8192  # 64 KiB: 4095 routes, two words each, after the magic
_SALT_SHIFT, _END_SHIFT = 32, 30
_REVISIONS = (1 << _END_SHIFT) - 1
_WITHOUT = "until then a rollback that cannot be saved is forgotten if every process is killed"


class End(IntEnum):
    """What has become of a rollout."""

    OPEN = 0
    PROMOTED = 1
    ROLLED_BACK = 2


class Mark(NamedTuple):
    """The newest decision known of a route: its revision (30 bits), its rollout's salt (32 bits)."""

    revision: int
    salt: int
    end: End


class Marks:
    """The marks beside the state file at `state`, made on first use. Raises StoreError when they cannot be used."""

    def __init__(self, state: str | Path) -> None:
        place = f"{state}.marks"
        try:
            file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, _WORDS * 8)  # a store into a hole of a full disk would be a SIGBUS
                self._words = memoryview(mmap.mmap(file, _WORDS * 8)).cast("Q")
            finally:
                os.close(file)
        except OSError as error:
            what = f"cannot be made or mapped ({(error.strerror or str(error)).lower()})"
            raise StoreError(place, what, f"give this user the right and the disk the room; {_WITHOUT}") from None
        if self._words[0] not in (0, _MAGIC):
            raise StoreError(place, "was not written by canaryproxy", f"move it away and restart; {_WITHOUT}")
        self._words[0] = _MAGIC

    def read(self, route: str) -> Mark | None:
        """What is marked of a route; None if nothing ever was."""
        at = self._place(route)
        if at is None or self._words[at] == 0 or (word := self._words[at + 1]) == 0:
            return None
        return Mark(word & _REVISIONS, word >> _SALT_SHIFT, End(min(word >> _END_SHIFT & 3, End.ROLLED_BACK)))

    def write(self, route: str, mark: Mark) -> None:
        """Mark a route. Where there is no room for one more route, it has no mark."""
        at = self._place(route)
        if at is not None:
            self._words[at] = _digest(route)
            self._words[at + 1] = mark.salt << _SALT_SHIFT | mark.end << _END_SHIFT | mark.revision & _REVISIONS

    def take_back(self, route: str, salt: int) -> None:
        """Mark that a rollout was taken off the workers by somebody who has no record of it: newer than whatever is recorded."""
        known = self.read(route)
        self.write(route, Mark(known.revision + 1 if known else 1, salt, End.ROLLED_BACK))

    def _place(self, route: str) -> int | None:
        """The index of this route's words, or of the first that are free."""
        digest = _digest(route)
        return next((at for at in range(2, _WORDS, 2) if self._words[at] in (0, digest)), None)


def _digest(route: str) -> int:
    return int.from_bytes(hashlib.sha256(route.encode()).digest()[:8]) or 1
