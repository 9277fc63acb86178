"""One path of the admin API as data: what serves it, who may ask, and how it is described.

Each module of handlers gives its own (`paths()`); `admin.app` makes the server's routes from them and `admin.openapi` the
document, so that there is no path without a description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from aiohttp.typedefs import Handler

#: A schema as JSON Schema has it, or the name of one of `openapi.SCHEMAS`.
Schema = str | Mapping[str, Any]


class Access(Enum):
    """Who may ask, and how often."""

    #: Everybody.
    OPEN = auto()
    #: Everybody or who has a token, as `admin.read` says.
    READ = auto()
    #: An app that tells something: needs a token that may change; neither limited nor audited.
    FEED = auto()
    #: A token that may change; limited and audited.
    CHANGE = auto()
    #: The same, never limited, and no question is asked that could refuse it.
    ROLLBACK = auto()

    @property
    def changes(self) -> bool:
        """Whether a token that only reads is refused."""
        return self in (Access.FEED, Access.CHANGE, Access.ROLLBACK)

    @property
    def audited(self) -> bool:
        """Whether it is put on record when it is granted."""
        return self in (Access.CHANGE, Access.ROLLBACK)


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: what it means, the schema of its JSON (or its media type and nothing more), and whether it has an ETag."""

    means: str
    schema: Schema | None = None
    media: str = "application/json"
    etag: bool = False


@dataclass(frozen=True, slots=True)
class Path:
    """`name` is the operation's, for generated clients; `query` has a schema for each parameter, others are refused.

    `body` is the schema of the JSON in the request, `body_needed` whether there must be one. `errors` are the statuses of its
    refusals beside those that follow from `access`, `body` and the pattern.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    name: str
    summary: str
    answers: Mapping[int, Answer]
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    body: Schema | None = None
    body_needed: bool = False
    errors: tuple[int, ...] = ()
    if_match: bool = False
    if_none_match: bool = False
    description: str = ""
