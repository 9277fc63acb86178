"""Models of what faces the clients: TLS, the PROXY protocol, the access log. Pure; parts of `config.schema`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from canaryproxy.config.base import FileName, Model, is_off
from canaryproxy.config.names import HostPattern, Network
from canaryproxy.config.quantities import Address, Duration, ListenAddress, parse_address


def _parse_address_or_false(value: Any) -> Address | None:
    return None if is_off(value) else parse_address(value)


def _parse_log(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() in ("true", "yes", "on"):
        return {}
    return None if is_off(value) else {} if value is True else value


def write_false_for_null(schema: dict[str, Any]) -> None:
    """In the JSON Schema of a field that has None: `false` is how people write it."""
    schema["anyOf"] = [{"const": False} if kind == {"type": "null"} else kind for kind in schema["anyOf"]]
    schema["default"] = False


def _written_or_false(value: Any) -> str | bool:
    return False if value is None else str(value)


#: An address, or None, which is written `false`.
AddressOrFalse = Annotated[
    Address | None,
    BeforeValidator(_parse_address_or_false),
    PlainSerializer(_written_or_false, return_type=str | bool),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": r"^(.*:\d+)$|\$\{"}, {"const": False}], "examples": ["0.0.0.0:8080"]}
    ),
]


class Sni(Model):
    """Another certificate for some of the names that clients ask for."""

    hosts: tuple[HostPattern, ...] = Field(min_length=1, description="names that clients ask for, exact or *.example.com")
    certificate: FileName = Field(description="PEM file: the certificate, then its chain")
    key: FileName = Field(description="PEM file of its private key")


class Tls(Model):
    """An address where users arrive over TLS."""

    listen: ListenAddress = Field(Address("0.0.0.0", 8443), description="where users arrive over https")
    certificate: FileName = Field(description="PEM file: the certificate, then its chain; read again when it changes")
    key: FileName = Field(description="PEM file of its private key, without a passphrase")
    sni: tuple[Sni, ...] = Field((), description="other certificates by the name that a client asks for")
    client_ca: FileName | None = Field(
        None, description="PEM file of the authorities of client certificates; none: not asked for"
    )
    client_auth: Literal["required", "optional"] = Field(
        "required", description="whether a client may come without a certificate"
    )
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="of TLS")
    handshake_timeout: Duration = Field(10, gt=0, description="from the connection to the end of the handshake")


class ProxyProtocol(Model):
    """PROXY protocol v1 and v2: every client connection must begin with who the client is."""

    from_: tuple[Network, ...] = Field(alias="from", min_length=1, description="the networks of the load balancers that send it")
    timeout: Duration = Field(3, gt=0, description="from the connection to the end of the PROXY header")


class AccessLog(Model):
    """One line for each request."""

    format: Literal["json", "combined"] = Field("json", description="json lines, or the combined format of web servers")
    path: str = Field("-", min_length=1, description="a file, opened again at SIGUSR1, or - for stdout")


#: The access log, or None, which is written `false`.
AccessLogOrFalse = Annotated[AccessLog | None, BeforeValidator(_parse_log)]
