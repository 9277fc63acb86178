"""One run of one scenario: origins, proxy and users as processes of their own, in a new folder, until the rollout has ended.

asyncio. The rollout is started and watched through the admin API, as an operator would do it. Whatever ends the run, its
processes end in the opposite order of their start, and the folder goes last.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.live.figures import Course, Decision, Measurement, Tally, measure
from bench.live.load import Load
from bench.live.origin import Ordered, fault_path
from bench.live.scenario import (
    AFTERMATH,
    BASELINE,
    BOT_RATE,
    HEALTHY_FOR,
    PAUSE_WATCHED,
    ROUTE,
    Fault,
    Scenario,
    config_text,
)
from canaryproxy.cli.client import Admin, UnreachableError
from canaryproxy.cli.demo.children import Child, child
from canaryproxy.clock import SystemClock
from canaryproxy.errors import StartError

_LOOK_EVERY = 0.25
_START_LIMIT = 30.0
_PATIENCE = 5.0
#: Seconds until a fault begins once it is ordered, so that both origins know of it.
_NOTICE = 0.1
#: The bot's first request number: above all others'.
_BOT_NUMBERS = 1_000_000_000
_SERVING = re.compile(r"serving on http://\S+?:(\d+)\b.*admin on (http://\S+:\d+)")


class Run:
    """One run, and the processes that make it. `stage` is called with what is going on."""

    def __init__(self, scenario: Scenario, number: int, seed: int, stage: Callable[[str], None]) -> None:
        self._scenario, self._number, self._seed, self._stage = scenario, number, seed, stage
        self._now = SystemClock.monotonic
        self._began = self._now()
        self._tally = Tally()
        self._ports: dict[str, int] = {}
        self._children: dict[str, Child] = {}
        self._serving: re.Match[str] | None = None
        self._course = Course(self._began)
        self._admin: Admin

    async def measure(self) -> Measurement:
        """What the run came to. Raises StartError when a process does not start or ends too soon."""
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="canaryproxy-live-", ignore_cleanup_errors=True)))
            self._stage("start")
            await self._start(stack, folder)
            self._stage("stable alone")
            await asyncio.sleep(BASELINE)
            await asyncio.to_thread(self._admin.post, self._admin.route(ROUTE, "start"), {})
            self._course.started = self._now()
            limit = self._course.started + self._scenario.limit
            self._stage("canary healthy")
            within_tick = random.Random(self._seed).random()  # ticks are on the grid of the clock, faults are not
            if not await self._watch(self._course.started + HEALTHY_FOR + within_tick):
                await self._begin_fault(stack)
                self._stage("fault" if self._scenario.fault is not Fault.NONE else "canary healthy")
                await self._watch(limit)
            await asyncio.sleep(AFTERMATH)
        return measure(self._scenario, self._number, self._tally, self._course, self._now() - self._began)

    async def _start(self, stack: AsyncExitStack, folder: Path) -> None:
        for version in ("v1", "v2"):
            hear = partial(self._hear_origin, version)
            origin = child(version, "bench.live.origin", version, str(self._seed), on_line=hear, patience=_PATIENCE)
            await self._ready(await stack.enter_async_context(origin), partial(self._ports.__contains__, version))
        config = folder / "canaryproxy.yaml"
        config.write_text(config_text(self._scenario, str(folder), self._ports["v1"], self._ports["v2"]))
        command = ("canaryproxy", "run", "--config", str(config))
        proxy = child("proxy", *command, on_complaint=self._hear_proxy, patience=_PATIENCE)
        await self._ready(await stack.enter_async_context(proxy), lambda: self._serving is not None)
        assert self._serving is not None
        port, admin_url = self._serving.groups()
        self._ports["proxy"] = int(port)
        self._admin = Admin(admin_url, folder / "token")
        await self._start_load(stack, "users", Load(int(port), self._seed))

    async def _start_load(self, stack: AsyncExitStack, name: str, load: Load) -> None:
        command = ("bench.live.load", json.dumps(asdict(load)))
        users = child(name, *command, on_line=lambda line: self._tally.hear_load(name, json.loads(line)), patience=_PATIENCE)
        await self._ready(await stack.enter_async_context(users), lambda: name in self._tally.skipped)

    async def _ready(self, starting: Child, ready: Callable[[], bool]) -> None:
        limit = self._now() + _START_LIMIT
        while not ready():
            if starting.exit_code is not None or self._now() > limit:
                raise await starting.failure()
            await asyncio.sleep(0.02)
        self._children[starting.name] = starting

    def _hear_origin(self, version: str, line: str) -> None:
        told = json.loads(line)
        if "port" in told:
            self._ports[version] = told["port"]
        else:
            self._tally.hear_origin(version, told)

    def _hear_proxy(self, line: str) -> None:
        self._serving = self._serving or _SERVING.search(line)

    # The fault.

    async def _begin_fault(self, stack: AsyncExitStack) -> None:
        scenario, canary = self._scenario, self._tally.origins["v2"]
        self._course.served_before = canary.get("served", 0)
        if scenario.fault is Fault.NONE:
            return
        self._course.fault_at = begins = self._now() + _NOTICE
        if scenario.fault is Fault.KILLED:
            await asyncio.sleep(_NOTICE)
            self._children.pop("v2").kill()
            return
        bot = canary["last_user"] if scenario.fault is Fault.BOT else ""
        ordered = Ordered(scenario.fault, scenario.share, begins, begins + scenario.seconds, bot)
        # A bot is refused by whichever version it comes to.
        for version in ("v1", "v2") if scenario.both or bot else ("v2",):
            await asyncio.to_thread(_order, self._ports[version], ordered)
        if bot:
            load = Load(self._ports["proxy"], self._seed, rate=BOT_RATE, users=1, only=bot, first=_BOT_NUMBERS)
            await self._start_load(stack, "bot", load)

    # Watching.

    async def _watch(self, until: float) -> bool:
        """Look until that moment; True as soon as the rollout has ended, or was paused for long enough."""
        while self._now() < until:
            for running in self._children.values():
                if running.exit_code is not None:
                    raise await running.failure()
            phase = await self._look()
            if phase in ("rolled_back", "promoted"):
                return True
            paused = next((one.at for one in reversed(self._course.decisions) if one.kind == "pause"), None)
            if phase == "paused" and paused is not None and self._now() > paused + PAUSE_WATCHED:
                return True
            await asyncio.sleep(_LOOK_EVERY)
        return False

    async def _look(self) -> str:
        """Ask the admin API; the rollout's phase."""
        with suppress(UnreachableError):
            status = await asyncio.to_thread(self._admin.get, self._admin.route(ROUTE))
            answer = await asyncio.to_thread(self._admin.get, self._admin.route(ROUTE, "decisions") + "?limit=50")
            skew = self._now() - SystemClock.wall()
            # a verdict is told again, in brackets, by the change that it leads to
            made = [one for one in reversed(answer["decisions"]) if one["kind"] != "verdict"]
            self._course.decisions = [Decision(one["at"] + skew, one["kind"], one["sentence"]) for one in made]
            return str(status["phase"])
        return ""


def _order(port: int, ordered: Ordered) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", fault_path(ordered))
        if connection.getresponse().status != 204:
            raise StartError("origin", "does not take its fault")
    finally:
        connection.close()
