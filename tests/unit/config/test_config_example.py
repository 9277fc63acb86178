"""The example says every option and its true default; the files of `config/` load; the schema describes them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from canaryproxy.config.check import warnings
from canaryproxy.config.load import example_text, json_schema, load, parse
from canaryproxy.config.schema import Config, Pool, Route, Step

_CONFIG = Path(__file__).parents[3] / "config"
#: Options that are off by default; the example shows a value to use.
_OFF_BY_DEFAULT = {"via", "routes.shop.affinity.header"}


def all_options_on() -> str:
    return re.sub(r"(?m)^( *)#(?=\S)", r"\1", re.sub(r"(?m)^( *)#(?=  - )", r"\1", example_text()))


def leaves(model: type[BaseModel], data: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every option below a section: its path, and what the data has there (None: nothing)."""
    for name, field in model.model_fields.items():
        below: Any = field.annotation
        value: Any = (data or {}).get(name)
        if name in ("pools", "routes"):
            kind = Pool if name == "pools" else Route
            first = next(iter(value))
            yield from leaves(kind, value[first], f"{name}.{first}.")
        elif isinstance(below, type) and issubclass(below, BaseModel):
            yield from leaves(below, value, f"{place}{name}.")
        else:
            yield place + name, value


def test_the_example_is_valid_and_nothing_about_it_surprises() -> None:
    config = parse(example_text(), "example", {})
    assert warnings(config) == []
    assert config == Config.model_validate(
        {
            "pools": {"v1": {"servers": ["http://127.0.0.1:8001"]}, "v2": {"servers": ["http://127.0.0.1:8002"]}},
            "routes": {"shop": {"stable": "v1", "canary": "v2"}},
        }
    )


def test_every_option_is_in_the_example() -> None:
    shown = yaml.safe_load(all_options_on())
    assert [place for place, value in leaves(Config, shown) if value is None] == []
    assert set(Step.model_fields) == set(shown["routes"]["shop"]["rollout"]["steps"][0])


def test_the_example_shows_true_defaults() -> None:
    shown = parse(all_options_on(), "example", {}).model_dump()
    real = parse(example_text(), "example", {}).model_dump()
    differing = {place for place, value in leaves(Config, shown) if value != dict(leaves(Config, real))[place]}
    assert differing == _OFF_BY_DEFAULT


def test_every_option_has_its_comment() -> None:
    comments = [line for line in example_text().splitlines() if re.match(r" *#?\w+:( |$)", line)]
    bare = {line.split(":")[0].strip(" #") for line in comments if " # " not in line}
    # headings explain themselves, and these are explained at the heading above
    assert bare == {
        "state",
        "pools",
        "v1",
        "v2",
        "routes",
        "shop",
        "match",
        "rollout",
        "timeouts",
        "limits",
        "servers",
        "max_increase",
    }


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
