"""Quantities as people write them, and what is said about those that nobody can mean."""

from collections.abc import Callable
from typing import Any

import pytest

from canaryproxy.config.quantities import (
    Address,
    Server,
    format_duration,
    format_percent,
    format_points,
    format_size,
    parse_address,
    parse_duration,
    parse_percent,
    parse_points,
    parse_server,
    parse_size,
    parse_status_range,
    write_server,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5), ("7d", 604_800), ("0", 0), (0, 0), (" 3s ", 3)],
)
def test_duration(text: Any, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("seconds", [0, 0.25, 1, 59, 60, 90, 5400, 86_400, 2_592_000, 90_061])
def test_a_written_duration_reads_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(("text", "basis_points"), [("5%", 500), ("0.01%", 1), ("100%", 10_000), ("0%", 0), ("12.5 %", 1250)])
def test_percent(text: str, basis_points: int) -> None:
    assert parse_percent(text) == basis_points
    assert parse_percent(format_percent(basis_points)) == basis_points


def test_points_are_a_fraction() -> None:
    assert parse_points("1pp") == 0.01
    assert format_points(0.005) == "0.5pp"


@pytest.mark.parametrize(
    ("text", "size"), [("64KiB", 65_536), ("10M", 10_485_760), ("100", 100), (100, 100), ("1 GiB", 1 << 30), ("5B", 5)]
)
def test_size(text: Any, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:80", Address("::1", 80)),
        ("localhost:0", Address("localhost", 0)),
        (":8080", Address("0.0.0.0", 8080)),
    ],
)
def test_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("http://10.0.0.7:8000", Server("10.0.0.7", 8000)),
        ("http://app_v2/", Server("app_v2", 80)),
        ("http://[::1]:8000", Server("::1", 8000)),
        ("https://app.internal", Server("app.internal", 443, tls=True)),
        ("https://[::1]:8443", Server("::1", 8443, tls=True)),
        ("unix:/run/app.sock", Server("localhost", 80, path="/run/app.sock")),
        ("unix:///run/app.sock", Server("localhost", 80, path="/run/app.sock")),
    ],
)
def test_server(text: str, server: Server) -> None:
    assert parse_server(text) == server
    assert parse_server(str(server)) == server
    assert parse_server(server) is server


@pytest.mark.parametrize(
    ("written", "server"),
    [
        ({"url": "http://a:1", "weight": "3"}, Server("a", 1, weight=3)),
        ({"url": "https://a", "weight": 100}, Server("a", 443, tls=True, weight=100)),
        ({"url": "unix:/a"}, Server("localhost", 80, path="/a")),
    ],
)
def test_a_server_with_a_weight(written: dict[str, Any], server: Server) -> None:
    assert parse_server(written) == server
    assert parse_server(write_server(server)) == server


def test_a_server_without_a_weight_is_written_as_its_url() -> None:
    assert write_server(Server("a", 443, tls=True)) == "https://a:443"
    assert write_server(Server("a", 1, weight=2)) == {"url": "http://a:1", "weight": 2}


@pytest.mark.parametrize(
    ("text", "statuses"), [("200-399", (200, 399)), ("204", (204, 204)), (204, (204, 204)), (" 200 - 299 ", (200, 299))]
)
def test_status_range(text: Any, statuses: tuple[int, int]) -> None:
    parsed = parse_status_range(text)
    assert parsed == statuses
    assert parse_status_range(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (parse_duration, "3", "'3' has no unit; write 3s or 3m"),
        (parse_duration, 2.5, "2.5 has no unit; write 2.5s or 2.5m"),
        (parse_duration, "5 minutes", "'5 minutes' is not a duration; write for example 30s, 5m or 1h30m"),
        (parse_duration, True, "True is not a duration; write for example 30s, 5m or 1h30m"),
        (parse_duration, "-3s", "'-3s' is not a duration; write for example 30s, 5m or 1h30m"),
        (parse_percent, "5", "'5' has no unit; write 5%"),
        (parse_percent, "5pp", "'5pp' is in percentage points; here a percentage is meant, for example 5%"),
        (parse_percent, "101%", "'101%' is more than 100%"),
        (parse_percent, "0.001%", "'0.001%' is finer than 0.01%, the smallest share there is"),
        (parse_points, "1%", "'1%' is a percentage; here percentage points are meant, for example 1pp"),
        (parse_points, "1", "'1' has no unit; write 1pp"),
        (parse_points, "200pp", "'200pp' is more than 100pp"),
        (parse_size, "64KB", "'64KB' is not a size; write for example 64KiB or 10MiB"),
        (parse_size, "-1", "'-1' is not a size; write for example 64KiB or 10MiB"),
        (parse_address, "8080", "'8080' is only a port; write 0.0.0.0:8080 or 127.0.0.1:8080"),
        (parse_address, "0.0.0.0", "'0.0.0.0' is not an address; write for example 0.0.0.0:8080"),
        (parse_address, "a:70000", "'a:70000' is not an address; write for example 0.0.0.0:8080"),
        (parse_address, "a:²", "'a:²' is not an address; write for example 0.0.0.0:8080"),
        (parse_address, "::1:80", "'::1:80' has an IPv6 address without brackets; write [::1]:80"),
        (parse_address, "1.2.3:80", "'1.2.3:80' is not an address; write for example 0.0.0.0:8080"),
        (parse_server, "app:8000", "'app:8000' has no scheme; write http://app:8000"),
        (parse_server, "8001", "'8001' has no scheme; write http://127.0.0.1:8001"),
        (parse_server, "ftp://app", "'ftp://app' has scheme 'ftp'; only http://, https:// and unix: upstreams are supported"),
        (parse_server, "https://app:0", "'https://app:0' has no valid host and port; write for example https://127.0.0.1:8001"),
        (parse_server, "https://app/v2", "'https://app/v2' has more than host and port; write https://app:443"),
        (parse_server, "unix:app.sock", "'unix:app.sock' is not the path of a socket; write for example unix:/run/app.sock"),
        (parse_server, "unix:/run/", "'unix:/run/' is not the path of a socket; write for example unix:/run/app.sock"),
        (
            parse_server,
            "unix:/" + "é" * 54,
            f"'unix:/{'é' * 54}' is longer than the system allows; use a path of at most 107 bytes",
        ),
        (parse_server, {"url": "http://a", "wight": 1}, "'wight' is no key of a server; keys here: url, weight"),
        (parse_server, {"weight": 1}, "a server without a URL; write {url: http://127.0.0.1:8001, weight: 3}"),
        (parse_server, {"url": {}}, "a server without a URL; write {url: http://127.0.0.1:8001, weight: 3}"),
        (parse_server, {"url": "app"}, "'app' has no scheme; write http://app"),
        (parse_server, {"url": "http://a", "weight": "0"}, "'0' is not a weight; write 1 to 100"),
        (parse_server, {"url": "http://a", "weight": 101}, "101 is not a weight; write 1 to 100"),
        (parse_server, {"url": "http://a", "weight": True}, "True is not a weight; write 1 to 100"),
        (parse_server, {"url": "http://a", "weight": None}, "None is not a weight; write 1 to 100"),
        (parse_status_range, "abc", "'abc' is not a range of status codes; write for example 200-399 or 204"),
        (parse_status_range, "99", "'99' is not a range of status codes; write for example 200-399 or 204"),
        (parse_status_range, "2xx", "'2xx' is not a range of status codes; write for example 200-399 or 204"),
        (parse_status_range, "399-200", "'399-200' ends before it begins; write 200-399"),
        (parse_server, "http://app:0", "'http://app:0' has no valid host and port; write for example http://127.0.0.1:8001"),
        (parse_server, "http://app:x", "'http://app:x' is not a URL; write for example http://127.0.0.1:8001"),
        (parse_server, "http://app:80/v2", "'http://app:80/v2' has more than host and port; write http://app:80"),
        (parse_server, "http://me:secret@app", "'http://me:secret@app' has more than host and port; write http://app:80"),
    ],
)
def test_refused(parse: Callable[[Any], Any], value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        parse(value)
    assert str(caught.value) == message
