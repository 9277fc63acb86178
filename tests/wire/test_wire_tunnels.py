"""Upgrade in the data plane, from the request to the tunnel's end: when it is asked for, granted and counted (C9, C10, R6)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import cast

import pytest
import wire as wires
from wire import GET, OK, FarEnd, Wire

from canaryproxy.proxy import outcome
from canaryproxy.proxy.downstream import Downstream
from canaryproxy.proxy.upstream import Upstream
from canaryproxy.shared.layout import CANARY, STABLE, Count

ASK = b"GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
REFUSE = b"HTTP/1.1 403 No\r\nDate: now\r\nContent-Length: 2\r\n\r\nno"


class SwitchingEnd(FarEnd):
    """A far end whose protocol may be replaced, as a tunnel does."""

    family = socket.AF_UNIX

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(Downstream, protocol)


class TlsEnd(SwitchingEnd):
    """A far end with the habit of uvloop's TLS: whoever is the protocol when the connection goes is told so, a turn later."""

    def _lose(self, exc: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._wire.call_soon(self._tell, self.protocol, exc)

    def _tell(self, protocol: asyncio.BaseProtocol, exc: Exception | None) -> None:
        protocol.connection_lost(exc)
        self.gone = True


@pytest.fixture(autouse=True)
def _switching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "FarEnd", SwitchingEnd)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        yield made


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A worker that can be told to leave, within 5 s."""
    with Wire(timeouts={"drain": "5s"}) as made:
        monkeypatch.setattr("canaryproxy.proxy.worker.monotonic", lambda: made.now)
        yield made


def ask(wire: Wire, user: bytes = b"anna") -> FarEnd:
    """A client that has asked to switch, as this user."""
    client = wire.client()
    client.send(ASK[:-2] + b"Cookie: uid=%b\r\n\r\n" % user)
    return client


def tunnel(wire: Wire, user: bytes = b"anna") -> tuple[FarEnd, FarEnd]:
    """The far ends of a new tunnel, through which nothing has come yet."""
    client = ask(wire, user)
    origin = wire.origin
    origin.read()
    origin.send(SWITCH)
    assert client.read() == SWITCH
    return client, origin


def close(client: FarEnd, origin: FarEnd) -> None:
    """End a tunnel in order."""
    client.send_fin()
    origin.send_fin()
    assert (client.was_closed, origin.was_closed) == (True, True)


# Asking.


def test_the_request_for_a_switch(wire: Wire) -> None:
    close(*tunnel(wire))
    client = ask(wire)
    head = wire.origin.read()
    assert b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" in head
    assert head.lower().count(b"upgrade:") == head.lower().count(b"connection:") == 1
    wire.origin.send(SWITCH)
    close(client, wire.origin)
    assert wire.outcomes() == {Count.INFORMATIONAL: 2}


STRIPPED = {
    "POST": ASK.replace(b"GET", b"POST"),
    "HTTP/1.0": ASK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "not in Connection": ASK.replace(b"Connection: Upgrade", b"Connection: keep-alive"),
    "no Connection": ASK.replace(b"Connection: Upgrade\r\n", b""),
    "a length of 0": ASK.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
    "a body": ASK.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi"),
    "a chunked body": ASK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    "another protocol": ASK.replace(b"websocket", b"h2c"),
    "a list": ASK.replace(b"websocket", b"websocket, h2c"),
    "two lines": ASK.replace(b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: h2c"),
}


@pytest.mark.parametrize("request_", STRIPPED.values(), ids=STRIPPED)
def test_a_switch_that_may_not_be_asked_for_is_a_request_like_others(wire: Wire, request_: bytes) -> None:
    client = wire.client()
    client.send(request_)
    assert b"pgrade" not in wire.origin.read()
    wire.origin.send(OK)
    assert client.read().endswith(b"\r\n\r\nok")
    assert not wire.origin.gone, "of such a request, the connection may serve others"
    assert wire.outcomes() == {Count.C2XX: 1}


@pytest.mark.parametrize("request_", STRIPPED.values(), ids=STRIPPED)
def test_a_switch_that_was_stripped_is_not_granted(wire: Wire, request_: bytes) -> None:
    client = wire.client()
    client.send(request_)
    wire.origin.send(SWITCH + b"frames")
    answer = client.read()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"frames" not in answer
    assert wire.origin.gone
    assert wire.outcomes() == {Count.RESPONSE_INVALID: 1}


def test_no_upgrades_at_all() -> None:
    with Wire(upgrades=[]) as wire:
        client = ask(wire)
        assert b"pgrade" not in wire.origin.read()
        wire.origin.send(OK)
        assert client.read() == OK


def test_other_upgrades() -> None:
    with Wire(upgrades=["Chat/2"]) as wire:
        client = wire.client()
        client.send(ASK.replace(b"websocket", b"cHAT/2"))
        assert b"\r\nUpgrade: chat/2\r\n" in wire.origin.read()
        wire.origin.send(SWITCH.replace(b"websocket", b"CHAT/2"))
        assert b"\r\nUpgrade: CHAT/2\r\n" in client.read()
        close(client, wire.origin)


# What is sent ahead: CVE-2026-2833 (Pingora), and desynchronisation in general.


@pytest.mark.parametrize("pieces", [[ASK + GET], [ASK, GET], [ASK, GET[:5], GET[5:]]], ids=["at once", "behind", "in pieces"])
def test_what_is_sent_ahead_waits_for_the_switch(wire: Wire, pieces: list[bytes]) -> None:
    client = wire.client()
    client.send(*pieces)
    assert wire.origin.read().endswith(b"\r\n\r\n")
    wire.origin.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    assert wire.origin.read() == b""
    assert client.read() == b"HTTP/1.1 102 Processing\r\n\r\n"
    wire.origin.send(SWITCH)
    assert wire.origin.read() == GET
    assert client.read() == SWITCH
    close(client, wire.origin)
    assert wire.outcomes() == {Count.INFORMATIONAL: 1}
    assert wire.counts()[Count.BYTES_IN] == len(GET)


@pytest.mark.parametrize("pieces", [[ASK + GET], [ASK, GET], [ASK, GET[:5], GET[5:]]], ids=["at once", "behind", "in pieces"])
def test_what_is_sent_ahead_is_the_next_request_if_there_is_no_switch(wire: Wire, pieces: list[bytes]) -> None:
    client = wire.client()
    client.send(*pieces)
    first = wire.origin
    first.read()
    first.send(REFUSE)
    assert client.read() == REFUSE
    assert first.gone, "who was asked to switch may read on as if it had (CVE-2026-58055)"
    assert first.read() == b""
    assert wire.origin is not first
    assert wire.origin.read().startswith(b"GET / HTTP/1.1\r\n")
    wire.origin.send(OK)
    assert client.read() == OK
    assert wire.outcomes() == {Count.C4XX: 1, Count.C2XX: 1}


@pytest.mark.parametrize(
    "answer",
    [
        REFUSE,
        OK.replace(b"Content-Length: 2", b"Content-Length: 0")[:-2],
        b"HTTP/1.1 426 Upgrade Required\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
    ],
    ids=["length", "empty", "chunked", "304"],
)
def test_after_an_attempt_the_connection_is_closed(wire: Wire, answer: bytes) -> None:
    client = ask(wire)
    wire.origin.send(answer)
    assert client.read()
    assert wire.origin.gone
    client.send(GET)
    assert wire.origin.read().startswith(b"GET / ")
    wire.origin.send(OK)


def test_the_client_that_leaves_before_the_answer(wire: Wire) -> None:
    client = ask(wire)
    client.send_fin()
    assert wire.origin.gone
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}


# Granting.


def test_every_split_of_the_answer(wire: Wire) -> None:
    answer = SWITCH + b"frames"
    for place in range(len(answer) + 1):
        client = ask(wire)
        wire.origin.read()
        wire.origin.send(answer[:place], answer[place:])
        assert client.read() == answer
        client.send(b"back")
        assert wire.origin.read() == b"back"
        close(client, wire.origin)
    assert wire.outcomes() == {Count.INFORMATIONAL: len(answer) + 1}
    assert wire.counts()[Count.BYTES_OUT] == 6 * (len(answer) + 1)


def test_every_split_of_the_request(wire: Wire) -> None:
    request = ASK + b"frames"
    for place in range(len(request) + 1):
        client = wire.client()
        client.send(request[:place], request[place:])
        wire.origin.read()
        wire.origin.send(SWITCH)
        assert (wire.origin.read(), client.read()) == (b"frames", SWITCH)
        close(client, wire.origin)
    assert wire.outcomes() == {Count.INFORMATIONAL: len(request) + 1}


def test_the_answer_is_that_of_the_origin() -> None:
    """But for fields of one hop, for framing that a 1xx must not have, and for what is ours."""
    with Wire(affinity={"cookieless": "issue"}, expose_request_id=True) as wire:
        wire.publish(1)
        client = wire.client()
        client.send(ASK)
        wire.origin.send(
            b"HTTP/1.1 101 Web Socket Protocol Handshake\r\n"
            b"UPGRADE: WebSocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            b"Connection: keep-alive, Upgrade, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
            b"Content-Length: 0\r\nX-Request-ID: theirs\r\n\r\n"
        )
        line, *lines = client.read().split(b"\r\n")
        assert line == b"HTTP/1.1 101 Web Socket Protocol Handshake"
        assert lines[:3] == [
            b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            b"Connection: upgrade",
            b"Upgrade: WebSocket",
        ]
        assert lines[3].startswith(b"X-Request-ID: ")
        assert lines[4].startswith(b"Set-Cookie: uid=")
        assert lines[5:] == [b"", b""]
        close(client, wire.origin)


@pytest.mark.parametrize("end", [SwitchingEnd, TlsEnd])
def test_a_client_that_is_gone_when_the_101_comes(wire: Wire, monkeypatch: pytest.MonkeyPatch, end: type[FarEnd]) -> None:
    """In the turn between: its connection has been lost, and nobody was told yet."""
    monkeypatch.setattr(wires, "FarEnd", end)
    client = ask(wire)
    wire.origin._sent += SWITCH
    client.reset()
    assert wire.origin.gone
    assert not wire.worker.tunnels
    assert len(wire.outcomes()) == 1
    assert wire.outcomes().keys() <= {Count.CLIENT_GONE, Count.INFORMATIONAL}


def test_a_switch_that_is_read_from_what_a_broken_connection_left(wire: Wire) -> None:
    """Who answers before it is asked, and breaks the connection, has switched nothing: a tunnel to it would never end."""
    wire.holds_connects = True
    client = ask(wire)
    exchange, server = wire.connecting.pop()
    upstream = Upstream(wire.worker, server)
    origin = SwitchingEnd(wire, upstream, server.host)
    wire.ends.append(origin)
    exchange.connected(upstream)
    wire._far_from_nothing.send(SWITCH + b"frames")
    origin.reset()
    assert client.read().startswith(b"HTTP/1.1 502 ")
    assert wire.outcomes() == {Count.RESPONSE_INVALID: 1}
    assert not wire.worker.tunnels


NOT_GRANTED = {
    "another protocol": SWITCH.replace(b"websocket", b"h2c"),
    "no protocol": SWITCH.replace(b"Upgrade: websocket\r\n", b""),
    "two protocols": SWITCH.replace(b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: h2c"),
    "a list": SWITCH.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
}


@pytest.mark.parametrize("answer", NOT_GRANTED.values(), ids=NOT_GRANTED)
def test_a_switch_to_something_else_is_502(wire: Wire, answer: bytes) -> None:
    client = ask(wire)
    wire.origin.send(answer + b"frames")
    got = client.read()
    assert got.startswith(b"HTTP/1.1 502 ")
    assert b"X-Canaryproxy-Error: upstream_bad_upgrade\r\n" in got
    assert b"frames" not in got
    assert wire.origin.gone
    assert wire.outcomes() == {Count.RESPONSE_INVALID: 1}


# Ends, and how they are counted: one outcome for each, judged by the 101.


@pytest.mark.parametrize("order", ["client", "origin"])
def test_each_side_may_end_first(wire: Wire, order: str) -> None:
    client, origin = tunnel(wire)
    first, second = (client, origin) if order == "client" else (origin, client)
    first.send(b"last words")
    first.send_fin()
    assert (second.read(), second.got_fin) == (b"last words", True)
    second.send(b"an answer to them")
    assert first.read() == b"an answer to them"
    assert not second.gone
    second.send_fin()
    assert (first.was_closed, second.was_closed) == (True, True)
    assert wire.outcomes() == {Count.INFORMATIONAL: 1}


@pytest.mark.parametrize(
    ("side", "expected"), [("client", {Count.INFORMATIONAL: 1}), ("origin", {Count.TRUNCATED: 1})], ids=["client", "origin"]
)
def test_a_reset_is_passed_on_and_accuses_only_the_upstream(wire: Wire, side: str, expected: dict[Count, int]) -> None:
    client, origin = tunnel(wire)
    broken, other = (client, origin) if side == "client" else (origin, client)
    broken.reset()
    assert other.was_reset
    assert wire.outcomes() == expected
    assert (wire.counts().resolved, wire.counts()[Count.FAILED]) == (2, 1) if side == "origin" else (1, 0)


def test_a_tunnel_is_judged_by_its_101(wire: Wire) -> None:
    client = ask(wire)
    wire.now += 0.11
    wire.worker.now = wire.now
    wire.origin.send(SWITCH)
    second = int(wire.now - 0.11)
    judged = wire.counts().cohort(second)
    assert (*judged[:3], sum(judged)) == (1, 0, 1, 2)
    wire.advance(3000)
    close(client, wire.origin)
    assert wire.counts().cohort(second) == judged
    assert wire.counts()[Count.LATENCY_SUM_US] == pytest.approx(110_000, abs=1)


def test_a_client_that_said_its_last_word_before_the_101(wire: Wire) -> None:
    """It may do so only if no request can follow; that nothing more comes is passed on all the same (C10)."""
    client = wire.client()
    client.send(ASK.replace(b"Upgrade\r\n", b"close, Upgrade\r\n", 1))
    client.send_fin()
    wire.origin.send(SWITCH + b"farewell")
    assert wire.origin.got_fin
    wire.origin.send_fin()
    assert client.read() == SWITCH + b"farewell"
    assert wire.origin.gone
    assert client.gone
    assert wire.outcomes() == {Count.INFORMATIONAL: 1}


def test_an_idle_tunnel() -> None:
    with Wire(timeouts={"tunnel_idle": "60s"}) as wire:
        client, origin = tunnel(wire)
        for end, other in ((client, origin), (origin, client)):
            wire.advance(59)
            end.send(b"x")
            assert other.read() == b"x"
        wire.advance(59.9)
        assert not client.gone
        wire.advance(0.2)
        assert (client.was_closed, origin.was_closed) == (True, True)
        assert wire.outcomes() == {Count.INFORMATIONAL: 1}


def test_no_other_deadline_ends_a_tunnel() -> None:
    with Wire(timeouts={"total": "1s", "response_head": "1s", "response_body_idle": "1s", "keep_alive": "1s"}) as wire:
        client, origin = tunnel(wire)
        wire.advance(1000)
        client.send(b"x")
        assert origin.read() == b"x"
        close(client, origin)


def test_a_101_that_does_not_come() -> None:
    with Wire(timeouts={"response_head": "5s"}) as wire:
        client = ask(wire)
        wire.advance(5.5)
        assert client.read().startswith(b"HTTP/1.1 504 ")
        assert wire.origin.gone
        assert wire.outcomes() == {Count.RESPONSE_TIMEOUT: 1}


# Health: a server that switches serves.


def test_a_101_ends_a_row_of_failures() -> None:
    """Else a server of WebSockets alone is ejected for failures that are days apart."""
    with Wire(upgrades=["websocket"]) as wire:
        server = wire.worker.pools[0].servers[0]
        for _ in range(4):
            client = ask(wire)
            wire.origin.send_fin()
            assert client.read().startswith(b"HTTP/1.1 502 ")
        assert server.failures == 4
        close(*tunnel(wire))
        assert server.failures == 0


# A tunnel and the split.


def pool_of(origin: FarEnd) -> str:
    """The pool of the server at this end."""
    return "v" + str(origin.get_extra_info("peername")[0])[5]


def pass_time(wire: Wire, seconds: float) -> None:
    """Let time pass as it does, with a sweep for each half second."""
    for _ in range(round(seconds * 2)):
        wire.advance(0.5)


@pytest.fixture
def split() -> Iterator[Wire]:
    with Wire(timeouts={"tunnel_grace": "3s"}) as made:
        made.publish(10_000)
        yield made


def test_a_rollback_ends_the_canary_s_tunnels_after_their_grace(split: Wire) -> None:
    split.publish(5_000)
    users = [tunnel(split, b"user-%d" % n) for n in range(12)]
    on_canary = [user for user in users if pool_of(user[1]) == "v2"]
    on_stable = [user for user in users if user not in on_canary]
    assert on_canary
    assert on_stable
    split.publish(0)
    split.advance(0.5)
    split.advance(2.9)
    assert not any(client.gone for client, _ in users)
    split.advance(0.5)
    assert all(client.was_closed and origin.was_closed for client, origin in on_canary)
    split.advance(1000)
    assert not any(client.gone for client, _ in on_stable)
    assert split.outcomes(CANARY) == {Count.INFORMATIONAL: len(on_canary)}
    for user in on_stable:
        close(*user)
    assert split.outcomes(STABLE) == {Count.INFORMATIONAL: len(on_stable)}


def test_a_rollback_that_is_taken_back_in_time(split: Wire) -> None:
    client, origin = tunnel(split)
    split.publish(0)
    pass_time(split, 2.5)
    split.publish(10_000)
    pass_time(split, 1)
    split.publish(0)
    pass_time(split, 2.5)
    client.send(b"still here")
    assert origin.read() == b"still here"
    pass_time(split, 1)
    assert client.was_closed


def test_a_lower_weight_moves_only_whom_it_moves(split: Wire) -> None:
    keys = [b"user-%d" % n for n in range(12)]
    users = {key: tunnel(split, key) for key in keys}
    split.publish(5_000)
    pass_time(split, 4)
    stayed = {key for key, (client, _) in users.items() if not client.gone}
    fresh = {}
    for key in keys:
        client = ask(split, key)
        fresh[key] = b"canary" in split.origin.read()
        client.send_fin()
    assert stayed == {key for key in keys if fresh[key]}
    assert 0 < len(stayed) < 12
    for key in stayed:
        close(*users[key])


def test_a_promotion_and_its_rollback(split: Wire) -> None:
    """A promotion takes nobody's tunnel. Its rollback takes all that lead to what was promoted, from before it and after it."""
    split.publish(5_000)
    users = [tunnel(split, b"user-%d" % n) for n in range(12)]
    split.publish(10_000)
    pass_time(split, 10)
    split.publish(0, swapped=True)
    pass_time(split, 10)
    assert not any(client.gone for client, _ in users)
    users.append(tunnel(split))
    assert pool_of(users[-1][1]) == "v2"
    split.publish(0)
    pass_time(split, 4)
    assert [client.was_closed for client, _ in users] == [pool_of(origin) == "v2" for _, origin in users]
    pass_time(split, 100)
    for client, origin in users:
        if pool_of(origin) == "v1":
            assert not client.gone
            close(client, origin)


def test_a_fallback_is_stable_s_tunnel(split: Wire) -> None:
    split.holds_connects = True
    client = ask(split)
    split.refuse(outcome.REFUSED)
    if split.connecting[0][1].host == "10.0.2.1":
        split.refuse(outcome.REFUSED)
    origin = split.accept()
    assert origin.get_extra_info("peername")[0] == "10.0.1.1"
    origin.send(SWITCH)
    assert client.read() == SWITCH[:-2] + b"X-Canaryproxy-Fallback: upstream_connect\r\n\r\n"
    split.publish(0)
    pass_time(split, 10)
    assert not client.gone
    close(client, origin)
    assert (split.outcomes(STABLE), split.outcomes(CANARY)) == ({Count.INFORMATIONAL: 1}, {Count.CONNECT_FAILED: 1})


# A tunnel and the limits.


def test_a_tunnel_counts_as_a_connection_of_its_client() -> None:
    with Wire(limits={"connections_per_ip": 2}) as wire:
        users = [tunnel(wire), tunnel(wire)]
        third = wire.client()
        assert b"too_many_connections_of_one_client" in third.read()
        for user in users:
            close(*user)
        third.send_fin()
        close(*tunnel(wire))


def test_a_tunnel_that_came_by_a_retry_gives_its_place_back() -> None:
    with Wire(servers=2) as wire:
        wire.holds_connects = True
        client = ask(wire)
        wire.refuse()
        wire.accept().send(SWITCH)
        assert client.read() == SWITCH
        assert wire.worker.pools[0].retries == 0
        close(client, wire.origin)


# Drain.


def test_a_drain_closes_tunnels_at_its_deadline(leaving: Wire) -> None:
    client, origin = tunnel(leaving)
    late = ask(leaving)
    leaving.worker.drain()
    leaving.origin.send(SWITCH)
    assert late.read() == SWITCH, "what was in hand may still become one"
    pass_time(leaving, 4.5)
    client.send(b"x")
    assert origin.read() == b"x"
    pass_time(leaving, 0.5)
    assert all(end.was_closed for end in (client, origin, late, leaving.origin))
    assert leaving.outcomes() == {Count.INFORMATIONAL: 2}
    pass_time(leaving, 0.5)
    assert leaving.worker._stopped.is_set()


@pytest.mark.parametrize("stuck", ["client", "origin"])
def test_a_drain_ends_in_time_whoever_takes_nothing(leaving: Wire, stuck: str) -> None:
    """The supervisor waits for 2 s beyond the deadline, then it kills; a sweep may come 0.5 s late."""
    client, origin = tunnel(leaving)
    end, other = (client, origin) if stuck == "client" else (origin, client)
    end.window = 0
    other.send(b"unsent")
    leaving.worker.drain()
    leaving.advance(4.99)
    pass_time(leaving, 0.5)
    assert not end.gone, "what is unsent has a little time"
    pass_time(leaving, 1)
    assert (client.gone, origin.gone, leaving.worker._stopped.is_set()) == (True, True, True)


async def test_a_drain_waits_for_connections_that_are_being_made(leaving: Wire) -> None:
    """Their clients may have left. One that comes after the worker's end stays open, and uvloop waits for it for ever."""
    may_connect = asyncio.Event()
    leaving.worker._spawn(wait_for(may_connect))
    leaving.worker.drain()
    assert not leaving.worker._stopped.is_set()
    may_connect.set()
    await asyncio.wait_for(leaving.worker._stopped.wait(), 5)


async def test_a_drain_does_not_wait_for_them_beyond_its_deadline(leaving: Wire) -> None:
    leaving.worker._spawn(wait_for(asyncio.Event()))
    leaving.worker.drain()
    pass_time(leaving, 4.5)
    await asyncio.sleep(0)
    assert not leaving.worker._stopped.is_set()
    pass_time(leaving, 0.5)
    await asyncio.wait_for(leaving.worker._stopped.wait(), 5)


async def wait_for(event: asyncio.Event) -> None:
    """Wait for it."""
    await event.wait()
