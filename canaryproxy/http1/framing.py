"""How long a message's body is, and what becomes of its connection.

Pure; called by `proxy.exchange` after `head` has parsed a request; what frames a response is in `response`.
RFC 9112 sections 3.2, 6, 7 and 9, RFC 9110 section 10.1.1. F13-F15 are decided in `head`, as far as the fields alone tell.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from typing import Final, NamedTuple

from canaryproxy.http1.head import HeadRules, MessageError, RequestBlock, RequestLine


class Body(IntEnum):
    """What ends a body."""

    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3


class RequestFraming(NamedTuple):
    """`length` counts only with `Body.LENGTH`, and is then above 0. `host` is the authority to forward, b"" if none was given."""

    body: Body
    length: int
    keep_alive: bool
    expect_continue: bool
    host: bytes
    minor: int


_NONE, _LENGTH, _CHUNKED, _ = Body  # an enum's attributes are slow to look up
_REFUSED: Final = {
    b"TRACE": MessageError(405, "method_not_allowed"),  # it would reflect Cookie and Authorization
    b"CONNECT": MessageError(501, "connect_not_supported"),
}
_NO_BODY_IN_1_0: Final = frozenset({b"GET", b"HEAD", b"DELETE"})


def frame_request(line: RequestLine, block: RequestBlock, rules: HeadRules) -> RequestFraming | MessageError:
    """The framing of a request, the authority it is for, and whether the connection may serve another one."""
    method, minor, authority = line.method, line.minor, line.authority
    host = block.host
    if minor == 0:
        error = _old_request_error(method, block)
        if error is not None:
            return error
    elif host is None:
        return MessageError(400, "missing_host")
    if authority is not None:  # RFC 9112 section 3.2.2: the target counts, Host is replaced
        if rules.strict_authority and host is not None and host.lower() != authority.lower():
            return MessageError(400, "host_differs_from_target")
        host = authority
    if method in _REFUSED:
        return _REFUSED[method]
    length = block.content_length or 0
    body = _CHUNKED if block.chunked else _LENGTH if length else _NONE
    expect_continue = False
    if block.expect is not None and minor:
        if block.expect != b"100-continue":
            return MessageError(417, "unknown_expectation")
        expect_continue = body is not _NONE
    said = block.keep_alive
    return RequestFraming(body, length, minor == 1 if said is None else said, expect_continue, host or b"", minor)


def may_go_on(error: MessageError, line: RequestLine, block: RequestBlock) -> bool:
    """Whether the connection may serve another request after this answer; after an error of framing, never (F19).

    A method or place that there is not (404, 405) leaves no doubt where the request ends, if it has no body.
    """
    if error.status not in (404, 405) or block.chunked or block.content_length:
        return False
    return line.minor == 1 if block.keep_alive is None else block.keep_alive


def _old_request_error(method: bytes, block: RequestBlock) -> MessageError | None:
    if block.chunked:  # RFC 9112 section 6.1: faulty framing (CVE-2026-2835)
        return MessageError(400, "transfer_encoding_in_http_1_0")
    if block.content_length and method in _NO_BODY_IN_1_0:  # HTTP/1.0 peers are known to read these in two ways
        return MessageError(400, "body_not_allowed_in_http_1_0")
    return None


def wanted_upgrade(
    line: RequestLine, block: RequestBlock, framing: RequestFraming, allowed: Collection[bytes] = (b"websocket",)
) -> bytes | None:
    """The protocol to ask the upstream for, lower-case; None: go on without Upgrade.

    Only with GET, HTTP/1.1 and no body: with a body, who reads what after the head is a guess (CVE-2026-58055).
    """
    if (
        block.upgrade is None
        or line.method != b"GET"
        or line.minor == 0
        or framing.body is not _NONE
        or block.content_length is not None
    ):
        return None
    protocol = block.upgrade.lower()
    return protocol if protocol in allowed else None
