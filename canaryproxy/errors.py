"""Errors that reach people: one line each, `where: what is wrong; what to do`.

Pure. Raised by configuration, rollout, store and control; shown by the CLI, the admin API and the log. In the data plane a
failure is a value, not an exception (`http1.head.MessageError`, `proxy.exchange.Outcome`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def one_line(text: str) -> str:
    """A text from outside, to be logged, stored and shown: on one line, without what steers a terminal or is no character."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where (a path or place), what is wrong, and what to do about it ('' when obvious)."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.hint}" if self.hint else ""
        return f"{place}{self.what}{advice}"


class CanaryproxyError(Exception):
    """Base of all errors that are meant for people. `code` is a stable word for programs."""

    code = "error"

    def __init__(self, where: str, what: str, hint: str = "") -> None:
        self.problem = Problem(where, what, hint)
        super().__init__(str(self.problem))


class ConfigError(CanaryproxyError):
    """A configuration that cannot be used; carries every problem that was found, not only the first."""

    code = "invalid_config"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        Exception.__init__(self, "\n".join(map(str, self.problems)))
        self.problem = self.problems[0]


class IllegalTransitionError(CanaryproxyError):
    """A verb that the rollout's phase does not allow; nothing was changed."""

    code = "illegal_transition"


class NotFoundError(CanaryproxyError):
    """A route or pool of that name does not exist."""

    code = "not_found"


class StoreError(CanaryproxyError):
    """The store could not read or write; what was in it is untouched."""

    code = "store"


class StartError(CanaryproxyError):
    """The proxy cannot start (port taken, file not readable, no such user)."""

    code = "start"
