"""PUT /api/v1/pools/{p}: the servers of a pool change at run time, for good, and no request is lost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness import Product, Status, until, until_answered
from origins import Origin
from reading import place, settled, versions
from traffic import Client

from canaryproxy.cli.client import UnreachableError
from canaryproxy.config.overlay import Registered
from canaryproxy.store.sqlite import SqliteStore

pytestmark = pytest.mark.system


@pytest.fixture
async def other() -> AsyncIterator[Origin]:
    """One more server, which the file does not name."""
    origin = Origin("other")
    await origin.start()
    yield origin
    await origin.stop()


def definition(origin: Origin, **more: Any) -> dict[str, Any]:
    return {"servers": [origin.url], **more}


async def put(product: Product, name: str, body: dict[str, Any]) -> tuple[int, Status]:
    """Status and answer of a registration."""
    status, answer = await asyncio.to_thread(product.admin.exchange, "PUT", f"/api/v1/pools/{name}", body)
    return status, json.loads(answer)


async def pool_with(product: Product, name: str, **wanted: Any) -> Status:
    """The pool's document, once it has these members."""

    async def ask() -> Status | None:
        try:
            found = await asyncio.to_thread(product.admin.get, f"/api/v1/pools/{name}")
        except UnreachableError:
            return None
        return found if found.items() >= wanted.items() else None

    return await until_answered(ask)


async def test_a_pool_moves_to_another_server_under_load(product: Product, other: Origin) -> None:
    await product.start()
    old, uploader = product.origins["v1"], Client(product.port)
    async with product.traffic(keep=8, fresh=4, rate=300) as traffic:
        await traffic.more(50)
        upload = asyncio.create_task(uploader.upload(1000, 15, 0.05))
        status, answer = await put(product, "v1", definition(other))
        assert (status, answer["serving"], answer["workers"], answer["generation"]) == (200, True, 2, 2)
        assert 1 <= answer["draining"] <= 2  # the upload holds one
        await pool_with(product, "v1", definition=definition(other), draining=0)
        asked, drained = len(old.paths), time.monotonic()
        await traffic.more(100)
    uploaded = await upload
    await uploader.close()
    assert [request.error for request in traffic.failures] == []
    assert (uploaded.status, json.loads(uploaded.error)["received"]) == (200, 15_000)
    assert traffic.versions(since=drained).keys() == {"other"}
    assert len(old.paths) == asked
    assert sum((await settled(product)).values()) == len(traffic.requests) + 1
    assert product.said("was killed by") + product.said("ended with code") == 0


async def test_it_stays_there_until_the_file_says_something_else(product: Product, other: Origin) -> None:
    await product.start()
    assert (await put(product, "v1", definition(other)))[0] == 200
    await product.stop()
    await product.start()
    assert await versions(product) == {"other"}
    assert product.said("pool v1: is as it was registered, not as in the file") == 2  # at the hand-over and at the start

    product.configure(pools={"v1": definition(product.origins["v2"])})
    await product.reload()
    assert await versions(product) == {"v2"}
    assert product.said("the file decides") == 1
    await pool_with(product, "v1", source="file")
    product.configure()  # what was registered over this very text is forgotten all the same
    await product.reload()
    assert await versions(product) == {"v1"}


async def test_a_kill_right_after_the_answer_changes_nothing(product: Product, other: Origin) -> None:
    await product.start()
    assert (await put(product, "v1", definition(other)))[0] == 200
    await product.kill()
    await product.start()
    assert await versions(product) == {"other"}


async def test_a_hand_over_that_cannot_be_leaves_everything_as_it_was(product: Product, other: Origin) -> None:
    await product.start()
    pids = product.processes()
    soft, hard = resource.prlimit(product.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(product.pid, resource.RLIMIT_NOFILE, (0, hard))  # it can open no file
    status, answer = await put(product, "v1", definition(other))
    resource.prlimit(product.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert (status, answer["error"]["code"]) == (503, "handover_failed")
    assert re.match("pool v1: is as before: state .* cannot be opened", answer["error"]["message"])
    assert product.processes() == pids
    assert await versions(product) == {"v1"}
    await product.kill()
    await product.start()
    assert await versions(product) == {"v1"}
    log = await asyncio.to_thread(product.admin.get, "/api/v1/routes/shop/decisions")
    assert [made["sentence"] for made in log["decisions"]] == [
        "pool v1: its change could not be served and was undone",
        "pool v1: changed by operator at 127.0.0.1",
    ]


async def test_a_rollout_goes_on_when_its_pool_moves_and_a_half_edited_file_does_not_matter(
    product: Product, other: Origin
) -> None:
    await product.start()
    await product.verb("start")
    await product.set_weight("100%")
    before = await product.status()
    product.file.write_text("pools: [half edit")
    assert (await put(product, "v2", definition(other)))[0] == 200
    await until(lambda: len(product.processes()) == 4)  # the old workers take what they had accepted in that moment
    assert await versions(product) == {"other"}
    assert place(await product.status()) == place(before)


async def test_a_pool_that_is_put_during_a_reload_is_served_too(product: Product, other: Origin) -> None:
    await product.start()
    product.signal(signal.SIGHUP)
    await until(lambda: len(product.processes()) > 4)  # the new workers are on their way
    status, answer = await put(product, "v1", definition(other))
    assert (status, answer["serving"]) in ((200, True), (202, False))
    await pool_with(product, "v1", definition=definition(other), serving=True)
    await until(lambda: product.said("reloaded") == 2)
    assert await versions(product) == {"other"}


async def test_what_a_killed_controller_had_stored_is_served(product: Product, other: Origin) -> None:
    await product.start()
    store = SqliteStore(product.state)
    file = definition(product.origins["v1"])
    store.save_pools({"v1": Registered(definition(other), file, 1.0, "somebody")}, {})
    store.close()
    assert product.controller
    os.kill(product.controller, signal.SIGKILL)
    await pool_with(product, "v1", registered_by="somebody", serving=True)
    assert await versions(product) == {"other"}
