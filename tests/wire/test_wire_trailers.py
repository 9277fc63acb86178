"""Trailers of a request (F17): dropped, unless the operator names them and the client speaks of trailers."""

from __future__ import annotations

import pytest
from wire import GET, OK, Wire

TE = b"Connection: TE\r\nTE: trailers\r\n"
HEAD = b"PUT / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n%b\r\n"
BODY = b"2\r\nhi\r\n0\r\nX-sum: 1\r\nX-Other: 2\r\nX-Last:3\r\n\r\n"
END = b"\r\n0\r\nX-sum: 1\r\nX-Last: 3\r\n\r\n"


@pytest.mark.parametrize(
    ("named", "fields", "end"),
    [
        (["X-Sum", "x-last"], TE, END),
        (["X-Sum", "x-last"], b"", b"\r\nhi\r\n0\r\n\r\n"),
        (["X-Sum"], TE, b"\r\n0\r\nX-sum: 1\r\n\r\n"),
        (["X-None"], TE, b"\r\nhi\r\n0\r\n\r\n"),
        ([], TE, b"\r\nhi\r\n0\r\n\r\n"),
    ],
    ids=["both", "not spoken of", "one", "another", "none"],
)
def test_f17_only_what_is_named_goes_on(named: list[str], fields: bytes, end: bytes) -> None:
    with Wire(request_trailers=named) as wire:
        client = wire.client()
        client.send(HEAD % fields + BODY)
        assert wire.origin.read().endswith(end)
        wire.origin.send(OK)
        assert client.read().endswith(b"ok")


def test_f17_byte_by_byte() -> None:
    with Wire(request_trailers=["X-Sum", "X-Last"]) as wire:
        client = wire.client()
        client.send(HEAD % TE, *(BODY[at : at + 1] for at in range(len(BODY))))
        assert wire.origin.read().endswith(END)
        wire.origin.send(OK)
        client.send(GET)  # the connection is in step
        assert wire.origin.read().startswith(b"GET / ")
        wire.origin.send(OK)


def test_f17_they_go_out_again_with_the_body() -> None:
    with Wire(request_trailers=["X-Sum", "X-Last"]) as wire:
        client = wire.client()
        client.send(GET)
        stale = wire.origin
        stale.send(OK)
        client.send(HEAD % TE + BODY)
        stale.send_fin()
        assert wire.origin is not stale
        assert wire.origin.read().endswith(END)
        wire.origin.send(OK)


def test_f17_they_never_come_before_the_body() -> None:
    """Whatever a trailer is called, it never becomes a field of the head."""
    with Wire(request_trailers=["X-User"], affinity={"header": "X-User"}) as wire:
        wire.publish(9_999)
        client = wire.client()
        client.send(HEAD % TE + b"0\r\nX-User: ada\r\n\r\n")
        sent = wire.origin.read()
        assert sent.index(b"X-User") > sent.index(b"\r\n\r\n")
        assert b"X-Canary-Variant: stable\r\n" in sent  # it does not say who the user is
        wire.origin.send(OK)
