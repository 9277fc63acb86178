"""Bodies that do not come whole: a rollback needs none, and nothing else waits for one."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import pytest
from admin_world import World, bearer, make_world  # noqa: F401  # a fixture
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from canaryproxy.admin import handlers

_HALF = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


async def _half(port: int | None, path: str, token: str, *, leave: bool) -> bytes:
    """Send half a body and leave, or wait for the answer; its first line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    who = f"Authorization: {bearer(token)['Authorization']}\r\n" if token else ""
    writer.write(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{who}".encode() + _HALF)
    await writer.drain()
    if leave:
        await asyncio.sleep(0.05)  # it has begun to wait for the rest
        writer.close()
        await writer.wait_closed()
        return b""
    answer = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_rollback_whose_client_has_gone_is_done(make_world: Callable[..., World]) -> None:  # noqa: F811
    world, listening = make_world(), socket.create_server(("127.0.0.1", 0))
    runner = web.AppRunner(world.app)  # as `admin.serve`: a handler is not cancelled (`TestServer` does so)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    await world.controller.submit("shop", world.controller.start_event("shop", "ci"), "")
    await _half(listening.getsockname()[1], "/api/v1/routes/shop/rollback", "ci", leave=True)
    async with asyncio.timeout(5):
        while world.controller.route("shop").rollout.phase.value != "rolled_back":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await runner.cleanup()


async def test_a_flag_waits_for_no_body(
    make_world: Callable[..., World],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(handlers, "_BODY_SECONDS", 0.1)
    world = make_world()
    async with TestClient(TestServer(world.app)) as client:
        with caplog.at_level(logging.ERROR):
            assert b" 408 " in await _half(client.port, "/ofrep/v1/evaluate/flags/shop", "", leave=False)
            await _half(client.port, "/ofrep/v1/evaluate/flags/shop", "", leave=True)
            await asyncio.sleep(0.1)
    assert not caplog.records, "nobody can fill the log"


async def test_a_reason_is_one_line(make_world: Callable[..., World]) -> None:  # noqa: F811
    world = make_world()
    async with TestClient(TestServer(world.app)) as client:
        await client.post("/api/v1/routes/shop/start", headers=bearer("ci"))
        said = await client.post(
            "/api/v1/routes/shop/rollback",
            headers=bearer("ci") | {"Content-Type": "application/json"},
            data=b'{"reason": "bad\\nforged \\u001b[31m\\udce9"}',
        )
        answer = await said.json()
    assert (answer["reason"], answer["saved"]) == ("bad forged [31m", True)
