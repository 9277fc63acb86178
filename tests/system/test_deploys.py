"""`canaryproxy start --canary URL --version V --wait`: deploys without a file, day after day, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing, suppress
from functools import partial

import pytest
from harness import PROGRAM, Product, Status, until, until_answered
from origins import Origin
from reading import place, versions

pytestmark = pytest.mark.system

PLAN = {"steps": [{"weight": "50%", "hold": "10m"}], "bake": "10m", "min_requests": 20, "i_accept_the_risk": True}


class Fleet:
    """Servers of versions that no file names."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}

    async def server(self, version: str) -> Origin:
        """A server of this version, running."""
        if version not in self.origins:
            self.origins[version] = Origin(version)
            await self.origins[version].start()
        return self.origins[version]


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        made = Fleet()
        yield made
        for origin in made.origins.values():
            stack.push_async_callback(origin.stop)


def configure(product: Product) -> None:
    """A file with v1 alone: the canary comes with a deploy."""
    product.configure({"canary": None, "rollout": PLAN}, pools={"v2": None})


async def deploy(product: Product, server: Origin, *more: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a deploy by the command line."""
    where = ("--canary", server.url, "--version", server.version, "--config", str(product.file))
    return await product.cli("start", "shop", *where, *more)


async def following(product: Product, server: Origin) -> asyncio.subprocess.Process:
    """A deploy with --wait, to be heard while it goes on."""
    words = ("start", "--canary", server.url, "--version", server.version, "--config", str(product.file), "--wait")
    pipe = asyncio.subprocess.PIPE
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background of a shell has it ignored
    return await asyncio.create_subprocess_exec(*PROGRAM, *words, stdout=pipe, stderr=asyncio.subprocess.STDOUT, preexec_fn=heed)


async def said(job: asyncio.subprocess.Process, words: str) -> None:
    """Wait until it says this."""
    assert job.stdout is not None
    heard = [""]
    with suppress(TimeoutError):
        async with asyncio.timeout(40):
            while words not in heard[-1]:
                heard.append((await job.stdout.readline()).decode())
                assert heard[-1], f"it ended and never said {words!r}: {heard}"
    assert words in heard[-1], f"it does not say {words!r}: {heard}"


async def asked(product: Product, server: Origin) -> tuple[int, Status]:
    """Status and answer of a deploy by the API."""
    body = {"canary": [server.url], "version": server.version}
    status, answer = await asyncio.to_thread(product.admin.exchange, "POST", "/api/v1/routes/shop/start", body)
    return status, json.loads(answer)


async def started(product: Product, version: str) -> Status:
    """The status of this version's rollout, once it has begun."""
    return await product.status_with(lambda status: _is_on(status, version) and status["phase"] == "progressing")


def _is_on(status: Status, version: str) -> bool:
    return bool(status["canary"] and status["canary"]["version"] == version and status["deploy"]["state"] == "started")


async def promoted(product: Product, version: str) -> None:
    """Promote this version by hand."""
    await started(product, version)
    await product.verb("promote", full=True)
    assert (await product.verb("promote"))["stable"]["version"] == version


async def test_day_after_day(product: Product, fleet: Fleet) -> None:
    configure(product)
    await product.start()
    async with product.traffic(keep=8, fresh=2, rate=300) as traffic:
        await traffic.more(50)
        v2, v3 = await fleet.server("v2"), await fleet.server("v3")
        job = asyncio.create_task(deploy(product, v2, "--wait"))
        await promoted(product, "v2")
        code, out, complaints = await job
        assert (code, complaints) == (0, "")
        assert out.endswith("shop: promoted: 100% on v2, which is stable now\n")
        assert await deploy(product, v2, "--wait") == (0, "v2 is stable already: nothing to do\n", "")

        v3.error_share = 1.0
        code, out, complaints = await deploy(product, v3, "--wait", "--json")
        last = json.loads(out.splitlines()[-1])
        assert (code, last["result"], last["stable"]["pool"], complaints) == (1, "rolled_back", "v2", "")
        v3.error_share = 0.0
        hurt = len(traffic.failures)
        product.signal(signal.SIGHUP)  # with the file as it always was
        await product.until_said("reloaded", 3)
        job = asyncio.create_task(deploy(product, v3, "--wait", "--timeout", "1m"))
        await promoted(product, "v3")
        assert (await job)[0] == 0
        unharmed = len(traffic.failures)
    assert (unharmed, {request.version for request in traffic.failures}) == (hurt, {"v3"})
    await product.stop()
    await product.start()
    assert await versions(product) == {"v3"}
    status = await product.verb("rollback")  # v2 is kept as long as it may be needed
    assert (status["stable"]["pool"], await versions(product)) == ("v2", {"v2"})


async def test_whatever_is_killed_it_has_started_or_nothing_has_changed(product: Product, fleet: Fleet) -> None:
    configure(product)
    await product.start()
    await deploy(product, await fleet.server("v2"))
    await promoted(product, "v2")

    async def kill_when(version: str, condition: Callable[[], object], victim: Callable[[], Awaitable[None]]) -> None:
        job = asyncio.create_task(deploy(product, await fleet.server(version)))
        await until(condition)
        await victim()
        code, out, complaints = await job
        assert (code, out.splitlines()[-1:]) == (0, [f"shop: started: step 1 of 1: 50% of users on {version}"]), complaints
        assert (await started(product, version))["stable"]["version"] == "v2"

    async def kill_controller() -> None:
        os.kill(await until(lambda: product.controller or 0), signal.SIGKILL)

    async def kill_everything() -> None:
        await product.kill()
        await product.start()
        assert await versions(product) <= {"v2", "v4"}

    await kill_when("v3", lambda: is_stored(product, "v3"), kill_controller)
    await kill_when("v4", lambda: is_stored(product, "v4"), kill_everything)
    await kill_when("v5", lambda: len(product.processes()) > 4, kill_controller)
    status, again = await asked(product, fleet.origins["v5"])
    assert (status, again["already"], again["deploy"]["state"]) == (200, "rolling_out", "started")
    assert await versions(product) == {"v2", "v5"}


async def test_a_rollback_calls_a_deploy_off_in_the_middle_of_its_hand_over(product: Product, fleet: Fleet) -> None:
    """After a promotion, when it takes stable back: the new workers must not bring it again."""
    configure(product)
    await product.start()
    await deploy(product, await fleet.server("v2"))
    await promoted(product, "v2")
    job = asyncio.create_task(deploy(product, await fleet.server("v3")))
    await until(lambda: is_stored(product, "v3"))
    answer = await product.verb("rollback", reason="v2 is bad")
    assert (answer["phase"], answer["stable"]["pool"], answer["saved"]) == ("rolled_back", "v1", True)
    assert (await job)[0] == 1

    async def only_v1() -> bool | None:
        return await versions(product) == {"v1"} or None

    await until_answered(only_v1)  # as soon as those who began to serve v2 again have closed


async def test_a_canary_that_is_not_there_is_waited_for(product: Product, fleet: Fleet) -> None:
    configure(product)
    await product.start()
    v2, v3 = await fleet.server("v2"), await fleet.server("v3")
    await v2.stop()
    job = await following(product, v2)
    await said(job, f"waiting: {v2.url} does not accept connections")
    status = await product.status_with(lambda status: "accept" in (status["deploy"] or {}).get("detail", ""))
    assert (status["phase"], status["deploy"]["state"]) == ("idle", "pending")
    await v2.start()
    await said(job, "shop: step 1 of 1: 50% of users on v2")
    begun = await started(product, "v2")
    code, out, _ = await deploy(product, v2, "--wait", "--timeout", "1s")  # a job that is tried again: the same rollout
    assert (code, "no end within 1s, and it goes on: step 1 of 1: 50% of users on v2" in out) == (2, True)
    assert place(await product.status()) == place(begun)
    await deploy(product, v3)
    await said(job, "superseded by a deploy of v3 asked for by operator at 127.0.0.1")
    assert await job.wait() == 1
    job = await following(product, v3)
    await said(job, "shop: step 1 of 1: 50% of users on v3")
    job.send_signal(signal.SIGINT)
    await said(job, "the rollout goes on; to take it back: canaryproxy rollback shop")
    assert (await job.wait(), (await product.status())["phase"]) == (130, "progressing")


def is_stored(product: Product, pool: str) -> bool:
    """Whether this pool is in the store."""
    with closing(sqlite3.connect(product.state)) as state:
        return bool(state.execute("SELECT 1 FROM pool WHERE name = ?", (pool,)).fetchall())
