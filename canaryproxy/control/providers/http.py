"""Any server that answers with JSON: the number at a JSON pointer (RFC 6901)."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from canaryproxy.config.outside import HttpJson, filled
from canaryproxy.control.providers.answer import NoAnswerError, Question, Sample, number, shown
from canaryproxy.control.providers.fetch import Fetch, place
from canaryproxy.control.providers.prometheus import headers_of


def at_pointer(document: Any, pointer: str) -> Any:
    """What the document has at a JSON pointer; raises NoAnswerError that says how far it leads."""
    for done, token in enumerate(tokens := pointer.split("/")[1:]):
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and key in document:
            document = document[key]
        elif isinstance(document, list) and key.isascii() and key.isdigit() and str(int(key)) == key and int(key) < len(document):
            document = document[int(key)]
        else:
            at = "/" + "/".join(tokens[:done]) if done else "the whole"
            raise NoAnswerError(f"no data: there is no {key!r} in {at}, which is {shown(document)}")
    return document


def time_of(value: Any) -> float:
    """Wall seconds of Unix seconds, or of a time as RFC 3339 writes it; raises NoAnswerError."""
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            raise NoAnswerError(f"its time is {shown(value)}, which is no time") from None
        if when.tzinfo is None:
            raise NoAnswerError(f"its time is {shown(value)}, without a time zone; write Z or +00:00 behind it")
        return when.timestamp()
    return number(value, "its time")


class HttpProvider:
    """A document of one server."""

    def __init__(self, asked: HttpJson, fetch: Fetch) -> None:
        self._asked, self._fetch = asked, fetch

    async def ask(self, question: Question) -> Sample:
        """The number in the document; raises NoAnswerError."""
        asked = self._asked
        values = question.values | {"interval": f"{question.seconds:.0f}", "window": f"{question.look_back:.0f}"}
        url = filled(asked.url, {name: quote(value, safe="") for name, value in values.items()})
        keys = {name: value.replace("~", "~0").replace("/", "~1") for name, value in values.items()}
        status, document = await self._fetch.json(url, headers_of(asked))
        if status != 200:
            raise NoAnswerError(f"{place(url)} answers {status}: {self._fetch.words(str(document))}")
        pointer = filled(asked.value, keys)
        value = number(at_pointer(document, pointer), f"what is at {pointer or 'the root'}")
        at = question.now if asked.time is None else time_of(at_pointer(document, filled(asked.time, keys)))
        return Sample(value, at)
