"""Registering a pool: stored before it is asked for, put back when it cannot be, finished by the next controller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.clock import ManualClock
from canaryproxy.config.overlay import Registered, Role, with_pools
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover, Outcome
from canaryproxy.control.pools import BusyError, Change, HandoverError, Pools
from canaryproxy.errors import ConfigError, IllegalTransitionError, StoreError
from canaryproxy.shared import layout
from canaryproxy.store.base import Decision
from canaryproxy.store.sqlite import SqliteStore

CONFIG = Config.model_validate(
    {
        "pools": {"v1": {"servers": ["http://127.0.0.1:9"]}, "v2": {"servers": ["http://127.0.0.1:10"]}},
        "routes": {"shop": {"stable": "v1", "canary": "v2"}, "plain": {"stable": "v1", "match": {"hosts": ["plain"]}}},
    }
)
NEW = {"servers": ["http://127.0.0.1:11"]}
MADE = Registered(NEW, {"servers": ["http://127.0.0.1:9"]}, 0.0, "anna")


async def until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.001)


class Store(SqliteStore):
    """`failing`: saving pools raises."""

    failing = False

    def save_pools(
        self, pools: Mapping[str, Registered], decisions: Mapping[str, Decision], roles: Mapping[str, Role] | None = None
    ) -> None:
        if self.failing:
            raise StoreError("state", "was not written, the disk is full", "make room")
        super().save_pools(pools, decisions, roles)


class Setup:
    """A controller whose supervisor is the test."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path / "state.db")
        self.handover = Handover()
        self.controller = Controller(
            CONFIG, layout.create(4, 2), {"shop": 0, "plain": 1}, self.store, {}, clock=ManualClock(1000.2)
        )
        self.made: list[Pools] = []

    def pools(self, registered: Mapping[str, Registered] | None = None, **options: Any) -> Pools:
        registered = registered or {}
        self.controller.config = with_pools(CONFIG, {name: pool.definition for name, pool in registered.items()})
        self.made.append(Pools(self.controller, self.store, self.handover, registered, **options))
        return self.made[-1]

    async def asked(self) -> int:
        """The question, once there is one."""
        await until(lambda: self.handover.question)
        return self.handover.question

    def stored(self) -> dict[str, Registered]:
        return {name: replace(pool, at=0.0) for name, pool in self.store.pools().items()}

    def logged(self, route: str) -> list[str]:
        return [row["sentence"] for row in self.store.decisions(route)]


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path)
    yield made
    for pools in made.made:
        await pools.close()
    await made.controller.close()


def register(pools: Pools, name: str = "v1", definition: Mapping[str, Any] = NEW) -> asyncio.Task[Change]:
    return asyncio.create_task(pools.register(name, definition, "anna"))


async def test_it_is_stored_before_it_is_asked_for(setup: Setup) -> None:
    pools = setup.pools()
    change = register(pools)
    question = await setup.asked()
    assert setup.stored() == {"v1": MADE}
    assert pools.registered == {}
    setup.handover.serve(question, 2, 4)
    made = await change
    assert (made.outcome, made.registered) == (Outcome(2, 4), pools.registered["v1"])
    assert pools.definition("v1") == NEW
    assert str(setup.controller.config.pools["v1"].servers[0]) == NEW["servers"][0]
    assert setup.logged("shop") == setup.logged("plain") == ["pool v1: changed by anna"]
    with pytest.raises(BusyError):  # this controller is about to be replaced
        await pools.register("v2", NEW, "ben")


async def test_a_pool_that_is_new_belongs_to_no_route(setup: Setup) -> None:
    pools = setup.pools()
    change = register(pools, "v3")
    setup.handover.serve(await setup.asked(), 2, 4)
    assert (await change).registered.file is None
    assert setup.logged("shop") == []


async def test_a_second_change_over_the_first_remembers_the_file(setup: Setup) -> None:
    pools = setup.pools({"v1": MADE, "v3": MADE})
    change = register(pools, definition={"servers": ["http://127.0.0.1:12"]})
    await setup.asked()
    assert setup.stored().keys() == {"v1", "v3"}
    assert setup.stored()["v1"].file == MADE.file
    change.cancel()


async def test_a_refusal_puts_everything_back(setup: Setup) -> None:
    pools = setup.pools({"v3": MADE})
    change = register(pools)
    setup.handover.refuse(await setup.asked(), "no room")
    with pytest.raises(HandoverError, match=r"pool v1: is as before: no room"):
        await change
    assert setup.stored() == pools.registered == {"v3": MADE}
    assert pools.definition("v1") == {"servers": ["http://127.0.0.1:9"]}
    assert setup.logged("shop") == ["pool v1: its change could not be served and was undone", "pool v1: changed by anna"]
    again = register(pools)
    setup.handover.serve(await setup.asked(), 2, 4)
    assert (await again).outcome == Outcome(2, 4)


async def test_a_refusal_that_cannot_be_put_back_says_so(setup: Setup) -> None:
    change = register(setup.pools())
    question = await setup.asked()
    setup.store.failing = True
    setup.handover.refuse(question, "no room")
    with pytest.raises(HandoverError, match=r"no room; but a restart will try it, for it is still stored"):
        await change


async def test_what_cannot_be_stored_is_not_asked_for(setup: Setup) -> None:
    pools = setup.pools()
    setup.store.failing = True
    with pytest.raises(StoreError, match="disk is full"):
        await pools.register("v1", NEW, "anna")
    assert setup.handover.question == 0
    setup.store.failing = False
    change = register(pools)
    setup.handover.serve(await setup.asked(), 2, 4)
    assert (await change).outcome is not None


async def test_one_change_at_a_time(setup: Setup) -> None:
    pools = setup.pools()
    first, second = register(pools), register(pools, "v2")
    setup.handover.serve(await setup.asked(), 2, 4)
    assert (await first).outcome is not None
    with pytest.raises(BusyError, match="ask again in a second"):
        await second
    assert setup.stored() == {"v1": MADE}


@pytest.mark.parametrize("leave", [False, True])
async def test_an_answer_does_not_wait_for_ever(setup: Setup, leave: bool) -> None:
    pools = setup.pools(limit=10.0 if leave else 0.01)
    change = register(pools)
    question = await setup.asked()
    if leave:
        pools.leave()
    assert (await change).outcome is None
    setup.handover.refuse(question, "no room")
    assert setup.stored() == {"v1": MADE}


async def test_a_late_refusal_is_put_back_too(setup: Setup) -> None:
    pools = setup.pools(limit=0.01)
    change = register(pools)
    question = await setup.asked()
    await change
    setup.handover.refuse(question, "no room")
    await until(lambda: not setup.stored())


async def test_nothing_wrong_is_stored(setup: Setup) -> None:
    pools = setup.pools()
    with pytest.raises(ConfigError):
        await pools.register("v1", {"servers": []}, "anna")
    await setup.controller.submit("shop", setup.controller.start_event("shop"))
    with pytest.raises(IllegalTransitionError, match=r"pool v2: is in a rollout of route shop; its version cannot change"):
        await pools.register("v2", NEW | {"version": "3"}, "anna")
    assert setup.stored() == {}
    change = register(pools, "v2")  # the same version on other servers
    setup.handover.serve(await setup.asked(), 2, 4)
    assert (await change).outcome is not None


# --- What a predecessor left ---


async def test_what_is_in_force_needs_nothing(setup: Setup) -> None:
    await setup.pools({"v1": MADE}).begin({"v1": MADE})
    assert setup.handover.question == 0


async def test_what_is_stored_and_not_in_force_is_handed_over(setup: Setup) -> None:
    pools = setup.pools()
    setup.store.save_pools({"v1": MADE}, {})
    await pools.begin(setup.store.pools())
    assert await setup.asked()
    with pytest.raises(BusyError):
        await pools.register("v2", NEW, "anna")


async def test_what_is_stored_and_refused_again_is_put_back(setup: Setup) -> None:
    setup.store.save_pools({"v1": MADE}, {})
    await setup.pools().begin(setup.store.pools())
    setup.handover.refuse(await setup.asked(), "no room")
    await until(lambda: not setup.stored())


@pytest.mark.parametrize("failing", [False, True])
async def test_what_the_file_decides_now_is_forgotten(setup: Setup, failing: bool) -> None:
    old = {"v1": Registered(NEW, {"servers": ["http://127.0.0.1:8"]}, 1.0, "anna"), "v4": Registered(NEW, {}, 1.0, "anna")}
    setup.store.save_pools(old, {})
    setup.store.failing = failing
    await setup.pools().begin(setup.store.pools())
    assert setup.store.pools() == (old if failing else {})
    assert setup.handover.question == 0
