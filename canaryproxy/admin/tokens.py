"""The tokens of the admin API: whose a request's is, and what it is good for. Used by `admin.guard`.

Only digests are kept, and all of them are compared each time, so neither a core dump nor the time of an answer tells a token.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import NamedTuple

from canaryproxy.admin.auth import bearer, load_token
from canaryproxy.config.operators import OPERATOR, Role
from canaryproxy.config.schema import Admin
from canaryproxy.errors import StartError


class Holder(NamedTuple):
    """Who has a token."""

    name: str
    role: Role


class Tokens:
    """Every token, by its digest."""

    def __init__(self, tokens: Iterable[tuple[Holder, str]]) -> None:
        self._holders = [(_digest(token), holder) for holder, token in tokens]

    def holder(self, authorization: str) -> Holder | None:
        """Who has the token in this Authorization field; the same time for every wrong one."""
        given = _digest(bearer(authorization))
        found = None
        for digest, holder in self._holders:
            if hmac.compare_digest(digest, given):
                found = holder
        return found


def operator_only(token: str) -> Tokens:
    """The operator's token alone."""
    return Tokens([(Holder(OPERATOR, Role.OPERATE), token)])


def load_tokens(admin: Admin) -> Tokens:
    """The tokens in the files of this section, which are made where they are missing.

    Raises StartError as `load_token` does, and for two names with one token: the log could not tell who it was.
    """
    places = {OPERATOR: (admin.token_file, Role.OPERATE)}
    places |= {name: (token.file, token.role) for name, token in admin.tokens.items()}
    owner: dict[str, str] = {}
    tokens = []
    for name, (file, role) in places.items():
        token = load_token(file)
        if token in owner:
            raise StartError(f"token file {file}", f"is the token of {owner[token]}", "remove it, and a new token is made")
        owner[token] = name
        tokens.append((Holder(name, role), token))
    return Tokens(tokens)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
