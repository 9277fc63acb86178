"""A controller with one worker that obeys, and its admin endpoint over real HTTP.

A plugin of the tests of this directory. It asserts nothing itself (PYTEST_DONT_REWRITE).
"""

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
from canaryproxy.admin.tokens import Holder, Tokens
from canaryproxy.clock import ManualClock
from canaryproxy.config.operators import Role
from canaryproxy.config.quantities import Address
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover
from canaryproxy.control.pools import Pools
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow
from canaryproxy.store.sqlite import SqliteStore

SHOP = "/api/v1/routes/shop"
TOKENS = {"operator": Role.OPERATE, "ci": Role.OPERATE, "grafana": Role.READ}

AdminClient = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[AdminClient]]


def bearer(name: str) -> dict[str, str]:
    """The header of who has this name; the token of somebody unknown is wrong."""
    return {"Authorization": f"Bearer {name}-s3cret"}


class World:
    """Routes shop (with a canary) and plain (without)."""

    def __init__(self, path: Path, listen: str = "127.0.0.1", **admin: Any) -> None:
        self.clock = ManualClock(1000.2)
        self.segment = layout.create(4, 2)
        self.row = AckRow(self.segment, 0)
        self.row.enter(100, 1000.0)
        self.store = SqliteStore(path / "state.db")
        self.config = Config.model_validate(
            {
                "admin": admin,
                "pools": {"v1": {"servers": ["http://127.0.0.1:9"]}, "v2": {"servers": ["http://127.0.0.1:10"]}},
                "routes": {"shop": {"stable": "v1", "canary": "v2"}, "plain": {"stable": "v1"}},
            }
        )
        self.controller = Controller(
            self.config, self.segment, {"shop": 0, "plain": 1}, self.store, {}, clock=self.clock, save_limit=1.0, ack_limit=0.1
        )
        pools = Pools(self.controller, self.store, Handover(), {})
        tokens = Tokens([(Holder(name, role), f"{name}-s3cret") for name, role in TOKENS.items()])
        self.app = make_app(self.controller, pools, tokens, Address(listen, 9900))

    async def obey(self) -> None:
        """What a worker does."""
        while True:
            self.row.beat(self.clock.monotonic(), 0, (0, 1))
            await asyncio.sleep(0.001)


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    """Makes the world with these settings of `admin`."""
    made: list[World] = []
    obeying: list[asyncio.Task[None]] = []

    def make(**settings: Any) -> World:
        made.append(World(tmp_path, **settings))
        obeying.append(asyncio.create_task(made[-1].obey()))
        return made[-1]

    yield make
    for task in obeying:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for world in made:
        await world.controller.close()
