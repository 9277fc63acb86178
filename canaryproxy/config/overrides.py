"""Models of who gets one of the versions whatever the weight says: testers, beta users, groups of an A/B test.

Pure; a part of `config.schema`. What they do is in `routing.override`; the rules between them are in `config.check_overrides`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr

from canaryproxy.config.base import FileName, Model, OrFalse
from canaryproxy.config.names import FieldName, Network

#: Characters of a secret at least: 64 bits, if they are hexadecimal digits drawn at random.
_SHORTEST_SECRET = 16
#: What a cookie's value may have (RFC 6265 section 4.1.1), so that a secret fits into header and cookie alike.
_is_cookie_value = re.compile(r"[!#-+\--:<-\[\]-~]+").fullmatch


def _parse_secret(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text and len(text) < _SHORTEST_SECRET:
        hint = f"write at least {_SHORTEST_SECRET}, for example from: openssl rand -hex 16"
        raise ValueError(f"has {len(text)} characters, which can be guessed; {hint}")
    if text and not _is_cookie_value(text):
        raise ValueError("has a character that a cookie cannot have; use letters and digits")
    return text


Secret = Annotated[SecretStr, Field(min_length=1), BeforeValidator(_parse_secret)]


class OverrideHeader(Model):
    """A header that says `always` (canary) or `never` (stable). It is never sent on."""

    name: FieldName = Field("X-Canary", description="a header; its value is always:SECRET or never:SECRET")
    secret: Secret | None = Field(None, description="what makes it count; none: it counts from trusted networks only")


class OverrideCookie(Model):
    """A cookie that says the same."""

    name: FieldName = Field("canary", description="a cookie; its value is always:SECRET or never:SECRET")
    secret: Secret | None = Field(None, description="what makes it count; none: it counts from trusted networks only")


class Condition(Model):
    """What a header or cookie must have; exactly one of the three."""

    name: FieldName = Field(description="of the header or cookie")
    equals: str | None = Field(None, description="the whole value")
    prefix: str | None = Field(None, min_length=1, description="its beginning")
    regex: str | None = Field(None, min_length=1, max_length=200, description="a regular expression for the whole value")


class MatchRule(Model):
    """Requests that go to the canary: one condition, on a header or on a cookie."""

    header: Condition | None = Field(None, description="{name, and one of equals, prefix, regex}")
    cookie: Condition | None = Field(None, description="{name, and one of equals, prefix, regex}")


class Overrides(Model):
    """Who gets one of the versions whatever the weight says, in this order; they are never judged."""

    header: Annotated[OverrideHeader | None, OrFalse] = Field(
        None, description="a header that says always or never; absent: none"
    )
    cookie: Annotated[OverrideCookie | None, OrFalse] = Field(None, description="a cookie that says so; absent: none")
    trusted: tuple[Network, ...] = Field((), description="networks of clients whose header and cookie count without the secret")
    users_file: FileName | None = Field(None, description="users who get the canary, one key a line; read again when it changes")
    match: tuple[MatchRule, ...] = Field((), description="requests that get the canary; anybody can send them")
