"""One worker and its upstreams that come, go and are full: health, ejection, queues, retries, weights, sockets and names."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from plane import Origin, Plane, eventually, plane, read_all, read_head

from canaryproxy.shared.layout import CANARY, Count

pytestmark = pytest.mark.system

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
NO_EJECTION = {"failures": 0}
QUEUE_FULL = b"\r\nX-Canaryproxy-Error: upstream_queue_full\r\n"
QUEUE_TIMEOUT = b"\r\nX-Canaryproxy-Error: upstream_queue_timeout\r\n"
NO_SERVER = b"\r\nX-Canaryproxy-Error: no_healthy_upstream\r\n"


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class App:
    """An origin that says its name. `well` is what it answers to checks, `status` to all others."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.well = True
        self.status = b"200 OK"
        self.requests = 0
        self.origin = Origin(self._serve, **options)

    def _serve(self, sock: socket.socket) -> None:
        while head := read_head(sock)[0]:
            status = self.status
            if head.startswith(b"GET /healthy "):
                status = b"204 No Content" if self.well else b"503 Unwell"
            else:
                self.requests += 1
            sock.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(self.name), self.name.encode()))
            if b"\r\nConnection: close\r\n" in head:
                return


def await_turn(proxy: Plane, state: str, pool: str = "v1") -> None:
    """Wait until a server of this pool is `down`, `up` or `back`."""
    proxy.may_say(f" is {state}: ")  # of both pools, as they may have the same servers
    eventually(lambda: re.search(f"pool {pool}: .* is {state}: ", proxy.said()))


def answers(proxy: Plane, count: int, client: socket.socket) -> Counter[str]:
    """Who answers so many requests."""
    found: Counter[str] = Counter()
    for _ in range(count):
        client.sendall(GET)
        head, body = read_head(client)
        assert head.startswith(b"HTTP/1.1 200 "), head
        found[(body or client.recv(100)).decode()] += 1
    return found


# Health.

HEALTH = {"path": "/healthy", "interval": "50ms", "timeout": "500ms", "fall": 2, "rise": 2}


def test_a_server_that_fails_its_checks_is_not_used_until_it_passes_them() -> None:
    a, b = App("a"), App("b")
    with plane(a.origin, b.origin, pool={"health": HEALTH}) as proxy, proxy.client() as client:
        assert answers(proxy, 30, client).keys() == {"a", "b"}
        a.well = False
        await_turn(proxy, "down")
        assert "is down: 2 checks in a row failed, the last one: status 503" in proxy.said()
        assert answers(proxy, 30, client) == {"b": 30}
        a.well = True
        await_turn(proxy, "up")
        assert answers(proxy, 30, client).keys() == {"a", "b"}


def test_a_server_that_is_gone_is_found_so_by_its_checks() -> None:
    with plane(refused_port(), App("b").origin, pool={"health": {**HEALTH, "fall": 1}, "eject": NO_EJECTION}) as proxy:
        await_turn(proxy, "down")
        with proxy.client() as client:
            answers(proxy, 20, client)
        assert proxy.counts()[Count.RETRIES] == 0


def test_without_any_healthy_server_503() -> None:
    a = App("a")
    with plane(a.origin, pool={"health": HEALTH}) as proxy, proxy.client() as client:
        answers(proxy, 1, client)
        a.well = False
        await_turn(proxy, "down")
        for _ in range(2):
            client.sendall(GET)
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert NO_SERVER in answer
            assert b"\r\nRetry-After: 1\r\n" in answer
        assert a.requests == 1
        assert proxy.outcomes() == {Count.C2XX: 1, Count.CONNECT_FAILED: 2}
        a.well = True
        await_turn(proxy, "up")
        answers(proxy, 1, client)


@pytest.mark.parametrize("fallback", [True, False])
def test_stable_answers_for_a_canary_without_a_healthy_server(fallback: bool) -> None:
    stable, canary = App("stable"), App("canary")
    canary.well = False
    with plane(stable.origin, canary=[canary.origin], pool={"health": HEALTH}, fallback=fallback) as proxy:
        await_turn(proxy, "down", "v2")
        proxy.board.publish(0, 10_000, swapped=False, salt=1)
        for request in (b"GET / HTTP/1.1\r\nHost: shop\r\nCookie: uid=1\r\nConnection: close\r\n\r\n", POST):
            answer = proxy.get(request.replace(b"POST / HTTP/1.1", b"POST / HTTP/1.1\r\nCookie: uid=1"))
            if fallback:
                assert answer.endswith(b"stable")
                assert b"\r\nX-Canaryproxy-Fallback: no_healthy_upstream\r\n" in answer
            else:
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert NO_SERVER in answer
        assert canary.requests == 0
        assert proxy.outcomes(CANARY) == {Count.CONNECT_FAILED: 2}
        assert proxy.counts(CANARY)[Count.FAILED] == 2, "judged"
        assert proxy.outcomes() == ({Count.C2XX: 2} if fallback else {})
        assert proxy.counts()[Count.FAILED] == 0


# Ejection.


def test_a_server_that_refuses_is_ejected() -> None:
    pool = {"eject": {"failures": 3}, "retries": {"min": 10}, "balance": "round_robin"}
    with plane(refused_port(), App("b").origin, pool=pool) as proxy, proxy.client() as client:
        proxy.may_say("is ejected: 3 failures in a row, the last one upstream_connect; out for 10s")
        answers(proxy, 20, client)
        assert proxy.counts()[Count.RETRIES] == 3
        assert proxy.said().count("is ejected") == 1
        assert proxy.outcomes() == {Count.C2XX: 20}


def test_an_ejected_server_comes_back() -> None:
    port = refused_port()
    b = App("b")
    pool = {"eject": {"failures": 1, "base": "200ms"}, "balance": "round_robin"}
    with plane(port, b.origin, pool=pool) as proxy, proxy.client() as client:
        proxy.may_say("is ejected: 1 failures in a row")
        assert answers(proxy, 4, client) == {"b": 4}
        a = App("a", port=port)
        await_turn(proxy, "back")
        assert answers(proxy, 10, client) == {"a": 5, "b": 5}
        a.origin.close()


def test_the_last_server_is_never_ejected() -> None:
    port = refused_port()
    with plane(port, pool={"eject": {"failures": 1}, "max_connections": 1}) as proxy, proxy.client() as client:
        for _ in range(10):
            client.sendall(GET)
            assert client.recv(65536).startswith(b"HTTP/1.1 502 ")
        late = App("late", port=port)
        assert answers(proxy, 1, client) == {"late": 1}
        late.origin.close()


@pytest.mark.parametrize("kind", ["hangs up", "nonsense", "says nothing"])
def test_a_server_that_does_not_answer_in_http_is_ejected(kind: str) -> None:
    def fail(sock: socket.socket) -> None:
        if read_head(sock)[0] and kind != "hangs up":
            sock.sendall(b"nonsense\r\n\r\n" if kind == "nonsense" else b"")
            with suppress(OSError):
                read_all(sock)

    pool = {"eject": {"failures": 2}, "balance": "round_robin"}
    with plane(Origin(fail), App("b").origin, pool=pool, timeouts={"response_head": "100ms"}) as proxy:
        proxy.may_say("is ejected: 2 failures in a row")
        statuses = [proxy.get(POST)[9:12] for _ in range(10)]
        assert statuses.count(b"200") == 8
        assert proxy.said().count("is ejected") == 1


def test_what_the_app_answers_never_ejects() -> None:
    a, b = App("a"), App("b")
    a.status = b"500 Oops"
    with plane(a.origin, b.origin, pool={"eject": {"failures": 1}, "balance": "round_robin"}) as proxy:
        for _ in range(20):
            proxy.get(POST)
        assert (a.requests, b.requests) == (10, 10)
        assert proxy.outcomes() == {Count.C2XX: 10, Count.C5XX: 10}


# Full servers, and the queue.


class Held:
    """An origin that answers each request, by its X-Number, only when it is let go. `begun` has the numbers in their order."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.may_end = threading.Semaphore(0)
        self.origin = Origin(self._serve)

    def _serve(self, sock: socket.socket) -> None:
        while head := read_head(sock)[0]:
            number = int(head.partition(b"X-Number: ")[2].partition(b"\r\n")[0])
            self.begun.append(number)
            assert self.may_end.acquire(timeout=10)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%02d" % number)

    def release(self, count: int = 1) -> None:
        """Let so many requests end."""
        self.may_end.release(count)


def ask(proxy: Plane, number: int, user: bytes = b"1") -> socket.socket:
    """A client that has sent a request, which the worker has begun with."""
    before = proxy.counts()[Count.STARTED] + proxy.counts(CANARY)[Count.STARTED]
    client = proxy.client()
    client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nCookie: uid=%b\r\nX-Number: %d\r\n\r\n" % (user, number))
    eventually(lambda: proxy.counts()[Count.STARTED] + proxy.counts(CANARY)[Count.STARTED] > before)
    return client


ONE = {"max_connections": 1, "queue": 20}


def test_who_waits_for_a_full_server_is_served_in_turn() -> None:
    held = Held()
    with plane(held.origin, pool=ONE, timeouts={"queue": "10s"}) as proxy, ExitStack() as stack:
        clients = [stack.enter_context(ask(proxy, number)) for number in range(8)]
        eventually(lambda: held.begun == [0])
        for number, client in enumerate(clients):
            held.release()
            assert client.recv(65536).endswith(b"%02d" % number)
        assert held.begun == list(range(8))
        assert proxy.outcomes() == {Count.C2XX: 8}


def test_no_server_ever_has_more_than_it_may() -> None:
    """Two servers of at most three, a hundred requests of forty clients at once: never more, and all are answered."""
    busy, most = [0, 0], [0, 0]
    lock = threading.Lock()

    def server(place: int) -> Origin:
        def serve(sock: socket.socket) -> None:
            while read_head(sock)[0]:
                with lock:
                    busy[place] += 1
                    most[place] = max(busy[place], most[place])
                time.sleep(0.001)
                with lock:
                    busy[place] -= 1
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        return Origin(serve)

    pool = {"max_connections": 3, "queue": 100}
    with plane(server(0), server(1), pool=pool, timeouts={"queue": "10s"}) as proxy, ExitStack() as stack:
        clients = [stack.enter_context(proxy.client()) for _ in range(40)]
        for _ in range(5):
            for client in clients:
                client.sendall(GET)
            for client in clients:
                assert client.recv(65536).endswith(b"ok")
        assert proxy.outcomes() == {Count.C2XX: 200}
        assert 1 <= min(most) <= max(most) <= 3


def test_a_full_queue_is_a_503() -> None:
    held = Held()
    with plane(held.origin, pool={**ONE, "queue": 2}, timeouts={"queue": "10s"}) as proxy, ExitStack() as stack:
        clients = [stack.enter_context(ask(proxy, number)) for number in range(3)]
        with ask(proxy, 3) as late:
            answer = late.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert QUEUE_FULL in answer
            assert b"\r\nRetry-After: 1\r\n" in answer
        held.release(3)
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert held.begun == [0, 1, 2]


def test_without_a_queue_a_full_server_is_a_503() -> None:
    held = Held()
    with plane(held.origin, pool={"max_connections": 1, "queue": 0}) as proxy, ask(proxy, 0) as client:
        with ask(proxy, 1) as late:
            assert QUEUE_FULL in late.recv(65536)
        held.release()
        assert client.recv(65536).endswith(b"00")


def test_who_waits_too_long_gets_a_503() -> None:
    held = Held()
    with plane(held.origin, pool=ONE, timeouts={"queue": "200ms"}) as proxy, ask(proxy, 0) as client:
        with ask(proxy, 1) as late:
            answer = late.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert QUEUE_TIMEOUT in answer
            assert b"\r\nRetry-After: 1\r\n" in answer
        held.release()
        assert client.recv(65536).endswith(b"00")
        assert held.begun == [0]


def test_who_leaves_the_queue_costs_nothing() -> None:
    held = Held()
    with plane(held.origin, pool=ONE, timeouts={"queue": "10s"}) as proxy, ask(proxy, 0) as first:
        leavers = [ask(proxy, number) for number in (1, 2)]
        with ask(proxy, 3) as last:
            for leaver in leavers:
                leaver.close()
            eventually(lambda: proxy.outcomes() == {Count.CLIENT_GONE: 2})
            held.release(2)
            assert first.recv(65536).endswith(b"00")
            assert last.recv(65536).endswith(b"03")
        assert held.begun == [0, 3]
        assert proxy.outcomes() == {Count.CLIENT_GONE: 2, Count.C2XX: 2}
        assert proxy.counts()[Count.FAILED] == 0


def test_an_upload_waits_in_the_queue_too() -> None:
    bodies: list[bytes] = []

    def take(sock: socket.socket) -> None:
        while True:
            head, body = read_head(sock)
            if not head:
                return
            while b"POST" in head and len(body) < 500_000:
                body += sock.recv(1 << 20)
            bodies.append(body)
            assert may_end.acquire(timeout=10)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    may_end = threading.Semaphore(0)
    with plane(Origin(take), pool=ONE, timeouts={"queue": "10s"}) as proxy, ask(proxy, 0) as first, proxy.client() as second:
        second.sendall(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 500000\r\n\r\n")
        sending = threading.Thread(target=second.sendall, args=(bytes(500_000),))
        sending.start()
        eventually(lambda: proxy.counts()[Count.STARTED] == 2)
        may_end.release(2)
        assert first.recv(65536).endswith(b"ok")
        assert second.recv(65536).endswith(b"ok")
        sending.join()
        assert bodies == [b"", bytes(500_000)]


def test_a_rollback_takes_those_who_wait_for_the_canary_to_stable() -> None:
    stable, canary = Held(), Held()
    pool = {"max_connections": 1, "queue": 20}
    with plane(stable.origin, canary=[canary.origin], pool=pool, timeouts={"queue": "10s"}) as proxy, ExitStack() as stack:
        proxy.board.publish(0, 10_000, swapped=False, salt=1)
        clients = [stack.enter_context(ask(proxy, number)) for number in range(3)]
        eventually(lambda: canary.begun == [0])
        proxy.board.publish(0, 0, swapped=False, salt=1)
        stable.release(2)
        for number in (1, 2):
            clients[number].settimeout(4)  # the canary answers nobody meanwhile
            assert clients[number].recv(65536).endswith(b"%02d" % number)
        canary.release()
        assert clients[0].recv(65536).endswith(b"00")
        assert (stable.begun, canary.begun) == ([1, 2], [0])
        assert proxy.outcomes(CANARY) == {Count.C2XX: 1, Count.ABANDONED: 2}
        assert proxy.outcomes() == {Count.C2XX: 2}


def test_who_waits_for_a_canary_that_goes_down_falls_back() -> None:
    stable = App("stable")
    well = True

    def serve(sock: socket.socket) -> None:
        while head := read_head(sock)[0]:
            if head.startswith(b"GET /healthy "):
                sock.sendall(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % (b"200 OK" if well else b"503 Unwell"))
                return
            with suppress(OSError):
                read_all(sock)

    pool = {**ONE, "health": {**HEALTH, "fall": 1}}
    with plane(stable.origin, canary=[Origin(serve)], pool=pool, timeouts={"queue": "10s"}) as proxy:
        proxy.may_say(" is down: ")
        proxy.board.publish(0, 10_000, swapped=False, salt=1)
        with ask(proxy, 0), ask(proxy, 1) as waiting:
            well = False
            waiting.settimeout(4)
            answer = waiting.recv(65536)
            assert answer.endswith(b"stable")
            assert b"\r\nX-Canaryproxy-Fallback: no_healthy_upstream\r\n" in answer


# Retries.


def test_a_refused_request_goes_to_another_server_of_its_variant() -> None:
    stable, canary = App("stable"), App("canary")
    pool = {"balance": "round_robin", "eject": NO_EJECTION}
    with plane(stable.origin, canary=[refused_port(), canary.origin], pool=pool) as proxy:
        proxy.board.publish(0, 10_000, swapped=False, salt=1)
        for _ in range(6):
            assert proxy.get(POST.replace(b"Host", b"Cookie: uid=1\r\nHost")).endswith(b"canary")
        assert (stable.requests, canary.requests) == (0, 6)
        assert proxy.outcomes(CANARY) == {Count.C2XX: 6}
        assert proxy.counts(CANARY)[Count.RETRIES] == 3


def test_retries_keep_to_their_budget() -> None:
    pool = {"balance": "round_robin", "eject": NO_EJECTION, "retries": {"budget": "0%", "min": 0}}
    with plane(refused_port(), App("b").origin, pool=pool) as proxy:
        assert [proxy.get(POST)[9:12] for _ in range(6)] == [b"502", b"200"] * 3
        assert proxy.counts()[Count.RETRIES] == 0


def test_one_retry_and_no_more() -> None:
    servers = [refused_port() for _ in range(4)]
    with plane(*servers, pool={"eject": NO_EJECTION}) as proxy:
        assert proxy.get(POST).startswith(b"HTTP/1.1 502 ")
        assert proxy.counts()[Count.RETRIES] == 1


# Places.


def test_weights() -> None:
    a, b = App("a"), App("b")
    servers = [{"url": a.origin.url, "weight": 3}, {"url": b.origin.url, "weight": 1}]
    with plane(*servers, pool={"balance": "round_robin"}) as proxy, proxy.client() as client:
        assert answers(proxy, 40, client) == {"a": 30, "b": 10}
    with plane(*servers) as proxy, proxy.client() as client:
        assert 80 < answers(proxy, 200, client)["a"] < 199


def test_unix_sockets(tmp_path: Path) -> None:
    heads: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        while head := read_head(sock)[0]:
            heads.append(head)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    origin = Origin(serve, path=tmp_path / "app.sock")
    with plane(origin) as proxy, proxy.client() as client:
        for _ in range(5):
            client.sendall(GET)
            assert client.recv(65536).endswith(b"ok")
        assert origin.connections == 1
        assert all(b"\r\nHost: shop\r\n" in head for head in heads)
    with plane(f"unix:{tmp_path / 'none.sock'}") as proxy:
        answer = proxy.get()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"\r\nX-Canaryproxy-Error: upstream_connect\r\n" in answer


def test_checks_over_a_unix_socket(tmp_path: Path) -> None:
    a, b = App("a", path=tmp_path / "a.sock"), App("b", path=tmp_path / "b.sock")
    a.well = False
    with plane(a.origin, b.origin, pool={"health": HEALTH}) as proxy, proxy.client() as client:
        await_turn(proxy, "down")
        assert answers(proxy, 10, client) == {"b": 10}


def test_names_are_looked_up() -> None:
    a = App("a")
    with plane(f"http://localhost:{a.origin.port}") as proxy, proxy.client() as client:
        assert answers(proxy, 5, client) == {"a": 5}
        assert a.origin.connections <= 2, "one before the name is known, perhaps"


def test_a_name_that_nobody_knows() -> None:
    with plane("http://nobody.invalid:80", App("b").origin, pool={"eject": NO_EJECTION}) as proxy, proxy.client() as client:
        proxy.may_say("nobody.invalid: cannot be looked up")
        assert answers(proxy, 10, client) == {"b": 10}
