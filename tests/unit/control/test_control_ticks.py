"""When ticks come: on the grid, never twice, and not in a burst after a stall."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from canaryproxy.clock import ManualClock
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Controller
from canaryproxy.shared import layout
from canaryproxy.store.sqlite import SqliteStore

CONFIG = Config.model_validate({"pools": {"v1": {"servers": ["http://127.0.0.1:9"]}}, "routes": {"plain": {"stable": "v1"}}})


Ticks = Callable[[list[float]], Awaitable[list[float]]]


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ticks:
    """`ticks(lateness)`: the times of the ticks when each sleep takes this much longer than asked for."""
    return partial(_ticks, monkeypatch, tmp_path)


async def _ticks(monkeypatch: pytest.MonkeyPatch, path: Path, lateness: list[float]) -> list[float]:
    clock = ManualClock(1000.0)
    store = SqliteStore(path / "state.db")
    controller = Controller(CONFIG, layout.create(1, 1), {"plain": 0}, store, {}, clock=clock)
    late, seen = iter(lateness), []

    async def sleep(seconds: float) -> None:
        try:
            clock.advance(seconds + next(late))
        except StopIteration:
            raise asyncio.CancelledError from None

    monkeypatch.setattr(controller, "tick", lambda: seen.append(round(clock.monotonic(), 3)))
    with monkeypatch.context() as patched:
        patched.setattr("canaryproxy.control.controller.asyncio.sleep", sleep)
        with pytest.raises(asyncio.CancelledError):
            await controller.run()
    await controller.close()
    return seen


async def test_ticks_are_on_the_grid_without_drift(ticks: Ticks) -> None:
    assert await ticks([0.01, 0.3, 0.0, 0.02]) == [1000.21, 1001.5, 1002.2, 1003.22]


async def test_a_stall_is_followed_by_one_tick(ticks: Ticks) -> None:
    assert await ticks([0.0, 7.1, 0.0, 0.0]) == [1000.2, 1008.3, 1009.2, 1010.2]


async def test_waking_a_little_early_is_no_second_tick(ticks: Ticks) -> None:
    assert await ticks([0.0, -0.001, 0.0]) == [1000.2, 1001.199, 1002.2]
