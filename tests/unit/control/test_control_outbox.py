"""The outbox: one message for each transition and hook, in order, bounded, and what the store is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from canaryproxy.config.hooks import Hook
from canaryproxy.config.schema import Route
from canaryproxy.control.outbox import MOST, Outbox
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Event, Plan, Promote, Record, Rollback, Rollout, Start
from canaryproxy.store.base import NO_MAIL, Mail, Message

HOOKS = tuple(
    Hook.model_validate({"type": kind, "url": "http://127.0.0.1:9/", "name": name})
    for kind, name in (("event", "chat"), ("post_rollout", "end"), ("confirm_step", "gate"), ("event", "log"))
)
PLAN = Plan.from_config(Route(stable="v1", canary="v2").rollout)


class Desk:
    """A rollout whose decisions are announced."""

    def __init__(self, *kept: Message, hooks: tuple[Hook, ...] = HOOKS) -> None:
        self.outbox = Outbox("shop", hooks, kept)
        self.rollout = Rollout("shop", "v1", "v2", "v1", "v2", PLAN)
        self.now = 1_700_000_000.0

    def do(self, *events: Event) -> None:
        for event in events:
            self.now += 1
            self.rollout, effects = advance(self.rollout, event, self.now)
            for effect in effects:
                if isinstance(effect, Record):
                    self.say(effect)

    def say(self, record: Record) -> None:
        self.outbox.announce(record, self.rollout, users=(12, 3), at=self.now)

    def told(self, hook: str) -> list[Any]:
        """Deliver all that there is for a hook; the kinds."""
        kinds = []
        while (message := self.outbox.next(hook, unsaved=True)) is not None:
            kinds.append(message.facts["kind"])
            self.outbox.settle(message, "delivered")
        return kinds


START = Start(PLAN, salt=7)


def test_each_transition_is_one_message_for_each_event_hook_and_the_end_one_for_post_rollout() -> None:
    desk = Desk()
    desk.do(START, Promote(), Promote(full=True), Promote(), Rollback("regret"))
    assert desk.told("chat") == desk.told("log") == ["start", "step", "bake", "promoted", "rollback"]
    assert desk.told("end") == ["promoted", "rollback"]
    assert (desk.outbox.pending, desk.outbox.counts["delivered"]) == (0, 12)


@pytest.mark.parametrize("kind", ["verdict", "pool", "deploy"])
def test_what_is_no_transition_is_not_told(kind: str) -> None:
    desk = Desk()
    desk.say(Record(kind, "words", {"weight_bp": 0}))
    assert desk.outbox.pending == 0


def test_a_rollback_that_was_there_already_is_not_told_again() -> None:
    desk = Desk()
    desk.do(START, Rollback("bad"))
    again = Desk(*desk.outbox.take().put)
    again.rollout = desk.rollout
    for one in (desk, again):
        one.do(Rollback("sure?"), Rollback("sure?"))
        assert one.told("end") == ["rollback"]
        assert one.told("chat") == ["start", "rollback"]


def test_an_id_is_that_of_the_decision_made_again_and_of_no_other() -> None:
    desk, again = Desk(), Desk()
    desk.do(START, Promote(), Rollback("bad"))
    again.do(START, Promote())
    again.now += 60  # after a restart
    again.do(Rollback("recovered"))
    ids = [message.id for message in desk.outbox.take().put if message.hook == "chat"]
    assert [message.id for message in again.outbox.take().put if message.hook == "chat"] == ids
    assert len(set(ids)) == 3
    ended = [message.id for message in desk.outbox.take().put if message.hook == "end"]
    assert not set(ended) & set(ids)
    other = Desk()
    other.do(replace(START, salt=8))
    assert other.outbox.take().put[0].id not in ids


def test_a_message_waits_for_the_disk_unless_the_store_fails() -> None:
    desk = Desk()
    desk.do(START)
    outbox = desk.outbox
    assert outbox.next("chat", unsaved=False) is None
    assert outbox.next("chat", unsaved=True) is not None
    outbox.confirm(outbox.take())
    assert outbox.next("chat", unsaved=False) is not None


def test_the_store_is_told_what_came_and_what_went_until_it_has_it() -> None:
    desk = Desk()
    desk.do(START)
    first = desk.outbox.take()
    assert [message.hook for message in first.put] == ["chat", "log"]
    desk.do(Promote())
    again = desk.outbox.take()  # the first attempt failed
    assert [message.facts["kind"] for message in again.put] == ["start", "start", "step", "step"]
    message = desk.outbox.next("chat", unsaved=True)
    assert message is not None
    desk.outbox.settle(message, "delivered")  # while that is being written
    desk.outbox.confirm(again)
    assert desk.outbox.take() == Mail((), ((message.id, "chat"),))
    desk.outbox.confirm(desk.outbox.take())
    assert desk.outbox.take() == NO_MAIL


def test_one_delivered_before_it_was_saved_is_never_put() -> None:
    desk = Desk()
    desk.do(START)
    message = desk.outbox.next("chat", unsaved=True)
    assert message is not None
    desk.outbox.settle(message, "delivered")
    assert [one.hook for one in desk.outbox.take().put] == ["log"]


def test_after_a_restart_what_was_kept_comes_first_and_is_not_put_again() -> None:
    before = Desk()
    before.do(START)
    kept = before.outbox.take().put
    desk = Desk(*kept)
    assert desk.outbox.take() == NO_MAIL
    desk.rollout = before.rollout
    desk.do(Promote())
    assert desk.told("chat") == ["start", "step"]


def test_a_hook_that_is_gone_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    before = Desk()
    before.do(START)
    desk = Desk(*before.outbox.take().put, hooks=HOOKS[:1])
    assert (desk.outbox.pending, desk.outbox.counts["dropped"]) == (1, 1)
    assert [hook for _, hook in desk.outbox.take().taken] == ["log"]
    assert "route shop: hook log is gone: it is not told shop (v1 -> v2): started: step 1 of 4: 1% of users to v2" in caplog.text


def test_beyond_a_thousand_the_oldest_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.do(START)
    for step in range(MOST):
        desk.do(Promote(full=True), replace(START, salt=step + 10))
    assert desk.outbox.pending == MOST
    assert caplog.text.count("more than 1000 notifications wait: the oldest are forgotten") == 1
    first = desk.outbox.next("chat", unsaved=True)
    assert first is not None
    assert first.at == min(message.at for message in desk.outbox.take().put)
    assert len(desk.outbox.take().put) == MOST
