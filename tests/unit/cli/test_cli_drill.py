"""`drill`: its proxy's configuration, what counts as within the limits, and what is shown. The drill itself: tests/system."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from played_admin import Command

from canaryproxy.cli.drill import Name, rehearsals
from canaryproxy.cli.drill.results import Measured, Rehearsal, spread
from canaryproxy.cli.drill.settings import config_text, first_weight
from canaryproxy.config.load import example_text, parse
from canaryproxy.config.schema import Route

pytest_plugins = ["played_admin"]


def configured(**more: Any) -> dict[str, Any]:
    """The drill's configuration for a route that says this, checked as the proxy checks it."""
    route = Route.model_validate({"stable": "a", "canary": "b", **more})
    text = config_text(route, "/folder", 1001, 1002)
    parse(text, "drill", {})
    made: dict[str, Any] = json.loads(text)
    return made


def test_the_plan_and_rules_are_the_users_and_all_else_is_its_own() -> None:
    steps = [{"weight": "2%", "hold": "5m"}, {"weight": "40%", "hold": "1h"}]
    rollout = {"steps": steps, "confidence": "95%", "auto_start": True, "bake": "2h"}
    metrics = {"error_rate": {"max_increase": "3pp"}, "latency_p95": False, "success_floor": {"min": "98%"}}
    made = configured(
        rollout=rollout, metrics=metrics | {"buy": {"goal": {"path": "/buy"}, "max_drop": "5%"}}, match={"hosts": ["x.y"]}
    )
    (route,) = made["routes"].values()
    assert [step["weight"] for step in route["rollout"]["steps"]] == ["2%", "40%"]
    assert route["rollout"]["confidence"] == "95%"
    assert "auto_start" not in route["rollout"]
    assert route["metrics"]["error_rate"]["max_increase"] == "3pp"
    assert route["metrics"]["latency_p95"] is False
    assert route["metrics"]["success_floor"]["min"] == "98%"
    assert "buy" not in route["metrics"]
    assert "match" not in route
    assert made["pools"] == {"v1": {"servers": ["http://127.0.0.1:1001"]}, "v2": {"servers": ["http://127.0.0.1:1002"]}}
    assert (made["listen"], made["admin"]["listen"]) == ("127.0.0.1:0", "127.0.0.1:0")
    assert made["state"]["path"].startswith("/folder/")


def test_no_step_ends_before_its_rollback_was_rehearsed() -> None:
    made = configured(rollout={"steps": [{"weight": "1%", "hold": "60s"}]})
    assert [step["hold"] for step in made["routes"]["drill"]["rollout"]["steps"]] == ["10m"]


def test_a_first_step_without_users_is_raised_to_one_with() -> None:
    route = Route.model_validate(
        {"stable": "a", "rollout": {"steps": [{"weight": "0.1%"}, {"weight": "0.5%"}, {"weight": "5%"}]}}
    )
    assert first_weight(route) == 100
    made = json.loads(config_text(route, "/folder", 1, 2))
    assert [step["weight"] for step in made["routes"]["drill"]["rollout"]["steps"]] == ["1%", "5%"]


def test_the_example_can_be_rehearsed() -> None:
    for route in parse(example_text(), "example", {}).routes.values():
        parse(config_text(route, "/folder", 1, 2), "drill", {})


@pytest.mark.parametrize(
    ("times", "passed", "shown"),
    [
        ([3.0, 9.0], True, ("6.0 ms", "9.0 ms", "10 ms")),
        ([3.0, 11.0], False, ("7.0 ms", "11 ms", "10 ms")),
        ([3.0, None], False, ("3.0 ms", "never", "10 ms")),
        ([], False, ("–", "–", "10 ms")),
    ],
)
def test_every_repetition_has_to_keep_the_limit(times: list[float | None], passed: bool, shown: tuple[str, ...]) -> None:
    measured = Measured("x", 10, times)
    assert measured.passed is passed
    assert spread(measured) == shown
    assert measured.document()["passed"] is passed


def test_an_objection_fails_a_rehearsal_and_a_skipped_one_does_not() -> None:
    assert not Rehearsal("a", "", [Measured("x", 10, [1.0])], objections=["too few workers"]).passed
    assert Rehearsal("a", "", [Measured("x", 10)], skipped="no /proc").passed
    assert not Rehearsal("a", "", [Measured("x", 10)]).passed


def test_the_rehearsals_that_can_be_chosen_are_those_there_are() -> None:
    assert [part.rehearsal.name for part in rehearsals.parts(1000)] == list(Name)


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The drill without its stage: every rehearsal takes so many milliseconds."""

    def take(ms: float) -> None:
        async def perform(_stage: object, rehearsal: Rehearsal) -> None:
            for measured in rehearsal.measured:
                measured.times_ms.append(ms)
            rehearsal.hurt.append(1)

        async def nothing(*_: object) -> None:
            return None

        real = rehearsals.parts

        def parts(limit_ms: float) -> list[rehearsals.Part]:
            wanted: Callable[..., Awaitable[None]] = perform
            return [rehearsals.Part(one.rehearsal, one.times, one.fault, wanted) for one in real(limit_ms)]

        monkeypatch.setattr(rehearsals, "parts", parts)
        monkeypatch.setattr("canaryproxy.cli.drill.stage.Stage.raise_all", nothing)
        monkeypatch.setattr("canaryproxy.cli.drill.stage.Stage.cast", nothing)

    return take


def test_within_the_limits_is_a_success(command: Command, performed: Callable[[float], None]) -> None:
    performed(20)
    ran = command("drill")
    assert (ran.code, ran.err) == (0, "")
    assert "rehearsed with the defaults: 1% of 2,500 made-up users on the canary" in ran.out
    assert " ".join(ran.out.split()).count("20 ms 20 ms") == 12
    assert ran.out.endswith("\nall within their limits\n")


def test_beyond_a_limit_is_a_failure(command: Command, performed: Callable[[float], None]) -> None:
    performed(20)
    ran = command("drill", "--limit-ms", "10", "--only", "by-hand", "--repeat", "3", "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    (only,) = found["rehearsals"]
    assert (found["passed"], only["name"], only["passed"], only["users_hurt"]) == (False, "by-hand", False, [1, 1, 1])
    assert only["measured"][0] == {
        "what": "command to acknowledged by all workers",
        "ms": [20, 20, 20],
        "least": 20,
        "median": 20,
        "most": 20,
        "limit_ms": 10,
        "passed": False,
    }


def test_the_route_is_the_files(command: Command, performed: Callable[[float], None], tmp_path: Path) -> None:
    performed(20)
    (tmp_path / "c.yaml").write_text(
        "pools: {a: {servers: ['http://127.0.0.1:1']}}\nroutes: {shop: {stable: a, match: {paths: [/s]}}, web: {stable: a}}\n"
    )
    assert "rehearsed with route web of c.yaml" in command("drill", "--config", "c.yaml", "--route", "web").out
    ran = command("drill", "--config", "c.yaml")
    assert (ran.code, ran.err) == (1, "canaryproxy: --route: there are 2 routes; name one of shop, web\n")
    ran = command("drill", "--config", "c.yaml", "--route", "x")
    assert (ran.code, ran.err) == (1, "canaryproxy: route 'x': does not exist; there is shop, web\n")
    assert command("drill", "--route", "web").code == 2
