"""Which slot each route has."""

from __future__ import annotations

import pytest

from canaryproxy.config.schema import Route
from canaryproxy.errors import StartError
from canaryproxy.routing.split import seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, STABLE, USERS_WORDS
from canaryproxy.shared.ledger import Counters
from canaryproxy.shared.reading import read_block
from canaryproxy.shared.slots import Slots


def routes(*names: str, canary: str = "v2") -> dict[str, Route]:
    return {name: Route(stable="v1", canary=canary) for name in names}


def test_a_route_keeps_its_slot_while_its_pools_stay() -> None:
    slots = Slots(layout.create(4, 1))
    assert slots.assign(routes("a", "b"), set()) == {"a": 0, "b": 1}
    assert slots.assign(routes("b", "c"), {0, 1}) == {"b": 1, "c": 2}
    assert slots.assign(routes("a", "b"), {1, 2}) == {"a": 0, "b": 1}, "slot 0 is free, and cleared"


def test_another_pool_is_another_slot_until_the_old_workers_have_gone() -> None:
    slots = Slots(layout.create(2, 1))
    assert slots.assign(routes("a"), set()) == {"a": 0}
    assert slots.assign(routes("a", canary="v3"), {0}) == {"a": 1}
    assert slots.assign(routes("a"), {0, 1}) == {"a": 0}, "back to what the old workers still serve"
    with pytest.raises(StartError, match="more routes than the shared memory was made for"):
        slots.assign(routes("a", canary="v4"), {0, 1})


def test_a_slot_that_is_given_out_again_is_clean() -> None:
    segment = layout.create(1, 2)
    slots = Slots(segment)
    slots.assign(routes("a"), set())
    Board(segment).publish(0, 500, swapped=True, salt=3)
    for worker in (0, 1):
        AckRow(segment, worker).enter(worker + 10, 1.0)
        for variant in (STABLE, CANARY):
            Counters(segment, worker, 0, variant).begin(1.0, seat(0, b"anna"), at_rest=True)
    assert slots.assign(routes("b"), set()) == {"b": 0}
    assert Board(segment).read(0) == (0, 0, False, 0, False)
    assert not any(any(read_block(segment, 0, variant).words) for variant in (STABLE, CANARY))
    for worker in (0, 1):
        users = segment.layout.users(worker, 0)
        assert not any(segment.words[users : users + USERS_WORDS])
