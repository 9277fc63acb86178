"""Which requests are conversions, and whose sizes are compared."""

from __future__ import annotations

import pytest

from canaryproxy.routing.goals import GoalRule, goal_rule, match_goals, reached, size_class


@pytest.mark.parametrize(("status", "bounds"), [("2xx", (200, 299)), ("3XX", (300, 399)), ("201", (201, 201))])
def test_a_status_is_a_class_or_a_number(status: str, bounds: tuple[int, int]) -> None:
    assert goal_rule("POST", "/orders", status) == GoalRule(b"POST", b"/orders", *bounds)


@pytest.mark.parametrize(
    ("path", "target", "is_meant"),
    [
        ("/orders", b"/orders", True),
        ("/orders", b"/orders?x=1", True),
        ("/orders", b"/%6Frders", True),
        ("/orders", b"/orders/7", False),
        ("/orders/", b"/orders/7/pay", True),
        ("/orders/", b"/orders", False),
        ("/pay", b"/payment", False),
        ("/pay", b"/api/../pay", True),
        ("/", b"/anything", True),
    ],
)
def test_a_path_is_exact_or_a_prefix(path: str, target: bytes, is_meant: bool) -> None:
    rules = (None, goal_rule("POST", path, "2xx"))
    assert match_goals(rules, b"POST", target) == (2 if is_meant else 0)
    assert match_goals(rules, b"GET", target) == 0


def test_one_request_may_be_several_goals_and_its_status_decides() -> None:
    rules = (goal_rule("POST", "/a", "2xx"), None, goal_rule("POST", "/", "201"), goal_rule("GET", "/a", "2xx"))
    goals = match_goals(rules, b"POST", b"/a")
    assert goals == 0b101
    assert [reached(rules, goals, status) for status in (200, 201, 302, 500)] == [0b001, 0b101, 0, 0]


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        (b"/item/1", b"/item/234", True),
        (b"/item/1/photo", b"/item/234/photo?size=2", True),
        (b"/user/7d4f2c19ab", b"/user/00ff00ff00", True),
        (b"/u/123e4567-e89b-12d3-a456-426614174000", b"/u/00000000-0000-0000-0000-000000000000", True),
        (b"/item/1", b"/item/list", False),
        (b"/item/1", b"/items/1", False),
        (b"/v1/item", b"/v2/item", False),
    ],
)
def test_what_names_one_thing_among_many_makes_no_class(one: bytes, other: bytes, are_alike: bool) -> None:
    many = 1 << 20
    assert (size_class(b"GET", one, many) == size_class(b"GET", other, many)) is are_alike
    assert 0 <= size_class(b"GET", one, 64) < 64


def test_methods_are_apart() -> None:
    assert size_class(b"GET", b"/item", 1 << 20) != size_class(b"POST", b"/item", 1 << 20)


def test_a_long_path_costs_no_more_than_its_beginning() -> None:
    begins = b"/a" * 128
    assert size_class(b"GET", begins + b"/b" * 4000, 1 << 20) == size_class(b"GET", begins + b"/c", 1 << 20)
