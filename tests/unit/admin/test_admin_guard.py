"""Who may do what on the admin API: names, roles, open reads, limits, and what is put on record about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from admin_world import SHOP, AdminClient, MakeClient, World, bearer

pytest_plugins = ["admin_world"]

MakeWorld = Callable[..., World]


async def ask(client: AdminClient, method: str, path: str, name: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of what somebody asks."""
    sent = (bearer(name) if name else {}) | {key.replace("_", "-"): value for key, value in headers.items()}
    async with client.request(method, path, headers=sent) as response:
        return response.status, await response.json()


async def test_a_name_stands_in_the_decision_and_in_the_audit(
    make_world: MakeWorld, aiohttp_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "canaryproxy.audit")
    client = await aiohttp_client(make_world().app)
    for verb in ("start", "pause", "resume", "promote", "rollback", "retry"):
        assert (await ask(client, "POST", f"{SHOP}/{verb}", "ci"))[0] == 200
    async with client.put(f"{SHOP}/weight", json={"weight": "7%"}, headers=bearer("ci")) as response:
        assert response.status == 200
    _, page = await ask(client, "GET", f"{SHOP}/decisions")
    assert {made["data"]["by"] for made in page["decisions"]} == {"ci at 127.0.0.1"}
    assert len(page["decisions"]) == 7
    await ask(client, "POST", f"{SHOP}/resume", "guess")
    await ask(client, "POST", f"{SHOP}/pause", "grafana")
    await ask(client, "POST", f"{SHOP}/pause", "operator", If_Match='"77"')
    await ask(client, "POST", f"{SHOP}/retry", "operator")
    await ask(client, "DELETE", f"{SHOP}/a%0aline", "operator")
    await ask(client, "GET", SHOP, "guess")
    lines = [record.getMessage() for record in caplog.records if record.name == "canaryproxy.audit"]
    assert lines[0] == "audit: ci at 127.0.0.1: POST /api/v1/routes/shop/start: granted (200)"
    assert lines[6] == "audit: ci at 127.0.0.1: PUT /api/v1/routes/shop/weight: granted (200)"
    assert lines[7:] == [
        "audit: nobody at 127.0.0.1: POST /api/v1/routes/shop/resume: refused (401)",
        "audit: grafana at 127.0.0.1: POST /api/v1/routes/shop/pause: refused (403)",
        "audit: operator at 127.0.0.1: POST /api/v1/routes/shop/pause: refused (412)",
        "audit: operator at 127.0.0.1: POST /api/v1/routes/shop/retry: refused (409)",
        "audit: operator at 127.0.0.1: DELETE /api/v1/routes/shop/a%0Aline: refused (404)",
    ]
    assert "s3cret" not in caplog.text


async def test_a_token_that_reads_may_not_change(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(make_world().app)
    assert (await ask(client, "GET", SHOP, "grafana"))[0] == 200
    for method, path in (("POST", f"{SHOP}/rollback"), ("PUT", "/api/v1/pools/v3"), ("POST", f"{SHOP}/goals")):
        status, answer = await ask(client, method, path, "grafana")
        assert (status, answer["error"]["code"]) == (403, "forbidden")
        assert answer["error"]["message"] == "the token of grafana has the role read: it may not change anything"


@pytest.mark.parametrize(
    ("settings", "is_open"),
    [({}, True), ({"listen": "0.0.0.0"}, False), ({"read": "token"}, False), ({"listen": "0.0.0.0", "read": "open"}, True)],
)
async def test_who_may_read(make_world: MakeWorld, aiohttp_client: MakeClient, settings: dict[str, str], is_open: bool) -> None:
    client = await aiohttp_client(make_world(**settings).app)
    for path in (SHOP, "/metrics", "/api/v1/pools", "/nothing"):
        async with client.get(path) as response:
            assert response.status in ({200, 404} if is_open else {401})
        async with client.get(path, headers=bearer("grafana")) as response:
            assert response.status in {200, 404}
    for path in ("/healthz", "/readyz", "/api/v1/openapi.json"):
        async with client.get(path, headers=bearer("guess")) as response:
            assert response.status == 200


async def test_changes_are_limited_and_a_rollback_never(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    world = make_world(rate_limit={"changes": 2})
    client = await aiohttp_client(world.app)
    assert [(await ask(client, "POST", f"{SHOP}/pause", "ci"))[0] for _ in range(3)] == [409, 409, 429]
    async with client.post(f"{SHOP}/pause", headers=bearer("ci")) as response:
        assert (response.headers["Retry-After"], (await response.json())["error"]["code"]) == ("30", "too_many_requests")
    for _ in range(10):
        assert (await ask(client, "POST", f"{SHOP}/rollback", "ci"))[0] == 200
    async with client.post(f"{SHOP}/goals", json=[], headers=bearer("ci")) as response:
        assert response.status == 202
    world.clock.advance(30)
    assert [(await ask(client, "POST", f"{SHOP}/pause", "ci"))[0] for _ in range(2)] == [409, 429]


async def test_wrong_tokens_are_limited_and_lock_nobody_out(
    make_world: MakeWorld, aiohttp_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = await aiohttp_client(make_world(rate_limit={"failures": 2}).app)
    assert [(await ask(client, "POST", f"{SHOP}/rollback", "guess"))[0] for _ in range(3)] == [401, 401, 429]
    assert (await ask(client, "POST", f"{SHOP}/rollback"))[0] == 401, "nothing was guessed"
    assert (await ask(client, "POST", f"{SHOP}/start", "ci"))[0] == 200
    for _ in range(200):
        await ask(client, "POST", f"{SHOP}/rollback", "guess")
    assert len([record for record in caplog.records if "nobody" in record.getMessage()]) == 120


async def test_misspelt_words_in_a_query_are_refused_but_not_for_a_rollback(
    make_world: MakeWorld, aiohttp_client: MakeClient
) -> None:
    client = await aiohttp_client(make_world().app)
    status, answer = await ask(client, "GET", f"{SHOP}/decisions?limt=5")
    assert (status, answer["error"]["message"]) == (400, "limt: is not known in the query")
    assert answer["error"]["hint"] == "known: limit, before"
    assert (await ask(client, "POST", f"{SHOP}/start?reason=x", "ci"))[0] == 400
    assert (await ask(client, "POST", f"{SHOP}/rollback?reason=x", "ci"))[0] == 200
    assert (await ask(client, "GET", "/readyz?from=balancer"))[0] == 200


async def test_a_body_that_does_not_come(
    make_world: MakeWorld, aiohttp_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canaryproxy.admin.handlers._BODY_SECONDS", 0.05)
    monkeypatch.setattr("canaryproxy.admin.handlers._ROLLBACK_BODY_SECONDS", 0.05)
    client = await aiohttp_client(make_world().app)

    headers = bearer("ci") | {"Content-Type": "application/json", "Content-Length": "20"}
    for verb, expected in (("start", b"HTTP/1.1 408"), ("rollback", b"HTTP/1.1 200")):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"POST {SHOP}/{verb} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n{{".encode())
        assert (await reader.readline()).startswith(expected)
        writer.close()
