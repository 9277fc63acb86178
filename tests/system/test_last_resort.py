"""`canaryproxy rollback` where the admin API cannot do it: past it, by the supervisor, whatever is broken."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import PROGRAM, Product, until
from reading import versions

from canaryproxy.control.takeback import Takeback, write_takeback

pytestmark = pytest.mark.system


@contextmanager
def limited(pid: int, kind: int, value: int) -> Iterator[None]:
    """This process may have no more of something meanwhile; what it forks has the limit for good."""
    soft, hard = resource.prlimit(pid, kind, (value, resource.prlimit(pid, kind)[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (soft, hard))


def deaf(product: Product) -> Any:
    """The controller ticks on, and its endpoint accepts nobody: every place is taken."""
    controller = product.controller
    assert controller is not None
    return limited(controller, resource.RLIMIT_NOFILE, len(os.listdir(f"/proc/{controller}/fd")))


async def rollback(product: Product, *words: str) -> dict[str, Any]:
    """What the command says of a rollback past the API."""
    code, out, complaints = await product.cli("rollback", *words, "--config", str(product.file), "--json")
    assert code == 0, complaints
    answer: dict[str, Any] = json.loads(out)
    assert answer["rolled_back"] is True
    return answer


def requests_left(product: Product) -> list[Path]:
    return [*product.folder.glob("state.db.r*")]


async def test_an_endpoint_that_takes_nobody(product: Product) -> None:
    """From a step, and from promoted, where the roles are swapped back; users see no error, and what was asked is on record.

    And of a controller that stands still, whoever is first: the supervisor finds that out by itself.
    """
    await product.start()
    await product.verb("start")
    async with product.traffic(rate=100) as traffic:
        await traffic.more(20)
        with deaf(product):
            answer = await rollback(product, "--reason", "too slow")
        assert (answer["route"], answer["unwritten"]) == ("shop", "")
        assert answer["recorded_ms"] is not None
        status = await product.status()
        assert (status["phase"], status["weight_percent"], status["reason"]) == ("rolled_back", 0, "too slow")
        await traffic.more(20)
    assert traffic.failures == []
    assert {request.version for request in traffic.requests[-10:]} == {"v1"}
    await product.verb("retry")
    await product.verb("promote", full=True)
    assert (await product.verb("promote"))["phase"] == "promoted"
    assert await versions(product) == {"v2"}
    with deaf(product):
        await rollback(product, "shop")
    assert await versions(product) == {"v1"}
    made = (await asyncio.to_thread(product.admin.get, "/api/v1/routes/shop/decisions"))["decisions"]
    assert [decision["kind"] for decision in made if decision["kind"] == "rollback"] == ["rollback", "rollback"]
    assert made[0]["data"]["by"].endswith("on the proxy's machine")
    assert requests_left(product) == []
    assert product.said("starting another") == 0
    await product.verb("retry")
    stuck = product.controller
    assert stuck is not None
    os.kill(stuck, signal.SIGSTOP)
    code, _, complaints = await product.cli("rollback", "--config", str(product.file))
    assert (code, (await product.status())["phase"]) == (0, "rolled_back"), complaints


async def test_with_a_full_disk_the_signal_is_enough(product: Product) -> None:
    """Nothing can be written, by nobody: users are off the canary at once, and when there is room it is put on record.

    And one that is written when everything is killed is the first thing that the next start does.
    """
    await product.start()
    await product.verb("start")
    assert "v2" in await versions(product)
    with deaf(product), limited(product.pid, resource.RLIMIT_FSIZE, 0):
        words = (*PROGRAM, "rollback", "--config", str(product.file), "--json")
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *words, cwd=product.folder, stdout=-1, stderr=-1
        )
        out, complaints = await process.communicate()
        assert process.returncode == 0, complaints
        answer = json.loads(out)
        assert (answer["route"], answer["recorded_ms"], "File too large" in answer["unwritten"]) == (None, None, True)
        assert complaints.count(b"\n") == 2
        assert await versions(product) == {"v1"}
    status = await product.status_with(lambda status: status["saved"])
    assert (status["phase"], status["reason"]) == ("rolled_back", "asked for by a signal")
    await until(lambda: product.said("rolled back: all users to v1") >= 1)
    await product.verb("retry")
    await product.kill()
    asked = write_takeback(product.state, Takeback("shop", "night", "root", time.time()))
    await product.start()
    assert await versions(product) == {"v1"}
    assert (await product.status())["reason"] == "night"
    await until(lambda: not asked.exists())
