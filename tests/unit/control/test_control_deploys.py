"""A deploy: which pool it is, what is stored in one transaction, and what the next controller makes of it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.clock import ManualClock
from canaryproxy.config.overlay import Laid
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Controller
from canaryproxy.control.deployment import PATIENCE
from canaryproxy.control.deploys import Deployed, Deploys
from canaryproxy.control.handover import Handover
from canaryproxy.control.pools import BusyError, HandoverError, Pools
from canaryproxy.control.recovery import present_roles, recover_pools
from canaryproxy.control.route import RouteControl
from canaryproxy.control.takeback import Takeback
from canaryproxy.errors import ConfigError, IllegalTransitionError, NotFoundError, StoreError
from canaryproxy.rollout.model import Phase, Promote, Rollback, Tick
from canaryproxy.shared import layout
from canaryproxy.shared.slots import Slots
from canaryproxy.store.sqlite import SqliteStore

STABLE = {"servers": ["http://127.0.0.1:9"], "max_connections": 7, "resolve": "1m"}
HEALTHY = Tick(Verdict(Outcome.PASS, Action.PROMOTE, "healthy"), 1e6)


def file(canary: str | None = None, **pools: Any) -> Config:
    """What stands in the file: route `shop` on v1, route `web` on `base`."""
    routes = {
        "shop": {"stable": "v1", "canary": canary, "rollout": {"steps": [{"weight": "5%"}, {"weight": "25%"}]}},
        "web": {"stable": "base", "match": {"hosts": ["web"]}},
    }
    base = {"servers": ["http://127.0.0.1:8"]}
    return Config.model_validate({"pools": {"v1": STABLE, "base": base, **pools}, "routes": routes})


#: Route, heard, asked so long after the deploy; the state of the deploy then.
CALLED = [
    ("shop", True, 1.0, "called_off"),
    (None, True, -1.0, "called_off"),
    ("shop", False, 1.0, "called_off"),
    ("shop", False, -1.0, "pending"),
    ("other", True, 1.0, "pending"),
]


class World:
    """Controllers come and go as the supervisor, which the test plays, replaces them."""

    def __init__(self, path: Path, config: Config) -> None:
        self.file = config.model_copy(update={"state": config.state.model_copy(update={"path": str(path / "state.db")})})
        self.store = SqliteStore(path / "state.db")
        self.segment, self.handover, self.clock = layout.create(64, 2), Handover(), ManualClock(1000.2)
        self.slots, self.old = Slots(self.segment), set[int]()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.there = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.refusal = ""
        self._ended: list[tuple[Pools, Controller]] = []

    async def begin(self, laid: Laid | None = None) -> None:
        """The next controller, for what is stored (or for `laid`, which is in force)."""
        laid = laid or recover_pools(self.file)
        slots = self.slots.assign(laid.config.routes, self.old)
        self.old = set(slots.values())
        saved = self.store.load()
        self.controller = Controller(laid.config, self.segment, slots, self.store, saved, clock=self.clock, ack_limit=0.01)
        self.pools = Pools(self.controller, self.store, self.handover, laid.registered, laid.roles, limit=5.0)
        self.deploys = Deploys(self.pools)
        self._ended.append((self.pools, self.controller))
        await self.pools.begin(self.store.pools(), present_roles(self.store.roles(), saved))

    @property
    def shop(self) -> RouteControl:
        return self.controller.routes["shop"]

    @property
    def place(self) -> tuple[str, str, str | None]:
        """Phase, stable, canary."""
        rollout = self.shop.rollout
        return rollout.phase.value, rollout.stable, rollout.canary

    @property
    def state(self) -> str:
        return str((self.shop.deployment.document() or {}).get("state"))

    async def ask(self, wanted: Any, version: str = "", route: str = "shop") -> Deployed:
        return await self.deploys.deploy(self.controller.routes[route], wanted, version, "anna", "")

    async def deploy(self, wanted: Any, version: str = "", route: str = "shop") -> None:
        """A deploy that needs new workers, and the controller after it."""
        asking = asyncio.create_task(self.ask(wanted, version, route))
        await until(lambda: self.handover.question or asking.done())
        if not asking.done():
            self.serve()
        assert not (await asking).already
        await self.restart()

    def serve(self) -> None:
        self.handover.serve(self.handover.question, 2, 1)

    async def restart(self) -> None:
        """The controller is dismissed, after a last save, and the next one begins and starts what it can."""
        await self.saved()
        await self.begin()
        await self.settled()

    async def saved(self) -> None:
        for route in self.controller.routes.values():
            assert await route.saver.wait(route.saver.request(), 5)

    async def settled(self) -> None:
        """No look at a canary goes on."""
        await until(lambda: not self.controller.probes)

    async def promote(self) -> None:
        for event in (Promote(full=True), Promote()):
            await self.controller.submit("shop", event)

    def logged(self) -> list[str]:
        return [f"{row['kind']}: {row['sentence']}" for row in reversed(self.store.decisions("shop"))]

    async def end(self) -> None:
        for pools, controller in self._ended:
            await pools.close()
            for probe in controller.probes.values():
                probe.cancel()
        await self.saved()
        self.store.close()
        self.listening.close()


async def until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.001)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, file(spare={"servers": ["http://127.0.0.1:7"], "version": "0.9"}))
    await made.begin()
    yield made
    await made.end()


# --- Day after day ---


async def test_a_version_is_registered_handed_over_and_started(world: World) -> None:
    await world.deploy([world.there], "v2")
    assert (world.place, world.state) == (("progressing", "v1", "v2"), "started")
    assert world.pools.registered["v2"].definition == STABLE | {"servers": [world.there]}, "the settings of what is stable"
    assert world.controller.config.pools["v2"].max_connections == 7
    assert world.logged()[:2] == ["deploy: deploy of v2 asked for by anna", "start: started: step 1 of 2: 5% of users to v2"]
    await world.saved()
    await world.begin()  # a restart in the middle is no reason to start again
    assert (world.place, world.state) == (("progressing", "v1", "v2"), "started")


async def test_promoted_then_the_next_then_back_then_the_one_after(world: World) -> None:
    await world.deploy([world.there], "v2")
    await world.promote()
    await world.restart()
    assert world.place == ("promoted", "v2", "v1")
    await world.deploy([world.there], "v3")
    assert world.place == ("progressing", "v2", "v3")
    await world.promote()
    await world.controller.submit("shop", Rollback("slow"))
    await world.restart()
    assert world.place == ("rolled_back", "v2", "v3")
    await world.deploy([world.there], "v4")
    assert world.place == ("progressing", "v2", "v4")
    assert "v3" in world.pools.registered, "kept while a controller may need it"
    await world.deploy([world.there], "v5")
    assert (world.place, sorted(world.pools.registered)) == (("progressing", "v2", "v5"), ["v2", "v4", "v5"])
    assert sorted(world.controller.config.pools) == ["base", "spare", "v1", "v2", "v4", "v5"], "the file's stay"


async def test_a_deploy_during_a_rollout_begins_anew(world: World) -> None:
    await world.deploy([world.there], "v2")
    before = world.shop.rollout
    await world.deploy([world.there], "v3")
    rollout = world.shop.rollout
    assert (world.place, rollout.weight_bp) == (("progressing", "v1", "v3"), 500)
    assert rollout.salt != before.salt
    assert rollout.revision > before.revision


async def test_what_is_known_of_stable_outlives_a_deploy(world: World) -> None:
    world.shop.judge._unreported = 7.0
    await world.saved()
    await world.deploy([world.there], "v2")
    assert world.shop.judge.state()["times"] == [0.0, 0.0, 7.0]


async def test_back_to_what_stands_by_needs_no_new_workers(world: World) -> None:
    await world.deploy([world.there], "v2")
    await world.promote()
    await world.restart()
    await world.ask("v1")
    assert (world.state, world.handover.question) == ("pending", 0), "nobody listens there"
    assert (world.shop.deployment.document() or {})["canary"] == "v1"
    assert world.shop.deployment.waits == "http://127.0.0.1:9 does not accept connections"
    await world.restart()
    assert (world.place, world.state) == (("promoted", "v2", "v1"), "pending")


async def test_many_in_a_row_leave_nothing_behind(world: World) -> None:
    for n in range(2, 27):
        await world.deploy([world.there], f"v{n}")
        if n % 2:
            await world.promote()
            await world.saved()
    assert len(world.pools.registered) <= 4
    assert len(world.slots._taken) <= 4
    assert len(world.shop.rollout.settled) <= 100


# --- Asked again ---


async def test_asked_again_nothing_happens(world: World) -> None:
    await world.deploy([world.there], "v2")
    before = world.shop.rollout
    for wanted, version in (([world.there], "v2"), ([world.there], ""), ("v2", ""), (world.pools.definition("v2"), "v2")):
        assert (await world.ask(wanted, version)).already == "rolling_out"
    assert world.shop.rollout == before
    await world.promote()
    for wanted, version in (([world.there], "v2"), ("v2", "")):
        assert (await world.ask(wanted, version)).already == "stable"


async def test_asked_again_while_it_is_on_its_way(world: World) -> None:
    asking = asyncio.create_task(world.ask([world.there], "v2"))
    await until(lambda: world.handover.question)
    assert world.state == "handing_over"
    assert (await world.ask([world.there], "v2")).already == "rolling_out"
    with pytest.raises(BusyError):
        await world.ask([world.there], "v3")
    world.serve()
    assert (await asking).outcome is not None


async def test_rolled_back_it_starts_anew(world: World) -> None:
    await world.deploy([world.there], "v2")
    await world.controller.submit("shop", Rollback("no"))
    await world.saved()
    salt = world.shop.rollout.salt
    assert (await world.ask([world.there], "v2")).already == ""
    assert (world.place, world.handover.question) == (("progressing", "v1", "v2"), 0)
    assert world.shop.rollout.salt != salt


# --- Which pool ---


@pytest.mark.parametrize(
    ("wanted", "version", "name"),
    [
        (["http://127.0.0.1:1"], "1.2.3", "1.2.3"),
        (["http://127.0.0.1:1"], "feature/x", "canary-"),
        (["http://127.0.0.1:1"], "", "canary-"),
        (["http://127.0.0.1:1"], "spare", "spare-"),  # another pool has that name
        ({"servers": ["http://127.0.0.1:1"], "version": "2.0"}, "", "2.0"),
        ("spare", "", "spare"),
        (["http://127.0.0.1:7"], "base", "base-"),
    ],
)
async def test_where_a_version_stands(world: World, wanted: Any, version: str, name: str) -> None:
    await world.deploy(wanted, version)
    canary = world.shop.rollout.canary or ""
    assert canary.startswith(name)
    assert (len(canary) - len(name)) in (0, 8)
    pool = world.controller.config.pools[canary]
    assert (pool.version or canary) == (version or pool.version or canary)


async def test_servers_alone_take_the_settings_of_stable_and_a_definition_none(world: World) -> None:
    await world.deploy({"servers": ["http://127.0.0.1:1"]}, "v2")
    assert world.pools.definition("v2") == {"servers": ["http://127.0.0.1:1"]}
    await world.deploy("http://127.0.0.1:1", "v3")
    assert world.pools.definition("v3") == STABLE | {"servers": ["http://127.0.0.1:1"]}


async def test_what_cannot_be_deployed(world: World) -> None:
    with pytest.raises(IllegalTransitionError, match=r"version v1 is stable now .*; give the new version a name of its own"):
        await world.ask(["http://127.0.0.1:1"], "v1")
    with pytest.raises(NotFoundError, match=r"a server is written http://127\.0\.0\.1:9; there is"):
        await world.ask("127.0.0.1:9")
    with pytest.raises(NotFoundError, match=r"pool 'v7': does not exist; there is"):
        await world.ask("v7")
    with pytest.raises(IllegalTransitionError, match=r"pool spare: runs version 0.9, not v9"):
        await world.ask("spare", "v9")
    with pytest.raises(ConfigError, match=r"pools.v2.servers\[0\]"):
        await world.ask(["ftp://x"], "v2")
    with pytest.raises(ConfigError, match=r"canary.version: 'a' is not the version that is deployed, 'b'"):
        await world.ask({"servers": ["http://127.0.0.1:1"], "version": "a"}, "b")
    assert (world.store.pools(), world.store.roles(), world.handover.question) == ({}, {}, 0)


# --- What may come between ---


async def test_while_it_is_handed_over_a_rollout_only_goes_down(world: World) -> None:
    await world.deploy([world.there], "v2")
    asking = asyncio.create_task(world.ask([world.there], "v3"))
    await until(lambda: world.handover.question)
    before = world.shop.rollout
    world.shop.handle(world.shop.deployment.tame(HEALTHY))
    assert world.shop.rollout.weight_bp == before.weight_bp
    with pytest.raises(IllegalTransitionError, match="a deploy of v3 is being handed over to new workers; ask again"):
        await world.promote()
    harm = Tick(Verdict(Outcome.FAIL, Action.ROLLBACK, "broken"), 1.0)
    world.shop.handle(world.shop.deployment.tame(harm))
    assert world.place == ("rolled_back", "v1", "v2")
    world.serve()
    await asking


async def test_a_rollback_calls_the_deploy_off(world: World) -> None:
    await world.deploy([world.there], "v2")
    await world.promote()
    asking = asyncio.create_task(world.ask([world.there], "v3"))
    await until(lambda: world.handover.question)
    await world.controller.submit("shop", Rollback("v2 is bad", by="ben"))
    assert world.handover.is_withdrawn(world.handover.question)
    world.handover.refuse(world.handover.question, "withdrawn")
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: "v3" not in world.store.pools())
    await world.restart()
    assert (world.place, world.state) == (("rolled_back", "v1", "v2"), "started")
    assert "deploy: deploy of v3 could not be handed over and was undone" in world.logged()


def held_up(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """A slow disk: the first event says that a deploy is being stored, and it is stored once the second is set."""
    begun, on, save = asyncio.Event(), asyncio.Event(), world.pools._save

    async def slow(*what: Any) -> None:
        begun.set()
        await on.wait()
        await save(*what)

    monkeypatch.setattr(world.pools, "_save", slow)
    return begun, on


async def test_a_rollback_while_a_deploy_is_stored_calls_it_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no question yet that could be withdrawn."""
    await world.deploy([world.there], "v2")
    await world.promote()
    begun, on = held_up(world, monkeypatch)
    asking = asyncio.create_task(world.ask([world.there], "v3"))
    await begun.wait()
    await world.controller.submit("shop", Rollback("v2 is bad"))
    on.set()
    await until(lambda: world.handover.question)
    assert world.handover.is_withdrawn(world.handover.question)
    world.handover.refuse(world.handover.question, "withdrawn")
    with pytest.raises(HandoverError):
        await asking
    assert world.place == ("rolled_back", "v1", "v2")


async def test_a_rollback_while_a_deploy_of_the_standby_is_stored_calls_it_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deploy([world.there], "v2")
    await world.controller.submit("shop", Rollback("v2 is bad"))
    await world.restart()
    begun, on = held_up(world, monkeypatch)
    asking = asyncio.create_task(world.ask([world.there], "v2"))  # a job tries it again
    await begun.wait()
    await world.controller.submit("shop", Rollback("no, it is bad"))
    on.set()
    await asking
    await world.settled()
    assert (world.place, world.state) == (("rolled_back", "v1", "v2"), "called_off")


async def test_a_rollback_past_the_api_calls_off_what_the_next_controller_is_about_to_hand_over(world: World) -> None:
    laid = recover_pools(world.file)
    asking = asyncio.create_task(world.ask([world.there], "v2"))
    await until(lambda: world.handover.question)
    world.handover = Handover()
    await world.begin(laid)
    world.controller.call_off([Takeback("shop", "night", "root", world.clock.wall() + 1)])
    await until(lambda: world.handover.question)
    assert (world.state, world.handover.is_withdrawn(world.handover.question)) == ("called_off", True)
    asking.cancel()


@pytest.mark.parametrize(("route", "heard", "later", "state"), CALLED)
async def test_a_rollback_past_the_api_calls_it_off_as_any_other(
    world: World, route: str | None, heard: bool, later: float, state: str
) -> None:
    """Not one of another route, nor one that an earlier life was asked before there was this deploy."""
    await world.deploy(["http://127.0.0.1:1"], "v2")
    assert world.state == "pending"
    takeback = Takeback(route, "night", "root", world.clock.wall() + later, heard)
    world.controller.call_off([takeback])
    assert (world.place, world.state) == (("idle", "v1", "v2"), state)
    await world.restart()
    assert world.state == state


async def test_what_is_rolled_back_stays_so_although_the_store_fails_once_at_the_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deploy([world.there], "v2")
    await world.promote()
    asking = asyncio.create_task(world.ask([world.there], "v3"))
    await until(lambda: world.handover.question)
    await world.controller.submit("shop", Rollback("v2 is bad"))
    await world.saved()
    world.serve()
    await asking
    failing, save = [True], world.store.save_pools

    def save_pools(*state: Any) -> None:
        if failing:
            failing.pop()
            raise StoreError("state", "is full")
        save(*state)

    monkeypatch.setattr(world.store, "save_pools", save_pools)
    await world.begin()
    await until(lambda: not failing and world.store.roles()["shop"].stable == "v1")
    world.controller.tick()
    await world.saved()
    await world.begin()
    await world.settled()
    assert world.place == ("idle", "v1", "v3")


async def test_who_listens_hears_of_a_deploy_although_it_is_stored_with_its_pool(world: World) -> None:
    heard: list[str] = []
    world.controller.routes["shop"].saver.listener = lambda _route, decision: heard.append(decision.kind)
    await world.deploy([world.there], "v2")
    assert heard[0] == "deploy"


@pytest.mark.parametrize(("served", "ticks"), [(False, 0), (True, 0), (True, 1)])
async def test_a_rollback_that_comes_too_late_to_call_it_off_still_holds(world: World, served: bool, ticks: int) -> None:
    """Whether the new workers serve already or all of it is killed: v2 does not come back as stable, and nobody gets v3."""
    await world.deploy([world.there], "v2")
    await world.promote()
    asking = asyncio.create_task(world.ask([world.there], "v3"))
    await until(lambda: world.handover.question)
    laid = recover_pools(world.file)  # as the supervisor reads it
    assert laid.config.routes["shop"].stable == "v2"
    await world.controller.submit("shop", Rollback("v2 is bad"))
    await world.saved()
    world.serve()
    await asking
    await world.begin(laid if served else None)
    if served:
        await until(lambda: world.handover.question)  # the next controller hands over once more
        assert world.state == "called_off"
        for _ in range(ticks):  # its record is about the deploy's pools
            world.controller.tick()
            await world.saved()
        world.serve()
        await world.begin()
    await world.settled()
    assert (world.place, world.state) == (("idle", "v1", "v3"), "called_off")
    assert not world.shop.rollout.may_have_users, "nor do beta groups"


async def test_a_hand_over_that_cannot_be_leaves_everything_as_it_was(world: World) -> None:
    await world.deploy([world.there], "v2")
    before = world.shop.rollout
    asking = asyncio.create_task(world.ask([world.there], "v3"))
    await until(lambda: world.handover.question)
    world.handover.refuse(world.handover.question, "no room")
    with pytest.raises(HandoverError, match="route shop: is as before: no room"):
        await asking
    assert (world.shop.rollout, world.state) == (before, "started")
    await world.promote()
    await world.restart()
    assert world.place == ("promoted", "v2", "v1")


async def test_what_cannot_be_stored_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise StoreError("state", "was not written, the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "save_pools", fail)
        with pytest.raises(StoreError):
            await world.ask([world.there], "v2")
    assert (world.state, world.handover.question) == ("None", 0)
    await world.deploy([world.there], "v2")
    with monkeypatch.context() as patch:  # not even what it would end
        patch.setattr(world.store, "save", fail)
        with pytest.raises(StoreError, match="its rollout cannot be saved now, and a deploy neither"):
            await world.ask([world.there], "v3")
    assert world.store.roles()["shop"].canary == "v2"
    await world.promote()


async def test_a_controller_that_was_killed_after_storing_it(world: World) -> None:
    laid = recover_pools(world.file)
    asking = asyncio.create_task(world.ask([world.there], "v2"))
    await until(lambda: world.handover.question)
    world.handover = Handover()  # the question is lost with it
    await world.begin(laid)
    await until(lambda: world.handover.question)
    assert world.state == "handing_over"
    world.serve()
    await world.restart()
    assert (world.place, world.state) == (("progressing", "v1", "v2"), "started")
    asking.cancel()


# --- A canary that is not there ---


async def test_it_is_waited_for_but_not_for_ever(world: World) -> None:
    await world.deploy(["http://127.0.0.1:1"], "v2")
    assert (world.place, world.state) == (("idle", "v1", "v2"), "pending")
    world.clock.advance(PATIENCE + 1)
    world.controller.tick()
    await world.settled()
    detail = "http://127.0.0.1:1 does not accept connections"
    assert (world.state, (world.shop.deployment.document() or {})["detail"]) == ("refused", detail)
    await world.restart()
    assert (world.place, world.state) == (("idle", "v1", "v2"), "refused")
    assert world.logged()[-1] == f"deploy: not started: {detail}"
    assert (await world.ask(["http://127.0.0.1:1"], "v2")).already == "", "asked for again, it is waited for again"
    assert world.state == "pending"


async def test_what_was_registered_long_ago_does_not_start_at_night(world: World) -> None:
    asking = asyncio.create_task(world.ask([world.there], "v2"))
    await until(lambda: world.handover.question)
    world.serve()
    await asking
    world.clock.advance(PATIENCE + 1)  # the proxy was not running
    await world.restart()
    assert (world.place, world.state) == (("idle", "v1", "v2"), "refused")
    await world.saved()
    assert world.logged()[-1] == "deploy: not started: the proxy itself was not there in time"


async def test_a_start_by_hand_does_not_wait(world: World) -> None:
    await world.deploy(["http://127.0.0.1:1"], "v2")
    await world.controller.submit("shop", world.controller.start_event("shop", "ben"))
    assert (world.place, world.state) == (("progressing", "v1", "v2"), "started")


async def test_a_rollback_takes_a_pending_start_back(world: World) -> None:
    await world.deploy(["http://127.0.0.1:1"], "v2")
    await world.controller.submit("shop", Rollback("not today", by="ben"))
    await world.restart()
    assert (world.place, world.state) == (("idle", "v1", "v2"), "called_off")
    assert (world.shop.deployment.document() or {})["detail"] == "called off by ben: not today"


async def test_a_deploy_starts_by_itself_once_whatever_auto_start_says(tmp_path: Path) -> None:
    config = file(canary="v2", v2={"servers": ["http://127.0.0.1:7"]})
    auto = config.routes["shop"].rollout.model_copy(update={"auto_start": True})
    shop = config.routes["shop"].model_copy(update={"rollout": auto})
    world = World(tmp_path, config.model_copy(update={"routes": {**config.routes, "shop": shop}}))
    await world.begin()
    assert world.shop.wants_auto_start()
    await world.deploy(["http://127.0.0.1:1"], "v3")
    world.clock.advance(PATIENCE + 1)
    world.controller.tick()
    await world.settled()
    assert (world.state, world.shop.wants_auto_start()) == ("refused", False)
    await world.end()


# --- The file ---


async def test_two_routes_each_with_its_own_rollout(world: World) -> None:
    await world.deploy([world.there], "v2")
    await world.deploy([world.there], "v5", "web")
    web = world.controller.routes["web"].rollout
    assert (world.place, (web.phase, web.stable, web.canary)) == (
        ("progressing", "v1", "v2"),
        (Phase.PROGRESSING, "base", "v5"),
    )


async def test_once_the_file_says_something_else_it_decides(world: World) -> None:
    await world.deploy([world.there], "v2")
    await world.promote()
    await world.saved()
    shop = world.file.routes["shop"].model_copy(update={"stable": "spare"})
    laid = recover_pools(world.file.model_copy(update={"routes": {**world.file.routes, "shop": shop}}))
    assert (laid.roles, laid.config.routes["shop"].stable) == ({}, "spare")
    assert "route shop: the file now says stable spare and no canary, it said stable v1 and no canary at the last deploy" in (
        "\n".join(laid.sentences)
    )
    await world.begin(laid)
    assert (world.place, world.store.roles()) == (("idle", "spare", None), {})
