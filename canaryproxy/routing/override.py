"""Which version a request gets whatever the weight says: by a header, a cookie, the list of beta users, or what it matches.

Pure; asked by `proxy.overrides`, which remembers what follows from a header block. In that order; what says nothing is passed
over. Whom a rule concerns is no random sample of the users, so such a request is never judged, on either side.

The words are those of ingress-nginx's canary annotations (`always`, `never`, anything else is ignored; header before cookie
before weight), with a secret behind them: `always:SECRET`. The word alone counts from trusted networks only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final, NamedTuple

from canaryproxy.config import overrides as config
from canaryproxy.routing.identity import Fields
from canaryproxy.routing.split import OVERRIDES, choose_variant

_WORDS: Final = {b"always": 1, b"never": 0}
#: Bytes of a value that a regular expression is tried on. With at most two repeats in it (`config.check_overrides`) that takes
#: some hundred microseconds at worst; a longer value matches none.
MOST_MATCHED: Final = 256


class Wish(NamedTuple):
    """What is asked of the split: `variant` 1 (canary) or 0 (stable), `by` whom, for the log.

    `always`: in force also while the canary may have no users, as after a rollback.
    """

    variant: int
    by: bytes
    always: bool


def is_granted(wish: Wish, word: int) -> bool:
    """Whether this wish is in force under this split word."""
    return wish.always or bool(word & OVERRIDES)


def grant(wish: Wish, word: int) -> int:
    """The variant of a request with this wish; one that is not in force is nobody's to the split, too."""
    return wish.variant if is_granted(wish, word) else choose_variant(word, None)


#: What the list of beta users and the match rules ask for.
LISTED: Final = Wish(1, b"users", False)
MATCHED: Final = Wish(1, b"match", False)


class Saying(NamedTuple):
    """A header (its name in lower case) or cookie that says `always` or `never`."""

    name: bytes
    secret: bytes | None

    def read(self, value: bytes | None, *, trusted: bool) -> int | None:
        """The variant that this value asks for, if it may; a wrong secret, or any other value, is no value."""
        if value is None:
            return None
        word, colon, given = value.partition(b":")
        proven = self.secret is not None and compare_digest(given.strip(), self.secret)
        allowed = proven if colon else trusted
        return _WORDS.get(word.strip().lower()) if allowed else None


class Rule(NamedTuple):
    """A condition on a header (its name in lower case) or a cookie."""

    in_cookie: bool
    name: bytes
    accepts: Callable[[bytes], object]

    def matches(self, block: Fields) -> bool:
        """Whether a request with this header block is meant."""
        value = block.cookie(self.name) if self.in_cookie else block.get(self.name)
        return value is not None and bool(self.accepts(value))


@dataclass(frozen=True, slots=True, eq=False)
class Overrides:
    """The rules of one route, but for the list of users."""

    header: Saying | None
    cookie: Saying | None
    match: tuple[Rule, ...]

    def read(self, block: Fields, *, trusted: bool) -> tuple[Wish | None, Wish | None]:
        """What this header block asks for by header or cookie, and what by match: the list of users comes between.

        `trusted`: it comes from a network whose word counts without the secret.
        """
        asked = None
        for saying, by in ((self.header, b"header"), (self.cookie, b"cookie")):
            if saying is not None and asked is None:
                value = block.get(saying.name) if by == b"header" else block.cookie(saying.name)
                variant = saying.read(value, trusted=trusted)
                asked = None if variant is None else Wish(variant, by, True)
        return asked, MATCHED if any(rule.matches(block) for rule in self.match) else None


def override_rules(settings: config.Overrides) -> Overrides:
    """The rules that a route's configuration describes."""
    header, cookie = settings.header, settings.cookie
    return Overrides(
        header=Saying(header.name.lower().encode(), _secret(header)) if header else None,
        cookie=Saying(cookie.name.encode(), _secret(cookie)) if cookie else None,
        match=tuple(_rule(rule) for rule in settings.match),
    )


def _secret(saying: config.OverrideHeader | config.OverrideCookie) -> bytes | None:
    return saying.secret.get_secret_value().encode() if saying.secret else None


def _rule(rule: config.MatchRule) -> Rule:
    condition = rule.cookie or rule.header
    assert condition is not None, "config.check_overrides has seen to it"
    name = condition.name if rule.cookie else condition.name.lower()
    return Rule(rule.cookie is not None, name.encode(), _test(condition))


def _test(condition: config.Condition) -> Callable[[bytes], object]:
    if condition.equals is not None:
        return condition.equals.encode().__eq__
    if condition.prefix is not None:
        prefix = condition.prefix.encode()
        return lambda value: value.startswith(prefix)
    matches = re.compile((condition.regex or "").encode()).fullmatch
    return lambda value: len(value) <= MOST_MATCHED and matches(value)
