"""The words between a provider and who asks it, and what of an answer is a number."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


class Question(NamedTuple):
    """What is asked: values of the variables (`config.outside.VARIABLES`), and when, in wall seconds.

    `seconds` and `look_back` are the interval and the window as numbers, for languages that have no durations.
    """

    values: dict[str, str]
    now: float
    seconds: float
    look_back: float
    max_age: float


class Sample(NamedTuple):
    """A finite number, and when it was true (wall seconds). `warnings` are for the log."""

    value: float
    at: float
    warnings: tuple[str, ...] = ()


class NoAnswerError(Exception):
    """Why there is no number, as a sentence for people without any secret in it."""


def number(value: Any, what: str) -> float:
    """A finite number of a JSON document; `what` names it. Raises NoAnswerError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoAnswerError(f"{what} is {shown(value)}, which is no number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise NoAnswerError(f"no data: {what} is {found}")
    return found


def number_of_text(text: Any, what: str) -> float:
    """A finite number that a server writes as text, as Prometheus does. Raises NoAnswerError."""
    if not isinstance(text, str):
        raise NoAnswerError(f"{what} is {shown(text)}, which is no number in quotes")
    if text in ("NaN", "+Inf", "-Inf", "Inf"):
        raise NoAnswerError(f"no data: {what} is {text}")
    if not _NUMBER.fullmatch(text):
        raise NoAnswerError(f"{what} is {shown(text)}, which is no number")
    return number(float(text), what)


def shown(value: Any, limit: int = 200) -> str:
    """The beginning of any value, on one line."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value) if isinstance(value, str) else "null" if value is None else str(value).lower()
    return text if len(text) <= limit else f"{text[:limit]}..."
