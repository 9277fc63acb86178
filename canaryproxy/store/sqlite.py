"""The store of one machine: an SQLite file. Called by `control` from its one store thread.

Write-ahead log with `synchronous=FULL`: a commit is on the disk when it returns, and a kill or a power cut at any moment leaves
the state before or after it (https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zlib import crc32

from canaryproxy.config.overlay import Registered, Role
from canaryproxy.errors import StoreError
from canaryproxy.store.base import JOURNALS, NO_MAIL, Decision, JournalBlock, JournalEnd, Mail, Message, Saved

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
    """
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    route TEXT NOT NULL, id TEXT NOT NULL, hook TEXT NOT NULL, at REAL NOT NULL, facts TEXT NOT NULL, UNIQUE (route, id, hook)
);
""",
    """
CREATE TABLE role (route TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
ALTER TABLE pool ADD COLUMN deployed INTEGER NOT NULL DEFAULT 0;
""",
)
SCHEMA_VERSION = len(_SCHEMA)

_log = logging.getLogger("canaryproxy.store")

#: Seconds to wait for another process that holds the file (a backup, a second controller by mistake).
_BUSY = 2.0

#: Characters of what SQLite says that are passed on.
_BRIEF = 160

_AWAY = (
    "restore a backup, or move it and its -wal and -shm away: every route then begins idle with the roles of the configuration"
)

_BACK = "put it back with its -wal and -shm, or restart to begin anew with what is there"
#: What a file of SQLite begins with (https://www.sqlite.org/fileformat.html).
_MAGIC = b"SQLite format 3\0"

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


class _UnreadableError(Exception):
    """Text in the file that is not ours."""


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
        if place.is_dir():
            raise StoreError(self._where, "is a directory", "name a file in it as state.path")
        with suppress(OSError):
            if not read_only and place.stat().st_size == 0:
                _log.warning("%s: is empty (0 bytes): begun anew, what was recorded is lost", self._where)
        with self._explained():
            name = f"{place.as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(name, timeout=_BUSY, isolation_level=None, check_same_thread=False, uri=True)
        try:
            with self._explained():
                self._prepare()
                self._place, self._file = place, os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except StoreError:
            self._db.close()
            raise

    def load(self) -> dict[str, Saved]:
        """The last state of every route that has a rollout."""
        query = "SELECT rollout.route, rollout.record, evidence.record FROM rollout LEFT JOIN evidence USING (route)"
        with self._explained():
            return {
                route: Saved(
                    _record(rollout),
                    None if evidence is None else _record(evidence),
                    self._end(route),
                    outbox=self._outbox(route),
                )
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
        *,
        mail: Mail = NO_MAIL,
    ) -> None:
        """All of it is on disk when this returns, none of it when it raises StoreError. None leaves what was saved before.

        Of the route's journals those of the newest `JOURNALS` rollouts are kept. A message that is in the outbox already, or is
        not there to be taken out, changes nothing.
        """
        self._look()
        with self._explained(), self._transaction():
            for table, record in (("rollout", rollout), ("evidence", evidence)):
                if record is not None:
                    self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (route, _sealed(record)))
            self._note((route, decision) for decision in decisions)
            self._keep(route, journal)
            self._post(route, mail)

    def _keep(self, route: str, journal: Sequence[JournalBlock]) -> None:
        rows = [(route, block.rollout, block.first, block.ticks, block.data) for block in journal]
        self._db.executemany("INSERT INTO journal (route, rollout, first, ticks, data) VALUES (?, ?, ?, ?, ?)", rows)
        if any(block.first == 0 for block in journal):  # a rollout has begun
            gone = [(route, rollout) for rollout in self._rollouts(route)[JOURNALS:]]
            self._db.executemany("DELETE FROM journal WHERE route = ? AND rollout = ?", gone)

    def _outbox(self, route: str) -> tuple[Message, ...]:
        query = "SELECT id, hook, at, facts FROM outbox WHERE route = ? ORDER BY number"
        rows = self._db.execute(query, (route,)).fetchall()
        return tuple(Message(name, hook, at, _facts(facts)) for name, hook, at, facts in rows)

    def _post(self, route: str, mail: Mail) -> None:
        rows = [(route, message.id, message.hook, message.at, _text(message.facts)) for message in mail.put]
        self._db.executemany(
            "INSERT INTO outbox (route, id, hook, at, facts) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows
        )
        taken = [(route, *message) for message in mail.taken]
        self._db.executemany("DELETE FROM outbox WHERE route = ? AND id = ? AND hook = ?", taken)

    def pools(self) -> dict[str, Registered]:
        """Every registered pool."""
        query = "SELECT name, definition, file, at, by, deployed FROM pool ORDER BY name"
        with self._explained():
            return {
                name: Registered(_record(definition), _record(file), at, by, bool(deployed))
                for name, definition, file, at, by, deployed in self._db.execute(query)
            }

    def roles(self) -> dict[str, Role]:
        """The role that a deploy registered last for each route; raises StoreError for one that cannot be read."""
        with self._explained():
            rows = self._db.execute("SELECT route, record FROM role ORDER BY route").fetchall()
            records = {route: _record(record) for route, record in rows}
        try:
            return {route: Role(**record | {"file": tuple(record["file"])}) for route, record in records.items()}
        except (KeyError, TypeError) as error:
            raise StoreError(self._where, f"is damaged (a deploy's roles cannot be understood: {error!r})", _AWAY) from error

    def save_pools(
        self, pools: Mapping[str, Registered], decisions: Mapping[str, Decision], roles: Mapping[str, Role] | None = None
    ) -> None:
        """Exactly these pools and roles, and a decision for each of these routes, are on disk when this returns.

        None leaves the roles as they were. Nothing is changed when it raises.
        """
        rows = [
            (name, _sealed(pool.definition), _sealed(pool.file), pool.at, _plain(pool.by), pool.deployed)
            for name, pool in pools.items()
        ]
        self._look()
        with self._explained(), self._transaction():
            self._db.execute("DELETE FROM pool")
            self._db.executemany("INSERT INTO pool VALUES (?, ?, ?, ?, ?, ?)", rows)
            if roles is not None:
                self._db.execute("DELETE FROM role")
                self._db.executemany("INSERT INTO role VALUES (?, ?)", [(name, _sealed(asdict(r))) for name, r in roles.items()])
            self._note(decisions.items())

    def _note(self, decisions: Iterable[tuple[str, Decision]]) -> None:
        rows = [(route, d.at, d.kind, _plain(d.sentence), _text(d.data)) for route, d in decisions]
        self._db.executemany("INSERT INTO decision (route, at, kind, sentence, data) VALUES (?, ?, ?, ?, ?)", rows)

    def decisions(self, route: str, limit: int = 100, before_id: int | None = None) -> list[dict[str, Any]]:
        """At most `limit` decisions, newest first: `id`, `at`, `kind`, `sentence`, `data`; older than `before_id` when given."""
        query = "SELECT id, at, kind, sentence, data FROM decision WHERE route = ? AND id < ? ORDER BY id DESC LIMIT ?"
        newest = 2**63 - 1
        with self._explained():
            rows = self._db.execute(query, (route, newest if before_id is None else before_id, limit)).fetchall()
            return [
                {"id": n, "at": at, "kind": kind, "sentence": sentence, "data": _record(data)}
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
        with suppress(OSError):
            os.close(self._file)
            self._file = -1

    def _prepare(self) -> None:
        if self._read_only:
            if (version := self._version()) < SCHEMA_VERSION:
                what = f"is of an older version of canaryproxy (its schema is {version}, this version reads {SCHEMA_VERSION})"
                raise StoreError(self._where, what, "start this version's proxy on it once")
            return
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if damage := [row[0] for row in self._db.execute("PRAGMA quick_check(1)") if row[0] != "ok"]:
            raise StoreError(self._where, f"is damaged ({_brief(damage[0])})", _AWAY)
        if self._version() < SCHEMA_VERSION:
            with self._transaction():
                self._upgrade(self._version())  # asked again: another process may have been first

    def _look(self) -> None:
        """Raise StoreError where nobody would find what is written now: SQLite goes on in a file that has no name any more."""
        # Its own descriptor stays open: closing one would take the locks from SQLite (https://www.sqlite.org/howtocorrupt.html).
        try:
            same = os.path.samestat(os.stat(self._place), os.fstat(self._file))
            begins = os.pread(self._file, len(_MAGIC), 0)
        except OSError as error:
            raise StoreError(self._where, f"cannot be seen any more ({_brief(error.strerror)})", _BACK) from None
        if not same:
            raise StoreError(self._where, "was removed or replaced while it was in use", _BACK)
        if begins and begins != _MAGIC:  # nothing yet: all of it is in the log
            raise StoreError(self._where, "was overwritten while it was in use", _AWAY)

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
        """Every failure of SQLite or of the system, and text in the file that is not ours, as a StoreError."""
        try:
            yield
        except sqlite3.Error as error:
            name = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
            if "decode to UTF-8" in str(error):  # Python's own word for it
                name = "SQLITE_CORRUPT"
            what, hint = _EXPLAINED.get(name, ("cannot be used", "check the file, or change state.path"))
            raise StoreError(self._where, f"{what} ({_brief(error)})", hint) from error
        except OSError as error:
            what, hint = _EXPLAINED["SQLITE_CANTOPEN"]
            raise StoreError(self._where, f"{what} ({_brief(error.strerror)})", hint) from error
        except (_UnreadableError, UnicodeDecodeError) as error:  # SQLite may quote text that is none
            raise StoreError(self._where, f"is damaged (a record cannot be read: {_brief(error)})", _AWAY) from error


def _sealed(record: Mapping[str, Any] | None) -> str:
    """JSON, and on a line of its own a checksum: SQLite has none, and a weight with another digit would be a good weight."""
    text = _text(record)
    return f"{text}\n{crc32(text.encode()):08x}"


def _record(sealed: str) -> Any:
    """What was sealed, or was written before there were checksums. Raises _UnreadableError for anything else."""
    try:
        text, _, checksum = sealed.partition("\n")
        if checksum and checksum != f"{crc32(text.encode()):08x}":
            raise _UnreadableError("its checksum is wrong")
        return json.loads(text)
    except (ValueError, TypeError, AttributeError) as error:  # a number where text should be, for one
        raise _UnreadableError(str(error)) from error


def _brief(problem: object) -> str:
    """The problem on one line that a person reads; SQLite may quote a whole record."""
    words = " ".join(str(problem).split())
    return words if len(words) <= _BRIEF else f"{words[: _BRIEF - 3]}..."


def _facts(text: str) -> dict[str, Any]:
    """What a message says, nothing if it cannot be read: a damaged notification is no reason not to start."""
    with suppress(ValueError):
        facts = json.loads(text)
        if isinstance(facts, dict):
            return facts
    return {}


def _plain(text: str) -> str:
    """What UTF-8 has: a reason with half a character (a shell's, in Latin-1) must not keep a rollback from the disk."""
    return text.encode(errors="replace").decode()


def _text(record: Mapping[str, Any] | None) -> str:
    """JSON; what has no JSON form is written as its text, because an odd number must not keep a rollback from the disk."""
    return json.dumps(record, separators=(",", ":"), default=str)
