"""A rollback past the controller, in the supervisor: whose weight goes down, in which order, and what is answered."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from canaryproxy.config.schema import Route
from canaryproxy.control.handover import Handover
from canaryproxy.control.takeback import Takeback, refusal_of, write_takeback
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board
from canaryproxy.shared.slots import Slots
from canaryproxy.store.marks import End, Mark, Marks
from canaryproxy.supervisor.child import Child
from canaryproxy.supervisor.takeback import Takebacks


class World:
    """Two routes at 5 %; slot 2 is the shop's as older workers know it."""

    def __init__(self, folder: Path) -> None:
        segment = layout.create(4, 2)
        self.board, slots = Board(segment), Slots(segment)
        old = slots.assign({"shop": Route(stable="v1", canary="v0")}, set())
        self.routes = slots.assign(
            {"shop": Route(stable="v1", canary="v2"), "web": Route(stable="v1", canary="v2")}, {*old.values()}
        )
        self.slots = {"old": old["shop"], **self.routes}
        for slot in self.slots.values():
            self.board.publish(slot, 500, swapped=False, salt=7)
        self.state, self.handover = folder / "state.db", Handover()
        self.takebacks = Takebacks(str(self.state), self.handover, self.board, slots)
        self.takebacks.find()
        self.lock = os.open(folder / "state.db.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def weights(self) -> dict[str, int]:
        return {name: self.board.read(slot).weight_bp for name, slot in self.slots.items()}

    def ask(self, route: str | None) -> Path:
        return write_takeback(self.state, Takeback(route, "", "root", time.time()))

    def obey(self, number: int, controller: Child | None = None) -> bool:
        return self.takebacks.obey(number, controller, self.lock)

    def wanted(self) -> list[str | None]:
        return [takeback.route for takeback in self.handover.takebacks]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_one_route_in_every_generation(world: World) -> None:
    world.ask("shop")
    assert world.obey(signal.SIGUSR2)
    assert world.weights() == {"old": 0, "shop": 0, "web": 500}
    assert world.wanted() == ["shop"]
    assert not world.obey(signal.SIGUSR2), "the same file asks for nothing new"
    world.ask(None)
    assert world.obey(signal.SIGUSR2)
    assert world.weights() == {"old": 0, "shop": 0, "web": 0}
    assert world.wanted() == ["shop", None]


def test_the_signal_alone_means_everything(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert not world.obey(signal.SIGUSR2)
    assert world.weights() == {"old": 500, "shop": 500, "web": 500}
    assert world.obey(signal.SIGRTMIN)
    assert world.weights() == {"old": 0, "shop": 0, "web": 0}
    assert caplog.messages == ["every route: canary weight set to 0, asked for past the controller by SIGRTMIN"]


def test_a_hand_over_that_goes_on_is_asked_for_again_by_a_controller_that_knows(world: World) -> None:
    """It may be the deploy that the rollback calls off."""
    question = world.handover.ask()
    assert world.obey(signal.SIGRTMIN)
    assert world.handover.is_withdrawn(question)


def test_what_no_file_says_is_marked(world: World) -> None:
    """As its newest configuration knows it; a file is a mark of its own."""
    world.board.publish(world.slots["old"], 500, swapped=False, salt=6)
    world.board.publish(world.slots["web"], 0, swapped=False, salt=7)
    assert world.obey(signal.SIGRTMIN)
    marks = Marks(world.state)
    assert (marks.read("shop"), marks.read("web")) == (Mark(1, 7, End.TAKEN), None)
    world.board.publish(world.slots["web"], 500, swapped=False, salt=7)
    world.ask("web")
    assert world.obey(signal.SIGUSR2)
    assert Marks(world.state).read("web") is None


def test_a_route_that_is_not_there_is_refused_and_nothing_killed(world: World) -> None:
    file = world.ask("shoop")
    assert not world.obey(signal.SIGUSR2, Child(0, "controller", 0.0))
    assert (refusal_of(file).exists(), file.exists(), world.wanted()) == (True, False, [])


def test_what_a_killed_command_has_left_is_no_news(world: World) -> None:
    """It may be days old: what it was about, the next controller decides by the times."""
    write_takeback(world.state, Takeback("web", "", "root", time.time() - 3600))
    world.ask("shop")
    assert world.obey(signal.SIGUSR2)
    assert world.weights() == {"old": 0, "shop": 0, "web": 500}
    assert [(takeback.route, takeback.heard) for takeback in world.handover.takebacks] == [("web", False), ("shop", True)]


def test_what_an_earlier_life_left_is_begun_with(tmp_path: Path) -> None:
    write_takeback(tmp_path / "state.db", Takeback("shop", "", "root", 1.0))
    world = World(tmp_path)
    assert [(takeback.route, takeback.heard) for takeback in world.handover.takebacks] == [("shop", False)]
    assert not world.obey(signal.SIGUSR2)


def test_the_controller_has_ended_before_the_board_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes the board as long as it lives: here as fast as it can."""
    pid = os.fork()
    if pid == 0:
        while True:
            world.board.publish(world.slots["shop"], 500, swapped=False, salt=7)
    child = Child(pid, "controller", 0.0)
    world.ask("shop")
    assert world.obey(signal.SIGUSR2, child)
    assert (child.leaving, world.weights()["shop"]) == (True, 0)
    assert os.waitpid(pid, os.WNOHANG)[0] == pid
    assert world.weights()["shop"] == 0


def test_one_that_cannot_be_killed_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a disk that hangs dies when the disk answers."""
    monkeypatch.setattr("canaryproxy.supervisor.takeback._END_SECONDS", 0.02)
    monkeypatch.setattr(Child, "signal", lambda *_: None)
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    assert world.obey(signal.SIGRTMIN, Child(pid, "controller", 0.0))
    assert world.weights()["shop"] == 0
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
