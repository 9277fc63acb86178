"""How exchanges fail: what the client is told, what is counted, how the log says it. Pure; used by `proxy.exchange`.

The words of `Failure.how` are HAProxy's: who ended it (S upstream, s its timeout, C client, c its timeout, P proxy), and in which
phase (R request, Q queue, C connect, H response head, D data). Which status when: section "Errors" of docs/architecture.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from canaryproxy.http1.head import MessageError
from canaryproxy.shared.layout import Count

if TYPE_CHECKING:
    from canaryproxy.proxy.exchange import Exchange
    from canaryproxy.proxy.tunnel import Who


class Failure(NamedTuple):
    """The upstream's failure before a response began. `falls_back`: nothing was sent, so stable may answer for a canary."""

    counted: int
    error: MessageError
    how: bytes
    falls_back: bool = False


NO_ROUTE: Final = MessageError(404, "no_route")
NO_SERVER: Final = Failure(int(Count.CONNECT_FAILED), MessageError(503, "no_healthy_upstream"), b"PC", falls_back=True)
REFUSED: Final = Failure(int(Count.CONNECT_FAILED), MessageError(502, "upstream_connect"), b"SC", falls_back=True)
NOT_TRUSTED: Final = Failure(int(Count.CONNECT_FAILED), MessageError(502, "upstream_tls"), b"SC", falls_back=True)
CONNECT_TIMEOUT: Final = Failure(
    int(Count.CONNECT_TIMEOUT), MessageError(504, "upstream_connect_timeout"), b"sC", falls_back=True
)
#: Our own want of files, ports or memory: withdrawn from what the variants are judged by.
NO_CONNECTION_LEFT: Final = Failure(int(Count.ABANDONED), MessageError(503, "no_connection_left"), b"PC")
QUEUE_FULL: Final = Failure(int(Count.CONNECT_FAILED), MessageError(503, "upstream_queue_full"), b"PQ")
QUEUE_TIMEOUT: Final = Failure(int(Count.CONNECT_TIMEOUT), MessageError(503, "upstream_queue_timeout"), b"sQ")
RESET: Final = Failure(int(Count.RESPONSE_INVALID), MessageError(502, "upstream_reset"), b"SH")
RESPONSE_TIMEOUT: Final = Failure(int(Count.RESPONSE_TIMEOUT), MessageError(504, "upstream_timeout"), b"sH")
TOTAL_TIMEOUT: Final = Failure(int(Count.RESPONSE_TIMEOUT), MessageError(504, "total_timeout"), b"sH")
REQUEST_TIMEOUT: Final = MessageError(408, "total_timeout")

#: By status; what is no status of HTTP (6xx-9xx) is the upstream's failure. 429 stands alone: it may be the canary's own limiter.
STATUS_COUNTS: Final = tuple(
    int(Count.C429 if status == 429 else (0, 0, Count.C2XX, Count.C3XX, Count.C4XX, *[Count.C5XX] * 5)[status // 100])
    for status in range(1000)
)
#: How a tunnel ended, by who ended it.
TUNNEL_ENDS: Final[dict[Who, bytes]] = {"client": b"CD", "upstream": b"SD", "idle": b"cD", "proxy": b"PD"}


def invalid(reason: str) -> Failure:
    """The upstream's answer cannot be passed on; `reason` is a machine word."""
    return Failure(int(Count.RESPONSE_INVALID), MessageError(502, reason), b"SH")


def phase_of(exchange: Exchange) -> bytes:
    """The letter of the phase that the exchange is in."""
    if exchange.status:
        return b"D"
    if exchange.server is None:
        return b"Q"
    if exchange.upstream is None:
        return b"C"
    return b"H" if exchange.request_done else b"R"
