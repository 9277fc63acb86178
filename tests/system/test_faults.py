"""Upstreams and clients that fail, each by its name, and what clients saw: http.md sections 7 and 14, rules R1-R7, C2-C12.

One real canaryproxy with one worker for the whole module, which must be in good order after all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fault_origin import MIB, Call, Client, FaultOrigin, Script, Stage, ok, serve, stage
from harness import PROGRAM, free_port
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
    timeouts = {"response_head": "400ms", "response_body_idle": "400ms", "request_body_idle": "400ms"}
    with stage(tmp_path_factory.mktemp("hasty"), timeouts=timeouts) as made:
        yield made


@pytest.fixture
def hasty(hasty_stage: Stage) -> Iterator[Stage]:
    """A stage that waits for nothing longer than 0.4 s."""
    yield hasty_stage
    hasty_stage.calm()


def once(*pieces: bytes) -> Script:
    """Answer the first request on a connection with these bytes, and then nothing until the proxy closes."""

    def script(call: Call) -> None:
        assert call.request()
        call.send(*pieces)
        call.until_gone()

    return script


# --- Uploads that are answered early (C7) ---


def send_while_silent(client: Client, piece: bytes, times: int) -> int:
    """Send the piece so often, as curl does: until an answer comes, or the other end takes no more. Bytes sent."""
    sent = 0
    while sent < len(piece) * times:
        readable, writable, _ = select.select([client.sock], [client.sock], [], 5)
        if readable or not writable:
            break
        with suppress(BlockingIOError):
            sent += client.sock.send(piece, socket.MSG_DONTWAIT)
    return sent


@pytest.mark.parametrize("word", [b"", b"Connection: close\r\n"], ids=["keep-alive", "close"])
@pytest.mark.parametrize("takes", ["nothing", "everything"])
def test_a_client_sees_an_early_4xx_while_its_upload_is_on_its_way(faulty: Stage, takes: str, word: bytes) -> None:
    def refuse(call: Call) -> None:
        assert call.head()
        call.send(b"HTTP/1.1 403 Forbidden\r\n%bContent-Length: 2\r\n\r\nno" % word)
        if takes == "everything":
            call.until_gone()
        else:
            gone.wait(5)

    gone = threading.Event()
    before = faulty.outcomes()
    faulty.stable.script = refuse
    try:
        with faulty.client() as client:
            client.send(b"POST /upload HTTP/1.1\r\nHost: shop\r\nContent-Length: 50000000\r\n\r\n")
            sent = send_while_silent(client, bytes(MIB), 48)
            answer = client.answer()
            assert (answer.status, answer.body, answer.field(b"connection")) == (403, b"no", b"close")
            assert sent < 50_000_000
        faulty.stable.script = serve
        assert faulty.get("/next").body == b"GET /next HTTP/1.1 ", "never on the connection of the upload"
    finally:
        gone.set()
    assert faulty.outcomes_since(before) == {"stable c4xx": 1, "stable c2xx": 1}


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


@pytest.fixture
def names(peer: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a canaryproxy that is started now sees as /etc/hosts, and there is no name server."""
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.touch()
    resolver.write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
    mount = f"mount --bind {hosts} /etc/hosts && mount --bind {resolver} /etc/resolv.conf"
    within = (str(peer("unshare")), "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    if subprocess.run((*within, "true"), check=False).returncode:
        pytest.skip("this machine gives no mount namespace")
    monkeypatch.setattr("harness.PROGRAM", (*within, *PROGRAM))
    return hosts


def test_a_name_that_is_gone_keeps_its_address_and_one_that_moves_is_followed(names: Path, tmp_path: Path) -> None:
    names.write_text("127.0.0.1 app.test\n")
    first = FaultOrigin()
    second = FaultOrigin("127.0.0.2", first.port)
    second.script = once(ok(b"moved"))
    pools = {"v1": {"servers": [f"http://app.test:{first.port}"], "resolve": "1s"}}
    with stage(tmp_path, pools=pools, routes={"shop": {"canary": None}}) as made:
        assert made.get("/found").body == b"GET /found HTTP/1.1 "
        names.write_text("")
        eventually(lambda: made.product.said("app.test: cannot be looked up"))
        first.calm()  # the next one needs a new connection
        assert made.get("/lost").body == b"GET /lost HTTP/1.1 "
        names.write_text("127.0.0.2 app.test\n")
        answers = []
        eventually(lambda: answers.append(made.get()) or answers[-1].body == b"moved")  # type: ignore[func-returns-value]
        assert {answer.status for answer in answers} == {200}
    first.close()
    second.close()


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
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_not_be_sent_twice_is_a_502_when_the_upstream_hangs_up_at_reuse(
    faulty: Stage, method: str, farewell: str
) -> None:
    faulty.stable.script = hanging_up_at_reuse(farewell)
    with faulty.client() as client:
        assert client.get().body == b"1 "
        client.send(b"%b /again HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody" % method.encode())
        answer = client.answer()
        assert (answer.status, answer.field(b"x-canaryproxy-error")) == (502, b"upstream_reset")
    assert faulty.stable.lines == [b"GET / HTTP/1.1", b"%b /again HTTP/1.1" % method.encode()]


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


# --- Clients that are slow, half gone or broken ---


def test_a_slow_reader_of_a_fast_200_mb_upstream_costs_little_memory(faulty: Stage) -> None:
    block = os.urandom(MIB)

    def pour(call: Call) -> None:
        assert call.request()
        call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (200 * MIB))
        for _ in range(200):
            call.send(block)

    faulty.stable.script = pour
    with faulty.client() as client:
        before = faulty.memory()
        client.send(GET)
        client.read_head()
        received, peak = hashlib.sha256(), 0
        for _ in range(40):
            received.update(client.read_exactly(64 * 1024))
            peak = max(peak, faulty.memory())
        for _ in range(200 * 16 - 40):
            received.update(client.read_exactly(64 * 1024))
    assert received.digest() == hashlib.sha256(block * 200).digest()
    assert peak - before < 8 * MIB
    assert faulty.memory() - before < 8 * MIB


@pytest.mark.parametrize(
    "head",
    [b"POST / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n", b"POST / HTTP/1.0\r\n"],
    ids=["close", "http10"],
)
def test_a_client_that_closes_its_half_and_waits_gets_the_whole_answer(faulty: Stage, head: bytes) -> None:
    def late(call: Call) -> None:
        request = call.request()
        assert request
        eventually(closed.is_set)
        call.send(ok(request.body * 1000))

    closed = threading.Event()
    faulty.stable.script = late
    with faulty.client() as client:
        client.send(head + b"Content-Length: 2000\r\n\r\n", bytes(2000))
        client.sock.shutdown(socket.SHUT_WR)
        eventually(lambda: faulty.stable.lines)
        assert faulty.outcomes()["in flight"] == 1
        closed.set()
        assert client.answer().body == bytes(2_000_000)


BAD = {
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "length and chunked": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare lf": b"GET / HTTP/1.1\nHost: a\n\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_hundred_pipelined_requests_with_a_bad_one_in_the_middle(faulty: Stage, bad: bytes) -> None:
    """What comes before it is answered in order, then it is refused, and nothing of what follows is looked at."""
    requests = [b"POST /%d HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi" % number for number in range(99)]
    with faulty.client() as client:
        client.send(b"".join([*requests[:50], bad, *requests[50:]]))
        for number in range(50):
            assert client.answer().body == b"POST /%d HTTP/1.1 hi" % number
        answer = client.answer()
        assert (answer.status, answer.field(b"connection")) == (400, b"close")
        assert client.until_gone()
    reached = [line for line in faulty.stable.lines if line != b"POST / HTTP/1.1"]
    assert reached == [b"POST /%d HTTP/1.1" % number for number in range(50)]


SPLIT = {
    "length": b"POST /s HTTP/1.1\r\nHost: s\r\nContent-Length: 3\r\n\r\nabc",
    "chunked": b"POST /s HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n2\r\nbc\r\n0\r\nA: b\r\n\r\n",
}


@pytest.mark.parametrize("request_", SPLIT.values(), ids=SPLIT)
def test_a_request_in_two_pieces_is_one_request_wherever_it_is_split(faulty: Stage, request_: bytes) -> None:
    clients = [faulty.client() for _ in range(len(request_) - 1)]
    for split, client in enumerate(clients, 1):
        client.send(request_[:split])
    faulty.get()  # when this is answered, the first pieces have been read
    for split, client in enumerate(clients, 1):
        client.send(request_[split:])
    assert {client.answer().body for client in clients} == {b"POST /s HTTP/1.1 abc"}
    for client in clients:
        client.close()
    assert faulty.stable.lines.count(b"POST /s HTTP/1.1") == len(clients)


RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n2\r\nbc\r\n0\r\nA: b\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_a_response_in_two_pieces_is_one_response_wherever_it_is_split(faulty: Stage, response: bytes) -> None:
    def split_it(call: Call) -> None:
        while request := call.request():
            at = int(request.line[5:-9])
            call.send(response[:at])
            begun.release()
            eventually(go_on.is_set)
            call.send(response[at:])

    begun, go_on = threading.Semaphore(0), threading.Event()
    faulty.stable.script = split_it
    clients = [faulty.client() for _ in range(len(response) - 1)]
    for at, client in enumerate(clients, 1):
        client.send(b"GET /%d HTTP/1.1\r\nHost: s\r\n\r\n" % at)
    for _ in clients:
        assert begun.acquire(timeout=10)
    assert faulty.get("/nobody").status == 502  # when this is answered, the first pieces have been read
    go_on.set()
    for client in clients:
        if response is RESPONSES["interim"]:
            assert client.answer().status == 103
        assert client.answer().body == b"abc"
        client.close()


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n", b""], ids=["chunked", "until close"])
def test_events_are_flushed_as_they_come(faulty: Stage, framing: bytes) -> None:
    """Server-sent events: each is seen before the next one is sent (R7)."""
    events = [b"data: %d\n\n" % number for number in range(20)]

    def stream(call: Call) -> None:
        assert call.request()
        call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n" % framing)
        for event in events:
            assert seen.acquire(timeout=5)
            call.send(b"%x\r\n%b\r\n" % (len(event), event) if framing else event)
        if framing:
            call.send(b"0\r\n\r\n")

    seen = threading.Semaphore(0)
    faulty.stable.script = stream
    with faulty.client() as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: shop\r\nAccept: text/event-stream\r\n\r\n")
        _, head = client.read_head()
        assert b"Transfer-Encoding: chunked\r\n" in head
        seen.release()
        received = []
        for chunk in client.read_chunks():
            received.append(chunk)
            seen.release()
    assert received == events


# --- Whose fault it was ---


UPLOAD = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 100\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_bad_chunk_and_a_body_that_does_not_come_are_the_clients_errors(hasty: Stage) -> None:
    before = hasty.outcomes()
    for request, rest, status in ((CHUNKED + b"3\r\nabc\r\n", b"zz\r\n", 400), (UPLOAD + b"abc", b"", 408)):
        with hasty.client() as client:
            client.send(request)
            eventually(lambda: hasty.stable.lines)  # it has begun
            client.send(rest)
            assert client.answer().status == status
        hasty.stable.calm()
    assert hasty.outcomes_since(before) == {"stable client_error": 2}, "and no error of the variant on /metrics"


HANG_UPS = {"in a sized upload": UPLOAD, "in a chunked upload": CHUNKED, "in a download": GET}


@pytest.mark.parametrize("end", [Client.close, Client.reset])
@pytest.mark.parametrize("request_", HANG_UPS.values(), ids=HANG_UPS)
def test_a_client_that_hangs_up_is_no_error_of_the_variant(faulty: Stage, request_: bytes, end: Callable[[Client], None]) -> None:
    before = faulty.outcomes()
    faulty.stable.script = once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    with faulty.client() as client:
        client.send(request_)
        eventually(lambda: faulty.stable.lines)
        if request_ is GET:
            client.read_head()
        end(client)
    assert faulty.outcomes_since(before) == {"stable client_gone": 1}
