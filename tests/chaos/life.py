"""One product's life under chaos: the real product, its users, what the disk knew, what was told, who was killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Product, Status, until
from traffic import Traffic

from canaryproxy.cli.client import RefusedError, UnreachableError

from .killer import Killer, Struck
from .record import Watcher

#: Verbs after which users may be on a canary again, whatever was rolled back before.
BEGINS = ("start", "retry", "deploy")
#: A rollout of seconds. Whoever reads a decision knows that this is no plan for real users.
ROLLOUT: dict[str, Any] = {
    "steps": [{"weight": "20%", "hold": "1s"}, {"weight": "50%", "hold": "1s"}],
    "bake": "1s",
    "min_requests": 20,
    "max_step_duration": "2m",
}
_ROUTE = "/api/v1/routes/shop"
_RESTARTED = 25.0


@dataclass(slots=True)
class Told:
    """A verb: when it was sent, when answered (0: never), and what. `refused`: it changed nothing."""

    verb: str
    sent: float
    answered: float = 0.0
    answer: Status | None = field(default=None, repr=False)
    refused: bool = False


@dataclass(slots=True)
class Strike:
    """A kill, and when everything was there again; the last status before it and the first one after it."""

    victim: str
    aim: str
    at: float
    aimed: bool = True
    again: float = 0.0
    before: Status | None = field(default=None, repr=False)
    after: Status | None = field(default=None, repr=False)


@dataclass(slots=True)
class Life:
    """Everything of it. `up` is set while the product can be asked."""

    product: Product
    random: random.Random
    killer: Killer
    watcher: Watcher
    traffic: Traffic
    name: str = ""
    told: list[Told] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    harmed: list[float] = field(default_factory=list)
    unwritten: bool = False
    up: asyncio.Event = field(default_factory=asyncio.Event)
    disk: AsyncExitStack = field(default_factory=AsyncExitStack)

    # What operators do.

    async def verb(self, verb: str, **body: Any) -> Told:
        """Ask for it once, as an operator would; a refusal, or no answer, is an answer of its kind."""
        await self.up.wait()
        told = Told(verb, time.monotonic())
        self.told.append(told)
        path = f"{_ROUTE}/{'start' if verb == 'deploy' else verb}"
        ask = self.product.admin.put if verb == "weight" else self.product.admin.post
        try:
            told.answer = await asyncio.to_thread(ask, path, body)
            told.answered = time.monotonic()
        except RefusedError:
            told.refused, told.answered = True, time.monotonic()
        except UnreachableError:
            pass  # it may have been done, or not
        return told

    def request_of(self, verb: str, **body: Any) -> str:
        """The bytes of the same, for who sends them himself."""
        method, payload = "PUT" if verb == "weight" else "POST", json.dumps(body)
        token = self.product.token_file.read_text().strip()
        fields = {"Host": f"127.0.0.1:{self.product.admin_port}", "Authorization": f"Bearer {token}"}
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(payload))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{method} {_ROUTE}/{verb} HTTP/1.1\r\n{head}\r\n{payload}"

    # What befalls it.

    async def strike(self, victim: str, aim: str, pids: Sequence[int], after_us: float, **how: Any) -> Struck:
        """Kill these, wait until everything is there again, and note it. For `how` see `Killer.strike`."""
        strike = Strike(victim, aim, time.monotonic(), before=await self.look())
        self.strikes.append(strike)
        down = self.product.pid in map(abs, pids)
        if down:
            self.up.clear()
            if self.random.random() < 0.8:
                self.watcher.sleep()
        struck = await asyncio.to_thread(self.killer.strike, pids, int(after_us), **how)
        strike.at, strike.aimed = struck.at, struck.aimed
        if down:
            await until(lambda: self.product.ended)
        strike.after = await self.come_back()
        strike.again = time.monotonic()
        return struck

    async def strike_after_verb(self, victim: str, verb: str, after_us: float, **body: Any) -> None:
        """Kill so long after the bytes of a verb were sent."""
        told = Told(verb, time.monotonic())
        self.told.append(told)
        request = self.request_of(verb, **body)
        pids = await self.pids(victim)
        struck = await self.strike(victim, f"after {verb}", pids, after_us, port=self.product.admin_port, send=request)
        told.sent = struck.sent
        if struck.status:
            told.answered, told.refused = struck.answered, struck.status >= 400
            told.answer = json.loads(struck.answer) if struck.status == 200 else None

    async def look(self) -> Status | None:
        """The status, if it is answered now."""
        with suppress(UnreachableError, RefusedError):
            return await asyncio.to_thread(self.product.admin.get, _ROUTE)
        return None

    async def come_back(self) -> Status:
        """Start the product again if it ended; the first status that it answers.

        A worker that dies while the first generation comes up ends the product: it says so, and whoever started it does so again.
        """
        product = self.product
        for _ in range(3):
            if product.ended:
                self.up.clear()
                await product.exit_code()
                product.launch()
            self.watcher.wake()
            known = len(product.log)
            status = await self.serves()
            if status is not None:
                self.up.set()
                return status
            assert any("a worker did not come up" in line for line in product.log[known:]), product.log[known:]
        raise AssertionError("\n".join(["it does not start:", *product.log[-20:]]))

    async def serves(self) -> Status | None:
        """The first status that is answered while both workers serve; None if it ends instead."""
        product, end = self.product, time.monotonic() + _RESTARTED
        while time.monotonic() < end:
            if product.ended:
                await product.exit_code()
                return None
            status = await self.look()
            if status is not None and len(product.workers) == 2:
                return status
            await asyncio.sleep(0.02)
        raise AssertionError("\n".join(["it is not back:", *product.log[-20:]]))

    async def pids(self, victim: str) -> list[int]:
        """Who that is at this moment; a negative one is a whole group."""
        product = self.product
        match victim:
            case "supervisor":
                return [product.pid]
            case "all":
                return [-product.pid]
            case "controller":
                return [await until(lambda: product.controller or 0, 20)]
            case "worker":
                return [self.random.choice(await until(lambda: product.workers, 20))]
            case "some child":
                children = await until(lambda: _children(product.pid), 5)
                return [self.random.choice(children)]
        raise ValueError(victim)

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal, if there is one."""
        with suppress(ProcessLookupError):
            os.kill(self.product.pid, number)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
