"""What a worker makes of its configuration, and its part in the segment."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.config.schema import Config
from canaryproxy.proxy.route import build_routes
from canaryproxy.proxy.worker import Worker
from canaryproxy.routing.identity import Cookieless
from canaryproxy.shared import layout


def config(**sections: Any) -> Config:
    pools = {"v1": {"servers": ["http://a"]}, "v2": {"servers": ["http://b:81", "http://c"]}}
    routes = {
        "shop": {"stable": "v1", "canary": "v2", "match": {"hosts": ["shop.example"], "paths": ["/a", "/b"]}},
        "rest": {"stable": "v2", "affinity": {"header": "X-User", "cookie": "who", "cookieless": "ip", "max_age": "1h"}},
    }
    return Config.model_validate({"pools": pools, "routes": routes, **sections})


def test_routes_and_pools_are_as_configured() -> None:
    segment = layout.create(4, 2)
    router, (shop, rest), pools = build_routes(config(), segment, 1, {"shop": 2, "rest": 0})
    assert [pool.name for pool in pools] == ["v1", "v2"]
    assert shop.pools == (pools[0], pools[1])
    assert rest.pools == (pools[1], pools[1]), "no canary: the same pool, whatever the weight says"
    assert (shop.slot, shop.row) == (2, segment.layout.board_row(2))
    assert router.match(b"shop.example", b"/a/x") is shop
    assert router.match(b"shop.example", b"/c") is rest
    assert rest.identity.header == b"x-user"
    assert (rest.identity.cookie, rest.identity.max_age) == (b"who", 3600)
    assert rest.identity.cookieless is Cookieless.IP


@pytest.mark.parametrize(
    ("peer", "believed"),
    [(b"10.1.2.3", True), (b"11.1.2.3", False), (b"2001:db8::7", True), (b"2001:db9::7", False), (b"", False)],
)
def test_who_is_believed(peer: bytes, *, believed: bool) -> None:
    worker = Worker(config(trusted_proxies=["10.0.0.0/8", "2001:db8::/32"]), layout.create(2, 1), 0, {"shop": 0, "rest": 1})
    assert worker.is_trusted(peer) is believed


def test_nobody_is_believed_by_default() -> None:
    worker = Worker(config(), layout.create(2, 1), 0, {"shop": 0, "rest": 1})
    assert not worker.is_trusted(b"127.0.0.1")
