"""Heads to send on: what `head` and `response` kept, and the few lines that are ours.

Pure; called by `proxy.exchange`. RFC 9110 section 7.6, RFC 7239. Everything after the request line depends only on the
header block and the hop, so `proxy` keeps it for the next request that has the same block.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Final, NotRequired, TypedDict, Unpack

from canaryproxy.http1.fields import list_elements, split_lines
from canaryproxy.http1.framing import RequestFraming
from canaryproxy.http1.head import RequestBlock, RequestLine
from canaryproxy.http1.response import ResponseHead

_LINE_ENDS: Final = b"\r\n\0"


class Entrance(TypedDict):
    """What is known of the way of every request that comes to one listener."""

    port: bytes  #: the port it came to
    host_header: NotRequired[str]  #: preserve (default), upstream, or a literal
    proto: NotRequired[bytes]  #: http (default) or https
    via: NotRequired[bytes | None]  #: our pseudonym


class Hop(Entrance):
    """What is known of the way of a request, beside the request."""

    variant: bytes
    peer: bytes  #: the client's IP address as we see it
    upstream_authority: bytes
    trusted: NotRequired[bool]  #: the peer is a trusted proxy: its forwarding fields are believed and extended
    upgrade: NotRequired[bytes | None]  #: protocol to ask for (`framing.wanted_upgrade`)


def request_ids(prefix: bytes) -> Iterator[bytes]:
    """Request ids without end, each a new one (H10). `prefix` must differ between processes: 16 random hex digits of each.

    One costs a tenth of what reading 16 random bytes does, and two of one process sort by time.
    """
    return map((prefix + b"%08x").__mod__, count(1))


def request_head(
    line: RequestLine, block: RequestBlock, framing: RequestFraming, request_id: bytes | None = None, **hop: Unpack[Hop]
) -> bytes:
    """The complete head for the upstream. `request_id` is one that a trusted peer gave (`block.request_id`), or ours.

    It is the last field and the only one that is new for an equal block.
    """
    lines = request_lines(block, framing, **hop)
    if request_id is None:
        return request_line(line) + lines
    return b"%b%bX-Request-ID: %b\r\n\r\n" % (request_line(line), lines[:-2], request_id)


def request_line(line: RequestLine) -> bytes:
    """The request line for the upstream; the version is ours (RFC 9112 section 2.3), the target byte-exact."""
    return b"%b %b HTTP/1.1\r\n" % (line.method, line.target)


def request_lines(block: RequestBlock, framing: RequestFraming, **hop: Unpack[Hop]) -> bytes:
    """What follows the request line, the empty line included; the same for equal arguments.

    Framing is written anew from what was understood, never copied (RFC 9112 section 6.3, F13).
    """
    host = _host_to_send(framing, hop)
    shown, chain, proto, port = framing.host, hop["peer"], hop.get("proto", b"http"), hop["port"]
    trusted, variant = hop.get("trusted", False), hop["variant"]
    if trusted:
        shown, chain, proto, port = _believed(block, shown, chain, proto, port)
    own = b"".join((chain, proto, port, variant))
    if len(own.translate(None, _LINE_ENDS)) != len(own):  # H12, in one scan for all
        chain, proto, port, variant = map(_safe, (chain, proto, port, variant))
    parts = [
        block.forward if host == block.host else _with_host(block, host),
        *((b"X-Forwarded-Host: ", shown, b"\r\nX-Forwarded-For: ") if shown else (b"X-Forwarded-For: ",)),
        *(chain, b"\r\nX-Forwarded-Proto: ", proto, b"\r\nX-Forwarded-Port: ", port, b"\r\nX-Canary-Variant: ", variant),
    ]
    if block.content_length is not None:
        parts.append(b"\r\nContent-Length: %d" % block.content_length)
    elif block.chunked:
        parts.append(b"\r\nTransfer-Encoding: chunked")
    upgrade = hop.get("upgrade")
    if upgrade is not None:
        parts.append(b"\r\nConnection: upgrade\r\nUpgrade: %b" % _safe(upgrade))
    elif block.te_trailers:  # TE must be named by Connection (RFC 9110 section 10.1.4)
        parts.append(b"\r\nConnection: TE\r\nTE: trailers")
    if trusted and block.get(b"forwarded") is not None:
        parts.append(_forwarded_element(hop))
    via = hop.get("via")
    if via is not None:
        parts.append(b"\r\nVia: 1.%d %b" % (framing.minor, _safe(via)))
    parts.append(b"\r\n\r\n")
    return b"".join(parts)


def _safe(value: bytes) -> bytes:
    """H12: without what could end a line, however it came into a value that we were configured with or computed."""
    return value.translate(None, _LINE_ENDS)


def _host_to_send(framing: RequestFraming, hop: Hop) -> bytes:
    choice = hop.get("host_header", "preserve")
    if choice == "preserve":
        return framing.host or hop["upstream_authority"]  # HTTP/1.0 may come without
    return hop["upstream_authority"] if choice == "upstream" else choice.encode("latin-1")


def _with_host(block: RequestBlock, host: bytes) -> bytes:
    lines, host = block.forward, _safe(host)
    if block.host is None:
        return b"Host: %b\r\n%b" % (host, lines)
    lower = lines.lower()
    start = 0 if lower.startswith(b"host:") else lower.index(b"\nhost:") + 1
    return b"%bHost: %b%b" % (lines[:start], host, lines[lines.index(b"\r\n", start) :])


def _believed(block: RequestBlock, host: bytes, peer: bytes, proto: bytes, port: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """H4: the trusted peer joins the chain of addresses; what it says of the first hop stands, and is completed.

    Of a field that came twice the last one counts: that is the trusted peer's, the others may be its client's.
    """
    chain = block.joined(b"x-forwarded-for")
    return (
        block.last(b"x-forwarded-host") or host,
        chain + b", " + peer if chain else peer,
        block.last(b"x-forwarded-proto") or proto,
        block.last(b"x-forwarded-port") or port,
    )


def _forwarded_element(hop: Hop) -> bytes:
    """One more line of a list field is one more element (RFC 7239 section 4)."""
    peer = hop["peer"]
    node = b'"[%b]"' % peer if b":" in peer else peer
    return b"\r\nForwarded: for=%b;proto=%b" % (_safe(node), _safe(hop.get("proto", b"http")))


def is_loop(block: RequestBlock, via: bytes) -> bool:
    """Whether the request has passed here before (answer 508): Via has our pseudonym already (RFC 9110 section 7.6.3)."""
    came = block.joined(b"via")
    return came is not None and any(via.lower() in element.split()[1:2] for element in list_elements(came))


def response_head(
    head: ResponseHead, *, client_minor: int, keep_alive: bool, date: bytes, chunk_body: bool = False, extra: bytes = b""
) -> bytes:
    """The complete head for the client; of an interim response too, which takes nothing of ours.

    `date` is the value to set where the upstream gave none (H6), `extra` complete lines of ours, left out if they are none
    (H12). `chunk_body` is for bodies that we chunk: of unknown length and for an HTTP/1.1 client.
    """
    if head.status < 200 or (keep_alive and client_minor and head.has_date and not chunk_body and not extra):
        return head.forward + b"\r\n"
    parts = [head.forward, extra if not extra or split_lines(extra) is not None else b""]
    if not head.has_date:
        parts.append(b"Date: %b\r\n" % date)
    if chunk_body:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    parts.append(_END[keep_alive, client_minor])
    return b"".join(parts)


_END: Final = {
    (False, 0): b"Connection: close\r\n\r\n",
    (False, 1): b"Connection: close\r\n\r\n",
    (True, 0): b"Connection: keep-alive\r\n\r\n",
    (True, 1): b"\r\n",
}
