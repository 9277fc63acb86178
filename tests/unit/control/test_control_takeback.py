"""Rollbacks that are asked for past the admin API: as files, in the lock file, on the page to the controller, and performed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.config.schema import Config
from canaryproxy.control.handover import Handover
from canaryproxy.control.recovery import recover_route
from canaryproxy.control.takeback import (
    Takeback,
    find_holder,
    lock_state,
    read_takebacks,
    refusal_of,
    tell_obeyed,
    write_takeback,
)
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Event, Phase, Plan, Promote, Retry, Rollback, Rollout, Start
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board
from canaryproxy.store.base import Saved

ASKED = Takeback("shop", "too slow", "root", 1000.0)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state[1].db"


# --- Files ---


def test_a_request_is_read_as_it_was_written(state: Path) -> None:
    file = write_takeback(state, ASKED)
    assert file.stat().st_mode & 0o777 == 0o600
    later = write_takeback(state, Takeback(None, "x" * 600, "root", 1001.0))
    first, second = read_takebacks(state, heard=True)
    assert first == replace(ASKED, file=file)
    assert (second.route, second.reason, second.file) == (None, "x" * 500, later)
    first.forget()
    first.forget()
    second.refuse()
    assert [*state.parent.iterdir()] == [refusal_of(later)]
    assert read_takebacks(state, heard=True) == []


def test_what_cannot_be_written_leaves_nothing(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        write_takeback(state.parent / "nowhere" / "state.db", ASKED)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_takeback(state, ASKED)
    assert [*state.parent.iterdir()] == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"route": "shop", "reason": "", "by": "", "at": "now"}', "\x00" * 9000, "[" * 9000]
)
def test_what_is_ours_and_no_request_is_one_for_everything(state: Path, text: str) -> None:
    file = write_takeback(state, ASKED)
    file.write_text(text)
    (found,) = read_takebacks(state, heard=False)
    assert (found.route, found.file, found.heard, found.at) == (None, file, False, file.stat().st_mtime)


def test_what_others_could_have_written_is_left_alone(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_takeback(state, ASKED).chmod(0o620)
    outside = state.parent / "outside"
    outside.write_text(json.dumps({"route": None, "reason": "", "by": "", "at": 1.0}))
    write_takeback(state, ASKED).unlink()
    fstat, stranger = os.fstat, os.geteuid() + 1
    assert read_takebacks(state, heard=True) == []
    (mine,) = [file for file in state.parent.iterdir() if ".rollback-" in file.name]
    mine.chmod(0o600)
    assert len(read_takebacks(state, heard=True)) == 1
    monkeypatch.setattr(os, "fstat", lambda file: os.stat_result([*fstat(file)[:4], stranger, *fstat(file)[5:]]))
    assert read_takebacks(state, heard=True) == []


# --- The lock file ---


def test_the_lock_tells_who_and_how_many(state: Path) -> None:
    assert find_holder(state) is None
    lock = state.with_name(f"{state.name}.lock")
    lock.write_text("127.0.0.1:9900\n")
    assert find_holder(state) is None, "nobody has it"
    asking, telling = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        held = os.open(lock, os.O_RDWR)
        lock_state(held)
        for obeyed in (None, 1, 2):
            if obeyed is not None:
                tell_obeyed(held, obeyed)
            os.write(telling[1], b".")
            os.read(asking[0], 1)
        os._exit(0)
    for obeyed in range(3):
        os.read(telling[0], 1)
        assert find_holder(state) == (pid, "127.0.0.1:9900", obeyed)
        with lock.open("r+") as other, pytest.raises(BlockingIOError):
            lock_state(other.fileno())
        os.write(asking[1], b".")
    os.waitpid(pid, 0)
    assert find_holder(state) is None
    for end in (*asking, *telling):
        os.close(end)


# --- On the page to the controller ---


def test_what_is_wanted_is_begun_with_until_it_is_on_record(state: Path) -> None:
    supervisor = Handover()
    supervisor.want([replace(ASKED, file=write_takeback(state, ASKED))])
    supervisor.want([Takeback(None, "", "", 2.0)])
    assert [takeback.route for takeback in supervisor.takebacks] == ["shop", None]
    pid = os.fork()
    if pid == 0:
        supervisor.record()
        os._exit(len(supervisor.takebacks))
    assert os.waitpid(pid, 0)[1] == 0
    assert not supervisor.takebacks
    assert read_takebacks(state, heard=True) == []
    supervisor.want([ASKED])
    assert supervisor.takebacks == (ASKED,)


def test_what_comes_while_another_is_put_on_record_is_not_lost() -> None:
    supervisor = Handover()
    supervisor.want([ASKED])
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reading, 1)
        supervisor.record()
        os._exit(0)
    supervisor.want([replace(ASKED, route="web")])
    os.write(writing, b".")
    os.waitpid(pid, 0)
    assert [takeback.route for takeback in supervisor.takebacks] == ["shop", "web"]
    os.close(reading)
    os.close(writing)


# --- Performed ---


PLAN = {"steps": [{"weight": "5%", "hold": "10m"}, {"weight": "25%", "hold": "10m"}]}
CONFIG = Config.model_validate(
    {
        "pools": {name: {"servers": ["http://127.0.0.1:9"]} for name in ("v1", "v2")},
        "routes": {"shop": {"stable": "v1", "canary": "v2", "rollout": PLAN}},
    }
)
SHOP = CONFIG.routes["shop"]


def rollout(*events: tuple[float, Event]) -> Rollout:
    """What became of the route by these events at these times."""
    made = Rollout("shop", "v1", "v2", "v1", "v2", Plan.from_config(SHOP.rollout))
    for at, event in events:
        made, _ = advance(made, event, at)
    return made


def start(at: float) -> tuple[float, Event]:
    return at, Start(Plan.from_config(SHOP.rollout), 77)


def recovered(made: Rollout, *takebacks: Takeback, board: Board | None = None) -> tuple[Rollout, list[str], int]:
    """The rollout after a start, the sentences to put on record, and the weight on the board."""
    board = board or Board(layout.create(2, 2))
    found = recover_route("shop", SHOP, 0, board, Saved(made.to_dict()), takebacks=takebacks)
    return found.rollout, [record.sentence for record in found.records], board.read(0).weight_bp


def test_a_step_is_rolled_back_with_its_reason_and_not_as_one_that_nobody_knows_of() -> None:
    board = Board(layout.create(2, 2))
    recovered(rollout(start(1.0)), board=board)
    assert board.read(0).weight_bp == 500
    board.publish(0, 0, swapped=False, salt=77)  # the supervisor's work
    after, sentences, weight = recovered(rollout(start(1.0)), ASKED, board=board)
    assert (after.phase, after.reason, weight) == (Phase.ROLLED_BACK, "too slow", 0)
    assert sentences == ["rolled back: all users to v1 (too slow)"]


def test_a_promotion_is_swapped_back_for_its_route_and_left_where_everything_is_meant() -> None:
    promoted = rollout(start(1.0), (2.0, Promote(full=True)), (3.0, Promote()))
    after, _, _ = recovered(promoted, ASKED)
    assert (after.phase, after.stable) == (Phase.ROLLED_BACK, "v1")
    everything = replace(ASKED, route=None)
    assert recovered(promoted, everything)[0].phase is Phase.PROMOTED
    assert recovered(rollout(start(1.0)), everything)[0].phase is Phase.ROLLED_BACK
    assert recovered(rollout(start(1.0)), replace(ASKED, route="web"))[0].phase is Phase.PROGRESSING


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([start(1.0)], Phase.ROLLED_BACK),
        ([start(1001.0)], Phase.PROGRESSING),
        ([start(1.0), (1001.0, Rollback("x")), (1002.0, Retry(Plan.from_config(SHOP.rollout), 78))], Phase.PROGRESSING),
        ([start(1.0), (2.0, Promote(full=True)), (1001.0, Promote())], Phase.ROLLED_BACK),
    ],
)
def test_a_request_of_an_earlier_life_is_about_what_was_then(events: list[Any], expected: Phase) -> None:
    assert recovered(rollout(*events), replace(ASKED, heard=False))[0].phase is expected


def test_one_that_was_performed_is_not_put_on_record_again() -> None:
    done = rollout(start(1.0), (1001.0, Rollback("too slow")))
    assert recovered(done, replace(ASKED, heard=False)) == (done, [], 0)


def test_one_that_was_heard_is_performed_whatever_the_clock_says() -> None:
    assert recovered(rollout(start(5000.0)), ASKED)[0].phase is Phase.ROLLED_BACK
