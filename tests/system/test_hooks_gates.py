"""Gates of a real product: a rollout that waits for its hooks, over a kill, and is rolled back meanwhile or by them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness import Product, until
from hook_receiver import Receiver
from reading import place, versions

pytestmark = pytest.mark.system


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver((403, "waiting for approval"))
    await made.start()
    yield made
    await made.stop()


def configure(product: Product, receiver: Receiver, *hooks: dict[str, Any], **rollout: Any) -> None:
    url = f"http://127.0.0.1:{receiver.port}/"
    product.configure({"hooks": [{"url": url, **hook} for hook in hooks], "rollout": rollout})


async def test_a_rollout_waits_for_its_hook_over_a_kill_and_goes_on_when_it_says_yes(
    product: Product, receiver: Receiver
) -> None:
    configure(product, receiver, {"type": "confirm_rollout", "name": "qa", "interval": "100ms"})
    await product.start()
    await product.verb("start")
    before = await product.status_with(lambda status: status["hooks"]["waiting"] and status["hooks"]["waiting"][0]["answer"])
    assert (before["phase"], before["weight_percent"]) == ("progressing", 0)
    (wait,) = before["hooks"]["waiting"]
    assert (wait["hook"], wait["type"], wait["answer"]) == ("qa", "confirm_rollout", "answered 403: waiting for approval")
    assert await versions(product) == {"v1"}
    victim = product.controller
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    await until(lambda: product.controller not in (None, victim))
    asked = len(receiver.got)
    await receiver.heard(asked + 2, limit=10)
    assert place(await product.status()) == place(before)
    assert len({headers["Idempotency-Key"] for headers, _ in receiver.got}) == 1
    receiver.says = [(200, "approved by anna")]
    after = await product.status_with(lambda status: status["weight_percent"] == 25)
    assert (after["phase"], after["salt_id"], after["hooks"]["waiting"]) == ("progressing", before["salt_id"], [])
    assert product.said("waits for hook qa (confirm_rollout, ") == 2  # once for each controller
    assert product.said("approved by anna") == 1


async def test_a_smoke_test_that_fails_rolls_back_before_anybody_sees_the_canary(product: Product, receiver: Receiver) -> None:
    receiver.says = [(500, "3 of 20 checks failed")]
    configure(product, receiver, {"type": "pre_rollout", "name": "smoke", "retries": 1}, {"type": "event"})
    await product.start()
    await product.verb("start")
    ended = await product.status_with(lambda status: status["phase"] == "rolled_back")
    assert "hook smoke: answered 500: 3 of 20 checks failed" in ended["reason"]
    assert product.origins["v2"].paths == []
    assert (ended["weight_percent"], await versions(product)) == (0, {"v1"})


async def test_a_gate_never_holds_up_a_rollback_and_promote_passes_it(product: Product, receiver: Receiver) -> None:
    configure(product, receiver, {"type": "confirm_rollout", "interval": "100ms"})
    await product.start()
    await product.verb("start")
    await receiver.heard(1)
    assert (await product.verb("rollback"))["phase"] == "rolled_back"
    await product.verb("retry")
    await product.status_with(lambda status: bool(status["hooks"]["waiting"]))
    promoted = await product.verb("promote")
    assert (promoted["phase"], promoted["weight_percent"]) == ("progressing", 25)
    await product.status_with(lambda status: status["hooks"]["waiting"] == [])
