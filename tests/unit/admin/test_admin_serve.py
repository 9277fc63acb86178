"""The controller process's body, in this process: it serves, beats, saves a last time, and ends when it should."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from canaryproxy.admin.serve import _serve
from canaryproxy.admin.tokens import load_tokens
from canaryproxy.config.overlay import Laid, Registered
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover
from canaryproxy.errors import StartError
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board
from canaryproxy.store.sqlite import SqliteStore


class Process:
    """What the supervisor gives to a controller."""

    def __init__(self, path: Path) -> None:
        self.token_file, self.state = path / "token", path / "state.db"
        self.config = Config.model_validate(
            {
                "pools": {"v1": {"servers": ["http://127.0.0.1:9"]}, "v2": {"servers": ["http://127.0.0.1:10"]}},
                "routes": {"shop": {"stable": "v1", "canary": "v2"}},
                "admin": {"token_file": str(self.token_file)},
                "state": {"path": str(self.state)},
            }
        )
        self.segment, self.handover = layout.create(2, 2), Handover()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    async def asked(self) -> int:
        """What it asks its supervisor, once it does."""
        end = time.monotonic() + 5
        while not self.handover.question:
            assert time.monotonic() < end
            await asyncio.sleep(0.001)
        return self.handover.question

    async def body(self) -> None:
        laid = Laid(self.config, self.config, {})
        await _serve(laid, load_tokens(self.config.admin), self.segment, {"shop": 0}, self.handover, [self.socket])


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    made = Process(tmp_path)
    yield made
    made.socket.close()


async def test_it_serves_until_sigterm_and_saves_a_last_time(process: Process) -> None:
    running = asyncio.create_task(process.body())
    async with aiohttp.ClientSession(process.url) as session:
        async with session.get("/healthz") as response:  # waits in the backlog until it is served
            assert response.status == 200
        token = process.token_file.read_text().strip()
        async with session.post("/api/v1/routes/shop/start", headers={"Authorization": f"Bearer {token}"}) as response:
            answer = await response.json()
    assert (answer["phase"], answer["saved"], answer["workers"]) == ("progressing", True, 0)
    assert Board(process.segment).read(0).weight_bp == 100
    assert time.monotonic() - Board(process.segment).controller_pulse() / 1000 < 1
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 5)
    store = SqliteStore(process.state)
    saved = store.load()["shop"]
    store.close()
    assert saved.rollout["phase"] == "progressing"
    assert saved.evidence is not None


async def test_an_answer_about_a_pool_is_given_before_it_leaves(process: Process) -> None:
    """As the supervisor does it: the answer on the page, and at once SIGTERM."""
    running = asyncio.create_task(process.body())
    async with aiohttp.ClientSession(process.url) as session:
        async with session.get("/api/v1/pools/v1") as response:
            assert (await response.json())["source"] == "file"
        bearer = {"Authorization": f"Bearer {process.token_file.read_text().strip()}"}
        put = asyncio.create_task(session.put("/api/v1/pools/v1", json={"servers": ["http://127.0.0.1:11"]}, headers=bearer))
        process.handover.serve(await process.asked(), 2, 2)
        os.kill(os.getpid(), signal.SIGTERM)
        async with await put as response:
            assert (response.status, (await response.json())["generation"]) == (200, 2)
    await asyncio.wait_for(running, 5)


async def test_what_is_stored_and_not_in_force_is_handed_over_at_the_start(process: Process) -> None:
    store = SqliteStore(process.state)
    store.save_pools({"v1": Registered({"servers": ["http://127.0.0.1:11"]}, {"servers": ["http://127.0.0.1:9"]}, 1.0, "x")}, {})
    store.close()
    running = asyncio.create_task(process.body())
    await process.asked()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 5)


async def test_a_tick_that_raises_ends_the_process(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(self: Controller) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Controller, "run", run)
    with pytest.raises(ZeroDivisionError):
        await process.body()


async def test_a_token_that_others_can_read_keeps_it_from_starting(process: Process) -> None:
    process.token_file.touch()
    process.token_file.chmod(0o644)
    with pytest.raises(StartError, match="can be read by others"):
        await process.body()
