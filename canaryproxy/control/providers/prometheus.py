"""Prometheus, and what speaks its HTTP API: one instant query, one number.

Source: prometheus.io/docs/prometheus/latest/querying/api. The time in an answer is that of the evaluation; how old the samples
behind it may be is told to the server (`lookback_delta`, from 2.44 on; others ignore it and look back five minutes).
"""

from __future__ import annotations

import base64
from typing import Any

from canaryproxy.config.outside import Endpoint, Prometheus, filled
from canaryproxy.control.providers.answer import NoAnswerError, Question, Sample, number, number_of_text, shown
from canaryproxy.control.providers.fetch import Fetch, place

#: What could end a string or begin an escape in it: each becomes an escape that holds in both kinds of quotes.
_ESCAPED = {ord(c): f"\\x{ord(c):02x}" for c in "\"'`\\" + "".join(map(chr, range(32))) + "\x7f"}


def escaped(value: str) -> str:
    """The value for a string of PromQL, whichever quotes are around it; in backticks, which know no escapes, it is another."""
    return value.translate(_ESCAPED)


def headers_of(asked: Endpoint) -> dict[str, str]:
    """The headers that an endpoint's settings ask for."""
    headers = dict(asked.headers)
    if asked.bearer is not None:
        headers["Authorization"] = f"Bearer {asked.bearer}"
    if asked.username is not None:
        pair = f"{asked.username}:{asked.password}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    return headers


class PrometheusProvider:
    """A query to one server."""

    def __init__(self, asked: Prometheus, fetch: Fetch, max_age: float) -> None:
        self._asked, self._fetch = asked, fetch
        self._max_age = max_age

    async def ask(self, question: Question) -> Sample:
        """The number that the query gives now; raises NoAnswerError."""
        url = f"{self._asked.url.rstrip('/')}/api/v1/query"
        query = filled(self._asked.query, {name: escaped(value) for name, value in question.values.items()})
        asked = {"query": query, "lookback_delta": f"{self._max_age:g}"}
        status, document = await self._fetch.json(url, headers_of(self._asked), asked)
        if not isinstance(document, dict) or document.get("status") != "success":
            raise NoAnswerError(f"{place(url)} answers {status}: {self._complaint(document)}")
        value, at = self._one(document.get("data"))
        warnings = document.get("warnings") or ()
        said = tuple(self._fetch.words(str(one)) for one in warnings[:5]) if isinstance(warnings, list) else ()
        return Sample(value, at, said)

    def _complaint(self, document: Any) -> str:
        if not isinstance(document, dict) or "error" not in document:
            return f"{shown(document)}, which is no answer of Prometheus"
        return self._fetch.words(f"{document.get('errorType', 'error')}: {document['error']}")

    def _one(self, data: Any) -> tuple[float, float]:
        """The value and its time in a result that has exactly one number."""
        kind, result = (data.get("resultType"), data.get("result")) if isinstance(data, dict) else (None, None)
        if kind == "scalar":
            return _pair(result)
        if kind != "vector" or not isinstance(result, list):
            hint = "; a range needs a function around it, as rate()" if kind == "matrix" else ""
            raise NoAnswerError(f"the query gives a {kind if isinstance(kind, str) else 'thing'} and not one number{hint}")
        if not result:
            raise NoAnswerError("no data: the query finds nothing")
        if len(result) > 1:
            found = ", ".join(self._fetch.words(_labels(one)) for one in result[:2])
            raise NoAnswerError(f"the query gives {len(result)} series ({found}, ...) and not one; put sum() or max() around it")
        if not isinstance(result[0], dict) or "value" not in result[0]:
            raise NoAnswerError("the query gives a histogram and not one number")
        return _pair(result[0]["value"])


def _pair(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise NoAnswerError(f"a sample is {shown(value)}, which is no answer of Prometheus")
    return number_of_text(value[1], "its value"), number(value[0], "its time")


def _labels(series: Any) -> str:
    labels = series.get("metric") if isinstance(series, dict) else None
    return "{" + ", ".join(f"{name}={value}" for name, value in labels.items()) + "}" if isinstance(labels, dict) else "{}"
