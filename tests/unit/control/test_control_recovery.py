"""What the board shows after a start or restart, and when the file has changed meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from canaryproxy.config.schema import Config
from canaryproxy.control.recovery import recover, recover_route
from canaryproxy.errors import StoreError
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Event, Pause, Phase, Plan, Promote, Rollback, Rollout, Start
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board
from canaryproxy.store.base import Saved

SALT = 77


def config(stable: str = "v1", canary: str | None = "v2") -> Config:
    pools = {name: {"servers": ["http://127.0.0.1:9"]} for name in ("v1", "v2", "v3")}
    routes = {"shop": {"stable": stable, "canary": canary}, "plain": {"stable": "v1"}}
    return Config.model_validate({"pools": pools, "routes": routes})


def rollout(*events: Event) -> Rollout:
    """What became of the route `shop` by these events."""
    plan = Plan.from_config(config().routes["shop"].rollout)
    made = Rollout("shop", "v1", "v2", "v1", "v2", plan)
    for event in (Start(plan, SALT), *events):
        made, _ = advance(made, event, 0.0)
    return made


def saved(made: Rollout) -> dict[str, Saved]:
    return {"shop": Saved(made.to_dict())}


@pytest.fixture
def board() -> Board:
    return Board(layout.create(4, 2))


def shown(board: Board, slot: int = 0) -> tuple[int, bool, int]:
    return board.read(slot)[1:4]


PROMOTED = (Promote(full=True), Promote())


@pytest.mark.parametrize(
    ("events", "split"),
    [
        ((), (100, False, SALT)),
        ((Promote(),), (500, False, SALT)),
        ((Promote(full=True),), (10_000, False, SALT)),
        (PROMOTED, (0, True, SALT)),
        ((Rollback("x"),), (0, False, SALT)),
        ((*PROMOTED, Rollback("x")), (0, False, SALT)),
    ],
)
def test_a_fresh_board_shows_what_was_saved(board: Board, events: tuple[Event, ...], split: tuple[int, bool, int]) -> None:
    before = rollout(*events)
    assert recover(config(), {"shop": 0}, board, saved(before))["shop"] == before
    assert shown(board) == split
    epoch = board.read(0).epoch
    assert recover(config(), {"shop": 0}, board, saved(before))["shop"] == before
    assert board.read(0).epoch == epoch


def test_only_the_named_routes_are_recovered(board: Board) -> None:
    assert set(recover(config(), {"plain": 3}, board, {})) == {"plain"}
    assert board.read(0).epoch == 0


def test_a_promoted_pool_that_the_file_has_caught_up_with_is_not_swapped(board: Board) -> None:
    recover(config(stable="v2", canary="v1"), {"shop": 0}, board, saved(rollout(*PROMOTED)))
    assert shown(board)[:2] == (0, False)


def test_other_pools_in_the_file_end_the_rollout(board: Board) -> None:
    found = recover_route("shop", config(canary="v3").routes["shop"], 0, board, saved(rollout())["shop"])
    assert (found.rollout.phase, found.rollout.canary, shown(board)[0]) == (Phase.IDLE, "v3", 0)
    assert found.sentence is not None
    assert "take the place of stable v1 and canary v2" in found.sentence


@pytest.mark.parametrize("events", [(), (Promote(),), (Promote(full=True),), PROMOTED])
def test_a_rollback_that_only_the_board_knows_is_not_undone(board: Board, events: tuple[Event, ...]) -> None:
    before = rollout(*events)
    board.publish(0, 0, swapped=False, salt=SALT)
    found = recover_route("shop", config().routes["shop"], 0, board, saved(before)["shop"])
    assert (found.rollout.phase, found.rollout.stable, shown(board)) == (Phase.ROLLED_BACK, "v1", (0, False, SALT))
    assert [record.kind for record in found.records] == ["rollback"]


@pytest.mark.parametrize("seen", [0, 100])
def test_nor_is_one_of_a_rollout_that_waits_at_weight_0(board: Board, seen: int) -> None:
    """In a gate before its first step only beta groups have the canary, and the weight says nothing of a rollback."""
    waiting = replace(rollout(), weight_bp=0)
    shop = config().routes["shop"]
    board.publish(0, seen, swapped=False, salt=SALT, overrides=True)
    assert recover_route("shop", shop, 0, board, saved(waiting)["shop"]).rollout == waiting
    assert board.read(0)[1:] == (0, False, SALT, True)
    board.publish(0, 0, swapped=False, salt=SALT)
    found = recover_route("shop", shop, 0, board, saved(waiting)["shop"])
    assert (found.rollout.phase, board.read(0)[1:]) == (Phase.ROLLED_BACK, (0, False, SALT, False))


DECLINED = replace(rollout(), phase=Phase.IDLE, weight_bp=0, settled=("v2",))


@pytest.mark.parametrize(
    ("made", "overrides"),
    [
        (rollout(), True),
        (rollout(Promote(full=True)), True),
        (rollout(Pause()), True),
        (rollout(*PROMOTED), False),
        (rollout(Rollback("x")), False),
        (rollout(*PROMOTED, Rollback("x")), False),
        (DECLINED, False),
        (replace(DECLINED, settled=("v0",)), True),
        (replace(DECLINED, canary=None, file_canary=None), False),
    ],
)
def test_beta_groups_have_the_canary_as_long_as_it_may_have_users(board: Board, made: Rollout, overrides: bool) -> None:
    recover_route("shop", config(canary=made.file_canary).routes["shop"], 0, board, saved(made)["shop"])
    assert board.read(0).overrides == overrides


@pytest.mark.parametrize(
    ("events", "split"),
    [
        ((), {"weight_bp": 0, "swapped": False, "salt": 5}),  # started, and killed before it was shown
        ((Promote(),), {"weight_bp": 100, "swapped": False, "salt": SALT}),  # the same at step 2
        ((), {"weight_bp": 0, "swapped": False, "salt": SALT, "overrides": True}),  # a gate opened, the same
        (PROMOTED, {"weight_bp": 10_000, "swapped": False, "salt": SALT}),  # promoted, the same
    ],
)
def test_what_was_saved_and_not_yet_shown_is_shown(board: Board, events: tuple[Event, ...], split: dict[str, Any]) -> None:
    before = rollout(*events)
    board.publish(0, **split)
    assert recover(config(), {"shop": 0}, board, saved(before))["shop"] == before
    assert shown(board)[:2] == (before.weight_bp, before.stable == "v2")


def test_a_record_that_cannot_be_read_stops_the_start(board: Board) -> None:
    record = replace(rollout()).to_dict() | {"phase": "flying"}
    with pytest.raises(StoreError, match="cannot be understood"):
        recover(config(), {"shop": 0}, board, {"shop": Saved(record)})
    assert board.read(0).epoch == 0
