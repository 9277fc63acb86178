"""Which variant a request gets and what is said of it on the way: affinity, weights, forwarding fields (H1-H9)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from wire import GET, OK, Wire

from canaryproxy.routing.split import choose_variant, seat
from canaryproxy.shared.layout import CANARY, STABLE, Count


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def get(*fields: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: shop\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def sent(wire: Wire, request: bytes, peer: str = "192.0.2.1") -> tuple[str, bytes, bytes]:
    """(pool, head for the upstream, head for the client) of one exchange on connections of its own."""
    client = wire.client(peer)
    client.send(request)
    head = wire.origin.read()
    wire.origin.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    answer = client.read()
    client.send_fin()
    pool = wire.origin.get_extra_info("peername")[0].split(".")[2]
    return f"v{pool}", head, answer.partition(b"\r\n\r\n")[0] + b"\r\n"


def pool_of(wire: Wire, request: bytes, peer: str = "192.0.2.1") -> str:
    return sent(wire, request, peer)[0]


def users(count: int) -> list[bytes]:
    return [b"user-%d" % n for n in range(count)]


# Weights.


@pytest.mark.parametrize(
    ("weight_bp", "swapped", "pool"), [(0, False, "v1"), (10_000, False, "v2"), (0, True, "v2"), (10_000, True, "v1")]
)
def test_all_or_nothing(wire: Wire, weight_bp: int, *, swapped: bool, pool: str) -> None:
    wire.publish(weight_bp, swapped=swapped)
    for request in (GET, get(b"Cookie: uid=anna"), get(b"Cookie: uid=ben")):
        got, head, _ = sent(wire, request)
        assert got == pool
        assert (b"X-Canary-Variant: canary\r\n" in head) is (weight_bp == 10_000), "the role, not the pool"
    assert wire.counts(STABLE if weight_bp == 0 else CANARY)[Count.STARTED] == 3
    assert wire.counts(CANARY if weight_bp == 0 else STABLE)[Count.STARTED] == 0


def test_a_user_stays_with_a_variant_and_shares_are_kept(wire: Wire) -> None:
    wire.publish(3_000)
    word = 3_000
    for user in users(100):
        wanted = ("v1", "v2")[choose_variant(word, seat(7, user))]
        assert [pool_of(wire, get(b"Cookie: a=b; uid=" + user)) for _ in range(2)] == [wanted] * 2
    assert 2 * 15 < wire.counts(CANARY)[Count.STARTED] < 2 * 45


def test_one_connection_may_carry_many_users(wire: Wire) -> None:
    wire.publish(5_000)
    client = wire.client()
    pools = []
    for user in users(30):
        client.send(get(b"Cookie: uid=" + user))
        (origin,) = [end for end in wire.origins if end.read()]
        origin.send(OK)
        pools.append(("v1", "v2")[origin.get_extra_info("peername")[0].startswith("10.0.2.")])
    assert pools == [("v1", "v2")[choose_variant(5_000, seat(7, user))] for user in users(30)]
    assert len(wire.origins) == 2


def test_a_weight_holds_from_the_next_request_on(wire: Wire) -> None:
    client = wire.client()
    for weight_bp, pool in ((0, "10.0.1."), (10_000, "10.0.2."), (0, "10.0.1.")):
        wire.publish(weight_bp)
        client.send(get(b"Cookie: uid=anna"))
        (origin,) = [end for end in wire.origins if end.read()]
        assert origin.get_extra_info("peername")[0].startswith(pool)
        wire.publish(10_000 - weight_bp)
        origin.send(OK)


def test_a_retry_stays_on_its_variant() -> None:
    with Wire(servers=2) as wire:
        wire.publish(10_000)
        wire.holds_connects = True
        client = wire.client()
        client.send(GET)
        wire.refuse()
        wire.accept()
        assert wire.origin.get_extra_info("peername")[0].startswith("10.0.2.")
        wire.origin.send(OK)
        assert client.read().endswith(b"ok")
        assert wire.outcomes(CANARY) == {Count.C2XX: 1}


@pytest.mark.parametrize("comes", ["accept", "refuse"])
def test_what_still_waits_for_a_connection_obeys_a_rollback(comes: str) -> None:
    with Wire() as wire:
        wire.publish(10_000)
        wire.holds_connects = True
        client = wire.client()
        client.send(GET.replace(b"GET", b"POST"))
        wire.publish(0)
        getattr(wire, comes)()
        assert not any(origin.read() for origin in wire.origins), "the canary gets nothing"
        wire.accept()
        assert wire.origin.get_extra_info("peername")[0].startswith("10.0.1.")
        assert wire.origin.read().startswith(b"POST / ")
        wire.origin.send(OK)
        assert client.read().endswith(b"ok")
        assert wire.outcomes(CANARY) == {Count.ABANDONED: 1}
        assert wire.outcomes() == {Count.C2XX: 1}


# Affinity.


def test_the_header_goes_before_the_cookie() -> None:
    with Wire(affinity={"header": "X-User"}) as wire:
        wire.publish(5_000)
        by_header = [pool_of(wire, get(b"x-user: " + user, b"Cookie: uid=someone")) for user in users(30)]
        by_cookie = [pool_of(wire, get(b"Cookie: uid=" + user)) for user in users(30)]
        assert by_header == by_cookie, "the same id is the same user"
        assert len(set(by_header)) == 2
        assert pool_of(wire, get(b"X-User:", b"Cookie: uid=" + users(1)[0])) == by_cookie[0]


def test_who_has_no_cookie_is_stable_once_and_gets_one(wire: Wire) -> None:
    wire.publish(9_999)
    pool, head, answer = sent(wire, GET)
    assert pool == "v1"
    issued = re.search(rb"\r\nSet-Cookie: uid=([0-9a-f]{32}); Max-Age=2592000; Path=/; HttpOnly; SameSite=Lax\r\n", answer)
    assert issued
    assert b"ookie" not in head
    pool, _, answer = sent(wire, get(b"Cookie: uid=" + issued[1]))
    assert pool == ("v1", "v2")[choose_variant(9_999, seat(7, issued[1]))]
    assert b"Set-Cookie" not in answer
    counts = wire.counts(STABLE)
    assert counts[Count.STARTED] >= 1
    assert counts.resolved == counts[Count.STARTED] - 1, "a request without a user is not judged"


def test_no_cookie_is_issued_without_a_rollout(wire: Wire) -> None:
    assert b"Set-Cookie" not in sent(wire, GET)[2]
    assert wire.counts().resolved == 1, "but stable learns from it"


def test_the_issued_cookie_may_count_at_once() -> None:
    with Wire(affinity={"cookieless": "issue"}) as wire:
        wire.publish(5_000)
        for _ in range(20):
            pool, _, answer = sent(wire, GET)
            issued = re.search(rb"uid=([0-9a-f]{32});", answer)
            assert issued
            assert pool == ("v1", "v2")[choose_variant(5_000, seat(7, issued[1]))]
        assert wire.counts(STABLE).resolved + wire.counts(CANARY).resolved == 20


def test_the_address_may_be_the_user() -> None:
    with Wire(affinity={"cookieless": "ip"}) as wire:
        wire.publish(5_000)
        for n in range(20):
            pool, _, answer = sent(wire, GET, f"192.0.{n}.9")
            assert pool == ("v1", "v2")[choose_variant(5_000, seat(7, b"192.0.%d.0/24" % n))]
            assert b"Set-Cookie" not in answer


# What goes on to the upstream.


def test_hop_by_hop_fields_stay_here(wire: Wire) -> None:
    _, head, _ = sent(
        wire,
        get(
            b"Connection: keep-alive, X-Mine",
            b"X-Mine: 1",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: close",
            b"Proxy-Authorization: basic",
            b"Upgrade: websocket",
            b"TE: gzip",
            b"X-Yours: 1",
        ),
    )
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    kept = {b"host", b"x-yours", b"x-forwarded-host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port"}
    assert set(filter(None, names)) == kept | {b"x-canary-variant", b"x-request-id"}


def test_what_the_client_says_of_itself_is_not_believed(wire: Wire) -> None:
    wire.publish(10_000)
    fields = (b"X-Canary-Variant: stable", b"X-Forwarded-For: 1.1.1.1", b"Forwarded: for=1.1.1.1", b"X-Real-IP: 1.1.1.1")
    _, head, _ = sent(wire, get(*fields, b"X_Forwarded_For: 1.1.1.1"))
    assert head.count(b"X-Canary-Variant: ") == 1
    assert b"X-Canary-Variant: canary\r\n" in head
    assert b"1.1.1.1" not in head
    assert b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 8080\r\n" in head
    assert b"X-Forwarded-Host: shop\r\n" in head


@pytest.mark.parametrize("peer", ["10.9.9.9", "192.0.2.1"])
def test_only_trusted_proxies_are_believed(peer: str) -> None:
    with Wire(trusted_proxies=["10.0.0.0/8"]) as wire:
        for _ in range(2):
            _, head, _ = sent(wire, get(b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https"), peer)
            if peer.startswith("10."):
                assert b"X-Forwarded-For: 1.1.1.1, 10.9.9.9\r\n" in head
                assert b"X-Forwarded-Proto: https\r\n" in head
            else:
                assert b"X-Forwarded-For: 192.0.2.1\r\n" in head
                assert b"X-Forwarded-Proto: http\r\n" in head


def test_equal_heads_of_different_clients_are_told_apart(wire: Wire) -> None:
    wire.publish(10_000)
    for n in range(100):
        _, head, _ = sent(wire, GET, f"192.0.{n}.9")
        assert b"X-Forwarded-For: 192.0.%d.9\r\n" % n in head
        assert b"X-Canary-Variant: canary\r\n" in head
    wire.publish(0)
    assert b"X-Canary-Variant: stable\r\n" in sent(wire, GET)[1]


def test_a_client_whose_address_is_unknown_already() -> None:
    with Wire(trusted_proxies=["10.0.0.0/8"]) as wire:
        client = wire.client("")
        client.send(GET)
        wire.origin.send(OK)
        assert client.read() == OK


@pytest.mark.parametrize("choice", ["preserve", "upstream", "backend.example"])
def test_the_host_that_is_sent(choice: str) -> None:
    with Wire(servers=2, host_header=choice) as wire:
        for _ in range(6):
            wire.origins.clear()
            _, head, _ = sent(wire, GET)
            server = wire.origin.get_extra_info("peername")[0].encode()
            wanted = {"preserve": b"shop", "upstream": server, "backend.example": b"backend.example"}[choice]
            assert b"\r\nHost: %b\r\n" % wanted in head


def test_a_request_without_host_gets_the_server_it_goes_to() -> None:
    with Wire(servers=2) as wire:
        for _ in range(6):
            _, head, _ = sent(wire, b"GET / HTTP/1.0\r\n\r\n")
            assert b"\r\nHost: %b\r\n" % wire.origin.get_extra_info("peername")[0].encode() in head


def test_via_names_the_version_that_came_and_finds_loops() -> None:
    with Wire(via="edge") as wire:
        assert b"\r\nVia: 1.1 edge\r\n" in sent(wire, GET)[1]
        assert b"\r\nVia: 1.0 edge\r\n" in sent(wire, GET.replace(b"1.1", b"1.0"))[1]
        client = wire.client()
        client.send(get(b"Via: 1.1 other, 1.1 edge"))
        assert client.read().startswith(b"HTTP/1.1 508 ")


def test_the_target_and_the_order_of_fields_are_kept(wire: Wire) -> None:
    _, head, _ = sent(
        wire, b"GET //a/../b%2f?x=%20#".rstrip(b"#") + b" HTTP/1.1\r\nzz: 1\r\nHost: shop\r\nAA: \xff\r\nzz: 2\r\n\r\n"
    )
    assert head.startswith(b"GET //a/../b%2f?x=%20 HTTP/1.1\r\nzz: 1\r\nHost: shop\r\nAA: \xff\r\nzz: 2\r\n")


# What comes back.


def test_set_cookie_lines_are_never_merged(wire: Wire) -> None:
    answer = wire.exchange(
        response=b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nServer: x\r\nContent-Length: 0\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nServer: x\r\nContent-Length: 0\r\n")
    assert b"\r\nDate: today\r\n" in answer


def test_hop_by_hop_fields_of_the_response_stay_here(wire: Wire) -> None:
    answer = wire.exchange(
        response=b"HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n"
    )
    assert b"X-Mine" not in answer
    assert b"Keep-Alive" not in answer
