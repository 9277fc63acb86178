"""Posted conversions: once, bounded in memory, for the variant that the user has now."""

from __future__ import annotations

from pathlib import Path

import pytest

from canaryproxy.analysis.sample import ArmTick, Tick
from canaryproxy.config.metrics import Metrics
from canaryproxy.control import goals
from canaryproxy.control.goals import Event, Posted, PostedGoals
from canaryproxy.routing.split import choose_variant, seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board
from canaryproxy.shared.userlist import UserList

SALT = 7
METRICS = Metrics.model_validate({"seen": {"goal": {"path": "/seen"}}, "bought": {"goal": "posted"}})


@pytest.fixture
def board() -> Board:
    made = Board(layout.create(1, 1))
    made.publish(0, 5000, swapped=False, salt=SALT)
    return made


@pytest.fixture
def posted(board: Board) -> PostedGoals:
    return PostedGoals(METRICS.goals, board, 0)


def event(n: int, id: str = "") -> Event:
    return Event("bought", f"u-{n}", id or f"id-{n}")


def test_the_variant_is_the_one_the_proxy_gives_the_user_now(posted: PostedGoals, board: Board) -> None:
    expected = [choose_variant(5000, seat(SALT, b"u-%d" % n)) for n in range(100)]
    assert posted.post([event(n) for n in range(100)], 0.0) == Posted(100, 0, 0)
    assert posted.take() == ((0, expected.count(0)), (0, expected.count(1)))
    assert 30 < sum(expected) < 70
    board.publish(0, 0, swapped=False, salt=SALT)
    assert posted.post([event(n) for n in range(100, 200)], 0.0).counted == 100
    assert posted.take() == ((0, 100), (0, 0)), "rolled back: all of them have stable"
    assert posted.take() == ((0, 0), (0, 0)), "handed over once"


def test_users_in_quarantine_are_left_out(posted: PostedGoals, board: Board) -> None:
    board.quarantine(0, (seat(SALT, b"u-1").group,))
    assert posted.post([event(1)], 0.0) == Posted(0, 0, 1)
    assert posted.take() == ((0, 0), (0, 0))


def test_beta_users_are_left_out_whatever_version_they_have(board: Board, tmp_path: Path) -> None:
    file = tmp_path / "beta.txt"
    file.write_text("")
    beta = UserList(str(file))
    posted = PostedGoals(METRICS.goals, board, 0, beta)
    assert posted.post([event(1)], 0.0) == Posted(1, 0, 0)
    file.write_text("u-2\n")
    for now in range(2, 20, 2):
        beta.look(now)
        if beta._thread is not None:
            beta._thread.join()
    assert posted.post([event(2), event(3)], 20.0) == Posted(1, 0, 1)


def test_an_id_counts_once_in_an_hour_and_a_user_once_in_a_minute(posted: PostedGoals) -> None:
    assert posted.post([event(1, "a"), event(1, "b"), event(2, "a")], 0.0) == Posted(1, 2, 0)
    assert posted.post([event(1, "c")], 59.9) == Posted(0, 1, 0)
    assert posted.post([event(1, "a")], 61.0) == Posted(0, 1, 0), "the same order told again"
    assert posted.post([event(1, "d")], 61.0) == Posted(1, 0, 0)
    assert posted.post([event(1, "a")], 3601.0) == Posted(1, 0, 0)


def test_what_is_remembered_is_bounded(posted: PostedGoals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "_MOST", 10)
    posted.post([event(n) for n in range(100)], 0.0)
    assert len(posted._ids._seen) <= 11
    assert posted.post([event(99)], 1.0) == Posted(0, 1, 0), "the latest are kept"
    assert posted.post([event(0)], 1.0) == Posted(1, 0, 0)


def test_a_tick_gets_what_was_posted_and_the_totals_have_both(posted: PostedGoals, board: Board) -> None:
    board.publish(0, 10_000, swapped=False, salt=SALT)
    posted.post([event(1), event(2)], 0.0)
    tick = Tick(1.0, ArmTick(goals=(5, 0)), ArmTick(resolved=3, goals=(4, 0)))
    assert posted.merge(tick) == Tick(1.0, ArmTick(goals=(5, 0)), ArmTick(resolved=3, goals=(4, 2)))
    assert posted.merge(tick) == tick
    assert posted.totals == ([10, 0], [8, 2])
    assert posted.merge(Tick(1.0, ArmTick(), ArmTick())).canary.goals == (0, 0)


def test_a_route_without_goals_has_its_ticks_as_they_are(board: Board) -> None:
    tick = Tick(1.0, ArmTick(goals=(0,) * 8), ArmTick())
    assert PostedGoals({}, board, 0).merge(tick) is tick
