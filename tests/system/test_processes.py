"""Processes that are killed or hang: users hardly notice, and the rollout goes on where it was."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from harness import Product, until
from reading import place, requests, settled, versions
from traffic import Traffic

pytestmark = pytest.mark.system


async def replaced(product: Product, *pids: int) -> None:
    """Wait until both workers serve and these have gone."""
    await until(lambda: len(product.workers) == 2 and not {*pids} & {*product.workers})


async def lose_controller(product: Product, number: signal.Signals) -> None:
    """Kill or stop the controller, and wait for the next one."""
    victim = product.controller
    assert victim is not None
    os.kill(victim, number)
    await until(lambda: product.controller not in (None, victim))


def suffering(traffic: Traffic) -> set[int]:
    """The client ports of the connections on which a request failed."""
    return {request.local_port for request in traffic.failures}


async def test_a_killed_worker_takes_only_its_own_requests_with_it(product: Product) -> None:
    await product.start()
    await product.verb("start")
    await product.until_ticks(2)  # a worker that dies as soon as it serves has to wait a second
    async with product.traffic(keep=12, fresh=2, rate=250) as traffic:
        await traffic.more(100)
        before = requests(await product.metrics())
        victim = product.workers[0]
        its = {client.local_port for client in traffic.clients if product.worker_of(client.local_port) == victim}
        others = {client.local_port for client in traffic.clients} - its
        os.kill(victim, signal.SIGKILL)
        await replaced(product, victim)  # within a second, on a machine that has the time
        await traffic.more(200)
    assert its
    assert others
    assert suffering(traffic) & others == set()
    assert len(traffic.failures) <= len(its) + 2
    assert not any(request.failed for request in traffic.requests[-100:])
    after = await settled(product)
    assert all(after[key] >= count for key, count in before.items())
    answered = sum(count for (_, outcome), count in after.items() if outcome == "c2xx")
    assert len(traffic.requests) - len(traffic.failures) <= answered <= len(traffic.requests)
    assert product.said("was killed by SIGKILL; starting another") == 1


async def test_what_a_killed_worker_had_in_hand_is_held_against_nobody(product: Product) -> None:
    """Its requests never end: they are abandoned, neither in flight for ever nor failures of the version that served them."""
    product.configure(workers=1)
    await product.start()
    await product.verb("start")
    await product.set_weight("100%")
    async with product.traffic(keep=6, fresh=0, paths=["/slow/5"]) as traffic:
        await until(lambda: len(product.origins["v2"].paths) == 6)
        os.kill(product.workers[0], signal.SIGKILL)
        await until(lambda: len(traffic.failures) == 6)
        await product.origins["v2"].stop()
        traffic.stop()
    assert (await settled(product))["canary", "abandoned"] == 6
    await product.origins["v2"].start()


async def test_a_worker_that_hangs_is_killed_and_replaced(product: Product) -> None:
    await product.start()
    async with product.traffic() as traffic:
        await traffic.more(50)
        victim = product.workers[0]
        others = {client.local_port for client in traffic.clients if product.worker_of(client.local_port) != victim}
        os.kill(victim, signal.SIGSTOP)
        stopped = time.monotonic()
        await until(lambda: victim not in product.processes() and len(product.workers) == 2)
        assert time.monotonic() - stopped < 4
        await traffic.more(100)
    assert product.said(f"(pid {victim}) hangs; killing it") == 1
    assert suffering(traffic) & others == set()


async def test_many_signals_are_no_hang(product: Product) -> None:
    """Signals that come faster than pulses move must not look like processes that stand still."""
    await product.start()
    pids = product.processes()
    for _ in range(50):
        product.signal(signal.SIGCHLD)
        await asyncio.sleep(0.002)
    await product.until_ticks(1)
    assert product.processes() == pids
    assert product.said("hangs") == 0


async def test_a_log_that_nobody_reads_stops_nothing(product: Product) -> None:
    """`canaryproxy run 2>&1 | head`: the reader has gone when something has to be said, here of all workers at once."""
    product.launch(heard=False)
    await until(lambda: product.controller and len(product.workers) == 2)
    await product.until_ticks(2)
    victims = product.workers
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    await replaced(product, *victims)
    assert not product.ended
    assert await versions(product) == {"v1"}


async def test_whatever_is_killed_the_rollout_goes_on_where_it_was(product: Product) -> None:
    """The controller three times under load (once it hangs), then everything at once: step, weight, salt, times; counters too."""
    product.configure({"rollout": {"steps": [{"weight": "5%", "hold": "10m"}, {"weight": "50%", "hold": "10m"}]}})
    await product.start()
    await product.verb("start")
    await product.verb("promote")
    async with product.traffic(rate=250) as traffic:
        before = await product.status_with(lambda status: status["held"] >= 6)
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL):
            await lose_controller(product, number)
        after = await product.status()
        await traffic.more(50)
    assert traffic.failures == []
    assert (after["phase"], after["step"], after["weight_percent"]) == ("progressing", 2, 50)
    assert place(after) == place(before)
    assert after["held"] >= before["held"] - 5.5 > 0  # the time in a step is saved each 5 s
    for variant in ("stable", "canary"):
        assert after[variant]["requests"] >= before[variant]["requests"] > 0
    assert sum((await settled(product)).values()) == len(traffic.requests)
    await product.kill()
    await product.start()
    again = await product.status()
    assert place(again) == place(before)
    assert again["held"] >= after["held"] - 5.5
    assert again["held"] > 0
    assert await versions(product) == {"v1", "v2"}


async def test_killing_the_supervisor_takes_everything_down_and_a_start_goes_on(product: Product) -> None:
    await product.start()
    await product.verb("start")
    before = await product.status()
    async with product.traffic() as traffic:
        await traffic.more(50)
    product.signal(signal.SIGKILL)
    await product.exit_code()
    assert product.processes() == []
    await product.start()
    assert place(await product.status()) == place(before)


async def test_without_a_controller_that_can_live_the_canary_gets_nothing(product: Product) -> None:
    await product.start()
    await product.verb("start")
    before = await product.status()
    async with product.traffic() as traffic:
        await traffic.more(50)
        assert traffic.versions()["v2"] > 0
        controller = product.controller
        assert controller is not None
        good = product.spoil_state()
        os.kill(controller, signal.SIGKILL)
        await product.until_said("canary weight set to 0", limit=20)
        since = time.monotonic()
        await traffic.more(100)
        assert traffic.versions(since=since)["v2"] == 0
        for file, content in good.items():
            file.write_bytes(content)
        ended = await product.status_with(lambda status: status["phase"] == "rolled_back")
        await traffic.more(50)
        assert traffic.versions(since=since)["v2"] == 0
    assert ended["salt_id"] == before["salt_id"]
    assert traffic.failures == []
