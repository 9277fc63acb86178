"""Quantities as people write them: `5%`, `1pp`, `30s`, `64KiB`, `127.0.0.1:8080`, `http://10.0.0.7:8000`. Pure.

Each is an annotated type for the models in `config.schema`; code sees plain ints, floats and named tuples.
Percent and percentage points are different types, so a relative limit cannot be given where a difference is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from canaryproxy.config.names import is_host

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|K|M|G)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def parse_duration(value: Any) -> float:
    """Seconds of `30s`, `5m`, `1h30m`, `250ms` or 0. A bare number other than 0 is refused: its unit would be a guess."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a duration; write for example 30s, 5m or 1h30m")
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        if float(text) == 0:
            return 0.0
        raise ValueError(f"{value!r} has no unit; write {text}s or {text}m")
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{value!r} is not a duration; write for example 30s, 5m or 1h30m")
    return float(sum(float(n) * _DURATION_UNITS[unit] for n, unit in _DURATION_PART.findall(text)))


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back: 90 -> `1m30s`, 0.25 -> `250ms`."""
    if seconds == 0:
        return "0s"
    if seconds < 1 or seconds != int(seconds):
        return f"{seconds * 1000:g}ms"
    rest, parts = int(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _number_before(value: Any, suffix: str, what: str, example: str) -> float:
    text = value.strip() if isinstance(value, str) else ""
    number = text.removesuffix(suffix).strip()
    if _NUMBER.fullmatch(text):
        raise ValueError(f"{value!r} has no unit; write {text}{suffix}")
    if not text.endswith(suffix) or not _NUMBER.fullmatch(number):
        raise ValueError(f"{value!r} is not {what}; write for example {example}")
    return float(number)


def parse_percent(value: Any) -> int:
    """Basis points (0..10000) of `5%` or `0.25%`."""
    if isinstance(value, str) and value.strip().endswith("pp"):
        raise ValueError(f"{value!r} is in percentage points; here a percentage is meant, for example 5%")
    share = round(_number_before(value, "%", "a percentage", "5%") * 100, 6)
    if share > 10_000:
        raise ValueError(f"{value!r} is more than 100%")
    if share != int(share):
        raise ValueError(f"{value!r} is finer than 0.01%, the smallest share there is")
    return int(share)


def format_percent(basis_points: int) -> str:
    """`100` -> `1%`."""
    return f"{basis_points / 100:g}%"


def parse_points(value: Any) -> float:
    """The difference of two rates, as a fraction: `1pp` -> 0.01."""
    if isinstance(value, str) and value.strip().endswith("%"):
        raise ValueError(f"{value!r} is a percentage; here percentage points are meant, for example 1pp")
    points = _number_before(value, "pp", "a number of percentage points", "1pp") / 100
    if points > 1:
        raise ValueError(f"{value!r} is more than 100pp")
    return points


def format_points(fraction: float) -> str:
    """`0.01` -> `1pp`."""
    return f"{fraction * 100:g}pp"


def parse_size(value: Any) -> int:
    """Bytes of `64KiB`, `10MiB` or a plain number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a size; write for example 64KiB or 10MiB")
    return int(match[1]) * _SIZE_UNITS[match[2] or ""]


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads back: 65536 -> `64KiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return str(size)


class Address(NamedTuple):
    """A TCP address. `host` without brackets; port 0 lets the system choose (tests)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: Any) -> Address:
    """`127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` or `:8080` (all interfaces)."""
    if isinstance(value, Address):
        return value
    if re.fullmatch(r"[0-9]{1,5}", str(value)):
        raise ValueError(f"{value!r} is only a port; write 0.0.0.0:{value} or 127.0.0.1:{value}")
    host, colon, port = value.strip().rpartition(":") if isinstance(value, str) else ("", "", "")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{value!r} has an IPv6 address without brackets; write [{host}]:{port}")
    host = host or "0.0.0.0"
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or not is_host(host):
        raise ValueError(f"{value!r} is not an address; write for example 0.0.0.0:8080")
    return Address(host, int(port))


class Server(NamedTuple):
    """One upstream. With a `path`, that of a unix socket, `host` is only the name for its Host field, and `port` says nothing."""

    host: str
    port: int
    tls: bool = False
    path: str = ""
    weight: int = 1

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{'https' if self.tls else 'http'}://{Address(self.host, self.port)}"


_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PATH = 107  # bytes of sun_path less the zero at its end (unix(7))


def parse_server(value: Any) -> Server:
    """The server of `http://host[:port]`, `https://host[:port]`, `unix:/path`, or of `{url: ..., weight: 1..100}`.

    A path, a query or credentials in a URL are refused, for they would be ignored.
    """
    if isinstance(value, Server):
        return value
    if isinstance(value, Mapping):
        return _parse_weighted(value)
    text = value.strip() if isinstance(value, str) else ""
    if text.startswith("unix:"):
        return _parse_unix(text)
    if "://" not in text:
        place = f"127.0.0.1:{text.lstrip(':')}" if text.lstrip(":").isdigit() else text or "host:port"
        raise ValueError(f"{value!r} has no scheme; write http://{place}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"{value!r} is not a URL; write for example http://127.0.0.1:8001") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"{value!r} has scheme {parts.scheme!r}; only http://, https:// and unix: upstreams are supported")
    if not is_host(host) or port == 0:
        raise ValueError(f"{value!r} has no valid host and port; write for example {parts.scheme}://127.0.0.1:8001")
    server = Server(host, port or _DEFAULT_PORTS[parts.scheme], tls=parts.scheme == "https")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{value!r} has more than host and port; write {server}")
    return server


def _parse_unix(text: str) -> Server:
    path = text.removeprefix("unix:")
    if path.startswith("//"):  # unix:///run/app.sock
        path = path[2:]
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ValueError(f"{text!r} is not the path of a socket; write for example unix:/run/app.sock")
    if len(path.encode()) > _MAX_PATH:
        raise ValueError(f"{text!r} is longer than the system allows; use a path of at most {_MAX_PATH} bytes")
    return Server("localhost", 80, path=path)


class SectionError(ValueError):
    """What is wrong in a section that may stand there."""


def _parse_weighted(value: Mapping[Any, Any]) -> Server:
    for key in value:
        if key not in ("url", "weight"):
            raise SectionError(f"{key!r} is no key of a server; keys here: url, weight")
    if isinstance(value.get("url", ""), Mapping) or not value.get("url"):
        raise SectionError("a server without a URL; write {url: http://127.0.0.1:8001, weight: 3}")
    try:
        server, weight = parse_server(value["url"]), value.get("weight", 1)
    except ValueError as error:
        raise SectionError(str(error)) from None
    if isinstance(weight, bool) or not re.fullmatch(r"[0-9]{1,3}", str(weight)) or not 1 <= int(weight) <= 100:
        raise SectionError(f"{weight!r} is not a weight; write 1 to 100")
    return server._replace(weight=int(weight))


def write_server(server: Server) -> str | dict[str, Any]:
    """What `parse_server` reads back: the URL, with a weight where it has one."""
    return str(server) if server.weight == 1 else {"url": str(server), "weight": server.weight}


class StatusRange(NamedTuple):
    """Status codes from `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def parse_status_range(value: Any) -> StatusRange:
    """`200-399` or `204`."""
    if isinstance(value, StatusRange):
        return value
    match = re.fullmatch(r"([1-5][0-9][0-9])(?:\s*-\s*([1-5][0-9][0-9]))?", str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a range of status codes; write for example 200-399 or 204")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ValueError(f"{value!r} ends before it begins; write {last}-{first}")
    return StatusRange(first, last)


def _text(example: str, pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": rf"^({pattern})$|\$\{{", "examples": [example]})  # or a ${SUBSTITUTION}


def _written(format_value: Callable[[Any], str]) -> PlainSerializer:
    return PlainSerializer(format_value, return_type=str)


Duration = Annotated[
    float, BeforeValidator(parse_duration), _written(format_duration), _text("30s", r"(\d+(\.\d+)?(ms|s|m|h|d))+|0")
]
Percent = Annotated[int, BeforeValidator(parse_percent), _written(format_percent), _text("5%", r"\d+(\.\d+)?\s*%")]
Points = Annotated[float, BeforeValidator(parse_points), _written(format_points), _text("1pp", r"\d+(\.\d+)?\s*pp")]
Size = Annotated[int, BeforeValidator(parse_size), _written(format_size), _text("64KiB", r"\d+\s*(B|KiB|MiB|GiB|K|M|G)?")]
ListenAddress = Annotated[Address, BeforeValidator(parse_address), _written(str), _text("0.0.0.0:8080", r".*:\d+")]
ServerUrl = Annotated[
    Server,
    BeforeValidator(parse_server),
    PlainSerializer(write_server, return_type=str | dict[str, Any]),
    WithJsonSchema(
        {
            "anyOf": [
                (url := {"type": "string", "pattern": r"^(https?://[^/]+/?|unix:/.+)$|\$\{"}),
                {
                    "type": "object",
                    "properties": {"url": url, "weight": {"type": ["integer", "string"], "default": 1}},
                    "required": ["url"],
                    "additionalProperties": False,
                },
            ],
            "examples": ["http://127.0.0.1:8001"],
        }
    ),
]
Statuses = tuple[
    Annotated[StatusRange, BeforeValidator(parse_status_range), _written(str), _text("200-399", r"[1-5]\d\d(\s*-\s*[1-5]\d\d)?")],
    ...,
]
