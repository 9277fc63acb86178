"""The operating commands against a played admin API: what they ask, what they print, how they end."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from played_admin import TOKEN, Command, Played, done, route

pytest_plugins = ["played_admin"]

ONLY_SHOP = {"GET /api/v1/routes": (200, {"routes": [route()]})}


@pytest.mark.parametrize(
    ("words", "asked", "body", "answer", "said"),
    [
        (["start"], "POST .../start", {}, {"step": 1, "weight_percent": 1.0}, "started: 1% on v2 (step 1 of 4)"),
        (["pause"], "POST .../pause", {}, {"phase": "paused"}, "paused: 5% on v2 (step 2 of 4)"),
        (["resume"], "POST .../resume", {}, {}, "resumed: 5% on v2 (step 2 of 4)"),
        (["promote"], "POST .../promote", {}, {"step": 3, "weight_percent": 25.0}, "next step: 25% on v2 (step 3 of 4)"),
        (
            ["promote", "--full"],
            "POST .../promote",
            {"full": True},
            {"phase": "baking", "weight_percent": 100.0},
            "next step: 100% on v2 (bake)",
        ),
        (["retry"], "POST .../retry", {}, {"step": 1, "weight_percent": 0.5}, "started again: 0.5% on v2 (step 1 of 4)"),
        (
            ["set-weight", "5%", "--reason", "night"],
            "PUT .../weight",
            {"weight": "5%", "reason": "night"},
            {"phase": "paused"},
            "weight set: 5% on v2 (step 2 of 4)",
        ),
        (
            ["rollback", "--reason", "too slow"],
            "POST .../rollback",
            {"reason": "too slow"},
            {"phase": "rolled_back", "weight_percent": 0.0},
            "rolled back: 0% on v2",
        ),
    ],
)
def test_a_verb_is_asked_of_the_only_route(
    operator: Command, api: Played, *, words: list[str], asked: str, body: object, answer: dict[str, Any], said: str
) -> None:
    asked = asked.replace("...", "/api/v1/routes/shop")
    api.answers |= ONLY_SHOP | {asked: (200, done(**answer))}
    ran = operator(*words)
    assert (ran.code, ran.out, ran.err) == (0, f"{said}, applied by 4 of 4 workers\n", "")
    assert api.asked == [("GET /api/v1/routes", None), (asked, body)]
    assert api.authorization == [None, f"Bearer {TOKEN}"]


def test_a_share_that_waits_for_the_disk_is_not_said_to_be_there(operator: Command, api: Played) -> None:
    answer = done(step=1, weight_percent=25.0, weight_in_force_percent=0.0, saved=False)
    api.answers |= ONLY_SHOP | {"POST /api/v1/routes/shop/retry": (200, answer)}
    assert operator("retry").out.startswith("started again: 25% on v2 as soon as it is saved, 0% now (step 1 of 4)")


def test_a_named_route_needs_no_look_up(operator: Command, api: Played) -> None:
    api.answers["POST /api/v1/routes/web/rollback"] = (200, done(route="web", phase="rolled_back", weight_percent=0))
    assert operator("rollback", "web").code == 0
    assert len(api.asked) == 1


def test_a_named_route_may_stand_before_the_weight(operator: Command, api: Played) -> None:
    api.answers["PUT /api/v1/routes/web/weight"] = (200, done(route="web"))
    assert operator("set-weight", "web", "5%").code == 0
    assert operator("set-weight", "web", "5%", "now").code == 2


def test_a_weight_without_a_unit_is_refused_in_plain_words(operator: Command, api: Played) -> None:
    ran = operator("set-weight", "shop", "5")
    assert (ran.code, ran.err) == (1, "canaryproxy: WEIGHT: '5' has no unit; write 5%\n")
    assert api.asked == []


def test_of_several_routes_one_must_be_named(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes"] = (200, {"routes": [route("shop"), route("web")]})
    ran = operator("rollback")
    assert (ran.code, ran.err) == (1, "canaryproxy: route: there are 2 routes; name one of shop, web\n")


def test_after_the_promotion_the_new_pool_is_stable(operator: Command, api: Played) -> None:
    roles: dict[str, Any] = {"stable": {"pool": "v2"}, "canary": {"pool": "v1"}, "weight_percent": 0.0}
    api.answers |= ONLY_SHOP | {"POST /api/v1/routes/shop/promote": (200, done(phase="promoted", **roles))}
    assert operator("promote").out == "promoted: 100% on v2, which is stable now, applied by 4 of 4 workers\n"


def test_a_route_without_a_canary_can_be_rolled_back(operator: Command, api: Played) -> None:
    answer = done(phase="idle", canary=None, weight_percent=0.0, applied_by=3)
    api.answers |= ONLY_SHOP | {"POST /api/v1/routes/shop/rollback": (200, answer)}
    assert operator("rollback").out == "rolled back: 100% on v1, applied by 3 of 4 workers\n"


def test_what_could_not_be_saved_is_said(operator: Command, api: Played) -> None:
    answer = done(phase="rolled_back", weight_percent=0.0, saved=False)
    api.answers |= ONLY_SHOP | {"POST /api/v1/routes/shop/rollback": (200, answer)}
    ran = operator("rollback")
    assert (ran.code, ran.out) == (0, "rolled back: 0% on v2, applied by 4 of 4 workers\n")
    assert ran.err.startswith("canaryproxy: shop: not saved yet; less for the canary is in force already")


def test_programs_get_the_whole_answer(operator: Command, api: Played) -> None:
    api.answers |= ONLY_SHOP | {"POST /api/v1/routes/shop/pause": (200, done())}
    assert json.loads(operator("pause", "--json").out) == done()


def test_a_refusal_says_why(operator: Command, api: Played) -> None:
    error = {"code": "illegal_transition", "message": "route shop: cannot resume while idle", "hint": "possible now: start"}
    api.answers |= ONLY_SHOP | {"POST /api/v1/routes/shop/resume": (409, {"error": error})}
    ran = operator("resume")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "canaryproxy: route shop: cannot resume while idle; possible now: start\n"


def test_a_port_where_nobody_listens(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    ran = command("rollback", "shop", "--admin", url, CANARYPROXY_TOKEN="x")
    assert ran.code == 3
    assert ran.err.startswith(f"canaryproxy: {url}: connection refused; is the proxy running?")
    assert "`canaryproxy rollback --config FILE` goes past it" in ran.err
    again = command("rollback", "shop", "--admin", url, "--state", "no.db", CANARYPROXY_TOKEN="x")
    assert (again.code, "--config FILE" in again.err) == (3, False)


def test_a_port_that_never_answers(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canaryproxy.cli.client.TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ran = command("status", "--admin", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert ran.code == 3
    assert "no answer within 0.05 s; " in ran.err


@pytest.mark.parametrize("answer", [(200, b"<html>"), (502, b"Bad Gateway"), (404, []), (200, 3)])
def test_a_server_that_is_not_the_admin_api(operator: Command, api: Played, answer: tuple[int, object]) -> None:
    api.answers["GET /api/v1/routes/shop"] = answer
    ran = operator("status", "shop")
    assert ran.code == 3
    assert "not as the admin API does" in ran.err


@pytest.mark.parametrize("url", ["127.0.0.1:9900", "ftp://x", "http://[::1", "http://x:port"])
def test_an_admin_address_that_is_no_url(command: Command, url: str) -> None:
    ran = command("status", "--admin", url)
    assert ran.code == 3
    assert "is not a URL" in ran.err


def test_without_a_token_nothing_is_changed(command: Command, api: Played) -> None:
    ran = command("rollback", "shop", "--admin", api.url)
    assert ran.code == 1
    assert ran.err.startswith("canaryproxy: canaryproxy.token: no token: no such file or directory; ")
    for text in (b"", b"two\nlines", b"\xff"):
        Path("t").write_bytes(text)
        ran = command("rollback", "shop", "--admin", api.url, "--token-file", "t")
        assert (ran.code, ran.err.split("; ")[0]) == (1, "canaryproxy: t: that is not a token")
    assert api.asked == []


def test_the_token_is_found_where_the_proxy_was_started(command: Command, api: Played) -> None:
    api.answers["POST /api/v1/routes/shop/rollback"] = (200, done())
    Path("canaryproxy.token").write_text("from-the-directory\n")
    Path("other").write_text("from-the-environment")
    Path("third").write_text("from-the-option")
    rollback = ("rollback", "shop", "--admin", api.url)
    command(*rollback)
    command(*rollback, CANARYPROXY_TOKEN_FILE="other")
    command(*rollback, CANARYPROXY_TOKEN_FILE="other", CANARYPROXY_TOKEN="itself")
    command(*rollback, "--token-file", "third", CANARYPROXY_TOKEN="itself")
    tokens = ["from-the-directory", "from-the-environment", "itself", "from-the-option"]
    assert api.authorization == [f"Bearer {token}" for token in tokens]


def test_the_configuration_says_where_the_proxy_is(command: Command, api: Played) -> None:
    api.answers["POST /api/v1/routes/shop/rollback"] = (200, done())
    Path("t").write_text("from-the-file")
    port = api.url.rpartition(":")[2]
    Path("c.yaml").write_text(
        f"admin: {{listen: '0.0.0.0:{port}', token_file: t}}\n"
        "pools: {v1: {servers: ['http://127.0.0.1:1']}}\nroutes: {shop: {stable: v1}}\n"
    )
    ran = command("rollback", "shop", "--config", "c.yaml", CANARYPROXY_ADMIN="http://127.0.0.1:1", CANARYPROXY_TOKEN="no")
    assert (ran.code, ran.err) == (0, "")
    assert api.authorization == ["Bearer from-the-file"]
    assert command("rollback", "--config", "missing.yaml").err.startswith("canaryproxy: missing.yaml: no such file")


def test_a_verb_that_leads_to_a_gate_says_so(operator: Command, api: Played) -> None:
    api.answers["POST /api/v1/routes/shop/start"] = (200, done(step=1, weight_percent=0.0, gate="confirm_rollout"))
    assert operator("start", "shop").out == (
        "started: 0% on v2 (step 1 of 4), waits for confirm_rollout, applied by 4 of 4 workers\n"
    )


def test_health_is_the_exit_code(operator: Command, api: Played) -> None:
    api.answers["GET /readyz"] = (200, b"ok")
    assert (operator("health").code, operator("health").out) == (0, "ready\n")
    api.answers["GET /readyz"] = (503, b"no")
    assert (operator("health").code, operator("health").err) == (1, "canaryproxy: not ready (status 503)\n")
