"""PROXY protocol on both sides of one worker: what load balancers say of clients comes in, and goes on to servers."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Issued
from plane import Origin, Plane, eventually, plane, read_all, read_head
from reading import refuses

from canaryproxy.http1.proxy_protocol import SIGNATURE, Header, build_v1, build_v2, parse

pytestmark = pytest.mark.system

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LOCAL = {"from": ["127.0.0.0/8"]}
V1 = build_v1(b"192.0.2.7", 4711, b"198.51.100.1", 80)
V2 = build_v2(b"2001:db8::7", 4711, b"2001:db8::1", 80)
UNKNOWN, OWN = b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\0\0\0"


def say(sock: socket.socket) -> None:
    """Answer every request with its own head."""
    while head := read_head(sock)[0]:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


def said(client: socket.socket) -> bytes:
    """The body of an answer of `say`."""
    head, body = read_head(client)
    assert head.startswith(b"HTTP/1.1 200 "), head
    while not body.endswith(b"\r\n\r\n"):
        body += client.recv(65536)
    return body


# In.


@pytest.mark.parametrize(
    ("header", "source"),
    [(V1, b"192.0.2.7"), (V2, b"2001:db8::7"), (UNKNOWN, b"127.0.0.1"), (OWN, b"127.0.0.1")],
)
def test_the_source_is_the_client_for_the_app_and_for_the_log(header: bytes, source: bytes, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with plane(Origin(say), proxy_protocol=LOCAL, access_log={"path": str(log)}) as proxy:
        for pieces in ([header + GET], [header, GET], [bytes([byte]) for byte in header + GET]):
            with proxy.client() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    client.sendall(piece)
                assert b"\r\nX-Forwarded-For: %b\r\n" % source in said(client)
                client.sendall(GET)
                assert b"\r\nX-Forwarded-For: %b\r\n" % source in said(client), "for the whole connection"
    lines = log.read_bytes().splitlines()
    assert len(lines) == 6
    assert all(b'"client_ip":"%b"' % source in line for line in lines)


@pytest.mark.parametrize(
    "begin",
    [
        GET_AND_CLOSE,
        b"PROXY nonsense\r\n" + GET_AND_CLOSE,
        V1.replace(b" 80\r\n", b" 80\n") + GET_AND_CLOSE,
        V1.replace(b"4711", b"70000") + GET_AND_CLOSE,
        b"PROXY TCP4 " + b"1" * 200,
        V2.replace(b"\x21\x21", b"\x31\x21") + GET_AND_CLOSE,
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(600),
    ],
    ids=["absent", "nonsense", "bare LF", "port", "long", "version 3", "long v2"],
)
def test_who_begins_otherwise_gets_no_answer(begin: bytes) -> None:
    with plane(Origin(say), proxy_protocol=LOCAL) as proxy:
        with proxy.client() as client:
            client.sendall(begin)
            with suppress(ConnectionResetError):
                assert read_all(client) == b""
        with proxy.client() as client:
            client.sendall(V1 + GET)
            assert said(client), "others are served"


def test_who_is_not_trusted_gets_no_answer() -> None:
    with plane(Origin(say), proxy_protocol={"from": ["10.0.0.0/8", "::1/128"]}) as proxy, proxy.client() as client:
        with suppress(OSError):
            client.sendall(V1 + GET)
        with suppress(ConnectionResetError):
            assert read_all(client) == b""


@pytest.mark.parametrize("begin", [b"", b"PROXY TCP4 1", SIGNATURE])
def test_a_header_that_does_not_come_in_time(begin: bytes) -> None:
    with plane(Origin(say), proxy_protocol={**LOCAL, "timeout": "200ms"}) as proxy, proxy.client() as client:
        client.sendall(begin)
        with proxy.client() as other:
            other.sendall(V1 + GET)
            assert said(other), "nobody waits for it"
        with suppress(ConnectionResetError):
            assert read_all(client) == b""


def test_who_ends_in_the_header_is_forgotten() -> None:
    with plane(Origin(say), proxy_protocol=LOCAL) as proxy:
        for end in (b"", b"PROXY TCP4 1", SIGNATURE, V1):
            with proxy.client() as client:
                client.sendall(end)
                client.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    assert read_all(client) == b""


def test_a_flood_of_headers_is_bounded() -> None:
    with plane(Origin(say), proxy_protocol=LOCAL, limits={"tls_handshakes": 20}) as proxy:
        flood = [proxy.client() for _ in range(60)]
        for silent in flood[:39]:
            assert silent.recv(1) == b"", "the oldest make room"
        with proxy.client() as client:
            client.sendall(V1 + GET)
            assert said(client)
        for silent in flood:
            silent.close()


def test_connections_of_one_client_are_counted_by_the_source() -> None:
    with plane(Origin(say), proxy_protocol=LOCAL, limits={"connections_per_ip": 1}) as proxy:
        with proxy.client() as first, proxy.client() as other, proxy.client() as second:
            first.sendall(V1 + GET)
            assert said(first)
            other.sendall(V2 + GET)
            assert said(other)
            second.sendall(V1 + GET)
            assert read_head(second)[0].startswith(b"HTTP/1.1 503 ")
        with proxy.client() as client:
            client.sendall(V2 + GET)
            assert said(client)


def test_a_source_that_is_a_trusted_proxy_is_believed_in_its_turn(tmp_path: Path) -> None:
    log = tmp_path / "log"
    forwarded = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
    sections: dict[str, Any] = {"trusted_proxies": ["192.0.2.0/24"], "access_log": {"path": str(log)}}
    with plane(Origin(say), proxy_protocol=LOCAL, **sections) as proxy:
        with proxy.client() as client:
            client.sendall(V1 + forwarded)
            assert b"\r\nX-Forwarded-For: 203.0.113.9, 192.0.2.7\r\n" in said(client)
        with proxy.client() as client:
            client.sendall(V2 + forwarded)
            assert b"\r\nX-Forwarded-For: 2001:db8::7\r\n" in said(client)
    first, second = log.read_bytes().splitlines()
    assert b'"client_ip":"203.0.113.9","peer":"192.0.2.7"' in first
    assert b'"client_ip":"2001:db8::7"' in second


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue("localhost")


def test_the_header_comes_before_tls(authority: Authority, issued: Issued) -> None:
    context = ssl.create_default_context(cafile=authority.ca)
    tls = {"certificate": issued.certificate, "key": issued.key}

    def secure(proxy: Plane, header: bytes) -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=10)
        sock.sendall(header)
        return context.wrap_socket(sock, server_hostname="localhost")

    with plane(Origin(say), proxy_protocol=LOCAL, tls=tls) as proxy:
        for header, source in ((V1, b"192.0.2.7"), (V2, b"2001:db8::7")):
            with secure(proxy, header) as client:
                for _ in range(2):
                    client.sendall(GET)
                    answer = said(client)
                    assert b"\r\nX-Forwarded-For: %b\r\n" % source in answer
                    assert b"\r\nX-Forwarded-Proto: https\r\n" in answer
        with pytest.raises((ssl.SSLError, ConnectionError)):
            secure(proxy, b"")


# Out.


def proxied(requests: list[tuple[Header, bytes]]) -> Callable[[socket.socket], None]:
    """A server that wants a PROXY header, and notes it beside each request of its connection."""

    def script(sock: socket.socket) -> None:
        data = b""
        while (header := parse(data)) is None:
            piece = sock.recv(1)
            if not piece:
                return
            data += piece
        assert isinstance(header, Header), header
        while head := read_head(sock)[0]:
            requests.append((header, head))
            sock.sendall(OK)

    return script


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_servers_are_told_who_the_client_is(version: str) -> None:
    requests: list[tuple[Header, bytes]] = []
    with plane(Origin(proxied(requests)), pool={"send_proxy": version}) as proxy, proxy.client() as client:
        for _ in range(3):
            client.sendall(GET)
            assert client.recv(65536).endswith(b"ok")
        assert [header[:2] for header, _ in requests] == [(b"127.0.0.1", client.getsockname()[1])] * 3


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_no_request_goes_out_under_the_name_of_another_client(version: str) -> None:
    """Six clients in turn, who keep their connections, and one who leaves while his is being made."""
    requests: list[tuple[Header, bytes]] = []
    origin = Origin(proxied(requests))
    with plane(origin, pool={"send_proxy": version}) as proxy:
        clients = [proxy.client() for _ in range(6)]
        for number in range(40):
            client = clients[number * 7 % 6]
            port = client.getsockname()[1]
            if number % 4 == 3:
                with proxy.client() as hasty:
                    hasty.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nX-Port: %d\r\n\r\n" % hasty.getsockname()[1])
            client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nX-Port: %d\r\n\r\n" % port)
            assert client.recv(65536).endswith(b"ok")
        for client in clients:
            client.close()
        assert len(requests) >= 40
        for header, head in requests:
            assert b"\r\nX-Port: %d\r\n" % header.source_port in head


def test_what_came_in_goes_out() -> None:
    requests: list[tuple[Header, bytes]] = []
    pool = {"send_proxy": "v2"}
    with plane(Origin(proxied(requests)), proxy_protocol=LOCAL, pool=pool) as proxy:
        for header in (V1, V2):
            with proxy.client() as client:
                client.sendall(header + GET)
                assert client.recv(65536).endswith(b"ok")
        assert [header[:2] for header, _ in requests] == [(b"192.0.2.7", 4711), (b"2001:db8::7", 4711)]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_destination_is_where_the_client_arrived(version: str) -> None:
    """proxy-protocol.txt, 2: the header tells the addresses of the connection that came in, not of the one that goes out."""

    def note(sock: socket.socket) -> None:
        data = b""
        while not isinstance(header := parse(data), Header):
            data += sock.recv(1)
        headers.append(data[: header.size])
        if read_head(sock)[0]:
            sock.sendall(OK)

    headers: list[bytes] = []
    with plane(Origin(note), pool={"send_proxy": version}) as proxy, proxy.client() as client:
        client.sendall(GET)
        assert client.recv(65536).endswith(b"ok")
        build = build_v1 if version == "v1" else build_v2
        assert headers == [build(b"127.0.0.1", client.getsockname()[1], b"127.0.0.1", proxy.port)]


def test_a_server_on_a_unix_socket_is_told_too(tmp_path: Path) -> None:
    requests: list[tuple[Header, bytes]] = []
    origin = Origin(proxied(requests), path=tmp_path / "app.sock")
    with plane(origin, pool={"send_proxy": "v1"}) as proxy, proxy.client() as client:
        client.sendall(GET)
        assert client.recv(65536).endswith(b"ok")
        assert requests[0][0].source == b"127.0.0.1"
        assert requests[0][0].source_port == client.getsockname()[1]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_server_over_tls_is_told_before_its_handshake(version: str, authority: Authority, issued: Issued) -> None:
    def script(sock: socket.socket) -> None:
        data = b""
        while not isinstance(header := parse(data), Header):
            data += sock.recv(1)
        with context.wrap_socket(sock, server_side=True) as secured:
            while head := read_head(secured)[0]:
                requests.append((header, head))
                secured.sendall(OK)

    requests: list[tuple[Header, bytes]] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    origin = Origin(script)
    pool = {"send_proxy": version, "tls": {"ca": authority.ca}}
    with plane(f"https://localhost:{origin.port}", pool=pool) as proxy:
        clients = [proxy.client() for _ in range(3)]
        for client in clients * 2:
            client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nX-Port: %d\r\n\r\n" % client.getsockname()[1])
            assert client.recv(65536).endswith(b"ok")
        for client in clients:
            client.close()
        assert len(requests) == 6
        for header, head in requests:
            assert b"\r\nX-Port: %d\r\n" % header.source_port in head


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_checks_name_no_client(version: str) -> None:
    requests: list[tuple[Header, bytes]] = []
    health = {"path": "/healthy", "interval": "50ms", "fall": 1}
    with plane(Origin(proxied(requests)), pool={"send_proxy": version, "health": health}):
        eventually(lambda: len(requests) > 3)
    assert all(header.source is None and head.startswith(b"GET /healthy ") for header, head in requests)


def test_connections_that_named_a_client_end_with_their_exchange() -> None:
    def note(sock: socket.socket) -> None:
        proxied([])(sock)
        ended.set()

    ended = threading.Event()
    with plane(Origin(note), pool={"send_proxy": "v1"}) as proxy, proxy.client() as client:
        client.sendall(GET)
        assert client.recv(65536).endswith(b"ok")
        eventually(ended.is_set)
        client.sendall(GET)
        assert client.recv(65536).endswith(b"ok")


@pytest.fixture(scope="module")
def nginx(peer: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx that wants a PROXY header, and answers with what it says."""
    folder = tmp_path_factory.mktemp("nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{ }}
        http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
          fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
          server {{ listen 127.0.0.1:{port} proxy_protocol; location / {{
            return 200 "$proxy_protocol_addr $proxy_protocol_port\\r\\n\\r\\n"; }} }} }}"""
    )
    program = subprocess.Popen(
        [peer("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log"], stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: not refuses(port))
        yield port
    finally:
        program.terminate()
        program.wait(5)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_understands_it(nginx: int, version: str) -> None:
    with plane(nginx, pool={"send_proxy": version}) as proxy, proxy.client() as first, proxy.client() as second:
        for client in (first, second, first):
            client.sendall(GET)
            assert said(client) == b"127.0.0.1 %d\r\n\r\n" % client.getsockname()[1]
    with plane(nginx, pool={"send_proxy": version}, proxy_protocol=LOCAL) as proxy, proxy.client() as client:
        client.sendall(V1 + GET)
        assert said(client) == b"192.0.2.7 4711\r\n\r\n"
        with proxy.client() as other:
            other.sendall(V2 + GET)
            assert said(other) == b"2001:db8::7 4711\r\n\r\n"


def test_a_proxy_behind_a_proxy(tmp_path: Path) -> None:
    """Two of us in a row: what the first sends, the second takes."""
    with plane(Origin(say), proxy_protocol=LOCAL) as inner, plane(inner.port, pool={"send_proxy": "v2"}) as outer:
        results: list[bytes] = []

        def visit() -> None:
            with outer.client() as client:
                client.sendall(GET)
                results.append(said(client))

        visitors = [threading.Thread(target=visit) for _ in range(10)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        assert len(results) == 10
        assert all(b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in result for result in results)
