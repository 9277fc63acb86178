"""SIGHUP: a new configuration comes into force, or nothing changes; no request is lost either way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from contextlib import suppress

import pytest
from harness import Product, free_port, until
from reading import place, refuses, settled, versions
from traffic import Client

pytestmark = pytest.mark.system


async def test_reloads_under_load_cost_no_request(product: Product) -> None:
    product.configure(timeouts={"drain": "1m"})
    await product.start()
    await product.verb("start")
    before = await product.status()
    uploader = Client(product.port)
    async with product.traffic(keep=10, fresh=6, rate=300) as traffic:
        await traffic.more(50)
        upload = asyncio.create_task(uploader.upload(1000, 30, 0.1))
        for workers in (3, 1, 2):
            product.configure(workers=workers)
            await product.reload()
            await traffic.more(100)
            await product.until_workers(workers)
        uploaded = await upload
        await until(lambda: len(product.processes()) == 4, 3)  # all the others were let go by their clients
        await traffic.more(100)
    await uploader.close()
    assert [request.error for request in traffic.failures] == []
    assert (uploaded.status, json.loads(uploaded.error)["received"]) == (200, 30_000)
    after = await product.status()
    assert place(after) == place(before)
    assert sum((await settled(product)).values()) == len(traffic.requests) + 1
    assert product.said("was killed by") + product.said("ended with code") == 0


async def test_a_reload_that_is_asked_for_during_a_reload_is_not_lost(product: Product) -> None:
    await product.start()
    product.signal(signal.SIGHUP)
    await until(lambda: len(product.processes()) > 4)  # the new workers are on their way
    product.configure(timeouts={"response_head": "0.3s"})
    product.signal(signal.SIGHUP)
    await product.until_said("reloaded", 2)
    await product.until_workers(2)
    client = Client(product.port)
    assert (await client.get("/slow/1")).status == 504
    await client.close()


async def test_a_reload_makes_changes_true(product: Product) -> None:
    await product.start()
    client = Client(product.port)
    assert (await client.get("/slow/0.5")).version == "v1"
    product.configure(timeouts={"response_head": "0.2s"}, pools={"v1": {"servers": [product.origins["v2"].url]}})
    await product.reload()
    await client.close()
    assert (await client.get("/")).version == "v2"
    assert (await client.get("/slow/2")).status == 504
    await client.close()


async def test_a_reload_moves_to_another_port_and_leaves_the_old_one(product: Product) -> None:
    await product.start()
    old, client = product.port, Client(product.port)
    slow = asyncio.create_task(client.get("/slow/1"))
    await until(lambda: product.origins["v1"].paths)
    product.port = free_port()
    product.configure()
    await product.reload()
    assert (await slow).status == 200
    assert await versions(product) == {"v1"}
    await until(lambda: refuses(old))
    await client.close()


async def test_a_reload_with_other_pools_begins_idle(product: Product) -> None:
    await product.start()
    await product.verb("start")
    await product.set_weight("100%")
    product.configure(pools={"v3": {"servers": [product.origins["v2"].url]}}, route={"canary": "v3"})
    async with product.traffic() as traffic:
        await product.reload()
        status = await product.status_with(lambda status: status["canary"]["pool"] == "v3")
        since = time.monotonic()
        await product.until_workers(2)
        await traffic.more(100)
    assert (status["phase"], status["weight_percent"]) == ("idle", 0)
    assert traffic.versions(since=since + 1)["v2"] == 0
    assert traffic.failures == []


async def test_an_invalid_file_changes_nothing_and_the_log_says_why(product: Product) -> None:
    await product.start()
    pids = product.processes()
    product.configure(route={"canary": "v9"}, timeouts={"drian": "5s"})
    product.signal(signal.SIGHUP)
    await product.until_said("reload refused, nothing changed", 2)
    assert product.said("no pool is named 'v9'") == 1
    assert product.said("drian") == 1
    product.configure(state={"path": str(product.folder / "other.db")})
    product.signal(signal.SIGHUP)
    await product.until_said("restart to move them")
    assert product.processes() == pids
    assert await versions(product) == {"v1"}


async def test_a_token_file_that_others_can_read_changes_nothing(product: Product) -> None:
    await product.start()
    pids = product.processes()
    token = product.folder / "ci.token"
    token.write_text("a-token-that-others-can-read\n")
    token.chmod(0o644)
    admin = {"listen": f"127.0.0.1:{product.admin_port}", "token_file": str(product.token_file)}
    product.configure(admin=admin | {"tokens": {"ci": {"file": str(token), "role": "operate"}}})
    product.signal(signal.SIGHUP)
    await product.until_said("reload refused, nothing changed")
    assert product.processes() == pids
    assert (await product.status())["saved"]


async def test_a_port_that_is_taken_changes_nothing(product: Product) -> None:
    await product.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        product.configure(listen=f"127.0.0.1:{taken.getsockname()[1]}")
        product.signal(signal.SIGHUP)
        await product.until_said("reload refused, nothing changed")
    assert product.said("is in use by another program") == 1
    assert await versions(product) == {"v1"}


async def test_a_reload_whose_workers_do_not_come_up_is_undone(product: Product) -> None:
    """The new generation cannot start: whoever served before goes on, all of them, and the next reload works."""
    await product.start()
    pids = set(product.workers)
    product.configure(workers=4)
    async with product.traffic(fresh=6) as traffic:
        killer = asyncio.create_task(kill_newcomers(product, pids))
        product.signal(signal.SIGHUP)
        await product.until_said("reload undone")
        killer.cancel()
        await traffic.more(100)  # some were on connections of newcomers, which were killed
        undone = time.monotonic()
        await traffic.more(100)
    assert set(product.workers) == pids
    assert [request for request in traffic.failures if request.began > undone] == []
    product.configure(timeouts={"response_head": "0.3s"})
    await product.reload()
    await until(lambda: len(product.workers) == 2 and not pids & {*product.workers})


async def kill_newcomers(product: Product, known: set[int]) -> None:
    """Kill every child process that appears, but the workers that are known and the controller."""
    while True:
        for pid in {*product.processes()} - known - {product.pid, product.controller}:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.005)
