"""Flags by the OpenFeature Remote Evaluation Protocol: the variant that the proxy gives, with a reason and as few surprises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from canaryproxy.admin.app import make_app
from canaryproxy.admin.document import salt_id
from canaryproxy.clock import ManualClock
from canaryproxy.config.quantities import Address
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover
from canaryproxy.control.pools import Pools
from canaryproxy.rollout.model import Event, Promote, Rollback, SetWeight
from canaryproxy.routing.split import choose_variant, seat
from canaryproxy.shared import layout
from canaryproxy.shared.userlist import LOOK_SECONDS
from canaryproxy.store.sqlite import SqliteStore

TOKEN = "s3cret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FLAGS = "/ofrep/v1/evaluate/flags"

AdminClient = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[AdminClient]]
Answer = dict[str, Any]


class Flags:
    """An admin endpoint whose flags are asked for; `users` are on the list of the route shop."""

    client: AdminClient

    def __init__(self, folder: Path, *users: str) -> None:
        self.file = folder / "beta.txt"
        self.file.write_text("".join(f"{user}\n" for user in users))
        self.clock = ManualClock(1000.2)
        pools = {name: {"servers": ["http://127.0.0.1:9"]} for name in ("v1", "v2")}
        pools["v2"]["version"] = "2.0"  # type: ignore[assignment]
        shop = {"stable": "v1", "canary": "v2", "overrides": {"users_file": str(self.file)}}
        admin, routes = {"read": "token"}, {"shop": shop, "plain": {"stable": "v1"}}
        config = Config.model_validate({"admin": admin, "pools": pools, "routes": routes})
        store = SqliteStore(folder / "state.db")
        self.controller = Controller(
            config, layout.create(4, 2), {"shop": 0, "plain": 1}, store, {}, clock=self.clock, save_limit=1.0, ack_limit=0.0
        )
        self.app = make_app(self.controller, Pools(self.controller, store, Handover(), {}), TOKEN, Address("127.0.0.1", 9900))

    async def ask(self, key: str = "", body: Any = None, user: str | None = None, **headers: str) -> tuple[int, Answer, str]:
        """Status, body and ETag of an evaluation, of all flags if no key is given."""
        body = {"context": {"targetingKey": user}} if user is not None else body
        fields = BEARER | {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.client.post(f"{FLAGS}/{key}" if key else FLAGS, headers=fields, **sent) as response:
            found = await response.json() if response.status != 304 else {}
            return response.status, found, response.headers.get("ETag", "")

    async def flag(self, user: str, key: str = "shop") -> Answer:
        status, found, _ = await self.ask(key, user=user)
        assert status == 200, found
        return found

    async def do(self, *events: Event) -> None:
        for event in events:
            await self.controller.submit("shop", event)

    async def start(self, weight_bp: int) -> None:
        await self.do(self.controller.start_event("shop"), SetWeight(weight_bp))


@pytest.fixture
async def make(tmp_path: Path, aiohttp_client: MakeClient) -> AsyncIterator[Callable[..., Awaitable[Flags]]]:
    made: list[Flags] = []

    async def make(*users: str) -> Flags:
        flags = Flags(tmp_path, *users)
        flags.client = await aiohttp_client(flags.app)
        made.append(flags)
        return flags

    yield make
    for flags in made:
        await flags.controller.close()


Make = Callable[..., Awaitable[Flags]]


# Who has which.


@pytest.mark.parametrize("weight", [0, 100, 5000, 9999, 10_000])
async def test_the_variant_is_the_one_of_the_board_s_word(make: Make, weight: int) -> None:
    flags = await make("anna")
    await flags.start(weight)
    split = flags.controller.board.read(0)
    assert split.weight_bp == weight
    for n in range(60):
        found = await flags.flag(f"user-{n}")
        variant = choose_variant(weight, seat(split.salt, b"user-%d" % n))
        assert (found["value"], found["variant"]) == ((True, "canary") if variant else (False, "stable"))
        assert found["reason"] == ("SPLIT" if 0 < weight < 10_000 else "STATIC")
        assert found["key"] == "shop"
        assert found["metadata"] == {
            "pool": "v2" if variant else "v1",
            "version": "2.0" if variant else "v1",
            "phase": "paused",
            "weight_percent": weight / 100,
            "salt_id": salt_id(split.salt),
        }
    assert (await flags.flag("anna"))["reason"] == "TARGETING_MATCH"


async def test_beta_users_have_the_canary_before_the_start_and_not_after_a_rollback(make: Make) -> None:
    flags = await make("anna")
    anna = await flags.flag("anna")
    assert (anna["value"], anna["variant"], anna["reason"], anna["metadata"]["pool"]) == (True, "canary", "TARGETING_MATCH", "v2")
    assert (await flags.flag("ben"))["value"] is False
    await flags.start(5000)
    await flags.do(Rollback())
    anna = await flags.flag("anna")
    assert (anna["value"], anna["variant"], anna["reason"], anna["metadata"]["pool"]) == (False, "stable", "STATIC", "v1")


async def test_with_the_promotion_nobody_goes_back_to_the_old_code(make: Make) -> None:
    flags = await make("anna")
    await flags.start(100)
    await flags.do(Promote(full=True))
    before = await flags.flag("ben")
    assert (before["value"], before["variant"]) == (True, "canary")
    await flags.do(Promote())
    for user in ("ben", "anna"):
        after = await flags.flag(user)
        assert (after["value"], after["variant"], after["reason"]) == (True, "stable", "STATIC")
        assert (after["metadata"]["pool"], after["metadata"]["phase"]) == ("v2", "promoted")
    await flags.do(Rollback())
    back = await flags.flag("ben")
    assert (back["value"], back["variant"], back["metadata"]["pool"]) == (False, "stable", "v1")


async def test_a_route_without_a_canary_is_off(make: Make) -> None:
    found = await (await make()).flag("anna", "plain")
    assert (found["value"], found["variant"], found["reason"]) == (False, "stable", "DISABLED")


async def test_a_key_is_the_bytes_that_a_request_has(make: Make) -> None:
    flags = await make("d\u00f6ra")
    assert (await flags.flag("d\u00f6ra"))["reason"] == "TARGETING_MATCH"
    assert (await flags.flag("dora"))["reason"] == "STATIC"


async def test_a_list_that_has_changed_is_read_again(make: Make) -> None:
    flags = await make("anna")
    flags.file.write_text("ben\n")
    async with asyncio.timeout(10):
        while not (await flags.flag("ben"))["value"]:
            flags.clock.advance(LOOK_SECONDS)
            flags.controller.tick()
    assert (await flags.flag("anna"))["value"] is False


# All of them.


async def test_all_flags_of_a_user_and_not_again_while_nothing_changes(make: Make) -> None:
    flags = await make()
    await flags.start(5000)
    status, found, tag = await flags.ask(user="user-3")
    assert status == 200
    assert found == {"flags": [await flags.flag("user-3", key) for key in ("shop", "plain")]}
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        assert await flags.ask(user="user-3", If_None_Match=known) == (304, {}, tag)
    for unknown in ('"x"', tag.strip('"'), ""):
        assert (await flags.ask(user="user-3", If_None_Match=unknown))[0] == 200
    await flags.do(SetWeight(5001))
    status, _, later = await flags.ask(user="user-3", If_None_Match=tag)
    assert (status, later != tag) == (200, True)


# What is refused.


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"null", "PARSE_ERROR"),
        (b"", "TARGETING_KEY_MISSING"),
        ({}, "TARGETING_KEY_MISSING"),
        ({"context": {}}, "TARGETING_KEY_MISSING"),
        ({"context": {"targetingKey": ""}}, "TARGETING_KEY_MISSING"),
        ({"context": {"targetingKey": None, "plan": "gold"}}, "TARGETING_KEY_MISSING"),
        (b"{", "PARSE_ERROR"),
        (b"\xff\xfe", "PARSE_ERROR"),
        (b"[" * 60_000, "PARSE_ERROR"),
        ([], "PARSE_ERROR"),
        ({"context": "anna"}, "INVALID_CONTEXT"),
        ({"context": None}, "INVALID_CONTEXT"),
        ({"context": {"targetingKey": 7}}, "INVALID_CONTEXT"),
        ({"context": {"targetingKey": True}}, "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "\\ud800"}}', "INVALID_CONTEXT"),
    ],
)
async def test_what_says_nothing_is_refused_in_the_protocol_s_words(make: Make, body: Any, code: str) -> None:
    flags = await make()
    for key in ("shop", ""):
        status, found, _ = await flags.ask(key, body)
        assert (status, found.pop("errorCode"), found.pop("errorDetails") != "") == (400, code, True)
        assert found == ({"key": "shop"} if key else {})


async def test_what_is_no_route_is_no_flag(make: Make) -> None:
    status, found, _ = await (await make()).ask("shopp", user="anna")
    details = "no route is named 'shopp'; there is plain, shop"
    assert (status, found) == (404, {"key": "shopp", "errorCode": "FLAG_NOT_FOUND", "errorDetails": details})


async def test_it_needs_a_token_where_reads_do_and_no_page_of_another_site_can_ask(make: Make) -> None:
    flags = await make()
    assert (await flags.ask("shop", user="anna", Authorization="Bearer wrong"))[0] == 401
    assert (await flags.ask(user="anna", Authorization=""))[0] == 401
    assert (await flags.ask("shop", user="anna", Origin="http://evil.example"))[0] == 403


async def test_a_body_has_an_end(make: Make) -> None:
    assert (await (await make()).ask("shop", b"x" * (65 * 1024)))[0] == 413
