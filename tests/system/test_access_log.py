"""The access log of one worker, and of the whole product: one right line for each request, and no request that waits for it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from harness import Product, until
from plane import MIB, Origin, Plane, eventually, plane, read_all, read_head

from canaryproxy.shared.layout import CANARY, Count

pytestmark = pytest.mark.system

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ok(sock: socket.socket) -> None:
    """Answer every request, after its body if there is one."""
    while True:
        head, body = read_head(sock)
        if not head:
            return
        found = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
        while found and len(body) < int(found[1]):
            body += sock.recv(1 << 20)
        sock.sendall(OK.replace(b"ok", b"") if head.startswith(b"HEAD") else OK)


def lines_of(log: Path, wanted: int) -> list[dict[str, Any]]:
    """The entries of a log, once there are so many."""
    eventually(lambda: log.exists() and log.read_bytes().count(b"\n") >= wanted)
    data = log.read_bytes()
    assert data.endswith(b"\n")
    assert data.isascii()
    entries = [json.loads(line) for line in data.splitlines()]
    assert len(entries) == wanted, entries
    return entries


def part(entry: dict[str, Any], **expected: Any) -> None:
    """Asserts that the entry has these values."""
    assert {name: entry[name] for name in expected} == expected


# Fields.


def test_the_fields_of_requests_that_go_well(tmp_path: Path) -> None:
    log = tmp_path / "log"
    origin = Origin(ok)
    with plane(origin, access_log={"path": str(log)}) as proxy:
        began = time.time()
        with proxy.client() as client:
            peer = client.getsockname()[0]
            client.sendall(
                b'GET /a%20b?q=%22x HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: a "b"\r\nReferer: http://r/\r\n'
                b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
            )
            assert client.recv(65536).endswith(b"ok")
            client.sendall(b"POST /up HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
            assert client.recv(65536).endswith(b"ok")
            client.sendall(b"HEAD /h HTTP/1.1\r\nHost: shop\r\n\r\n")
            assert client.recv(65536).endswith(b"\r\n\r\n")
            client.sendall(
                b"PUT /c HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            )
            assert read_all(client).startswith(b"HTTP/1.1 ")
        get, post, head, put = lines_of(log, 4)
    upstream = f"127.0.0.1:{origin.port}"
    for entry in (get, post, head):
        part(entry, status=200, status_from="upstream", error=None, route="shop", variant="stable", assignment="no_user")
        part(entry, upstream=upstream, termination="--", attempts=1, client_ip=peer, peer=peer, proto="HTTP/1.1")
        assert began - 0.01 <= entry["time"] <= time.time()
        assert entry["t_total"] >= entry["t_ttfb"] >= entry["t_connect"] >= 0
        assert entry["t_queue"] >= 0
        assert entry["t_body"] >= 0
    part(get, method="GET", target="/a%20b?q=%22x", host="shop.example", user_agent='a "b"', referer="http://r/")
    part(get, trace_id="0af7651916cd43dd8448eb211c80319c", bytes_in=0, bytes_out=2, reused=False)
    part(post, method="POST", target="/up", bytes_in=100_000, bytes_out=2, reused=True, user_agent=None)
    part(head, method="HEAD", target="/h", bytes_in=0, bytes_out=0, reused=True)
    part(put, method="PUT", target="/c", bytes_in=5)
    assert len({entry["request_id"] for entry in (get, post, head, put)}) == 4


@pytest.mark.parametrize("trusted", [True, False])
def test_a_request_has_the_id_that_the_app_sees(trusted: bool, tmp_path: Path) -> None:
    heads: list[bytes] = []

    def note(sock: socket.socket) -> None:
        heads.append(read_head(sock)[0])
        sock.sendall(OK)

    log = tmp_path / "log"
    trust = {"trusted_proxies": ["127.0.0.1"]} if trusted else {}
    with plane(Origin(note), access_log={"path": str(log)}, **trust) as proxy:
        proxy.get(GET_AND_CLOSE.replace(b"Host", b"X-Request-ID: abc-1\r\nX-Forwarded-For: 192.0.2.7\r\nHost"))
        [entry] = lines_of(log, 1)
    assert b"\r\nX-Request-ID: %b\r\n" % entry["request_id"].encode() in heads[0]
    assert (entry["request_id"] == "abc-1") is trusted
    part(entry, client_ip="192.0.2.7" if trusted else "127.0.0.1", peer="127.0.0.1")


def test_requests_that_no_variant_has(tmp_path: Path) -> None:
    """A 404 of ours, a 400, a request for nothing we do, and one that is too large."""
    log = tmp_path / "log"
    routes = {"shop": {"match": {"hosts": ["shop"]}, "stable": "v1", "canary": "v2"}}
    limits = {"request_body": "1KiB"}
    with plane(Origin(ok), routes=routes, limits=limits, access_log={"path": str(log)}) as proxy:
        requests = [
            b"GET /x HTTP/1.1\r\nHost: elsewhere\r\nUser-Agent: me\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: shop\r\nHost: shop\r\n\r\n",
            b"no request\r\n\r\n",
            b"TRACE / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2000\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: shop\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
        ]
        for request in requests:
            proxy.get(request)
        no_route, bad, nonsense, trace, large, long = lines_of(log, 6)
        assert proxy.counts()[Count.STARTED] == 0
    for entry in (no_route, bad, nonsense, trace, large, long):
        part(entry, status_from="proxy", route=None, variant=None, assignment=None, upstream=None, attempts=0, termination="PR")
        part(entry, client_ip="127.0.0.1", peer="127.0.0.1")
    part(no_route, status=404, error="no_route", method="GET", target="/x", host="elsewhere", user_agent="me")
    part(bad, status=400)
    part(nonsense, status=400, method=None, target=None, proto=None)
    part(trace, status=405, method="TRACE")
    part(large, status=413, error="body_too_large", method="POST")
    part(long, status=431)


def break_off(sock: socket.socket) -> None:
    if read_head(sock)[0]:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012")


def hang_up(sock: socket.socket) -> None:
    read_head(sock)


def silent(sock: socket.socket) -> None:
    with suppress(OSError):
        read_all(sock)


@pytest.mark.parametrize(
    ("script", "status", "error", "termination"),
    [
        (None, 502, "upstream_connect", "SC"),
        (hang_up, 502, "upstream_reset", "SH"),
        (silent, 504, "upstream_timeout", "sH"),
        (break_off, 200, None, "SD"),
    ],
)
def test_requests_that_the_upstream_fails(script: Any, status: int, error: str, termination: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = Origin(script).url if script else f"http://127.0.0.1:{refused_port()}"
    with plane(server, access_log={"path": str(log)}, timeouts={"response_head": "100ms"}) as proxy:
        with suppress(ConnectionResetError):
            proxy.get()
        [entry] = lines_of(log, 1)
    part(entry, status=status, error=error, termination=termination, status_from="upstream" if script is break_off else "proxy")
    part(entry, upstream=server.removeprefix("http://"), route="shop", variant="stable", attempts=1)
    assert (entry["t_ttfb"] is not None) == (script is break_off)


def test_requests_that_wait_in_vain(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = {"max_connections": 1, "queue": 1}
    with plane(Origin(silent), pool=pool, access_log={"path": str(log)}, timeouts={"queue": "300ms"}) as proxy:
        with proxy.client() as first, proxy.client() as second:
            first.sendall(GET)
            eventually(lambda: proxy.counts()[Count.STARTED] == 1)
            second.sendall(GET)
            eventually(lambda: proxy.counts()[Count.STARTED] == 2)
            assert b"upstream_queue_full" in proxy.get()
            assert b"upstream_queue_timeout" in second.recv(65536)
            full, late = lines_of(log, 2)
        *_, gone = lines_of(log, 3)
    part(full, status=503, error="upstream_queue_full", termination="PQ", upstream=None, attempts=0)
    part(late, status=503, error="upstream_queue_timeout", termination="sQ", upstream=None, attempts=0)
    assert late["t_total"] >= 0.3
    assert full["t_queue"] is full["t_connect"] is full["t_ttfb"] is None
    part(gone, status=None, termination="CH", error=None, status_from=None)


def has_started(proxy: Plane, exchanges: int) -> bool:
    return proxy.counts()[Count.STARTED] == exchanges


def test_clients_that_leave(tmp_path: Path) -> None:
    """Before an answer, in it, and in their own upload; who leaves before the end of a head has asked for nothing."""

    def begin(sock: socket.socket) -> None:
        if read_head(sock)[0].startswith(b"GET /begun "):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012")
        silent(sock)

    log = tmp_path / "log"
    requests = (
        b"GET /before HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"GET /begun HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"POST /upload HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n01234",
    )
    with plane(Origin(begin), access_log={"path": str(log)}) as proxy:
        for number, request in enumerate((*requests, b"GET / HTTP/1.1\r\nHost", b"")):
            with proxy.client() as client:
                client.sendall(request)
                eventually(partial(has_started, proxy, min(number + 1, 3)))
                if number == 1:
                    assert client.recv(65536).endswith(b"012")
        entries = {entry["target"]: entry for entry in lines_of(log, 3)}
        assert proxy.outcomes() == {Count.CLIENT_GONE: 3}
    part(entries["/before"], status=None, status_from=None, termination="CH", bytes_out=0, error=None)
    part(entries["/begun"], status=200, status_from="upstream", termination="CD", bytes_out=3, error=None)
    part(entries["/upload"], status=None, termination="CR", bytes_in=5, error=None)


def test_uploads_that_fail(tmp_path: Path) -> None:
    """One that is malformed, one that does not come."""
    log = tmp_path / "log"
    with plane(Origin(silent), access_log={"path": str(log)}, timeouts={"request_body_idle": "100ms"}) as proxy:
        head = b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        assert proxy.get(head + b"nonsense\r\n").startswith(b"HTTP/1.1 400 ")
        assert proxy.get(head).startswith(b"HTTP/1.1 408 ")
        bad, slow = lines_of(log, 2)
    part(bad, status=400, status_from="proxy", termination="CR", variant="stable")
    part(slow, status=408, status_from="proxy", termination="cR", error="request_body_timeout", bytes_in=5)


def test_why_a_request_went_to_its_variant(tmp_path: Path) -> None:
    log = tmp_path / "log"
    routes = {"shop": {"stable": "v1", "canary": "v2", "affinity": {"header": "X-User"}}}
    with plane(Origin(ok), canary=[Origin(ok)], routes=routes, access_log={"path": str(log)}) as proxy:
        proxy.board.publish(0, 9_999, swapped=False, salt=1)
        for fields in (b"X-User: anna\r\n", b"Cookie: a=b; canaryproxy_id=secret\r\n", b""):
            proxy.get(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n%b\r\n" % fields)
        header, cookie, nobody = lines_of(log, 3)
    part(header, variant="canary", assignment="header")
    part(cookie, variant="canary", assignment="cookie")
    part(nobody, variant="stable", assignment="no_user")
    assert not re.search(rb"anna|secret", log.read_bytes())


@pytest.mark.parametrize(("cookieless", "assignment"), [("issue", "issued"), ("ip", "ip")])
def test_why_a_request_of_nobody_went_to_the_canary(cookieless: str, assignment: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    routes = {"shop": {"stable": "v1", "canary": "v2", "affinity": {"cookieless": cookieless}}}
    with plane(Origin(ok), canary=[Origin(ok)], routes=routes, access_log={"path": str(log)}) as proxy:
        proxy.board.publish(0, 9_999, swapped=False, salt=1)
        proxy.get()
        [entry] = lines_of(log, 1)
    part(entry, variant="canary", assignment=assignment)


def test_a_request_that_fell_back_is_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stable = Origin(ok)
    with plane(stable, canary=[refused_port()], access_log={"path": str(log)}) as proxy:
        proxy.board.publish(0, 10_000, swapped=False, salt=1)
        proxy.get(GET_AND_CLOSE.replace(b"Host", b"Cookie: uid=1\r\nHost"))
        [entry] = lines_of(log, 1)
        assert proxy.outcomes(CANARY) == {Count.CONNECT_FAILED: 1}
    part(entry, variant="stable", assignment="fallback", status=200, upstream=f"127.0.0.1:{stable.port}", termination="--")


def test_a_retry_is_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    good = Origin(ok)
    pool = {"balance": "round_robin"}
    with plane(refused_port(), good, pool=pool, access_log={"path": str(log)}) as proxy:
        proxy.get()
        [entry] = lines_of(log, 1)
    part(entry, attempts=2, upstream=f"127.0.0.1:{good.port}", status=200, reused=False)


def test_combined(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with plane(Origin(ok), access_log={"path": str(log), "format": "combined"}) as proxy:
        proxy.get(
            b'GET /a?b HTTP/1.1\r\nHost: shop\r\nUser-Agent: say "hi"\r\nReferer: http://r/\r\nConnection: close\r\n'
            b"Authorization: Basic c2VjcmV0\r\nCookie: uid=secret\r\n\r\n"
        )
        proxy.get(b"nonsense\r\n\r\n")
        eventually(lambda: log.exists() and log.read_bytes().count(b"\n") == 2)
    first, second = log.read_text().splitlines()
    stamp = r"\[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000\]"
    assert re.fullmatch(rf'127\.0\.0\.1 - - {stamp} "GET /a\?b HTTP/1\.1" 200 2 "http://r/" "say \\x22hi\\x22"', first)
    assert re.fullmatch(rf'127\.0\.0\.1 - - {stamp} "-" 400 0 "-" "-"', second)


def test_secrets_never_appear(tmp_path: Path) -> None:
    log = tmp_path / "log"
    secrets = (
        b"Authorization: Bearer s3cret\r\nProxy-Authorization: Basic s3cret\r\nCookie: uid=s3cret; other=s3cret\r\n"
        b"X-Api-Key: s3cret\r\n"
    )

    def answer(sock: socket.socket) -> None:
        if read_head(sock)[0]:
            sock.sendall(b"HTTP/1.1 200 OK\r\nSet-Cookie: session=s3cret\r\nContent-Length: 6\r\n\r\ns3cret")

    with plane(Origin(answer), access_log={"path": str(log)}) as proxy:
        for request in (
            b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n" + secrets + b"\r\n",
            b"POST / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: 6\r\n" + secrets + b"\r\ns3cret",
            b"GET / HTTP/1.1\r\nHost: shop\r\nHost: shop\r\n" + secrets + b"\r\n",
        ):
            proxy.get(request)
        lines_of(log, 3)
    assert b"s3cret" not in log.read_bytes()


def test_what_clients_send_cannot_forge_a_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with plane(Origin(ok), access_log={"path": str(log)}) as proxy:
        agent = bytes(byte for byte in range(1, 256) if byte not in b"\r\n\0" and (byte >= 32 or byte == 9) and byte != 127)
        proxy.get(b'GET /","status":999 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nUser-Agent: x' + agent + b"x\r\n\r\n")
        proxy.get(b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
        first, second = lines_of(log, 2)
    part(first, status=200, user_agent=f"x{agent.decode('latin-1')}x")
    assert max(map(len, log.read_bytes().splitlines())) < 4096
    assert second["target"].startswith("/aaaa")


# Where it goes.


class Load:
    """Clients that keep asking; `answered` has the numbers of the requests that were answered, in that order."""

    def __init__(self, proxy: Plane, clients: int = 3) -> None:
        self._proxy = proxy
        self._numbers = count()
        self._stop = threading.Event()
        self.answered: list[int] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with self._proxy.client() as client:
            while not self._stop.is_set():
                number = next(self._numbers)
                client.sendall(b"GET /%d HTTP/1.1\r\nHost: shop\r\n\r\n" % number)
                assert client.recv(65536).endswith(b"ok")
                self.answered.append(number)

    def more(self, requests: int) -> None:
        """Wait until so many more are answered."""
        wanted = len(self.answered) + requests
        eventually(lambda: len(self.answered) >= wanted)

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def numbers(*logs: Path | bytes) -> list[int]:
    """Of the requests in these logs."""
    data = b"".join(log if isinstance(log, bytes) else log.read_bytes() for log in logs)
    return [int(json.loads(line)["target"][1:]) for line in data.splitlines()]


def test_a_log_that_is_renamed_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with plane(Origin(ok), access_log={"path": str(log)}) as proxy:
        load = Load(proxy)
        old = []
        for rotation in range(4):
            load.more(100)
            eventually(lambda: log.stat().st_size)
            old.append(log.rename(tmp_path / f"log.{rotation}"))
            os.kill(proxy.pid, signal.SIGUSR1)
            eventually(log.exists)
        load.more(100)
        load.stop()

    assert all(file.stat().st_size for file in old)
    assert Counter(numbers(log, *old)) == Counter(load.answered)


def test_a_log_that_cannot_be_reopened_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "log"
    with plane(Origin(ok), access_log={"path": str(log)}) as proxy:
        proxy.may_say("cannot be reopened")
        proxy.get()
        lines_of(log, 1)
        away = folder.rename(tmp_path / "away")
        os.kill(proxy.pid, signal.SIGUSR1)
        eventually(lambda: "cannot be reopened" in proxy.said())
        proxy.get()
        lines_of(away / "log", 2)


def test_the_standard_output() -> None:
    reading, writing = os.pipe()
    pieces: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 65536):
            pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with plane(Origin(ok), access_log={"path": "-"}, stdout=writing) as proxy:
        os.close(writing)
        load = Load(proxy)
        load.more(300)
        load.stop()
    reader.join()
    os.close(reading)
    assert Counter(numbers(b"".join(pieces))) == Counter(load.answered)


def test_a_full_disk_stops_nothing() -> None:
    with plane(Origin(ok), access_log={"path": "/dev/full"}) as proxy:
        proxy.may_say("lines lost (No space left on device)")
        load = Load(proxy)
        load.more(500)
        load.stop()
        eventually(lambda: "lines lost" in proxy.said())
        assert proxy.said().count("\n") == 1, "it is said once a minute"


def test_a_pipe_that_nobody_reads_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First it is nobody's, then it is full, and then it is read after all."""
    monkeypatch.setattr("canaryproxy.proxy.accesslog._PIPE_SIZE", 4096)
    monkeypatch.setattr("canaryproxy.proxy.accesslog._OPEN_SECONDS", 0.1)
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    pieces: list[bytes] = []

    def read() -> None:
        select.select([reading], [], [])
        while piece := os.read(reading, MIB):
            pieces.append(piece)

    def is_logged() -> bool:
        proxy.get(b"GET /9999999 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
        return b"/9999999" in b"".join(pieces)

    with plane(Origin(ok), access_log={"path": str(fifo)}) as proxy:
        proxy.may_say("lines lost (")
        load = Load(proxy)
        eventually(lambda: "lines lost" in proxy.said())
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        eventually(lambda: select.select([reading], [], [], 0)[0])
        load.more(1000)
        load.stop()
        os.set_blocking(reading, True)
        reader = threading.Thread(target=read)
        reader.start()
        eventually(is_logged)
    reader.join()
    os.close(reading)
    found = [number for number in numbers(b"".join(pieces)) if number != 9_999_999]
    assert len(found) == len(set(found))
    assert set(load.answered[-900:]) <= set(found) <= set(load.answered)


async def test_two_workers_write_one_log_that_is_rotated(product: Product) -> None:
    log = product.folder / "access.log"
    product.configure(access_log={"path": str(log)})
    await product.start()
    old = []
    async with product.traffic() as traffic:
        for rotation in range(3):
            await traffic.more(60)
            old.append(log.rename(log.with_suffix(f".{rotation}")))
            product.signal(signal.SIGUSR1)
            await until(log.exists)
        await traffic.more(60)
    assert traffic.failures == []
    assert await product.stop() == 0
    ids = [json.loads(line)["request_id"] for file in (log, *old) for line in file.read_bytes().splitlines()]
    assert len(ids) == len(set(ids)) == sum(len(origin.numbers) for origin in product.origins.values())
