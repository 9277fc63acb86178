"""Plain data to a `Config` and all its problems, those between fields included even where single fields are wrong.

Called by `config.load` and `config.overlay`; pure but for the files that the data names. The models of `config.schema` refuse,
`config.explain` finds the words, `config.check` knows the rules between fields, `config.files` looks at the files. So that one
wrong field does not hide what is wrong between others, each refused place is replaced (by its default, or a stand-in where
there is none) and the rules are asked about the rest.
"""

from __future__ import annotations

import copy
from typing import Any

from pydantic import ValidationError

from canaryproxy.config import check, files
from canaryproxy.config.explain import explain, place_of, value_at
from canaryproxy.config.schema import Config
from canaryproxy.config.source import spell
from canaryproxy.errors import Problem

#: A section emptied by a replacement is itself replaced at the next attempt; no section is nested deeper than this.
_ATTEMPTS = 5


def examine(data: Any) -> tuple[Config | None, list[Problem]]:
    """The configuration and its problems, not in file order; `data` is left as it is.

    With problems the configuration has stand-ins in it and must not be used; None where the data is no section at all.
    """
    problems: list[Problem] = []
    replaced: list[str] = []
    for attempt in range(_ATTEMPTS):
        try:
            config = Config.model_validate(data)
        except ValidationError as error:
            if attempt == 0:
                problems, data = explain(error, data), copy.deepcopy(data)
            replaced += _replace(data, [place_of(detail) for detail in error.errors(include_url=False)])
        else:
            return config, problems + check.problems(config, replaced) + files.problems(config, replaced)
    return None, problems


def _replace(data: Any, places: list[tuple[str | int, ...]]) -> list[str]:
    """Make `data` acceptable at `places` (lists go as a whole); the paths that were replaced."""
    replaced = []
    for place in places:
        keys = [str(key) for key in _until_list(place)]
        section = data
        for key in keys[:-1]:
            if isinstance(section, dict) and section.get(key) is None:
                section[key] = {}
            section = value_at(section, [key])
        if keys and isinstance(section, dict):
            section.pop(keys[-1], None)
            section |= _stand_in(keys)
        replaced.append(spell(keys))
    return replaced


def _until_list(place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return next((place[:index] for index, part in enumerate(place) if isinstance(part, int)), place)


def _stand_in(keys: list[str]) -> dict[str, Any]:
    """The entry to put in place of one that has no default; the checks never look at it."""
    match keys:
        case ["pools"]:
            return {"pools": {"unread": {"servers": ["http://unread.invalid"]}}}
        case ["routes"]:
            return {"routes": {"unread": {"stable": "unread"}}}
        case ["pools", _, "servers"]:
            return {"servers": ["http://unread.invalid"]}
        case ["routes", _, "stable"]:
            return {"stable": "unread"}
        case ["tls", ("certificate" | "key") as name]:
            return {name: "unread"}
        case ["proxy_protocol", "from"]:
            return {"from": ["192.0.2.0/24"]}
        case ["pools", _, "health", "path"]:
            return {"path": "/"}
        case ["routes", _, "metrics", _, "goal", "path"]:
            return {"path": "/"}
        case [
            "routes",
            _,
            "metrics",
            _,
            "prometheus" | "datadog" | "http",
            ("url" | "query" | "value" | "api_key" | "app_key") as name,
        ]:
            return {name: "http://unread.invalid" if name == "url" else "/"}
    return {}
