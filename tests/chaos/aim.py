"""When and whom to kill: one aim after the other, most of them at moments that are known to be delicate.

An aim is `async def aim(life) -> None` that strikes once (or twice); add yours to `AIMS`.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from harness import until

from canaryproxy.cli.client import UnreachableError

from .life import Life, Strike

Aim = Callable[[Life], Awaitable[None]]

VICTIMS = ("supervisor", "controller", "controller", "worker", "all", "all")
_VERBS: tuple[tuple[str, dict[str, Any]], ...] = (
    *[("rollback", {})] * 4,
    *[("weight", {"weight": share}) for share in ("3%", "40%", "95%")],
    *[("promote", {"full": full}) for full in (False, True, True)],
    *(("start", {}), ("retry", {}), ("pause", {}), ("resume", {})),
)


def soon(chance: random.Random, typical_us: float) -> float:
    """Microseconds: mostly fewer than this, at times many more."""
    return min(chance.expovariate(1 / typical_us), 20 * typical_us)


async def any_time(life: Life) -> None:
    """At no special moment."""
    victim = life.random.choice(VICTIMS)
    await asyncio.sleep(life.random.uniform(0, 1.5))
    await life.strike(victim, "any time", await life.pids(victim), 0)


async def verb(life: Life) -> None:
    """While a verb is being decided, shown, written and answered: some 5 ms in all."""
    name, body = life.random.choice(_VERBS)
    victim = life.random.choice(VICTIMS[:3] + VICTIMS[4:])
    await life.strike_after_verb(victim, name, soon(life.random, life.random.choice((500, 3000, 10_000))), **body)


async def write(life: Life) -> None:
    """While SQLite writes: as soon as the write-ahead log has changed. Where nothing is in progress, it seldom does."""
    status = await life.look()
    if status is None or status["phase"] not in ("progressing", "paused", "baking"):
        await verb(life)
        return
    victim = life.random.choice(("controller", "controller", "all", "all", "supervisor"))
    log = life.product.folder / f"{life.product.state.name}-wal"
    await life.strike(victim, "write", await life.pids(victim), soon(life.random, life.random.choice((1, 200, 2000))), watch=log)


async def hand_over(life: Life) -> None:
    """While a registered pool is stored and handed over to new workers and a new controller: a second or so."""
    victim = life.random.choice((*VICTIMS, "some child"))
    pids = await life.pids(victim)
    body = {"servers": [life.product.origins["v2"].url], "queue": life.random.randrange(100, 2000)}
    path = "/api/v1/pools/v2"

    async def put() -> None:
        with suppress(UnreachableError):
            await asyncio.to_thread(life.product.admin.exchange, "PUT", path, body)

    putting = asyncio.create_task(put())
    await _within(life, victim, "hand-over", pids, 0.6)
    await putting


async def reload(life: Life) -> None:
    """While a reload goes on."""
    victim = life.random.choice((*VICTIMS, "some child"))
    pids = await life.pids(victim)
    life.signal(signal.SIGHUP)
    await _within(life, victim, "reload", pids, 0.6)


async def _within(life: Life, victim: str, aim: str, pids: list[int], seconds: float) -> None:
    """At some moment within so many seconds; a child is one of those that there are then."""
    await asyncio.sleep(life.random.uniform(0, seconds))
    await life.strike(victim, aim, await life.pids(victim) if victim == "some child" else pids, 0)


async def start_up(life: Life) -> None:
    """While it comes up again after all of it was killed."""
    product = life.product
    life.up.clear()
    first = Strike("all", "before a start", time.monotonic(), before=await life.look())
    life.strikes.append(first)
    first.at = time.monotonic()
    await product.kill()
    before = product.said("serving on")
    product.launch()
    victim = life.random.choice(("supervisor", "some child", "all", "all"))
    await asyncio.sleep(life.random.uniform(0, 1.2))
    await life.strike(victim, "start-up", [] if product.ended else await life.pids(victim), 0)
    await until(lambda: product.said("serving on") > before or product.ended, 25)
    if product.ended:  # without a worker of the first generation it gives up, although both seemed to be there
        await life.come_back()
    first.again = life.strikes[-1].again = time.monotonic()


#: Every aim, and how often it is taken.
AIMS: dict[str, tuple[Aim, int]] = {
    "any time": (any_time, 4),
    "verb": (verb, 5),
    "write": (write, 5),
    "hand-over": (hand_over, 2),
    "reload": (reload, 2),
    "start-up": (start_up, 2),
}
