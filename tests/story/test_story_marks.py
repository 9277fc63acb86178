"""After a kill of everything, what the record does not know and the mark beside it does: nobody gets a canary back by it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from control_world import MemoryStore, config

from canaryproxy.clock import ManualClock
from canaryproxy.control.controller import Controller
from canaryproxy.control.recovery import mark_taken_back, open_marks, recover
from canaryproxy.control.takeback import Takeback
from canaryproxy.rollout.model import Event, Phase, Promote, Rollback, SetWeight
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board
from canaryproxy.store.marks import End, Mark, Marks


class Machine:
    """Every process of it can be killed; the store and what is mapped from files stay."""

    def __init__(self, folder: Path, *, auto_start: bool = False) -> None:
        self.config = config(auto_start=auto_start)
        self.store, self.folder = MemoryStore(), folder
        self.marks = Marks(folder / "state.db")
        self.takebacks: tuple[Takeback, ...] = ()
        self.begin()

    def begin(self) -> None:
        """As the supervisor and then the controller begin: with a board that knows nothing."""
        self.marks.settle(5)
        self.marks = Marks(self.folder / "state.db")
        segment = layout.create(2, 2)
        self.board = Board(segment)
        made = recover(self.config, {"shop": 0}, self.board, self.store.load(), takebacks=self.takebacks, marks=self.marks)
        self.first = (made["shop"].phase, self.board.read(0)[1:3])
        self.controller = Controller(
            self.config,
            segment,
            {"shop": 0},
            self.store,
            self.store.load(),
            clock=ManualClock(1000.2),
            save_limit=0.2,
            ack_limit=0,
            takebacks=self.takebacks,
            marks=self.marks,
        )

    def take_back(self) -> None:
        """As the supervisor does it, which does not know what is in progress."""
        self.marks.settle(5)
        salt = self.board.read(0).salt
        assert self.board.take_down(0)
        mark_taken_back(str(self.folder / "state.db"), {"shop": salt})

    async def do(self, *events: Event) -> None:
        for event in events:
            await self.controller.submit("shop", event)

    async def start(self, *events: Event) -> None:
        await self.do(self.controller.start_event("shop"), *events)

    @property
    def now(self) -> tuple[Phase, tuple[int, bool]]:
        """Phase, and (weight, swapped) on the board; the supervisor came to the same before any worker was forked."""
        found = self.controller.routes["shop"].rollout.phase, self.board.read(0)[1:3]
        assert found == self.first
        return found

    @property
    def sentences(self) -> list[str]:
        return [decision.sentence for _, decision in self.store.log]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("before", [(), (Promote(),), (Promote(full=True),), (SetWeight(7000),), (SetWeight(0),)])
async def test_a_rollback_that_no_disk_took_is_not_undone(machine: Machine, before: tuple[Event, ...]) -> None:
    await machine.start(*before)
    machine.store.failing = True
    await machine.do(Rollback("bad"))
    machine.store.failing = False
    machine.begin()
    assert machine.now == (Phase.ROLLED_BACK, (0, False))
    machine.controller.tick()
    await machine.do(Rollback())
    assert "which the record does not have" in "".join(machine.sentences)
    machine.begin()
    assert machine.now == (Phase.ROLLED_BACK, (0, False))


@pytest.mark.parametrize("before", [(), (Promote(),), (Promote(full=True),)])
async def test_nor_is_what_the_supervisor_took_back(machine: Machine, before: tuple[Event, ...]) -> None:
    await machine.start(*before)
    machine.take_back()
    machine.begin()
    assert machine.now == (Phase.ROLLED_BACK, (0, False))
    await machine.do(machine.controller.retry_event("shop"))
    machine.begin()
    assert machine.now == (Phase.PROGRESSING, (500, False))


async def test_the_record_says_who_had_it_taken_back_where_the_controller_is_told(machine: Machine) -> None:
    await machine.start()
    machine.take_back()
    machine.takebacks = (Takeback(None, "asked for by a signal", "command line", 2000.0),)
    machine.begin()
    assert machine.now == (Phase.ROLLED_BACK, (0, False))
    machine.controller.tick()
    await machine.do(Rollback())
    assert machine.sentences[1] == "rolled back: all users to v1 (asked for by a signal)"


async def test_what_the_supervisor_took_down_is_no_rollback_where_there_was_no_rollout(tmp_path: Path) -> None:
    """Neither where nothing was ever recorded nor later. Only beta groups could be on it."""
    machine = Machine(tmp_path, auto_start=True)
    machine.take_back()
    machine.begin()
    route = machine.controller.routes["shop"]
    assert (machine.now, route.wants_auto_start(), route.saver._decisions) == ((Phase.IDLE, (0, False)), True, [])
    route.saver.request()
    assert await route.saver.wait(1, 5)
    machine.take_back()
    machine.begin()
    assert machine.controller.routes["shop"].wants_auto_start()


async def test_a_disk_that_stands_still_holds_up_no_rollback_and_no_loop(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the store nor the mark can be written; the board is told, and whoever asked gets an answer."""
    await machine.start()
    machine.marks.settle(5)
    waits, goes_on, seen, really = threading.Event(), threading.Event(), list[int](), ctypes.memmove

    def stand_still(*what: Any) -> None:
        seen.append(machine.board.read(0).weight_bp)
        waits.set()
        goes_on.wait(30)
        really(*what)

    monkeypatch.setattr("canaryproxy.store.marks.ctypes.memmove", stand_still)
    machine.store.open.clear()
    try:
        answer = await machine.controller.submit("shop", Rollback("bad"))
        assert (answer.rollout.phase, answer.saved, machine.marks.is_settled) == (Phase.ROLLED_BACK, False, False)
        assert waits.wait(5)
        assert seen == [0], "the board first"
    finally:
        goes_on.set()
    machine.begin()  # killed after the disk went on
    assert machine.now == (Phase.ROLLED_BACK, (0, False))
    machine.store.open.set()


async def test_nor_is_one_after_a_promotion(machine: Machine) -> None:
    await machine.start(Promote(full=True), Promote())
    machine.begin()
    assert machine.now == (Phase.PROMOTED, (0, True))
    machine.store.failing = True
    await machine.do(Rollback("bad"))
    machine.begin()
    assert machine.now == (Phase.ROLLED_BACK, (0, False))


async def test_a_canary_that_was_started_and_rolled_back_unsaved_does_not_start_by_itself(tmp_path: Path) -> None:
    machine = Machine(tmp_path, auto_start=True)
    assert machine.controller.routes["shop"].wants_auto_start()
    machine.store.failing = True
    await machine.start(Rollback("bad"))
    machine.store.failing = False
    machine.begin()
    assert machine.now == (Phase.IDLE, (0, False))
    assert not machine.controller.routes["shop"].wants_auto_start()


async def test_a_retry_is_no_rollback(machine: Machine) -> None:
    await machine.start(Rollback("bad"), machine.controller.retry_event("shop"))
    machine.begin()
    assert machine.now == (Phase.PROGRESSING, (500, False))
    await machine.do(Rollback("bad"))
    machine.store.failing = True
    await machine.do(machine.controller.retry_event("shop"))
    machine.store.failing = False
    machine.begin()
    assert machine.now == (Phase.ROLLED_BACK, (0, False)), "a raise that was not saved never was"


async def test_a_save_that_is_overtaken_by_a_rollback_does_not_unmark_it(machine: Machine) -> None:
    await machine.start()
    route = machine.controller.routes["shop"]
    older = route.rollout
    route.handle(Rollback("bad"))
    route._written(older)
    mark = machine.marks.read("shop")
    assert mark is not None
    assert mark.end is End.ROLLED_BACK


def emptied(machine: Machine) -> None:
    machine.store.saved.clear()


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ((Rollback("bad"),), "its last rollout was rolled back"),
        ((Promote(full=True), Promote()), "its last rollout was promoted: see which pool"),
        ((), "its last rollout had not ended"),
    ],
)
async def test_a_lost_state_is_said_and_starts_nothing_by_itself(tmp_path: Path, events: tuple[Event, ...], words: str) -> None:
    machine = Machine(tmp_path, auto_start=True)
    await machine.start(*events)
    before = machine.controller.routes["shop"].rollout.revision
    machine.store.saved.clear()
    machine.begin()
    assert machine.now == (Phase.IDLE, (0, False))
    route = machine.controller.routes["shop"]
    assert not route.wants_auto_start()
    assert route.rollout.revision > before
    assert words in route.rollout.reason
    machine.controller.tick()
    await machine.do(Rollback())
    machine.begin()
    assert not machine.controller.routes["shop"].wants_auto_start()
    assert route.rollout.revision == machine.controller.routes["shop"].rollout.revision, "once is enough"


async def test_a_new_route_is_not_lost(tmp_path: Path) -> None:
    assert Machine(tmp_path, auto_start=True).controller.routes["shop"].wants_auto_start()


SetBack = Callable[[Machine], None]


async def set_back(machine: Machine, *later: Event) -> None:
    """The state file as it was before these events."""
    old = dict(machine.store.saved)
    await machine.do(*later)
    machine.store.saved = old
    machine.begin()


async def test_a_record_that_was_set_back_keeps_what_is_marked(machine: Machine) -> None:
    await machine.start()
    await set_back(machine, Promote(), Rollback("bad"))
    assert machine.now == (Phase.ROLLED_BACK, (0, False))


@pytest.mark.parametrize("before", [(), (Promote(full=True),), (SetWeight(7000),)])
async def test_a_promotion_stays(machine: Machine, before: tuple[Event, ...]) -> None:
    await machine.start(*before)
    await set_back(machine, Promote(full=True), *(Promote(),) * (not before or isinstance(before[0], SetWeight)))
    assert machine.now == (Phase.PROMOTED, (0, True))


async def test_and_stays_through_the_next_kill(machine: Machine) -> None:
    await machine.start(Promote(full=True))
    await set_back(machine, Promote())
    machine.begin()  # killed before the first save
    assert machine.now == (Phase.PROMOTED, (0, True))


async def test_a_rollback_that_is_made_again_has_the_number_it_had(machine: Machine) -> None:
    """By which those who were told of it know it again (`control.outbox`)."""
    await machine.start()
    machine.store.failing = True
    await machine.do(Rollback("bad"))
    before = machine.controller.routes["shop"].rollout.revision
    machine.store.failing = False
    machine.begin()
    assert machine.controller.routes["shop"].rollout.revision == before


async def test_a_rollout_of_before_is_over(machine: Machine) -> None:
    await machine.start()
    await set_back(machine, Rollback("bad"), machine.controller.retry_event("shop"))
    assert machine.now == (Phase.ROLLED_BACK, (0, False))


async def test_in_the_same_rollout_the_older_record_holds(machine: Machine) -> None:
    await machine.start()
    await set_back(machine, Promote())
    assert machine.now == (Phase.PROGRESSING, (500, False))


async def test_an_older_mark_means_nothing(machine: Machine) -> None:
    """A power cut has lost the newer one."""
    await machine.start()
    machine.marks.write("shop", Mark(0, machine.controller.routes["shop"].rollout.salt, End.ROLLED_BACK))
    machine.begin()
    assert machine.now == (Phase.PROGRESSING, (500, False))


def test_without_marks_it_goes_on_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state.db.marks").mkdir()
    assert open_marks(str(tmp_path / "state.db")) is None
    assert "state.db.marks: cannot be made or mapped (is a directory)" in caplog.text
