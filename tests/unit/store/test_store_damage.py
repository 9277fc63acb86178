"""A state file after a power cut, and after anything else: the state before or after, or one clear line; never half of it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from canaryproxy.config.overlay import Registered
from canaryproxy.errors import StoreError
from canaryproxy.store.base import Decision, JournalBlock
from canaryproxy.store.sqlite import SqliteStore

SAVES = 12
POOLS = {"v2": Registered({"servers": ["http://a:1"]}, {"servers": ["http://b:1"]}, 1.25, "anna")}


def record(n: int) -> dict[str, Any]:
    return {"route": "shop", "weight_bp": 100 + n, "revision": n, "plan": {"steps": [{"weight_bp": 100, "hold": 60.0}] * 4}}


def save(store: SqliteStore, n: int) -> None:
    evidence = {"revision": n, "numbers": [n / 7] * 800}  # some pages
    journal = [JournalBlock("one", n, 1, Random(n).randbytes(600))]
    store.save("shop", record(n), evidence, [Decision(n, "step", f"step {n}", {"n": n})], journal)


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the state of a proxy that was killed after `SAVES` saves, most of them in the write-ahead log."""
    folder = tmp_path_factory.mktemp("torn")
    store = SqliteStore(folder / "live.db")
    store.save_pools(POOLS, {})
    for n in range(SAVES):
        save(store, n)
        if n == 2:
            store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for end in ("", "-wal"):
        shutil.copy(folder / f"live.db{end}", folder / f"state.db{end}")
    store.close()
    return folder


def read(path: Path) -> int:
    """The number of the save that is found, all parts of which are of that save."""
    with closing(SqliteStore(path)) as store:
        saved = store.load()["shop"]
        assert saved.evidence is not None
        assert saved.journal is not None
        n = int(saved.rollout["revision"])
        assert saved.rollout == record(n)
        assert (saved.evidence["revision"], saved.journal.ticks) == (n, n + 1)
        assert [made["data"]["n"] for made in store.decisions("shop")] == list(range(n, -1, -1))
        assert store.pools() == POOLS
    return n


def copy(torn: Path, folder: Path, log: bytes | None) -> Path:
    """The state with this write-ahead log, None: without."""
    shutil.copy(torn / "state.db", folder / "state.db")
    for left in ("-wal", "-shm"):
        (folder / f"state.db{left}").unlink(missing_ok=True)
    if log is not None:
        (folder / "state.db-wal").write_bytes(log)
    return folder / "state.db"


def test_a_log_that_is_cut_off_anywhere_is_a_state_of_before(torn: Path, tmp_path: Path) -> None:
    log, chance = (torn / "state.db-wal").read_bytes(), Random(1)
    cuts = sorted({0, 1, 31, 32, len(log) - 1, len(log), *(chance.randrange(len(log)) for _ in range(40))})
    found = [read(copy(torn, tmp_path, log[:cut])) for cut in cuts]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (2, SAVES - 1)
    assert len(set(found)) > 5


def test_a_log_whose_end_is_rubbish_is_a_state_of_before(torn: Path, tmp_path: Path) -> None:
    """The length was written, the data was not: zeros, or what was in those blocks."""
    log, chance = (torn / "state.db-wal").read_bytes(), Random(2)
    for _ in range(30):
        cut = chance.randrange(32, len(log))
        rubbish = chance.choice((bytes(len(log) - cut), chance.randbytes(len(log) - cut), log[: len(log) - cut]))
        assert 2 <= read(copy(torn, tmp_path, log[:cut] + rubbish)) < SAVES


def test_without_its_log_it_is_the_state_of_the_last_checkpoint(torn: Path, tmp_path: Path) -> None:
    assert read(copy(torn, tmp_path, None)) == 2


def cut_off(data: bytes, chance: Random) -> bytes:
    return data[: 512 * chance.randrange(1, len(data) // 512)]


def overwritten(data: bytes, chance: Random) -> bytes:
    size = chance.choice((1, 1, 4, 100, 512, 4096))
    at = chance.randrange(len(data) - size)
    return data[:at] + chance.choice((chance.randbytes(size), bytes(size))) + data[at + size :]


def flipped(data: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def complaint(path: Path) -> str:
    """What is said of it; nothing where what is acted on is as it was, or the name of the route is another."""
    try:
        with closing(SqliteStore(path)) as store:
            assert store.pools() in (POOLS, {})
            assert [saved.rollout for saved in store.load().values()] in ([record(SAVES - 1)], [])
            store.decisions("shop")
            store.journal("shop", "one")
    except StoreError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("damage", "least"), [(cut_off, 100), (overwritten, 30), (flipped, 15)])
def test_what_is_damaged_is_said_on_one_line_or_changes_nothing_that_is_acted_on(
    torn: Path, tmp_path: Path, damage: Callable[[bytes, Random], bytes], least: int
) -> None:
    path, said = copy(torn, tmp_path, (torn / "state.db-wal").read_bytes()), 0
    with closing(sqlite3.connect(path)) as whole:
        whole.execute("PRAGMA journal_mode=DELETE")
    good = path.read_bytes()
    for seed in range(100):
        path.write_bytes(damage(good, Random(seed)))
        said += bool(text := complaint(path))
        assert ("\n" not in text, len(text) < 450) == (True, True), text
        for left in ("-wal", "-shm"):
            Path(f"{path}{left}").unlink(missing_ok=True)
    assert said >= least


def test_another_digit_is_noticed(tmp_path: Path) -> None:
    """A file system that gives one byte back wrong: the record would still be JSON."""
    path = tmp_path / "state.db"
    with closing(SqliteStore(path)) as store:
        save(store, 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE rollout SET record = replace(record, ':101', ':901')")
        other.commit()
    with (
        closing(SqliteStore(path)) as store,
        pytest.raises(StoreError, match=r"is damaged \(.* its checksum is wrong\); restore"),
    ):
        store.load()


def test_a_record_of_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "state.db")) as store:
        store._db.execute("INSERT INTO rollout VALUES ('shop', '{\"step\":1}')")
        assert store.load()["shop"].rollout == {"step": 1}


def test_text_that_is_none_is_said_in_few_words(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(SqliteStore(path)) as store:
        save(store, 1)
        store._db.execute("UPDATE rollout SET record = CAST(x'ff' || record AS TEXT)")
        with pytest.raises(StoreError, match=r"is damaged \(Could not decode to UTF-8 .*\.\.\.\); restore a backup") as error:
            store.load()
    assert len(str(error.value)) < 450


@pytest.mark.parametrize(
    ("befalls", "words"),
    [
        (lambda path: path.unlink(), "cannot be seen any more (No such file or directory); put it back"),
        (lambda path: (path.rename(path.with_name("old")), shutil.copy(path.with_name("old"), path)), "was removed or replaced"),
        (lambda path: path.write_bytes(b"no database" * 5000), "was overwritten while it was in use; restore a backup"),
    ],
)
def test_what_befalls_it_while_it_is_in_use_is_said_and_nothing_counts_as_saved(
    tmp_path: Path, befalls: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "state.db"
    with closing(SqliteStore(path)) as store:
        save(store, 1)
        befalls(path)
        with pytest.raises(StoreError) as error:
            save(store, 2)
        assert words in str(error.value)
        with pytest.raises(StoreError) as error:
            store.save_pools(POOLS, {})
        assert words in str(error.value)


def test_put_back_it_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(SqliteStore(path)) as store:
        save(store, 1)
        path.rename(tmp_path / "away")
        with pytest.raises(StoreError):
            save(store, 2)
        (tmp_path / "away").rename(path)
        save(store, 2)
        assert store.load()["shop"].rollout == record(2)
