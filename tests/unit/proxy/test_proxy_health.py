"""Active checks against real servers on loopback that answer what the test says; the counting alone without any."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from certificates import Authority

from canaryproxy.config.upstreams import Pool as PoolConfig
from canaryproxy.http1.proxy_protocol import build_v1
from canaryproxy.proxy import health
from canaryproxy.proxy.health import HealthChecks, Streak, Streams, open_stream, request
from canaryproxy.proxy.pool import Pool, Server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def pool(*servers: str, **health: Any) -> Pool:
    config = {"servers": servers, "health": {"path": "/healthz", "interval": "10ms", **health}}
    return Pool("v1", PoolConfig.model_validate(config), 9)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # of conditions there are many, and no event for each
            await asyncio.sleep(0.001)


class Origin:
    """A server: reads one request head, answers, and closes if it is told to. `answer` may be changed at any time."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.closes = True
        self.heads: list[bytes] = []
        self.serving = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            if not self.closes:
                await reader.read()  # until the other side has closed
        writer.close()
        with suppress(ConnectionError, TimeoutError):
            await writer.wait_closed()
        self.serving -= 1


@asynccontextmanager
async def listening(answer: bytes = OK, **options: Any) -> AsyncIterator[tuple[Origin, str]]:
    """An origin and its URL."""
    origin = Origin(answer)
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0, **options)
    async with server:
        scheme = "https" if "ssl" in options else "http"
        yield origin, f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await until(lambda: not origin.serving)


async def check(url: str, connect: Callable[[Server, float], Awaitable[Streams]] = open_stream, **health: Any) -> str | None:
    """What one check finds."""
    one = pool(url, **health)
    assert one.config.health is not None
    return await HealthChecks(connect).check(one.servers[0], one.config.health)


# Counting.


@pytest.mark.parametrize(
    ("checks", "up"),
    [
        ("x", "1"),
        ("xx", "11"),
        ("xxx", "110"),
        ("xx.xx.xxx", "111111110"),
        ("xxx.", "1100"),
        ("xxx..", "11001"),
        ("xxx.x..", "1100001"),
        ("xxx..xx.xxx", "11001111110"),
    ],
)
def test_so_many_bad_checks_in_a_row_take_out_and_so_many_good_ones_bring_back(checks: str, up: str) -> None:
    streak, seen = Streak(fall=3, rise=2), ""
    for what in checks:
        before = streak.up
        assert streak.add(good=what == ".") is (streak.up is not before)
        seen += "01"[streak.up]
    assert seen == up


# One check.


async def test_a_check_asks_as_it_is_told() -> None:
    async with listening() as (origin, url):
        assert await check(url, path="/up?full=1") == ""
        assert await check(url, host="app.example") == ""
    authority = url.removeprefix("http://")
    tail = "\r\nUser-Agent: canaryproxy-health\r\nConnection: close\r\n\r\n"
    assert [head.decode() for head in origin.heads] == [
        f"GET /up?full=1 HTTP/1.1\r\nHost: {authority}{tail}",
        f"GET /healthz HTTP/1.1\r\nHost: app.example{tail}",
    ]


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (OK, ""),
        (b"HTTP/1.0 301 \r\n\r\n", ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000, ""),
        (UNAVAILABLE, "status 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\n", "closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "upstream_bad_status_line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "upstream_bad_content_length"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, "upstream_too_many_interim"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "upstream_head_too_large"),
    ],
)
async def test_an_answer_is_good_or_it_is_said_why_not(answer: bytes, wrong: str) -> None:
    async with listening(answer) as (_, url):
        assert await check(url) == wrong


async def test_wanted_statuses_can_be_told() -> None:
    async with listening(UNAVAILABLE) as (_, url):
        assert await check(url, status=["200-299", "503"]) == ""
        assert await check(url, status=["204"]) == "status 503"


async def test_a_body_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_BODY_SECONDS", 0.01)
    async with listening(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n") as (origin, url):
        origin.closes = False
        assert await check(url, timeout="60s") == ""


async def test_silence_is_bad() -> None:
    async with listening(b"") as (origin, url):
        origin.closes = False
        assert await check(url, timeout="50ms") == "no answer within 50ms"


async def test_a_closed_port_is_bad(unused_tcp_port: int) -> None:
    wrong = await check(f"http://127.0.0.1:{unused_tcp_port}")
    assert wrong is not None
    assert "refused" in wrong.lower() or "connect call failed" in wrong.lower()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL])
async def test_our_own_want_says_nothing_of_the_server(number: int) -> None:
    async def connect(_server: Server, _seconds: float) -> Streams:
        raise OSError(number, "want")

    assert await check("http://127.0.0.1:1", connect) is None


async def test_a_check_that_cannot_be_made_is_bad_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def connect(_server: Server, _seconds: float) -> Streams:
        raise RuntimeError("oh")

    assert await check("http://127.0.0.1:1", connect) == "RuntimeError('oh')"
    assert caplog.messages == ["cannot check http://127.0.0.1:1"]


async def test_a_unix_socket_is_asked(tmp_path: Path) -> None:
    origin = Origin(OK)
    path = str(tmp_path / "app.sock")
    async with await asyncio.start_unix_server(origin.serve, path):
        assert await check(f"unix:{path}") == ""
        await until(lambda: not origin.serving)
    assert b"\r\nHost: localhost\r\n" in origin.heads[0]
    assert await check(f"unix:{tmp_path}/none") == "No such file or directory"


async def _check_tls(tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue("app.internal")
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(*issued)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    async with listening(ssl=server_side) as (origin, url):
        assert await check(url, lambda server, seconds: open_stream(server, seconds, trusting, "app.internal")) == ""
        assert origin.heads
        wrong = await check(url, lambda server, seconds: open_stream(server, seconds, trusting))
    assert wrong is not None
    assert "certificate verify failed" in wrong.lower() or "mismatch" in wrong.lower()


async def test_tls_is_verified(tmp_path: Path) -> None:
    await _check_tls(tmp_path)


def test_tls_is_verified_on_the_loop_that_workers_run(tmp_path: Path) -> None:
    uvloop.run(_check_tls(tmp_path))


async def test_a_proxy_header_goes_first() -> None:
    header = build_v1(b"", 0, b"", 0)
    async with listening() as (origin, url):
        assert await check(url, lambda server, seconds: open_stream(server, seconds, preface=header)) == ""
    assert origin.heads[0].startswith(header + b"GET /healthz ")


# Again and again.


async def test_a_server_is_up_until_its_checks_fail_and_comes_back_when_they_pass(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as (origin, url):
        one, checks = pool(url, timeout="1s"), HealthChecks(open_stream)
        server = one.servers[0]
        checks.start([one])
        assert one.choose() is server
        origin.answer = UNAVAILABLE
        await until(lambda: not server.up)
        assert one.choose() is None  # though it is the last one
        origin.answer = OK
        await until(lambda: server.up)
        assert one.choose() is server
        await checks.stop()
        assert len(origin.heads) >= 5
    assert [record for record in caplog.messages if "canaryproxy" not in record] == [
        f"pool v1: {url} is down: 3 checks in a row failed, the last one: status 503",
        f"pool v1: {url} is up: 2 checks in a row were good",
    ]


async def test_each_server_is_checked_by_itself() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, so no other test's server can come there, and not listened on
        await _check_both(f"http://127.0.0.1:{nobody.getsockname()[1]}")


async def _check_both(down: str) -> None:
    async with listening() as (_, url):
        both, checks = pool(url, down, fall=1), HealthChecks(open_stream)
        checks.start([both])
        await until(lambda: not both.servers[1].up)
        assert both.choose() is both.servers[0]
        await checks.stop()


async def test_a_pool_without_checks_has_none_and_none_is_left_after_the_end() -> None:
    checks = HealthChecks(open_stream)
    checks.start([Pool("v1", PoolConfig.model_validate({"servers": ["http://127.0.0.1:1"]}), 9)])
    assert len(asyncio.all_tasks()) == 1
    checks.start([pool("http://127.0.0.1:1", interval="60s")])
    assert len(asyncio.all_tasks()) == 2
    await checks.stop()
    assert len(asyncio.all_tasks()) == 1


async def test_the_first_check_comes_at_a_random_part_of_the_interval() -> None:
    asked = asyncio.Event()

    async def connect(_server: Server, _seconds: float) -> Streams:
        asked.set()
        raise ConnectionRefusedError

    checks = HealthChecks(connect, draw=lambda: 0.0)
    checks.start([pool("http://127.0.0.1:1", interval="60s")])
    await asyncio.wait_for(asked.wait(), 5)
    await checks.stop()


def test_the_host_of_a_check_is_that_of_the_server_if_none_is_told() -> None:
    one = pool("https://app.internal:8443")
    assert one.config.health is not None
    assert b"\r\nHost: app.internal:8443\r\n" in request(one.servers[0], one.config.health)
