"""Models of the servers behind the proxy: pools, their health, TLS to them. Pure; parts of `config.schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from canaryproxy.config.base import FileName, Model, OrFalse, fit_timeout
from canaryproxy.config.names import CertificateName, SentHost, TargetPath
from canaryproxy.config.quantities import Duration, Percent, ServerUrl, Statuses, StatusRange


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("has a character that cannot be shown; write it on one line, without control characters")
    return value


Version = Annotated[str, AfterValidator(_printable)]


class UpstreamTls(Model):
    """How servers with https:// are spoken to."""

    ca: FileName | None = Field(None, description="PEM file of the authorities of servers; none: those of the system")
    server_name: CertificateName = Field("", description="the name in the servers' certificates; empty: the host of the URL")
    verify: bool = Field(True, description="false: believe any certificate")
    certificate: FileName | None = Field(None, description="PEM file of the proxy's own certificate, for servers that ask for it")
    key: FileName | None = Field(None, description="PEM file of its private key, without a passphrase")


class Health(Model):
    """Active checks: each worker asks each server on a connection of its own."""

    path: TargetPath = Field(description="asked for with GET")
    interval: Duration = Field(5, gt=0, description="between two checks of a server")
    timeout: Duration = Field(2, gt=0, description="from the connection to the whole answer")
    fall: int = Field(3, ge=1, description="failed checks in a row that take a server out")
    rise: int = Field(2, ge=1, description="good checks in a row that bring it back")
    status: Statuses = Field(
        (StatusRange(200, 399),), min_length=1, description="answers that are good, for example 200-399 or 204"
    )
    host: SentHost = Field("", description="the Host of a check; empty: the server's own")

    _timeout = model_validator(mode="after")(fit_timeout)


class Eject(Model):
    """Passive health: a server that fails (not: answers 5xx) is out for a while, but never the last one."""

    failures: int = Field(5, ge=0, description="failures in a row that take a server out; 0: off")
    base: Duration = Field(10, gt=0, description="how long, the first time; then longer each time")
    max: Duration = Field(300, gt=0, description="never for longer")


class Retries(Model):
    """How many requests may be tried again at another server."""

    budget: Percent = Field(2000, description="share of the requests in hand that may be tried again at a time")
    min: int = Field(3, ge=0, description="so many at a time in any case")


class Pool(Model):
    """A named set of upstreams that run the same version."""

    servers: tuple[ServerUrl, ...] = Field(min_length=1, description="the addresses that run this version")
    version: Version = Field("", max_length=200, description="shown to people; defaults to the pool's name")
    balance: Literal["least_request", "round_robin"] = Field(
        "least_request", description="the better of two taken at random, or each in its turn"
    )
    max_connections: int = Field(256, ge=1, description="exchanges in hand, for each server and worker")
    queue: int = Field(1024, ge=0, description="exchanges that wait for a server, for each worker; then 503")
    slow_start: Duration = Field(0, ge=0, description="a server that recovers gets its share over so long; 0: at once")
    send_proxy: Annotated[
        Literal["v1", "v2"] | None,
        OrFalse,
        PlainSerializer(lambda version: version or False, return_type=str | bool),
        WithJsonSchema({"enum": [False, "v1", "v2"]}),
    ] = Field(None, description="tell servers who the client is with a PROXY header: false, v1 or v2")
    tls: UpstreamTls = Field(UpstreamTls(), description="for servers with https://")
    health: Annotated[Health | None, OrFalse] = Field(None, description="active checks; absent: none")
    eject: Eject = Field(Eject(), description="what failures do to a server")
    resolve: Duration = Field(10, ge=1, description="names of servers are looked up again so often")
    retries: Retries = Field(Retries(), description="how many requests may be tried again")
