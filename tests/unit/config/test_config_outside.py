# ruff: noqa: E501 - a message stands in one piece, as people would search for it
"""Metrics that others measure: providers, limits, variables in queries, and what is said of what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.config.check import warnings
from canaryproxy.config.load import json_schema, parse
from canaryproxy.config.metrics import OnBreach, OutsideMetric
from canaryproxy.config.outside import Datadog, Difference, HttpJson, Prometheus, longest_range, unquoted
from canaryproxy.config.schema import Config
from canaryproxy.errors import ConfigError

_ROUTE = "pools: {v1: {servers: [http://a]}, v2: {servers: [http://b]}}\nroutes:\n  shop: {stable: v1, canary: v2, metrics: {cpu: %s}}\n"
_PROM = "prometheus: {url: 'http://127.0.0.1:9090', query: 'x{v=\"{{ variant }}\"}'}"
_HTTP = "http: {url: 'http://127.0.0.1/x', value: /v}"
_DOG = "datadog: {query: 'avg:x{version:{{ version }}}', api_key: k1, app_key: k2}"


def config(written: str) -> Config:
    return parse(_ROUTE % written, "f", {"KEY": "from outside", "ENDS": "line\n"})


def metric(written: str) -> OutsideMetric:
    return config(written).routes["shop"].metrics.outside["cpu"]


def complaints(written: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(written)
    return [str(problem).removeprefix("f:3 routes.shop.metrics.cpu") for problem in caught.value.problems]


def test_what_is_not_said_has_its_default() -> None:
    found = metric(f"{{{_PROM}, max_increase: 20%}}")
    assert found.asked == Prometheus(url="http://127.0.0.1:9090", query='x{v="{{ variant }}"}')
    assert (found.interval, found.timeout, found.failures, found.successes) == (30, 5, 3, 3)
    assert (found.looks_back, found.fresh_for, found.required) == (30, 120, True)
    assert (found.on_breach, found.dry_run) == (OnBreach.PAUSE, False)
    assert (found.of_a_variant, found.compares) == (True, True)


def test_all_of_it() -> None:
    found = metric(f"{{{_DOG}, max_drop: 2.5, min: -1e-3, max: 10, interval: 1m, window: 0s, max_age: 5m}}")
    assert isinstance(found.asked, Datadog)
    assert found.asked.base == "https://api.datadoghq.com"
    assert (found.max_drop, found.min, found.max) == (Difference(2.5), -0.001, 10)
    assert (found.looks_back, found.fresh_for) == (0, 300)
    found = metric("{http: {url: 'https://h/{{ pool }}?a=b', value: '', time: /a~1b, username: u, password: '${KEY}'}, min: 1}")
    assert isinstance(found.asked, HttpJson)
    assert found.asked.password == "from outside"
    assert (found.of_a_variant, found.compares, found.provider) == (True, False, "http")
    assert not metric(f"{{{_HTTP}, max: 1}}").of_a_variant
    assert metric("{http: {url: 'http://h/', value: '/{{ variant }}/v'}, max: 1}").of_a_variant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{prometeus: {url: x}, max: 1}", ": asks nobody; did you mean prometheus? providers: prometheus, datadog, http"),
        (f"{{{_PROM}, {_HTTP}, max: 1}}", ": needs one provider and has prometheus and http; keep one of prometheus, datadog, http"),
        ("{prometheus: , max: 1}", ": needs one provider and has none; keep one of prometheus, datadog, http"),
        (f"{{{_PROM}}}", ": has no limit; write max_increase or max_drop (against stable), min or max"),
        (f"{{{_HTTP}, max_drop: 1}}", ": compares the canary with stable, but is the same for both; write {{ variant }}, {{ version }} or {{ pool }} in it, or use min and max"),
        (f"{{{_HTTP}, min: 2, max: 1}}", ": wants at least 2 and at most 1; swap min and max"),
        (f"{{{_HTTP}, max: 1, falures: 2}}", ".falures: unknown key; did you mean failures? keys here: on_breach, dry_run, prometheus, datadog, http, max_increase, max_drop, min, max, interval, timeout, failures, successes, window, max_age, required"),
        (f"{{{_HTTP}, max: 90%}}", ".max: '90%' is a percentage; here the metric's own number is meant, for example 0.9"),
        (f"{{{_HTTP}, max: .inf}}", ".max: '.inf' is not a number; write for example 0.9 or 100"),
        (f"{{{_HTTP}, max: 1e999}}", ".max: '1e999' is not a number; write for example 0.9 or 100"),
        (f"{{{_PROM}, max_increase: 1pp}}", ".max_increase: '1pp' is in percentage points; here 20% (of stable's value) or a number is meant"),
        (f"{{{_PROM}, max_increase: -1%}}", ".max_increase: '-1%' is below 0; write how far the canary may be from stable"),
        (f"{{{_PROM}, max_increase: a lot}}", ".max_increase: 'a lot' is neither a percentage nor a number; write for example 20% (of stable's value) or 0.2"),
        (f"{{{_HTTP}, max: 1, failures: 0}}", ".failures: '0' is too small; write at least 1"),
        (f"{{{_HTTP}, max: 1, interval: 500ms}}", ".interval: '500ms' is too small; write at least 1s"),
        (f"{{{_HTTP}, max: 1, timeout: 31s}}", ".timeout: 31s is longer than the interval (30s); wait for less, or ask less often"),
        (f"{{{_HTTP}, max: 1, max_age: 29s}}", ".max_age: 29s is over before the next measurement (30s); let a measurement hold for two intervals at least"),
        (f"{{{_HTTP}, max: 1, window: 2h}}", ": needs 2h1m in each step: its window, and 3 measurements; let that be less than max_step_duration (2h), or write required: false"),
        ("{prometheus: {query: x}, max: 1}", ".prometheus.url: is missing; add it: where the server is, for example http://prometheus:9090"),
        ("{prometheus: {url: 'http://p:9090', query: x, qery: y}, max: 1}", ".prometheus.qery: unknown key; did you mean query? keys here: headers, username, password, bearer, ca, url, query"),
        ("{prometheus: {url: 'p:9090', query: x}, max: 1}", ".prometheus.url: is not a URL of http:// or https:// with a host; write for example http://prometheus:9090"),
        ("{prometheus: {url: 'http://u:hidden@p', query: x}, max: 1}", ".prometheus.url: has a password in the URL, which shows in logs; write it as username and password, or as a header"),
        ("{prometheus: {url: 'http://p:9090/api/v1/query', query: x}, max: 1}", ".prometheus.url: is more than where the server is; write for example http://prometheus:9090, the rest is added to it"),
        ("{prometheus: {url: 'http://p', query: 'x{v=\"{{ vrsion }}\"}'}, max: 1}", ".prometheus.query: there is no variable 'vrsion'; write {{ variant }}, or one of variant, pool, version, route, interval, window"),
        ("{prometheus: {url: 'http://p', query: 'x{{ }}'}, max: 1}", ".prometheus.query: has {{ without a variable's name and }}; write for example {{ variant }}"),
        ("{prometheus: {url: 'http://p', query: 'x{v={{ version }}}'}, max: 1}", '.prometheus.query: {{ version }} stands outside of quotes; write for example {version="{{ version }}"}'),
        ("{prometheus: {url: 'http://p', query: x, username: u}, max: 1}", ".prometheus: has only one of username and password; write both"),
        ("{prometheus: {url: 'http://p', query: x, username: 'a:b', password: c}, max: 1}", ".prometheus: has a : in the username, which Basic authentication (RFC 7617) cannot have; write bearer or a header"),
        ("{prometheus: {url: 'http://p', query: x, bearer: a, headers: {authorization: b}}, max: 1}", ".prometheus: authenticates in two ways; keep one of username, bearer and the header Authorization"),
        ("{prometheus: {url: 'http://p', query: x, bearer: '${ENDS}'}, max: 1}", ".prometheus.bearer: has a character that a header cannot have; look for a line end in it"),
        ("{prometheus: {url: 'http://p', query: x, headers: {Host: b}}, max: 1}", ".prometheus.headers.Host: 'Host' is set by the connection itself; leave it out"),
        ("{prometheus: {url: 'http://p', query: x, headers: {A: ''}}, max: 1}", ".prometheus.headers.A: is empty; write a value or remove the key"),
        ("{prometheus: {url: 'http://p', query: x, ca: /nowhere.pem}, max: 1}", ".prometheus.ca: '/nowhere.pem' cannot be read (No such file or directory); check the path and its permissions"),
        ("{datadog: {query: x, api_key: k}, max: 1}", ".datadog.app_key: is missing; add it: DD-APPLICATION-KEY, with the scope timeseries_query"),
        ("{datadog: {query: x, api_key: k, app_key: k, site: 'https://x'}, max: 1}", ".datadog.site: 'https://x' is no site of Datadog; write for example datadoghq.com or datadoghq.eu"),
        ("{http: {url: 'http://h/', value: data}, max: 1}", ".http.value: 'data' is no JSON pointer; write for example /data/apdex (~1 stands for a / in a key, ~0 for ~)"),
        ("{http: {url: 'http://h/a b', value: /a}, max: 1}", ".http.url: has a # or characters that a URL cannot have; percent-encode them"),
        ("{http: {url: 'http://{{ variant }}/', value: /a}, max: 1}", ".http.url: is not a URL of http:// or https:// with a host; write for example http://prometheus:9090"),
    ],
)  # fmt: skip
def test_one_problem(written: str, message: str) -> None:
    assert complaints(written) == [message]


def test_what_is_wrong_does_not_hide_what_is_wrong_elsewhere() -> None:
    text = _ROUTE % "{prometheus: {url: x, query: '{{ x }}'}, datadog: {}, max: no}" + "limits: {memory: 1MiB}\n"
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", {})
    places = [problem.where.split()[-1] for problem in caught.value.problems]
    own = "routes.shop.metrics.cpu"
    assert sorted(places) == sorted(
        [f"{own}.prometheus.url", f"{own}.prometheus.query", f"{own}.max", "limits.memory"]
        + [f"{own}.datadog.{key}" for key in ("query", "api_key", "app_key")]
    )


@pytest.mark.parametrize(
    ("query", "outside"),
    [
        ("x{v=\"{{version}}\", w='{{ pool }}', y=`{{ route }}`}", []),
        ("x_{{ variant }}[{{ interval }}]", []),
        ("x{v={{ version }}}", ["version"]),
        ('x{v="\\"{{ version }}"}', []),
        ('x{v="\\\\"{{ version }}"}', ["version"]),
        ("x{v=`\\`{{ version }}`}", ["version"]),
        ('x{v="\'"} + {{ pool }}', ["pool"]),
        ('x # it\'s\n + {{ route }} + "{{ route }}"', ["route"]),
        ('x # no "end {{ route }}', []),
    ],
)
def test_where_strings_end(query: str, outside: list[str]) -> None:
    assert list(unquoted(query)) == outside


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("x", 0),
        ("x[30s]", 30),
        ("rate(x[1m]) / rate(y[1h30m])", 5400),
        ("max_over_time(x[ 2h : 5m ])", 7200),
        ("x[{{ window }}]", 0),
    ],
)
def test_how_far_a_query_looks_back(query: str, seconds: float) -> None:
    assert longest_range(query) == seconds


def test_secrets_are_not_shown_with_the_configuration() -> None:
    more = "headers: {X-Key: 'hush'}, username: u, password: hush"
    for written in (f"{{prometheus: {{url: 'http://p', query: x, {more}}}, max: 1}}", _DOG.join(("{", ", max: 1}"))):
        shown = repr(config(written))
        assert "hush" not in shown
        assert "k1" not in shown
        assert "k2" not in shown


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (f"{{{_HTTP}, max: 1, failures: 1, on_breach: rollback}}", "routes.shop.metrics.cpu.failures: one measurement beyond the limit rolls back, and no statistics stand behind it; ask for 3 in a row, or let it pause"),
        (f"{{{_HTTP}, max: 1, failures: 1, on_breach: rollback, dry_run: true}}", None),
        (f"{{{_HTTP}, max: 1, failures: 2, on_breach: rollback}}", None),
        (f"{{{_HTTP}, max: 1, failures: 1}}", None),
        ("{prometheus: {url: 'http://p', query: 'rate(x[5m])'}, max: 1}", "routes.shop.metrics.cpu.window: is 30s, and the query looks back on 5m: it counts what was before the step, or the rollout; write window: 5m, or [{{ window }}] in the query"),
        ("{prometheus: {url: 'http://p', query: 'rate(x[5m])'}, max: 1, window: 5m}", None),
        ("{prometheus: {url: 'http://p', query: 'rate(x[{{ window }}])'}, max: 1}", None),
        ("{http: {url: 'http://far.example/x', value: /v, bearer: t}, max: 1}", "routes.shop.metrics.cpu.http.url: sends a password over a connection that anybody can read; use https://"),
        ("{http: {url: 'https://far.example/x', value: /v, bearer: t}, max: 1}", None),
        ("{http: {url: 'http://localhost/x', value: /v, bearer: t}, max: 1}", None),
    ],
)  # fmt: skip
def test_what_would_surprise(written: str, sentence: str | None) -> None:
    assert [str(one) for one in warnings(config(written))] == ([sentence] if sentence else [])


def test_they_are_few_and_have_usable_names() -> None:
    many = ", ".join(f"m{n}: {{{_HTTP}, max: 1}}" for n in range(16))
    text = "pools: {v1: {servers: [http://a]}}\nroutes: {shop: {stable: v1, metrics: {%s}}}\n"
    assert list(parse(text % many, "f", {}).routes["shop"].metrics.outside) == [f"m{n}" for n in range(16)]
    with pytest.raises(ConfigError) as caught:
        parse(text % f"{many}, 'a b': {{{_HTTP}, max: 1}}", "f", {})
    assert [problem.what for problem in caught.value.problems] == [
        "has 17 metrics that others measure",
        "'a b' is not a usable name",
    ]


def test_goals_and_outside_metrics_keep_out_of_each_others_way() -> None:
    found = parse(_ROUTE % f"{{{_HTTP}, max: 1}}, buy: {{goal: posted}}", "f", {}).routes["shop"].metrics
    assert (list(found.goals), list(found.outside)) == (["buy"], ["cpu"])


def test_the_schema_knows_them() -> None:
    definitions: dict[str, Any] = json_schema()["$defs"]
    found = definitions["OutsideMetric"]["properties"]
    assert found["interval"]["default"] == "30s"
    assert {"$ref": "#/$defs/Prometheus"} in found["prometheus"]["anyOf"]
    assert definitions["Datadog"]["required"] == ["query", "api_key", "app_key"]
