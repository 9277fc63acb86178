"""The description of the admin API, and what every path does with ETags and HEAD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from admin_world import SHOP, MakeClient, World, bearer

from canaryproxy.admin.openapi import describe
from canaryproxy.admin.paths import Access, Answer, Path

pytest_plugins = ["admin_world"]

MakeWorld = Callable[..., World]


async def nothing(_: Any) -> Any:
    """Serves nothing."""


async def test_every_path_is_described_and_none_else(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    world = make_world()
    client = await aiohttp_client(world.app)
    async with client.get("/api/v1/openapi.json", headers={"Host": "localhost"}) as response:
        document = await response.json()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    served = {
        (route.method, route.resource.canonical)
        for route in world.app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert described == served
    assert ("POST", "/api/v1/routes/{route}/rollback") in served
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


async def test_every_form_that_is_named_is_there(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(make_world().app)
    async with client.get("/api/v1/openapi.json") as response:
        text, document = await response.text(), await response.json()
    forms = set(document["components"]["schemas"])
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named == forms


def test_refusals_follow_from_who_may_ask() -> None:
    made = describe(
        [
            Path("GET", "/a", nothing, Access.OPEN, "a", "", {200: Answer("")}),
            Path("GET", "/b/{c}", nothing, Access.READ, "b", "", {200: Answer("")}, if_none_match=True),
            Path("PUT", "/b/{c}", nothing, Access.CHANGE, "c", "", {200: Answer("")}, body="Reason", if_match=True),
            Path("POST", "/d", nothing, Access.ROLLBACK, "d", "", {200: Answer("")}, body="Reason"),
        ]
    )["paths"]

    def statuses(path: str, method: str) -> list[str]:
        return sorted(made[path][method]["responses"])

    assert statuses("/a", "get") == ["200", "403"]
    assert statuses("/b/{c}", "get") == ["200", "304", "400", "401", "403", "404", "429"]
    assert statuses("/b/{c}", "put") == ["200", "400", "401", "403", "404", "408", "412", "413", "429"]
    assert statuses("/d", "post") == ["200", "401", "403", "429"]


async def test_what_is_known_already_is_not_sent_again(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(make_world().app)
    for path in (SHOP, "/api/v1/pools/v1"):
        async with client.get(path) as response:
            tag = response.headers["ETag"]
        for known, expected in ((tag, 304), (f'"x", W/{tag}', 304), ("*", 304), ('"x"', 200), ("", 200)):
            async with client.get(path, headers={"If-None-Match": known}) as response:
                assert (response.status, response.headers["ETag"]) == (expected, tag), known
    async with client.post(f"{SHOP}/start", headers=bearer("ci")) as response:
        assert response.status == 200
    async with client.get(SHOP, headers={"If-None-Match": '"0"'}) as response:
        assert response.status == 200


@pytest.mark.parametrize("path", [SHOP, "/metrics", "/healthz", "/api/v1/openapi.json", "/api/v1/routes"])
async def test_head_has_no_body(make_world: MakeWorld, aiohttp_client: MakeClient, path: str) -> None:
    client = await aiohttp_client(make_world().app)
    async with client.head(path) as response:
        assert (response.status, await response.read()) == (200, b"")
        assert int(response.headers["Content-Length"]) > 10
