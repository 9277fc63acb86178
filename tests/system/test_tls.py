"""TLS on both sides of one worker: curl, Python's ssl and raw sockets before it, origins of TLS behind it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from certificates import Authority, Issued
from plane import MIB, Origin, Plane, Script, eventually, plane, read_all, read_head

from canaryproxy.shared.layout import Ack, Count, WorkerState

pytestmark = pytest.mark.system

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = os.urandom(MIB)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue("localhost")


def section(issued: Issued, **more: Any) -> dict[str, Any]:
    """A section `tls` of a configuration. (Its address is not used: the socket is given.)"""
    return {"certificate": issued.certificate, "key": issued.key, **more}


def server_side(issued: Issued) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    return context


def client_side(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.ca)


def secure(proxy: Plane, context: ssl.SSLContext, name: str = "localhost", receive: int = 0) -> ssl.SSLSocket:
    """A client's connection over TLS; `receive` is the size of its receive buffer."""
    sock = socket.socket()
    sock.settimeout(20)
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.connect(("127.0.0.1", proxy.tls_port))
    return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False)


def names(client: ssl.SSLSocket) -> list[str]:
    """Of the certificate that the server showed."""
    certificate = client.getpeercert()
    assert certificate is not None
    return [str(entry[1]) for entry in certificate["subjectAltName"]]


def ok(sock: socket.socket) -> None:
    """Answer every request without a body."""
    while read_head(sock)[0]:
        sock.sendall(OK)


def say(head: bytes, sock: socket.socket) -> None:
    """Answer with the head that came."""
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


def read_body(sock: socket.socket, size: int, body: bytes = b"") -> bytes:
    pieces, left = [body], size - len(body)
    while left:
        piece = sock.recv(min(left, 1 << 18))
        assert piece
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


# Clients over TLS.


def curl(peer: Callable[[str], Path], *arguments: str | Path) -> bytes:
    return subprocess.run([peer("curl"), "-sS", "--max-time", "20", *arguments], check=True, capture_output=True).stdout


def test_curl_over_tls(authority: Authority, issued: Issued, peer: Callable[[str], Path], tmp_path: Path) -> None:
    def shop(sock: socket.socket) -> None:
        while True:
            head, rest = read_head(sock)
            if head.startswith(b"PUT "):
                uploads.append(read_body(sock, MIB, rest))
                sock.sendall(OK)
            elif head.startswith((b"GET /large ", b"HEAD ")):
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MIB)
                sock.sendall(LARGE if head.startswith(b"GET") else b"")
            elif head:
                say(head, sock)
            else:
                return

    uploads: list[bytes] = []
    upload = tmp_path / "upload"
    upload.write_bytes(LARGE)
    trust = ("--cacert", authority.ca)
    with plane(Origin(shop), tls=section(issued)) as proxy:
        url = f"https://localhost:{proxy.tls_port}"
        assert b"\r\nX-Forwarded-Proto: https\r\n" in curl(peer, *trust, f"{url}/")
        assert b"\r\nX-Forwarded-Proto: http\r\n" in curl(peer, f"{proxy.url}/")
        to = [part for number in range(3) for part in (f"{url}/large", "-o", str(tmp_path / f"{number}"))]
        assert curl(peer, *trust, "-w", "%{http_code} %{http_version} %{num_connects}\n", *to).splitlines() == [
            b"200 1.1 1",
            b"200 1.1 0",
            b"200 1.1 0",
        ]
        assert all((tmp_path / f"{number}").read_bytes() == LARGE for number in range(3))
        assert curl(peer, *trust, "-T", upload, f"{url}/") == b"ok"
        assert uploads == [LARGE]
        head = curl(peer, *trust, "-I", f"{url}/large", f"{url}/large")
        assert head.count(b"Content-Length: 1048576\r\n") == 2
        assert proxy.outcomes() == {Count.C2XX: 8}


def test_alpn_says_http_1_1(authority: Authority, issued: Issued) -> None:
    context = client_side(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with plane(Origin(ok), tls=section(issued)) as proxy, secure(proxy, context) as client:
        assert client.selected_alpn_protocol() == "http/1.1"
        client.sendall(GET)
        assert client.recv(65536).endswith(b"ok")


@pytest.mark.parametrize("least", ["1.2", "1.3"])
def test_older_versions_are_refused(authority: Authority, issued: Issued, least: str) -> None:
    context = client_side(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    if least == "1.2":
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    else:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with plane(Origin(ok), tls=section(issued, min_version=least)) as proxy:
        with pytest.raises(ssl.SSLError, match="EOF"):  # uvloop sends no alert
            secure(proxy, context)
        with secure(proxy, client_side(authority)) as client:
            client.sendall(GET)
            assert client.recv(65536).endswith(b"ok")


def test_the_certificate_of_the_name_that_is_asked_for(authority: Authority, issued: Issued) -> None:
    exact, wild = authority.issue("shop.example.com", file="exact"), authority.issue("*.example.org", file="wild")
    sni = [
        {"hosts": ["shop.example.com"], "certificate": exact.certificate, "key": exact.key},
        {"hosts": ["*.example.org"], "certificate": wild.certificate, "key": wild.key},
    ]
    unchecked = client_side(authority)
    unchecked.check_hostname = False
    with plane(Origin(ok), tls=section(issued, sni=sni)) as proxy:
        for asked, shown in (
            ("localhost", "localhost"),
            ("shop.example.com", "shop.example.com"),
            ("SHOP.example.com", "shop.example.com"),
            ("a.example.org", "*.example.org"),
            ("example.org", "localhost"),
            ("elsewhere.example.com", "localhost"),
        ):
            with secure(proxy, unchecked, asked) as client:
                assert names(client) == [shown]


def test_a_new_certificate_is_used_at_once_and_for_new_connections_only(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canaryproxy.proxy.tls._LOOK_SECONDS", 0.1)
    first = authority.issue("localhost", file="renewed")
    context = client_side(authority)

    def shown() -> list[str]:
        with secure(proxy, context) as client:
            return names(client)

    with plane(Origin(ok), tls=section(first)) as proxy, secure(proxy, context) as old:
        old.sendall(GET)
        assert old.recv(65536).endswith(b"ok")
        assert shown() == ["localhost"]
        Path(first.certificate).write_text("half a certificate")
        proxy.may_say("renewed.key: cannot be used (not in pem form); what was read before stays in use")
        eventually(lambda: "cannot be used" in proxy.said())
        assert shown() == ["localhost"]
        authority.issue("localhost", "renewed.example.com", file="renewed")
        eventually(lambda: shown() == ["localhost", "renewed.example.com"])
        old.sendall(GET)
        assert old.recv(65536).endswith(b"ok"), "connections live on"


@pytest.mark.parametrize("kind", ["required", "optional"])
def test_client_certificates(authority: Authority, issued: Issued, tmp_path: Path, kind: str) -> None:
    def answer(context: ssl.SSLContext) -> bytes:
        try:
            with secure(proxy, context) as client:
                client.sendall(GET_AND_CLOSE)
                return read_all(client)
        except (ssl.SSLError, ConnectionError):
            return b""

    right, wrong, none = (client_side(authority) for _ in range(3))
    mine, foreign = authority.issue("client", file="mine"), Authority(tmp_path).issue("client")
    right.load_cert_chain(mine.certificate, mine.key)
    wrong.load_cert_chain(foreign.certificate, foreign.key)
    with plane(Origin(ok), tls=section(issued, client_ca=authority.ca, client_auth=kind)) as proxy:
        assert answer(right).endswith(b"ok")
        assert answer(wrong) == b""
        assert answer(none).endswith(b"ok") is (kind == "optional")
        assert proxy.counts()[Count.STARTED] == (1 if kind == "required" else 2)


# Much data, little memory.


def test_slow_readers_get_everything_and_cost_little(authority: Authority, issued: Issued) -> None:
    """Twelve clients that read nothing at first, of 16 MiB each: it stays with the upstream until they do."""

    def stream(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (16 * MIB))
            for _ in range(16):
                sock.sendall(LARGE)

    context = client_side(authority)
    with plane(Origin(stream), tls=section(issued)) as proxy:
        with secure(proxy, context) as client:  # what the first one costs, whoever reads
            client.sendall(GET_AND_CLOSE)
            read_all(client)
        before = proxy.memory()
        clients = [secure(proxy, context, receive=8192) for _ in range(12)]
        for client in clients:
            client.sendall(GET_AND_CLOSE)
        eventually(lambda: proxy.counts()[Count.STARTED] == 13)
        grown = -1
        while grown != (grown := proxy.memory("VmHWM") - before):
            time.sleep(0.2)  # until it grows no more
        assert grown < 12 * 9 * 65536 + 2 * MIB, grown / 12
        body = read_all(clients[0]).partition(b"\r\n\r\n")[2]
        assert body == LARGE * 16
        for client in clients:
            client.close()
        eventually(lambda: proxy.outcomes() == {Count.C2XX: 2, Count.CLIENT_GONE: 11})


def test_large_bodies_both_ways_with_tls_on_both_sides(authority: Authority, issued: Issued) -> None:
    size = 24

    def swap(sock: socket.socket) -> None:
        head, rest = read_head(sock)
        if head:
            received.update(read_body(sock, size * MIB, rest))
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(size):
                sock.sendall(b"100000\r\n%b\r\n" % LARGE)
            sock.sendall(b"0\r\n\r\n")

    received, sent = hashlib.sha256(), hashlib.sha256(LARGE * size)
    with (
        plane(Origin(swap, tls=server_side(issued)), tls=section(issued), pool={"tls": {"ca": authority.ca}}) as proxy,
        secure(proxy, client_side(authority)) as client,
    ):
        before = proxy.memory()
        client.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (size * MIB))
        for _ in range(size):
            client.sendall(LARGE)
        answer = read_all(client).partition(b"\r\n\r\n")[2]
        assert received.digest() == sent.digest()
        assert unchunk(answer) == LARGE * size
        assert proxy.memory("VmHWM") - before < 8 * MIB
        assert proxy.outcomes() == {Count.C2XX: 1}
        assert (proxy.counts()[Count.BYTES_IN], proxy.counts()[Count.BYTES_OUT]) == (size * MIB, size * MIB)


def unchunk(data: bytes) -> bytes:
    """The body of complete chunks."""
    pieces: list[bytes] = []
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        if not size:
            assert data[end:] == b"\r\n\r\n"
            return b"".join(pieces)
        pieces.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


# Clients that behave badly.


def test_a_flood_of_handshakes_is_bounded_and_harms_nobody(authority: Authority, issued: Issued) -> None:
    with plane(Origin(ok), tls=section(issued), limits={"tls_handshakes": 20}) as proxy:
        flood = [socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=5) for _ in range(60)]
        for silent in flood[:39]:
            assert silent.recv(1) == b"", "the oldest make room"
        assert proxy.get().endswith(b"ok"), "a plain client is served"
        with secure(proxy, client_side(authority)) as client:
            client.sendall(GET)
            assert client.recv(65536).endswith(b"ok")
        assert proxy.board.worker(0, Ack.CONNECTIONS) <= 2
        for silent in flood:
            silent.close()


def test_a_flood_of_handshakes_leaves_files_for_others(issued: Issued) -> None:
    """As few as the process may open, it is not the handshakes that take them all."""
    with plane(Origin(ok), tls=section(issued), files=200) as proxy:
        proxy.may_say("load is ")
        flood = [socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=5) for _ in range(300)]
        with proxy.client() as client:
            client.settimeout(4)
            client.sendall(GET)
            assert client.recv(65536).endswith(b"ok")
        for silent in flood:
            silent.close()


def test_a_handshake_that_does_not_go_on_ends(issued: Issued) -> None:
    with (
        plane(Origin(ok), tls=section(issued, handshake_timeout="300ms")) as proxy,
        socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=5) as silent,
    ):
        silent.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert silent.recv(1) == b""


def test_plain_http_to_the_tls_port_is_cut(issued: Issued) -> None:
    with plane(Origin(ok), tls=section(issued)) as proxy:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=5) as client:
                client.sendall(GET)
                with suppress(ConnectionResetError):
                    assert not read_all(client).startswith(b"HTTP/")
        assert proxy.counts()[Count.STARTED] == 0


def test_an_early_answer_over_tls_is_not_lost(authority: Authority, issued: Issued) -> None:
    """The upstream refuses an upload and hangs up while the client still sends."""

    def refuse(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    context = client_side(authority)
    with plane(Origin(refuse), tls=section(issued)) as proxy:
        for _ in range(20):
            with secure(proxy, context) as client:
                client.sendall(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\n\r\n" + bytes(65536))
                with suppress(OSError):
                    for _ in range(20):
                        client.sendall(bytes(50_000))
                assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert proxy.outcomes() == {Count.C4XX: 20}


def test_a_client_over_tls_that_leaves_cancels_its_request(authority: Authority, issued: Issued) -> None:
    def silent(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            begun.set()
            with suppress(ConnectionResetError):
                sock.recv(1)
            ended.set()

    context = client_side(authority)
    with plane(Origin(silent), tls=section(issued)) as proxy:
        for way in ("close_notify", "end", "reset"):
            begun, ended = threading.Event(), threading.Event()
            client = secure(proxy, context)
            client.sendall(GET)
            eventually(begun.is_set)
            if way == "close_notify":
                with suppress(OSError):
                    client.unwrap()
            elif way == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            eventually(ended.is_set)
        assert proxy.outcomes() == {Count.CLIENT_GONE: 3}
        eventually(lambda: proxy.board.worker(0, Ack.CONNECTIONS) == 0)


def test_a_hundred_pipelined_requests_over_tls(authority: Authority, issued: Issued) -> None:
    with plane(Origin(ok), tls=section(issued)) as proxy, secure(proxy, client_side(authority)) as client:
        client.sendall(GET * 99 + GET_AND_CLOSE)
        assert read_all(client).count(b"HTTP/1.1 200 OK\r\n") == 100


def test_a_drain_over_tls(authority: Authority, issued: Issued) -> None:
    """What is in hand is finished, who is idle is told goodbye, and who does not come to the end of its handshake is cut."""

    def late(sock: socket.socket) -> None:
        while read_head(sock)[0]:
            begun.set()
            eventually(lambda: proxy.board.worker(0, Ack.STATE) == WorkerState.DRAINING)
            sock.sendall(OK)

    begun = threading.Event()
    context = client_side(authority)
    with (
        plane(Origin(late), tls=section(issued), timeouts={"drain": "300ms"}) as proxy,
        secure(proxy, context) as busy,
        secure(proxy, context) as idle,
        socket.create_connection(("127.0.0.1", proxy.tls_port)),
    ):
        busy.sendall(GET)
        eventually(begun.is_set)
        os.kill(proxy.pid, signal.SIGTERM)
        answer = read_all(busy)
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"ok")
        with suppress(ConnectionResetError, ssl.SSLError):  # its second of quiet is not over before the drain is
            assert read_all(idle) == b""
        assert proxy.wait(limit=4) == 0


def test_too_many_connections_of_one_client_over_tls(authority: Authority, issued: Issued) -> None:
    context = client_side(authority)
    with plane(Origin(ok), tls=section(issued), limits={"connections_per_ip": 1}) as proxy, secure(proxy, context) as first:
        for _ in range(5):
            with secure(proxy, context) as second:
                assert b"\r\nX-Canaryproxy-Error: too_many_connections_of_one_client\r\n" in read_all(second)
        first.sendall(GET)
        assert first.recv(65536).endswith(b"ok")


def test_a_worker_among_tls_peers_that_behave_badly(authority: Authority, issued: Issued, tmp_path: Path) -> None:
    """Both sides stop, cut, talk nonsense and forget close_notify: nothing is said, nobody stays, and the books balance.

    The access log's, too.
    """

    def moody(sock: socket.socket) -> None:
        random = Random(sock.getpeername()[1])
        while read_head(sock)[0]:
            answer = random.choice([OK, OK, OK, b"HTTP/1.1 200 OK\r\n\r\n" + LARGE, b"nonsense\r\n\r\n", OK[:-1], b"", OK + b"x"])
            if random.random() < 0.1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.sendall(answer)
            if answer is not OK or random.random() < 0.2:
                if random.random() < 0.5 and isinstance(sock, ssl.SSLSocket):
                    sock.unwrap()
                return

    def behave_badly(seed: int) -> None:
        random = Random(seed)
        requests = [GET, GET, GET * 5, GET_AND_CLOSE, b"bad\r\n\r\n", GET[:20]]
        requests += [
            b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % size + bytes(50_000) for size in (50_000, 90_000)
        ]
        for _ in range(15):
            with suppress(OSError), secure(proxy, context) as client:
                client.settimeout(0.1)
                for _ in range(random.randrange(5)):
                    client.sendall(random.choice(requests))
                    if random.random() < 0.7:
                        client.recv(1000)
                if random.random() < 0.2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                elif random.random() < 0.3:
                    client.unwrap()

    context = client_side(authority)
    origins = [Origin(moody, tls=server_side(issued)) for _ in range(2)]
    log, pool = tmp_path / "log", {"tls": {"ca": authority.ca}, "eject": {"failures": 0}}
    with plane(*origins, tls=section(issued), pool=pool, access_log={"path": str(log)}) as proxy:
        clients = [threading.Thread(target=behave_badly, args=(seed,)) for seed in range(6)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        assert proxy.counts()[Count.STARTED] > 50
        eventually(lambda: proxy.board.worker(0, Ack.CONNECTIONS) == 0, limit=10)
    entries = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert sum(entry["variant"] == "stable" for entry in entries) == proxy.counts()[Count.STARTED]


# Upstreams over TLS.


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("strangers"))


def named(host: str) -> Callable[[ssl.SSLObject, str, ssl.SSLContext], int | None]:
    """Refuses all who ask for another name."""

    def check(connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> int | None:
        return None if name == host else int(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

    return check


def test_an_upstream_is_verified_unless_that_is_off(authority: Authority, issued: Issued, strangers: Authority) -> None:
    other = authority.issue("app.internal", file="app")
    for certificate, tls, reason in (
        (issued, {}, "self-signed"),
        (issued, {"ca": strangers.ca}, "unknown authority"),
        (other, {"ca": authority.ca}, "wrong name"),
        (issued, {"ca": authority.ca, "server_name": "app.internal"}, "wrong name"),
        (issued, {"ca": authority.ca}, ""),
        (other, {"ca": authority.ca, "server_name": "app.internal"}, ""),
        (other, {"verify": False}, ""),
        (strangers.issue("localhost"), {"verify": False}, ""),
    ):
        context = server_side(certificate)
        context.sni_callback = named(str(tls.get("server_name", "localhost")))
        with plane(Origin(ok, tls=context), pool={"tls": tls}) as proxy:
            proxy.may_say("CERTIFICATE_VERIFY_FAILED")
            answer = proxy.get()
            if reason:
                assert answer.startswith(b"HTTP/1.1 502 "), reason
                assert b"\r\nX-Canaryproxy-Error: upstream_tls\r\n" in answer
                assert proxy.outcomes() == {Count.CONNECT_FAILED: 1}
            else:
                assert answer.endswith(b"ok"), tls


def test_an_upstream_that_is_not_trusted_says_so_but_once(issued: Issued) -> None:
    """The error log is not for each request."""
    with plane(Origin(ok, tls=server_side(issued)), pool={"eject": {"failures": 0}}) as proxy:
        proxy.may_say("CERTIFICATE_VERIFY_FAILED")
        for _ in range(5):
            assert proxy.get().startswith(b"HTTP/1.1 502 ")
        assert proxy.said().count("CERTIFICATE_VERIFY_FAILED") == 1


def test_an_upstream_gets_the_certificate_of_the_proxy(authority: Authority, issued: Issued) -> None:
    def who(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        while read_head(sock)[0]:
            shown.append(names(sock))
            sock.sendall(OK)

    shown: list[list[str]] = []
    mine = authority.issue("proxy.internal", file="proxy")
    context = server_side(issued)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with plane(
        Origin(who, tls=context), pool={"tls": {"ca": authority.ca, "certificate": mine.certificate, "key": mine.key}}
    ) as (proxy):
        assert proxy.get().endswith(b"ok")
        assert shown == [["proxy.internal"]]
    with plane(Origin(who, tls=context), pool={"tls": {"ca": authority.ca}}) as proxy:
        assert proxy.get().startswith(b"HTTP/1.1 502 ")


def test_connections_over_tls_are_kept(authority: Authority, issued: Issued) -> None:
    origin = Origin(ok, tls=server_side(issued))
    with plane(origin, pool={"tls": {"ca": authority.ca}}) as proxy, proxy.client() as client:
        for _ in range(20):
            client.sendall(GET)
            assert client.recv(65536).endswith(b"ok")
            assert proxy.get().endswith(b"ok")
        assert origin.connections <= 2, "one before the name is known, perhaps"


def answer_and_end(answer: bytes, *, close_notify: bool) -> Script:
    """Answer one request, and end with TLS's farewell or without."""

    def script(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        if read_head(sock)[0]:
            sock.sendall(answer)
            if close_notify:
                sock.unwrap()

    return script


@pytest.mark.parametrize("by_tls", [False, True])
@pytest.mark.parametrize("size", [3, 3_000_000])
@pytest.mark.parametrize("close_notify", [True, False])
def test_a_body_until_close_is_whole_only_with_close_notify(
    authority: Authority, issued: Issued, by_tls: bool, size: int, close_notify: bool
) -> None:
    script = answer_and_end(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(size), close_notify=close_notify)
    pool = {"tls": {"ca": authority.ca}}
    with plane(Origin(script, tls=server_side(issued)), tls=section(issued), pool=pool) as proxy:
        for request in (GET_AND_CLOSE, GET.replace(b"1.1", b"1.0")):
            with secure(proxy, client_side(authority)) if by_tls else proxy.client() as client:
                client.sendall(request)
                if close_notify:
                    body = read_all(client).partition(b"\r\n\r\n")[2]
                    assert (body if b"1.0" in request else unchunk(body)) == bytes(size)
                else:
                    with pytest.raises((ConnectionResetError, ssl.SSLError)):
                        read_all(client)
        assert proxy.outcomes() == {Count.C2XX if close_notify else Count.TRUNCATED: 2}


@pytest.mark.parametrize("close_notify", [True, False])
def test_a_body_of_known_length_needs_no_close_notify(authority: Authority, issued: Issued, close_notify: bool) -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    pool = {"tls": {"ca": authority.ca}}
    whole = Origin(answer_and_end(begun + bytes(100_000), close_notify=close_notify), tls=server_side(issued))
    with plane(whole, pool=pool) as proxy:
        assert proxy.get().endswith(b"\r\n\r\n" + bytes(100_000))
    part = Origin(answer_and_end(begun + bytes(99_999), close_notify=close_notify), tls=server_side(issued))
    with plane(part, pool=pool) as proxy:
        with pytest.raises(ConnectionResetError):
            proxy.get()
        assert proxy.outcomes() == {Count.TRUNCATED: 1}


def test_an_upstream_over_tls_that_hangs_up_at_reuse(authority: Authority, issued: Issued) -> None:
    """It closes each kept connection after one answer, with a farewell or without: a GET never sees that."""

    def once(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(OK)
            if Random(sock.getpeername()[1]).random() < 0.5 and isinstance(sock, ssl.SSLSocket):
                sock.unwrap()

    origin = Origin(once, tls=server_side(issued))
    with plane(origin, pool={"tls": {"ca": authority.ca}}) as proxy, proxy.client() as client:
        for _ in range(20):
            client.sendall(GET)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert proxy.outcomes() == {Count.C2XX: 20}


def test_an_upstream_that_does_not_speak_tls(issued: Issued) -> None:
    def talk(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with suppress(OSError):
            read_all(sock)

    origin = Origin(talk)
    with plane(f"https://127.0.0.1:{origin.port}") as proxy:
        proxy.may_say("WRONG_VERSION_NUMBER")
        answer = proxy.get()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"\r\nX-Canaryproxy-Error: upstream_tls\r\n" in answer


@pytest.mark.parametrize("send_proxy", [False, "v1"])
def test_an_upstream_that_is_silent_in_the_handshake(send_proxy: str | bool) -> None:
    def silent(sock: socket.socket) -> None:
        with suppress(OSError):
            read_all(sock)
        ended.set()

    ended = threading.Event()
    origin = Origin(silent)
    pool = {"send_proxy": send_proxy}
    with plane(f"https://127.0.0.1:{origin.port}", pool=pool, timeouts={"connect": "200ms"}) as proxy:
        answer = proxy.get()
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"\r\nX-Canaryproxy-Error: upstream_connect_timeout\r\n" in answer
        eventually(ended.is_set)


def test_an_upstream_over_tls_that_refuses_an_upload(authority: Authority, issued: Issued) -> None:
    """It answers 413 and closes on the rest. If a write meets the reset first, the answer is lost: uvloop has its keys."""

    def refuse(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    with plane(Origin(refuse, tls=server_side(issued)), pool={"tls": {"ca": authority.ca}}) as proxy:
        for _ in range(10):
            with proxy.client() as client:
                client.sendall(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5000000\r\n\r\n" + bytes(65536))
                with suppress(OSError):
                    for _ in range(20):
                        client.sendall(bytes(50_000))
                assert client.recv(65536)[:13] in {b"HTTP/1.1 413 ", b"HTTP/1.1 502 "}
        outcomes = proxy.outcomes()
        assert outcomes.get(Count.C4XX, 0) + outcomes.get(Count.RESPONSE_INVALID, 0) == 10


def test_checks_over_tls(authority: Authority, issued: Issued, strangers: Authority) -> None:
    def serve(sock: socket.socket) -> None:
        while head := read_head(sock)[0]:
            checks.append(head.startswith(b"GET /healthy "))
            sock.sendall(OK)

    checks: list[bool] = []
    health = {"path": "/healthy", "interval": "50ms", "timeout": "2s", "fall": 1}
    with plane(Origin(serve, tls=server_side(issued)), pool={"tls": {"ca": authority.ca}, "health": health}) as proxy:
        eventually(lambda: checks.count(True) > 3)
        assert proxy.get().endswith(b"ok")
    stranger = Origin(serve, tls=server_side(strangers.issue("localhost")))
    with plane(stranger, pool={"tls": {"ca": authority.ca}, "health": health}) as proxy:
        proxy.may_say("is down: 1 checks in a row failed, the last one: [SSL: CERTIFICATE_VERIFY_FAILED]")
        eventually(lambda: re.search("pool v1: .* is down: ", proxy.said()))
        assert proxy.get().startswith(b"HTTP/1.1 503 ")


def test_a_worker_that_leaves_amid_checks_over_tls(authority: Authority, issued: Issued) -> None:
    """A TLS connection that is just closing makes uvloop's loop fail to close: the worker would end with an error."""

    def serve(sock: socket.socket) -> None:
        while read_head(sock)[0]:
            checked.set()
            sock.sendall(OK)

    for _ in range(5):
        checked = threading.Event()
        pool = {"tls": {"ca": authority.ca}, "health": {"path": "/healthy", "interval": "2ms", "timeout": "2s"}}
        with plane(Origin(serve, tls=server_side(issued)), pool=pool):
            eventually(checked.is_set)


def test_an_upstream_with_an_address(authority: Authority, issued: Issued) -> None:
    for certificate, is_right in ((authority.issue("127.0.0.1", file="address"), True), (issued, False)):
        origin = Origin(ok, tls=server_side(certificate))
        with plane(f"https://127.0.0.1:{origin.port}", pool={"tls": {"ca": authority.ca}}) as proxy:
            proxy.may_say("CERTIFICATE_VERIFY_FAILED")
            assert proxy.get().endswith(b"ok") is is_right
