"""Upgrade with real processes: WebSocket as `websockets` speaks it, and origins on raw sockets that do worse (C9, C10, R6)."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from plane import MIB, Origin, Plane, eventually, plane, read_all, read_head
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from canaryproxy.shared.layout import Count

pytestmark = pytest.mark.system

ASK = b"GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_RESET = struct.pack("ii", 1, 0)
_SECONDS = 5.0


# WebSocket, by `websockets` on both sides.


def echo(connection: ServerConnection) -> None:
    """Send everything back."""
    for message in connection:
        connection.send(message)


@contextmanager
def websocket(handler: Callable[[ServerConnection], None] = echo, **options: Any) -> Iterator[int]:
    """The port of a WebSocket server."""
    with serve(handler, "127.0.0.1", 0, max_size=None, close_timeout=1, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


class Listener:
    """One of the proxy's two listeners, as a WebSocket client sees it."""

    def __init__(self, authority: Authority | None, sections: dict[str, Any]) -> None:
        self.sections = sections
        self._context = ssl.create_default_context(cafile=authority.ca) if authority else None

    def connect(self, proxy: Plane, path: str = "/", **options: Any) -> ClientConnection:
        """A new WebSocket."""
        options = {"max_size": None, "close_timeout": 1, "proxy": None} | options
        if self._context is None:
            return connect(f"ws://127.0.0.1:{proxy.port}{path}", **options)
        return connect(f"wss://localhost:{proxy.tls_port}{path}", ssl=self._context, **options)


@pytest.fixture(params=["plain", "tls"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Listener:
    if request.param == "plain":
        return Listener(None, {})
    authority = Authority(tmp_path)
    issued = authority.issue("localhost")
    tls = {"listen": "127.0.0.1:0", "certificate": issued.certificate, "key": issued.key}
    return Listener(authority, {"tls": tls})


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def test_echo(listener: Listener) -> None:
    with websocket(subprotocols=["chat"]) as port, plane(port, **listener.sections) as proxy:
        with listener.connect(proxy, "/chat?room=1", subprotocols=["soap", "chat"], compression=None) as client:
            assert client.subprotocol == "chat"
            for message in ("text", b"", os.urandom(8 * MIB), b"x" * 65536):
                client.send(message)
                assert client.recv(20) == message
            assert client.ping().wait(_SECONDS)
        eventually(lambda: proxy.outcomes() == {Count.INFORMATIONAL: 1})
        assert 8 * MIB < proxy.counts()[Count.BYTES_IN] < 9 * MIB
        assert 8 * MIB < proxy.counts()[Count.BYTES_OUT] < 9 * MIB


def test_thousands_of_small_messages(listener: Listener) -> None:
    messages = [str(number) for number in range(5000)]
    with websocket() as port, plane(port, **listener.sections) as proxy, listener.connect(proxy) as client:
        sending = threading.Thread(target=lambda: [client.send(message) for message in messages])
        sending.start()
        assert [client.recv(20) for _ in messages] == messages
        sending.join()


def test_a_server_that_refuses(listener: Listener) -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        assert request.headers["X-Canary-Variant"] == "stable"
        return connection.respond(401, "who are you?")

    with websocket(process_request=refuse) as port, plane(port, **listener.sections) as proxy:
        with pytest.raises(InvalidStatus) as refused:
            listener.connect(proxy)
        assert (refused.value.response.status_code, refused.value.response.body) == (401, b"who are you?")
        assert proxy.outcomes() == {Count.C4XX: 1}


# One side dies: the other sees it at once, and only a server that did not end in order is to blame.


def die_in_order(sock: socket.socket) -> None:
    """As a process that is killed with nothing unread."""
    sock.shutdown(socket.SHUT_RDWR)


def die_in_disorder(sock: socket.socket) -> None:
    """As a machine that is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    os.close(sock.detach())


@pytest.mark.parametrize("die", [die_in_order, die_in_disorder])
def test_a_server_dies(listener: Listener, die: Callable[[socket.socket], None]) -> None:
    def live_and_die(connection: ServerConnection) -> None:
        connection.send(connection.recv())
        connection.recv()
        die(connection.socket)

    with websocket(live_and_die) as port, plane(port, **listener.sections) as proxy, listener.connect(proxy) as client:
        client.send("last words")
        assert client.recv(_SECONDS) == "last words"
        client.send("die")
        with pytest.raises(ConnectionClosedError):
            client.recv(_SECONDS)
        expected = Count.INFORMATIONAL if die is die_in_order else Count.TRUNCATED
        eventually(lambda: proxy.outcomes() == {expected: 1})


@pytest.mark.parametrize("die", [die_in_order, die_in_disorder])
def test_a_client_dies(listener: Listener, die: Callable[[socket.socket], None]) -> None:
    seen: list[Exception] = []

    def live(connection: ServerConnection) -> None:
        try:
            echo(connection)
            connection.recv()
        except ConnectionClosed as error:
            seen.append(error)

    with websocket(live) as port, plane(port, **listener.sections) as proxy, listener.connect(proxy) as client:
        client.send("last words")
        assert client.recv(_SECONDS) == "last words"
        die(client.socket)
        eventually(lambda: seen)
        assert isinstance(seen[0], ConnectionClosedError)
        eventually(lambda: proxy.outcomes() == {Count.INFORMATIONAL: 1})


# What the origin and the client send at the wrong time, or in one segment with something else.


def tunnelled(talk: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """A script that switches and goes on with `talk`."""

    def script(sock: socket.socket) -> None:
        assert read_head(sock)[0].startswith(b"GET /ws HTTP/1.1\r\n")
        sock.sendall(SWITCH)
        talk(sock)

    return script


def echo_bytes(sock: socket.socket) -> None:
    """Send everything back, to the end."""
    while data := sock.recv(65536):
        sock.sendall(data)


def raw(proxy: Plane, request: bytes = ASK) -> socket.socket:
    """A client in a tunnel."""
    client = proxy.client()
    client.sendall(request)
    assert client.recv(len(SWITCH), socket.MSG_WAITALL) == SWITCH
    return client


def test_nothing_is_forwarded_before_the_101() -> None:
    """CVE-2026-2833 (Pingora). What comes in one segment with a head comes out behind it, in both directions."""
    interim, may_switch = b"HTTP/1.1 103 Early Hints\r\n\r\n", threading.Event()

    def script(sock: socket.socket) -> None:
        head, rest = read_head(sock)
        sock.sendall(interim)
        assert may_switch.wait(_SECONDS)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(_SECONDS)
        assert (head[:4], rest) == (b"GET ", b"")
        sock.sendall(SWITCH + b"from the origin")
        assert read_all(sock) == b"from the client"

    with plane(Origin(script)) as proxy, proxy.client() as client:
        client.sendall(ASK + b"from the client")
        assert read_head(client) == (interim, b"")
        may_switch.set()
        head, rest = read_head(client)
        client.shutdown(socket.SHUT_WR)
        assert (head, rest + read_all(client)) == (SWITCH, b"from the origin")
    assert proxy.outcomes() == {Count.INFORMATIONAL: 1}


def test_a_refused_switch_leaves_nothing_behind() -> None:
    """The next request is read as one, and goes out on a new connection (CVE-2026-58055, nghttpx)."""
    seen: list[bytes] = []

    def script(sock: socket.socket) -> None:
        while head := read_head(sock)[0]:
            seen.append(head.partition(b"\r\n")[0])
            sock.sendall(OK)

    origin = Origin(script)
    with plane(origin) as proxy, proxy.client() as client:
        for request in (GET, ASK + GET, ASK.replace(b"websocket", b"h2c") + GET, GET):
            client.sendall(request)
            for _ in range(request.count(b"GET ")):
                head, rest = read_head(client)
                assert (head[:15], rest) == (b"HTTP/1.1 200 OK", b"ok")
                client.recv(0)
        assert seen == [b"GET /%b HTTP/1.1" % path for path in (b"", b"ws", b"", b"ws", b"", b"")]
        assert origin.connections == 2
    assert proxy.outcomes() == {Count.C2XX: 6}


def test_a_client_that_said_its_last_word_before_the_101() -> None:
    def script(sock: socket.socket) -> None:
        read_head(sock)
        assert may_switch.wait(_SECONDS)
        sock.sendall(SWITCH + b"farewell")
        sock.settimeout(_SECONDS)
        assert read_all(sock) == b""

    may_switch = threading.Event()
    with plane(Origin(script)) as proxy, proxy.client() as client:
        client.sendall(ASK.replace(b"Connection: ", b"Connection: close, "))
        client.shutdown(socket.SHUT_WR)
        eventually(lambda: proxy.counts()[Count.STARTED])
        may_switch.set()
        assert read_all(client) == SWITCH + b"farewell"


# Ends that the proxy brings about.


def test_an_idle_tunnel_is_closed() -> None:
    with plane(Origin(tunnelled(echo_bytes)), timeouts={"tunnel_idle": "0.3s"}) as proxy, raw(proxy) as client:
        client.sendall(b"still here")
        assert read_all(client) == b"still here"
    assert proxy.outcomes() == {Count.INFORMATIONAL: 1}


def test_a_drain_leaves_a_tunnel_its_time(listener: Listener) -> None:
    with websocket() as port, plane(port, timeouts={"drain": "0.6s"}, **listener.sections) as proxy:
        with listener.connect(proxy) as client:
            os.kill(proxy.pid, signal.SIGTERM)
            eventually(lambda: refused(proxy))
            client.send("still here")
            assert client.recv(_SECONDS) == "still here"
            with pytest.raises(ConnectionClosedError):
                client.recv(_SECONDS)
        assert proxy.wait() == 0
        assert proxy.outcomes() == {Count.INFORMATIONAL: 1}


def refused(proxy: Plane) -> bool:
    """Whether the proxy takes no new clients."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", proxy.port)) != 0


@pytest.mark.parametrize("stuck", ["client", "origin"])
def test_a_drain_does_not_wait_for_who_takes_nothing(stuck: str) -> None:
    def pour(sock: socket.socket) -> None:
        sock.sendall(bytes(64 * MIB))

    held = threading.Event()
    with plane(Origin(tunnelled(pour if stuck == "client" else lambda sock: held.wait(20))), timeouts={"drain": "0.1s"}) as proxy:
        with raw(proxy) as client:
            if stuck == "client":
                client.recv(1)
            else:
                client.setblocking(False)
                with pytest.raises(BlockingIOError):
                    while True:
                        client.send(bytes(MIB))
            os.kill(proxy.pid, signal.SIGTERM)
            assert proxy.wait(4) == 0
            held.set()


def test_a_slow_reader_of_a_tunnel_holds_no_memory() -> None:
    with plane(Origin(tunnelled(lambda sock: sock.sendall(bytes(64 * MIB))))) as proxy:
        before = proxy.memory()
        with raw(proxy) as client:
            eventually(lambda: proxy.counts()[Count.STARTED])
            read = 0
            while piece := client.recv(4 * MIB):
                read += len(piece)
            assert read == 64 * MIB
        assert proxy.memory("VmHWM") - before < 4 * MIB
