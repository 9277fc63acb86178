"""Who gets the canary: the share that the step says, always the same users, whichever worker they meet."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from math import sqrt
from typing import cast

import pytest
from harness import Product, Status, until

pytestmark = pytest.mark.system

USERS = 10_000
STEPS = (1, 5, 25, 50)
#: Requests on their way on one connection.
_AHEAD = 50
_VERSION = re.compile(rb"X-Version: (\w+)")


class Census(asyncio.Protocol):
    """One pipelined connection: asks for each user in turn, and notes the version that answers (answers keep their order)."""

    def __init__(self) -> None:
        self._received = b""
        self._users: list[int] = []
        self._asked = 0
        self.found: list[str] = []
        self.done = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or EOFError(f"after {len(self.found)} answers"))

    async def ask(self, users: list[int]) -> dict[int, str]:
        """{user: version} of these users."""
        self._users, self._asked, self.found = users, 0, []
        self.done = asyncio.get_running_loop().create_future()
        self._ask_more()
        await self.done
        return dict(zip(users, self.found, strict=True))

    def _ask_more(self) -> None:
        upto = min(len(self.found) + _AHEAD, len(self._users))
        if upto - self._asked >= _AHEAD // 2 or upto == len(self._users):
            lines = (f"GET / HTTP/1.1\r\nHost: shop\r\nX-User-Id: {user}\r\n\r\n" for user in self._users[self._asked : upto])
            self.transport.write("".join(lines).encode())
            self._asked = upto

    def data_received(self, data: bytes) -> None:
        *whole, self._received = (self._received + data).split(b"}")
        for answer in whole:
            version = _VERSION.search(answer)
            assert version, answer
            self.found.append(version[1].decode())
        if len(self.found) == len(self._users):
            self.done.set_result(None)
        elif whole:
            self._ask_more()


async def one_connection_to_each_worker(product: Product) -> list[Census]:
    """Connections, each to another worker."""
    loop, found = asyncio.get_running_loop(), dict[int, Census]()
    while len(found) < 2:
        transport, census = await loop.create_connection(Census, "127.0.0.1", product.port)
        local_port = transport.get_extra_info("sockname")[1]
        worker = await until(partial(product.worker_of, local_port))
        assert worker is not None
        if worker in found:
            transport.abort()
        found.setdefault(worker, census)
    return list(found.values())


def _is_later(epoch: int, status: Status) -> bool:
    return bool(status["epoch"] > epoch)


async def test_the_canary_gets_the_share_of_users_that_each_step_says(product: Product) -> None:
    steps = [{"weight": f"{weight}%", "hold": "10m"} for weight in STEPS]
    product.configure({"rollout": {"steps": steps}}, limits={"requests_per_connection": 1_000_000})
    await product.start()
    one, other = await one_connection_to_each_worker(product)
    even, odd = list(range(0, USERS, 2)), list(range(1, USERS, 2))
    some = even[:500]
    before: set[int] = set()
    for weight in (*STEPS, 100):
        status = await product.verb("start" if weight == STEPS[0] else "promote")
        assert status["weight_percent"] == weight
        if not status["saved"]:  # a slow disk: a raised share is given once it is on it
            await product.status_with(partial(_is_later, status["epoch"]))
        got, rest = await asyncio.gather(one.ask(even), other.ask(odd))
        canary = {user for user, version in (got | rest).items() if version == "v2"}
        expected, share = USERS * weight / 100, weight / 100
        assert abs(len(canary) - expected) <= 4 * sqrt(USERS * share * (1 - share)), (weight, len(canary))
        assert before <= canary, "nobody goes back while the share rises"
        assert await other.ask(some) == {user: got[user] for user in some}, "both workers choose alike"
        before = canary
    back = await product.set_weight("25%")
    assert back["applied_by"] == 2
    got, rest = await asyncio.gather(other.ask(even), one.ask(odd))
    assert {user for user, version in (got | rest).items() if version == "v2"} < before
    one.transport.abort()
    other.transport.abort()


async def test_a_new_rollout_begins_with_other_users(product: Product) -> None:
    await product.start()
    (census, other) = await one_connection_to_each_worker(product)
    users = list(range(1000))
    groups = []
    for verb in ("start", "retry"):
        await product.verb(verb)
        found = await census.ask(users)
        groups.append({user for user in users if found[user] == "v2"})
        assert await other.ask(users) == found
        await product.verb("rollback")
        assert set((await census.ask(users)).values()) == {"v1"}
    first, second = groups
    assert 0.15 < len(first & second) / len(first) < 0.35  # 25 % of either group, by chance
    census.transport.abort()
    other.transport.abort()
