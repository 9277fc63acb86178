"""Upstreams that fail, each by its name, and what clients saw: http.md sections 7 and 14, rules R1-R6, C4-C6.

One real canaryproxy with one worker for the whole module, which must be in good order after all of it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from fault_origin import Call, Script, Stage, ok, once, serve, stage
from harness import free_port
from plane import eventually

pytestmark = pytest.mark.system

HOLD = {"steps": [{"weight": "50%", "hold": "10m"}], "bake": "10m", "i_accept_the_risk": True}
USERS = [f"user-{number}" for number in range(40)]
GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with routes, by path, whose upstreams are not there; nobody is rolled back for what is done to it."""
    folder = tmp_path_factory.mktemp("faults")
    nobody = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    warn = {"error_rate": {"on_breach": "warn"}, "latency_p95": {"on_breach": "warn"}}

    def route(path: str, stable: str, canary: str = "v2") -> dict[str, object]:
        affinity = {"header": "X-User-Id"}
        match = {"paths": [path]}
        return {"match": match, "stable": stable, "canary": canary, "affinity": affinity, "rollout": HOLD, "metrics": warn}

    with stage(
        folder,
        pools={"nobody": {"servers": nobody}, "nameless": {"servers": ["http://no-such-host.invalid"]}},
        routes={
            "nobody": route("/nobody", "nobody"),
            "nameless": route("/nameless", "nameless"),
            "gone": route("/gone", "v1", "nobody"),
            "alone": route("/alone", "v1", "nobody") | {"fallback_to_stable": False},
            "split": route("/split", "v1"),
        },
        limits={"requests_per_connection": 1_000_000},
    ) as made:
        yield made


@pytest.fixture
def faulty(standing: Stage) -> Iterator[Stage]:
    """The stage as it was when it began."""
    yield standing
    standing.calm()


@pytest.fixture(scope="module")
def hasty_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("hasty"), timeouts={"response_head": "400ms", "response_body_idle": "400ms"}) as made:
        yield made


@pytest.fixture
def hasty(hasty_stage: Stage) -> Iterator[Stage]:
    """A stage that waits for nothing longer than 0.4 s."""
    yield hasty_stage
    hasty_stage.calm()


# --- Upstreams that are not there ---


def test_an_upstream_that_refuses_is_a_502_that_says_so(faulty: Stage) -> None:
    before = faulty.outcomes("nobody")
    with faulty.client() as client:
        for more in ("", "Content-Length: 0\r\n"):
            answer = client.get("/nobody", more)
            assert (answer.status, answer.field(b"x-canaryproxy-error")) == (502, b"upstream_connect")
        assert client.get("/here").body == b"GET /here HTTP/1.1 ", "the client's connection is kept"
    assert faulty.outcomes_since(before, "nobody") == {"stable connect_failed": 2}


def test_an_upstream_whose_name_is_unknown_is_a_502_that_says_so(faulty: Stage) -> None:
    answer = faulty.get("/nameless")
    assert (answer.status, answer.field(b"x-canaryproxy-error")) == (502, b"upstream_connect")


@pytest.mark.parametrize("route", ["gone", "alone"])
def test_when_all_canary_servers_are_gone_users_of_stable_notice_nothing(faulty: Stage, route: str) -> None:
    """Those of the canary get stable's answers, or a 502 where that is not wanted; it counts against the canary either way."""
    before = faulty.outcomes(route)
    asyncio.run(faulty.product.verb("start", route))
    with faulty.client() as client:
        answers = [client.get(f"/{route}", f"X-User-Id: {user}\r\n") for user in USERS]
        asyncio.run(faulty.product.verb("rollback", route))
        assert {client.get(f"/{route}", f"X-User-Id: {user}\r\n").status for user in USERS} == {200}, "from now on, everybody"
    served = {answer.body for answer in answers if answer.status == 200}
    assert served == {b"GET /%b HTTP/1.1 " % route.encode()}
    counts = faulty.outcomes_since(before, route)
    assert set(counts) == {"stable c2xx", "canary connect_failed"}
    failed = [answer.field(b"x-canaryproxy-error") for answer in answers if answer.status == 502]
    fell_back = [reason for answer in answers if (reason := answer.field(b"x-canaryproxy-fallback"))]
    marked, other = (fell_back, failed) if route == "gone" else (failed, fell_back)
    assert (marked, other) == ([b"upstream_connect"] * counts["canary connect_failed"], [])


def test_a_retry_stays_on_the_canary(faulty: Stage) -> None:
    """The canary's only answer to a reused connection is to hang up: users of it still never see stable."""

    def hang_up_at_reuse(call: Call) -> None:
        if call.request():
            call.send(ok(b"canary"))
            call.head()

    faulty.canary.script = hang_up_at_reuse
    asyncio.run(faulty.product.verb("start", "split"))
    with faulty.client() as client:
        first = {user: client.get("/split", f"X-User-Id: {user}\r\n").body for user in USERS}
        again = {user: client.get("/split", f"X-User-Id: {user}\r\n").body for user in USERS}
    asyncio.run(faulty.product.verb("rollback", "split"))
    assert first == again
    assert set(first.values()) == {b"canary", b"GET /split HTTP/1.1 "}


# --- Upstreams that stop ---


def test_an_upstream_that_hangs_before_its_head_is_a_504_that_says_so(hasty: Stage) -> None:
    before = hasty.outcomes()
    hasty.stable.script = once()
    with hasty.client() as client:
        answer = client.get()
        assert (answer.status, answer.field(b"x-canaryproxy-error")) == (504, b"upstream_timeout")
        hasty.stable.script = serve
        assert client.get().status == 200, "the client's connection is kept, the upstream's is not"
    assert hasty.outcomes_since(before) == {"stable response_timeout": 1, "stable c2xx": 1}
    assert hasty.stable.lines == [b"GET / HTTP/1.1"] * 2, "a request that timed out is not sent again"


BEGUN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "within a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhello",
    "before the last chunk's end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
}


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_a_response_that_stops_in_its_body_is_cut(hasty: Stage, begun: bytes) -> None:
    before = hasty.outcomes()
    hasty.stable.script = once(begun)
    with hasty.client() as client, pytest.raises(ConnectionResetError):
        client.get()
    assert hasty.outcomes_since(before) == {"stable truncated": 1}


def test_a_response_until_close_that_stops_is_cut(hasty: Stage) -> None:
    hasty.stable.script = once(b"HTTP/1.1 200 OK\r\n\r\nhello")
    with hasty.client() as client, hasty.client() as older:
        client.send(GET)
        older.send(b"GET / HTTP/1.0\r\n\r\n")
        for each in (client, older):
            with pytest.raises(ConnectionResetError):
                each.answer()


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_a_response_that_is_reset_in_its_body_is_cut(faulty: Stage, begun: bytes) -> None:
    def reset(call: Call) -> None:
        assert call.request()
        call.send(begun)
        eventually(seen.is_set)
        call.reset()

    before, seen = faulty.outcomes(), threading.Event()
    faulty.stable.script = reset
    with faulty.client() as client:
        client.send(GET)
        line, _ = client.read_head()
        assert line == b"HTTP/1.1 200 OK"
        seen.set()
        with pytest.raises(ConnectionResetError):
            client.file.read()
    assert faulty.outcomes_since(before) == {"stable truncated": 1}


# --- Upstreams that talk nonsense ---

GARBAGE = {
    "no http": b"220 mail.example.com ESMTP\r\n\r\n",
    "a banner and an end": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "http2": b"\0\0\x12\x04\0\0\0\0\0" + bytes(18),
    "random": bytes(range(256)) * 4,
    "http09": b"<html>hello</html>",
    "version 2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
    "nul": b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "bad chunk at once": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 4000,
    "unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x01a",
    "nothing": b"",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_an_upstream_that_sends_garbage_is_a_502(faulty: Stage, garbage: bytes) -> None:
    def talk(call: Call) -> None:
        assert call.request()
        call.send(garbage)
        call.sock.shutdown(socket.SHUT_WR)
        call.until_gone()

    before = faulty.outcomes()
    faulty.stable.script = talk
    with faulty.client() as client:
        answer = client.get()
        assert answer.status == 502
        assert (answer.field(b"x-canaryproxy-error") or b"").startswith(b"upstream_")
        assert garbage[:16] not in answer.body or not garbage, "nothing of it is passed on"
        faulty.stable.script = serve
        assert client.get().body == b"GET / HTTP/1.1 "
    assert faulty.outcomes_since(before) == {"stable response_invalid": 1, "stable c2xx": 1}


def test_garbage_in_a_body_that_has_begun_cuts_the_client(faulty: Stage) -> None:
    def talk(call: Call) -> None:
        assert call.request()
        call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        eventually(seen.is_set)
        call.send(b"zz\r\n")
        call.until_gone()

    seen = threading.Event()
    faulty.stable.script = talk
    with faulty.client() as client:
        client.send(GET)
        client.read_head()
        seen.set()
        with pytest.raises(ConnectionResetError):
            client.file.read()


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


def test_eight_interim_responses_are_passed_on(faulty: Stage) -> None:
    faulty.stable.script = once(INTERIM * 8 + ok(b"done"))
    with faulty.client() as client:
        assert [client.get().status, *(client.answer().status for _ in range(7))] == [103] * 8
        assert client.answer().body == b"done"


def test_a_storm_of_interim_responses_ends_in_a_502(faulty: Stage) -> None:
    def storm(call: Call) -> None:
        assert call.request()
        while True:
            call.send(INTERIM * 100)

    faulty.stable.script = storm
    with faulty.client() as client:
        assert client.get().status == 103
        statuses = [103]
        while statuses[-1] == 103:
            statuses.append(client.answer().status)
    assert statuses == [103] * 8 + [502]


# --- Upstreams that say too much: what no client asked for reaches nobody ---

POISON = ok(b"poison", more=b"Set-Cookie: session=of-somebody-else\r\n")
TOO_MUCH = {
    "length": ("GET", ok(b"right"), b"right"),
    "chunked": ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n", b"right"),
    "empty": ("GET", ok(b""), b""),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", b""),
    "head": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b""),
}


@pytest.mark.parametrize(("method", "response", "body"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_extra_bytes_after_a_response_answer_no_other_request(faulty: Stage, method: str, response: bytes, body: bytes) -> None:
    """Queue poisoning: the next client, and the next request of this one, get answers of their own."""

    def poison(call: Call) -> None:
        assert call.request()
        call.send(response + POISON)
        call.until_gone()

    for _ in range(10):
        faulty.stable.script = poison
        with faulty.client() as victim, faulty.client() as client:
            answer = client.get(method=method)
            assert answer.body == body
            faulty.stable.script = serve
            assert victim.get("/victim").body == b"GET /victim HTTP/1.1 "
            assert client.get("/same").body == b"GET /same HTTP/1.1 "
        faulty.stable.calm()


@pytest.mark.parametrize("stray", [POISON, b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n", b"\r\n", b"\0"])
def test_unsolicited_bytes_on_an_idle_connection_answer_nobody(faulty: Stage, stray: bytes) -> None:
    def stir(call: Call) -> None:
        assert call.request()
        call.send(ok(b"right"))
        eventually(idle.is_set)
        call.send(stray)
        call.until_gone()
        dropped.set()

    idle, dropped = threading.Event(), threading.Event()
    faulty.stable.script = stir
    with faulty.client() as client:
        assert client.get().body == b"right"
        faulty.stable.script = serve
        idle.set()
        eventually(dropped.is_set)
        for method in ("POST", "GET"):
            assert client.get("/next", method=method).body == b"%b /next HTTP/1.1 " % method.encode()


STRAY = {
    "HEAD, length and body": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"),
    "HEAD, chunked": ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstray\r\n0\r\n\r\n"),
    "HEAD, no length": ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
    "204, length and body": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nstray"),
    "204, chunked": ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstray\r\n0\r\n\r\n"),
    "304, length": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    "304, length and body": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nstray"),
    "304, chunked": ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstray\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize(("method", "response"), STRAY.values(), ids=STRAY)
def test_stray_lengths_and_bodies_confuse_nobody(faulty: Stage, method: str, response: bytes) -> None:
    """HEAD, 204 and 304 have no body whatever they say (R2)."""

    def stray(call: Call) -> None:
        assert call.request()
        call.send(response)
        serve(call)

    faulty.stable.script = stray
    with faulty.client() as client:
        answer = client.get(method=method)
        assert answer.status == int(response.split(b" ")[1])
        faulty.stable.script = serve
        assert client.get("/next").body == b"GET /next HTTP/1.1 "
    if answer.status == 204:
        assert (answer.field(b"content-length"), answer.field(b"transfer-encoding")) == (None, None)
    elif b"Content-Length" in response:
        assert answer.field(b"content-length") == b"5"


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_a_response_without_a_length_is_chunked_to_1_1_and_closes_1_0(faulty: Stage, size: int) -> None:
    def until_close(call: Call) -> None:
        assert call.request()
        call.send(b"HTTP/1.1 200 OK\r\n\r\n", bytes(size))

    faulty.stable.script = until_close
    with faulty.client() as client:
        for _ in range(2):
            answer = client.get()
            assert (answer.field(b"transfer-encoding"), answer.body) == (b"chunked", bytes(size))
    with faulty.client() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = client.answer()
        assert (answer.field(b"transfer-encoding"), answer.field(b"content-length"), answer.body) == (None, None, bytes(size))
        assert answer.field(b"connection") in (None, b"close")


# --- Upstreams that hang up when their connection is used again (C5) ---


def hanging_up_at_reuse(farewell: str) -> Script:
    """Answer one request on each connection; the next one is taken, and the connection ended without a word."""

    def script(call: Call) -> None:
        if request := call.request():
            call.send(ok(b"%d " % call.number + request.body))
        if call.head() and farewell == "reset":
            call.reset()

    return script


@pytest.mark.parametrize("farewell", ["end", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_what_may_be_sent_twice_is_answered_when_the_upstream_hangs_up_at_reuse(
    faulty: Stage, method: str, farewell: str
) -> None:
    faulty.stable.script = hanging_up_at_reuse(farewell)
    with faulty.client() as client:
        assert client.get().body == b"1 "
        client.send(b"%b /again HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody" % method.encode())
        answer = client.answer(method)
        assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"2 body")
    assert faulty.stable.lines == [b"GET / HTTP/1.1"] + [b"%b /again HTTP/1.1" % method.encode()] * 2


@pytest.mark.parametrize("farewell", ["end", "reset"])
@pytest.mark.parametrize("body", [b"", b"body"])
@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
def test_what_may_not_be_sent_twice_is_a_502_when_the_upstream_hangs_up_at_reuse(
    faulty: Stage, method: bytes, body: bytes, farewell: str
) -> None:
    faulty.stable.script = hanging_up_at_reuse(farewell)
    with faulty.client() as client:
        assert client.get().body == b"1 "
        client.send(b"%b /again HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n%b" % (method, len(body), body))
        answer = client.answer()
        assert (answer.status, answer.field(b"x-canaryproxy-error")) == (502, b"upstream_reset")
    assert faulty.stable.lines == [b"GET / HTTP/1.1", method + b" /again HTTP/1.1"]


def test_a_post_finds_a_fresh_connection_when_the_idle_one_has_ended(faulty: Stage) -> None:
    def answer_and_close(call: Call) -> None:
        if request := call.request():
            call.send(ok(request.body))
            call.sock.shutdown(socket.SHUT_WR)
            call.until_gone()
            noticed.release()

    noticed = threading.Semaphore(0)
    faulty.stable.script = answer_and_close
    with faulty.client() as client:
        for _ in range(20):
            client.send(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody")
            assert client.answer().body == b"body"
            assert noticed.acquire(timeout=5)
