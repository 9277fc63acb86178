"""Delivery to real receivers that fail, hang, refuse or are not there, while the store works or does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hook_receiver import NoSleep, Receiver, hang

from canaryproxy.clock import ManualClock
from canaryproxy.config.hooks import Hook
from canaryproxy.control.delivery import GIVE_UP, REFUSALS, Delivery
from canaryproxy.control.outbox import Outbox
from canaryproxy.control.post import LONGEST_PAUSE, Answer, Post
from canaryproxy.store.base import Mail, Message


class FakeSaver:
    """As `control.saver.Saver` for a delivery."""

    failing = False
    requests = 0

    def request(self) -> int:
        self.requests += 1
        return self.requests


def message(number: int, hook: str = "event", at: float = 0.0) -> Message:
    facts = {"route": "shop", "rollout": "r", "kind": "step", "text": f"step {number}", "at": "2026-01-01T00:00:00.000Z"}
    return Message(f"r/{number}", hook, at, facts)


class Desk:
    """A delivery of messages that were kept, to hooks of a receiver."""

    def __init__(self, *hooks: Hook, post: Any = None) -> None:
        self.hooks = hooks
        self.clock, self.sleep, self.saver = ManualClock(wall=0.0), NoSleep(), FakeSaver()
        self.own = Post()
        self._post = post or self.own

    def begin(self, *kept: Message) -> Delivery:
        self.outbox = Outbox("shop", self.hooks, kept)
        saver: Any = self.saver
        how: Any = {"post": self._post, "clock": self.clock, "sleep": self.sleep}
        self.delivery = Delivery("shop", self.outbox, saver, **how)
        self.delivery.look()
        return self.delivery

    async def done(self) -> None:
        """Nothing is under way any more."""
        async with asyncio.timeout(5):
            await asyncio.gather(*self.delivery._tasks.values())

    async def close(self) -> None:
        tasks = self.delivery.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        await self.own.close()


async def test_all_arrive_in_order_and_the_store_hears_of_each(receiver: Receiver) -> None:
    desk = Desk(receiver.hook())
    desk.begin(message(1), message(2), message(3))
    await desk.done()
    assert [body["id"] for _, body in receiver.got] == ["r/1", "r/2", "r/3"]
    assert [headers["Idempotency-Key"] for headers, _ in receiver.got] == ["r/1", "r/2", "r/3"]
    assert receiver.got[0].headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert (desk.outbox.pending, desk.saver.requests, desk.outbox.counts["delivered"]) == (0, 3, 3)
    assert desk.outbox.take() == Mail((), tuple((f"r/{n}", "event") for n in (1, 2, 3)))
    desk.delivery.look()
    assert all(task.done() for task in desk.delivery._tasks.values())
    await desk.close()


async def test_a_receiver_that_fails_gets_the_same_until_it_takes_it(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.says = [500, hang, (403, "who are you"), 200]
    desk = Desk(receiver.hook(timeout="50ms"))
    desk.begin(message(1), message(2))
    await desk.done()
    assert [body["id"] for _, body in receiver.got] == ["r/1"] * 4 + ["r/2"]
    assert desk.sleep.slept == sorted(desk.sleep.slept)
    assert len(desk.sleep.slept) == 3
    assert desk.outbox.counts == {"failed": 3, "delivered": 2}
    assert caplog.text.count("was not told: answered 500; trying again") == 1
    assert caplog.text.count("hook event is told again") == 1
    assert desk.delivery.failures == {}
    await desk.close()


async def test_nothing_is_given_up_within_a_day_and_everything_after_it(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.says = [500]
    desk = Desk(receiver.hook())

    async def sleep(seconds: float) -> None:
        await desk.sleep(seconds)
        desk.clock.advance(seconds)

    desk.outbox = Outbox("shop", desk.hooks, (message(1), message(2, at=3600.0)))
    saver: Any = desk.saver
    desk.delivery = Delivery("shop", desk.outbox, saver, post=desk.own, clock=desk.clock, sleep=sleep)
    desk.delivery.look()
    await desk.done()
    assert GIVE_UP <= desk.clock.wall() - 3600 <= GIVE_UP + 2 * LONGEST_PAUSE
    assert max(desk.sleep.slept) <= LONGEST_PAUSE
    assert (desk.outbox.counts["given_up"], desk.outbox.pending) == (2, 0)
    assert "was not told 'step 1': answered 500; given up after 24 h" in caplog.text
    assert [body["id"] for _, body in receiver.got].count("r/1") > 250
    await desk.close()


async def test_one_that_is_refused_does_not_hold_up_the_others_for_long(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.says = [500, 500, 200, *[(400, "invalid_payload")] * REFUSALS, 200]
    desk = Desk(receiver.hook())
    desk.begin(message(1), message(2), message(3))
    await desk.done()
    assert [body["id"] for _, body in receiver.got] == ["r/1"] * 3 + ["r/2"] * REFUSALS + ["r/3"]
    assert "was not told 'step 2': answered 400: invalid_payload; given up after 5 refusals" in caplog.text
    await desk.close()


async def test_facts_that_cannot_be_written_do_not_hold_up_the_others(receiver: Receiver) -> None:
    desk = Desk(receiver.hook())
    desk.begin(Message("r/0", "event", 0.0, {"text": "of another version"}), message(1))
    await desk.done()
    assert [body["id"] for _, body in receiver.got] == ["r/1"]
    assert desk.outbox.counts == {"failed": REFUSALS, "given_up": 1, "delivered": 1}
    await desk.close()


async def test_one_hook_that_hangs_holds_up_no_other(receiver: Receiver) -> None:
    silent = Receiver(hang)
    await silent.start()
    desk = Desk(receiver.hook(name="good"), silent.hook(name="bad"))
    desk.begin(message(1, "bad"), message(1, "good"), message(2, "good"))
    await silent.heard(1)
    async with asyncio.timeout(5):
        await desk.delivery._tasks["good"]
    assert desk.outbox.pending == 1
    await desk.close()
    assert desk.outbox.next("bad", unsaved=True) is not None
    await silent.stop()


async def test_a_message_that_is_not_on_disk_goes_out_only_if_the_store_fails(receiver: Receiver) -> None:
    desk = Desk(receiver.hook())
    desk.begin()
    desk.outbox._put(message(1))
    desk.delivery.look()
    assert desk.delivery._tasks == {}
    desk.saver.failing = True
    desk.delivery.look()
    await desk.done()
    assert len(receiver.got) == 1
    await desk.close()


async def test_what_the_receiver_asks_for_is_waited(receiver: Receiver) -> None:
    answers = [Answer(429, "", 120.0), Answer(200)]

    async def post(*_: object) -> Answer:
        return answers.pop(0)

    desk = Desk(receiver.hook(), post=post)
    desk.begin(message(1))
    await desk.done()
    assert desk.sleep.slept == [120.0]
    await desk.close()
