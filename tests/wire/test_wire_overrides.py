"""Requests placed by a header, a cookie, the list of beta users or what they match: where they go, and what is counted."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import wire as wires
from wire import GET, OK, FarEnd, Wire

from canaryproxy.http1.logline import as_json
from canaryproxy.proxy.downstream import Downstream
from canaryproxy.proxy.record import Record
from canaryproxy.routing.split import choose_variant, seat
from canaryproxy.shared.layout import CANARY, STABLE, Count
from canaryproxy.shared.reading import count_users, read_buckets, read_groups, read_registers
from canaryproxy.shared.userlist import LOOK_SECONDS

SECRET = b"s3cret-s3cret-s3cret"
HEADER = {"header": {"secret": SECRET.decode()}}
COOKIE = {"cookie": {"secret": SECRET.decode()}}
ALWAYS, NEVER = b"X-Canary: always:%b" % SECRET, b"X-Canary: never:%b" % SECRET
MATCH = {"match": [{"header": {"name": "X-Beta", "equals": "1"}}]}
ERROR = b"HTTP/1.1 500 No\r\nDate: now\r\nContent-Length: 0\r\n\r\n"


def get(*fields: bytes, user: bytes = b"") -> bytes:
    lines = (*fields, *([b"Cookie: uid=%b" % user] if user else ()))
    return b"GET / HTTP/1.1\r\nHost: shop\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def sent(wire: Wire, request: bytes, peer: str = "192.0.2.1", answer: bytes = OK) -> tuple[str, bytes]:
    """(pool, head for the upstream) of one exchange on connections of its own."""
    client = wire.client(peer)
    client.send(request)
    head = wire.origin.read()
    wire.origin.send(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    client.send_fin()
    return f"v{wire.origin.get_extra_info('peername')[0].split('.')[2]}", head


def pool_of(wire: Wire, request: bytes, peer: str = "192.0.2.1") -> str:
    return sent(wire, request, peer)[0]


@contextmanager
def entries(wire: Wire) -> Iterator[list[dict[str, Any]]]:
    """The access log's entries of the requests meanwhile."""
    log, found = Record("json", "-"), list[dict[str, Any]]()
    log.add = lambda entry: found.append(json.loads(as_json(entry)))  # type: ignore[method-assign]
    wire.worker.access_log = log
    yield found
    wire.worker.access_log = None


@pytest.fixture
def beta(tmp_path: Path) -> Path:
    """A list of beta users with one in it."""
    file = tmp_path / "beta.txt"
    file.write_bytes(b"# beta\nanna\n")
    return file


def read_again(wire: Wire, until: Callable[[], bool]) -> None:
    """Let time pass until the list has been read again."""
    for _ in range(200):
        wire.advance(LOOK_SECONDS / 4)
        thread = wire.worker.routes[0].overrides._users._thread  # type: ignore[union-attr]
        if thread is not None:
            thread.join()
        if until():
            return
    raise AssertionError("it was not read")


# Header and cookie.


@pytest.mark.parametrize("weight", [0, 500, 10_000])
@pytest.mark.parametrize("overrides", [True, False])
def test_a_secret_chooses_the_version_at_every_weight_and_after_a_rollback(weight: int, *, overrides: bool) -> None:
    with Wire(overrides=HEADER | COOKIE) as wire:
        wire.publish(weight, overrides=overrides)
        for user in (b"", b"anna", b"ben"):
            assert pool_of(wire, get(ALWAYS, user=user)) == "v2"
            assert pool_of(wire, get(NEVER, user=user)) == "v1"
        assert pool_of(wire, get(b"Cookie: canary=always:" + SECRET)) == "v2"
        assert pool_of(wire, get(b"Cookie: canary=never:" + SECRET)) == "v1"


def test_always_is_the_pool_that_is_canary_now() -> None:
    with Wire(overrides=HEADER) as wire:
        wire.publish(0, swapped=True, overrides=False)
        got, head = sent(wire, get(ALWAYS))
        assert (got, b"X-Canary-Variant: canary\r\n" in head) == ("v1", True)
        assert pool_of(wire, get(NEVER)) == "v2"


@pytest.mark.parametrize("line", [b"X-Canary: always", b"X-Canary: always:wrong", b"X-Canary: " + SECRET, b"X-Canary:", b"A: b"])
def test_a_wrong_secret_is_as_if_nothing_were_said(line: bytes) -> None:
    with Wire(overrides=HEADER) as wire:
        wire.publish(500)
        for n in range(40):
            user = b"user-%d" % n
            got, head = sent(wire, get(line, user=user))
            assert got == f"v{choose_variant(500, seat(7, user)) + 1}"
            assert b"canary:" not in head.lower(), "it is cut, right or wrong"
        assert wire.counts(STABLE).resolved + wire.counts(CANARY).resolved == 40, "and judged like everybody"


@pytest.mark.parametrize(
    "line", [ALWAYS, NEVER.replace(b"X-Canary", b"x-cAnArY"), b"X-Canary: always", b"x-canary: a\r\nX-Canary: b"]
)
def test_the_header_never_goes_on_and_the_cookie_does(line: bytes) -> None:
    with Wire(overrides=HEADER | COOKIE, underscore_headers="allow") as wire:
        cookie = b"Cookie: canary=always:" + SECRET
        for _ in range(2):
            _, head = sent(wire, get(line, cookie, b"X_Canary: always:" + SECRET))
            assert b"canary:" not in head.lower().replace(b"_", b"-")
            assert cookie in head


def test_a_request_may_not_have_the_header_lost_on_the_way() -> None:
    with Wire(overrides=HEADER) as wire:
        client = wire.client()
        client.send(get(b"Connection: x-canary", ALWAYS))
        assert client.read().startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted"),
    [
        ("192.0.2.7", b"", True),
        ("192.0.3.7", b"", False),
        ("10.0.0.9", b"X-Forwarded-For: 192.0.2.7", True),
        ("10.0.0.9", b"X-Forwarded-For: 192.0.3.7", False),
        ("10.0.0.9", b"X-Forwarded-For: 192.0.2.7, 192.0.3.7", False),
        ("192.0.3.7", b"X-Forwarded-For: 192.0.2.7", False),
        ("2001:db8::7", b"", True),
        ("", b"", False),
    ],
)
def test_whose_word_counts_without_the_secret(peer: str, forwarded: bytes, *, trusted: bool) -> None:
    networks = {"trusted": ["192.0.2.0/24", "2001:db8::/32"], "header": {}}
    with Wire(overrides=networks, trusted_proxies=["10.0.0.0/8"]) as wire:
        for _ in range(2):
            assert pool_of(wire, get(b"X-Canary: always", forwarded or b"A: b"), peer) == ("v2" if trusted else "v1")


def test_equal_bytes_from_two_addresses_are_told_apart() -> None:
    with Wire(overrides={"trusted": ["192.0.2.0/24"], "header": {}}) as wire:
        for n in range(20):
            assert pool_of(wire, get(b"X-Canary: always"), f"192.0.{2 + n % 2}.7") == f"v{2 - n % 2}"


# The list of beta users, and what matches.


def test_beta_users_and_matches_have_the_canary_while_it_may_have_users(beta: Path) -> None:
    with Wire(overrides={"users_file": str(beta)} | MATCH) as wire:
        for weight, overrides, pool in ((0, True, "v2"), (500, True, "v2"), (0, False, "v1"), (0, True, "v2")):
            wire.publish(weight, overrides=overrides)
            assert pool_of(wire, get(user=b"anna")) == pool
            assert pool_of(wire, get(b"X-Beta: 1")) == pool
        assert pool_of(wire, get(user=b"ben")) == pool_of(wire, get(b"X-Beta: 2")) == "v1"


def test_header_before_list_before_match(beta: Path) -> None:
    with Wire(overrides={"users_file": str(beta)} | MATCH | HEADER) as wire, entries(wire) as log:
        wire.publish(0)
        assert pool_of(wire, get(NEVER, b"X-Beta: 1", user=b"anna")) == "v1"
        assert pool_of(wire, get(b"X-Beta: 1", user=b"anna")) == "v2"
        assert pool_of(wire, get(b"X-Beta: 1", user=b"ben")) == "v2"
        assert pool_of(wire, get(user=b"ben")) == "v1"
        assert [(entry["assignment"], entry["override"]) for entry in log] == [
            ("override", "header"),
            ("override", "users"),
            ("override", "match"),
            ("cookie", None),
        ]


def test_an_override_that_is_not_in_force_is_none_to_the_log() -> None:
    with Wire(overrides=MATCH) as wire, entries(wire) as log:
        wire.publish(0, overrides=False)
        assert pool_of(wire, get(b"X-Beta: 1", user=b"ben")) == "v1"
        assert [(entry["assignment"], entry["override"], entry["variant"]) for entry in log] == [("cookie", None, "stable")]


def test_no_secret_is_in_the_log() -> None:
    with Wire(overrides=HEADER) as wire, entries(wire) as log:
        for line in (ALWAYS, b"X-Canary: always:not-this-secret-at-all"):
            sent(wire, get(line))
        assert [entry["override"] for entry in log] == ["header", None]
        assert "secret" not in json.dumps(log)
        assert "s3cret" not in json.dumps(log)


def test_the_list_is_read_again_when_it_has_changed(beta: Path) -> None:
    with Wire(overrides={"users_file": str(beta)}) as wire:
        wire.publish(0)
        beta.write_bytes(b"ben\n")
        assert pool_of(wire, get(user=b"anna")) == "v2"
        read_again(wire, lambda: pool_of(wire, get(user=b"ben")) == "v2")
        assert pool_of(wire, get(user=b"anna")) == "v1"


def test_where_addresses_are_users_they_are_on_the_list_at_every_weight(beta: Path) -> None:
    beta.write_bytes(b"192.0.2.0/24\n")
    with Wire(overrides={"users_file": str(beta)}, affinity={"cookieless": "ip"}) as wire:
        for weight in (0, 1):
            wire.publish(weight)
            assert [pool_of(wire, GET, peer) for peer in ("192.0.2.9", "192.0.3.9")] == ["v2", "v1"]


# What is counted.


@pytest.mark.parametrize("weight", [0, 500])
@pytest.mark.parametrize("overrides", [True, False])
@pytest.mark.parametrize(("lines", "user"), [([ALWAYS], b"ben"), ([NEVER], b"ben"), ([b"X-Beta: 1"], b"ben"), ([], b"anna")])
def test_who_was_placed_is_counted_and_never_judged(
    weight: int, lines: list[bytes], user: bytes, beta: Path, *, overrides: bool
) -> None:
    """Not at rest either, nor while the override is not in force: what users send before and during a rollout is compared."""
    with Wire(overrides=HEADER | MATCH | {"users_file": str(beta)}, workers=1) as wire:
        wire.publish(weight, overrides=overrides)
        wire.board.publish_next_salt(0, 9)
        for answer in (OK, ERROR):
            sent(wire, get(*lines, user=user), answer=answer)
        assert wire.outcomes(STABLE).keys() | wire.outcomes(CANARY).keys() == {Count.C2XX, Count.C5XX}
        for variant in (STABLE, CANARY):
            block = wire.counts(variant)
            assert (block.resolved, block[Count.FAILED]) == (0, 0)
            assert not any(map(any, read_groups(wire.segment, 0, variant)))
        assert [count_users(files) for files in read_registers(wire.segment, 0, 7)] == [0, 0]
        assert sum(read_buckets(wire.segment, 0)) == 0
        sent(wire, get(user=b"dora"))
        assert wire.counts(STABLE).resolved + wire.counts(CANARY).resolved == 1, "others are"


def test_where_the_canary_does_not_answer_stable_does() -> None:
    with Wire(overrides=HEADER) as wire, entries(wire) as log:
        wire.holds_connects = True
        client = wire.client()
        client.send(get(ALWAYS))
        wire.refuse()
        wire.accept()
        wire.origin.send(OK)
        assert b"\r\nX-Canaryproxy-Fallback: upstream_connect\r\n" in client.read()
        assert [(entry["variant"], entry["assignment"], entry["override"]) for entry in log] == [("stable", "fallback", "header")]
        assert wire.outcomes(CANARY) == {Count.CONNECT_FAILED: 1}


# A decision while a request waits, and tunnels.


@pytest.mark.parametrize(("line", "user", "pool"), [(b"A: b", b"anna", "1"), (ALWAYS, b"ben", "2")])
def test_who_waits_for_the_canary_is_taken_back_by_a_rollback_but_not_a_tester(
    line: bytes, user: bytes, pool: str, beta: Path
) -> None:
    with Wire(overrides=HEADER | {"users_file": str(beta)}) as wire:
        wire.publish(0)
        wire.holds_connects = True
        client = wire.client()
        client.send(get(line, user=user))
        wire.publish(0, overrides=False)
        while wire.connecting:
            wire.accept()
        assert wire.origin.read()
        assert wire.origin.get_extra_info("peername")[0].split(".")[2] == pool
        wire.origin.send(OK)
        assert client.read() == OK


class SwitchingEnd(FarEnd):
    """A far end whose protocol may be replaced, as a tunnel does."""

    family = socket.AF_UNIX

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast(Downstream, protocol)


def test_a_tunnel_of_a_beta_user_ends_with_a_rollback_and_a_tester_s_does_not(
    beta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "FarEnd", SwitchingEnd)
    ask = b"GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%b\r\n\r\n"
    with Wire(overrides=HEADER | {"users_file": str(beta)}, timeouts={"tunnel_grace": "1s"}) as wire:
        wire.publish(0)
        clients = []
        for line in (b"Cookie: uid=anna", ALWAYS):
            clients.append(wire.client())
            clients[-1].send(ask % line)
            wire.origin.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        wire.advance(5)
        assert [client.gone for client in clients] == [False, False], "at weight 0 they stay where they were placed"
        wire.publish(0, overrides=False)
        for _ in range(4):
            wire.advance(0.5)
        assert [client.gone for client in clients] == [True, False]
        clients[1].send_fin()
        wire.origin.send_fin()


def test_a_route_without_a_canary_has_no_overrides() -> None:
    routes = {"shop": {"stable": "v1", "overrides": HEADER}}
    with Wire(routes=routes) as wire:
        got, head = sent(wire, get(ALWAYS))
        assert got == "v1"
        assert SECRET not in head
        assert wire.worker.routes[0].overrides is None
    with Wire() as wire:
        assert wire.worker.routes[0].overrides is None, "and nothing to pay where none are configured"


def test_a_list_that_vanishes_keeps_who_was_on_it(beta: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Wire(overrides={"users_file": str(beta)}) as wire:
        wire.publish(0)
        os.unlink(beta)
        read_again(wire, lambda: bool(caplog.records))
        for _ in range(12):
            wire.advance(LOOK_SECONDS / 4)
        assert pool_of(wire, get(user=b"anna")) == "v2"
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
            f"{beta}: cannot be used (No such file or directory); the 1 users read before stay in use"
        ]
