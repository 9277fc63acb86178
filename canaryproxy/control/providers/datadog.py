"""Datadog's metrics: the last whole point of one series.

Source: docs.datadoghq.com/api/latest/metrics/query-timeseries-points (v1). The newest point stands for a stretch of time that has
not ended: a count in it is too small, which looks like a drop (fluxcd/flagger issue 1762). So only points whose stretch is over
are believed.
"""

from __future__ import annotations

import re
from typing import Any

from canaryproxy.config.outside import Datadog, filled
from canaryproxy.control.providers.answer import NoAnswerError, Question, Sample, number, shown
from canaryproxy.control.providers.fetch import Fetch, place

#: Datadog knows tags in lower case, with other characters as underscores (docs.datadoghq.com/getting_started/tagging).
_NO_TAG = re.compile(r"[^a-z0-9_\-:./]")
#: Seconds before now that are asked for at least: a point may stand for a minute, and comes some seconds later.
_LEAST = 300.0


def as_tag(value: str) -> str:
    """The value as Datadog writes it in a tag; nothing in it can end a selector."""
    return _NO_TAG.sub("_", value.lower())[:200]


class DatadogProvider:
    """A query to one organisation."""

    def __init__(self, asked: Datadog, fetch: Fetch) -> None:
        self._asked, self._fetch = asked, fetch

    async def ask(self, question: Question) -> Sample:
        """The number of the last whole point; raises NoAnswerError."""
        url = f"{self._asked.base.rstrip('/')}/api/v1/query"
        values = question.values | {"interval": f"{question.seconds:.0f}", "window": f"{question.look_back:.0f}"}
        query = filled(self._asked.query, {name: as_tag(value) for name, value in values.items()})
        since = question.now - max(question.look_back, question.max_age, _LEAST)
        asked = {"from": f"{since:.0f}", "to": f"{question.now:.0f}", "query": query}
        keys = {"DD-API-KEY": self._asked.api_key, "DD-APPLICATION-KEY": self._asked.app_key}
        status, document = await self._fetch.json(url, keys, asked)
        if status != 200 or not isinstance(document, dict) or document.get("status") != "ok" or document.get("error"):
            raise NoAnswerError(f"{place(url)} answers {status}: {self._complaint(document)}")
        return self._last(document.get("series"), question.now)

    def _complaint(self, document: Any) -> str:
        said = (document.get("error") or document.get("errors")) if isinstance(document, dict) else None
        if not said:
            return f"{shown(document)}, which is no answer of Datadog"
        return self._fetch.words("; ".join(map(str, said)) if isinstance(said, list) else str(said))

    def _last(self, series: Any, now: float) -> Sample:
        if not isinstance(series, list) or not series:
            raise NoAnswerError("no data: the query finds nothing")
        if len(series) > 1:
            found = ", ".join(self._fetch.words(str(one.get("scope"))) for one in series[:2] if isinstance(one, dict))
            raise NoAnswerError(f"the query gives {len(series)} series ({found}, ...) and not one; leave `by` out of it")
        one = series[0] if isinstance(series[0], dict) else {}
        points, stretch = one.get("pointlist"), number(one.get("interval", 0), "the interval of its points")
        if not isinstance(points, list):
            raise NoAnswerError(f"pointlist is {shown(points)}, which is no answer of Datadog")
        for point in reversed(points):
            if not isinstance(point, list) or len(point) != 2:
                raise NoAnswerError(f"a point is {shown(point)}, which is no answer of Datadog")
            at = number(point[0], "the time of a point") / 1000
            if point[1] is not None and at + stretch <= now:
                return Sample(number(point[1], "its value"), at)
        raise NoAnswerError("no data: no point is whole yet")
