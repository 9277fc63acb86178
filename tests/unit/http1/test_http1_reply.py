"""Answers of our own are complete, and the oracle reads them as we meant them."""

from __future__ import annotations

import h11
import pytest

from canaryproxy.http1.reply import CONTINUE, reply


def read(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes, object]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    response, body = connection.next_event(), b""
    assert isinstance(response, h11.Response)
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return response, body, connection.their_state


@pytest.mark.parametrize("status", [400, 404, 405, 408, 413, 414, 417, 421, 431, 500, 501, 502, 503, 504, 505, 508])
def test_reply(status: int) -> None:
    response, body, state = read(reply(status, "some_reason", close=True, head_only=False, date=b"now"))
    assert response.status_code == status
    assert body.startswith(b"%d " % status)
    assert state is h11.MUST_CLOSE
    headers = dict(response.headers.raw_items())
    assert headers[b"X-Canaryproxy-Error"] == b"some_reason"
    assert headers[b"Date"] == b"now"
    assert (b"Allow" in headers) == (status == 405)


def test_kept_connection_and_head() -> None:
    response, body, state = read(reply(503, "x", close=False, head_only=True, date=b"now", retry_after=7), "HEAD")
    headers = dict(response.headers.raw_items())
    assert (headers[b"Retry-After"], headers[b"Content-Length"], body) == (b"7", b"24", b"")
    assert state is h11.DONE


def test_continue() -> None:
    connection = h11.Connection(h11.CLIENT)
    connection.send(
        h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "1"), ("Expect", "100-continue")])
    )
    connection.receive_data(CONTINUE)
    event = connection.next_event()
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 100
