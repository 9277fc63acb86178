"""Words of the configuration that must be spelled as HTTP and DNS have them: names, hosts, path prefixes, networks. Pure.

Each is an annotated `str` for the models in `config.schema`. Tokens: RFC 9110 section 5.6.2; hosts: RFC 3986 section 3.2.2
with the underscore that container networks use; labels: RFC 1035 section 2.3.4.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import BeforeValidator, WithJsonSchema

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_TARGET = re.compile(r"/[!\"$-~]*")
_PORT = re.compile(r":[0-9]{1,5}\Z")


def is_ip(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_host(text: str) -> bool:
    """Whether `text` is an IP address without brackets or a host name; `1.2.3` is neither."""
    if is_ip(text):
        return True
    return len(text) <= 253 and bool(_DNS_NAME.fullmatch(text)) and not text.replace(".", "").isdigit()


def _is_host_in_url(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        return is_ip(text[1:-1]) and ":" in text
    return is_host(text) and ":" not in text


def parse_field_name(value: Any) -> Any:
    """A header or cookie name."""
    if isinstance(value, str) and not _TOKEN.fullmatch(value):
        raise ValueError(f"{value!r} is not a name that HTTP allows; use letters, digits and - _ .")
    return value


def parse_name(value: Any) -> Any:
    """A pool's or route's name: safe in paths, logs and metric labels."""
    if isinstance(value, str) and not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a usable name; use up to 63 letters, digits and . _ -")
    return value


def parse_host_pattern(value: Any) -> Any:
    """`shop.example.com`, `*.example.com` (any depth below it) or an address, in lower case."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text == "*":
        raise ValueError("'*' is not a host; leave hosts out to take every host")
    if "://" in text or "/" in text:
        host = text.partition("://")[2] or text
        raise ValueError(f"{value!r} is a URL; write the host alone: {host.partition('/')[0]}")
    if not text.isascii():
        raise ValueError(f"{value!r} is not how browsers send it; write it as xn--...")
    if not text.startswith("[") and (port := _PORT.search(text)):
        raise ValueError(f"{value!r} has a port, which is not compared; write {text[: port.start()]}")
    if not _is_host_in_url(text.removeprefix("*.")):
        raise ValueError(f"{value!r} is not a host; write for example shop.example.com or *.example.com")
    return text.lower()


def parse_path_prefix(value: Any) -> Any:
    """The beginning of a request's path as `routing.match` compares it: decoded, without empty and dot segments."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text.startswith("/"):
        raise ValueError(f"{value!r} does not begin with /; write /{text}")
    if "*" in text:
        raise ValueError(f"{value!r} has a *, but paths are prefixes; write {text.partition('*')[0]}")
    if "?" in text or "#" in text or not text.isprintable():
        raise ValueError(f"{value!r} is not a path; leave out ?, # and control characters")
    if "%" in text:
        raise ValueError(f"{value!r} is percent-encoded, but paths are compared decoded; write {unquote(text)}")
    if re.search(r"//|/\.{1,2}(/|$)", text):
        raise ValueError(f"{value!r} has empty or dot segments, which are compared without; write the plain path")
    return text


def parse_network(value: Any) -> Any:
    """An address or a network in CIDR form."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is not a network; write for example 10.0.0.0/8 or 192.0.2.7") from None
    if "/" in text and ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f"{value!r} has bits set after its prefix; write {network}")
    return text


def parse_host_header(value: Any) -> Any:
    """`preserve`, `upstream` or the value of the Host header to send: a host with an optional port."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not _is_host_in_url(_PORT.sub("", text)):
        raise ValueError(f"{value!r} is not a host; write preserve, upstream, or for example app.internal:8000")
    return text


def parse_certificate_name(value: Any) -> Any:
    """A host name or address as it stands in a certificate; empty where nothing is set."""
    text = value.strip() if isinstance(value, str) else value
    if text and isinstance(text, str) and not is_host(text):
        raise ValueError(f"{value!r} is not the name of a host; write for example app.internal")
    return text


def parse_sent_host(value: Any) -> Any:
    """The value of a Host header, a host with an optional port; empty where nothing is set."""
    text = value.strip() if isinstance(value, str) else value
    if text and isinstance(text, str) and not _is_host_in_url(_PORT.sub("", text)):
        raise ValueError(f"{value!r} is not a host; write for example app.internal or app.internal:8000")
    return text


def parse_target_path(value: Any) -> Any:
    """A request target in origin form, as it is sent: a path and maybe a query (RFC 9112 section 3.2.1)."""
    if isinstance(value, str) and not _TARGET.fullmatch(value.strip()):
        raise ValueError(f"{value!r} is not a path; write for example /healthz")
    return value.strip() if isinstance(value, str) else value


def parse_protocol(value: Any) -> Any:
    """A protocol of the Upgrade field (RFC 9110 section 7.8), in lower case."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if not re.fullmatch(rf"{_TOKEN.pattern}(/{_TOKEN.pattern})?", text):
        raise ValueError(f"{value!r} is not the name of a protocol; write for example websocket")
    if text.startswith(("h2c", "http/", "tls/")):
        raise ValueError(f"{value!r} would carry requests past the proxy; remove it")
    return text


def _text(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": rf"^({pattern})$|\$\{{", "examples": [example]})  # or a ${SUBSTITUTION}


FieldName = Annotated[str, BeforeValidator(parse_field_name), _text(_TOKEN.pattern, "X-User-Id")]
Name = Annotated[str, BeforeValidator(parse_name), _text(_NAME.pattern, "v1")]
HostPattern = Annotated[str, BeforeValidator(parse_host_pattern), _text(r"(\*\.)?[^/*]+", "shop.example.com")]
PathPrefix = Annotated[str, BeforeValidator(parse_path_prefix), _text(r"/[^*?#%]*", "/api/")]
Network = Annotated[str, BeforeValidator(parse_network), _text(r"[0-9a-fA-F.:]+(/\d+)?", "10.0.0.0/8")]
HostHeader = Annotated[str, BeforeValidator(parse_host_header), _text(r"[!-~]+", "preserve")]
CertificateName = Annotated[str, BeforeValidator(parse_certificate_name), _text(r"[!-~]*", "app.internal")]
SentHost = Annotated[str, BeforeValidator(parse_sent_host), _text(r"[!-~]*", "app.internal:8000")]
TargetPath = Annotated[str, BeforeValidator(parse_target_path), _text(r"/[!-~]*", "/healthz")]
Protocol = Annotated[str, BeforeValidator(parse_protocol), _text(rf"{_TOKEN.pattern}(/{_TOKEN.pattern})?", "websocket")]
