"""The age of connections (C1, C3): they end in order, looked at by the sweep alone."""

from __future__ import annotations

import pytest
from wire import GET, OK, Wire

LAST = b"\r\nConnection: close\r\n\r\nok"


@pytest.mark.parametrize(("age", "ends"), [("20s", True), ("0s", False)])
def test_c1_a_client_connection_of_that_age_ends_with_its_next_response(age: str, ends: bool) -> None:
    with Wire(timeouts={"connection_age": age}) as wire:
        client = wire.client()
        for _ in range(3):
            wire.advance(6)
            client.send(GET)
            wire.origin.send(OK)
            assert client.read().endswith(b"\r\n\r\nok")
            assert not client.gone
        wire.advance(6)
        assert not client.gone  # not before a response: its next request may be on its way
        client.send(GET)
        wire.origin.send(OK)
        assert client.read().endswith(LAST) is ends
        assert client.was_closed is ends


def test_c1_the_response_in_hand_says_so() -> None:
    with Wire(timeouts={"connection_age": "20s", "response_head": "60s"}) as wire:
        wire.hung = None
        client = wire.client()
        client.send(GET)
        wire.advance(21)
        wire.origin.send(OK)
        assert client.read().endswith(LAST)
        assert client.was_closed


@pytest.mark.parametrize(("age", "ends"), [("20s", True), ("0s", False)])
def test_c3_an_idle_upstream_connection_of_that_age_is_closed(age: str, ends: bool) -> None:
    with Wire(timeouts={"connection_age": age}) as wire:
        for _ in range(3):
            wire.exchange()
            wire.advance(6)
        assert not wire.origin.gone
        wire.exchange()
        wire.advance(6)
        assert wire.origin.gone is ends


def test_c3_one_in_use_is_left_alone() -> None:
    with Wire(timeouts={"connection_age": "20s", "response_head": "60s"}) as wire:
        wire.hung = None
        client = wire.client()
        client.send(GET)
        wire.advance(21)
        assert not wire.origin.gone
        wire.origin.send(OK)
        assert client.read().endswith(b"ok")
        wire.advance(0.5)
        assert wire.origin.gone
