"""Testers and beta users in the running product: a smoke test at 0 %, blue/green, and the same split for code that asks."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import Product, until_answered
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
from traffic import Client, Request

pytestmark = pytest.mark.system

SECRET = "s3cret-s3cret-s3cret"
ALWAYS, NEVER = f"X-Canary: always:{SECRET}\r\n", f"X-Canary: never:{SECRET}\r\n"
VERSIONS = {"stable": "v1", "canary": "v2"}


async def version(client: Client, user: str, lines: str = "") -> str:
    """The version that answers this user's request, which has these lines too."""
    answer = await client.send(Request(0, user, 0, 0.0), b"GET / HTTP/1.1\r\n", lines.encode())
    assert answer.status == 200, answer
    return answer.version


def replace_list(file: Path, *users: str) -> None:
    """As an editor or a job does: at once."""
    new = file.with_suffix(".new")
    new.write_text("".join(f"{user}\n" for user in users))
    os.replace(new, file)


async def test_blue_green_after_a_smoke_test_at_0_percent(product: Product) -> None:
    beta = product.folder / "beta.txt"
    replace_list(beta, "anna")
    plan = {"steps": [{"weight": "100%", "hold": "1s"}], "bake": "1s", "min_requests": 10, "i_accept_the_risk": True}
    overrides = {"header": {"secret": SECRET}, "users_file": str(beta)}
    product.configure({"overrides": overrides, "rollout": plan, "metrics": {"latency_p95": False}})  # which warms up for 20 s
    await product.start()
    client = Client(product.port)

    async def versions() -> list[str]:
        """Of a tester, one who wants the old one, a beta user, and anybody."""
        who = (("tom", ALWAYS), ("tom", NEVER), ("anna", ""), ("tom", ""))
        return [await version(client, user, lines) for user, lines in who]

    assert await versions() == ["v2", "v1", "v2", "v1"], "nothing has started"
    replace_list(beta, "ben")

    async def read_again() -> bool | None:
        return True if await version(client, "ben") == "v2" and await version(client, "anna") == "v1" else None

    async def stands_by() -> bool | None:
        """A promotion is in force when it is on disk: then the old version has the canary's role."""
        return True if await version(client, "tom", ALWAYS) == "v1" else None

    async with product.traffic(keep=8, fresh=0, rate=300) as traffic:
        await until_answered(read_again)
        replace_list(beta, "anna", "ben")
        await traffic.more(max(0, 600 - len(traffic.requests)))  # at 100 % there is only the past to compare with
        await product.verb("start")
        assert (await versions())[1:] == ["v1", "v2", "v2"], "blue/green: everybody at once, and still a way to the old one"
        await product.status_with(lambda status: status["phase"] == "promoted", 30)
        assert await version(client, "tom") == "v2"
        await until_answered(stands_by)
        await product.verb("rollback")
        assert await versions() == ["v2", "v1", "v1", "v1"], "only a tester can still see the broken version"
    assert not traffic.failures
    await client.close()


class Flags:
    """A real OpenFeature client of the product's flags."""

    def __init__(self, product: Product, token: str) -> None:
        url = f"http://127.0.0.1:{product.admin_port}"
        provider = OFREPProvider(url, headers_factory=lambda: {"Authorization": f"Bearer {token}"})
        api.set_provider(provider, str(product.folder))
        self._client: OpenFeatureClient = api.get_client(str(product.folder))
        self._provider = provider

    def flag(self, user: str | None, key: str = "shop") -> FlagEvaluationDetails[bool]:
        """The evaluation of a flag for this user; True is what it gives where it has failed."""
        return self._client.get_boolean_details(key, True, EvaluationContext(user))

    def close(self) -> None:
        """Let go of its connections."""
        self._provider.session.close()
        api.clear_providers()


async def test_code_that_asks_for_its_flag_gets_the_variant_that_the_proxy_gives(product: Product) -> None:
    beta = product.folder / "beta.txt"
    replace_list(beta, *(f"user-{n}" for n in range(0, 1000, 25)))
    product.configure({"overrides": {"users_file": str(beta)}})
    await product.start()
    await product.verb("start")
    flags = Flags(product, product.token_file.read_text().strip())
    clients = [Client(product.port) for _ in range(2)]
    users = [f"user-{n}" for n in range(1000)]
    asked: dict[str, set[Reason | str | None]] = {}
    try:
        for at, weight in enumerate(("0%", "1%", "50%", "100%")):
            await product.set_weight(weight)
            part = users[at * 250 : (at + 1) * 250]
            served = await asyncio.gather(*(all_versions(client, part[n::2]) for n, client in enumerate(clients)))
            with ThreadPoolExecutor(2) as threads:
                found = dict(zip(part, threads.map(flags.flag, part), strict=True))
            given = {user: VERSIONS[str(found[user].variant)] for user in part}
            assert given == served[0] | served[1]
            assert {user: details.value for user, details in found.items()} == {user: given[user] == "v2" for user in part}
            asked[weight] = {details.reason for details in found.values()}
        assert asked == {
            "0%": {Reason.TARGETING_MATCH, Reason.STATIC},
            "1%": {Reason.TARGETING_MATCH, Reason.SPLIT},
            "50%": {Reason.TARGETING_MATCH, Reason.SPLIT},
            "100%": {Reason.TARGETING_MATCH, Reason.STATIC},
        }
        assert flags.flag(None).error_code is ErrorCode.TARGETING_KEY_MISSING
        assert flags.flag("anna", "none").error_code is ErrorCode.FLAG_NOT_FOUND
    finally:
        flags.close()
        for client in clients:
            await client.close()


async def all_versions(client: Client, users: list[str]) -> dict[str, str]:
    return {user: await version(client, user) for user in users}
