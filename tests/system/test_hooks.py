"""Hooks of a real product: what is told over a rollout, after a kill, with a full disk, and that nothing waits for a hook."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
from harness import Product, until
from hook_receiver import Receiver, hang

pytestmark = pytest.mark.system


def configure(product: Product, receiver: Receiver, *hooks: dict[str, Any], **changes: Any) -> None:
    """Hooks that point to the receiver, or to a path below it."""
    url = f"http://anna:s3cret@127.0.0.1:{receiver.port}/t0ken"
    product.configure({"hooks": [{"url": url, **hook} for hook in hooks]}, **changes)


def kinds(receiver: Receiver) -> list[str]:
    return [body["data"]["kind"] for _, body in receiver.got]


async def lose_controller(product: Product) -> None:
    victim = product.controller
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    await until(lambda: product.controller not in (None, victim))


async def test_a_rollout_is_told_in_three_formats_and_counted(product: Product, receiver: Receiver) -> None:
    slack, teams = Receiver(), Receiver()
    await slack.start()
    await teams.start()
    hooks = (
        {"type": "event"},
        {"type": "post_rollout", "name": "chat", "format": "slack", "url": f"http://127.0.0.1:{slack.port}/"},
    )
    third = {"type": "event", "name": "team", "format": "teams", "url": f"http://127.0.0.1:{teams.port}/"}
    configure(product, receiver, *hooks, third)
    await product.start()
    await product.verb("start")
    await product.verb("pause", reason="lunch")
    await product.verb("resume")
    await product.verb("rollback", reason="regret")
    await receiver.heard(4)
    assert kinds(receiver) == ["start", "pause", "resume", "rollback"]
    assert [body["message"] if "message" in body else body["type"] for _, body in await teams.heard(4)] == ["message"] * 4
    ((_, last),) = await slack.heard(1)
    assert "rolled back: all users to v1 (regret)" in last["text"]
    status = await product.status_with(lambda status: status["hooks"]["notifications"]["pending"] == 0)
    assert status["hooks"] == {"waiting": [], "unheard": {}, "notifications": {"pending": 0, "last_error": None}}
    page = await product.metrics()
    assert 'canaryproxy_notifications_total{result="delivered",route="shop"} 9.0' in page
    assert 'canaryproxy_notifications_pending{route="shop"} 0.0' in page
    assert (len(receiver.got), len(teams.got), len(slack.got)) == (4, 4, 1)
    await slack.stop()
    await teams.stop()


async def test_killed_between_decision_and_delivery_it_is_told_after_the_restart(product: Product, receiver: Receiver) -> None:
    """The controller once, then everything; the receiver does not answer until the end."""
    receiver.says = [hang]
    configure(product, receiver, {"type": "event", "timeout": "30s"}, {"type": "confirm_promotion"})
    await product.start()
    await product.verb("start")
    await receiver.heard(1)
    await lose_controller(product)
    await receiver.heard(2, limit=10)
    assert (await product.verb("rollback", reason="bad"))["saved"] is True
    await product.kill()
    receiver.says = [200]
    await product.start()
    got = await receiver.heard(4, limit=10)
    assert kinds(receiver) == ["start", "start", "start", "rollback"]
    ids = [body["id"] for _, body in got]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    await product.status_with(lambda status: status["hooks"]["notifications"]["pending"] == 0)
    assert len(receiver.got) == 4


async def test_with_a_full_disk_a_rollback_is_told(product: Product, receiver: Receiver) -> None:
    configure(product, receiver, {"type": "event"})
    await product.start()
    await product.verb("start")
    await receiver.heard(1)
    async with product.full_disk():
        assert (await product.verb("rollback", reason="bad"))["saved"] is False
        await receiver.heard(2)
        assert kinds(receiver) == ["start", "rollback"]
    await product.status_with(lambda status: status["saved"] and status["hooks"]["notifications"]["pending"] == 0)
    assert len(receiver.got) == 2


async def test_hooks_that_hang_hold_up_nothing_and_no_secret_is_said(product: Product, receiver: Receiver) -> None:
    receiver.says = [hang]
    types = ("event", "post_rollout", "rollback", "confirm_rollout", "confirm_promotion")
    hooks = [{"type": kind, "timeout": "1h", "headers": {"X-Secret": "he4der"}} for kind in types]
    down = {"type": "event", "name": "down", "url": "http://anna:s3cret@127.0.0.1:9/t0ken"}
    configure(product, receiver, *hooks, down)
    await product.start()
    await product.verb("start")
    await receiver.heard(2)
    await product.until_said("hook down (http://127.0.0.1:9) was not told: cannot connect (")
    answer = await product.verb("rollback")
    assert (answer["phase"], answer["applied_by"], answer["saved"]) == ("rolled_back", 2, True)
    status = await product.status()
    assert status["hooks"]["notifications"]["last_error"]["hook"] == "down"
    said = json.dumps(status) + "\n".join(product.log) + await product.metrics()
    assert [secret for secret in ("s3cret", "t0ken", "he4der") if secret in said] == []
    assert await product.stop() == 0


async def test_a_rollback_hook_that_is_real_takes_the_users_off(product: Product, receiver: Receiver) -> None:
    receiver.says = [404, 404, (200, "error budget is spent")]
    configure(product, receiver, {"type": "rollback", "name": "slo", "interval": "50ms"})
    await product.start()
    await product.verb("start")
    ended = await product.status_with(lambda status: status["phase"] == "rolled_back")
    assert (ended["reason"], ended["weight_percent"]) == ("hook slo: error budget is spent", 0)
    body = receiver.got[0].body
    assert (body["type"], body["weight_percent"], body["next_weight_percent"], body["version"]) == ("rollback", 25, 100, "v2")
    assert len(receiver.got) == 3
