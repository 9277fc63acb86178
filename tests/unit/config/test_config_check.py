# ruff: noqa: E501 - a message stands in one piece, as people would search for it
"""What is wrong between fields, and what is only surprising."""

from typing import Any

import pytest

from canaryproxy.config.check import problems, warnings
from canaryproxy.config.schema import Config


def config(route: dict[str, Any] | None = None, **top: Any) -> Config:
    pools = {"v1": {"servers": ["http://127.0.0.1:8001"]}, "v2": {"servers": ["http://127.0.0.1:8002"]}}
    routes = {"shop": {"stable": "v1", "canary": "v2", **(route or {})}}
    return Config.model_validate({"pools": pools, "routes": routes, **top})


def steps(*rungs: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"rollout": {"steps": [{"weight": weight, "hold": hold} for weight, hold in rungs], **more}}


def said(found: Config) -> list[str]:
    return [str(problem) for problem in problems(found)]


_BLUE_GREEN = "that is a sped-up blue-green, not a canary"


def test_nothing_is_wrong_with_the_defaults() -> None:
    assert said(config()) == []
    assert warnings(config()) == []
    assert said(config({"canary": None})) == []


def test_pools_of_routes() -> None:
    assert said(config({"stable": "v3", "canary": "v22"})) == [
        "routes.shop.stable: no pool is named 'v3'; pools: v1, v2",
        "routes.shop.canary: no pool is named 'v22'; did you mean v2? pools: v1, v2",
    ]
    assert said(config({"canary": "v1"})) == [
        "routes.shop.canary: is the same pool as stable ('v1'); name the pool of the new version, or leave canary out while there is none"
    ]


@pytest.mark.parametrize(
    ("rungs", "messages"),
    [
        ([("5%", "5m"), ("5%", "5m"), ("50%", "5m")], ["steps[1].weight: 5% is not more than the 5% of the step before; let the weights rise"]),
        ([("10%", "59s"), ("100%", "1m")], [f"steps[0].hold: 59s is too short to see harm before the next step: {_BLUE_GREEN}; hold for at least 1m, or set i_accept_the_risk: true"]),
        ([("11%", "5m")], [f"steps[0].weight: a first step of 11% exposes too many users to an unknown version: {_BLUE_GREEN}; begin with at most 10%, or set i_accept_the_risk: true"]),
        ([("1%", "5m"), ("10.01%", "5m")], [f"steps[1].weight: from 1% to 10.01% is a jump of more than 10 times: {_BLUE_GREEN}; put a step between, or set i_accept_the_risk: true"]),
        ([("5%", "5m")], [f"steps[0].weight: the last step is 5% and then comes 100%, a jump of more than 10 times: {_BLUE_GREEN}; add a step, or set i_accept_the_risk: true"]),
        ([("10%", "3h")], ["steps[0].hold: 3h is longer than max_step_duration (2h): the step ends as inconclusive; hold for less or raise max_step_duration"]),
        ([("1%", "1m"), ("10%", "1m"), ("100%", "1m")], []),
    ],
)  # fmt: skip
def test_steps(rungs: list[tuple[str, str]], messages: list[str]) -> None:
    assert said(config(steps(*rungs))) == [f"routes.shop.rollout.{message}" for message in messages]


PAUSE: dict[str, Any] = {"pause": {}}
RUNGS = [{"weight": weight, "hold": "10m"} for weight in ("5%", "50%")]


@pytest.mark.parametrize(
    ("rollout", "messages"),
    [
        ({"steps": [RUNGS[0], PAUSE, RUNGS[1], {"pause": {"duration": "1h"}}]}, []),
        (
            {"steps": [PAUSE, *RUNGS]},
            ["steps[0]: is a pause before anybody is on the canary; begin with a weight; to wait before the first step, use a hook of type confirm_rollout"],
        ),
        ({"steps": [RUNGS[0], PAUSE, PAUSE, RUNGS[1]]}, ["steps[2]: is a pause right after another; write one pause, as long as both"]),
        (
            {"steps": [RUNGS[0], PAUSE, RUNGS[0], RUNGS[1]]},
            ["steps[2].weight: 5% is not more than the 5% of the step before; let the weights rise"],
        ),
        ({"hold_back": "5%", "steps": [*RUNGS, {"weight": "95%"}]}, []),
        (
            {"hold_back": "5%", "steps": [*RUNGS, PAUSE, {"weight": "96%"}]},
            ["steps[3].weight: 96% is more than the bake has, which holds 5% of the users back; end at 95% or below, or hold nobody back"],
        ),
        ({"steps": [RUNGS[0], PAUSE, RUNGS[1]], "max_duration": "51m"}, []),
        (
            {"steps": [RUNGS[0], {"pause": {"duration": "1h"}}, RUNGS[1]], "max_duration": "1h50m"},
            ["max_duration: 1h50m is not longer than the plan, which takes 1h50m at least; raise it, hold for less, or write 0s for no limit"],
        ),
        (
            {"steps": [PAUSE], "i_accept_the_risk": True},
            ["steps[0]: is a pause before anybody is on the canary; begin with a weight; to wait before the first step, use a hook of type confirm_rollout"],
        ),
    ],
)  # fmt: skip
def test_pauses_and_limits_of_the_plan(rollout: dict[str, Any], messages: list[str]) -> None:
    assert said(config({"rollout": rollout})) == [f"routes.shop.rollout.{message}" for message in messages]


def test_a_risk_can_be_accepted_but_falling_weights_cannot() -> None:
    assert said(config(steps(("100%", "1s"), i_accept_the_risk=True))) == []
    assert len(said(config(steps(("50%", "1s"), ("20%", "1s"), i_accept_the_risk=True)))) == 1


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({}, {}, "every host, path /"),
        ({"hosts": ["a.com", "b.com"]}, {"hosts": ["c.com", "B.com"]}, "b.com, path /"),
        ({"paths": ["/a", "/b"]}, {"paths": ["/b", "/c"]}, "every host, path /b"),
        ({"hosts": ["a.com"]}, {}, None),
        ({"hosts": ["*.a.com"]}, {"hosts": ["x.a.com"]}, None),
        ({"paths": ["/a"]}, {"paths": ["/a/b"]}, None),
    ],
)
def test_routes_that_take_the_same_requests(first: dict[str, Any], second: dict[str, Any], shared: str | None) -> None:
    routes = {"one": {"stable": "v1", "match": first}, "two": {"stable": "v1", "match": second}}
    expected = f"routes.two.match: takes the same requests as route 'one' ({shared}); give one of the two another host or path"
    assert said(config(routes=routes)) == ([expected] if shared else [])


@pytest.mark.parametrize(
    ("listen", "server", "loop"),
    [
        ("0.0.0.0:80", "http://127.0.0.1", True),
        ("0.0.0.0:80", "http://127.0.0.9", True),
        ("0.0.0.0:80", "http://localhost:80", True),
        ("[::]:80", "http://[::1]", True),
        ("127.0.0.1:80", "http://localhost", True),
        ("10.0.0.1:80", "http://10.0.0.1", True),
        ("0.0.0.0:80", "http://10.0.0.1", False),
        ("127.0.0.1:80", "http://127.0.0.2", False),
        ("127.0.0.1:81", "http://127.0.0.1", False),
    ],
)
def test_a_server_that_is_the_proxy_itself(listen: str, server: str, loop: bool) -> None:
    found = said(config({"canary": None}, listen=listen, pools={"v1": {"servers": [server]}}))
    assert [line.partition(": ")[0] for line in found] == (["pools.v1.servers[0]"] if loop else [])


def test_addresses_and_files_of_its_own() -> None:
    pools = {"v1": {"servers": ["http://a", "http://127.0.0.1:9900"]}}
    assert said(config({"canary": None}, pools=pools)) == [
        "pools.v1.servers[1]: http://127.0.0.1:9900 is this proxy's admin endpoint (admin.listen); write the address of the application"
    ]
    assert said(config(listen="127.0.0.1:9900", admin={"listen": "0.0.0.0:9900"})) == [
        "admin.listen: 0.0.0.0:9900 is taken by listen (127.0.0.1:9900); use another port"
    ]
    assert said(config(listen="127.0.0.1:0", admin={"listen": "127.0.0.1:0"})) == []
    assert said(config(admin={"token_file": "x/y"}, state={"path": "./x//y"})) == [
        "state.path: is the same file as admin.token_file; use two files"
    ]


@pytest.mark.parametrize(
    ("affinity", "message"),
    [
        ({"cookie": "Path"}, "cookie: 'Path' is the name of a cookie attribute; use another name, for example canaryproxy_id"),
        ({"cookie": "__Host-id"}, "cookie: '__Host-id' is refused by browsers: __host- cookies must be Secure, and this one is not; use a name without that prefix"),
        ({"header": "Host"}, "header: 'Host' does not say who the user is; use a header with the user's id, for example X-User-Id"),
        ({"header": "X-Real-IP"}, "header: 'X-Real-IP' can be made up by any client, and trusted_proxies is empty; set trusted_proxies, or use another header"),
        ({"header": "X_User"}, "header: 'X_User' never arrives: underscore_headers is drop; use X-User, or set underscore_headers: allow"),
    ],
)  # fmt: skip
def test_affinity(affinity: dict[str, str], message: str) -> None:
    assert said(config({"affinity": affinity})) == [f"routes.shop.affinity.{message}"]


def test_a_cookie_that_must_be_secure_where_users_come_over_tls_only() -> None:
    tls = {"certificate": "a.pem", "key": "a.key"}
    assert said(config({"affinity": {"cookie": "__Host-id"}}, listen=False, tls=tls)) == []
    assert len(said(config({"affinity": {"cookie": "__Host-id"}}, tls=tls))) == 1  # some would get it in the clear


def test_affinity_by_address_or_underscore_where_that_works() -> None:
    assert said(config({"affinity": {"header": "X-Real-IP"}}, trusted_proxies=["10.0.0.0/8"])) == []
    assert said(config({"affinity": {"header": "X_User"}}, underscore_headers="allow")) == []


def test_what_depends_on_an_unread_place_is_not_said() -> None:
    bad = config({"stable": "v3", "canary": "blue"})
    assert [p.where for p in problems(bad, {"pools.blue"})] == ["routes.shop.stable"]
    assert [p.where for p in problems(bad, {"pools.blue2"})] == ["routes.shop.stable", "routes.shop.canary"]
    assert problems(bad, {"pools"}) == []


@pytest.mark.parametrize(
    ("top", "route", "message"),
    [
        ({"admin": {"listen": "0.0.0.0:9900"}}, {}, "admin.listen: 0.0.0.0:9900 can be reached from other machines; anybody there can read status and metrics, and whoever has the token can change the traffic; use 127.0.0.1, or let a firewall or a proxy with TLS stand before it"),
        ({"host_header": "upsteam"}, {}, "host_header: 'upsteam' is sent as the Host of every request; did you mean upstream?"),
        ({}, {"canary": None}, "pools.v2: is not used by any route; name it in a route, or remove it"),
        ({"pools": {"v1": {"servers": ["http://a", "http://a:80"]}, "v2": {"servers": ["http://b"]}}}, {}, "pools.v1.servers[1]: http://a:80 is listed twice and gets twice the requests; keep one"),
        ({"pools": {"v1": {"servers": ["http://a"]}, "v2": {"servers": ["http://a"]}}}, {}, "routes.shop.canary: http://a:80 is in both pools of the route: its requests count for both versions; give each version its own servers"),
        ({}, {"metrics": {"error_rate": {"dry_run": True}, "latency_p95": {"on_breach": "warn"}}}, "routes.shop.metrics: neither errors nor slowness can stop or undo a bad rollout; let one of the two roll back, without dry_run"),
        ({}, {"metrics": {"client_errors": {"on_breach": "rollback"}}}, "routes.shop.metrics.client_errors: is not looked at user by user: one client with odd requests can roll a healthy canary back; let it pause"),
        ({}, {"metrics": {"error_rate": {"dry_run": True}, "latency_p95": False}}, "routes.shop.metrics: neither errors nor slowness can stop or undo a bad rollout; let one of the two roll back, without dry_run"),
        ({}, {"rollout": {"bake": 0}}, "routes.shop.rollout.bake: 0s at 100% is too short to see harm before the canary becomes stable; bake for at least 1m"),
    ],
)  # fmt: skip
def test_warnings(top: dict[str, Any], route: dict[str, Any], message: str) -> None:
    checked = config(route, **top)
    assert said(checked) == []
    assert [str(warning) for warning in warnings(checked)] == [message]
