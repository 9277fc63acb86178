"""What a request may ask for whatever the weight says, and who may."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.config.overrides import Overrides as Settings
from canaryproxy.http1.head import HeadRules, RequestBlock, parse_request_block
from canaryproxy.routing.override import LISTED, MATCHED, MOST_MATCHED, Overrides, Wish, grant, is_granted, override_rules
from canaryproxy.routing.split import BUCKETS, OVERRIDES

SECRET = "s3cret-s3cret-s3cret"
HEADER = {"header": {"secret": SECRET}}
COOKIE = {"cookie": {"secret": SECRET}}


def rules(**settings: Any) -> Overrides:
    return override_rules(Settings.model_validate(settings))


def block(*lines: str) -> RequestBlock:
    parsed = parse_request_block("".join(f"{line}\r\n" for line in ("Host: a", *lines)).encode("latin-1"), HeadRules())
    assert isinstance(parsed, RequestBlock)
    return parsed


def asked(overrides: Overrides, *lines: str, trusted: bool = False) -> int | None:
    """The variant that header or cookie ask for."""
    wish, _ = overrides.read(block(*lines), trusted=trusted)
    return None if wish is None else wish.variant


@pytest.mark.parametrize(
    ("value", "variant"),
    [
        (f"always:{SECRET}", 1),
        (f"never:{SECRET}", 0),
        (f"Always: {SECRET} ", 1),
        (f"NEVER :{SECRET}", 0),
        (f"perhaps:{SECRET}", None),
        (f"always:{SECRET}x", None),
        (f"always:{SECRET[:-1]}", None),
        (f"always:{SECRET.upper()}", None),
        (f"always:always:{SECRET}", None),
        ("always:", None),
        ("always", None),
        ("never", None),
        (SECRET, None),
        ("", None),
        (":", None),
        ("always:\xff", None),
    ],
)
@pytest.mark.parametrize(("settings", "line"), [(HEADER, "x-CANARY: {}"), (COOKIE, "Cookie: a=b; canary={}; c=d")])
def test_a_word_counts_with_the_secret_and_anything_else_is_as_if_nothing_were_said(
    settings: dict[str, Any], line: str, value: str, variant: int | None
) -> None:
    assert asked(rules(**settings), line.format(value)) == variant


@pytest.mark.parametrize(
    ("value", "variant"), [("always", 1), ("never", 0), (f"always:{SECRET}", 1), ("always:x", None), ("", None)]
)
def test_from_trusted_networks_the_word_alone_counts(value: str, variant: int | None) -> None:
    assert asked(rules(**HEADER, trusted=["10.0.0.0/8"]), f"X-Canary: {value}", trusted=True) == variant


def test_without_a_secret_nothing_counts_that_is_not_trusted() -> None:
    without = rules(header={}, trusted=["10.0.0.0/8"])
    assert asked(without, "X-Canary: always", trusted=True) == 1
    for value in ("always", "always:", "always:None"):
        assert asked(without, f"X-Canary: {value}") is None
    assert asked(without, "X-Canary: always:", trusted=True) is None


def test_the_header_comes_before_the_cookie_and_that_before_what_matches() -> None:
    all_of_them = rules(**HEADER, **COOKIE, match=[{"header": {"name": "X-Beta", "equals": "1"}}])
    says = {"header": f"X-Canary: never:{SECRET}", "cookie": f"Cookie: canary=always:{SECRET}", "match": "x-beta: 1"}
    assert all_of_them.read(block(*says.values()), trusted=False) == (Wish(0, b"header", True), MATCHED)
    assert all_of_them.read(block(says["cookie"], says["match"]), trusted=False) == (Wish(1, b"cookie", True), MATCHED)
    assert all_of_them.read(block("X-Canary: never:x", says["cookie"]), trusted=False)[0] == Wish(1, b"cookie", True)
    assert all_of_them.read(block(says["match"]), trusted=False) == (None, MATCHED)
    assert all_of_them.read(block(), trusted=True) == (None, None)


@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        ({"equals": "yes"}, ["yes"], ["Yes", "yes!", "", "no"]),
        ({"equals": ""}, [""], ["x"]),
        ({"prefix": "de"}, ["de", "de-CH"], ["en, de", "d", ""]),
        ({"regex": ".*(Firefox|Chrome)/1[0-9]{2}.*"}, ["x Chrome/123 y", "Firefox/100"], ["Chrome/12", "chrome/123"]),
        ({"regex": "[a-c]+"}, ["abc"], ["abcd", " abc d", "", "a" * (MOST_MATCHED + 1)]),
    ],
)
@pytest.mark.parametrize(("kind", "line"), [("header", "X-Thing: {}"), ("cookie", "Cookie: x=y; X-Thing={}")])
def test_a_condition_is_on_the_whole_value(
    kind: str, line: str, condition: dict[str, str], good: list[str], bad: list[str]
) -> None:
    one = rules(match=[{kind: {"name": "X-Thing", **condition}}])
    for value, expected in [*((value, MATCHED) for value in good), *((value, None) for value in bad)]:
        if not (kind == "cookie" and ("," in value or ";" in value)):
            assert one.read(block(line.format(value)), trusted=False)[1] == expected, value
    assert one.read(block("Other: 1"), trusted=True)[1] is None, "what is not there is not even empty"


def test_any_of_the_items_is_enough() -> None:
    two = rules(match=[{"header": {"name": "A", "equals": "1"}}, {"cookie": {"name": "b", "prefix": "2"}}])
    assert two.read(block("Cookie: b=22"), trusted=False)[1] == two.read(block("A: 1"), trusted=False)[1] == MATCHED


@pytest.mark.parametrize("weight", [0, 500, BUCKETS])
def test_lists_and_matches_hold_while_the_canary_may_have_users_and_a_secret_always(weight: int) -> None:
    for wish in (LISTED, MATCHED):
        assert (grant(wish, weight | OVERRIDES), is_granted(wish, weight | OVERRIDES)) == (1, True)
        assert (grant(wish, weight), is_granted(wish, weight)) == (int(weight == BUCKETS), False)
    for variant in (0, 1):
        wish = Wish(variant, b"header", True)
        assert [grant(wish, word) for word in (weight, weight | OVERRIDES)] == [variant, variant]
        assert is_granted(wish, weight)


def test_a_secret_is_in_no_words_of_the_configuration() -> None:
    settings = Settings.model_validate({**HEADER, **COOKIE})
    assert SECRET not in f"{settings!r} {settings.model_dump()} {settings.model_dump_json()}"
