"""What the disk knew when: a thread that reads the state file, read-only, whenever another connection has committed.

Between two looks anything may have been on disk, so a record counts as possible from the last sight of the one before it to the
first sight of the one after it. It is the real file: a reader beside the writer, as a backup or `decisions --state` would be.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from canaryproxy.routing.split import seat

_PAUSE = 0.002


class Record(NamedTuple):
    """A route's record as it stood on disk."""

    phase: str
    stable: str
    canary: str | None
    weight_bp: int
    salt: int
    revision: int
    step: int
    held: float
    step_entered_at: float | None
    settled: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Record:
        """From its JSON."""
        found: dict[str, Any] = json.loads(text.partition("\n")[0])
        return cls(**{name: found[name] for name in cls._fields} | {"settled": tuple(found["settled"])})

    def allows(self, version: str, user: str) -> bool:
        """Whether this user may be answered by this version: by the canary only with a seat for it, and no chance is in that."""
        return version == self.stable or (version == self.canary and self.has_seat(user))

    def has_seat(self, user: str) -> bool:
        """Whether this user is one of the canary's."""
        return seat(self.salt, user.encode()).bucket < self.weight_bp

    @property
    def in_progress(self) -> bool:
        return self.phase in ("progressing", "paused", "baking")


@dataclass(slots=True)
class Look:
    """A record, when it was seen first and last (monotonic seconds), None where there was none."""

    record: Record | None
    first: float
    last: float


def read_record(state: Path, route: str = "shop") -> Record | None:
    """The record on disk at this moment."""
    with closing(_open(state)) as db:
        return _read(db, route)


def _open(state: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{state.absolute().as_uri()}?mode=ro", uri=True, timeout=2, isolation_level=None)


def _read(db: sqlite3.Connection, route: str) -> Record | None:
    try:
        row = db.execute("SELECT record FROM rollout WHERE route = ?", (route,)).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    return Record.read(row[0]) if row else None


class Watcher:
    """The looks at a state file while the `with` lasts."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._asleep, self._ended = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self.looks: list[Look] = []
        self._thread = threading.Thread(target=self._watch, name="watcher")

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def sleep(self) -> None:
        """Let go of the file, so that the next who opens it is the first to do so after a kill."""
        self._asleep.set()

    def wake(self) -> None:
        """Look again."""
        self._asleep.clear()

    def possible(self, began: float, ended: float) -> list[Record | None]:
        """Every record that may have been on disk at some moment of this time."""
        with self._lock:
            looks = list(self.looks)
        found = []
        for index, look in enumerate(looks):
            since = looks[index - 1].last if index else 0.0
            until = looks[index + 1].first if index + 1 < len(looks) else float("inf")
            if since <= ended and began <= until:
                found.append(look.record)
        return found

    def since(self, moment: float) -> list[Look]:
        """The looks that were seen first after this."""
        with self._lock:
            return [look for look in self.looks if look.first > moment]

    def _watch(self) -> None:
        db: sqlite3.Connection | None = None
        version = None
        while not self._ended.wait(_PAUSE):
            try:
                if self._asleep.is_set():
                    if db is not None:
                        db.close()
                    db = None
                    continue
                began = time.monotonic()
                if db is None:
                    db, version = _open(self._state), None
                present = db.execute("PRAGMA data_version").fetchone()[0]
                if present == version:
                    self._confirm(began)
                else:
                    record, version = _read(db, "shop"), present
                    self._note(record, began)
            except sqlite3.Error:  # not there yet, or just being recovered by its next owner
                if db is not None:
                    with suppress(sqlite3.Error):
                        db.close()
                db = None
        if db is not None:
            db.close()

    def _confirm(self, began: float) -> None:
        with self._lock:
            if self.looks:
                self.looks[-1].last = began

    def _note(self, record: Record | None, began: float) -> None:
        with self._lock:
            if self.looks and self.looks[-1].record == record:
                self.looks[-1].last = began
            else:
                self.looks.append(Look(record, time.monotonic(), began))
