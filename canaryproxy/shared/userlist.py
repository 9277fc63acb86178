"""The list of beta users of one route in one process: read from its file, and again when that has changed.

Held by each worker, and by the controller for code that asks over OFREP. A list of a million users takes half a second to read
and a tenth to forget, and no request may wait for it: a thread does both, in pieces of less than a millisecond.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from itertools import islice
from threading import Thread
from time import sleep
from typing import Final

from canaryproxy.config.users import read_users

log = logging.getLogger("canaryproxy.users")

#: A changed file is looked for so often, in seconds, and used when it has rested from one look to the next.
LOOK_SECONDS: Final = 2.0
#: Keys that the thread reads before it lets others run, and for how long.
_PIECE, _REST_SECONDS = 250, 0.001
#: Bytes of a file that is read in some 30 ms.
_SHORT: Final = 512 * 1024
#: A set of a million keys would stand still for 40 ms when it grows and 70 ms when it goes (measured): so it is many small ones.
_SHARDS: Final = 256

#: What tells a file from the one before: time of change (ns, of its permissions too), size, inode; None if there is none.
_Stamp = tuple[int, int, int] | None


class _Keys:
    """A set of keys that grows and goes in small steps."""

    __slots__ = ("shards",)

    def __init__(self) -> None:
        self.shards: list[set[bytes]] = [set() for _ in range(_SHARDS)]

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def add(self, key: bytes) -> None:
        self.shards[hash(key) % _SHARDS].add(key)

    def clear_slowly(self) -> None:
        while self.shards:
            self.shards.pop()
            sleep(_REST_SECONDS)


class UserList:
    """The users in a file. Where it cannot be used, those that were read before stay; at first there are none."""

    def __init__(self, path: str, *, wait: bool = True) -> None:
        """Reads the file; one that cannot be used is said in the log, and `config.files` has asked before.

        Not `wait`: for a process whose pulse beats already. A long list is read beside then, and empty until a later look.
        """
        self._path = path
        self._keys = _Keys()
        self._next_look = 0.0
        self._thread: Thread | None = None
        #: What the thread has read, or why it could not, and of which file.
        self._read: tuple[_Keys | str, _Stamp] | None = None
        self._seen = self._used = self._complained = _stamp(path)
        if wait or self._seen is None or self._seen[1] <= _SHORT:
            self._load(self._seen, rest=False)
            self._take()
        else:
            self._start(partial(self._load, self._seen))

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys.shards[hash(key) % _SHARDS]

    def __len__(self) -> int:
        return len(self._keys)

    def look(self, now: float) -> None:
        """Look at the file if it is time (monotonic seconds); take what was read since the last look."""
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
            self._take()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        stamp, before = _stamp(self._path), self._seen
        self._seen = stamp
        if stamp == before and stamp not in (self._used, self._complained):  # half a file is half a list
            self._start(partial(self._load, stamp))

    def _start(self, work: partial[None]) -> None:
        thread = Thread(target=work, name="users", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no memory or no process is left; a later look tries again
            return
        self._thread = thread

    def _load(self, stamp: _Stamp, *, rest: bool = True) -> None:
        """In the thread: read the file."""
        keys = _Keys()
        try:
            found = read_users(self._path)
            while piece := list(islice(found, _PIECE)):
                for key in piece:
                    keys.add(key)
                if rest:
                    sleep(_REST_SECONDS)
        except (OSError, ValueError) as error:
            self._read = str(getattr(error, "strerror", None) or error), stamp
        else:
            self._read = keys, stamp

    def _take(self) -> None:
        """Use what the thread has read."""
        read, self._read = self._read, None
        if read is None:
            return  # it had to forget
        keys, stamp = read
        if isinstance(keys, str):
            log.error("%s: cannot be used (%s); the %d users read before stay in use", self._path, keys, len(self._keys))
            self._complained = stamp
            return
        if stamp != self._used:
            log.info("%s: read again, %d users", self._path, len(keys))
        old, self._keys, self._used, self._complained = self._keys, keys, stamp, stamp
        if len(old) > _PIECE:
            self._start(partial(old.clear_slowly))


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ctime_ns, status.st_size, status.st_ino
