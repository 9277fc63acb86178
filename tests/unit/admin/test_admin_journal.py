"""The paths of the journals, on a store that has one."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from canaryproxy.admin.journal import JournalHandlers
from canaryproxy.control.controller import Controller
from canaryproxy.store.base import JournalBlock

BLOCKS = [(n, JournalBlock("1-a", n * 5, 5, bytes([n, 255]))) for n in range(3)]


class Reader:
    """What the handlers ask of a controller."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def rollouts(self, name: str) -> list[str]:
        self.asked.append((name,))
        return ["2-b", "1-a"]

    async def journal(self, name: str, rollout: str, limit: int, after: int) -> list[tuple[int, JournalBlock]]:
        self.asked.append((name, rollout, limit, after))
        return BLOCKS


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("1-a", ("shop", "1-a", 100, 0)),
        ("1-a?limit=7&after=3", ("shop", "1-a", 7, 3)),
        ("a%2Fb?limit=9999", ("shop", "a/b", 500, 0)),
    ],
)
async def test_a_journal_is_answered_in_pages(path: str, asked: tuple[Any, ...]) -> None:
    reader = Reader()
    handlers = JournalHandlers(cast(Controller, reader))
    app = web.Application()
    app.router.add_get("/{route}/journal", handlers.rollouts)
    app.router.add_get("/{route}/journal/{rollout}", handlers.blocks)
    async with TestClient(TestServer(app)) as client:
        assert await (await client.get("/shop/journal")).json() == {"rollouts": ["2-b", "1-a"]}
        answer = await (await client.get(f"/shop/journal/{path}")).json()
    assert [(one["id"], one["first"], one["ticks"]) for one in answer["blocks"]] == [(0, 0, 5), (1, 5, 5), (2, 10, 5)]
    assert base64.b64decode(answer["blocks"][2]["data"]) == b"\x02\xff"
    assert reader.asked == [("shop",), asked]
