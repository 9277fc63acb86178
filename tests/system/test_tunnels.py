"""Upgrade with real processes: WebSocket as `websockets` speaks it, and origins on raw sockets that do worse (C9, C10, R6)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
from certificates import Authority, Issued
from harness import Product, until_answered
from plane import MIB, Origin, Plane, eventually, plane, read_all, read_head
from reading import in_flight, settled
from websockets.asyncio import server as asyncio_server
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from canaryproxy.shared.layout import Count

pytestmark = pytest.mark.system

ASK = b"GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_RESET = struct.pack("ii", 1, 0)
_SECONDS = 5.0
#: So many that of each third of the users, whatever the salt, there are some among them.
_USERS = 40


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
    """One of the proxy's two listeners, as its clients see it."""

    def __init__(self, authority: Authority | None, sections: dict[str, Any]) -> None:
        self.sections = sections
        self._context = ssl.create_default_context(cafile=authority.ca) if authority else None

    def connect(self, proxy: Plane, path: str = "/", **options: Any) -> connect:
        """A new WebSocket. (Not one of `websockets.sync`: its two threads use one SSLSocket, and a few in a thousand hang.)"""
        options = {"max_size": None, "close_timeout": 1, "proxy": None} | options
        if self._context is None:
            return connect(f"ws://127.0.0.1:{proxy.port}{path}", **options)
        return connect(f"wss://localhost:{proxy.tls_port}{path}", ssl=self._context, **options)

    def dial(self, proxy: Plane) -> socket.socket:
        """A new connection."""
        if self._context is None:
            return proxy.client()
        sock = socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._context.wrap_socket(sock, server_hostname="localhost")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue("localhost")


@pytest.fixture(params=["plain", "tls"])
def listener(request: pytest.FixtureRequest, authority: Authority, issued: Issued) -> Listener:
    if request.param == "plain":
        return Listener(None, {})
    return Listener(authority, {"tls": {"certificate": issued.certificate, "key": issued.key}})


def test_echo(listener: Listener) -> None:
    async def talk(proxy: Plane) -> None:
        async with listener.connect(proxy, "/chat?room=1", subprotocols=["soap", "chat"], compression=None) as client:
            assert client.subprotocol == "chat"
            for message in ("text", b"", os.urandom(8 * MIB), b"x" * 65536):
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping())

    with websocket(subprotocols=["chat"]) as port, plane(port, **listener.sections) as proxy:
        asyncio.run(asyncio.wait_for(talk(proxy), 20))
        eventually(lambda: proxy.counts()[Count.BYTES_OUT])  # counted last
        assert proxy.outcomes() == {Count.INFORMATIONAL: 1}
        assert 8 * MIB < proxy.counts()[Count.BYTES_IN] < 9 * MIB
        assert 8 * MIB < proxy.counts()[Count.BYTES_OUT] < 9 * MIB


def test_thousands_of_small_messages(listener: Listener) -> None:
    messages = [str(number) for number in range(5000)]

    async def send_all(client: ClientConnection) -> None:
        for message in messages:
            await client.send(message)

    async def talk(proxy: Plane) -> None:
        async with listener.connect(proxy) as client:
            sending = asyncio.ensure_future(send_all(client))
            assert [await client.recv() for _ in messages] == messages
            await sending

    with websocket() as port, plane(port, **listener.sections) as proxy:
        asyncio.run(asyncio.wait_for(talk(proxy), 20))


def test_a_server_that_refuses(listener: Listener) -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        assert request.headers["X-Canary-Variant"] == "stable"
        return connection.respond(401, "who are you?")

    async def talk(proxy: Plane) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await listener.connect(proxy)
        assert (refused.value.response.status_code, refused.value.response.body) == (401, b"who are you?")

    with websocket(process_request=refuse) as port, plane(port, **listener.sections) as proxy:
        asyncio.run(talk(proxy))
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

    async def talk(proxy: Plane) -> None:
        async with listener.connect(proxy) as client:
            await client.send("last words")
            assert await client.recv() == "last words"
            await client.send("die")
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    with websocket(live_and_die) as port, plane(port, **listener.sections) as proxy:
        asyncio.run(asyncio.wait_for(talk(proxy), _SECONDS))
        expected = Count.INFORMATIONAL if die is die_in_order else Count.TRUNCATED
        eventually(lambda: proxy.outcomes() == {expected: 1})


@pytest.mark.parametrize("in_order", [True, False])
def test_a_client_dies(listener: Listener, in_order: bool) -> None:
    seen: list[Exception] = []

    def live(connection: ServerConnection) -> None:
        try:
            echo(connection)
            connection.recv()
        except ConnectionClosed as error:
            seen.append(error)

    async def live_and_die(proxy: Plane) -> None:
        client = await listener.connect(proxy)
        await client.send("last words")
        assert await client.recv() == "last words"
        sock = client.transport.get_extra_info("socket")
        if in_order:
            sock.shutdown(socket.SHUT_RDWR)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.transport.abort()
        await client.wait_closed()

    with websocket(live) as port, plane(port, **listener.sections) as proxy:
        asyncio.run(asyncio.wait_for(live_and_die(proxy), _SECONDS))
        eventually(lambda: seen)
        assert isinstance(seen[0], ConnectionClosedError)
        eventually(lambda: proxy.outcomes() == {Count.INFORMATIONAL: 1})


def test_clients_that_are_gone_when_the_101_comes(listener: Listener) -> None:
    """Whoever is told so first, each exchange ends, and the worker can leave."""

    def switch_at_once(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(SWITCH)
        read_all(sock)

    def ask_and_go(proxy: Plane) -> None:
        for _ in range(40):
            client = listener.dial(proxy)
            client.sendall(ASK)
            die_in_disorder(client)

    with plane(Origin(switch_at_once), **listener.sections) as proxy:
        clients = [threading.Thread(target=ask_and_go, args=(proxy,)) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        eventually(lambda: proxy.counts()[Count.STARTED] == sum(proxy.outcomes().values()))
        assert proxy.outcomes().keys() <= {Count.INFORMATIONAL, Count.CLIENT_GONE}


@pytest.mark.parametrize("request_", [ASK, GET[:-2] + b"Connection: close\r\n\r\n"], ids=["tunnels", "requests"])
def test_connections_over_tls_that_have_gone_hold_no_memory(authority: Authority, issued: Issued, request_: bytes) -> None:
    """On either side: 256 KiB of buffers for each of them."""

    def answer(sock: socket.socket) -> None:
        head = read_head(sock)[0]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(SWITCH if b"pgrade" in head else b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        assert isinstance(sock, ssl.SSLSocket)
        sock.unwrap()

    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(issued.certificate, issued.key)
    tls = {"certificate": issued.certificate, "key": issued.key}
    listener = Listener(authority, {"tls": tls})
    with plane(Origin(answer, tls=server_side), tls=tls, pool={"tls": {"ca": authority.ca}}) as proxy:
        for number in range(40):
            if number == 10:
                before = proxy.memory()
            with listener.dial(proxy) as client:
                client.sendall(request_)
                assert read_all(client)
        assert proxy.memory() - before < 3 * MIB


def test_a_handshake_behind_a_proxy_header_may_fail() -> None:
    """Its connection is lost before it was made: said in one line, not in a traceback."""

    def speak_no_tls(sock: socket.socket) -> None:
        data = b""
        while b"\r\n\x16" not in data:  # the header's end and a handshake's beginning
            data += sock.recv(1000)
        sock.sendall(OK)
        read_all(sock)

    origin = Origin(speak_no_tls)
    with plane(f"https://127.0.0.1:{origin.port}", pool={"send_proxy": "v1"}) as proxy:
        proxy.may_say("WRONG_VERSION_NUMBER")
        assert proxy.get().startswith(b"HTTP/1.1 502 ")


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
            answers, wanted = b"", request.count(b"GET ")
            while answers.count(b"\r\n\r\nok") < wanted:  # both may come in one piece
                piece = client.recv(65536)
                assert piece
                answers += piece
            assert answers.count(b"HTTP/1.1 200 OK\r\n") == wanted
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
    async def talk(proxy: Plane) -> None:
        async with listener.connect(proxy) as client:
            os.kill(proxy.pid, signal.SIGTERM)
            eventually(lambda: refused(proxy))
            await client.send("still here")
            assert await client.recv() == "still here"
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    with websocket() as port, plane(port, timeouts={"drain": "0.6s"}, **listener.sections) as proxy:
        asyncio.run(asyncio.wait_for(talk(proxy), _SECONDS))
        assert proxy.wait() == 0
        assert proxy.outcomes() == {Count.INFORMATIONAL: 1}


def refused(proxy: Plane) -> bool:
    """Whether the proxy takes no new clients."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", proxy.port)) != 0


@pytest.mark.parametrize("stuck", ["client", "origin"])
def test_a_drain_does_not_wait_for_who_takes_nothing(stuck: str) -> None:
    def talk(sock: socket.socket) -> None:
        if stuck == "client":
            sock.sendall(bytes(64 * MIB))
        else:
            has_left.wait(20)

    has_left = threading.Event()
    with plane(Origin(tunnelled(talk)), timeouts={"drain": "0.1s"}) as proxy, raw(proxy) as client:
        client.recv(1) if stuck == "client" else fill(client)
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.wait(4) == 0
        has_left.set()


def fill(sock: socket.socket) -> None:
    """Send until all buffers on the way are full."""
    sock.settimeout(0.2)
    with suppress(TimeoutError):
        while True:
            sock.send(bytes(MIB))


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


# The whole product: a reload and a rollback.


@asynccontextmanager
async def version_server(name: str) -> AsyncIterator[str]:
    """The URL of a WebSocket server that says its name first, and then sends everything back."""

    async def greet_and_echo(connection: asyncio_server.ServerConnection) -> None:
        await connection.send(name)
        async for message in connection:
            await connection.send(message)

    async with asyncio_server.serve(greet_and_echo, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


class User:
    """Somebody with a WebSocket through the product. `version` is the server's that it got."""

    def __init__(self, connection: ClientConnection, version: str) -> None:
        self.connection, self.version = connection, version

    async def is_served(self) -> bool:
        """Whether a message comes back; false once the tunnel was closed."""
        with suppress(ConnectionClosed):
            await self.connection.send("still here?")
            return await asyncio.wait_for(self.connection.recv(), _SECONDS) == "still here?"
        return False

    async def until_closed(self) -> None:
        """Wait for the end of the tunnel."""
        await asyncio.wait_for(self.connection.wait_closed(), _SECONDS)


@asynccontextmanager
async def users(product: Product, count: int) -> AsyncIterator[list[User]]:
    """So many users, user-0 and so on."""
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            connecting = connect(
                f"ws://127.0.0.1:{product.port}", additional_headers={"X-User-Id": f"user-{number}"}, close_timeout=1, proxy=None
            )
            connection = await stack.enter_async_context(connecting)
            found.append(User(connection, str(await connection.recv())))
        yield found


async def until_in_flight(product: Product, count: int) -> None:
    """Wait until the metrics say that so many exchanges have not ended."""

    async def look() -> bool | None:
        return in_flight(await product.metrics()) == count or None

    await until_answered(look)


async def test_tunnels_in_a_reload_and_a_rollback(product: Product) -> None:
    """A reload costs no tunnel; a lower weight those whom it moves; a rollback the canary's, of every generation."""
    async with AsyncExitStack() as stack:
        pools = {name: {"servers": [await stack.enter_async_context(version_server(name))]} for name in ("v1", "v2")}
        product.configure(pools=pools, timeouts={"drain": "1m", "tunnel_grace": "0.5s"})
        await product.start()
        await product.verb("start")
        await product.set_weight("60%")
        old = await stack.enter_async_context(users(product, _USERS))
        await product.reload()
        new = await stack.enter_async_context(users(product, _USERS))
        assert [user.version for user in new] == [user.version for user in old]
        assert all([await user.is_served() for user in old])

        await product.set_weight("30%")
        async with users(product, _USERS) as now:
            versions = [user.version for user in now]
        leaving = [user for user, version in zip(old + new, versions * 2, strict=True) if user.version != version]
        staying = [user for user in old + new if user not in leaving]
        assert 0 < len(leaving) < sum(user.version == "v2" for user in old + new)
        await asyncio.gather(*(user.until_closed() for user in leaving))
        assert all([await user.is_served() for user in staying])

        await product.verb("rollback")
        await asyncio.gather(*(user.until_closed() for user in staying if user.version == "v2"))
        stable = [user for user in staying if user.version == "v1"]
        assert all([await user.is_served() for user in stable])
        await until_in_flight(product, len(stable))
    counted = Counter(user.version for user in old + new + now)
    assert await settled(product) == {
        ("stable", "informational"): counted["v1"],
        ("canary", "informational"): counted["v2"],
    }
