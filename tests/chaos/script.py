"""What operators do: a script is a list of actions, an action is `async def action(life) -> None`. Add yours to `SCRIPTS`.

A script does not know when something is killed. A verb that is refused or not answered is no failure: the invariants are about
what the disk, the answers and the users say, not about what the script wanted.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from canaryproxy.cli.client import UnreachableError

from .life import Life

Action = Callable[[Life], Awaitable[None]]
_PATIENCE = 20.0


def verb(name: str, **body: object) -> Action:
    """A verb of the admin API."""

    async def action(life: Life) -> None:
        await life.verb(name, **body)

    return action


def weight(share: str) -> Action:
    """This share by hand."""
    return verb("weight", weight=share)


def wait(seconds: float) -> Action:
    """Let it run."""

    async def action(life: Life) -> None:
        await asyncio.sleep(seconds)

    return action


def until_phase(*phases: str) -> Action:
    """Wait until the rollout is there, or patience ends."""

    async def action(life: Life) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            await life.up.wait()
            status = await life.look()
            if status is not None and status["phase"] in phases:
                return
            await asyncio.sleep(0.1)

    return action


async def reload(life: Life) -> None:
    """SIGHUP."""
    await life.up.wait()
    life.signal(signal.SIGHUP)


def pool(name: str, **more: object) -> Action:
    """Register a pool: a hand-over to new workers and a new controller."""

    async def action(life: Life) -> None:
        await life.up.wait()
        body = {"servers": [life.product.origins[name].url], **more}
        with suppress(UnreachableError):
            await asyncio.to_thread(life.product.admin.exchange, "PUT", f"/api/v1/pools/{name}", body)

    return action


def deploy(version: str) -> Action:
    """A version that the file does not name."""

    async def action(life: Life) -> None:
        await life.verb("deploy", canary=[life.product.origins[version].url], version=version)

    return action


def errors(share: float) -> Action:
    """So many of v2's answers are errors from now on."""

    async def action(life: Life) -> None:
        life.harmed.append(time.monotonic())
        life.product.origins["v2"].error_share = share

    return action


async def full(life: Life) -> None:
    """The controller cannot write to any file from now on; the next one can."""
    await life.up.wait()
    if life.product.controller is not None:
        life.unwritten = True
        await life.disk.enter_async_context(life.product.full_disk())


async def room(life: Life) -> None:
    """It can again."""
    await life.disk.aclose()


def by_hand(chance: random.Random) -> list[Action]:
    """A rollout from its start to its end, and back, by verbs alone, with a little time between them."""
    story = [
        *(verb("start"), weight("60%"), verb("pause"), verb("resume"), verb("promote", full=True), verb("promote")),
        *(verb("rollback"), verb("retry"), weight("5%"), verb("rollback"), verb("start"), verb("promote"), verb("rollback")),
    ]
    return [action for one in story for action in (one, wait(chance.uniform(0, 0.4)))]


def anything(chance: random.Random) -> list[Action]:
    """Verbs in any order, most of them possible."""
    verbs = [
        *(
            verb("start"),
            verb("start"),
            verb("retry"),
            verb("pause"),
            verb("resume"),
            verb("promote"),
            verb("promote", full=True),
        ),
        *(weight("0%"), weight("10%"), weight("90%"), verb("rollback"), verb("rollback")),
    ]
    return [verb("start"), *(action for _ in range(14) for action in (chance.choice(verbs), wait(chance.uniform(0, 0.3))))]


def by_itself(chance: random.Random) -> list[Action]:
    """A good version goes all the way on its evidence."""
    return [verb("start"), until_phase("promoted", "rolled_back"), wait(1)]


def harm(chance: random.Random) -> list[Action]:
    """A bad version is rolled back by itself, and again after a retry."""
    begun = [verb("start"), weight("50%"), wait(chance.uniform(0, 1)), errors(0.5), until_phase("rolled_back")]
    return [*begun, wait(0.3), errors(0), verb("retry"), wait(1), verb("rollback")]


def changes(chance: random.Random) -> list[Action]:
    """Reloads and hand-overs in the middle of it."""
    middle = [reload, pool("v2", health={"path": "/"}), pool("v2"), pool("v1", queue=chance.randrange(100, 2000)), reload]
    chance.shuffle(middle)
    moves = [verb("promote"), weight("70%"), verb("rollback"), verb("retry"), verb("promote")]
    both = [action for pair in zip(middle, moves, strict=True) for action in (*pair, wait(chance.uniform(0.2, 1)))]
    return [verb("start"), *both]


def deploys(chance: random.Random) -> list[Action]:
    """Two versions after the file's, one in the middle of a rollout and one after a promotion or a rollback."""
    first = [verb("start"), wait(chance.uniform(0, 1)), deploy("v3"), wait(chance.uniform(1, 3)), weight("50%")]
    end = [verb("promote", full=True), verb("promote")] if chance.random() < 0.6 else [verb("rollback")]
    return [*first, *end, wait(0.5), deploy("v4"), wait(2), verb("promote"), wait(0.5), verb("rollback")]


def no_room(chance: random.Random) -> list[Action]:
    """The disk is full: raises wait, rollbacks do not."""
    raised = chance.choice([weight("80%"), verb("promote"), verb("promote", full=True)])
    last = [verb("rollback"), wait(1), room, wait(1)] if chance.random() < 0.7 else [room, wait(1), verb("rollback")]
    return [verb("start"), wait(0.5), full, raised, wait(chance.uniform(0, 1)), *last, wait(0.5)]


#: Every script, and how often it is taken.
SCRIPTS: dict[str, tuple[Callable[[random.Random], list[Action]], int]] = {
    "by_hand": (by_hand, 4),
    "anything": (anything, 4),
    "by_itself": (by_itself, 1),
    "harm": (harm, 2),
    "changes": (changes, 3),
    "deploys": (deploys, 3),
    "no_room": (no_room, 2),
}


async def play(life: Life, script: list[Action]) -> None:
    """Do it all."""
    for action in script:
        await action(life)
