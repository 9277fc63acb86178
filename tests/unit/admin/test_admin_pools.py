"""The pools' paths over real HTTP; the supervisor is played."""

from __future__ import annotations

import asyncio
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
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow
from canaryproxy.store.sqlite import SqliteStore

BEARER = {"Authorization": "Bearer s3cret"}
CONFIG = Config.model_validate(
    {
        "pools": {
            "v1": {"servers": ["http://127.0.0.1:9"], "version": "1.4.0"},
            "v2": {"servers": ["http://127.0.0.1:10"]},
        },
        "routes": {"shop": {"stable": "v1", "canary": "v2"}},
    }
)
NEW = {"servers": ["http://127.0.0.1:11"], "version": "1.4.0"}

AdminClient = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[AdminClient]]


class Setup:
    """A controller with a worker that serves and a supervisor that answers `serves` (or refuses with `refusal`)."""

    def __init__(self, path: Path) -> None:
        segment = layout.create(4, 4)
        for row in range(3):
            AckRow(segment, row).enter(100 + row, 1000.0)
        self.store, self.handover = SqliteStore(path / "state.db"), Handover()
        self.controller = Controller(CONFIG, segment, {"shop": 0}, self.store, {}, clock=ManualClock(1000.2))
        self.pools = Pools(self.controller, self.store, self.handover, {}, limit=0.2)
        self.app = make_app(self.controller, self.pools, "s3cret", Address("127.0.0.1", 9900))
        self.refusal, self.silent, self.asked = "", False, 0

    async def supervise(self) -> None:
        while True:
            question = self.handover.question
            if question and not self.silent:
                self.asked += 1
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


@pytest.fixture
async def client(setup: Setup, aiohttp_client: MakeClient) -> AdminClient:
    return await aiohttp_client(setup.app)


async def get(client: AdminClient, path: str, status: int = 200) -> dict[str, Any]:
    async with client.get(f"/api/v1/pools{path}") as response:
        assert response.status == status
        answer: dict[str, Any] = await response.json()
        return answer


async def put(client: AdminClient, name: str, body: Any, *, status: int = 200, **headers: str) -> dict[str, Any]:
    """The answer to a registration, whose status is checked."""
    sent = BEARER | {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.put(f"/api/v1/pools/{name}", json=body, headers=sent) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == status, answer
        return answer


async def test_the_files_pools(client: AdminClient) -> None:
    assert [pool["pool"] for pool in (await get(client, ""))["pools"]] == ["v1", "v2"]
    pool = await get(client, "/v1")
    assert pool.pop("revision")
    assert pool == {
        "pool": "v1",
        "version": "1.4.0",
        "definition": {"servers": ["http://127.0.0.1:9"], "version": "1.4.0"},
        "source": "file",
        "registered_at": None,
        "registered_by": None,
        "routes": ["shop"],
        "serving": True,
        "workers": 3,
        "draining": 0,
    }
    assert (await get(client, "/v3", 404))["error"]["hint"] == "there is v1, v2"


async def test_a_registration_that_is_served(setup: Setup, client: AdminClient) -> None:
    answer = await put(client, "v1", NEW)
    assert (answer["definition"], answer["version"], answer["source"], answer["routes"]) == (NEW, "1.4.0", "api", ["shop"])
    assert answer["registered_at"].endswith("Z")
    assert answer["registered_by"] == "operator at 127.0.0.1"
    assert (answer["serving"], answer["generation"], answer["workers"], answer["draining"]) == (True, 2, 1, 2)
    assert answer["warnings"] == []
    assert (await get(client, "/v1"))["definition"] == NEW
    assert setup.store.pools()["v1"].definition == NEW


async def test_a_new_pool_and_what_would_surprise(client: AdminClient) -> None:
    answer = await put(client, "v3", {"servers": ["http://127.0.0.1:12"] * 2})
    assert (answer["version"], answer["routes"]) == ("v3", [])
    assert sorted(answer["warnings"]) == [
        "pools.v3.servers[1]: http://127.0.0.1:12 is listed twice and gets twice the requests; keep one",
        "pools.v3: is not used by any route; name it in a route, or remove it",
    ]


async def test_what_is_in_force_already_changes_nothing(setup: Setup, client: AdminClient) -> None:
    present = await get(client, "/v1")
    assert await put(client, "v1", present["definition"]) == present
    assert (setup.asked, setup.store.pools()) == (0, {})


async def test_two_operators_cannot_overwrite_each_other(client: AdminClient) -> None:
    async with client.get("/api/v1/pools/v1") as response:
        seen = response.headers["ETag"]
    assert (await put(client, "v1", NEW, If_Match='"other"', status=412))["error"]["code"] == "changed_meanwhile"
    assert (await put(client, "v9", NEW, If_Match="*", status=412))["error"]["message"] == "pool v9: does not exist"
    await put(client, "v1", NEW, If_Match=f'"other", {seen}')
    await put(client, "v1", NEW | {"version": "2"}, If_Match=seen, status=412)


async def test_every_problem_is_said(setup: Setup, client: AdminClient) -> None:
    error = (await put(client, "v1", {"servers": ["10.0.0.1"], "vresion": "2"}, status=400))["error"]
    assert (error["code"], error["message"]) == ("invalid_config", error["problems"][0]["message"])
    assert [problem["message"] for problem in error["problems"]] == [
        "pools.v1.servers[0]: '10.0.0.1' has no scheme",
        "pools.v1.vresion: unknown key",
    ]
    assert error["problems"][1]["hint"].startswith("did you mean version?")
    error = (await put(client, "v1", {"servers": ["http://127.0.0.1:9900"]}, status=400))["error"]
    assert "is this proxy's admin endpoint" in error["message"]
    assert "problems" not in error
    nonsense: list[Any] = [["servers"], "servers", {}, None]
    for body in nonsense:
        await put(client, "v1", body, status=400)
    assert setup.store.pools() == {}


async def test_deep_nonsense_is_a_bad_request(client: AdminClient) -> None:
    headers = BEARER | {"Content-Type": "application/json"}
    async with client.put("/api/v1/pools/v1", data="[" * 60_000, headers=headers) as response:
        assert response.status == 400


async def test_new_workers_that_are_not_there_yet(setup: Setup, client: AdminClient) -> None:
    setup.silent = True
    answer = await put(client, "v1", NEW, status=202)
    assert (answer["serving"], answer["definition"], answer["workers"]) == (False, NEW, 3)
    assert (await get(client, "/v1"))["source"] == "file"
    assert (await put(client, "v2", NEW, status=503))["error"]["code"] == "busy"


async def test_new_workers_that_cannot_be(setup: Setup, client: AdminClient) -> None:
    setup.refusal = "workers: there is room for 0 more of them"
    error = (await put(client, "v1", NEW, status=503))["error"]
    assert error["code"] == "handover_failed"
    assert error["message"] == "pool v1: is as before: workers: there is room for 0 more of them"
    assert setup.store.pools() == {}


async def test_a_registration_needs_the_token(setup: Setup, client: AdminClient) -> None:
    async with client.put("/api/v1/pools/v1", json=NEW) as response:
        assert response.status == 401
    async with client.post("/api/v1/pools/v1", json=NEW, headers=BEARER) as response:
        assert (response.status, "PUT" in response.headers["Allow"]) == (405, True)
    assert setup.store.pools() == {}
