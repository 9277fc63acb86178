"""Which route a request takes."""

from __future__ import annotations

import pytest

from canaryproxy.routing.match import Router, normalise, normalise_host


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/b/", b"/a/b/"),
        (b"/a?x=/../b", b"/a"),
        (b"/%61pi", b"/api"),
        (b"/api%2Fx", b"/api/x"),
        (b"/a/../b", b"/b"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a/..", b"/"),
        (b"/../../x", b"/x"),
        (b"/%2e%2e/x", b"/x"),
        (b"/a/%2e%2E/b/..", b"/"),
        (b"//a///b//", b"/a/b/"),
        (b"/%2561", b"/%61"),
        (b"/%zz/.hidden", b"/%zz/.hidden"),
        (b"*", b"*"),
    ],
)
def test_a_path_is_compared_in_its_plain_form(target: bytes, path: bytes) -> None:
    assert normalise(target) == path


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"Shop.Example.COM", b"shop.example.com"),
        (b"shop.example.com.", b"shop.example.com"),
        (b"shop.example.com.:8080", b"shop.example.com"),
        (b"[::1]:80", b"[::1]"),
        (b"[::1]", b"[::1]"),
        (b"", b""),
    ],
)
def test_a_host_is_compared_without_case_port_and_final_dot(host: bytes, name: bytes) -> None:
    assert normalise_host(host) == name


@pytest.mark.parametrize(
    ("host", "target", "route"),
    [
        (b"shop.example.com", b"/", "shop"),
        (b"SHOP.example.com:80", b"/", "shop"),
        (b"shop.example.com", b"/api", "shop api"),
        (b"shop.example.com", b"/api/v2?q", "shop api v2"),
        (b"shop.example.com", b"/apis", "shop"),
        (b"shop.example.com", b"/x/%2e%2e/api/v1", "shop api"),
        (b"www.example.com", b"/", "wildcard"),
        (b"a.b.example.com", b"/", "wildcard"),
        (b"a.b.example.com", b"/api", "wildcard"),
        (b"example.com", b"/", "any"),
        (b"", b"/", "any"),
        (b"other", b"/static/x", "any static"),
        (b"half.example.com", b"/only/this", "half"),
        (b"half.example.com", b"/other", "wildcard"),
        (b"shop.example.com", b"*", "shop"),
    ],
)
def test_the_closest_host_and_then_the_longest_path_win(host: bytes, target: bytes, route: str) -> None:
    router = Router(
        [
            (b"", b"/", "any"),
            (b"", b"/static", "any static"),
            (b"*.example.com", b"/", "wildcard"),
            (b"Shop.example.com", b"/", "shop"),
            (b"shop.example.com", b"/api", "shop api"),
            (b"shop.example.com", b"/api/v2", "shop api v2"),
            (b"half.example.com", b"/only", "half"),
        ]
    )
    assert router.match(host, target) == route


def test_no_route() -> None:
    router = Router([(b"a", b"/x", 1)])
    assert router.match(b"a", b"/y") is None
    assert router.match(b"b", b"/x") is None
    assert router.match(b"a", b"*") is None


def test_a_single_route_for_everything_needs_no_comparison() -> None:
    assert Router([(b"", b"/", 1)]).match(b"any", b"no path at all") == 1


def test_a_wildcard_is_no_single_route() -> None:
    assert Router([(b"*.a", b"/", 1)]).match(b"a", b"/") is None
