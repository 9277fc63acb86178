"""When others are asked for what they measure, and what becomes of their answers: nothing of it reaches a tick but a number."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from canaryproxy.analysis.sample import ArmTick, Measurement, Tick
from canaryproxy.clock import ManualClock
from canaryproxy.config.metrics import Metrics
from canaryproxy.config.upstreams import Pool
from canaryproxy.control.outside import Outside
from canaryproxy.rollout.model import EVERYBODY, Phase, Plan, PlanStep, Rollout

TICK = Tick(1.0, ArmTick(), ArmTick())
IDLE = Rollout("shop", "v1", "v2", "v1", "v2", Plan((PlanStep(100, 60),), 60, 600))
GOING = replace(IDLE, phase=Phase.PROGRESSING, weight_bp=100)
POOLS = {
    name: Pool.model_validate({"servers": ["http://a"], "version": version}) for name, version in (("v1", "1.0"), ("v2", ""))
}


class World:
    """A server, a clock, and a route's metrics; `answers` gives what is said of a path, None hangs."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.asked: list[str] = []
        self.answers: Callable[[str], Any] = lambda path: {"value": 1}
        self.url, self.eight = "", asyncio.Event()
        self.outside: Outside

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if len(self.asked) == 8:
            self.eight.set()
        answer = self.answers(request.path)
        if answer is None:
            await asyncio.sleep(30)
        return web.json_response(answer, status=500 if answer == "broken" else 200)

    def watch(self, **metrics: dict[str, Any]) -> None:
        """Have these metrics; `{url}` in a URL is the server's."""
        for metric in metrics.values():
            metric["http"] = {"value": "/value", **metric.get("http", {})}
            metric["http"]["url"] = metric["http"].get("url", "{url}/one").replace("{url}", self.url)
        found = Metrics.model_validate(metrics).outside
        self.outside = Outside("shop", found, POOLS, self.clock)

    def tick(self, rollout: Rollout = GOING, seconds: float = 1.0) -> tuple[Measurement, ...]:
        self.clock.advance(seconds)
        return self.outside.merge(TICK, rollout).outside

    async def ticked(self, rollout: Rollout = GOING, seconds: float = 1.0) -> tuple[Measurement, ...]:
        """A tick, and what came of the questions that it asked, as the next one has it at once."""
        self.tick(rollout, seconds)
        await asyncio.gather(*(one.task for one in self.outside._metrics.values() if one.task))
        return self.tick(replace(IDLE, salt=rollout.salt), 0.0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    served = web.Application()
    served.router.add_get("/{path:.*}", made.handle)
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await made.outside.close()
    await runner.cleanup()


async def test_each_is_asked_in_its_interval_while_a_rollout_is_in_progress(world: World) -> None:
    world.watch(fast={"http": {"url": "{url}/fast"}, "max": 1, "interval": "5s"}, slow={"http": {"url": "{url}/slow"}, "max": 1})
    assert await world.ticked(IDLE) == ()
    assert world.asked == []
    assert [one.metric for one in await world.ticked()] == ["fast", "slow"]
    for _ in range(30):
        await world.ticked()
    assert (world.asked.count("/fast"), world.asked.count("/slow")) == (7, 2)


async def test_both_variants_are_asked_by_what_they_are_called_now(world: World) -> None:
    world.watch(cpu={"http": {"url": "{url}/{{ route }}/{{ variant }}/{{ pool }}/{{ version }}"}, "max_drop": 1})
    world.answers = lambda path: {"value": 3 if "stable" in path else 2}
    (found,) = await world.ticked()
    assert sorted(world.asked) == ["/shop/canary/v2/v2", "/shop/stable/v1/1.0"]
    assert found == Measurement("cpu", world.clock.wall(), 0.0, 3, 2)
    swapped = replace(GOING, stable="v2", canary="v1")
    await world.ticked(swapped, 30.0)
    assert sorted(world.asked[2:]) == ["/shop/canary/v1/1.0", "/shop/stable/v2/v2"]
    await world.ticked(replace(GOING, phase=Phase.BAKING, weight_bp=EVERYBODY), 30.0)
    assert world.asked[4:] == ["/shop/canary/v2/v2"], "stable has no users and nothing to say"


async def test_what_was_asked_for_another_rollout_says_nothing_about_this_one(world: World) -> None:
    world.watch(cpu={"max": 1})
    world.tick()
    await asyncio.gather(*(one.task for one in world.outside._metrics.values() if one.task))
    assert world.tick(replace(GOING, salt=7)) == ()


async def test_what_is_not_compared_is_asked_once(world: World) -> None:
    world.watch(cpu={"http": {"url": "{url}/{{ variant }}"}, "max": 1}, queue={"http": {"url": "{url}/queue"}, "max": 1})
    await world.ticked()
    assert sorted(world.asked) == ["/canary", "/queue"]


async def test_a_measurement_is_as_old_as_its_older_half_in_the_tick_that_has_it(world: World) -> None:
    world.watch(cpu={"http": {"url": "{url}/{{ variant }}", "time": "/at"}, "max_increase": "10%"})
    began = world.clock.wall()
    world.answers = lambda path: {"value": 1, "at": began - (7 if path == "/canary" else 3)}
    world.tick()
    await asyncio.gather(*(one.task for one in world.outside._metrics.values() if one.task))
    (found,) = world.tick(seconds=4.0)
    assert (found.at, found.age) == (began - 7, 12.0)


async def test_a_clock_that_is_ahead_is_no_freshness(world: World) -> None:
    world.watch(cpu={"http": {"time": "/at"}, "max": 1})
    world.answers = lambda path: {"value": 1, "at": world.clock.wall() + 61}
    (found,) = await world.ticked()
    assert (found.canary, found.error) == (None, "its time is 61 s ahead of ours; set the clocks right")
    world.answers = lambda path: {"value": 1, "at": world.clock.wall() + 59}
    (found,) = await world.ticked(seconds=30.0)
    assert (found.canary, found.age) == (1, 0.0), "nothing is younger than now"


async def test_one_that_hangs_is_asked_once_and_holds_up_nobody(world: World) -> None:
    slow = {f"m{n}": {"http": {"url": f"{{url}}/{n}"}, "max": 1, "interval": "30s", "timeout": "30s"} for n in range(12)}
    world.watch(**slow, quick={"http": {"url": "{url}/quick"}, "max": 1})
    world.answers = lambda path: None if path != "/quick" else {"value": 1}
    for _ in range(100):
        assert world.tick(seconds=30.0) == ()
        await asyncio.sleep(0)
    await asyncio.wait_for(world.eight.wait(), 5)
    assert len(world.asked) == 8, "so many at once, and each of them once"


async def test_one_question_at_a_time(world: World) -> None:
    world.watch(cpu={"max": 1, "interval": "30s", "timeout": "30s"})
    world.answers = lambda path: None
    for _ in range(3):
        world.tick(seconds=30.0)
        await asyncio.sleep(0)
    assert len([task for task in asyncio.all_tasks() if task.get_name() == "metric shop cpu"]) == 1


async def test_half_an_answer_is_no_data_and_says_which_half(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.watch(cpu={"http": {"url": "{url}/{{ variant }}", "headers": {"X-Key": "secretive"}}, "max_drop": 1})
    world.answers = lambda path: "broken" if path == "/stable" else {"value": 2}
    with caplog.at_level(logging.WARNING):
        (found,) = await world.ticked()
        await world.ticked(seconds=30.0)
    assert (found.stable, found.canary) == (None, 2)
    assert found.error == f"stable: {world.url}/stable answers 500: broken"
    world.answers = lambda path: {"value": 2}
    with caplog.at_level(logging.WARNING):
        assert (await world.ticked(seconds=30.0))[0].error == ""
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"route shop: metric cpu: {found.error}; no step follows without it",
        "route shop: metric cpu is measured again",
    ]
    assert "secretive" not in caplog.text


async def test_a_defect_of_ours_is_no_data_either(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.watch(cpu={"http": {"ca": "/nowhere/ca.pem"}, "max": 1})
    with caplog.at_level(logging.ERROR):
        (found,) = await world.ticked()
    assert (found.canary, found.error) == (None, "cannot be measured (FileNotFoundError)")
    assert "cannot be measured: FileNotFoundError" in caplog.text


async def test_what_a_server_warns_of_is_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    warned = {
        "status": "success",
        "data": {"resultType": "scalar", "result": [world.clock.wall(), "1"]},
        "warnings": ["slow store"],
    }
    metrics = Metrics.model_validate({"cpu": {"prometheus": {"url": world.url, "query": "1"}, "max": 1}}).outside
    world.outside = Outside("shop", metrics, POOLS, world.clock)
    world.answers = lambda path: warned
    with caplog.at_level(logging.WARNING):
        assert (await world.ticked())[0].canary == 1
        await world.ticked(seconds=30.0)
    assert [record.getMessage() for record in caplog.records] == ["route shop: metric cpu: its server warns: slow store"]


async def test_cookies_are_not_kept(world: World) -> None:
    async def cookie(request: web.Request) -> web.Response:
        world.asked.append(request.headers.get("Cookie", "none"))
        return web.json_response({"value": 1}, headers={"Set-Cookie": "a=b"})

    served = web.Application()
    served.router.add_get("/", cookie)
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    world.watch(cpu={"http": {"url": f"http://localhost:{runner.addresses[0][1]}/"}, "max": 1})
    for _ in range(2):
        await world.ticked(seconds=30.0)
    assert world.asked == ["none", "none"]
    await runner.cleanup()
