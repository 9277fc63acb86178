"""Answers of our own: tiny, fixed, and nothing of the request in them.

Pure; called by `proxy` wherever it must answer instead of an upstream. The machine word goes into `X-Canaryproxy-Error`,
the log and the metrics, so that an operator sees whose error a status is.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

#: RFC 9110 section 15.5.6: a 405 must say what is allowed. Only TRACE gets one, any other method is the upstream's affair.
_ALLOW: Final = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"


def reply(
    status: int,
    reason: str,
    *,
    close: bool,
    head_only: bool,
    date: bytes,
    retry_after: int | None = None,
    extra: bytes = b"",
) -> bytes:
    """A complete response. `reason` is a machine word from our code; `retry_after` in seconds; `head_only` for HEAD.

    `extra` are complete lines of ours.
    """
    phrase = HTTPStatus(status).phrase.encode()
    body = b"%d %b\n" % (status, phrase)
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (status, phrase),
        b"Date: %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n" % (date, len(body)),
        b"X-Canaryproxy-Error: %b\r\n" % reason.encode(),
        _ALLOW if status == HTTPStatus.METHOD_NOT_ALLOWED else b"",
        b"" if retry_after is None else b"Retry-After: %d\r\n" % retry_after,
        extra,
        b"Connection: close\r\n" if close else b"",
        b"\r\n",
        b"" if head_only else body,
    ]
    return b"".join(lines)
