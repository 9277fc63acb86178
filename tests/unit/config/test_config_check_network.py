# ruff: noqa: E501 - a message stands in one piece, as people would search for it
"""What is wrong between the fields that are about the network, and what is only surprising there."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.config.check import problems, warnings
from canaryproxy.config.schema import Config

_TLS = {"certificate": "a.pem", "key": "a.key"}


def config(pool: dict[str, Any] | None = None, **top: Any) -> Config:
    pools = {"v1": {"servers": ["http://10.0.0.1:8001"], **(pool or {})}}
    return Config.model_validate({"pools": pools, "routes": {"shop": {"stable": "v1"}}, **top})


def said(pool: dict[str, Any] | None = None, **top: Any) -> list[str]:
    return [str(problem) for problem in problems(config(pool, **top))]


def test_it_may_listen_for_tls_only() -> None:
    assert said(listen=False, tls=_TLS) == []
    assert said(listen=False) == ["listen: false leaves no address where users can arrive; write an address, or add tls"]
    assert problems(config(listen=False), {"tls"}) == []


@pytest.mark.parametrize(
    ("listen", "tls", "admin", "messages"),
    [
        ("0.0.0.0:8080", "0.0.0.0:8443", "127.0.0.1:9900", []),
        ("10.0.0.1:80", "10.0.0.2:80", "127.0.0.1:80", []),
        ("0.0.0.0:1", "127.0.0.1:1", "[::1]:2", ["tls.listen: 127.0.0.1:1 is taken by listen (0.0.0.0:1); use another port"]),
        ("0.0.0.0:1", "0.0.0.0:2", "127.0.0.1:2", ["admin.listen: 127.0.0.1:2 is taken by tls.listen (0.0.0.0:2); use another port"]),
        (False, "0.0.0.0:1", "127.0.0.1:1", ["admin.listen: 127.0.0.1:1 is taken by tls.listen (0.0.0.0:1); use another port"]),
        ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", []),
    ],
)  # fmt: skip
def test_addresses_are_taken_once(listen: Any, tls: str, admin: str, messages: list[str]) -> None:
    assert said(listen=listen, tls={**_TLS, "listen": tls}, admin={"listen": admin}) == messages


def test_a_server_that_is_the_proxy_itself() -> None:
    tls = {**_TLS, "listen": "0.0.0.0:8443"}
    assert said({"servers": ["https://localhost:8443"]}, tls=tls) == [
        "pools.v1.servers[0]: https://localhost:8443 is this proxy itself (tls.listen: 0.0.0.0:8443); write the address of the application"
    ]
    assert said({"servers": ["unix:/run/app.sock"]}, listen="0.0.0.0:80") == []


def test_files_are_used_once() -> None:
    assert said(access_log={"path": "./canaryproxy.db"}) == ["access_log.path: is the same file as state.path; use two files"]
    assert said(access_log={"path": "access.log"}) == []


def test_client_certificates() -> None:
    assert said(tls={**_TLS, "client_auth": "optional"}) == [
        "tls.client_auth: says what clients have to show, but no client_ca says whose; add client_ca, or remove client_auth"
    ]
    assert said(tls={**_TLS, "client_auth": "optional", "client_ca": "ca.pem"}) == []
    assert said(tls={**_TLS, "client_ca": "ca.pem"}) == []


def test_names_of_certificates() -> None:
    pair = {"certificate": "b.pem", "key": "b.key"}
    sni = [{"hosts": ["a.com", "*.a.com"], **pair}, {"hosts": ["10.0.0.1", "A.com", "[::1]"], **pair}]
    assert said(tls={**_TLS, "sni": sni}) == [
        "tls.sni[1].hosts[0]: '10.0.0.1' is an address, and clients ask for names only; tls.certificate serves it",
        "tls.sni[1].hosts[1]: 'a.com' has a certificate already (tls.sni[0].hosts[0]); keep one of the two",
        "tls.sni[1].hosts[2]: '[::1]' is an address, and clients ask for names only; tls.certificate serves it",
    ]


def test_memory_for_a_worker() -> None:
    assert said(limits={"memory": "128MiB"}) == []
    assert said(limits={"memory": "1MiB"}) == [
        "limits.memory: 1MiB is less than a worker needs; write at least 128MiB, or 0 for no limit"
    ]


@pytest.mark.parametrize(
    ("pool", "messages"),
    [
        ({"tls": {"server_name": "app"}}, ["tls: is for servers with https://, and this pool has none; write https:// in servers, or remove tls"]),
        ({"servers": ["http://10.0.0.1", "https://10.0.0.2"], "tls": {"server_name": "app"}}, []),
        ({"servers": ["https://10.0.0.2"], "tls": {"key": "k"}}, ["tls.key: is given without certificate; add certificate, or remove key"]),
        ({"servers": ["https://10.0.0.2"], "tls": {"certificate": "c"}}, ["tls.certificate: is given without key; add key, or remove certificate"]),
        ({"health": {"path": "/", "interval": "1s", "timeout": "1s"}}, []),
            ({"health": {"path": "/", "interval": "1s"}}, []),
            ({"health": {"path": "/", "interval": "1s", "timeout": "2s"}}, ["health.timeout: 2s is longer than the interval (1s); let a check end before the next one begins"]),
        ({"eject": {"base": "10m"}}, ["eject.base: 10m is longer than max (5m); write less, or raise max"]),
    ],
)  # fmt: skip
def test_pools(pool: dict[str, Any], messages: list[str]) -> None:
    assert said(pool) == [f"pools.v1.{message}" for message in messages]


@pytest.mark.parametrize(
    ("pool", "top", "messages"),
    [
        ({"servers": ["https://a"], "tls": {"verify": "false"}}, {}, ["pools.v1.tls.verify: whoever stands between can pose as a server: no certificate is looked at; set ca to the file of the authority that signed the servers' certificates"]),
        ({"servers": [{"url": "http://a", "weight": 3}, {"url": "http://b", "weight": 3}]}, {}, ["pools.v1.servers: every server has weight 3, which is the same as none; leave the weights out, or let them differ"]),
        ({"servers": [{"url": "http://a", "weight": 3}, "http://b"], "balance": "round_robin"}, {}, []),
        ({"servers": ["http://a", {"url": "http://a:80", "weight": 3}]}, {}, ["pools.v1.servers[1]: http://a:80 is listed twice and gets twice the requests; keep one"]),
        ({"servers": ["http://a:443", "https://a", "unix:/a", "unix:/b"]}, {}, []),
        ({}, {"proxy_protocol": {"from": ["10.0.0.0/8", "0.0.0.0/0"]}}, ["proxy_protocol.from[1]: 0.0.0.0/0 is everybody: any client can say that it is another one; write the networks of the load balancers"]),
    ],
)  # fmt: skip
def test_warnings(pool: dict[str, Any], top: dict[str, Any], messages: list[str]) -> None:
    checked = config(pool, **top)
    assert problems(checked) == []
    assert [str(warning) for warning in warnings(checked)] == messages


def test_a_server_in_both_pools_whatever_its_weight() -> None:
    pools = {"v1": {"servers": ["http://a"]}, "v2": {"servers": [{"url": "http://a", "weight": 2}, "http://b"]}}
    both = config(pools=pools, routes={"shop": {"stable": "v1", "canary": "v2"}})
    assert [warning.where for warning in warnings(both)] == ["routes.shop.canary"]
