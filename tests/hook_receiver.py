"""A real HTTP server that hooks point to: it answers as it is told, one answer after the other, and keeps what it got."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from canaryproxy.config.hooks import Hook

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Got(NamedTuple):
    """One POST."""

    headers: dict[str, str]
    body: Any


class Receiver:
    """`says`: statuses, (status, text) or scripts; the last one is for all that come after."""

    def __init__(self, *says: int | tuple[int, str] | Script) -> None:
        self.says: list[Any] = list(says or (200,))
        self.got: list[Got] = []
        self._runner: web.AppRunner | None = None
        self.port = 0
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Listen on a free port, or on that of last time."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def hook(self, kind: str = "event", **options: Any) -> Hook:
        """A hook that points here."""
        return Hook.model_validate({"type": kind, "url": f"http://127.0.0.1:{self.port}/{kind}", **options})

    async def heard(self, count: int, limit: float = 5.0) -> list[Got]:
        """What it got, as soon as it is so much."""
        async with asyncio.timeout(limit):
            while len(self.got) < count:
                self._news.clear()
                await self._news.wait()
        return self.got

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        self.got.append(Got(dict(request.headers), body))
        self._news.set()
        say = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if callable(say):
            answer: web.StreamResponse = await say(request)
            return answer
        status, words = say if isinstance(say, tuple) else (say, "")
        return web.Response(status=status, text=words)


async def hang(request: web.Request) -> web.StreamResponse:
    """No answer."""
    await asyncio.sleep(60)
    return web.Response()


class NoSleep:
    """Sleeps are noted, and last no time."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)
