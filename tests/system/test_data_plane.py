"""The data plane against real peers: one worker process, nginx and raw sockets behind it, curl and raw sockets before it."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest
from plane import MIB, Origin, Plane, eventually, plane, read_all, read_head

from canaryproxy.shared.layout import CANARY, Ack, Count, WorkerState

pytestmark = pytest.mark.system

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ok(sock: socket.socket) -> None:
    """Answer every request without a body."""
    while read_head(sock)[0]:
        sock.sendall(OK)


# nginx and curl.


@pytest.fixture(scope="module")
def nginx(peer: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx that serves a folder with `large` (3 MB) and refuses uploads over 1 MB."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "www").mkdir()
    (folder / "www" / "large").write_bytes(os.urandom(3_000_000))
    (folder / "www" / "index.html").write_text("hello\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{ }}
        http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
          fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
          server {{ listen 127.0.0.1:{port}; root {folder}/www; gzip on; gzip_types *; gzip_min_length 1;
            location = /moved {{ return 301 /; }}  location = /empty {{ return 204; }} }} }}"""
    )
    program = subprocess.Popen(
        [peer("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log"], stderr=subprocess.DEVNULL
    )

    def serves() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(serves)
        yield port
    finally:
        program.terminate()
        program.wait(5)


def curl(peer: Callable[[str], Path], *arguments: str | Path) -> bytes:
    return subprocess.run([peer("curl"), "-sS", "--max-time", "20", *arguments], check=True, capture_output=True).stdout


def test_nginx_behind_and_curl_before(nginx: int, peer: Callable[[str], Path], tmp_path: Path) -> None:
    with plane(nginx) as proxy:
        digest = hashlib.sha256(curl(peer, f"http://127.0.0.1:{nginx}/large")).digest()
        both = curl(peer, f"{proxy.url}/large", f"{proxy.url}/large")
        assert [hashlib.sha256(half).digest() for half in (both[:3_000_000], both[3_000_000:])] == [digest, digest]
        head = curl(
            peer, "-I", f"{proxy.url}/large", f"{proxy.url}/", f"{proxy.url}/moved", f"{proxy.url}/empty", f"{proxy.url}/no"
        )
        assert [line.split()[1] for line in head.splitlines() if line.startswith(b"HTTP/")] == [
            b"200",
            b"200",
            b"301",
            b"204",
            b"404",
        ]
        assert b"Content-Length: 3000000\r\n" in head
        assert curl(peer, "--compressed", f"{proxy.url}/") == b"hello\n", "chunked, because gzipped"
        assert curl(peer, "--http1.0", f"{proxy.url}/", "-H", "Accept-Encoding: gzip", "--compressed") == b"hello\n"
        assert curl(peer, "-r", "0-3", f"{proxy.url}/") == b"hell"
        assert proxy.outcomes() == {Count.C2XX: 8, Count.C3XX: 1, Count.C4XX: 1}


def test_an_upload_that_nginx_refuses(nginx: int, peer: Callable[[str], Path], tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    with upload.open("wb") as file:
        file.truncate(50_000_000)
    with plane(nginx) as proxy:
        for expect in ("Expect:", "Expect: 100-continue"):
            status = curl(peer, "-T", upload, "-H", expect, "-o", "/dev/null", "-w", "%{http_code}", f"{proxy.url}/")
            assert status == b"413"
        assert proxy.outcomes() == {Count.C4XX: 2}


def test_a_hundred_pipelined_requests(nginx: int) -> None:
    with plane(nginx) as proxy, proxy.client() as client:
        client.sendall(GET * 99 + GET_AND_CLOSE)
        assert read_all(client).count(b"HTTP/1.1 200 OK\r\n") == 100


# Uploads.


def test_curl_waits_for_100_continue(peer: Callable[[str], Path], tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(os.urandom(2_000_000))
    received = hashlib.sha256()

    def take(sock: socket.socket) -> None:
        head, body = read_head(sock)
        assert b"Content-Length: 2000000\r\n" in head
        assert b"xpect" not in head
        size = 0
        while size < 2_000_000:
            body = body or sock.recv(65536)
            received.update(body)
            size += len(body)
            body = b""
        sock.sendall(OK)

    with plane(Origin(take)) as proxy:
        out = curl(peer, "-v", "-T", upload, "--expect100-timeout", "20", "--stderr", "-", f"{proxy.url}/")
        assert b"< HTTP/1.1 100 Continue" in out
        assert b"< HTTP/1.1 200 OK" in out
        assert received.digest() == hashlib.sha256(upload.read_bytes()).digest()


def test_an_early_answer_is_not_lost_when_the_upstream_hangs_up() -> None:
    """Many servers answer 413 and close on the rest; the reset that follows must not hide the answer."""

    def refuse(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    with plane(Origin(refuse)) as proxy:
        for _ in range(50):
            with proxy.client() as client:
                client.sendall(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\n\r\n" + bytes(65536))
                try:
                    for _ in range(20):
                        client.sendall(bytes(50_000))
                except OSError:
                    pass  # the proxy reads no more
                assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert proxy.outcomes() == {Count.C4XX: 50}


# Much data in little memory.


def stream(length: int) -> Callable[[socket.socket], None]:
    """Answer with `length` bytes, chunked by the MiB."""

    def script(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"100000\r\n%b\r\n" % bytes(MIB)
            for _ in range(length // MIB):
                sock.sendall(chunk)
            sock.sendall(b"0\r\n\r\n")

    return script


def count_received(client: socket.socket) -> int:
    buffer, total = bytearray(MIB), 0
    while size := client.recv_into(buffer):
        total += size
    return total


def test_a_gibibyte_down_in_flat_memory() -> None:
    with plane(Origin(stream(1 << 30))) as proxy, proxy.client() as client:
        before = proxy.memory()
        client.sendall(GET_AND_CLOSE)
        assert count_received(client) > 1 << 30
        assert proxy.memory("VmHWM") - before < 20 * MIB
        assert proxy.counts()[Count.BYTES_OUT] == 1 << 30


def test_a_gibibyte_up_in_flat_memory() -> None:
    def take(sock: socket.socket) -> None:
        _, rest = read_head(sock)
        buffer, left = bytearray(MIB), (1 << 30) - len(rest)
        while left:
            left -= sock.recv_into(buffer) or left
        sock.sendall(OK)

    with plane(Origin(take)) as proxy, proxy.client() as client:
        before = proxy.memory()
        client.sendall(b"PUT / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        for _ in range(1024):
            client.sendall(bytes(MIB))
        assert read_all(client).endswith(b"ok")
        assert proxy.memory("VmHWM") - before < 20 * MIB
        assert proxy.counts()[Count.BYTES_IN] == 1 << 30


def test_clients_that_read_nothing_cost_little() -> None:
    """Thirty slow readers of an endless response: what they do not take stays with the upstream."""
    with plane(Origin(stream(1 << 30))) as proxy:
        before = proxy.memory()
        clients = [socket.socket() for _ in range(30)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.connect(("127.0.0.1", proxy.port))
            client.sendall(GET_AND_CLOSE)
        eventually(lambda: proxy.counts()[Count.STARTED] == 30)
        grown = -1
        while grown != (grown := proxy.memory("VmHWM") - before):
            time.sleep(0.2)  # until it grows no more
        assert grown < 30 * 4 * 65536 + 2 * MIB
        for client in clients:
            client.close()
        eventually(lambda: proxy.outcomes() == {Count.CLIENT_GONE: 30})


# Upstreams that fail.


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port whose accept queue is full: the kernel drops whoever wants to connect."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        yield port
        for filler in fillers:
            filler.close()


def test_nobody_listens() -> None:
    with plane(refused_port()) as proxy, proxy.client() as client:
        for _ in range(2):
            client.sendall(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi")
            assert client.recv(65536).startswith(b"HTTP/1.1 502 ")
        assert proxy.outcomes() == {Count.CONNECT_FAILED: 2}


def test_nobody_answers_the_connect(deaf: int) -> None:
    with plane(deaf, timeouts={"connect": "200ms"}) as proxy:
        assert proxy.get().startswith(b"HTTP/1.1 504 ")
        assert proxy.outcomes() == {Count.CONNECT_TIMEOUT: 1}


def test_the_second_server_is_tried(deaf: int) -> None:
    with plane(deaf, Origin(ok), timeouts={"connect": "100ms"}) as proxy:
        proxy.may_say("is ejected: ")
        for _ in range(8):
            assert proxy.get().endswith(b"ok")
        assert proxy.outcomes() == {Count.C2XX: 8}


def test_the_canary_alone_is_dead() -> None:
    with plane(Origin(ok), canary=[refused_port()], fallback=False) as proxy:
        proxy.board.publish(0, 10_000, swapped=False, salt=1)
        assert proxy.get().startswith(b"HTTP/1.1 502 ")
        proxy.board.publish(0, 0, swapped=False, salt=1)
        assert proxy.get().endswith(b"ok"), "from the next request on"
        assert proxy.outcomes(CANARY) == {Count.CONNECT_FAILED: 1}


def test_stable_answers_for_a_dead_canary_which_is_blamed_all_the_same() -> None:
    with plane(Origin(ok), canary=[refused_port()]) as proxy:
        proxy.board.publish(0, 10_000, swapped=False, salt=1)
        answer = proxy.get()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"X-Canaryproxy-Fallback: upstream_connect\r\n" in answer
        assert proxy.outcomes(CANARY) == {Count.CONNECT_FAILED: 1}
        assert proxy.outcomes() == {Count.C2XX: 1}


def test_an_upstream_that_hangs_up_without_a_word_at_reuse() -> None:
    """It closes each kept connection after one answer: a GET never sees that."""

    def once(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(OK)

    with plane(Origin(once)) as proxy, proxy.client() as client:
        for _ in range(300):
            client.sendall(GET)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert proxy.outcomes() == {Count.C2XX: 300}


@pytest.mark.parametrize(
    "begun",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n012"],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_truncated_response_resets_the_client(begun: bytes, version: bytes) -> None:
    def break_off(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(begun)

    with plane(Origin(break_off)) as proxy, proxy.client() as client:
        client.sendall(GET_AND_CLOSE.replace(b"1.1", version))
        with pytest.raises(ConnectionResetError):
            read_all(client)
        assert proxy.outcomes() == {Count.TRUNCATED: 1}


def test_a_response_until_close_that_is_reset_resets_the_client() -> None:
    def reset(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n012")
            eventually(begun.is_set)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    begun = threading.Event()
    with plane(Origin(reset)) as proxy, proxy.client() as client:
        client.sendall(GET)
        read_head(client)
        begun.set()
        with pytest.raises(ConnectionResetError):
            read_all(client)
        assert proxy.outcomes() == {Count.TRUNCATED: 1}


# Clients that leave, and the worker that does.


def silent(received: list[bytes]) -> Callable[[socket.socket], None]:
    """Take a request, answer nothing, and note how the connection ends."""

    def script(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            received.append(b"request")
            try:
                received.append(sock.recv(1))
            except ConnectionResetError:
                received.append(b"")

    return script


def test_a_client_that_leaves_cancels_its_request_upstream() -> None:
    received: list[bytes] = []
    with plane(Origin(silent(received))) as proxy:
        with proxy.client() as client:
            client.sendall(GET)
            eventually(lambda: received)
        eventually(lambda: received == [b"request", b""])
        assert proxy.outcomes() == {Count.CLIENT_GONE: 1}
        assert proxy.counts()[Count.FAILED] == 0


def test_half_a_close_waits_for_the_answer() -> None:
    def late(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            eventually(closed.is_set)
            sock.sendall(OK)

    closed = threading.Event()
    with plane(Origin(late)) as proxy, proxy.client() as client:
        client.sendall(GET_AND_CLOSE)
        client.shutdown(socket.SHUT_WR)
        closed.set()
        assert read_all(client).endswith(b"ok")


def test_an_error_is_seen_by_a_client_that_sends_on() -> None:
    with plane(Origin(ok)) as proxy, proxy.client() as client:
        client.sendall(b"BAD / HTTP/9.9\r\n\r\n" + bytes(200_000))
        assert client.recv(65536).startswith(b"HTTP/1.1 505 ")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"", "in order, not with a reset"


def test_a_draining_worker_finishes_what_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canaryproxy.proxy.worker._QUIET_SECONDS", 0.3)

    def late(sock: socket.socket) -> None:
        while read_head(sock)[0]:
            begun.set()
            eventually(draining.is_set)
            sock.sendall(OK)

    begun, draining = threading.Event(), threading.Event()
    with plane(Origin(late)) as proxy, proxy.client() as busy, proxy.client() as idle:
        time.sleep(0.5)  # for as long a connection is not closed as idle
        busy.sendall(GET)
        eventually(begun.is_set)
        os.kill(proxy.pid, signal.SIGTERM)
        eventually(lambda: proxy.board.applied(0, 0).workers == 1 and proxy.board.worker(0, Ack.STATE) == WorkerState.DRAINING)
        with pytest.raises(ConnectionRefusedError):
            proxy.client()
        assert read_all(idle) == b""
        draining.set()
        answer = read_all(busy)
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"ok")
        assert proxy.wait() == 0
        assert proxy.board.serving() == []


def test_a_drain_ends_in_time() -> None:
    received: list[bytes] = []
    with plane(Origin(silent(received)), timeouts={"drain": "300ms"}) as proxy, proxy.client() as client:
        client.sendall(GET)
        eventually(lambda: received)
        began = time.monotonic()
        assert proxy.leave() == 0
        assert time.monotonic() - began < 2
        with pytest.raises(ConnectionResetError):
            read_all(client)
        assert proxy.outcomes() == {Count.ABANDONED: 1}


def has_applied(proxy: Plane, epoch: int) -> bool:
    return proxy.board.applied(0, epoch) == (1, 1)


def test_epochs_are_acknowledged_within_a_beat() -> None:
    with plane(Origin(ok)) as proxy:
        for weight_bp in (100, 0):
            epoch = proxy.board.publish(0, weight_bp, swapped=False, salt=1)
            eventually(partial(has_applied, proxy, epoch), limit=0.5)


def test_many_clients_at_once(nginx: int) -> None:
    """Four hundred connections with ten requests each, half of them through the canary: all answered, all accounted for."""
    with plane(nginx, canary=[nginx]) as proxy:
        proxy.board.publish(0, 5_000, swapped=False, salt=3)
        clients = [proxy.client() for _ in range(400)]
        for _ in range(10):
            for number, client in enumerate(clients):
                client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nCookie: uid=%d\r\n\r\n" % number)
            for client in clients:
                head, body = read_head(client)
                assert head.startswith(b"HTTP/1.1 200 ")
                while not body.endswith(b"hello\n"):
                    body += client.recv(100)
        assert proxy.counts()[Count.C2XX] + proxy.counts(CANARY)[Count.C2XX] == 4000
        assert 1500 < proxy.counts(CANARY)[Count.C2XX] < 2500
        for client in clients:
            client.close()


def test_a_worker_among_people_who_behave_badly() -> None:
    """Clients and origins that stop, cut and talk nonsense, all at once: nothing is said, and the books balance."""

    def moody(sock: socket.socket) -> None:
        random = Random(sock.getpeername()[1])
        while read_head(sock)[0]:
            answer = random.choice(
                [OK, OK, OK, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(50_000), b"nonsense\r\n\r\n", OK[:-1], b"", OK + b"x"]
            )
            if random.random() < 0.1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.sendall(answer)
            if answer is not OK or random.random() < 0.2:
                return

    def behave_badly(seed: int) -> None:
        random = Random(seed)
        until = time.monotonic() + 2
        requests = [GET, GET, GET * 5, GET_AND_CLOSE, b"bad\r\n\r\n", GET[:20]]
        requests += [
            b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % size + bytes(50_000) for size in (50_000, 90_000)
        ]
        while time.monotonic() < until:
            with suppress(OSError), proxy.client() as client:
                client.settimeout(0.2)
                for _ in range(random.randrange(5)):
                    client.sendall(random.choice(requests))
                    if random.random() < 0.7:
                        client.recv(1000)
                if random.random() < 0.2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with plane(Origin(moody), Origin(moody), canary=[Origin(moody)]) as proxy:
        proxy.may_say("is ejected: ")
        proxy.board.publish(0, 5_000, swapped=False, salt=1)
        clients = [threading.Thread(target=behave_badly, args=(seed,)) for seed in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert proxy.counts()[Count.STARTED] > 200


def test_a_worker_without_files_left_blames_no_variant() -> None:
    with plane(Origin(ok), files=200) as proxy:
        clients = [proxy.client() for _ in range(300)]  # more than there is room for: some wait in the accept queue
        eventually(lambda: proxy.board.worker(0, Ack.CONNECTIONS) >= 150)
        clients[0].sendall(GET)
        assert clients[0].recv(65536).endswith(b"ok"), "some files are kept for what is not a client's"
        assert proxy.outcomes() == {Count.C2XX: 1}
        for client in clients:
            client.close()
        assert proxy.get().endswith(b"ok"), "it accepts again as soon as it can"
        proxy.may_say("load is ")


def test_the_helper_notices_a_worker_that_does_not_leave() -> None:
    made = Plane([refused_port()])
    os.kill(made.pid, signal.SIGSTOP)
    os.kill(made.pid, signal.SIGTERM)
    with pytest.raises(AssertionError, match="did not come true"):
        made.wait(limit=0.1)
    made.kill()
