"""Models of metrics that others measure: a query to Prometheus or Datadog, a number in a JSON document. Pure; part of `metrics`.

A query may have variables in it (`{{ variant }}`, `VARIABLES`); `control.providers` puts values in their place, spelled so that
none of them can end a string or a selector. One that says which variant it is about is asked for stable and for the canary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from canaryproxy.config.base import FileName, Model
from canaryproxy.config.names import is_host, parse_field_name
from canaryproxy.config.quantities import SectionError, parse_duration

#: The providers, by their keys in a metric.
PROVIDERS = ("prometheus", "datadog", "http")
#: What may stand in a query, and those that make it one about stable or the canary.
VARIABLES = ("variant", "pool", "version", "route", "interval", "window")
OF_A_VARIANT = frozenset({"variant", "pool", "version"})
#: Those that may hold any text: in a query for Prometheus they stand within quotes.
ANY_TEXT = frozenset({"pool", "version", "route"})
#: Seconds that the newest sample of a metric is older than it need be: the usual longest time between two scrapes.
SCRAPE = 60.0

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.]*)\s*\}\}")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_RANGE = re.compile(r"\[\s*((?:\d+(?:ms|s|m|h|d))+)\s*[:\]]")
_POINTER = re.compile(r"(/([^~/]|~[01])*)*")
_HEADER_VALUE = re.compile(r"[!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?")


class Difference(NamedTuple):
    """How far the canary may be from stable: `value` of the metric's own unit or, where it is `relative`, a share of stable's."""

    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.relative else f"{self.value:g}"


def variables(text: str) -> list[str]:
    """The variables in a query, in their order."""
    return _VARIABLE.findall(text)


def filled(text: str, values: dict[str, str]) -> str:
    """The query with values in place of its variables."""
    return _VARIABLE.sub(lambda found: values[found[1]], text)


def unquoted(query: str) -> Iterator[str]:
    """Variables of any text that stand outside of the strings of a PromQL query, where their value would be read as a query.

    Strings are in double or single quotes with escapes, or in backticks without (the language's rules are those of Go).
    """
    quote, at = "", 0
    while at < len(query):
        one = query[at]
        found = _VARIABLE.match(query, at)
        if found:
            if not quote and found[1] in ANY_TEXT:
                yield found[1]
            at = found.end()
            continue
        if quote and one == "\\" and quote != "`":
            at += 1
        elif one == quote:
            quote = ""
        elif not quote and one in "\"'`":
            quote = one
        elif not quote and one == "#":
            at = (query.find("\n", at) + 1 or len(query) + 1) - 1  # a comment, to the line's end
        at += 1


def longest_range(query: str) -> float:
    """Seconds of the longest range in a PromQL query, as far as it can be told from its text: `x[5m]`, `y[1h:1m]`; 0 of none."""
    return max(map(parse_duration, _RANGE.findall(query)), default=0.0)


def _parse_template(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for name in variables(value):
        if name not in VARIABLES:
            raise ValueError(f"there is no variable {name!r}; write {{{{ variant }}}}, or one of {', '.join(VARIABLES)}")
    if "{{" in _VARIABLE.sub("", value):
        raise ValueError("has {{ without a variable's name and }}; write for example {{ variant }}")
    return value


def _parse_promql(value: Any) -> Any:
    if isinstance(_parse_template(value), str):
        for name in unquoted(value):
            raise ValueError(f'{{{{ {name} }}}} stands outside of quotes; write for example {{{name}="{{{{ {name} }}}}"}}')
    return value


def _parse_pointer(value: Any) -> Any:
    if isinstance(_parse_template(value), str) and not _POINTER.fullmatch(_VARIABLE.sub("", value)):
        raise ValueError(f"{value!r} is no JSON pointer; write for example /data/apdex (~1 stands for a / in a key, ~0 for ~)")
    return value


def _parse_url(value: Any) -> Any:
    """A URL to ask; what is wrong is said without showing it, for there may be a password in it."""
    if not isinstance(value, str):
        return value
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a URL; write for example http://prometheus:9090") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a password in the URL, which shows in logs; write it as username and password, or as a header")
    if parts.scheme not in ("http", "https") or not is_host(host):
        raise ValueError("is not a URL of http:// or https:// with a host; write for example http://prometheus:9090")
    if parts.fragment or any(c <= " " or c > "~" for c in _VARIABLE.sub("", value)):
        raise ValueError("has a # or characters that a URL cannot have; percent-encode them")
    return value


def _parse_base(value: Any) -> Any:
    if isinstance(_parse_url(value), str) and ("?" in value or "{{" in value or "/api/v1/" in value):
        raise ValueError("is more than where the server is; write for example http://prometheus:9090, the rest is added to it")
    return value


def _parse_site(value: Any) -> Any:
    if isinstance(value, str) and (not is_host(value) or "." not in value):
        raise ValueError(f"{value!r} is no site of Datadog; write for example datadoghq.com or datadoghq.eu")
    return value


def _parse_header_name(value: Any) -> Any:
    if isinstance(parse_field_name(value), str) and value.lower() in ("host", "content-length", "connection", "accept-encoding"):
        raise ValueError(f"{value!r} is set by the connection itself; leave it out")
    return value


def _parse_secret(value: Any) -> Any:
    if isinstance(value, str) and value and not _HEADER_VALUE.fullmatch(value):
        raise ValueError("has a character that a header cannot have; look for a line end in it")
    return value


def _parse_number(value: Any) -> Any:
    text = str(value).strip()
    if isinstance(value, str) and text.endswith("%"):
        raise ValueError(f"{value!r} is a percentage; here the metric's own number is meant, for example 0.9")
    if isinstance(value, bool) or not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"{value!r} is not a number; write for example 0.9 or 100")
    return float(text)


def parse_difference(value: Any) -> Difference:
    """`20%` of stable's value, or `0.2` of the metric's own unit."""
    if isinstance(value, Difference):
        return value
    text = str(value).strip()
    if isinstance(value, str) and text.endswith("pp"):
        raise ValueError(f"{value!r} is in percentage points; here 20% (of stable's value) or a number is meant")
    relative = text.endswith("%")
    number = text.removesuffix("%").strip()
    if isinstance(value, bool) or not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
        raise ValueError(f"{value!r} is neither a percentage nor a number; write for example 20% (of stable's value) or 0.2")
    if float(number) < 0:
        raise ValueError(f"{value!r} is below 0; write how far the canary may be from stable")
    return Difference(float(number) / 100 if relative else float(number), relative)


_LIMIT = {"type": ["string", "number"], "examples": ["20%", 0.2]}
Limit = Annotated[
    Difference,
    BeforeValidator(parse_difference),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(_LIMIT),
]
Number = Annotated[float, BeforeValidator(_parse_number), WithJsonSchema({"type": ["number", "string"], "examples": [0.9]})]
Promql = Annotated[str, Field(min_length=1), BeforeValidator(_parse_promql)]
Template = Annotated[str, Field(min_length=1), BeforeValidator(_parse_template)]
Pointer = Annotated[str, BeforeValidator(_parse_pointer)]
BaseUrl = Annotated[str, BeforeValidator(_parse_base)]
Secret = Annotated[str, Field(min_length=1), BeforeValidator(_parse_secret)]
Headers = dict[Annotated[str, BeforeValidator(_parse_header_name)], Secret]


class Endpoint(Model):
    """What is the same of every server that is asked."""

    headers: Headers = Field({}, repr=False, description="sent along, for example {X-Scope-OrgID: shop}")
    username: str | None = Field(None, min_length=1, description="for Basic authentication")
    password: str | None = Field(None, min_length=1, repr=False, description="for Basic authentication")
    bearer: Secret | None = Field(None, repr=False, description="a token for Authorization: Bearer")
    ca: FileName | None = Field(None, description="PEM file of the server's authorities; none: those of the system")

    @model_validator(mode="after")
    def _one_way_in(self) -> Endpoint:
        if (self.username is None) != (self.password is None):
            raise SectionError("has only one of username and password; write both")
        if ":" in (self.username or ""):
            raise SectionError(
                "has a : in the username, which Basic authentication (RFC 7617) cannot have; write bearer or a header"
            )
        said = [self.username, self.bearer, next((name for name in self.headers if name.lower() == "authorization"), None)]
        if sum(one is not None for one in said) > 1:
            raise SectionError("authenticates in two ways; keep one of username, bearer and the header Authorization")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        return tuple(one for one in (*self.headers.values(), self.password, self.bearer) if one)


class Prometheus(Endpoint):
    """A query to a server with the Prometheus HTTP API, at this moment."""

    url: BaseUrl = Field(description="where the server is, for example http://prometheus:9090")
    query: Promql = Field(description="PromQL that gives one number")


class Datadog(Model):
    """A query to Datadog's metrics; the last point that is whole."""

    query: Template = Field(description="a metrics query that gives one series")
    site: Annotated[str, BeforeValidator(_parse_site)] = Field("datadoghq.com", description="your site, for example datadoghq.eu")
    api_key: Secret = Field(repr=False, description="DD-API-KEY; write ${DD_API_KEY} to have it from the environment")
    app_key: Secret = Field(repr=False, description="DD-APPLICATION-KEY, with the scope timeseries_query")
    url: BaseUrl | None = Field(None, description="where to ask instead of https://api.SITE")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        return self.api_key, self.app_key

    @property
    def base(self) -> str:
        """Where to ask."""
        return self.url or f"https://api.{self.site}"


class HttpJson(Endpoint):
    """A number in the JSON that any server answers."""

    url: Annotated[Template, BeforeValidator(_parse_url)] = Field(description="asked with GET")
    value: Pointer = Field(description="JSON pointer to the number, for example /data/apdex")
    time: Pointer | None = Field(None, description="JSON pointer to when it was measured: Unix seconds or RFC 3339; none: now")


Asked = Prometheus | Datadog | HttpJson


def texts(asked: Asked) -> tuple[str, ...]:
    """Everything of a provider's settings that may have variables in it."""
    return (asked.url, asked.value, asked.time or "") if isinstance(asked, HttpJson) else (asked.query,)
