"""The admin API over real HTTP, around a real controller and a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from prometheus_client.parser import text_string_to_metric_families

from canaryproxy.admin.app import make_app
from canaryproxy.analysis.sample import ArmTick, Tick
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome, Verdict
from canaryproxy.clock import ManualClock
from canaryproxy.config.quantities import Address
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover
from canaryproxy.control.pools import Pools
from canaryproxy.rollout.model import Gate
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow
from canaryproxy.shared.layout import Ack, Count, WorkerState
from canaryproxy.shared.ledger import Counters
from canaryproxy.store.sqlite import SqliteStore

TOKEN = "s3cret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SHOP = "/api/v1/routes/shop"

CONFIG = Config.model_validate(
    {
        "pools": {
            "v1": {"servers": ["http://127.0.0.1:9"], "version": "1.4.0"},
            "v2": {"servers": ["http://127.0.0.1:10"]},
        },
        "routes": {
            "shop": {
                "stable": "v1",
                "canary": "v2",
                "metrics": {
                    "signup": {"goal": "posted"},
                    "checkout": {"goal": {"path": "/checkout"}},
                    "refund": {"goal": "posted"},
                },
            },
            "plain": {"stable": "v1"},
        },
    }
)

AdminClient = TestClient[web.Request, web.Application]
MakeClient = Callable[[web.Application], Awaitable[AdminClient]]


class Setup:
    """A controller with one worker that obeys."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock(1000.2)
        self.segment = layout.create(4, 2)
        self.row = AckRow(self.segment, 0)
        self.row.enter(100, 1000.0)
        self.store = SqliteStore(path / "state.db")
        self.controller = Controller(
            CONFIG, self.segment, {"shop": 0, "plain": 1}, self.store, {}, clock=self.clock, save_limit=1.0, ack_limit=0.1
        )
        pools = Pools(self.controller, self.store, Handover(), {})
        self.app = make_app(self.controller, pools, TOKEN, Address("127.0.0.1", 9900))

    async def obey(self) -> None:
        while True:
            self.row.beat(self.clock.monotonic(), 0, (0, 1))
            await asyncio.sleep(0.001)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path)
    obeying = asyncio.create_task(made.obey())
    yield made
    obeying.cancel()
    with suppress(asyncio.CancelledError):
        await obeying
    await made.controller.close()


@pytest.fixture
async def client(setup: Setup, aiohttp_client: MakeClient) -> AdminClient:
    return await aiohttp_client(setup.app)


async def change(client: AdminClient, verb: str, body: Any = None, *, status: int = 200, **headers: str) -> dict[str, Any]:
    """The answer to a verb, whose status is checked."""
    method = "PUT" if verb == "weight" else "POST"
    sent = BEARER | {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.request(method, f"{SHOP}/{verb}", json=body, headers=sent) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == status, answer
        return answer


async def get(client: AdminClient, path: str, status: int = 200) -> dict[str, Any]:
    async with client.get(path) as response:
        assert response.status == status
        answer: dict[str, Any] = await response.json()
        return answer


async def scrape(client: AdminClient) -> dict[tuple[str, tuple[str, ...]], float]:
    """The metrics page: the value of each sample by its name and sorted labels."""
    async with client.get("/metrics") as response:
        assert response.content_type == "text/plain"
        text = await response.text()
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# --- Reading ---


async def test_the_status_document_of_an_idle_route(client: AdminClient) -> None:
    async with client.get(SHOP) as response:
        assert response.headers["ETag"] == '"0"'
        shop = await response.json()
    assert (shop["route"], shop["phase"], shop["step"], shop["steps"], shop["weight_percent"]) == ("shop", "idle", 1, 4, 0)
    assert (shop["verdict"], shop["evidence"], shop["started_at"], shop["saved"]) == (None, {}, None, True)
    assert (shop["gate"], shop["plan"]["steps"][1]) == (None, {"weight_percent": 5, "hold": 600, "pause": None})
    assert shop["plan"] | {"steps": []} == {"steps": [], "bake": {"weight_percent": 100, "hold": 1800}, "max_duration": 0}
    assert shop["stable"] | {"p95_ms": 0} == {
        "pool": "v1",
        "version": "1.4.0",
        "requests": 0,
        "in_flight": 0,
        "requests_per_second": 0.0,
        "error_percent": None,
        "p95_ms": 0,
    }
    assert shop["canary"]["version"] == "v2"
    assert (await get(client, "/api/v1/routes/plain"))["canary"] is None
    assert [route["route"] for route in (await get(client, "/api/v1/routes"))["routes"]] == ["shop", "plain"]


async def test_the_status_document_of_a_rollout_that_is_judged(setup: Setup, client: AdminClient) -> None:
    await change(client, "start")
    counters = Counters(setup.segment, 0, 0, 1)
    counters.finish(Count.C5XX, counters.begin(1000.5), 0.2, failed=True)
    counters.begin(1000.6)
    setup.clock.advance(1)
    setup.controller.tick()
    metric = MetricVerdict("error_rate", Outcome.FAIL, Action.WARN, "s", float("-inf"), 5.0, 1.0, 3.0, {"failed": 1})
    setup.controller.routes["shop"].verdict = Verdict(Outcome.FAIL, Action.WARN, "s", (metric,))
    shop = await get(client, SHOP)
    assert (shop["phase"], shop["weight_percent"], shop["epoch"]) == ("progressing", 1.0, 2)
    assert shop["started_at"].endswith("Z")
    assert (shop["canary"]["requests"], shop["canary"]["in_flight"]) == (2, 1)
    assert (shop["canary"]["error_percent"], shop["canary"]["p95_ms"]) == (100.0, pytest.approx(200, rel=0.02))
    assert (shop["verdict"], shop["reason"]) == ("fail", "s")
    assert (shop["users"], shop["frozen"], shop["quarantined_groups"]) == ({"exposed": 0, "hurt": 0}, False, 0)
    assert shop["shadow"] == {"rollouts": 0, "false_alarms": 0, "upper": None}
    assert shop["evidence"]["error_rate"] == {
        "outcome": "fail",
        "action": "warn",
        "sentence": "s",
        "evidence": None,
        "threshold": 5.0,
        "promote_evidence": 1.0,
        "promote_threshold": 3.0,
        "numbers": {"failed": 1},
    }
    salt = setup.controller.routes["shop"].rollout.salt
    assert str(salt) not in str(shop)
    assert len(shop["salt_id"]) == 8


async def test_unknown_routes_and_paths_are_json_errors(client: AdminClient) -> None:
    error = (await get(client, "/api/v1/routes/shoop", 404))["error"]
    assert error == {"code": "not_found", "message": "route 'shoop': does not exist", "hint": "there is plain, shop"}
    assert (await get(client, "/nothing", 404))["error"]["code"] == "not_found"
    async with client.get(f"{SHOP}/start") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_decisions_come_newest_first_in_pages(client: AdminClient) -> None:
    await change(client, "start", {"reason": "release 7"})
    await change(client, "pause", {"reason": "lunch"})
    page = (await get(client, f"{SHOP}/decisions?limit=1"))["decisions"]
    assert [made["kind"] for made in page] == ["pause"]
    rest = (await get(client, f"{SHOP}/decisions?before={page[0]['id']}"))["decisions"]
    assert [(made["kind"], made["data"]["note"]) for made in rest] == [("start", "release 7")]
    await get(client, f"{SHOP}/decisions?limit=many", 400)


# --- Changing ---


async def test_a_rollout_by_hand(client: AdminClient) -> None:
    started = await change(client, "start")
    assert (started["applied_by"], started["workers"], started["saved"]) == (1, 1, True)
    assert (await change(client, "promote"))["weight_percent"] == 5
    assert (await change(client, "weight", {"weight": "2.5%"}))["weight_percent"] == 2.5
    assert (await change(client, "resume"))["phase"] == "progressing"
    assert (await change(client, "promote", {"full": True}))["phase"] == "baking"
    rolled_back = await change(client, "rollback", {"reason": "enough"})
    assert (rolled_back["phase"], rolled_back["weight_percent"], rolled_back["reason"]) == ("rolled_back", 0, "enough")
    assert (await change(client, "retry"))["phase"] == "progressing"


async def test_two_operators_cannot_overwrite_each_other(client: AdminClient) -> None:
    async with client.get(SHOP) as response:
        seen = response.headers["ETag"]
    await change(client, "start", If_Match=seen)
    refused = await change(client, "start", If_Match=seen, status=412)
    assert refused["error"]["code"] == "changed_meanwhile"
    for verb, body in (("promote", {}), ("resume", {}), ("weight", {"weight": "9%"}), ("pause", {})):
        await change(client, verb, body, If_Match=seen, status=412)
    assert (await change(client, "promote", If_Match=f'"7", {refused["error"]["message"][-3:]}, "1"'))["step"] == 2
    assert (await change(client, "rollback", If_Match=seen))["phase"] == "rolled_back"


async def test_what_is_not_possible_now_is_a_conflict(client: AdminClient) -> None:
    error = (await change(client, "resume", status=409))["error"]
    assert error["code"] == "illegal_transition"
    assert error["message"] == "route shop: cannot resume while idle"
    assert error["hint"].startswith("possible now: start")


@pytest.mark.parametrize(
    ("verb", "body", "message"),
    [
        ("weight", {"weight": "5pp"}, "weight: '5pp' "),
        ("weight", {}, "weight: None "),
        ("weight", {"weight": 5}, "weight: 5 is not a str"),
        ("start", {"because": "x"}, "because: is not known here"),
        ("promote", {"full": "yes"}, "full: 'yes' is not a bool"),
        ("pause", ["reason"], "the body is not a JSON object"),
        ("pause", {"reason": "x" * 501}, "reason: is longer than 500 characters"),
    ],
)
async def test_bodies_that_say_nothing_known_are_refused(client: AdminClient, verb: str, body: Any, message: str) -> None:
    assert message in (await change(client, verb, body, status=400))["error"]["message"]


async def test_bodies_that_are_not_json_are_refused_but_never_for_a_rollback(client: AdminClient) -> None:
    headers = BEARER | {"Content-Type": "text/plain"}
    async with client.post(f"{SHOP}/start", data="{}", headers=headers) as response:
        assert (response.status, (await response.json())["error"]["hint"]) == (400, "send application/json")
    async with client.post(f"{SHOP}/start", data="{", headers=BEARER | {"Content-Type": "application/json"}) as response:
        assert (response.status, "is not JSON" in (await response.json())["error"]["message"]) == (400, True)
    async with client.post(f"{SHOP}/start", data=b"x" * 70_000, headers=headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (413, "request_entity_too_large")
        assert (await response.json())["error"]["hint"] == "send less at a time: docs/api.md has the limits"
    async with client.post(f"{SHOP}/rollback", data="{", headers=headers) as response:
        assert response.status == 200


# --- Who may ---


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic s3cret"])
async def test_a_change_needs_the_token(client: AdminClient, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    for method, path in (("POST", f"{SHOP}/rollback"), ("PUT", f"{SHOP}/weight"), ("DELETE", SHOP)):
        async with client.request(method, path, headers=headers) as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert (await response.json())["error"]["code"] == "unauthorized"


async def test_pages_of_other_sites_are_kept_out(client: AdminClient) -> None:
    async with client.post(f"{SHOP}/rollback", headers=BEARER | {"Origin": "http://evil.example"}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (403, "foreign_origin")
        assert (await response.json())["error"]["hint"]
    async with client.get(SHOP, headers={"Host": "evil.example:9900"}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (403, "foreign_host")
    async with client.get(SHOP, headers={"Host": "localhost:9900"}) as response:
        assert response.status == 200


# --- For machines ---


async def test_readiness_follows_the_workers(setup: Setup, client: AdminClient) -> None:
    assert (await get(client, "/healthz"))["status"] == "ok"
    assert await get(client, "/readyz") == {"ready": True, "workers": 1}
    setup.row.set_state(WorkerState.DRAINING)
    assert await get(client, "/readyz", 503) == {"ready": False, "workers": 0}


async def test_metrics_are_read_from_the_ledger(setup: Setup, client: AdminClient) -> None:
    setup.row.add_refused({Ack.REFUSED_TLS: 5})
    counters = Counters(setup.segment, 0, 0, 1)
    for elapsed in (0.0005, 0.003, 0.2, 90.0):
        counters.finish(Count.C2XX, counters.begin(1000.5), elapsed)
    counters.begin(1000.6)
    await change(client, "start")
    setup.clock.advance(1)
    setup.controller.tick()
    samples = await scrape(client)
    assert samples["canaryproxy_requests_total", ("c2xx", "canary", "shop")] == 4
    assert samples["canaryproxy_in_flight_requests", ("canary", "shop")] == 1
    bucket = "canaryproxy_request_duration_seconds_bucket"
    edges = {"0.001": 1, "0.0025": 1, "0.005": 2, "0.25": 3, "60.0": 3, "+Inf": 4}
    assert {edge: samples[bucket, tuple(sorted((edge, "canary", "shop")))] for edge in edges} == edges
    assert samples["canaryproxy_request_duration_seconds_count", ("canary", "shop")] == 4
    assert samples["canaryproxy_request_duration_seconds_sum", ("canary", "shop")] == pytest.approx(90.2035)
    assert samples["canaryproxy_weight_ratio", ("shop",)] == 0.01
    assert samples["canaryproxy_phase", ("progressing", "shop")] == 1
    assert samples["canaryproxy_phase", ("idle", "shop")] == 0
    assert ("canaryproxy_evidence", ("error_rate", "harm", "shop")) in samples
    assert samples["canaryproxy_workers", ("serving",)] == 1
    refused = {
        reason: samples["canaryproxy_refused_connections_total", (reason,)] for reason in ("tls_handshake", "proxy_protocol")
    }
    assert refused == {"tls_handshake": 5, "proxy_protocol": 0}
    assert samples["canaryproxy_ticks_total", ()] == 1
    assert samples["canaryproxy_store_errors_total", ("shop",)] == 0


async def test_users_and_rehearsals_are_shown(setup: Setup, client: AdminClient) -> None:
    await change(client, "start")
    route = setup.controller.routes["shop"]
    route.sample = Tick(1.0, ArmTick(), ArmTick(users=402, hurt=7))
    route._users = (route.rollout.salt, 402, 7)
    route.judge.shadow.rollouts, route.judge.shadow.false_alarms = 100, 1
    setup.controller.board.quarantine(route.slot, (3, 200))
    route.rollout = replace(route.rollout, frozen=True, gate=Gate.CONFIRM_STEP)
    shop = await get(client, SHOP)
    assert shop["users"] == {"exposed": 402, "hurt": 7}
    assert (shop["frozen"], shop["gate"], shop["quarantined_groups"]) == (True, "confirm_step", 2)
    assert shop["shadow"] == {"rollouts": 100, "false_alarms": 1, "upper": pytest.approx(0.0545, abs=0.0001)}
    samples = await scrape(client)
    assert samples["canaryproxy_users_exposed", ("shop",)] == 402
    assert samples["canaryproxy_users_hurt", ("shop",)] == 7
    assert samples["canaryproxy_quarantined_groups", ("shop",)] == 2
    assert samples["canaryproxy_shadow_rollouts_total", ("shop",)] == 100
    assert samples["canaryproxy_shadow_false_alarms_total", ("shop",)] == 1
    assert ("canaryproxy_users_exposed", ("plain",)) not in samples, "there was no tick yet"


async def test_a_defect_is_answered_and_does_not_end_the_process(
    setup: Setup, client: AdminClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(setup.controller, "decisions", None)
    assert (await get(client, f"{SHOP}/decisions", 500))["error"]["code"] == "internal"
    assert "failed" in caplog.text
