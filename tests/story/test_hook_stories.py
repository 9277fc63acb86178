"""A controller, its hooks and the disk: what is told when all is well, when the store fails, and after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from control_world import ROLLOUT, World, verdict
from hook_receiver import Receiver, hang

from canaryproxy.analysis.verdict import Action
from canaryproxy.config.schema import Config
from canaryproxy.rollout.model import Pause, Phase, Resume, Rollback

Make = Callable[..., World]


def settings(*hooks: dict[str, Any]) -> Config:
    pools = {"v1": {"servers": ["http://127.0.0.1:9"], "version": "1.4.0"}, "v2": {"servers": ["http://127.0.0.1:10"]}}
    shop = {"stable": "v1", "canary": "v2", "rollout": ROLLOUT, "hooks": hooks}
    return Config.model_validate({"pools": pools, "routes": {"shop": shop}})


@pytest.fixture
async def make(receiver: Receiver) -> AsyncIterator[Make]:
    worlds: list[World] = []

    def made(*kinds: str, **options: Any) -> World:
        url = f"http://127.0.0.1:{receiver.port}"
        hooks = [{"type": kind, "url": f"{url}/{kind}", **options} for kind in kinds or ("event",)]
        worlds.append(World(settings=settings(*hooks)))
        return worlds[-1]

    yield made
    for world in worlds:
        await world.end()


def told(receiver: Receiver) -> list[str]:
    """The kinds of what was told, in the order in which it came."""
    return [body["data"]["kind"] for _, body in receiver.got]


async def ticks_until(world: World, condition: Callable[[], bool]) -> None:
    """Let seconds pass until it is so: an answer on its way takes real time."""
    async with asyncio.timeout(5):
        while not condition():
            await world.ticks(1)


async def test_a_whole_rollout_is_told_one_message_for_each_transition(make: Make, receiver: Receiver) -> None:
    world = make("event")
    await world.start()
    await world.ticks(5)
    await world.do(Pause("lunch", by="anna"))
    await world.do(Resume(by="anna"))
    world.judge.says = verdict(Action.PROMOTE, "healthy")
    await world.ticks(200)
    assert world.phase is Phase.PROMOTED
    await world.do(Rollback("regret"))
    await world.ticks(1)
    await receiver.heard(7)
    assert told(receiver) == ["start", "pause", "resume", "step", "bake", "promoted", "rollback"]
    assert told(receiver) == [kind for kind in world.store.kinds if kind != "verdict"]
    assert len({body["id"] for _, body in receiver.got}) == 7
    texts = [body["data"]["text"] for _, body in receiver.got]
    assert texts[1] == "shop (1.4.0 -> v2): paused at step 1 of 2: 5% of users to v2 (lunch), by anna"
    assert texts[5].startswith("shop (1.4.0 -> v2): promoted: v2 is stable now, v1 stands by")
    await ticks_until(world, lambda: not world.store.outbox)
    assert len(receiver.got) == 7


async def test_the_end_is_told_once_with_whom_it_met(make: Make, receiver: Receiver) -> None:
    world = make("post_rollout")
    await world.start()
    await world.ticks(5, traffic=lambda second: world.requests(second, 1, good=20, bad=5))
    world.judge.says = verdict(Action.ROLLBACK, "canary 8/402 failed")
    await world.ticks(3)
    await receiver.heard(1)
    summary = receiver.got[0].body["data"]["summary"]
    assert (summary["outcome"], summary["reason"], summary["seconds"]) == ("rolled_back", "canary 8/402 failed", 6.0)
    assert summary["users"]["exposed"] == pytest.approx(25, abs=2)
    assert summary["users"]["hurt"] == pytest.approx(5, abs=1)
    assert receiver.got[0].body["data"]["users"] == summary["users"]


async def test_with_a_full_disk_a_rollback_is_told_and_not_a_second_time(make: Make, receiver: Receiver) -> None:
    world = make()
    await world.start()
    await world.ticks(1)
    await receiver.heard(1)
    world.store.failing = True
    answer = await world.do(Rollback("bad"))
    assert (answer.saved, world.shown) == (False, (0, False))
    await world.ticks(1)
    await receiver.heard(2)
    assert told(receiver) == ["start", "rollback"]
    world.store.failing = False
    await ticks_until(world, lambda: world.store.kinds == ["start", "rollback"] and not world.store.outbox)
    await world.controller.hooks.close()
    world.restart()
    await world.ticks(2)
    assert len(receiver.got) == 2


async def test_with_a_disk_that_hangs_it_is_told_too(make: Make, receiver: Receiver) -> None:
    world = make()
    await world.start()
    world.store.open.clear()
    answer = await world.do(Rollback("bad"))
    assert answer.saved is False
    await world.ticks(1)
    await receiver.heard(2)
    assert told(receiver) == ["start", "rollback"]


async def test_killed_before_it_was_told_the_next_controller_tells_it_with_the_same_id(make: Make, receiver: Receiver) -> None:
    receiver.says = [hang]
    world = make()
    await world.start()
    await world.ticks(1)
    await receiver.heard(1)  # it is being told
    await world.controller.hooks.close()  # as a kill does
    world.restart()
    assert world.controller.hooks.document(world.route)["notifications"] == {"pending": 1, "last_error": None}
    receiver.says = [200]
    await world.ticks(1)
    await receiver.heard(2)
    assert told(receiver) == ["start", "start"]
    assert len({body["id"] for _, body in receiver.got}) == 1
    await world.do(Rollback("bad"))
    await world.ticks(1)
    await receiver.heard(3)
    assert told(receiver)[2:] == ["rollback"]


async def test_a_rollback_that_only_the_board_knew_is_told_with_the_id_that_it_had(make: Make, receiver: Receiver) -> None:
    world = make()
    await world.start()
    await ticks_until(world, lambda: bool(receiver.got) and not world.store.outbox)
    world.store.failing = True
    await world.do(Rollback("bad"))
    await world.ticks(1)
    await receiver.heard(2)
    await world.controller.hooks.close()
    world.restart()  # killed: the disk never heard of it
    world.store.failing = False
    await world.ticks(2)
    await receiver.heard(3)
    await ticks_until(world, lambda: not world.store.outbox)
    assert told(receiver) == ["start", "rollback", "rollback"]
    assert receiver.got[1].body["id"] == receiver.got[2].body["id"]
    assert world.store.kinds == ["start", "rollback"]


async def test_hooks_that_hang_or_refuse_hold_up_no_rollback(make: Make, receiver: Receiver) -> None:
    receiver.says = [hang]
    world = make("event", "post_rollout", "rollback", "confirm_step", "confirm_promotion")
    await world.start()
    await world.ticks(2)
    await receiver.heard(2)
    answer = await asyncio.wait_for(world.do(Rollback("bad")), 1)
    assert (answer.applied_by, answer.saved, world.shown) == (2, True, (0, False))
    await world.ticks(2)
    assert world.phase is Phase.ROLLED_BACK


async def test_a_rollback_hook_calls_a_rollout_back(make: Make, receiver: Receiver) -> None:
    receiver.says = [404, (200, "error budget is spent")]
    world = make("rollback", interval="20ms")
    await world.start()
    await world.ticks(1)
    await receiver.heard(2)
    await ticks_until(world, lambda: world.phase is Phase.ROLLED_BACK)
    assert world.shown == (0, False)
    _, decision = world.store.log[-1]
    assert (decision.data["by"], decision.data["reason"]) == ("hook rollback", "hook rollback: error budget is spent")
    assert receiver.got[1].body["type"] == "rollback"
    await world.ticks(2)
    assert len(receiver.got) == 2
