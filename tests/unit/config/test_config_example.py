"""The example says every option and its true default; the files of `config/` load; the schema describes them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_files import all_options_on, write_files

from canaryproxy.config.base import Model
from canaryproxy.config.check import warnings
from canaryproxy.config.explain import value_at
from canaryproxy.config.hooks import Hook
from canaryproxy.config.listening import Sni
from canaryproxy.config.load import example_text, json_schema, load, parse
from canaryproxy.config.metrics import Goal, GoalMetric, OutsideMetric
from canaryproxy.config.outside import Datadog, HttpJson, Prometheus
from canaryproxy.config.overrides import Condition, MatchRule
from canaryproxy.config.schema import Config, Step

_CONFIG = Path(__file__).parents[3] / "config"
#: Options without a default, or off by default; the example shows a value to use.
_EXAMPLES = {
    *("pools.v1.servers", "routes.shop.stable", "routes.shop.canary", "via", "routes.shop.affinity.header"),
    *("tls.certificate", "tls.key", "tls.sni", "tls.client_ca", "proxy_protocol.from"),
    *("routes.shop.hooks", "admin.tokens.ci.file"),
    *(f"routes.shop.overrides.{name}" for name in ("header.secret", "cookie.secret", "users_file", "match")),
    *("pools.v1.tls.ca", "pools.v1.tls.certificate", "pools.v1.tls.key", "pools.v1.health.path"),
}


@pytest.fixture(scope="module")
def all_on(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The example with every option on."""
    folder = tmp_path_factory.mktemp("example")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return parse(all_options_on(), "example", {})


def leaves(section: Model, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every option below a section, and of the first pool and route: its path, value and default."""
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if isinstance(value, dict):
            first = next(iter(value))
            yield from leaves(value[first], f"{place}{key}.{first}.")
        elif isinstance(value, Model):
            yield from leaves(value, f"{place}{key}.")
        else:
            yield place + key, value, field.default


def test_the_example_is_valid_and_nothing_about_it_surprises() -> None:
    config = parse(example_text(), "example", {})
    assert warnings(config) == []
    assert config == Config.model_validate(
        {
            "pools": {"v1": {"servers": ["http://127.0.0.1:8001"]}, "v2": {"servers": ["http://127.0.0.1:8002"]}},
            "routes": {"shop": {"stable": "v1", "canary": "v2"}},
        }
    )


def test_every_option_is_in_the_example(all_on: Config) -> None:
    shown = yaml.safe_load(all_options_on())
    assert [place for place, _, _ in leaves(all_on) if value_at(shown, place.split(".")) is None] == []
    assert set(Step.model_fields) == set(shown["routes"]["shop"]["rollout"]["steps"][0])
    assert set(GoalMetric.model_fields) == set(shown["routes"]["shop"]["metrics"]["checkout"])
    assert set(Goal.model_fields) == set(shown["routes"]["shop"]["metrics"]["checkout"]["goal"])
    assert set(Hook.model_fields) == {key for hook in shown["routes"]["shop"]["hooks"] for key in hook}
    rules = shown["routes"]["shop"]["overrides"]["match"]
    assert set(MatchRule.model_fields) == {kind for rule in rules for kind in rule}
    assert set(Condition.model_fields) == {key for rule in rules for condition in rule.values() for key in condition}
    metrics = shown["routes"]["shop"]["metrics"]
    assert set(OutsideMetric.model_fields) - set(metrics["cpu"]) == {"datadog", "http"}
    assert set(Prometheus.model_fields) - set(metrics["cpu"]["prometheus"]) == {"bearer"}, "which stands there, commented out"
    assert set(Datadog.model_fields) == set(metrics["orders"]["datadog"])
    assert set(HttpJson.model_fields) - set(Prometheus.model_fields) | {"url"} == set(metrics["apdex"]["http"])
    assert set(Sni.model_fields) == set(shown["tls"]["sni"][0])


def test_the_example_shows_true_defaults(all_on: Config) -> None:
    assert {place for place, value, default in leaves(all_on) if value != default} == _EXAMPLES
    shown = all_on.routes["shop"].metrics.goals["checkout"]
    assert shown == GoalMetric.model_validate({"goal": {"path": "/checkout"}})
    without = {"name", "headers", "metadata"}
    for hook in all_on.routes["shop"].hooks:
        plain = Hook.model_validate({"type": hook.type, "url": hook.url})
        assert hook.model_dump(exclude=without) == plain.model_dump(exclude=without)
    cpu = all_on.routes["shop"].metrics.outside["cpu"]
    limits = {"max_increase": "20%", "max_drop": "50%", "min": "0.01", "max": "4"}
    bare = OutsideMetric.model_validate({"prometheus": cpu.prometheus, **limits})
    assert cpu == bare.model_copy(update={"window": bare.looks_back, "max_age": bare.fresh_for})


def test_every_option_has_its_comment() -> None:
    comments = [line for line in example_text().splitlines() if re.match(r" *#?\w+:( |$)", line)]
    bare = {line.split(":")[0].strip(" #") for line in comments if " # " not in line}
    # headings explain themselves, and these are explained at the heading above
    headings = {"state", "pools", "v1", "v2", "routes", "shop", "match", "rollout", "timeouts", "limits"}
    assert bare == headings | {"servers", "listen"}


def test_the_file_in_config_is_what_init_writes() -> None:
    assert (_CONFIG / "canaryproxy.yaml").read_text(encoding="utf-8") == example_text()


def test_the_minimal_file_means_the_same_as_the_example() -> None:
    assert load(_CONFIG / "minimal.yaml", {}) == parse(example_text(), "example", {})


def test_the_schema_has_quantities_as_text() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert schema["required"] == ["pools", "routes"]
    assert schema["additionalProperties"] is False
    assert definitions["Step"]["properties"]["weight"]["type"] == "string"
    assert definitions["Timeouts"]["properties"]["keep_alive"]["default"] == "1m15s"
    assert definitions["Limits"]["properties"]["head"]["default"] == "32KiB"
    assert definitions["Rollout"]["properties"]["steps"]["default"][0] == {"weight": "1%", "hold": "5m"}


def test_patterns_of_the_schema_accept_what_the_example_shows() -> None:
    definitions, shown = json_schema()["$defs"], yaml.safe_load(all_options_on())
    timeouts = definitions["Timeouts"]["properties"]
    for name, value in shown["timeouts"].items():
        assert re.search(timeouts[name]["pattern"], value)
    weight = definitions["Step"]["properties"]["weight"]["pattern"]
    assert re.search(weight, "12.5%")
    assert re.search(weight, "${WEIGHT}")
    assert not re.search(weight, "5pp")
