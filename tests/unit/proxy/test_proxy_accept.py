"""Accepting with a PROXY header, with TLS and with both, on loopback under uvloop."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import uvloop
from certificates import Authority

from canaryproxy.clock import ManualClock
from canaryproxy.http1.proxy_protocol import Header, build_v1, build_v2, parse
from canaryproxy.proxy import accept
from canaryproxy.proxy.accept import Listener

LOOPBACK = (ip_network("127.0.0.0/8"),)
V1 = build_v1(b"192.0.2.1", 123, b"192.0.2.2", 443)
V2 = build_v2(b"2001:db8::1", 123, b"2001:db8::2", 443)
PARTIAL = V1[:20]

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Contexts(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    authority = Authority(Path(tmp_path_factory.mktemp("tls")))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.issue("proxy.example"))
    return Contexts(server, ssl.create_default_context(cafile=authority.ca))


class Telling(asyncio.Protocol):
    """Says to its client what it was told of it, and how the socket was left; then repeats what comes."""

    def __init__(self, header: Header | None) -> None:
        self.header = header

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        sock = self.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        who = self.header.source if self.header else None
        self.transport.write(b"%s said %s" % (who or b"peer", data))


class World(NamedTuple):
    listener: Listener
    address: tuple[str, int]
    clients: list[asyncio.StreamWriter]

    async def connect(self, data: bytes = b"") -> Stream:
        reader, writer = await asyncio.open_connection(*self.address)
        self.clients.append(writer)
        writer.write(data)
        return reader, writer

    async def is_refused(self, client: Stream, reason: str) -> None:
        """Assert that this client is closed, for that reason, without a byte."""
        assert await read_all(client) == b""
        assert self.listener.refused == {reason: 1}
        assert self.listener.pending == 0

    async def is_served(self, data: bytes = V1) -> None:
        reader, writer = await self.connect(data + b"hello")
        assert (await reader.read(100)).endswith(b" said hello")
        writer.close()


def run(
    scenario: Callable[[World], Awaitable[None]], sock: socket.socket | None = None, *, start: bool = True, **options: Any
) -> None:
    """Play a scenario; it must leave no socket behind."""

    async def play() -> None:
        before = count_sockets()
        async with listening(sock or socket.socket(), start=start, **options) as world, asyncio.timeout(10):
            await scenario(world)
        await until(lambda: count_sockets() == before - (sock is not None))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


def count_sockets() -> int:
    count = 0
    for entry in os.scandir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that scans
            count += os.readlink(entry.path).startswith("socket:")
    return count


@asynccontextmanager
async def listening(sock: socket.socket, *, start: bool, **options: Any) -> AsyncIterator[World]:
    sock.bind(("127.0.0.1", 0) if sock.family == socket.AF_INET else ("::", 0))
    sock.listen()
    options = {"proxies": LOOPBACK, **options}
    listener = Listener(sock, options.pop("factory", Telling), **options)
    address = ("127.0.0.1", sock.getsockname()[1])
    if start:
        listener.start()
    clients: list[asyncio.StreamWriter] = []
    try:
        yield World(listener, address, clients)
    finally:
        listener.close()
        for writer in clients:  # else a failed test never ends: uvloop.Loop.close() and warnings as errors
            writer.close()


async def read_all(client: Stream) -> bytes:
    with suppress(ConnectionResetError):  # where what the client had sent was not read
        return await client[0].read()
    return b""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0.001)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of bytes that were there, for each look at a header."""
    sizes: list[int] = []

    def counting(buffer: bytes) -> Any:
        sizes.append(len(buffer))
        return parse(buffer)

    monkeypatch.setattr(accept, "parse", counting)
    return sizes


# A header.


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, b"192.0.2.1"),
        (V2, b"2001:db8::1"),
        (build_v1(b"", 0, b"", 0), b"peer"),
        (build_v2(b"", 0, b"", 0), b"peer"),
    ],
    ids=["v1", "v2", "v1 unknown", "v2 local"],
)
def test_the_client_is_whom_the_header_names(header: bytes, client: bytes) -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.connect(header + b"in one segment")
        assert await reader.read(100) == client + b" said in one segment"
        writer.write(b"more")
        assert await reader.read(100) == client + b" said more"
        writer.close()
        reader, writer = await world.connect(header)
        await until(lambda: world.listener.pending == 0)
        writer.write(b"later")
        assert await reader.read(100) == client + b" said later"
        writer.close()
        assert not world.listener.refused

    run(scenario)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_header_that_drips_is_looked_at_once_for_each_byte(header: bytes, looks: list[int]) -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.connect()
        for index in range(len(header)):
            writer.write(header[index : index + 1])
            await until(lambda done=index + 1: len(looks) >= done)  # type: ignore[misc]  # a default binds the loop's value
        writer.write(b"hello")
        assert (await reader.read(100)).endswith(b"::1 said hello" if header is V2 else b"192.0.2.1 said hello")
        writer.close()

    run(scenario)
    assert looks == list(range(1, len(header) + 1))


def test_a_part_of_a_header_does_not_keep_the_loop_busy(looks: list[int]) -> None:
    async def scenario(world: World) -> None:
        _, writer = await world.connect(PARTIAL)
        await until(lambda: sum(looks) >= len(PARTIAL))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(looks) <= 2
        writer.close()
        await until(lambda: world.listener.pending == 0)

    run(scenario)


def test_an_ipv4_proxy_is_known_on_an_ipv6_socket() -> None:
    sock = socket.socket(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    run(World.is_served, sock)


# Refusals, each without an answer.


def test_only_proxies_may_connect() -> None:
    async def scenario(world: World) -> None:
        await world.is_refused(await world.connect(V1 + b"hello"), "proxy_protocol_untrusted")

    run(scenario, proxies=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "proxy_protocol_missing"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "proxy_protocol_missing"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\nGET", "proxy_protocol_bad_line"),
        (V2[:12] + b"\x21\x11\xff\xff", "proxy_protocol_too_long"),
    ],
)
def test_a_header_must_be_there_and_good(data: bytes, reason: str) -> None:
    async def scenario(world: World) -> None:
        await world.is_refused(await world.connect(data), reason)
        await world.is_served()

    run(scenario)


def test_a_header_has_its_time() -> None:
    clock = ManualClock()

    async def scenario(world: World) -> None:
        client = await world.connect(PARTIAL)
        await until(lambda: world.listener.pending == 1)
        clock.advance(2.9)
        world.listener.sweep(clock.monotonic())
        assert world.listener.pending == 1
        clock.advance(0.1)
        world.listener.sweep(clock.monotonic())
        await world.is_refused(client, "proxy_protocol_timeout")
        await world.is_served()

    run(scenario, clock=clock.monotonic)


@pytest.mark.parametrize("sent", [b"", PARTIAL], ids=["before", "within"])
@pytest.mark.parametrize("reset", [False, True], ids=["in order", "reset"])
def test_a_client_that_leaves_within_its_header(sent: bytes, *, reset: bool) -> None:
    async def scenario(world: World) -> None:
        _, writer = await world.connect(sent)
        await until(lambda: world.listener.pending == 1)
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        await until(lambda: world.listener.pending == 0)
        assert world.listener.refused == {"proxy_protocol_incomplete": 1}

    run(scenario)


def test_the_oldest_makes_room() -> None:
    async def scenario(world: World) -> None:
        clients = []
        for number in (1, 2):
            clients.append(await world.connect(PARTIAL))
            await until(lambda number=number: world.listener.pending == number)  # type: ignore[misc]  # a default binds the value
        clients.append(await world.connect(PARTIAL))
        assert await read_all(clients[0]) == b""
        assert (world.listener.pending, world.listener.refused) == (2, {"too_many_handshakes": 1})
        for reader, writer in clients[1:]:
            writer.write(V1[len(PARTIAL) :] + b"hello")
            assert await reader.read(100) == b"192.0.2.1 said hello"

    run(scenario, limit=2)


# TLS.


@pytest.mark.parametrize("header", [V1, V2, b""], ids=["v1", "v2", "none"])
@pytest.mark.parametrize("start", [True, False], ids=["apart", "at once"])
def test_tls_after_a_header(tls: Contexts, header: bytes, *, start: bool) -> None:
    async def scenario(world: World) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, world.address)
        await loop.sock_sendall(sock, header)
        opening = loop.create_task(asyncio.open_connection(sock=sock, ssl=tls.client, server_hostname="proxy.example"))
        if not start:
            for _ in range(10):
                await asyncio.sleep(0)  # the first flight of the handshake is sent: it lies behind the header
            world.listener.start()
        reader, writer = await opening
        writer.write(b"hello")
        assert (await reader.read(100)).endswith(b" said hello")
        writer.close()
        assert not world.listener.refused

    run(scenario, context=lambda: tls.server, proxies=LOOPBACK if header else None, start=start)


def test_a_header_in_time_leaves_the_handshake_its_own(tls: Contexts) -> None:
    clock = ManualClock()
    made = []

    def factory(header: Header | None) -> asyncio.Protocol:
        made.append(header)
        return Telling(header)

    async def scenario(world: World) -> None:
        reader, writer = await world.connect(V1)
        await until(lambda: len(made) == 1)
        world.listener.sweep(clock.monotonic() + 1000.0)
        assert world.listener.pending == 1
        writer.close()
        assert await read_all((reader, writer)) == b""
        await until(lambda: world.listener.pending == 0)

    run(scenario, factory=factory, context=lambda: tls.server, clock=clock.monotonic)


def test_the_oldest_handshake_makes_room(tls: Contexts) -> None:
    async def scenario(world: World) -> None:
        silent = await world.connect()
        await until(lambda: world.listener.pending == 1)
        reader, writer = await asyncio.open_connection(*world.address, ssl=tls.client, server_hostname="proxy.example")
        assert await read_all(silent) == b""
        writer.write(b"hello")
        assert await reader.read(100) == b"peer said hello"
        assert world.listener.refused == {"too_many_handshakes": 1}
        writer.close()

    run(scenario, context=lambda: tls.server, proxies=None, limit=1)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b""], ids=["nonsense", "silence"])
def test_a_handshake_that_fails(tls: Contexts, data: bytes) -> None:
    async def scenario(world: World) -> None:
        assert b"HTTP" not in await read_all(await world.connect(data))
        await until(lambda: world.listener.pending == 0)
        assert world.listener.refused == {"tls_handshake": 1}

    run(scenario, context=lambda: tls.server, proxies=None, handshake_timeout=5 if data else 0.05)


# The loop goes on.


def test_a_protocol_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    made = []

    def factory(header: Header | None) -> asyncio.Protocol:
        made.append(header)
        if len(made) == 1:
            raise RuntimeError("no protocol")
        return Telling(header)

    async def scenario(world: World) -> None:
        client = await world.connect(V1)
        await world.is_refused(client, "error")
        await world.is_served()

    run(scenario, factory=factory)
    assert "cannot take a connection over" in caplog.text


class Failing(socket.socket):
    """A listening socket whose first two calls to accept() fail."""

    error: OSError
    tries = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.tries += 1
        if self.tries <= 2:
            raise self.error
        return super().accept()


def test_without_descriptors_it_waits_a_little(caplog: pytest.LogCaptureFixture) -> None:
    sock = Failing()
    sock.error = OSError(errno.EMFILE, "Too many open files")

    async def scenario(world: World) -> None:
        reader, writer = await world.connect(V1 + b"hello")
        await until(lambda: sock.tries == 1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sock.tries == 1
        assert await reader.read(100) == b"192.0.2.1 said hello"
        writer.close()

    run(scenario, sock)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot accept connections (Too many open files); trying again all the time"
    ]


def test_a_client_that_leaves_before_it_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    sock = Failing()
    sock.error = ConnectionAbortedError(errno.ECONNABORTED, "Software caused connection abort")
    run(World.is_served, sock)
    assert (sock.tries >= 3, caplog.records) == (True, [])


def test_what_has_begun_goes_on_after_the_end() -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.connect(PARTIAL)
        await until(lambda: world.listener.pending == 1)
        world.listener.close()
        world.listener.close()
        with pytest.raises(ConnectionRefusedError):
            await world.connect()
        writer.write(V1[len(PARTIAL) :] + b"hello")
        assert await reader.read(100) == b"192.0.2.1 said hello"
        assert world.listener.pending == 0
        writer.close()

    run(scenario)
