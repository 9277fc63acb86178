"""Hosts, path prefixes, networks and names of the configuration."""

from collections.abc import Callable
from typing import Any

import pytest

from canaryproxy.config.names import (
    is_host,
    parse_field_name,
    parse_host_header,
    parse_host_pattern,
    parse_name,
    parse_network,
    parse_path_prefix,
)


@pytest.mark.parametrize(
    ("parse", "value", "result"),
    [
        (parse_host_pattern, "Shop.Example.com", "shop.example.com"),
        (parse_host_pattern, "*.example.com", "*.example.com"),
        (parse_host_pattern, "127.0.0.1", "127.0.0.1"),
        (parse_host_pattern, "[::1]", "[::1]"),
        (parse_path_prefix, "/", "/"),
        (parse_path_prefix, "/v1.2/.well-known/café", "/v1.2/.well-known/café"),
        (parse_network, "10.0.0.0/8", "10.0.0.0/8"),
        (parse_network, "192.0.2.7", "192.0.2.7"),
        (parse_network, "fd00::/8", "fd00::/8"),
        (parse_host_header, "preserve", "preserve"),
        (parse_host_header, "app.internal:8000", "app.internal:8000"),
        (parse_host_header, "[::1]:8000", "[::1]:8000"),
        (parse_host_header, "[::1]", "[::1]"),
        (parse_name, "shop-v1.10_b", "shop-v1.10_b"),
        (parse_field_name, "X-User-Id", "X-User-Id"),
    ],
)
def test_accepted(parse: Callable[[Any], Any], value: str, result: str) -> None:
    assert parse(value) == result


_NOT_A_HOST = "is not a host; write for example shop.example.com or *.example.com"
_NOT_SENT = "is not a host; write preserve, upstream, or for example app.internal:8000"


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (parse_host_pattern, "*", "'*' is not a host; leave hosts out to take every host"),
        (parse_host_pattern, "http://shop.com/x", "'http://shop.com/x' is a URL; write the host alone: shop.com"),
        (parse_host_pattern, "shop.com:80", "'shop.com:80' has a port, which is not compared; write shop.com"),
        (parse_host_pattern, "café.com", "'café.com' is not how browsers send it; write it as xn--..."),
        (parse_host_pattern, "*shop.com", f"'*shop.com' {_NOT_A_HOST}"),
        (parse_host_pattern, "a.*.com", f"'a.*.com' {_NOT_A_HOST}"),
        (parse_host_pattern, "*.", f"'*.' {_NOT_A_HOST}"),
        (parse_host_pattern, "a..com", f"'a..com' {_NOT_A_HOST}"),
        (parse_path_prefix, "api", "'api' does not begin with /; write /api"),
        (parse_path_prefix, "/api/*", "'/api/*' has a *, but paths are prefixes; write /api/"),
        (parse_path_prefix, "/api?x=1", "'/api?x=1' is not a path; leave out ?, # and control characters"),
        (parse_path_prefix, "/caf%C3%A9", "'/caf%C3%A9' is percent-encoded, but paths are compared decoded; write /café"),
        (parse_path_prefix, "/a/../b", "'/a/../b' has empty or dot segments, which are compared without; write the plain path"),
        (parse_path_prefix, "//a", "'//a' has empty or dot segments, which are compared without; write the plain path"),
        (parse_network, "10.0.0.5/8", "'10.0.0.5/8' has bits set after its prefix; write 10.0.0.0/8"),
        (parse_network, "lan", "'lan' is not a network; write for example 10.0.0.0/8 or 192.0.2.7"),
        (parse_host_header, "a\r\nX: y", f"'a\\r\\nX: y' {_NOT_SENT}"),
        (parse_host_header, "a b", f"'a b' {_NOT_SENT}"),
        (parse_host_header, "::1", f"'::1' {_NOT_SENT}"),
        (parse_host_header, "user@app", f"'user@app' {_NOT_SENT}"),
        (parse_name, "a/b", "'a/b' is not a usable name; use up to 63 letters, digits and . _ -"),
        (parse_field_name, "a b", "'a b' is not a name that HTTP allows; use letters, digits and - _ ."),
    ],
)
def test_refused(parse: Callable[[Any], Any], value: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        parse(value)
    assert str(caught.value) == message


def test_hosts_have_the_limits_of_dns() -> None:
    assert is_host("a" * 63)
    assert not is_host("a" * 64)
    assert not is_host(".".join(["a" * 62] * 5))
    assert not is_host("fe80::1%eth0")
