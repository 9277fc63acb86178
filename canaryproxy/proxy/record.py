"""What the access log says of an exchange, and of a request that none began for. Called by those who end them."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from canaryproxy.http1.head import MessageError
from canaryproxy.http1.logline import Entry, trace_id
from canaryproxy.proxy.accesslog import AccessLog
from canaryproxy.proxy.route import VARIANT_NAMES
from canaryproxy.routing.identity import Cookieless

if TYPE_CHECKING:
    from canaryproxy.proxy.downstream import Downstream
    from canaryproxy.proxy.exchange import Exchange
    from canaryproxy.proxy.recall import Block, Line


class Record(AccessLog):
    """The access log, asked in the data plane's words."""

    def exchange_ended(self, exchange: Exchange, now: float, how: bytes, error: MessageError | None) -> None:
        """Log an exchange that ended at `now` (monotonic seconds)."""
        line, fields, server, body = exchange.line, exchange.block.fields, exchange.server, exchange.body
        started, sent, head = exchange.started, exchange.sent_at, exchange.head_at
        self.add(
            Entry(
                request_id=exchange.request_id,
                trace_id=trace_id(fields.joined(b"traceparent")),
                client_ip=exchange.downstream.client_address(exchange.block),
                peer=exchange.downstream.peer,
                method=line.method,
                target=line.target,
                proto=b"HTTP/1.1" if line.minor else b"HTTP/1.0",
                host=exchange.framing.host,
                status_from=b"proxy" if error is not None and not exchange.status else b"upstream" if exchange.status else b"",
                error=error.reason.encode() if error is not None else b"",
                route=exchange.route.name.encode(),
                variant=VARIANT_NAMES[exchange.variant],
                assignment=_assignment(exchange),
                override=exchange.override if exchange.route.overrides is not None else b"",
                upstream=b"" if server is None else server.authority or server.name.encode(),
                termination=how,
                user_agent=fields.get(b"user-agent") or b"",
                referer=fields.get(b"referer") or b"",
                time=time() - (now - started),
                status=exchange.status or (error.status if error is not None else 0),
                bytes_in=body.received if body is not None else 0,
                bytes_out=exchange.bytes_out,
                t_total=now - started,
                t_queue=exchange.placed_at - started if exchange.placed_at else None,
                t_connect=sent - exchange.placed_at if sent and exchange.placed_at else None,
                t_ttfb=head - started if head else None,
                t_body=now - head if head else None,
                attempts=exchange.tries,
                reused=not exchange.fresh,
            )
        )

    def rejected(self, downstream: Downstream, error: MessageError, line: Line | None, block: Block | None) -> None:
        """Log a request that was refused before it was any variant's."""
        fields = None if block is None else block.fields
        self.add(
            Entry(
                client_ip=downstream.peer if block is None else downstream.client_address(block),
                peer=downstream.peer,
                method=b"" if line is None else line.method,
                target=b"" if line is None else line.target,
                proto=b"" if line is None else b"HTTP/1.1" if line.minor else b"HTTP/1.0",
                host=fields.host or b"" if fields is not None else b"",
                status_from=b"proxy",
                error=error.reason.encode(),
                termination=b"cR" if error.status == 408 else b"PR",
                user_agent=fields.get(b"user-agent") or b"" if fields is not None else b"",
                referer=fields.get(b"referer") or b"" if fields is not None else b"",
                time=time(),
                status=error.status,
            )
        )


def _assignment(exchange: Exchange) -> bytes:
    """Why the request went to its variant."""
    if exchange.fell_back:
        return b"fallback"
    if exchange.route.overrides is not None and exchange.override:
        return b"override"
    identity, key = exchange.route.identity, exchange.key
    if key is None:
        return b"no_user"
    fields = exchange.block.fields
    if identity.header is not None and fields.get(identity.header) == key:
        return b"header"
    if fields.cookie(identity.cookie) == key:
        return b"cookie"
    return b"ip" if identity.cookieless is Cookieless.IP else b"issued"
