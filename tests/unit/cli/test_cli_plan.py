"""`plan`: from given traffic without a proxy, from a running one, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from played_admin import Command, Played, route

pytest_plugins = ["played_admin"]

_GIVEN = ("plan", "--rate", "1000", "--errors", "0.1%", "--p95", "200ms", "--users", "20000", "--goal-rate", "5")


def _document(operator: Command, *words: str) -> dict[str, Any]:
    ran = operator(*words, "--json")
    assert (ran.code, ran.err) == (0, "")
    document: dict[str, Any] = json.loads(ran.out)
    return document


def test_given_traffic_needs_no_proxy(operator: Command, api: Played) -> None:
    ran = operator(*_GIVEN)
    assert (ran.code, ran.err, api.asked) == (0, "", [])
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert lines[:6] == [
        "1,000.0 judged req/s, 0.10% errors, p95 200 ms; steps of the defaults",
        "",
        "step weight hold req/s users health needs proven after lasts",
        "1 1% 5.0 min 10.0 200 437 requests 44 s 5.0 min",
        "2 5% 10.0 min 50.0 1,000 438 requests 9 s 10.0 min",
        "3 25% 10.0 min 250.0 5,000 444 requests 2 s 10.0 min",
    ]
    assert "errors 1% 3.1 min* (19) 38 s* (19) 9 s* (22) 7 s* (33)" in lines
    assert "errors 2% 44 s (9) 9 s (9) 2 s (12) 2 s (19)" in lines
    assert lines[-4:] == [
        "* only paused, not rolled back",
        "the whole rollout: 70.0 min, of which 30.0 min at 100%",
        "proposed first weight: 1% or more",
        "warning: steps 1, 2, 3, 4: -10% conversions cannot be found before the step ends",
    ]


def test_programs_get_every_number(operator: Command) -> None:
    document = _document(operator, *_GIVEN)
    assert document["traffic"] == {
        "live": False,
        "judged_requests_per_second": 1000,
        "error_percent": 0.1,
        "p95_ms": 200,
        "users": 20000,
        "goals_per_second": 5,
        "spread": 1,
    }
    assert (document["route"], document["plan"], document["first_weight_percent"]) == (None, "the defaults", 1)
    assert (document["bake"], document["seconds"]) == (1800, 4200)
    first = document["steps"][0]
    assert (first["step"], first["weight_percent"], first["canary_users"]) == (1, 1, 200)
    assert set(first["health_requests"]) == {"error_rate", "latency_p95", "min_requests"}
    found = {one["regression"]: one for one in first["found"]}
    assert found["errors 1%"]["action"] == "pause"
    assert found["errors 1%"]["rollback_seconds"] is None
    assert found["errors 2%"]["seconds"] == pytest.approx(44.4, abs=0.1)
    assert found["conversions -10%"]["rollback_seconds"] % 60 == 0
    assert document["warnings"] == [
        {
            "code": "conversions",
            "steps": [1, 2, 3, 4],
            "sentence": "steps 1, 2, 3, 4: -10% conversions cannot be found before the step ends",
        }
    ]


def test_a_running_proxy_says_what_is_not_given(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes"] = (200, {"routes": [route()]})
    api.answers["GET /api/v1/routes/shop"] = (200, route())
    document = _document(operator, "plan")
    traffic = document["traffic"]
    assert (document["route"], traffic["live"]) == ("shop", True)
    assert (traffic["judged_requests_per_second"], traffic["error_percent"], traffic["p95_ms"]) == (1001.3, 0.1, 41)
    assert [one["code"] for one in document["warnings"]] == ["no_users"]
    traffic = _document(operator, "plan", "shop", "--errors", "2%", "--p95", "1s")["traffic"]
    assert (traffic["judged_requests_per_second"], traffic["error_percent"], traffic["p95_ms"]) == (1001.3, 2, 1000)
    assert operator("plan").out.startswith("shop: 1,001.3 judged req/s, 0.10% errors, p95 41 ms (now); steps of the defaults\n")


def test_another_plan_is_in_force(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes/shop"] = (200, route(steps=2))
    warnings = _document(operator, "plan", "shop", "--users", "20000")["warnings"]
    assert [one["sentence"] for one in warnings] == [
        "the running proxy's plan has 2 steps, this one 4: give its file as --config"
    ]


def test_a_quiet_proxy_has_nothing_to_plan_with(operator: Command, api: Played) -> None:
    quiet = {"pool": "v1", "requests_per_second": 0.0, "error_percent": None, "p95_ms": None}
    api.answers["GET /api/v1/routes/shop"] = (200, route(stable=quiet, canary=None))
    ran = operator("plan", "shop")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "canaryproxy: route 'shop': no requests in the last minute; give --rate, --errors and --p95\n"


def test_a_proxy_that_does_not_answer(command: Command) -> None:
    ran = command("plan", "--admin", "http://127.0.0.1:1")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("canaryproxy: http://127.0.0.1:1: connection refused")


def test_of_one_user_only_so_many_requests_are_judged(operator: Command) -> None:
    document = _document(operator, "plan", "--rate", "1000", "--users", "100")
    assert document["traffic"]["judged_requests_per_second"] == 50


_FILE = """
pools:
  v1: {servers: [http://127.0.0.1:8001]}
  v2: {servers: [http://127.0.0.1:8002]}
routes:
  shop:
    stable: v1
    canary: v2
    rollout:
      steps: [{weight: 2%, hold: 1m}, {weight: 20%, hold: 80s}, {weight: 100%, hold: 1m}]
      max_step_duration: 90s
      bake: 5m
    metrics:
      error_rate: {max_increase: 3pp}
      latency_p95: false
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(_FILE)
    return path


def test_steps_and_rules_of_a_file(operator: Command, file: Path) -> None:
    document = _document(operator, "plan", "--rate", "50", "--config", str(file), "--users", "9999")
    assert [(step["weight_percent"], step["hold"]) for step in document["steps"]] == [(2, 60), (20, 80)]
    assert (document["route"], document["plan"], document["bake"]) == ("shop", str(file), 300)
    first = document["steps"][0]
    assert 100 < first["health_requests"]["error_rate"] < 150  # a margin of 3 pp is proven sooner than one of 1 pp
    found = {one["regression"]: one["rollback_seconds"] for one in first["found"]}
    assert found["errors 2%"] is None
    assert found["errors 5%"] is not None
    assert [one["sentence"] for one in document["warnings"]] == [
        "step 1: health takes 2.1 min to prove, and max_step_duration ends it after 1.5 min"
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("shoop",), "canaryproxy: route 'shoop': does not exist; there is shop\n"),
        (("shop", "--config", "none.yaml"), "canaryproxy: none.yaml: no such file; canaryproxy init writes an example\n"),
    ],
)
def test_what_is_not_there(operator: Command, file: Path, words: tuple[str, ...], said: str) -> None:
    ran = operator("plan", "--rate", "5", "--config", str(file), *words)
    assert (ran.code, ran.out, ran.err) == (1, "", said)


def test_several_routes_must_be_told_apart(operator: Command, file: Path) -> None:
    file.write_text(_FILE.replace("routes:", "routes:\n  web: {match: {paths: [/web]}, stable: v1}"))
    ran = operator("plan", "--rate", "5", "--config", str(file))
    assert (ran.code, ran.err) == (1, "canaryproxy: route: there are 2 routes; name one of web, shop\n")
    assert operator("plan", "web", "--rate", "5", "--config", str(file)).code == 0


def test_a_switch_to_all_at_once_has_no_control(operator: Command, file: Path) -> None:
    steps = "steps: [{weight: 100%, hold: 1m}]\n      i_accept_the_risk: true\n      "
    begin, end = _FILE.index("steps:"), _FILE.index("max_step")
    file.write_text(_FILE[:begin] + steps + _FILE[end:])
    words = ("plan", "--rate", "5", "--config", str(file))
    ran = operator(*words)
    assert (ran.code, ran.err) == (0, "")
    assert "warning: every step is at 100%: nobody is left to compare with" in ran.out
    assert "the whole rollout: at least " in ran.out
    assert "found after" not in ran.out
    found = json.loads(operator(*words, "--json").out)
    assert (found["steps"], found["bake"] - 60, found["warnings"][0]["code"]) == ([], 300, "blue_green")
    assert found["seconds"] == found["bake"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "0"), "Invalid value for --rate: 0 is not a number above 0"),
        (("--rate", "inf"), "Invalid value for --rate: inf is not a number above 0"),
        (("--rate", "nan"), "Invalid value for --rate: nan is not a number above 0"),
        (("--rate", "many"), "Invalid value for '--rate'"),
        (("--users", "-3"), "Invalid value for --users: -3 is not a number above 0"),
        (("--goal-rate", "0"), "Invalid value for --goal-rate: 0 is not a number above 0"),
        (("--spread", "0.5"), "Invalid value for --spread: 0.5 is not a number from 1 on"),
        (("--errors", "3"), "Invalid value for --errors: '3' has no unit; write 3%"),
        (("--errors", "1pp"), "Invalid value for --errors: '1pp' is in percentage points"),
        (("--errors", "60%"), "Invalid value for --errors: '60%' is no state to begin a rollout in; at most 50%"),
        (("--p95", "200"), "Invalid value for --p95: '200' has no unit; write 200s or 200m"),
        (("--p95", "0s"), "Invalid value for --p95: '0s' is not a time above 0"),
    ],
)
def test_bad_input(operator: Command, api: Played, words: tuple[str, ...], said: str) -> None:
    ran = operator("plan", *words)
    assert (ran.code, ran.out, api.asked) == (2, "", [])
    text = " ".join(ran.err.replace("│", " ").split())
    assert said in text


@pytest.mark.parametrize(
    "words", [("--rate", "1e-9"), ("--rate", "1e12"), ("--rate", "5", "--errors", "0%"), ("--rate", "5", "--p95", "1h")]
)
def test_extreme_traffic_is_planned_too(operator: Command, words: tuple[str, ...]) -> None:
    assert operator("plan", *words, "--users", "1", "--goal-rate", "0.001").code == 0
    _document(operator, "plan", *words, "--errors", "50%", "--p95", "1ms")
