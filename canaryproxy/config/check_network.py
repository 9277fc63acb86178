"""What is wrong between the fields that are about the network: addresses, TLS, servers. Pure; called by `config.check`.

Nothing here asks the system: what is in the files that a configuration names is looked at by `config.files`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import combinations
from pathlib import PurePosixPath
from typing import NamedTuple

from canaryproxy.config.names import is_ip
from canaryproxy.config.quantities import Address, Server, format_duration, format_size
from canaryproxy.config.schema import Config
from canaryproxy.config.upstreams import Pool, UpstreamTls
from canaryproxy.errors import Problem

#: A worker that has just started uses 47 MiB (measured), and `limits.memory` acts from 85 % on.
MIN_MEMORY = 128 << 20
#: Fields that would change what was decided from the head, or that only this proxy may set.
_NOT_TRAILERS = frozenset(
    {"age", "authorization", "cache-control", "connection", "cookie", "date", "expect", "expires", "forwarded", "host"}
    | {"http2-settings", "keep-alive", "location", "max-forwards", "proxy-authenticate", "proxy-authorization"}
    | {"proxy-connection", "range", "retry-after", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade", "vary", "via"}
    | {"www-authenticate", "x-canary-variant", "x-real-ip", "x-request-id"}
)


class Finding(NamedTuple):
    """A problem, and the places besides its own that it was concluded from."""

    problem: Problem
    reads: tuple[str, ...] = ()


def found(where: str, what: str, hint: str, *reads: str) -> Finding:
    """A finding from its words."""
    return Finding(Problem(where, what, hint), reads)


def reported(findings: Iterable[Finding], unread: Collection[str]) -> list[Problem]:
    """The problems of the findings that depend on none of these places."""
    return [
        f.problem for f in findings if not any(_overlap(place, gap) for place in (f.problem.where, *f.reads) for gap in unread)
    ]


def _overlap(place: str, other: str) -> bool:
    shorter, longer = sorted((place, other), key=len)
    return longer.startswith(shorter) and longer[len(shorter) :][:1] in ("", ".", "[")


# --- addresses and files of its own ---


def own_addresses(config: Config) -> dict[str, Address]:
    """Every address that this proxy listens on, by its place."""
    places = {
        "listen": config.listen,
        "tls.listen": config.tls.listen if config.tls else None,
        "admin.listen": config.admin.listen,
    }
    return {place: address for place, address in places.items() if address is not None}


def _addresses(config: Config) -> Iterator[Finding]:
    if config.listen is None and config.tls is None:
        yield found("listen", "false leaves no address where users can arrive", "write an address, or add tls", "tls")
    for (first, a), (second, b) in combinations(own_addresses(config).items(), 2):
        if reaches(b, a) or reaches(a, b):
            yield found(second, f"{b} is taken by {first} ({a})", "use another port", first)


def _own_files(config: Config) -> Iterator[Finding]:
    places = {"admin.token_file": config.admin.token_file, "state.path": config.state.path}
    places |= {f"admin.tokens.{name}.file": token.file for name, token in config.admin.tokens.items()}
    if config.access_log:
        places["access_log.path"] = config.access_log.path
    for (first, a), (second, b) in combinations(places.items(), 2):
        if PurePosixPath(a) == PurePosixPath(b):
            yield found(second, f"is the same file as {first}", "use two files", first)


def _loops(config: Config) -> Iterator[Finding]:
    own = own_addresses(config)
    for name, pool in config.pools.items():
        for index, server in enumerate(pool.servers):
            for place, address in own.items():
                if reaches(server, address):
                    itself = f"this proxy itself ({place}: {address})"
                    what = "this proxy's admin endpoint (admin.listen)" if place == "admin.listen" else itself
                    hint = "write the address of the application"
                    yield found(f"pools.{name}.servers[{index}]", f"{server} is {what}", hint, place)
                    break


def reaches(target: Address | Server, listener: Address) -> bool:
    """Whether a connection to `target` surely arrives at `listener`, as far as that can be told without asking the system."""
    if target.port != listener.port or target.port == 0 or (isinstance(target, Server) and target.path):
        return False
    if target.host.lower() == listener.host.lower():
        return True
    if listener.host in ("0.0.0.0", "::"):
        return is_loopback(target.host) or target.host in ("0.0.0.0", "::")
    return "localhost" in (target.host.lower(), listener.host.lower()) and is_loopback(target.host) and is_loopback(listener.host)


def is_loopback(host: str) -> bool:
    """Whether this address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# --- clients ---


def _tls(config: Config) -> Iterator[Finding]:
    tls = config.tls
    if tls is None:
        return
    if "client_auth" in tls.model_fields_set and tls.client_ca is None:
        hint = "add client_ca, or remove client_auth"
        yield found("tls.client_auth", "says what clients have to show, but no client_ca says whose", hint, "tls.client_ca")
    owners: dict[str, str] = {}
    for index, entry in enumerate(tls.sni):
        for number, host in enumerate(entry.hosts):
            place = f"tls.sni[{index}].hosts[{number}]"
            if is_ip(host.strip("[]")):
                yield found(place, f"{host!r} is an address, and clients ask for names only", "tls.certificate serves it")
            elif host in owners:
                yield found(place, f"{host!r} has a certificate already ({owners[host]})", "keep one of the two")
            owners.setdefault(host, place)


def _request_trailers(config: Config) -> Iterator[Finding]:
    for index, name in enumerate(config.request_trailers):
        if not may_be_trailer(name):
            what = f"{name!r} says how a message is read, routed or whose it is: it counts in a head only"
            yield found(f"request_trailers[{index}]", what, "remove it")


def may_be_trailer(name: str) -> bool:
    """Whether the proxy lets this field pass behind a body at all (RFC 9110 section 6.5.1; the filter of `http1.chunked`)."""
    lower = name.lower()
    return not (lower in _NOT_TRAILERS or lower.startswith(("content-", "if-", "x-forwarded-")) or "_" in lower)


def _memory(config: Config) -> Iterator[Finding]:
    if 0 < config.limits.memory < MIN_MEMORY:
        what = f"{format_size(config.limits.memory)} is less than a worker needs"
        yield found("limits.memory", what, f"write at least {format_size(MIN_MEMORY)}, or 0 for no limit")


# --- servers ---


def _pools(config: Config) -> Iterator[Finding]:
    for name, pool in config.pools.items():
        place = f"pools.{name}"
        yield from _tls_to_servers(place, pool)
        health, eject = pool.health, pool.eject
        if health is not None and health.timeout > health.interval:
            what = f"{format_duration(health.timeout)} is longer than the interval ({format_duration(health.interval)})"
            hint = "let a check end before the next one begins"
            yield found(f"{place}.health.timeout", what, hint, f"{place}.health.interval")
        if eject.base > eject.max:
            what = f"{format_duration(eject.base)} is longer than max ({format_duration(eject.max)})"
            yield found(f"{place}.eject.base", what, "write less, or raise max", f"{place}.eject.max")


def _tls_to_servers(place: str, pool: Pool) -> Iterator[Finding]:
    tls = pool.tls
    if tls != UpstreamTls() and not any(server.tls for server in pool.servers):
        hint = "write https:// in servers, or remove tls"
        yield found(f"{place}.tls", "is for servers with https://, and this pool has none", hint, f"{place}.servers")
    for given, missing, value, other in (
        ("key", "certificate", tls.key, tls.certificate),
        ("certificate", "key", tls.certificate, tls.key),
    ):
        if value is not None and other is None:
            what = f"is given without {missing}"
            yield found(f"{place}.tls.{given}", what, f"add {missing}, or remove {given}", f"{place}.tls.{missing}")


RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _addresses,
    _own_files,
    _loops,
    _tls,
    _request_trailers,
    _memory,
    _pools,
)


# --- warnings ---


def warnings(config: Config) -> Iterator[Problem]:
    """What is allowed but would surprise."""
    for index, network in enumerate(config.proxy_protocol.from_ if config.proxy_protocol else ()):
        if network.endswith("/0"):
            what = f"{network} is everybody: any client can say that it is another one"
            yield Problem(f"proxy_protocol.from[{index}]", what, "write the networks of the load balancers")
    for name, pool in config.pools.items():
        yield from _servers_in_doubt(f"pools.{name}", pool)


def _servers_in_doubt(place: str, pool: Pool) -> Iterator[Problem]:
    if not pool.tls.verify and any(server.tls for server in pool.servers):
        what = "whoever stands between can pose as a server: no certificate is looked at"
        yield Problem(f"{place}.tls.verify", what, "set ca to the file of the authority that signed the servers' certificates")
    weights = {server.weight for server in pool.servers}
    if weights != {1} and len(weights) == 1:
        what = f"every server has weight {weights.pop()}, which is the same as none"
        yield Problem(f"{place}.servers", what, "leave the weights out, or let them differ")
    known = [server._replace(weight=1) for server in pool.servers]
    for index, server in enumerate(known):
        if server in known[:index]:
            yield Problem(f"{place}.servers[{index}]", f"{server} is listed twice and gets twice the requests", "keep one")
