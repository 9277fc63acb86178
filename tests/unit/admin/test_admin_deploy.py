"""The start path over real HTTP, with a new version in its body; the supervisor is played."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from canaryproxy.admin.app import make_app
from canaryproxy.clock import ManualClock
from canaryproxy.config.quantities import Address
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover
from canaryproxy.control.pools import Pools
from canaryproxy.rollout.model import Promote
from canaryproxy.shared import layout
from canaryproxy.store.sqlite import SqliteStore

BEARER = {"Authorization": "Bearer s3cret"}

AdminClient = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[AdminClient]]


class Setup:
    """A controller with `v2` as canary, whose one server listens, and a supervisor that serves or (`refusal`) does not."""

    def __init__(self, path: Path) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        pools = {"v1": {"servers": ["http://127.0.0.1:9"]}, "v2": {"servers": [self.url]}}
        config = Config.model_validate({"pools": pools, "routes": {"shop": {"stable": "v1", "canary": "v2"}}})
        self.store, self.handover = SqliteStore(path / "state.db"), Handover()
        segment = layout.create(4, 4)
        self.controller = Controller(config, segment, {"shop": 0}, self.store, {}, clock=ManualClock(1000.2), ack_limit=0.01)
        self.pools = Pools(self.controller, self.store, self.handover, {}, limit=5.0)
        self.app = make_app(self.controller, self.pools, "s3cret", Address("127.0.0.1", 9900))
        self.refusal = ""

    async def supervise(self) -> None:
        while True:
            if question := self.handover.question:
                if self.refusal:
                    self.handover.refuse(question, self.refusal)
                else:
                    self.handover.serve(question, 2, 1)
            await asyncio.sleep(0.001)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path)
    supervising = asyncio.create_task(made.supervise())
    yield made
    supervising.cancel()
    with suppress(asyncio.CancelledError):
        await supervising
    await made.pools.close()
    await made.controller.close()
    made.listening.close()


@pytest.fixture
async def client(setup: Setup, aiohttp_client: MakeClient) -> AdminClient:
    return await aiohttp_client(setup.app)


async def start(client: AdminClient, body: Any, status: int, **headers: str) -> dict[str, Any]:
    """The answer to a start, whose status is checked."""
    sent = BEARER | {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post("/api/v1/routes/shop/start", json=body, headers=sent) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == status, answer
        return answer


async def test_new_workers_are_on_their_way(setup: Setup, client: AdminClient) -> None:
    answer = await start(client, {"canary": ["http://10.0.0.7:8000"], "version": "v3", "reason": "weekly"}, 202)
    assert (answer["generation"], answer["workers"], answer["already"]) == (2, 1, None)
    deploy = answer["deploy"]
    assert (deploy.pop("id"), deploy.pop("at")) != ("", None)
    assert deploy == {
        "state": "handing_over",
        "detail": "new workers for v3 are on their way",
        "by": "operator at 127.0.0.1",
        "canary": "v3",
        "reason": "weekly",
    }
    assert setup.store.roles()["shop"].pair == ("v1", "v3")
    again = await start(client, {"canary": ["http://10.0.0.7:8000"], "version": "v3"}, 200)
    assert again["already"] == "rolling_out"


async def test_a_pool_that_is_there_already_starts_at_once(setup: Setup, client: AdminClient) -> None:
    answer = await start(client, {"canary": "v2"}, 200)
    assert (answer["phase"], answer["deploy"]["state"], answer["already"]) == ("progressing", "started", None)
    assert (await start(client, {"canary": [setup.url], "version": "v2"}, 200))["already"] == "rolling_out"
    assert (await start(client, {"canary": ["http://127.0.0.1:9"]}, 200))["already"] == "stable"


async def test_a_server_that_is_not_there_is_waited_for(setup: Setup, client: AdminClient) -> None:
    setup.listening.close()
    answer = await start(client, {"canary": "v2"}, 202)
    assert (answer["phase"], answer["deploy"]["state"]) == ("idle", "pending")
    assert answer["deploy"]["detail"] == f"{setup.url} does not accept connections"


async def test_without_a_canary_it_is_the_plain_start(client: AdminClient) -> None:
    assert (await start(client, {"reason": "now"}, 200))["phase"] == "progressing"
    assert "says nothing without canary" in (await start(client, {"version": "v3"}, 400))["error"]["message"]


async def test_a_job_that_is_tried_again_after_the_promotion_does_not_roll_the_old_version_out(
    setup: Setup, client: AdminClient
) -> None:
    await start(client, {}, 200)
    for event in (Promote(full=True), Promote()):
        await setup.controller.submit("shop", event)
    before = setup.controller.routes["shop"].rollout
    error = (await start(client, {}, 409))["error"]
    assert error["message"].endswith(
        f"{before.stable} is stable already, and its canary is {before.canary}, the version before it"
    )
    assert error["hint"] == f"name it if it is meant: --canary {before.canary}"
    assert setup.controller.routes["shop"].rollout == before


async def test_what_is_refused(setup: Setup, client: AdminClient) -> None:
    for body, status, words in (
        ({"canary": "v7"}, 404, "pool 'v7': does not exist"),
        ({"canary": ["http://10.0.0.7"], "version": "v1"}, 409, "version v1 is stable now"),
        ({"canary": ["10.0.0.7"]}, 400, "has no scheme"),
        ({"canary": {"servers": ["http://10.0.0.7"], "balence": 1}}, 400, "balence: unknown key"),
        ({"canary": 7}, 400, "canary: 7 is no pool"),
        ({"canary": []}, 400, "canary: [] is no pool"),
        ({"canary": "v2", "version": 2}, 400, "version: 2 is not a text"),
        ({"canary": "v2", "version": "v" * 201}, 400, "version: is longer than 200"),
        ({"canary": "v2", "colour": "red"}, 400, "colour: is not known here"),
    ):
        assert words in (await start(client, body, status))["error"]["message"]
    error = (await start(client, {"canary": ["http://10.0.0.7"], "version": "v3"}, 412, If_Match='"77"'))["error"]
    assert error["code"] == "changed_meanwhile"
    setup.refusal = "no room"
    error = (await start(client, {"canary": ["http://10.0.0.7"], "version": "v3"}, 503))["error"]
    assert (error["code"], error["message"]) == ("handover_failed", "route shop: is as before: no room")
    assert (setup.store.pools(), setup.store.roles()) == ({}, {})
