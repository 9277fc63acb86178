"""Whatever a server answers and whatever a version is called: a finite number or a sentence, and no way out of a string."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.config.outside import Datadog, HttpJson, Prometheus, filled, unquoted
from canaryproxy.control.providers import NoAnswerError, Provider, Question, Sample
from canaryproxy.control.providers.datadog import DatadogProvider, as_tag
from canaryproxy.control.providers.fetch import Fetch
from canaryproxy.control.providers.http import HttpProvider, at_pointer
from canaryproxy.control.providers.prometheus import PrometheusProvider, escaped

NOW = 1_700_000_000.0
VALUES = dict.fromkeys(("variant", "pool", "version", "route", "interval", "window"), "v")

_words = st.sampled_from(["success", "ok", "vector", "scalar", "NaN", "1", "-2.5e3", "1_0", "{}", "x"]) | st.text(max_size=5)
_keys = st.sampled_from(
    [
        "status",
        "data",
        "resultType",
        "result",
        "metric",
        "value",
        "warnings",
        "error",
        "errorType",
        "series",
        "pointlist",
        "interval",
        "scope",
        "errors",
        "0",
        "at",
    ]
)
_leaves = st.none() | st.booleans() | st.integers() | st.floats() | _words
_documents = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=5), max_leaves=12
)


class Answers(Fetch):
    """A server that answers with one document."""

    def __init__(self, status: int, document: Any) -> None:
        self._secrets = ()
        self._answer = status, document

    async def json(self, url: str, headers: Mapping[str, str], query: Mapping[str, str] | None = None) -> tuple[int, Any]:
        return self._answer


def _near(kind: str, inner: Any) -> Any:
    """The document as an answer of that kind, with rubbish where the number would be."""
    if kind == "prometheus":
        return {"status": "success", "data": {"resultType": "vector", "result": inner}}
    return {"status": "ok", "series": inner}


def _run(asking: Coroutine[Any, Any, Sample]) -> Sample:
    """What a coroutine returns that never waits: without an event loop, which would take most of the time."""
    try:
        asking.send(None)
    except StopIteration as done:
        found: Sample = done.value
        return found
    raise AssertionError("it waits")


def _outcome(act: Callable[[], Any]) -> Any:
    """What it returns, or the words of its NoAnswerError; any other exception is a defect."""
    try:
        return act()
    except NoAnswerError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(_documents, st.sampled_from([200, 200, 200, 404, 500]), st.booleans())
def test_whatever_comes_is_a_finite_number_or_a_sentence(document: Any, status: int, near: bool) -> None:
    for kind in ("prometheus", "datadog", "http"):
        fetch = Answers(status, _near(kind, document) if near and kind != "http" else document)
        provider: Provider
        if kind == "prometheus":
            provider = PrometheusProvider(Prometheus(url="http://p", query="x"), fetch, 60.0)
        elif kind == "datadog":
            provider = DatadogProvider(Datadog(query="x", api_key="k", app_key="k"), fetch)
        else:
            provider = HttpProvider(HttpJson(url="http://h/", value="/data/value", time="/at"), fetch)
        asking = provider.ask(Question(VALUES, NOW, 30.0, 30.0, 60.0))
        found = _outcome(partial(_run, asking))
        if isinstance(found, Sample):
            assert math.isfinite(found.value)
            assert math.isfinite(found.at)
        else:
            assert 0 < len(found) < 1000


@given(st.text(), st.sampled_from("\"'"))
def test_a_value_in_a_string_of_promql_reads_back_as_itself(value: str, quote: str) -> None:
    inside = escaped(value)
    assert quote not in inside
    assert "\n" not in inside
    assert re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), inside) == value
    # a variable after it still stands where it stood
    query = filled('x{v="{{ version }}"} {{ pool }}', {"version": inside, "pool": "{{ pool }}"})
    assert list(unquoted(query)) == ["pool"]


@given(st.text())
def test_a_value_in_a_tag_of_datadog_ends_nothing(value: str) -> None:
    assert not set(as_tag(value)) & set("{},()!*'\" \n")


@given(_documents, st.lists(st.text(max_size=3), max_size=3))
def test_a_pointer_leads_somewhere_or_says_how_far(document: Any, keys: list[str]) -> None:
    pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
    found = _outcome(lambda: (at_pointer(document, pointer),))
    if isinstance(found, str):
        assert found.startswith("no data: there is no ")
    else:
        for key in keys:
            document = document[int(key)] if isinstance(document, list) else document[key]
        assert found[0] is document
