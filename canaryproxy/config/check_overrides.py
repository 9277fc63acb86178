"""What is wrong between the fields of a route's overrides. Pure; called by `config.check`.

An override decides which version somebody gets. So each of them is either for people who prove that they may (by a secret, a
network, an id on a list), or, as `match` is, openly for anybody.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from canaryproxy.config.check_network import Finding, found
from canaryproxy.config.overrides import Condition, MatchRule, Overrides
from canaryproxy.config.schema import Affinity, Config
from canaryproxy.errors import Problem

#: Headers that are read, cut or written for what they are, and so cannot mean something else.
_TAKEN = frozenset(
    {"accept", "accept-encoding", "authorization", "cache-control", "connection", "content-encoding", "content-length"}
    | {"content-type", "cookie", "date", "expect", "forwarded", "host", "http2-settings", "keep-alive", "origin"}
    | {"proxy-authenticate", "proxy-authorization", "proxy-connection", "range", "referer", "set-cookie", "te", "traceparent"}
    | {
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "x-canary-variant",
        "x-real-ip",
        "x-request-id",
    }
)
_MOST_RULES = 32
#: Repeats in a regular expression: each multiplies the time that a value can cost by its length.
_MOST_REPEATS = 2
_escape_or_class = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_lazy_or_possessive = re.compile(r"(?<=[*+?}])[+?]")
_repeat = re.compile(r"[*+]|\{\d*,?\d*\}")
#: What may be there or not; each doubles the time.
_maybe, _MOST_MAYBES = re.compile(r"(?<!\()\?"), 4
_verbose = re.compile(r"\(\?[a-zA-Z]*x")
_repeated_group = re.compile(r"\)(?:[*+]|\{)")


def _sayings(config: Config) -> Iterator[Finding]:
    for name, route in config.routes.items():
        place, overrides = f"routes.{name}.overrides", route.overrides
        for kind, saying in (("header", overrides.header), ("cookie", overrides.cookie)):
            if saying is not None and saying.secret is None and not overrides.trusted:
                what = f"{saying.name} has no secret and there are no trusted networks: anybody could choose the version"
                yield found(f"{place}.{kind}", what, "set secret, or trusted", f"{place}.trusted")
        if overrides.header is not None:
            yield from _header_name(config, f"{place}.header.name", overrides.header.name, route.affinity)
        if overrides.cookie is not None and overrides.cookie.name == route.affinity.cookie:
            what = f"{overrides.cookie.name!r} is the cookie that says who the user is"
            yield found(f"{place}.cookie.name", what, "use another name", f"routes.{name}.affinity.cookie")
        for index, network in enumerate(overrides.trusted):
            if ipaddress.ip_network(network).prefixlen == 0:
                yield found(f"{place}.trusted[{index}]", f"{network} is everybody", "write the networks of your testers")


def _header_name(config: Config, place: str, header: str, affinity: Affinity) -> Iterator[Finding]:
    name = header.lower()
    if name in _TAKEN or name.startswith("x-forwarded-"):
        yield found(place, f"{header!r} has a meaning of its own", "use a header of its own, for example X-Canary")
    if name == (affinity.header or "").lower():
        yield found(place, f"{header!r} is the header that says who the user is", "use another name")
    if "_" in name and config.underscore_headers != "allow":
        what = f"{header!r} never arrives: underscore_headers is {config.underscore_headers}"
        yield found(place, what, f"use {header.replace('_', '-')}", "underscore_headers")


def _matches(config: Config) -> Iterator[Finding]:
    for name, route in config.routes.items():
        if len(route.overrides.match) > _MOST_RULES:
            what = f"has {len(route.overrides.match)} items, and every request may be compared with all of them"
            yield found(f"routes.{name}.overrides.match", what, f"write at most {_MOST_RULES}")
        for index, rule in enumerate(route.overrides.match):
            yield from _rule(f"routes.{name}.overrides.match[{index}]", rule)


def _rule(place: str, rule: MatchRule) -> Iterator[Finding]:
    kinds = {kind: condition for kind, condition in (("header", rule.header), ("cookie", rule.cookie)) if condition is not None}
    if len(kinds) != 1:
        what = "has a header and a cookie" if kinds else "has neither a header nor a cookie"
        yield found(place, what, "write one condition in each item; any of the items is enough")
    for kind, condition in kinds.items():
        yield from _condition(f"{place}.{kind}", condition)


def _condition(place: str, condition: Condition) -> Iterator[Finding]:
    tests = [name for name in ("equals", "prefix", "regex") if getattr(condition, name) is not None]
    if len(tests) != 1:
        what = f"has {' and '.join(tests)}" if tests else f"does not say what {condition.name} must be"
        yield found(place, what, "write one of equals, prefix, regex")
    if condition.regex is not None:
        yield from _regex(f"{place}.regex", condition.regex)


def _regex(place: str, regex: str) -> Iterator[Finding]:
    """A regular expression is tried on what anybody sends: none may take long, whatever that is."""
    try:
        re.compile(regex.encode())
    except (re.error, OverflowError, RecursionError) as error:
        yield found(place, f"{regex!r} is no regular expression ({error})", "write one as Python's re has them")
        return
    plain = _lazy_or_possessive.sub("", _escape_or_class.sub("x", regex))
    if _verbose.search(plain):
        yield found(place, f"{regex!r} has the flag x: a repeat need not stand behind what it repeats", "write it without")
        return
    if _repeated_group.search(plain):
        what = f"{regex!r} repeats a group, which can take for ever on a value that almost matches"
        yield found(place, what, "write it without, or use prefix")
    elif len(_repeat.findall(plain)) > _MOST_REPEATS:
        what = f"{regex!r} has more than {_MOST_REPEATS} repeats (* + {{n}}), which can take long on a value that almost matches"
        yield found(place, what, "write it with fewer, or as several items")
    elif len(_maybe.findall(plain)) > _MOST_MAYBES:
        what = f"{regex!r} has more than {_MOST_MAYBES} ? in it, which can take long on a value that almost matches"
        yield found(place, what, "write it with fewer, or as several items")


RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (_sayings, _matches)


def warnings(config: Config) -> Iterator[Problem]:
    """What is allowed but would surprise."""
    for name, route in config.routes.items():
        yield from _without_effect(f"routes.{name}.overrides", route.overrides)


def _without_effect(place: str, overrides: Overrides) -> Iterator[Problem]:
    if overrides.trusted and overrides.header is None and overrides.cookie is None:
        what = "says whose header or cookie counts, and there is neither"
        yield Problem(f"{place}.trusted", what, "add header or cookie, or remove it")
