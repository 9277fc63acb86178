"""Clients that are early, slow, half gone or broken, and messages in pieces: http.md section 14, rules C2, C7, C11, C12, R7.

One real canaryproxy with one worker for the whole module. What a client does wrong is never an error of the variant.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from fault_origin import MIB, Call, Client, Stage, ok, once, serve, stage
from plane import eventually

pytestmark = pytest.mark.system

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage that does not wait long for a body."""
    with stage(tmp_path_factory.mktemp("clients"), timeouts={"request_body_idle": "400ms"}) as made:
        yield made


@pytest.fixture
def faulty(standing: Stage) -> Iterator[Stage]:
    """The stage as it was when it began."""
    yield standing
    standing.calm()


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
    with faulty.client() as last:
        last.send(b"BAD\r\n\r\n")
        assert last.answer().status == 400  # when this is answered, the first pieces have been read
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


def test_a_bad_chunk_and_a_body_that_does_not_come_are_the_clients_errors(faulty: Stage) -> None:
    before = faulty.outcomes()
    for request, rest, status in ((CHUNKED + b"3\r\nabc\r\n", b"zz\r\n", 400), (UPLOAD + b"abc", b"", 408)):
        with faulty.client() as client:
            client.send(request)
            eventually(lambda: faulty.stable.lines)  # it has begun
            client.send(rest)
            assert client.answer().status == status
        faulty.stable.calm()
    assert faulty.outcomes_since(before) == {"stable client_error": 2}, "and no error of the variant on /metrics"


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
