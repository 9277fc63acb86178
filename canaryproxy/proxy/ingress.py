"""Where clients arrive: in the clear or over TLS, and what follows from that for every request. Made once, from the file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from canaryproxy.config.quantities import Address
from canaryproxy.config.schema import Config
from canaryproxy.http1.forward import Entrance
from canaryproxy.http1.head import OWN_FIELDS, HeadRules
from canaryproxy.proxy.recall import Recall


@dataclass(frozen=True, slots=True, eq=False)
class Ingress:
    """One listener's rules. `trusting` is for peers that are trusted proxies, `recall` for all others."""

    tls: bool
    hop: Entrance
    recall: Recall
    trusting: Recall


def build_ingress(config: Config, address: Address, *, tls: bool) -> Ingress:
    """The rules of the listener at `address`."""
    via = config.via.encode() if config.via else None
    rules = _head_rules(config)
    return Ingress(
        tls=tls,
        hop={
            "host_header": config.host_header,
            "port": str(address.port).encode(),
            "proto": b"https" if tls else b"http",
            "via": via,
        },
        recall=Recall(rules, via),
        trusting=Recall(replace(rules, trust_forwarded=True), via),
    )


def _head_rules(config: Config) -> HeadRules:
    limits = config.limits
    return HeadRules(
        request_line=limits.request_line,
        head=limits.head,
        headers=limits.headers,
        response_head=limits.response_head,
        response_headers=limits.response_headers,
        underscore=config.underscore_headers,
        strict_authority=config.strict_authority,
        expose_request_id=config.expose_request_id,
        own_fields=OWN_FIELDS | _override_headers(config),
    )


def _override_headers(config: Config) -> frozenset[bytes]:
    """Headers that choose a version, on any route: their secrets are for nobody behind this proxy."""
    return frozenset(
        route.overrides.header.name.lower().encode() for route in config.routes.values() if route.overrides.header is not None
    )
