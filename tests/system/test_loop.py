"""The closed loop as its user sees it: traffic in, verdicts, and where the traffic goes then."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

import pytest
from harness import Product, until, until_answered
from origins import Origin
from reading import versions
from traffic import Traffic

pytestmark = pytest.mark.system

#: Fast enough for a test; every step is still proven by the same statistics.
QUICK = {"steps": [{"weight": "50%", "hold": "2s"}], "bake": "2s", "i_accept_the_risk": True}


def route(path: str, canary: str) -> dict[str, object]:
    """A route of its own for everything below `path`."""
    return {
        "match": {"paths": [path]},
        "stable": "v1",
        "canary": canary,
        "affinity": {"header": "X-User-Id"},
        "rollout": QUICK,
    }


async def test_each_of_three_canaries_at_once_gets_what_it_deserves(product: Product) -> None:
    broken, slow = Origin("broken"), Origin("slow")
    for origin in (broken, slow):
        await origin.start()
    broken.error_share, slow.delay = 0.30, 0.2
    paths = {"/broken": "broken", "/slower": "slow", "/healthy": "v2"}
    product.configure(
        pools={"broken": {"servers": [broken.url]}, "slow": {"servers": [slow.url]}},
        routes={"shop": None, **{path[1:]: route(path, canary) for path, canary in paths.items()}},
    )
    try:
        await product.start()
        async with product.traffic(keep=14, fresh=4, rate=390, paths=list(paths)) as traffic:
            await asyncio.gather(*(product.verb("start", name) for name in ("broken", "slower", "healthy")))
            await asyncio.gather(
                ends_broken(product, traffic, broken),
                ends_slow(product, slow),
                ends_promoted(product),
            )
        assert {request.version for request in traffic.failures} == {"broken"}
    finally:
        for origin in (broken, slow):
            await origin.stop()


async def ends_broken(product: Product, traffic: Traffic, broken: Origin) -> None:
    """30 % errors: rolled back by itself within seconds, and nobody reaches it afterwards."""
    ended = await product.status_with(lambda status: status["phase"] != "progressing", 15, "broken")
    assert ended["phase"] == "rolled_back"
    assert "failed" in ended["reason"]
    assert "evidence" in ended["reason"]
    since = time.monotonic()
    await traffic.more(300)
    assert traffic.versions(since=since)["broken"] == 0
    assert await versions(product, "/broken", 50) == {"v1"}


async def ends_slow(product: Product, slow: Origin) -> None:
    """200 ms slower: rolled back or paused with the latency sentence, once the canary is warm."""
    ended = await product.status_with(lambda status: status["phase"] != "progressing", 45, "slower")
    assert ended["phase"] in ("rolled_back", "paused")
    assert "canary requests took over" in ended["reason"]
    if ended["phase"] == "rolled_back":
        assert await versions(product, "/slower", 50) == {"v1"}


async def ends_promoted(product: Product) -> None:
    """As good as the old one: promoted, then the roles are swapped, and no restart undoes that."""
    ended = await product.status_with(lambda status: status["phase"] not in ("progressing", "baking"), 60, "healthy")
    assert (ended["phase"], ended["stable"]["pool"], ended["canary"]["pool"]) == ("promoted", "v2", "v1")
    assert await versions(product, "/healthy") == {"v2"}


async def test_after_a_promotion_no_restart_goes_back_but_a_rollback_does(product: Product) -> None:
    await product.start()
    await product.verb("start")
    await product.verb("promote", full=True)
    promoted = await product.verb("promote")
    assert (promoted["phase"], promoted["stable"]["pool"], promoted["canary"]["pool"]) == ("promoted", "v2", "v1")
    assert await versions(product) == {"v2"}
    await product.kill()
    product.launch()
    (controller,) = await until(lambda: [pid for pid in product.processes() if pid != product.pid][:1])
    os.kill(controller, signal.SIGSTOP)  # the first request must be right, not only those after the controller's first word
    await product.until_said("serving on", 2)
    assert await versions(product) == {"v2"}
    assert (await product.status())["phase"] == "promoted"
    assert await product.stop() == 0
    await product.start()
    assert await versions(product) == {"v2"}
    back = await product.verb("rollback")
    assert (back["phase"], back["applied_by"], back["workers"], back["saved"]) == ("rolled_back", 2, 2, True)
    assert await versions(product) == {"v1"}
    assert await product.stop() == 0
    await product.start()
    assert await versions(product) == {"v1"}


async def test_no_request_reaches_the_canary_after_the_reply_to_a_rollback(product: Product) -> None:
    await product.start()
    await product.verb("start")
    await product.set_weight("100%")
    for _ in range(2):
        async with product.traffic(keep=12, fresh=4, rate=500) as traffic:
            await traffic.more(100)
            answer = await product.verb("rollback", reason="a test")
            replied = time.monotonic()
            await traffic.more(200)
        assert (answer["applied_by"], answer["workers"], answer["saved"]) == (2, 2, True)
        assert (answer["phase"], answer["weight_percent"]) == ("rolled_back", 0)
        late = {request.number for request in traffic.requests if request.began > replied}
        assert len(late) >= 100
        assert late & product.origins["v2"].numbers == set()
        assert traffic.failures == []
        assert traffic.versions()["v2"] > 50
        product.origins["v2"].numbers.clear()
        await product.verb("retry")
        await product.set_weight("100%")


async def test_a_rollback_works_while_the_canary_is_down(product: Product) -> None:
    async def blamed() -> bool | None:
        refused = re.search(r'requests_total{outcome="connect_failed",[^}]*variant="canary"} [1-9]', await product.metrics())
        return refused is not None or None

    await product.start()
    await product.verb("start")
    await product.origins["v2"].stop()
    async with product.traffic() as traffic:
        await until_answered(blamed)
        answer = await product.verb("rollback")
        await traffic.more(100)
    assert (answer["applied_by"], answer["saved"]) == (2, True)
    assert traffic.failures == [], "stable answered for it"
    await product.origins["v2"].start()


async def test_a_rollback_works_while_the_disk_is_full(product: Product) -> None:
    await product.start()
    await product.verb("start")
    async with product.full_disk():
        answer = await product.verb("rollback")
        assert (answer["phase"], answer["applied_by"], answer["saved"]) == ("rolled_back", 2, False)
        assert await versions(product, "/", 50) == {"v1"}
        assert 'canaryproxy_unsaved{route="shop"} 1.0' in await product.metrics()
        assert product.said("not saved") == 1
    await product.until_said("saved again")
    assert (await product.status_with(lambda status: status["saved"]))["phase"] == "rolled_back"
    await product.kill()
    await product.start()
    assert (await product.status())["phase"] == "rolled_back"


async def test_a_rollback_works_while_another_process_holds_the_state_file(product: Product) -> None:
    await product.start()
    await product.verb("start")
    with product.held_state():
        code, out, complaints = await product.cli("rollback", "--config", str(product.file))
    assert code == 0, complaints
    assert "rolled back: 0% on v2, applied by 2 of 2 workers" in out
    assert "not saved yet" in complaints
    assert await versions(product, "/", 50) == {"v1"}
    await product.until_said("saved again")


async def test_a_raise_waits_for_the_disk_and_a_kill_in_between_forgets_it(product: Product) -> None:
    """Write first, then up: a share that is not on disk is never given."""
    await product.start()
    await product.verb("start")
    async with product.full_disk():
        answer = await product.set_weight("100%")
        assert answer["saved"] is False
        assert "v1" in await versions(product, "/", 50)
        await product.kill()
    await product.start()
    assert (await product.status())["weight_percent"] == 25


async def test_an_auto_start_waits_for_the_canary_and_happens_once(product: Product) -> None:
    product.configure({"rollout": {"auto_start": True}})
    await product.origins["v2"].stop()
    await product.start()
    await product.until_ticks(1)
    assert (await product.status())["phase"] == "idle"
    await product.origins["v2"].start()
    await product.status_with(lambda status: status["phase"] == "progressing")
    await product.verb("rollback")
    await product.stop()
    await product.start()
    await product.until_ticks(1)
    assert (await product.status())["phase"] == "rolled_back"
