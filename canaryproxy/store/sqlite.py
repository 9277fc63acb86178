"""The store of one machine: an SQLite file. Called by `control` from its one store thread.

Write-ahead log with `synchronous=FULL`: a commit is on the disk when it returns, and a kill or a power cut at any moment leaves
the state before or after it (https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from canaryproxy.config.overlay import Registered
from canaryproxy.errors import StoreError
from canaryproxy.store.base import JOURNALS, Decision, JournalBlock, JournalEnd, Saved

#: What each version of the schema adds to the one before it; a file of an older version is brought up when it is opened.
_SCHEMA = (
    """
CREATE TABLE canaryproxy_schema (version INTEGER NOT NULL);
INSERT INTO canaryproxy_schema VALUES (0);
CREATE TABLE rollout (route TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE evidence (route TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE decision (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, sentence TEXT NOT NULL, data TEXT NOT NULL
);
CREATE INDEX decision_of_route ON decision (route, id);
""",
    """
CREATE TABLE pool (name TEXT PRIMARY KEY, definition TEXT NOT NULL, file TEXT NOT NULL, at REAL NOT NULL, by TEXT NOT NULL)
WITHOUT ROWID;
""",
    """
CREATE TABLE journal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route TEXT NOT NULL, rollout TEXT NOT NULL, first INTEGER NOT NULL, ticks INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE INDEX journal_of_rollout ON journal (route, rollout, id);
""",
)
SCHEMA_VERSION = len(_SCHEMA)

#: Seconds to wait for another process that holds the file (a backup, a second controller by mistake).
_BUSY = 2.0

_AWAY = (
    "restore a backup, or move it and its -wal and -shm away: every route then begins idle with the roles of the configuration"
)

#: SQLite's primary error name -> what is wrong, what to do.
_EXPLAINED = {
    "SQLITE_CANTOPEN": (
        "cannot be opened",
        "check that its directory exists and that this user may write there, or change state.path",
    ),
    "SQLITE_READONLY": (
        "cannot be written",
        "give this user the right to write the file and its directory, or change state.path",
    ),
    "SQLITE_PERM": ("cannot be used by this user", "change the file's permissions or state.path"),
    "SQLITE_FULL": ("was not written, the disk is full", "make room; the change is saved with the next attempt"),
    "SQLITE_IOERR": ("was not written or read, the disk reports an error", "check the disk and the file system it is on"),
    "SQLITE_BUSY": ("is held by another process", "run one controller for each state file, or stop what holds it"),
    "SQLITE_NOTADB": ("is not a state file, or is damaged", _AWAY),
    "SQLITE_CORRUPT": ("is damaged", _AWAY),
}


class SqliteStore:
    """A `Store` and a `PoolStore` in the file at `path`, made on first use.

    `read_only`: nothing is made or changed, not even the version of its schema, so a proxy may have it open meanwhile.
    Raises StoreError when the file cannot be used: no directory, no permission, damaged, another program's, a newer version's.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self._where, self._read_only = f"state {path}", read_only
        place = Path(path).absolute()
        if not os.path.isdir(place.parent):
            raise StoreError(
                self._where, f"there is no directory {str(place.parent)!r} for it", "create it, or change state.path"
            )
        with self._explained():
            name = f"{place.as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(name, timeout=_BUSY, isolation_level=None, check_same_thread=False, uri=True)
        try:
            with self._explained():
                self._prepare()
        except StoreError:
            self._db.close()
            raise

    def load(self) -> dict[str, Saved]:
        """The last state of every route that has a rollout."""
        query = "SELECT rollout.route, rollout.record, evidence.record FROM rollout LEFT JOIN evidence USING (route)"
        with self._explained():
            return {
                route: Saved(json.loads(rollout), None if evidence is None else json.loads(evidence), self._end(route))
                for route, rollout, evidence in self._db.execute(query).fetchall()
            }

    def _end(self, route: str) -> JournalEnd | None:
        query = "SELECT rollout, first + ticks FROM journal WHERE route = ? ORDER BY id DESC LIMIT 1"
        row = self._db.execute(query, (route,)).fetchone()
        return None if row is None else JournalEnd(*row)

    def save(
        self,
        route: str,
        rollout: Mapping[str, Any] | None,
        evidence: Mapping[str, Any] | None,
        decisions: Sequence[Decision] = (),
        journal: Sequence[JournalBlock] = (),
    ) -> None:
        """All of it is on disk when this returns, none of it when it raises StoreError. None leaves what was saved before.

        Of the route's journals those of the newest `JOURNALS` rollouts are kept.
        """
        with self._explained(), self._transaction():
            for table, record in (("rollout", rollout), ("evidence", evidence)):
                if record is not None:
                    self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (route, _text(record)))
            self._note((route, decision) for decision in decisions)
            self._keep(route, journal)

    def _keep(self, route: str, journal: Sequence[JournalBlock]) -> None:
        rows = [(route, block.rollout, block.first, block.ticks, block.data) for block in journal]
        self._db.executemany("INSERT INTO journal (route, rollout, first, ticks, data) VALUES (?, ?, ?, ?, ?)", rows)
        if any(block.first == 0 for block in journal):  # a rollout has begun
            gone = [(route, rollout) for rollout in self._rollouts(route)[JOURNALS:]]
            self._db.executemany("DELETE FROM journal WHERE route = ? AND rollout = ?", gone)

    def pools(self) -> dict[str, Registered]:
        """Every registered pool."""
        query = "SELECT name, definition, file, at, by FROM pool ORDER BY name"
        with self._explained():
            return {
                name: Registered(json.loads(definition), json.loads(file), at, by)
                for name, definition, file, at, by in self._db.execute(query)
            }

    def save_pools(self, pools: Mapping[str, Registered], decisions: Mapping[str, Decision]) -> None:
        """Exactly these pools, and a decision for each of these routes, are on disk when this returns; nothing when it raises."""
        rows = [(name, _text(pool.definition), _text(pool.file), pool.at, pool.by) for name, pool in pools.items()]
        with self._explained(), self._transaction():
            self._db.execute("DELETE FROM pool")
            self._db.executemany("INSERT INTO pool VALUES (?, ?, ?, ?, ?)", rows)
            self._note(decisions.items())

    def _note(self, decisions: Iterable[tuple[str, Decision]]) -> None:
        rows = [(route, d.at, d.kind, d.sentence, _text(d.data)) for route, d in decisions]
        self._db.executemany("INSERT INTO decision (route, at, kind, sentence, data) VALUES (?, ?, ?, ?, ?)", rows)

    def decisions(self, route: str, limit: int = 100, before_id: int | None = None) -> list[dict[str, Any]]:
        """At most `limit` decisions, newest first: `id`, `at`, `kind`, `sentence`, `data`; older than `before_id` when given."""
        query = "SELECT id, at, kind, sentence, data FROM decision WHERE route = ? AND id < ? ORDER BY id DESC LIMIT ?"
        newest = 2**63 - 1
        with self._explained():
            rows = self._db.execute(query, (route, newest if before_id is None else before_id, limit)).fetchall()
            return [
                {"id": n, "at": at, "kind": kind, "sentence": sentence, "data": json.loads(data)}
                for n, at, kind, sentence, data in rows
            ]

    def rollouts(self, route: str) -> list[str]:
        """The rollouts of which there is a journal, the newest first."""
        with self._explained():
            return self._rollouts(route)

    def _rollouts(self, route: str) -> list[str]:
        query = "SELECT rollout FROM journal WHERE route = ? GROUP BY rollout ORDER BY max(id) DESC"
        return [rollout for (rollout,) in self._db.execute(query, (route,))]

    def journal(self, route: str, rollout: str, limit: int = 100, after: int = 0) -> list[tuple[int, JournalBlock]]:
        """At most `limit` blocks of a rollout's journal in their order, each with its id; those after id `after`."""
        query = (
            "SELECT id, rollout, first, ticks, data FROM journal WHERE route = ? AND rollout = ? AND id > ? ORDER BY id LIMIT ?"
        )
        with self._explained():
            rows = self._db.execute(query, (route, rollout, after, limit)).fetchall()
            return [(number, JournalBlock(*block)) for number, *block in rows]

    def close(self) -> None:
        """Let go of the file; the write-ahead log is folded into it."""
        self._db.close()

    def _prepare(self) -> None:
        if self._read_only:
            if (version := self._version()) < SCHEMA_VERSION:
                what = f"is of an older version of canaryproxy (its schema is {version}, this version reads {SCHEMA_VERSION})"
                raise StoreError(self._where, what, "start this version's proxy on it once")
            return
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if damage := [row[0] for row in self._db.execute("PRAGMA quick_check(1)") if row[0] != "ok"]:
            raise StoreError(self._where, f"is damaged ({' '.join(damage[0].split())})", _AWAY)
        if self._version() < SCHEMA_VERSION:
            with self._transaction():
                self._upgrade(self._version())  # asked again: another process may have been first

    def _version(self) -> int:
        """The version of the file's schema, 0 for a new file; raises StoreError for a file that is not ours or too new."""
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "canaryproxy_schema" not in tables:
            raise StoreError(self._where, "is the database of another program", "change state.path")
        if not tables:
            return 0
        version: int = self._db.execute("SELECT max(version) FROM canaryproxy_schema").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                self._where,
                f"was written by a newer version of canaryproxy (its schema is {version}, this version knows {SCHEMA_VERSION})",
                "run the version that wrote it or a newer one, or change state.path",
            )
        return version

    def _upgrade(self, version: int) -> None:
        for statement in "".join(_SCHEMA[version:]).split(";"):
            self._db.execute(statement)
        self._db.execute("UPDATE canaryproxy_schema SET version = ?", (SCHEMA_VERSION,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite has undone it already after some errors, a full disk for one
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Every failure of SQLite, and text in the file that is not ours, as a StoreError."""
        try:
            yield
        except sqlite3.Error as error:
            name = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
            what, hint = _EXPLAINED.get(name, ("cannot be used", "check the file, or change state.path"))
            raise StoreError(self._where, f"{what} ({error})", hint) from error
        except json.JSONDecodeError as error:
            raise StoreError(self._where, f"is damaged (a record is not JSON: {error})", _AWAY) from error


def _text(record: Mapping[str, Any] | None) -> str:
    """JSON; what has no JSON form is written as its text, because an odd number must not keep a rollback from the disk."""
    return json.dumps(record, separators=(",", ":"), default=str)
