"""Attacks on a real canaryproxy (http.md section 12): each ends with the documented status, in bounded memory, and meanwhile
people who mean well are answered as if nothing happened.

One product with one worker and short timeouts for the whole module, so that it also has to outlive all of it.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from fault_origin import MIB, Call, Stage, ok, stage
from harness import until, until_answered
from traffic import Traffic

pytestmark = pytest.mark.system

_MOST_CONNECTIONS = 300
#: Nobody waits so long for a small answer, unless something is wrong: far above what a busy machine does to it.
_PATIENCE = 3.0
_BIG = 8 * MIB
GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
GET_BIG = b"GET /big HTTP/1.1\r\nHost: shop\r\n\r\n"
SIZED = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"


def big_or_small(call: Call) -> None:
    """`/big` is 8 MiB."""
    while request := call.request():
        call.send(ok(bytes(_BIG) if b"/big" in request.line else b"small"))


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """What is attacked."""
    timeouts = {"request_head": "600ms", "keep_alive": "1s", "request_body_idle": "600ms", "send_idle": "600ms"}
    limits = {"client_connections": _MOST_CONNECTIONS, "body_rate": 500, "body_grace": "1s"}
    with stage(tmp_path_factory.mktemp("attacks"), timeouts=timeouts, limits=limits) as made:
        yield made


@pytest.fixture
def attacked(standing: Stage) -> Iterator[Stage]:
    """The stage before an attack."""
    standing.stable.script = big_or_small
    yield standing
    standing.calm()


@asynccontextmanager
async def innocents(attacked: Stage, *, fresh: int = 2) -> AsyncIterator[Traffic]:
    """People who mean well, some on kept connections and some on new ones; at the end none of them has noticed anything."""
    async with Traffic(attacked.port, keep=3, fresh=fresh, rate=200) as traffic:
        await traffic.more(10)
        yield traffic
        await traffic.more(10)
    assert traffic.failures == []
    assert max(request.ended - request.began for request in traffic.requests) < _PATIENCE


async def drip(port: int, start: bytes, piece: bytes = b"", pause: float = 0.1) -> bytes:
    """What an attacker gets to read who sends `start` and then `piece` again and again, until the other end has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        with suppress(OSError):
            writer.write(start)
            while True:
                await asyncio.sleep(pause)
                writer.write(piece)
                await writer.drain()

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()


async def all_drip(attacked: Stage, count: int, start: bytes, piece: bytes = b"", pause: float = 0.1) -> Counter[bytes]:
    """How many of so many attackers at once got which last status line."""
    ends = await asyncio.gather(*(drip(attacked.port, start, piece, pause) for _ in range(count)))
    return Counter(re.findall(rb"^HTTP/1.1 (\d+)", end, re.MULTILINE)[-1] if end else b"" for end in ends)


# --- Slow ones ---


async def test_slow_heads_end_with_408(attacked: Stage) -> None:
    """Slowloris: the time for a head is absolute, however steadily it comes."""
    async with innocents(attacked):
        assert await all_drip(attacked, 40, b"GET / HTTP/1.1\r\nHost: shop\r\n", b"X-a: b\r\n") == {b"408": 40}


async def test_connections_that_say_nothing_are_closed_without_a_word(attacked: Stage) -> None:
    async with innocents(attacked):
        silent, once = await asyncio.gather(all_drip(attacked, 40, b""), all_drip(attacked, 40, GET))
    assert (silent, once) == ({b"": 40}, {b"200": 40})


async def test_bodies_that_stop_end_with_408(attacked: Stage) -> None:
    before = attacked.outcomes()
    async with innocents(attacked) as traffic:
        starts = (SIZED + bytes(1000), CHUNKED + b"5\r\nhello\r\n")
        assert await asyncio.gather(*(all_drip(attacked, 20, start) for start in starts)) == [{b"408": 20}] * 2
    counts = attacked.outcomes() - before
    assert counts == {"stable client_error": 40, "stable c2xx": len(traffic.requests)}, "no variant's fault"


async def test_bodies_that_only_drip_end_with_408(attacked: Stage) -> None:
    """R-U-Dead-Yet: never quite idle, but below the rate that a body must have."""
    async with innocents(attacked):
        dripping = ((SIZED, b"x"), (CHUNKED, b"1\r\nx\r\n"))
        assert await asyncio.gather(*(all_drip(attacked, 20, *start) for start in dripping)) == [{b"408": 20}] * 2


@contextmanager
def reluctant(attacked: Stage, count: int, request: bytes) -> Iterator[list[socket.socket]]:
    """Clients with the smallest window there is, that have sent this."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(count)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.connect(("127.0.0.1", attacked.port))
            client.sendall(request)
        yield clients


def stirs(client: socket.socket, event: int) -> bool:
    """Whether this is true of the connection (poll(2)), without reading from it; 0: whether it was reset."""
    poll = select.poll()
    poll.register(client, event)
    return bool(poll.poll(0))


async def test_readers_that_take_nothing_or_next_to_nothing_are_cut(attacked: Stage) -> None:
    """Slow read: of an answer that nobody takes only the buffers are held, and not for long."""
    before, counted = attacked.memory(), attacked.outcomes()
    async with innocents(attacked) as traffic:
        with reluctant(attacked, 20, GET_BIG) as clients:

            def all_cut() -> bool:
                for client in clients[:10]:
                    with suppress(ConnectionResetError):
                        client.recv(2)  # some 100 bytes a second
                return all(stirs(client, 0) for client in clients)

            await until(all_cut)
    assert attacked.memory("VmHWM") - before < 20 * MIB
    counts = attacked.outcomes() - counted
    assert counts == {"stable client_gone": 20, "stable c2xx": len(traffic.requests)}, "no variant's fault"


# --- Bombs ---


async def test_bombers_that_have_left_hold_no_place(attacked: Stage) -> None:
    """A refusal lingers for 5 s so that it is seen (C13), but not for somebody who has sent MBs meanwhile and gone."""
    usual = attacked.files()
    bombers = [socket.create_connection(("127.0.0.1", attacked.port)) for _ in range(20)]
    for bomber in bombers:
        bomber.setblocking(False)
        with suppress(BlockingIOError):
            bomber.send(b"GET /" + b"a" * 4 * MIB)
    await until(lambda: all(stirs(bomber, select.POLLIN) for bomber in bombers))
    for bomber in bombers:
        bomber.close()
    await until(lambda: attacked.files() < usual + 10, 3)


BOMBS = {
    "one endless field": (b"GET / HTTP/1.1\r\nHost: shop\r\nX-A: ", bytes(b"a" * 65536), b"431"),
    "many fields": (b"GET / HTTP/1.1\r\nHost: shop\r\n", b"a:\r\n" * 1000, b"431"),
    "an endless name": (b"GET / HTTP/1.1\r\nHost: shop\r\n", b"a" * 65536, b"431"),
    "an endless target": (b"GET /", b"a" * 65536, b"414"),
    "an endless method": (b"G", b"G" * 65536, b"414"),
    "endless empty lines": (b"\r\n", b"\r\n" * 30000, b"400"),
    "an endless chunk extension": (CHUNKED + b"1;", b"a" * 65536, b"400"),
    "many chunk extensions": (CHUNKED, b"1;a=b\r\nx\r\n" * 5000, b"400"),
    "an endless chunk size": (CHUNKED, b"0" * 65536, b"400"),
    "an endless trailer": (CHUNKED + b"0\r\nX-A: ", b"a" * 65536, b"431"),
    "many trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 1000, b"431"),
}


async def test_bombs_are_refused_in_bounded_memory(attacked: Stage) -> None:
    """Each ends with its status as soon as the limit is passed, all of them at once."""
    before = attacked.memory()
    async with innocents(attacked):
        ends = await asyncio.gather(*(all_drip(attacked, 10, start, piece, 0) for start, piece, _ in BOMBS.values()))
    assert dict(zip(BOMBS, ends, strict=True)) == {name: {status: 10} for name, (_, _, status) in BOMBS.items()}
    assert attacked.memory("VmHWM") - before < 20 * MIB


# --- Floods ---


async def test_a_pipelining_flood_that_is_read_delays_nobody(attacked: Stage) -> None:
    async with innocents(attacked):
        ends = await asyncio.gather(
            *(drip(attacked.port, GET * 1999 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) for _ in range(4))
        )
    assert [end.count(b"HTTP/1.1 200 OK\r\n") for end in ends] == [2000] * 4


async def test_a_pipelining_flood_that_nobody_reads_is_cut_in_bounded_memory(attacked: Stage) -> None:
    """What is sent ahead stays in the kernel once the answers are not taken (C2)."""
    before = attacked.memory()
    async with innocents(attacked):
        with reluctant(attacked, 20, GET_BIG) as clients:

            def all_cut() -> bool:
                for client in clients:
                    with suppress(BlockingIOError, ConnectionResetError, BrokenPipeError):
                        client.send(GET_BIG * 1000, socket.MSG_DONTWAIT)
                return all(stirs(client, 0) for client in clients)

            await until(all_cut)
    assert attacked.memory("VmHWM") - before < 20 * MIB
    assert attacked.stable.lines.count(b"GET /big HTTP/1.1") == 20, "nothing that was sent ahead was passed on"


async def test_a_flood_of_idle_connections_parts_nobody_from_the_proxy(attacked: Stage) -> None:
    """Beyond the limit nobody is accepted: who was there before is served all the same, and others as soon as idle ones go."""
    async with innocents(attacked, fresh=0) as traffic:
        with ExitStack() as stack:
            for _ in range(2 * _MOST_CONNECTIONS):
                stack.enter_context(socket.create_connection(("127.0.0.1", attacked.port)))
            await until(lambda: attacked.files() >= _MOST_CONNECTIONS)
            assert attacked.files() < _MOST_CONNECTIONS + 100
            await until_answered(lambda: answered(attacked))
            assert attacked.files() < _MOST_CONNECTIONS + 100
    assert len({request.local_port for request in traffic.requests}) == 3, "their connections were kept"
    async with innocents(attacked):
        pass


async def answered(attacked: Stage) -> bool | None:
    """Whether somebody new is answered."""
    with suppress(ConnectionResetError):  # where even those who are refused are too many
        answer = await drip(attacked.port, GET[:-2] + b"Connection: close\r\n\r\n")
        return answer.startswith(b"HTTP/1.1 200 ") or None
    return None


# --- Debian's slowhttptest ---

MODES = {
    "slow headers": ("/", "-H"),
    "slow body": ("/", "-B", "-s", "8192"),
    "range": ("/", "-R", "-a", "5", "-b", "3000"),
    "slow read": ("/big", "-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32"),
}


@pytest.mark.parametrize(("path", "options"), [(path, options) for path, *options in MODES.values()], ids=MODES)
async def test_slowhttptest_gets_nowhere(attacked: Stage, peer: Callable[[str], Path], path: str, options: list[str]) -> None:
    counted = attacked.outcomes()
    async with innocents(attacked) as traffic:
        tool = await asyncio.create_subprocess_exec(
            peer("slowhttptest"),
            *options,
            *("-c", "20", "-r", "100", "-i", "1", "-l", "8", "-p", "3", "-u", f"http://127.0.0.1:{attacked.port}{path}"),
            cwd=attacked.product.folder,
            stdout=asyncio.subprocess.PIPE,
        )
        if "-X" in options:  # it keeps what it has in its own buffers, and does not see that it was cut
            await until(lambda: (attacked.outcomes() - counted)["stable client_gone"] >= 20)
            tool.terminate()
        said = (await tool.communicate())[0].decode()
        said = re.sub(r"\x1b\[[\d;]*m", "", said)
    if "-X" not in options:
        assert "No open connections left" in said
        assert "service available:   NO" not in said
    counts = attacked.outcomes() - counted
    assert set(counts) <= {"stable c2xx", "stable client_gone", "stable client_error"}, "no variant's fault"
    assert counts["stable c2xx"] >= len(traffic.requests)
