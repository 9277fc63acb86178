"""Which route a request takes: by host, then by the longest path prefix. Pure; asked once for each request.

The path is compared in a normalised copy (percent-encoding of ordinary characters, dot segments and repeated slashes undone), so
`/%61pi/../admin` cannot pass for something else; what is forwarded stays byte-exact (RFC 9110 section 7.7).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

_UNUSUAL = re.compile(rb"%|//|/\.")
_encoded = re.compile(rb"%([0-9A-Fa-f]{2})")


def normalise(target: bytes) -> bytes:
    """The path of an origin-form target as it is compared: decoded once, without query, dot segments and empty segments."""
    path = target.partition(b"?")[0]
    if not _UNUSUAL.search(path):
        return path
    path = _encoded.sub(lambda digits: bytes((int(digits[1], 16),)), path)
    segments: list[bytes] = []
    parts = path.split(b"/")[1:]
    for part in parts:
        if part == b"..":
            del segments[-1:]
        elif part not in (b"", b"."):
            segments.append(part)
    trailing = b"/" if segments and parts[-1] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(segments) + trailing


def normalise_host(host: bytes) -> bytes:
    """A Host field's name as it is compared: lower case, without port and final dot."""
    name = host.lower()
    if name.endswith(b"]") or b":" not in name:
        return name.rstrip(b".")
    return name.rpartition(b":")[0].rstrip(b".")


class Router(Generic[T]):
    """Routes by host and path. A host is exact (`shop.example.com`), a wildcard (`*.example.com`) or b'' for all."""

    def __init__(self, entries: Iterable[tuple[bytes, bytes, T]]) -> None:
        hosts: dict[bytes, list[tuple[bytes, T]]] = {}
        for host, path, route in entries:
            hosts.setdefault(host.lower(), []).append((path, route))
        for paths in hosts.values():
            paths.sort(key=lambda entry: -len(entry[0]))
        self._hosts = hosts
        everything = hosts.get(b"", [])
        #: The route of every request, where there is one that takes them all and no other.
        self.only = everything[0][1] if len(hosts) == 1 and [path for path, _ in everything] == [b"/"] else None

    def match(self, host: bytes, target: bytes) -> T | None:
        """The route of this request, or None. An exact host wins over a wildcard, that over none; then the longest path."""
        if self.only is not None:
            return self.only
        name, path = normalise_host(host), normalise(target)
        route = _longest(self._hosts.get(name), path)
        rest = name
        while route is None and b"." in rest:
            rest = rest.partition(b".")[2]
            route = _longest(self._hosts.get(b"*." + rest), path)
        return route if route is not None else _longest(self._hosts.get(b""), path)


def _longest(paths: list[tuple[bytes, T]] | None, path: bytes) -> T | None:
    """A prefix matches whole segments: /shop takes /shop and /shop/cart, not /shopping."""
    for prefix, route in paths or ():
        if path.startswith(prefix) and (prefix.endswith(b"/") or len(path) == len(prefix) or path[len(prefix)] == 0x2F):
            return route
        if path == b"*" and prefix == b"/":
            return route
    return None
