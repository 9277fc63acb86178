"""The SQLite store: whole or not at all, and clear words when it cannot."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from canaryproxy.config.overlay import Registered, Role
from canaryproxy.errors import StoreError
from canaryproxy.store.base import JOURNALS, Decision, JournalBlock, JournalEnd, Mail, Message, PoolStore, Saved, Store
from canaryproxy.store.sqlite import SCHEMA_VERSION, SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state 100%?.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


def test_an_empty_file_is_begun_anew_and_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SqliteStore(path).close()
    SqliteStore(path).close()
    assert caplog.messages == [], "neither a new one nor one that is well"
    path.write_bytes(b"")
    for left in path.parent.glob("*-wal"):
        left.unlink()
    SqliteStore(path).close()
    assert caplog.messages == [f"state {path}: is empty (0 bytes): begun anew, what was recorded is lost"]


def test_what_was_saved_is_there_after_a_restart(path: Path) -> None:
    first: Store = SqliteStore(path)
    first.save("shop", {"step": 1}, {"e": 0.5}, [Decision(1.5, "step", "step 2 of 4", {"by": "anna"})])
    first.close()
    second = SqliteStore(path)
    assert second.load() == {"shop": Saved({"step": 1}, {"e": 0.5})}
    assert second.decisions("shop") == [{"id": 1, "at": 1.5, "kind": "step", "sentence": "step 2 of 4", "data": {"by": "anna"}}]
    second.close()


def test_half_a_character_keeps_nothing_from_the_disk(store: SqliteStore) -> None:
    """As a shell in Latin-1 gives it, or half of a pair in JSON."""
    store.save("shop", {"reason": "caf\udce9"}, None, [Decision(1.5, "rollback", "caf\udce9 is down", {"reason": "caf\udce9"})])
    assert store.decisions("shop")[0]["sentence"] == "caf? is down"
    store.save_pools({"v2": Registered({}, None, 1.5, "caf\udce9", deployed=True)}, {})
    assert store.pools()["v2"].by == "caf?"


def test_a_system_without_a_free_descriptor_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(24, "Too many open files")

    SqliteStore(path).close()
    with monkeypatch.context() as patch:
        patch.setattr("os.open", full)
        with pytest.raises(StoreError, match=r"cannot be opened \(Too many open files\)"):
            SqliteStore(path)
    SqliteStore(path).close()


def test_none_leaves_what_was_saved_before(store: SqliteStore) -> None:
    store.save("shop", {"step": 1}, None)
    assert store.load() == {"shop": Saved({"step": 1}, None)}
    store.save("shop", None, {"e": 1})
    store.save("shop", {"step": 2}, None)
    assert store.load() == {"shop": Saved({"step": 2}, {"e": 1})}
    store.save("api", None, {"e": 2})
    assert "api" not in store.load(), "evidence without a rollout is nothing to go on with"


def test_decisions_are_newest_first_by_route_and_by_page(store: SqliteStore) -> None:
    for n in range(5):
        store.save("shop", None, None, [Decision(n, "step", f"{n}")])
        store.save("api", None, None, [Decision(n, "step", "other")])
    page = store.decisions("shop", limit=2)
    assert [row["sentence"] for row in page] == ["4", "3"]
    assert [row["sentence"] for row in store.decisions("shop", limit=9, before_id=page[-1]["id"])] == ["2", "1", "0"]
    assert store.decisions("nobody") == []


POOLS = {
    "v1": Registered({"servers": ["http://a:1"], "health": {"path": "/"}}, {"servers": ["http://b:1"]}, 1.25, "anna"),
    "v3": Registered({"servers": ["http://c:1"]}, None, 2.5, "ben"),
}


def test_the_pools_are_exactly_those_saved_last(path: Path) -> None:
    store: PoolStore = SqliteStore(path)
    store.save_pools(POOLS, {"shop": Decision(1, "pool", "v1 moved"), "api": Decision(1, "pool", "v1 moved")})
    assert store.pools() == POOLS
    store.save_pools({"v3": POOLS["v3"]}, {})
    again = SqliteStore(path)
    assert again.pools() == {"v3": POOLS["v3"]}
    assert [row["sentence"] for route in ("shop", "api") for row in again.decisions(route)] == ["v1 moved"] * 2
    again.close()


def test_pools_that_cannot_be_saved_leave_those_before(store: SqliteStore) -> None:
    store.save_pools(POOLS, {})
    with pytest.raises(StoreError):
        store.save_pools({}, {"shop": Decision(None, "pool", "no time")})  # type: ignore[arg-type]
    assert store.pools() == POOLS


FACTS = {"route": "shop", "text": "rolled back ü"}


def test_the_outbox_is_what_was_put_and_not_taken_in_its_order_and_for_each_route(path: Path) -> None:
    first = SqliteStore(path)
    message, ended, other = (
        Message("a/1", "event", 1.5, FACTS),
        Message("a/1/ended", "qa", 2.5, {}),
        Message("a/1", "qa", 0.5, {}),
    )
    first.save("shop", {"step": 1}, None, mail=Mail((message, other)))
    first.save("shop", None, None, mail=Mail((ended,)))
    first.save("api", {"step": 1}, None, mail=Mail((message,)))
    first.close()
    second = SqliteStore(path)
    assert second.load()["shop"].outbox == (message, other, ended)
    second.save("shop", None, None, mail=Mail(taken=(("a/1", "event"), ("nobody", "event"))))
    assert second.load()["shop"].outbox == (other, ended)
    assert second.load()["api"].outbox == (message,)
    second.close()


def test_a_message_put_twice_is_there_once_and_one_taken_at_once_is_not(store: SqliteStore) -> None:
    message, gone = Message("a/1", "event", 1.5, FACTS), Message("a/2", "event", 2.5, FACTS)
    store.save("shop", {"step": 1}, None, mail=Mail((message,)))
    store.save("shop", None, None, mail=Mail((message, gone), (("a/2", "event"),)))
    assert store.load()["shop"].outbox == (message,)


def test_a_message_is_saved_with_its_decision_or_not_at_all(store: SqliteStore) -> None:
    store.save("shop", {"step": 1}, None)
    with pytest.raises(StoreError):
        store.save("shop", {"step": 2}, None, [Decision(1, "step", "x")], mail=Mail((Message("a", "event", None, FACTS),)))  # type: ignore[arg-type]
    assert store.load() == {"shop": Saved({"step": 1})}
    assert store.decisions("shop") == []


@pytest.mark.parametrize("facts", ["no json", "[1]", ""])
def test_a_damaged_message_keeps_nobody_from_starting(store: SqliteStore, facts: str) -> None:
    store.save("shop", {"step": 1}, None, mail=Mail((Message("a/1", "event", 1.5, FACTS),)))
    store._db.execute("UPDATE outbox SET facts = ?", (facts,))
    assert store.load()["shop"].outbox == (Message("a/1", "event", 1.5, {}),)


def test_an_odd_number_does_not_keep_a_decision_from_the_disk(store: SqliteStore) -> None:
    store.save("shop", None, None, [Decision(1, "rollback", "x", {"evidence": float("inf"), "set": {1}})])
    assert store.decisions("shop")[0]["data"] == {"evidence": float("inf"), "set": "{1}"}


def test_every_commit_reaches_the_disk(store: SqliteStore) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_save_that_fails_in_the_middle_leaves_nothing(store: SqliteStore) -> None:
    store.save("shop", {"step": 1}, {"e": 1})
    with pytest.raises(StoreError):
        store.save("shop", {"step": 2}, {"e": 2}, [Decision(None, "step", "no time")])  # type: ignore[arg-type]
    assert store.load() == {"shop": Saved({"step": 1}, {"e": 1})}
    store.save("shop", {"step": 3}, None)
    assert store.load()["shop"].rollout == {"step": 3}


def test_a_full_disk_leaves_the_old_state_and_room_lets_it_go_on(store: SqliteStore) -> None:
    store.save("shop", {"step": 1}, {"e": 1}, [Decision(1, "step", "small")])
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"the disk is full .*; make room") as error:
        store.save("shop", {"step": 2}, {"e": "x" * 100_000}, [Decision(2, "step", "large")])
    assert "\n" not in str(error.value)
    assert store.load() == {"shop": Saved({"step": 1}, {"e": 1})}
    assert len(store.decisions("shop")) == 1
    store._db.execute("PRAGMA max_page_count = 100000")
    store.save("shop", {"step": 2}, {"e": "x" * 100_000}, [Decision(2, "step", "large")])
    assert store.load()["shop"].rollout == {"step": 2}


SAVING = """
import sys
from canaryproxy.store.base import Decision
from canaryproxy.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
for n in range(1, 1_000_000):
    store.save("shop", {"n": n}, {"n": n, "pad": "x" * 5000}, [Decision(n, "step", str(n))])
    print(n, flush=True)
"""


@pytest.mark.parametrize("saves", [3, 40])
def test_a_kill_in_the_middle_leaves_the_old_or_the_new_state(path: Path, saves: int) -> None:
    with subprocess.Popen([sys.executable, "-c", SAVING, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(saves):
            answered = int(process.stdout.readline())
        process.kill()
        answered = max([answered, *map(int, process.stdout.read().splitlines())])
    store = SqliteStore(path)
    saved = store.load()["shop"]
    assert saved.evidence is not None
    assert saved.rollout["n"] == saved.evidence["n"] == int(store.decisions("shop", limit=1)[0]["sentence"])
    assert answered <= saved.rollout["n"] <= answered + 1
    store.close()


def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no directory '.*nowhere' for it; create it, or change state.path"):
        SqliteStore(tmp_path / "nowhere" / "state.db")


def test_a_place_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is a directory; name a file in it as state.path"):
        SqliteStore(tmp_path)
    (tmp_path / "state.db").symlink_to("state.db")
    with pytest.raises(
        StoreError, match=r"cannot be opened \(.*\); check that its directory exists and that this user may write"
    ):
        SqliteStore(tmp_path / "state.db")


def test_a_file_that_cannot_be_written_is_said(store: SqliteStore) -> None:
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreError, match=r"cannot be written \(.*readonly.*\); give this user the right"):
        store.save("shop", {}, None)


def test_a_file_that_another_process_holds_is_said(store: SqliteStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._db.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(StoreError, match="is held by another process"):
        store.save("shop", {}, None)
    other.close()
    store.save("shop", {}, None)


def test_a_newer_schema_is_left_alone(path: Path) -> None:
    store = SqliteStore(path)
    newer = SCHEMA_VERSION + 1
    store._db.execute("UPDATE canaryproxy_schema SET version = ?", (newer,))
    store.close()
    with pytest.raises(
        StoreError,
        match=rf"its schema is {newer}, this version knows {SCHEMA_VERSION}\); run the version that wrote it or a newer one",
    ):
        SqliteStore(path)


#: What version 0.1 wrote (schema 1): tables, a row in each, and the version.
FIRST_SCHEMA = """
CREATE TABLE canaryproxy_schema (version INTEGER NOT NULL);
CREATE TABLE rollout (route TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE evidence (route TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE decision (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, sentence TEXT NOT NULL, data TEXT NOT NULL
);
CREATE INDEX decision_of_route ON decision (route, id);
INSERT INTO canaryproxy_schema VALUES (1);
INSERT INTO rollout VALUES ('shop', '{"step":1}');
INSERT INTO evidence VALUES ('shop', '{"e":1}');
INSERT INTO decision VALUES (7, 'shop', 1.5, 'step', 'step 2 of 4', '{}');
"""


def test_a_file_of_the_first_schema_is_brought_up_with_all_that_is_in_it(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.executescript(FIRST_SCHEMA)
    for _ in range(2):  # the second time there is nothing to bring up
        store = SqliteStore(path)
        assert store.load() == {"shop": Saved({"step": 1}, {"e": 1})}
        assert [row["id"] for row in store.decisions("shop")] == [7]
        assert store._version() == SCHEMA_VERSION
        store.close()
    store = SqliteStore(path)
    assert store.pools() == {}
    store.save_pools(POOLS, {})
    assert store.pools() == POOLS
    store.close()


def test_roles_are_kept_with_the_pools_they_are_of(path: Path) -> None:
    role = Role("v1", "v2", ("v1", None), "1f", 2.5, "anna", "weekly")
    store = SqliteStore(path)
    assert store.roles() == {}
    store.save_pools(POOLS, {"shop": Decision(1.0, "deploy", "deploy of v2")}, {"shop": role})
    store.save_pools({name: replace(pool, deployed=True) for name, pool in POOLS.items()}, {})
    assert store.roles() == {"shop": role}, "who says nothing of roles changes none"
    assert all(pool.deployed for pool in store.pools().values())
    store.save_pools(POOLS, {}, {})
    assert (store.roles(), store.pools()) == ({}, POOLS)
    store._db.execute("INSERT INTO role VALUES ('shop', '{}')")
    with pytest.raises(StoreError, match="a deploy's roles cannot be understood"):
        store.roles()
    store.close()


def test_an_upgrade_that_is_cut_off_leaves_the_file_as_it_was(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.executescript(FIRST_SCHEMA)
        old.execute("CREATE TABLE pool (in_the_way)")
        old.commit()
    with pytest.raises(StoreError, match="cannot be used"):
        SqliteStore(path)
    with closing(sqlite3.connect(path)) as old:
        assert old.execute("SELECT version FROM canaryproxy_schema").fetchall() == [(1,)]


def test_another_programs_database_is_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE music (title)")
    other.close()
    with pytest.raises(StoreError, match=r"is the database of another program; change state.path"):
        SqliteStore(path)


def test_a_file_that_is_no_database_is_said(path: Path) -> None:
    path.write_text("listen: 0.0.0.0:8080\n" * 100)
    with pytest.raises(StoreError, match=r"is not a state file, or is damaged \(.*\); restore a backup, or move it"):
        SqliteStore(path)


@pytest.mark.parametrize("page", [2, 3, 4])
def test_a_damaged_page_is_said(path: Path, page: int) -> None:
    store = SqliteStore(path)
    store.save("shop", {"step": 1}, {"pad": "x" * 50_000}, [Decision(n, "step", "y" * 500) for n in range(50)])
    (size,) = store._db.execute("PRAGMA page_size").fetchone()
    store.close()
    content = bytearray(path.read_bytes())
    content[page * size : (page + 1) * size] = b"\xa5" * size
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged .*; restore a backup, or move it and its -wal and -shm away") as error:
        SqliteStore(path)
    assert "\n" not in str(error.value)


def test_a_record_that_is_no_json_is_said(store: SqliteStore) -> None:
    store._db.execute("INSERT INTO rollout VALUES ('shop', '{')")
    with pytest.raises(StoreError, match=r"is damaged \(a record cannot be read: Expecting"):
        store.load()


def _block(rollout: str, first: int = 0, ticks: int = 5) -> JournalBlock:
    return JournalBlock(rollout, first, ticks, f"{rollout}/{first}".encode())


def test_a_journal_is_read_in_pages_in_its_order(path: Path) -> None:
    store: Store = SqliteStore(path)
    for n in range(3):
        store.save("shop", {"step": n}, None, journal=[_block("a", 5 * n)])
        store.save("api", {"step": n}, None, journal=[_block("a", 7 * n, 7)])
    assert store.load()["shop"].journal == JournalEnd("a", 15)
    store.close()
    store = SqliteStore(path)
    page = store.journal("shop", "a", limit=2)
    assert [block for _, block in page] == [_block("a"), _block("a", 5)]
    assert [block for _, block in store.journal("shop", "a", 2, after=page[-1][0])] == [_block("a", 10)]
    assert (store.rollouts("shop"), store.rollouts("web"), store.journal("web", "a")) == (["a"], [], [])
    store.close()


def test_the_journals_of_the_newest_rollouts_are_kept(store: SqliteStore) -> None:
    store.save("api", {}, None, journal=[_block("0")])
    for n in range(JOURNALS + 2):
        store.save("shop", {}, None, journal=[_block(f"{n}"), _block(f"{n}", 5)])
    assert store.rollouts("shop") == [f"{n}" for n in range(JOURNALS + 1, 1, -1)]
    assert len(store.journal("shop", "2")) == 2
    assert store.journal("shop", "1") == []
    assert store.rollouts("api") == ["0"]


def test_a_journal_is_saved_with_its_state_or_not_at_all(store: SqliteStore) -> None:
    store.save("shop", {"step": 1}, {"e": 1}, journal=[_block("a")])
    with pytest.raises(StoreError):
        store.save("shop", {"step": 2}, {"e": 2}, journal=[_block("a", 5), JournalBlock("a", 10, None, b"")])  # type: ignore[arg-type]
    assert store.load() == {"shop": Saved({"step": 1}, {"e": 1}, JournalEnd("a", 5))}


def test_a_reader_beside_the_writer_sees_what_is_saved_and_changes_nothing(store: SqliteStore, path: Path) -> None:
    store.save("shop", {"step": 1}, None, journal=[_block("a")])
    reader = SqliteStore(path, read_only=True)
    assert reader.rollouts("shop") == ["a"]
    with pytest.raises(StoreError, match="cannot be written"):
        reader.save("shop", {"step": 2}, None)
    store.save("shop", {"step": 3}, None)
    assert reader.load()["shop"].rollout == {"step": 3}
    reader.close()


def test_a_reader_leaves_an_old_file_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.executescript(FIRST_SCHEMA)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"its schema is 1, this version reads {SCHEMA_VERSION}\); start"):
        SqliteStore(path, read_only=True)
    assert path.read_bytes() == before


def test_a_reader_makes_no_file(path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteStore(path, read_only=True)
    assert not path.exists()
