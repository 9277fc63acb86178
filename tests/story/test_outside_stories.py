"""Rollouts that others have a say in: what they measure, what they do not, and what becomes of it after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from control_world import ROLLOUT, World

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.replay import Block, Replayed, replay
from canaryproxy.config.schema import Config
from canaryproxy.control.providers import NoAnswerError, Question, Sample
from canaryproxy.rollout.model import Phase, Resume, Rollback
from canaryproxy.shared.layout import CANARY, STABLE

CPU: dict[str, Any] = {"http": {"url": "http://127.0.0.1:9/{{ variant }}", "value": "/v"}, "max_increase": "20%"}
CPU |= {"interval": "5s", "window": "5s", "max_age": "15s"}


class Says:
    """A provider that says what it is told of the canary, and 1 of stable; None is no data, and `hangs` never answers."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self.canary: float | None = 1.0
        self.hangs = False
        self.asked = 0

    async def ask(self, question: Question) -> Sample:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        value = 1.0 if question.values["variant"] == "stable" else self.canary
        if value is None:
            raise NoAnswerError("no data: the query finds nothing")
        return Sample(value, self._clock.wall())


Make = Callable[..., tuple[World, Says]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    worlds: list[World] = []

    def made(**metric: Any) -> tuple[World, Says]:
        route = {"stable": "v1", "canary": "v2", "rollout": ROLLOUT, "metrics": {"cpu": CPU | metric}}
        pools = {"v1": {"servers": ["http://127.0.0.1:9"]}, "v2": {"servers": ["http://127.0.0.1:10"]}}
        world = World(Config.model_validate({"pools": pools, "routes": {"shop": route}}), scripted=False)
        worlds.append(world)
        return world, asked_of(world)

    yield made
    for world in worlds:
        await world.end()


def asked_of(world: World) -> Says:
    says = Says(world)
    world.route.outside._metrics["cpu"].provider = says
    return says


async def seconds(world: World, count: int) -> None:
    """Healthy traffic on both."""

    def traffic(second: float) -> None:
        world.requests(second, STABLE, 60)
        world.requests(second, CANARY, 60)

    await world.ticks(count, traffic=traffic)


async def until_phase(world: World, phase: Phase, limit: int) -> None:
    for _ in range(limit):
        if world.phase is phase:
            return
        await seconds(world, 1)
    raise AssertionError(f"never {phase}: {world.route.verdict}")


async def test_the_third_measurement_in_a_row_pauses_and_the_journal_says_so_again(make: Make) -> None:
    world, says = make()
    await world.start()
    await seconds(world, 20)
    says.canary = 1.5
    await until_phase(world, Phase.PAUSED, 16)
    assert says.asked >= 6
    assert world.route.rollout.reason == (
        "cpu: canary 1.5, stable 1, at most 1.2 allowed, 3 of 3 measurements in a row beyond the limit"
    )
    await world.settled()
    blocks = [Block(block.first, block.ticks, block.data) for block in world.store.blocks]
    again = list(replay(blocks, Judge))
    assert all(isinstance(one, Replayed) and one.same for one in again)
    assert isinstance(again[-1], Replayed)
    assert again[-1].verdict.sentence == world.route.rollout.reason


async def test_on_breach_rollback_rolls_back(make: Make) -> None:
    world, says = make(on_breach="rollback", failures=2)
    says.canary = 9.0
    await world.start()
    await until_phase(world, Phase.ROLLED_BACK, 30)
    assert world.shown[0] == 0
    asked = says.asked
    await seconds(world, 20)
    assert says.asked == asked, "nobody is asked without a rollout"


@pytest.mark.parametrize("required", [True, False])
async def test_without_data_no_step_follows_where_it_is_required(make: Make, required: bool) -> None:
    """The same healthy canary, and nothing but the missing number between it and the next step."""
    world, says = make(required=required)
    says.canary = None
    await world.start()
    await seconds(world, 300)
    assert (world.route.rollout.step, world.phase) == ((0, Phase.PROGRESSING) if required else (1, Phase.PROMOTED))
    if required:
        assert world.route.verdict is not None
        assert world.route.verdict.sentence == "cpu: nothing measured yet: canary: no data: the query finds nothing"
        says.canary = 1.0
        await seconds(world, 40)
        assert world.route.rollout.step == 1


async def test_one_that_hangs_holds_up_no_tick_and_no_rollback(make: Make) -> None:
    world, says = make()
    await world.start()
    await seconds(world, 20)
    says.hangs = True
    ticks = world.controller.ticks
    await seconds(world, 30)
    assert world.controller.ticks == ticks + 30
    assert "nothing fresh since" in next(m.sentence for m in world.route.verdict.metrics if m.metric == "cpu")  # type: ignore[union-attr]
    answer = await world.do(Rollback("enough"))
    assert (answer.applied_by, answer.saved, world.phase) == (2, True, Phase.ROLLED_BACK)


async def test_breaches_are_counted_on_after_a_kill(make: Make) -> None:
    world, says = make()
    says.canary = 9.0
    await world.start()
    while world.route.verdict is None or world.route.verdict.metrics[-1].evidence < 2:
        await seconds(world, 1)
    await seconds(world, 5 - int(world.clock.monotonic()) % 5)
    world.route.saver.request()
    await world.settled()
    counted = world.route.verdict.metrics[-1].evidence
    world.restart()
    asked_of(world).canary = 9.0
    await until_phase(world, Phase.PAUSED, 11)
    assert counted == 2
    await world.do(Resume())
    assert world.phase is Phase.PROGRESSING
