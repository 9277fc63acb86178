"""Gates and rollback hooks: real receivers, a rollout that waits at a gate, and a controller that does what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hook_receiver import NoSleep, Receiver, hang

from canaryproxy.clock import ManualClock
from canaryproxy.config.hooks import Hook
from canaryproxy.config.schema import Route
from canaryproxy.control.hooks import Hooks
from canaryproxy.control.outbox import Outbox
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.model import Event, FailGate, Gate, OpenGate, Phase, Plan, Rollback, Rollout


class FakeRoute:
    """What hooks see of a `RouteControl`."""

    name = "shop"
    users = (12, 3)
    saver = SimpleNamespace(failing=False)

    def __init__(self, hooks: tuple[Hook, ...]) -> None:
        self.config = Route(stable="v1", canary="v2", hooks=hooks)
        self.outbox = Outbox("shop", hooks)
        plan = Plan.from_config(self.config.rollout)
        self.rollout = Rollout("shop", "v1", "v2", "v1", "v2", plan, Phase.PROGRESSING, salt=7, started_at=1e9)


class Desk:
    """A controller that obeys, or refuses."""

    def __init__(self, *hooks: Hook, sleep: Any = None) -> None:
        self.route = FakeRoute(hooks)
        self.events: list[Event] = []
        self.refuses = False
        self.sleep = sleep or NoSleep()
        routes: Any = {"shop": self.route}
        self.clock = ManualClock(wall=1e9)
        self.hooks = Hooks(routes, self.submit, str, self.clock, sleep=self.sleep)
        self.decided = asyncio.Event()

    async def submit(self, name: str, event: Event) -> None:
        self.events.append(event)
        self.decided.set()
        if self.refuses:
            raise IllegalTransitionError("route shop", "cannot do that", "wait")
        down = isinstance(event, FailGate | Rollback)
        changes: dict[str, Any] = {"phase": Phase.ROLLED_BACK, "paused_from": None} if down else {}
        self.route.rollout = replace(self.route.rollout, gate=None, **changes)  # the next tick looks

    def at(self, gate: Gate | None, **more: Any) -> None:
        self.route.rollout = replace(self.route.rollout, gate=gate, **more)
        self.hooks.look()

    @property
    def waiting(self) -> list[dict[str, Any]]:
        route: Any = self.route
        found: list[dict[str, Any]] = self.hooks.document(route)["waiting"]
        return found

    def is_calm(self) -> bool:
        """Whether no gate is waited for."""
        self.hooks.look()
        return not self.waiting

    async def event(self) -> Event:
        """The first decision."""
        async with asyncio.timeout(5):
            await self.decided.wait()
        return self.events[0]


Make = Callable[..., Desk]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Desk] = []

    def desk(*hooks: Hook, **options: Any) -> Desk:
        made.append(Desk(*hooks, **options))
        return made[-1]

    yield desk
    for one in made:
        await one.hooks.close()


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


SALT_ID = "1561ade0"
CONFIRM = [Gate.CONFIRM_ROLLOUT, Gate.CONFIRM_STEP, Gate.CONFIRM_PROMOTION]


@pytest.mark.parametrize("gate", CONFIRM)
async def test_a_gate_opens_when_its_hook_says_yes_however_late(
    make: Make, receiver: Receiver, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    receiver.says = [(403, "waiting for approval"), 503, 404, (200, "approved by anna")]
    desk = make(receiver.hook(gate.value, name="qa", metadata={"team": "shop"}), receiver.hook("event"))
    desk.at(gate)
    assert await desk.event() == OpenGate(gate, by="hook qa", reason="approved by anna")
    assert {headers["Idempotency-Key"] for headers, _ in receiver.got} == {f"1000000000-{SALT_ID}/{gate}/1-0"}
    body = receiver.got[0].body
    assert (body["type"], body["phase"], body["users"]) == (gate.value, "progressing", {"exposed": 12, "hurt": 3})
    assert body["metadata"] == {"team": "shop"}
    assert caplog.text.count("waits for hook qa") == 1
    assert f"waits for hook qa ({gate}, http://127.0.0.1:{receiver.port}): answered 403: waiting for approval" in caplog.text
    assert desk.sleep.slept == [5.0] * 3
    await eventually(desk.is_calm)
    assert len(desk.events) == 1
    assert len(receiver.got) == 4


async def test_every_hook_of_the_type_must_say_yes_and_no_other_is_asked(make: Make, receiver: Receiver) -> None:
    other, third = Receiver(*[500] * 5, 204), Receiver()
    await other.start()
    await third.start()
    desk = make(
        receiver.hook("confirm_step", name="a"), other.hook("confirm_step", name="b"), third.hook("confirm_promotion", name="c")
    )
    desk.at(Gate.CONFIRM_STEP)
    event = await desk.event()
    assert isinstance(event, OpenGate)
    assert event.by == "hook a, b"
    assert (len(receiver.got), len(other.got), len(third.got)) == (1, 6, 0)
    await other.stop()
    await third.stop()


async def test_who_is_waited_for_is_shown(make: Make, receiver: Receiver) -> None:
    receiver.says = [(403, "not yet")]
    desk = make(receiver.hook("confirm_step", name="qa"), sleep=asyncio.sleep)
    assert desk.waiting == []
    desk.at(Gate.CONFIRM_STEP)
    await eventually(lambda: desk.waiting and desk.waiting[0]["answer"])
    (wait,) = desk.waiting
    assert wait == {
        "hook": "qa",
        "type": "confirm_step",
        "place": f"http://127.0.0.1:{receiver.port}",
        "since": "2001-09-09T01:46:40.000Z",
        "asked": 1,
        "answer": "answered 403: not yet",
        "yes": False,
    }
    desk.at(None)
    assert desk.waiting == []


async def test_pre_rollout_is_tried_again_and_then_opens(make: Make, receiver: Receiver) -> None:
    receiver.says = [500, (409, "flaky"), 200]
    desk = make(receiver.hook("pre_rollout"))
    desk.at(Gate.PRE_ROLLOUT)
    assert await desk.event() == OpenGate(Gate.PRE_ROLLOUT, by="hook pre_rollout")
    assert len(receiver.got) == 3
    assert 0.5 <= desk.sleep.slept[0] <= 1 <= desk.sleep.slept[1] <= 2


async def test_pre_rollout_that_fails_for_good_fails_the_gate_and_calls_off_the_others(make: Make, receiver: Receiver) -> None:
    receiver.says = [(500, "3 of 20 checks failed\nlong story")]
    silent = Receiver(hang)
    await silent.start()
    desk = make(receiver.hook("pre_rollout", name="smoke", retries=2), silent.hook("pre_rollout", name="load"))
    desk.at(Gate.PRE_ROLLOUT)
    why = "hook smoke: answered 500: 3 of 20 checks failed"
    assert await desk.event() == FailGate(Gate.PRE_ROLLOUT, by="hook smoke", reason=why)
    assert len(receiver.got) == 3
    await eventually(desk.is_calm)
    assert (len(desk.events), desk.waiting) == (1, [])
    await eventually(lambda: not any("_until_yes" in repr(task.get_coro()) for task in asyncio.all_tasks()))
    await silent.stop()


async def test_a_gate_without_a_hook_any_more_opens(make: Make) -> None:
    desk = make()
    desk.at(Gate.CONFIRM_STEP)
    event = OpenGate(Gate.CONFIRM_STEP, by="configuration", reason="no confirm_step hook is configured any more")
    assert await desk.event() == event


async def test_a_hook_that_is_not_there_is_asked_until_it_is(make: Make) -> None:
    late = Receiver((200, "here now"))
    await late.start()
    hook = late.hook("confirm_rollout", retries=1)
    await late.stop()
    desk = make(hook)
    desk.at(Gate.CONFIRM_ROLLOUT)
    await eventually(lambda: desk.waiting and desk.waiting[0]["asked"] > 2)
    assert desk.waiting[0]["answer"].startswith("cannot connect (")
    await late.start()
    assert await desk.event() == OpenGate(Gate.CONFIRM_ROLLOUT, by="hook confirm_rollout", reason="here now")
    await late.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"phase": Phase.ROLLED_BACK, "gate": None},
        {"phase": Phase.PAUSED, "paused_from": Phase.PROGRESSING},
        {"salt": 8},
        {"step": 1},
        {"weight_bp": 100},
        {"gate": Gate.CONFIRM_PROMOTION},
    ],
)
async def test_a_yes_that_comes_too_late_decides_nothing(make: Make, receiver: Receiver, change: dict[str, Any]) -> None:
    """The answer is on its way when the rollout moves on; the tick that would call the question off comes only after it."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(request: Any) -> Any:
        asked.set()
        await answer.wait()
        return receiver_ok()

    receiver.says = [slow, (403, "not yet")]
    desk = make(receiver.hook("confirm_step"), receiver.hook("confirm_promotion"), sleep=asyncio.sleep)
    desk.at(Gate.CONFIRM_STEP)
    await asked.wait()
    (task,) = desk.hooks._questions["shop"]._tasks.values()
    desk.route.rollout = replace(desk.route.rollout, **change)
    answer.set()
    async with asyncio.timeout(5):
        await task  # it has nothing to ask any more
    assert desk.events == []


def receiver_ok() -> Any:
    from aiohttp import web

    return web.Response()


async def test_the_same_gate_at_another_step_is_another_question(make: Make, receiver: Receiver) -> None:
    desk = make(receiver.hook("confirm_step"))
    places = [{}, {"weight_bp": 100}, {"step": 1, "weight_bp": 500}, {}]  # the last: again, before any tick saw it open
    for number, place in enumerate(places, 1):
        desk.at(Gate.CONFIRM_STEP, **place)
        await eventually(lambda: len(desk.events) == number)  # noqa: B023 (called here)
    keys = [headers["Idempotency-Key"].rpartition("/")[2] for headers, _ in receiver.got]
    assert keys == ["1-0", "1-100", "2-500", "2-500"]


async def test_a_decision_that_is_refused_is_said_and_asked_for_again(
    make: Make, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make(receiver.hook("confirm_step"))
    desk.refuses = True
    desk.at(Gate.CONFIRM_STEP)
    await eventually(lambda: len(desk.events) > 1)
    assert "route shop: cannot do that" in caplog.text
    assert desk.sleep.slept[0] == 5.0


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.BAKING])
async def test_a_rollback_hook_that_says_yes_rolls_back(make: Make, receiver: Receiver, phase: Phase) -> None:
    receiver.says = [404, 500, (200, "error budget is spent")]
    desk = make(receiver.hook("rollback", name="slo"))
    desk.at(None, phase=phase, paused_from=Phase.PROGRESSING if phase is Phase.PAUSED else None)
    assert await desk.event() == Rollback("hook slo: error budget is spent", by="hook slo")
    assert desk.sleep.slept == [5.0, 5.0]
    assert "Idempotency-Key" not in receiver.got[0].headers
    await asyncio.sleep(0)
    desk.hooks.look()
    assert len(receiver.got) == 3


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.PROMOTED, Phase.ROLLED_BACK])
async def test_no_rollback_hook_is_asked_without_a_rollout(make: Make, receiver: Receiver, phase: Phase) -> None:
    desk = make(receiver.hook("rollback"))
    desk.route.rollout = replace(desk.route.rollout, phase=phase)
    desk.hooks.look()
    assert desk.hooks._questions["shop"]._tasks == {}


async def test_a_rollback_hook_that_does_not_answer_is_told_once_and_rolls_nothing_back(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    late = Receiver(404)
    await late.start()
    hook = late.hook("rollback", name="slo", retries=0)
    await late.stop()
    desk = make(hook)
    desk.hooks.look()
    await eventually(lambda: len(desk.sleep.slept) > 3)
    assert caplog.text.count("rollback hook slo") == 1
    route: Any = desk.route
    assert desk.hooks.document(route)["unheard"]["slo"].startswith("cannot connect (")
    await late.start()
    await eventually(lambda: "rollback hook slo answers again" in caplog.text)
    assert (desk.hooks.document(route)["unheard"], desk.events) == ({}, [])
    await late.stop()


async def test_the_end_calls_everything_off_within_a_second(make: Make, receiver: Receiver) -> None:
    receiver.says = [hang]
    desk = make(receiver.hook("confirm_step"), receiver.hook("rollback"), receiver.hook("confirm_step", name="other"))
    desk.at(Gate.CONFIRM_STEP)
    await receiver.heard(3)
    async with asyncio.timeout(1):
        await desk.hooks.close()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("ask ")] == []


async def test_ticks_never_wait(make: Make, receiver: Receiver) -> None:
    """However often it looks: one question at a time for each hook."""
    receiver.says = [hang]
    desk = make(*[receiver.hook("rollback", name=f"r{n}") for n in range(8)])
    for _ in range(50):
        desk.hooks.look()
        await asyncio.sleep(0)
    await receiver.heard(8)
    assert len(receiver.got) == len(desk.hooks._questions["shop"]._tasks) == 8
