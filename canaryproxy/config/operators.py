"""Who may use the admin API, and how often: tokens beside the operator's, who may read, limits. Pure; part of `schema.Admin`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from canaryproxy.config.base import FileName, Model
from canaryproxy.config.names import Name

#: The name of who has the token of `admin.token_file`, in the decision log.
OPERATOR = "operator"


class Role(StrEnum):
    """What a token is good for."""

    READ = "read"
    OPERATE = "operate"


class Readers(StrEnum):
    """Whether reading needs a token."""

    AUTO = "auto"
    OPEN = "open"
    TOKEN = "token"


class NamedToken(Model):
    """A token of its own for a job, a person or a program."""

    file: FileName = Field(description="created with mode 0600 on first start; for its reader alone")
    role: Role = Field(Role.READ, description="read, or operate: may change too")


class RateLimit(Model):
    """How often one client address may ask. A rollback with a valid token is never limited."""

    failures: int = Field(60, ge=0, description="wrong tokens in a minute, then 429; 0: no limit")
    changes: int = Field(600, ge=0, description="changes in a minute, then 429; 0: no limit")


def _not_the_operator(tokens: dict[str, NamedToken]) -> dict[str, NamedToken]:
    if OPERATOR in tokens:
        raise ValueError(f"{OPERATOR!r} is the name of who has admin.token_file; use another name")
    return tokens


#: Tokens by the name that the decision log shows.
NamedTokens = Annotated[dict[Name, NamedToken], AfterValidator(_not_the_operator)]
