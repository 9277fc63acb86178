"""The configuration's models: frozen, closed (an unknown key is an error), with the defaults that the product means.

Pure. Built by `config.load`; problems that need more than one field are found by `config.check`. Times are seconds,
weights basis points, sizes bytes; how people write them is in `config.quantities`.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from canaryproxy.config.base import Model, OrFalse
from canaryproxy.config.hooks import Hook
from canaryproxy.config.listening import AccessLogOrFalse, AddressOrFalse, ProxyProtocol, Tls, write_false_for_null
from canaryproxy.config.metrics import Metrics
from canaryproxy.config.names import FieldName, HostHeader, HostPattern, Name, Network, PathPrefix, Protocol
from canaryproxy.config.operators import NamedTokens, RateLimit, Readers
from canaryproxy.config.overrides import Overrides
from canaryproxy.config.quantities import Address, Duration, ListenAddress, Size
from canaryproxy.config.rollouts import DEFAULT_STEPS, OnInconclusive, PauseStep, Rollout, Step
from canaryproxy.config.upstreams import Pool

__all__ = ["DEFAULT_STEPS", "Config", "OnInconclusive", "PauseStep", "Pool", "Rollout", "Step"]


def _worker_count(value: Any) -> Any:
    if value == "auto":
        return value
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 64:
        raise ValueError(f"{value!r} is not a number of workers; write auto or 1 to 64")
    return int(text)


#: Number of worker processes, or one for each core.
Workers = Annotated[int | Literal["auto"], BeforeValidator(_worker_count)]


class Admin(Model):
    """The operator's HTTP endpoint."""

    listen: ListenAddress = Address("127.0.0.1", 9900)
    token_file: str = Field(
        "./canaryproxy.token", min_length=1, description="bearer token; created with mode 0600 on first start"
    )
    tokens: NamedTokens = Field({}, description="more tokens, by the name that the decision log shows")
    read: Readers = Field(Readers.AUTO, description="who may read: open, token, or auto: open on loopback, else token")
    rate_limit: RateLimit = RateLimit()


class State(Model):
    """Where rollouts and decisions are kept."""

    path: str = Field("./canaryproxy.db", min_length=1, description="SQLite file; created on first start")


class Timeouts(Model):
    """Deadlines of the data plane."""

    request_head: Duration = Field(10, gt=0, description="from the first byte of a request head to its end; then 408")
    keep_alive: Duration = Field(75, gt=0, description="a client connection without a request")
    request_body_idle: Duration = Field(30, gt=0, description="a request body that stops coming; then 408")
    connect: Duration = Field(3, gt=0, description="to an upstream; then 504")
    response_head: Duration = Field(30, gt=0, description="from the sent request to the response head; then 504")
    response_body_idle: Duration = Field(
        60, gt=0, description="a response body that stops coming; the client's connection is cut"
    )
    send_idle: Duration = Field(30, gt=0, description="a client that takes no byte of its response; its connection is cut")
    upstream_idle: Duration = Field(30, gt=0, description="an unused upstream connection; keep it below the app server's own")
    connection_age: Duration = Field(
        3600,
        ge=0,
        description="a client connection, whose next response is then its last, or an unused upstream one; 0: no limit",
    )
    drain: Duration = Field(30, ge=0, description="for requests in flight at shut-down or reload")
    queue: Duration = Field(1, gt=0, description="a request that waits for a server; then 503")
    total: Duration = Field(0, ge=0, description="a whole exchange; then 504, or the client's connection is cut; 0: no limit")
    tunnel_idle: Duration = Field(3600, gt=0, description="a tunnel (WebSocket) without a byte either way")
    tunnel_linger: Duration = Field(30, gt=0, description="a tunnel of which one side has ended")
    tunnel_grace: Duration = Field(10, ge=0, description="tunnels to a canary that was rolled back; then they are closed")


class Limits(Model):
    """Bounds of the data plane."""

    request_line: int = Field(8190, ge=256, le=65536, description="bytes; then 414")
    head: Size = Field(32 * 1024, ge=256, le=1 << 20, description="bytes of a request head; then 431")
    headers: int = Field(100, ge=10, le=1000, description="fields of a request head; then 431")
    response_head: Size = Field(64 * 1024, ge=256, le=1 << 20, description="bytes of a response head; then 502")
    response_headers: int = Field(200, ge=10, le=1000, description="fields of a response head; then 502")
    chunk_extensions: Size = Field(4096, ge=0, le=1 << 20, description="bytes in one chunked message, thrown away; then 400")
    trailers: Size = Field(8192, ge=64, le=1 << 20, description="bytes after a chunked message; then 431, or 502 from a server")
    interim_responses: int = Field(8, ge=0, le=100, description="1xx before one response; then 502")
    replay_body: Size = Field(64 * 1024, ge=0, le=16 << 20, description="of a request body, kept so that it can be sent again")
    requests_per_connection: int = Field(10_000, ge=1, description="then the connection is closed after its response")
    idle_per_server: int = Field(64, ge=0, description="unused connections kept for each upstream and worker")
    client_connections: int = Field(10_000, ge=1, description="for each worker; beyond it no connection is accepted")
    connections_per_ip: int = Field(0, ge=0, description="of one client address, for each worker; 0: no limit")
    request_body: Size = Field(0, ge=0, description="bytes; then 413; 0: no limit")
    body_rate: Size = Field(
        500, ge=0, description="bytes in a second that a request body must bring on average; then 408; 0: no limit"
    )
    body_grace: Duration = Field(10, ge=0, description="before body_rate is looked at")
    tls_handshakes: int = Field(
        500, ge=1, description="TLS handshakes and PROXY headers in hand, for each worker; the oldest makes room"
    )
    memory: Size = Field(
        0, ge=0, description="bytes that a worker may use; near it no connection is kept, then none accepted; 0: no limit"
    )
    loop_lag: Duration = Field(
        1, ge=0, description="of a worker; from it on no connection is kept, from 4 times of it none accepted; 0: off"
    )


class Match(Model):
    """Which requests a route takes: any of the hosts and the longest of the path prefixes."""

    hosts: tuple[HostPattern, ...] = Field((), description="exact or *.example.com; empty: every host")
    paths: tuple[PathPrefix, ...] = Field(("/",), min_length=1, description="the longest prefix wins")


class Affinity(Model):
    """Who is one user: the header where it is there, else the cookie."""

    header: FieldName | None = Field(
        None, description="a header with the user's id, set by what stands before the proxy or by the app"
    )
    cookie: FieldName = Field("canaryproxy_id", description="issued when nothing else identifies the user")
    max_age: Duration = Field(30 * 86400, ge=60, description="of the issued cookie")
    cookieless: Literal["stable", "ip", "issue"] = Field(
        "stable", description="a request that nothing identifies: stable at once, by address, or by the id just issued"
    )


class Route(Model):
    """Requests that belong together, split between two pools."""

    match: Match = Match()
    stable: Name = Field(description="the pool of the current version")
    canary: Name | None = Field(None, description="the pool of the new version; none: everything goes to stable")
    affinity: Affinity = Affinity()
    overrides: Overrides = Overrides()
    rollout: Rollout = Rollout()
    metrics: Metrics = Metrics()
    hooks: tuple[Hook, ...] = Field((), description="who is asked or told outside: [{type: event, url: https://...}]")
    fallback_to_stable: bool = Field(True, description="a request that no canary server takes goes to stable")
    total_timeout: Duration = Field(0, ge=0, description="a whole exchange of this route; 0: timeouts.total holds")


class Config(Model):
    """The whole configuration."""

    listen: AddressOrFalse = Field(Address("0.0.0.0", 8080), description="where users arrive; false: over TLS only")
    tls: Annotated[Tls | None, OrFalse] = Field(None, description="an address where users arrive over TLS; absent: none")
    proxy_protocol: Annotated[ProxyProtocol | None, OrFalse] = Field(
        None, description="a load balancer says who the client is; absent: off"
    )
    workers: Workers = Field("auto", description="processes; auto: one for each core")
    admin: Admin = Admin()
    state: State = State()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    access_log: AccessLogOrFalse = Field(
        None, description="false, or a section: one line for each request", json_schema_extra=write_false_for_null
    )
    host_header: HostHeader = Field("preserve", description="preserve, upstream, or the literal value to send")
    via: FieldName | None = Field(None, description="pseudonym to add as Via; refuses requests that carry it already (508)")
    trusted_proxies: tuple[Network, ...] = Field((), description="networks whose X-Forwarded-* are believed and appended to")
    strict_authority: bool = Field(False, description="400 where an absolute-form target and Host differ")
    underscore_headers: Literal["drop", "reject", "allow"] = Field(
        "drop", description="header names with _, which some app servers confuse with -"
    )
    request_trailers: tuple[FieldName, ...] = Field(
        (), description="fields after a chunked request that are passed on if the client says TE: trailers; []: none"
    )
    upgrades: tuple[Protocol, ...] = Field(("websocket",), description="protocols of Upgrade that are passed on; []: none")
    expose_request_id: bool = Field(False, description="true: X-Request-ID in responses too")
    pools: dict[Name, Pool] = Field(min_length=1, description="name: {servers: [http://host:port]}")
    routes: dict[Name, Route] = Field(min_length=1, description="name: {stable: pool, canary: pool}")

    @property
    def urls(self) -> list[str]:
        """Where users arrive."""
        places = {"http": self.listen, "https": self.tls.listen if self.tls else None}
        return [f"{scheme}://{address}" for scheme, address in places.items() if address is not None]

    @property
    def worker_count(self) -> int:
        """Number of worker processes to run."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers
