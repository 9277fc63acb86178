# ruff: noqa: E501 - a message stands in one piece, as people would search for it
"""What a canary is judged by: metrics on and off, goals under names of the user's own."""

from typing import Any

import pytest

from canaryproxy.config.load import json_schema, parse
from canaryproxy.config.metrics import Goal, Metrics
from canaryproxy.errors import ConfigError

_ROUTE = "pools: {v1: {servers: [http://a]}, v2: {servers: [http://b]}}\nroutes:\n  shop: {stable: v1, canary: v2, metrics: %s}\n"
_NAMES = "error_rate, latency_p95, latency_p50, latency_p99, stalls, throughput, client_errors, response_size, success_floor"
_OWN = "or, for a goal by a name of your own, add goal: {path: /checkout} or goal: posted"


def metrics(written: str) -> Metrics:
    return parse(_ROUTE % written, "f", {}).routes["shop"].metrics


def complaints(written: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        metrics(written)
    return [str(problem).removeprefix("f:3 routes.shop.metrics") for problem in caught.value.problems]


@pytest.mark.parametrize(
    "written", ["", "{}", "{latency_p95: , stalls: , success_floor: }", "{latency_p95: true, latency_p50: no}"]
)
def test_what_is_empty_or_on_means_the_defaults(written: str) -> None:
    assert metrics(written) == Metrics()
    assert Metrics().goals == {}


def test_metrics_are_turned_off_and_on() -> None:
    found = metrics(
        "{latency_p95: false, stalls: Off, throughput: no, client_errors: false, response_size: false, latency_p99: yes, success_floor: {}}"
    )
    assert (found.latency_p95, found.stalls, found.throughput, found.client_errors, found.response_size) == (None,) * 5
    assert found.latency_p50 is None
    assert found.latency_p99 is not None
    assert found.latency_p99.max_increase == 0.1
    assert found.success_floor is not None
    assert found.success_floor.min == 9900


def test_goals_keep_their_order_and_their_own_names() -> None:
    found = metrics("{zeta: {goal: Posted}, stalls: {}, buy: {goal: {method: put, path: /buy, status: 3XX}, max_drop: 2.5%}}")
    assert list(found.goals) == ["zeta", "buy"]
    assert found.goals["zeta"].goal is None
    assert metrics("{zeta: {goal: {path: /a/, status: 201}}}").goals["zeta"].goal == Goal(path="/a/", status="201")
    assert found.goals["buy"].goal == Goal(method="PUT", path="/buy", status="3xx")
    assert found.goals["buy"].max_drop == 250


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{error_rate: false}", ".error_rate: errors are always judged: without them nothing stops a broken canary; write dry_run: true to be told only"),
        ("{stals: {}}", f".stals: is neither a metric nor a goal; did you mean stalls? metrics: {_NAMES}; {_OWN}"),
        ("{checkout: {max_drop: 3%}}", f".checkout: is neither a metric nor a goal; metrics: {_NAMES}; {_OWN}"),
        ("{checkout: false}", f".checkout: is neither a metric nor a goal; metrics: {_NAMES}; {_OWN}"),
        ("{checkout: {goal: api}}", ".checkout.goal: 'api' is no goal; write {method: POST, path: /checkout}, or posted for one that is told to the admin API"),
        ("{checkout: {goal: }}", ".checkout.goal: is empty; write a value (its requests: {method, path, status}; or posted) or remove the key"),
        ("{checkout: {goal: {method: POST}}}", ".checkout.goal.path: is missing; add it: of the request, without its query; with / at the end: and all below it"),
        ("{checkout: {goal: {path: /a, stats: 2xx}}}", ".checkout.goal.stats: unknown key; did you mean status? keys here: method, path, status"),
        ("{checkout: {goal: {path: /a, status: ok}}}", ".checkout.goal.status: 'ok' is neither a status code nor a class of them; write for example 201 or 2xx"),
        ("{checkout: {goal: {path: /a, method: 'P T'}}}", ".checkout.goal.method: 'P T' is not a name that HTTP allows; use letters, digits and - _ ."),
        ("{checkout: {goal: posted, max_rise: 1%}}", ".checkout.max_rise: unknown key; did you mean max_drop? keys here: on_breach, dry_run, goal, max_drop"),
        ("{checkout: {goal: posted, max_drop: 100%}}", ".checkout.max_drop: '100%' is too large; write less than 100%"),
        ("{stalls: {goal: posted}}", ".stalls.goal: stalls is a metric, which a goal cannot be named after; give the goal a name of its own"),
        ("{'a b': {goal: posted}}", ".'a b': 'a b' is not a usable name; use up to 63 letters, digits and . _ -"),
        ("{throughput: {max_drop: 5pp}}", ".throughput.max_drop: '5pp' is in percentage points; here a percentage is meant, for example 5%"),
        ("{client_errors: {max_increase: 5%}}", ".client_errors.max_increase: '5%' is a percentage; here percentage points are meant, for example 1pp"),
    ],
)  # fmt: skip
def test_one_problem(written: str, message: str) -> None:
    assert complaints(written) == [message]


def test_goals_are_few() -> None:
    goals = ", ".join(f"g{n}: {{goal: posted}}" for n in range(8))
    assert len(metrics(f"{{{goals}}}").goals) == 8
    assert complaints(f"{{{goals}, g8: {{goal: posted}}}}") == [
        ": has 9 goals (g0, g1, g2, g3, g4, g5, g6, g7, g8); keep the 8 that matter most"
    ]


@pytest.mark.parametrize("goal", ["api", "{}", "{path: x}", ""])
def test_a_goal_that_is_wrong_does_not_hide_what_is_wrong_elsewhere(goal: str) -> None:
    text = _ROUTE % f"{{checkout: {{goal: {goal}}}}}"
    with pytest.raises(ConfigError) as caught:
        parse(text + "limits: {memory: 1MiB}\n", "f", {})
    assert [problem.where.split()[-1].split(".")[0] for problem in caught.value.problems] == ["routes", "limits"]


def test_the_schema_knows_switches_and_goals() -> None:
    definitions: dict[str, Any] = json_schema()["$defs"]
    found = definitions["Metrics"]
    own = [{"$ref": "#/$defs/GoalMetric"}, {"$ref": "#/$defs/OutsideMetric"}]
    assert found["additionalProperties"] == {"oneOf": own}
    assert found["properties"]["success_floor"] == {
        "anyOf": [{"$ref": "#/$defs/SuccessFloor"}, {"type": "boolean"}],
        "default": False,
    }
    assert found["properties"]["throughput"]["default"]["max_drop"] == "20%"
    assert definitions["GoalMetric"]["properties"]["goal"]["anyOf"] == [{"$ref": "#/$defs/Goal"}, {"const": "posted"}]
    assert definitions["GoalMetric"]["required"] == ["goal"]
