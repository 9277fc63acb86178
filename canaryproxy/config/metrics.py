"""Models of what a canary is judged by, one for each metric. Pure; parts of `config.schema`.

A metric that is on by default is turned off with `false`; the others begin to act with `true`, or with their first option. A key
that is no metric's name is one of the user's own: a goal (a business event), told by its `goal`, or a metric that others measure,
told by its provider (`config.outside`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from canaryproxy.config.base import Model, fit_timeout, is_off
from canaryproxy.config.names import PathPrefix, parse_field_name
from canaryproxy.config.outside import (
    OF_A_VARIANT,
    PROVIDERS,
    SCRAPE,
    Asked,
    Datadog,
    HttpJson,
    Limit,
    Number,
    Prometheus,
    texts,
    variables,
)
from canaryproxy.config.quantities import Duration, Percent, Points, SectionError

#: How a goal is written that no request stands for: it is told to the admin API.
POSTED = "posted"
_ON = frozenset({"true", "yes", "on"})


class OnBreach(StrEnum):
    """What a proven breach does to the rollout."""

    ROLLBACK = "rollback"
    PAUSE = "pause"
    WARN = "warn"


def _is_on(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() in _ON)


def _on_or_false(value: Any) -> Any:
    # an empty section means its defaults, and the default of these is to be on
    return None if is_off(value) else {} if value is None or _is_on(value) else value


def _off_until_set(value: Any) -> Any:
    return None if is_off(value) else {} if _is_on(value) else value


def _never_off(value: Any) -> Any:
    if is_off(value):
        raise ValueError(
            "errors are always judged: without them nothing stops a broken canary; write dry_run: true to be told only"
        )
    return {} if _is_on(value) else value


def _write_switch(schema: dict[str, Any]) -> None:
    """In the JSON Schema: `false` is how people write that a metric is off, `true` that it has its defaults."""
    schema["anyOf"] = [{"type": "boolean"} if kind == {"type": "null"} else kind for kind in schema["anyOf"]]
    if schema.get("default", ...) is None:
        schema["default"] = False


OnOrFalse = BeforeValidator(_on_or_false)
OffUntilSet = BeforeValidator(_off_until_set)


class Metric(Model):
    """What every metric has."""

    on_breach: OnBreach = Field(OnBreach.ROLLBACK, description="what a proven breach does: rollback, pause or warn")
    dry_run: bool = Field(False, description="true: only say what would have been done")


class ErrorRate(Metric):
    """5xx, connect failures, resets, timeouts and requests without an answer, against stable."""

    max_increase: Points = Field(0.01, gt=0, description="over stable's share of failed requests")
    strict_margin: bool = Field(False, description="true: roll back only once more than max_increase is proven, not just harm")


class LatencyP95(Metric):
    """95th percentile of the time to the whole response, against stable; to its head where it goes on for over 5 s."""

    max_increase: Duration = Field(0.05, gt=0, le=10, description="over stable's")


class LatencyP50(Metric):
    """The same for the median."""

    max_increase: Duration = Field(0.025, gt=0, le=10, description="over stable's")


class LatencyP99(Metric):
    """The same for the 99th percentile."""

    max_increase: Duration = Field(0.1, gt=0, le=10, description="over stable's")


class Stalls(Metric):
    """Requests that take many times longer than usual, or never end, against stable."""

    max_increase: Points = Field(0.01, gt=0, description="over stable's share of stalled requests")


class Throughput(Metric):
    """The canary's share of the requests, against what its users sent before."""

    max_drop: Percent = Field(2_000, gt=0, lt=10_000, description="below the canary's expected requests")


class ClientErrors(Metric):
    """4xx other than 429, against stable."""

    max_increase: Points = Field(0.02, gt=0, description="over stable's share of refused requests")
    on_breach: OnBreach = Field(OnBreach.PAUSE, description="what a proven breach does: rollback, pause or warn")


class ResponseSize(Metric):
    """2xx with far less in them than stable's for the same kind of request; empty ones most of all."""

    max_increase: Points = Field(0.02, gt=0, description="over stable's share of short responses")
    on_breach: OnBreach = Field(OnBreach.PAUSE, description="what a proven breach does: rollback, pause or warn")


class SuccessFloor(Metric):
    """The canary's share of requests that do not fail, whatever stable does."""

    min: Percent = Field(9_900, gt=0, lt=10_000, description="at least this share")
    on_breach: OnBreach = Field(OnBreach.PAUSE, description="what a proven breach does: rollback, pause or warn")


def _parse_method(value: Any) -> Any:
    return parse_field_name(value.strip().upper()) if isinstance(value, str) else value


def _parse_status(value: Any) -> Any:
    text = str(value).strip().lower()
    if not re.fullmatch(r"[1-5](xx|[0-9]{2})", text):
        raise ValueError(f"{value!r} is neither a status code nor a class of them; write for example 201 or 2xx")
    return text


#: A method in capitals, as requests have it.
Method = Annotated[str, BeforeValidator(_parse_method), WithJsonSchema({"type": "string", "examples": ["POST"]})]
#: `201`, or `2xx` for a whole class.
Status = Annotated[
    str, BeforeValidator(_parse_status), WithJsonSchema({"type": "string", "pattern": r"^[1-5]([xX]{2}|\d\d)$|\$\{"})
]


class Goal(Model):
    """The requests that are the event: the first of a user within 60 s counts."""

    method: Method = Field("POST", description="of the request")
    path: PathPrefix = Field(description="of the request, without its query; with / at the end: and all below it")
    status: Status = Field("2xx", description="of the answer: 201, or 2xx for all of them")


def _posted(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() == POSTED:
        return None
    if value is None or isinstance(value, str):
        written = "is empty" if value is None else f"{value!r} is no goal"
        raise ValueError(f"{written}; write {{method: POST, path: /checkout}}, or {POSTED} for one that is told to the admin API")
    return value


def _write_posted(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"const": POSTED} if kind == {"type": "null"} else kind for kind in schema["anyOf"]]


class GoalMetric(Metric):
    """A business event, counted for each user: conversions of the canary's users against those of the others."""

    goal: Annotated[Goal | None, BeforeValidator(_posted)] = Field(
        description=f"its requests: {{method, path, status}}; or {POSTED}", json_schema_extra=_write_posted
    )
    max_drop: Percent = Field(500, gt=0, lt=10_000, description="below what is expected of the canary's users")


class OutsideMetric(Metric):
    """A number that somebody else measures, about each variant or about all of it, and how far it may go."""

    prometheus: Prometheus | None = Field(None, description="the query, and where: {url, query}")
    datadog: Datadog | None = Field(None, description="the query and the keys: {query, api_key, app_key}")
    http: HttpJson | None = Field(None, description="any JSON document: {url, value}")
    max_increase: Limit | None = Field(None, description="the canary's over stable's: 20% of stable's, or a number")
    max_drop: Limit | None = Field(None, description="the canary's below stable's: 10% of stable's, or a number")
    min: Number | None = Field(None, description="at least this, whatever stable has")
    max: Number | None = Field(None, description="at most this, whatever stable has")
    interval: Duration = Field(30, ge=1, description="between two measurements")
    timeout: Duration = Field(5, gt=0, description="of a question, from the connection to the whole answer")
    failures: int = Field(3, ge=1, description="measurements in a row beyond a limit that act: 3 means the third one")
    successes: int = Field(3, ge=1, description="good measurements that each step needs, the last one among them")
    window: Annotated[Duration, Field(ge=0)] | None = Field(
        None, description="what the query looks back on; it lies within a step to count for it; none: the interval"
    )
    max_age: Annotated[Duration, Field(gt=0)] | None = Field(
        None, description="an older measurement says nothing; none: two intervals and a minute"
    )
    required: bool = Field(True, description="false: a step does not wait for it")
    on_breach: OnBreach = Field(OnBreach.PAUSE, description="what a breach does: rollback, pause or warn")

    _timeout = model_validator(mode="after")(fit_timeout)

    @model_validator(mode="after")
    def _is_whole(self) -> OutsideMetric:
        named = [name for name in PROVIDERS if getattr(self, name) is not None]
        if len(named) != 1:
            raise SectionError(f"needs one provider and has {' and '.join(named) or 'none'}; keep one of {', '.join(PROVIDERS)}")
        limits = (self.max_increase, self.max_drop, self.min, self.max)
        if all(limit is None for limit in limits):
            raise SectionError("has no limit; write max_increase or max_drop (against stable), min or max")
        if self.compares and not self.of_a_variant:
            what = "compares the canary with stable, but is the same for both"
            raise SectionError(f"{what}; write {{{{ variant }}}}, {{{{ version }}}} or {{{{ pool }}}} in it, or use min and max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise SectionError(f"wants at least {self.min:g} and at most {self.max:g}; swap min and max")
        return self

    @property
    def provider(self) -> str:
        """The key of its one provider."""
        return next(name for name in PROVIDERS if getattr(self, name) is not None)

    @property
    def asked(self) -> Asked:
        """The settings of its one provider."""
        asked: Asked = getattr(self, self.provider)
        return asked

    @property
    def of_a_variant(self) -> bool:
        """Whether it is about stable or the canary, and not about both at once."""
        return any(OF_A_VARIANT.intersection(variables(text)) for text in texts(self.asked))

    @property
    def compares(self) -> bool:
        """Whether stable's value is needed."""
        return self.max_increase is not None or self.max_drop is not None

    @property
    def looks_back(self) -> float:
        """Seconds before a measurement that are in it."""
        return self.interval if self.window is None else self.window

    @property
    def fresh_for(self) -> float:
        """Seconds after which a measurement says nothing any more."""
        return 2 * self.interval + SCRAPE if self.max_age is None else self.max_age


#: How the two kinds of metrics of the user's own are called in a place (`config.explain` leaves it out).
OWN_KINDS: dict[str, type[Metric]] = {"[goal]": GoalMetric, "[outside]": OutsideMetric}


def _own_kind(value: Any) -> str | None:
    if isinstance(value, GoalMetric) or (isinstance(value, dict) and "goal" in value):
        return "[goal]"
    outside = isinstance(value, OutsideMetric) or (isinstance(value, dict) and not value.keys().isdisjoint(PROVIDERS))
    return "[outside]" if outside else None


def _own_metric(value: Any) -> Any:
    if _own_kind(value) is None:
        raise PydanticCustomError("no_metric", "neither a metric nor a goal")
    return value


#: A metric under a name of the user's own.
OwnMetric = Annotated[
    Annotated[GoalMetric, Tag("[goal]")] | Annotated[OutsideMetric, Tag("[outside]")],
    Discriminator(_own_kind),
    BeforeValidator(_own_metric),
]


class Metrics(Model):
    """What the canary is judged by: the metrics, and beside them those of the user's own by their own names."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, OwnMetric]
    others: ClassVar[type[Model]] = GoalMetric

    error_rate: Annotated[ErrorRate, BeforeValidator(_never_off)] = ErrorRate()
    latency_p95: Annotated[LatencyP95 | None, OnOrFalse] = Field(LatencyP95(), json_schema_extra=_write_switch)
    latency_p50: Annotated[LatencyP50 | None, OffUntilSet] = Field(None, json_schema_extra=_write_switch)
    latency_p99: Annotated[LatencyP99 | None, OffUntilSet] = Field(None, json_schema_extra=_write_switch)
    stalls: Annotated[Stalls | None, OnOrFalse] = Field(Stalls(), json_schema_extra=_write_switch)
    throughput: Annotated[Throughput | None, OnOrFalse] = Field(Throughput(), json_schema_extra=_write_switch)
    client_errors: Annotated[ClientErrors | None, OnOrFalse] = Field(ClientErrors(), json_schema_extra=_write_switch)
    response_size: Annotated[ResponseSize | None, OnOrFalse] = Field(ResponseSize(), json_schema_extra=_write_switch)
    success_floor: Annotated[SuccessFloor | None, OffUntilSet] = Field(None, json_schema_extra=_write_switch)

    @property
    def goals(self) -> dict[str, GoalMetric]:
        """The goals by name, in the order of the file: everywhere a goal's number is its place in here."""
        return {name: one for name, one in self.__pydantic_extra__.items() if isinstance(one, GoalMetric)}

    @property
    def outside(self) -> dict[str, OutsideMetric]:
        """The metrics that others measure, by name in the order of the file."""
        return {name: one for name, one in self.__pydantic_extra__.items() if isinstance(one, OutsideMetric)}
