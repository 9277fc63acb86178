"""SIGTERM and SIGHUP under load of every kind: kept connections, new ones, uploads and downloads that are on their way.

No request that was taken fails; a connection that is refused was not taken. What test_reload.py and test_start_stop.py have is
not repeated: here are long transfers, checked byte for byte by a client of another make (aiohttp), and changing upstreams.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from fault_origin import Call, Client, FaultOrigin, ok
from harness import Product, until

pytestmark = pytest.mark.system

PIECES = [bytes([number]) * 20_000 for number in range(20)]
WHOLE = b"".join(PIECES)
DIGEST = hashlib.sha256(WHOLE).hexdigest().encode()
_PAUSE = 0.02


def steady(call: Call) -> None:
    """`/chunked` and `/sized` take 0.4 s; an upload is answered with its digest; all else at once."""
    while request := call.request():
        path = request.line.split(b" ")[1]
        if path == b"/chunked":
            call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in PIECES:
                call.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                time.sleep(_PAUSE)
            call.send(b"0\r\n\r\n")
        elif path == b"/sized":
            call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WHOLE))
            for piece in PIECES:
                call.send(piece)
                time.sleep(_PAUSE)
        else:
            call.send(ok(hashlib.sha256(request.body).hexdigest().encode() if request.body else b"fine"))


@pytest.fixture
def origins() -> Iterator[list[FaultOrigin]]:
    """Two servers, for v1 and for what comes after it."""
    made = [FaultOrigin(), FaultOrigin()]
    for origin in made:
        origin.script = steady
    yield made
    for origin in made:
        origin.calm()
        origin.close()


class Transfers:
    """Users of every kind who go on and on, each request on a new connection; `done` and `begun` count by kind."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self.kinds: tuple[Callable[[], Awaitable[None]], ...] = (
            self.chunked_download,
            self.sized_download,
            self.chunked_upload,
            self.sized_upload,
            self.new_connection,
        )
        self.begun: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.refused = 0
        self.stopped = False

    async def chunked_download(self) -> None:
        """A body without a length."""
        await self._download("/chunked")

    async def sized_download(self) -> None:
        """A body with a length."""
        await self._download("/sized")

    async def chunked_upload(self) -> None:
        """A body that goes up without a length."""
        await self._upload({})

    async def sized_upload(self) -> None:
        """A body that goes up with a length."""
        await self._upload({"Content-Length": str(len(WHOLE))})

    async def new_connection(self) -> None:
        """A small request."""
        async with self._session.get(f"{self._url}/") as answer:
            assert (answer.status, await answer.read()) == (200, b"fine")

    async def _download(self, path: str) -> None:
        async with self._session.get(self._url + path) as answer:
            assert (answer.status, await answer.read()) == (200, WHOLE)

    async def _upload(self, fields: dict[str, str]) -> None:
        async def slowly() -> AsyncIterator[bytes]:
            for piece in PIECES:
                yield piece
                await asyncio.sleep(_PAUSE)

        async with self._session.post(f"{self._url}/upload", data=slowly(), headers=fields) as answer:
            assert (answer.status, await answer.read()) == (200, DIGEST)

    async def go_on(self, kind: Callable[[], Awaitable[None]]) -> None:
        """One user of this kind, until all stop."""
        name = kind.__name__
        while not self.stopped:
            self.begun[name] += 1
            try:
                await kind()
                self.done[name] += 1
            except aiohttp.ClientConnectorError:
                self.refused += 1
                await asyncio.sleep(0.05)
            except (aiohttp.ClientError, OSError, AssertionError) as error:
                self.failures.append(f"{name}: {error!r}")

    async def more(self) -> None:
        """Wait until two more of each kind are done."""
        wanted = {kind: count + 2 for kind, count in self.done.items()}
        await until(lambda: len(self.done) == len(self.kinds) and all(self.done[kind] >= count for kind, count in wanted.items()))


@asynccontextmanager
async def transfers(product: Product) -> AsyncIterator[Transfers]:
    """Two users of each kind; they end their last requests before this does."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        users = Transfers(session, f"http://127.0.0.1:{product.port}")
        tasks = [asyncio.create_task(users.go_on(kind)) for kind in users.kinds * 2]
        try:
            await users.more()
            yield users
        finally:
            users.stopped = True
            await asyncio.gather(*tasks)


def serving(origin: FaultOrigin) -> dict[str, dict[str, list[str]]]:
    """A pool v1 of this server."""
    return {"v1": {"servers": [origin.url]}}


async def test_sigterm_under_load_lets_everything_that_was_taken_end_well(product: Product, origins: list[FaultOrigin]) -> None:
    product.configure(pools=serving(origins[0]))
    await product.start()
    async with product.traffic(keep=10, fresh=10, rate=400) as kept, transfers(product) as users:
        in_hand = users.begun - users.done
        assert len(in_hand) >= 4, "transfers of each kind are on their way"
        product.signal(signal.SIGTERM)
        assert await product.exit_code() == 0
        kept.stop()
    assert users.failures == []
    assert users.refused > 0
    assert {request.error for request in kept.failures if "ConnectionRefusedError" not in request.error} == set()


def connect_until_refused(port: int) -> list[Client]:
    """Connect and ask as fast as possible; everybody who was not refused."""
    clients: list[Client] = []
    with suppress(ConnectionRefusedError, ConnectionResetError):
        while True:
            clients.append(Client(port))
            with suppress(ConnectionResetError, BrokenPipeError):  # which the answer's absence will tell
                clients[-1].send(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
    return clients


async def test_whoever_waits_to_be_accepted_at_sigterm_is_answered(product: Product, origins: list[FaultOrigin]) -> None:
    """A listening socket that closes resets its accept queue: the kernel had told those clients that they are connected."""
    product.configure(
        pools=serving(origins[0]),
        workers=1,
        timeouts={"drain": "30s", "queue": "30s", "connect": "30s"},
        limits={"loop_lag": "0s"},
    )
    await product.start()
    connecting = [asyncio.create_task(asyncio.to_thread(connect_until_refused, product.port)) for _ in range(2)]
    await until(lambda: len(origins[0].lines) > 200)
    product.signal(signal.SIGTERM)
    clients = [client for found in await asyncio.gather(*connecting) for client in found]
    ends: Counter[int] = Counter()
    for client in clients:
        with suppress(OSError, EOFError):
            ends[client.answer().status] += 1
        client.close()
    assert set(ends) == {200}
    assert ends[200] >= len(clients) - 3, "but for those who come in the microseconds between the last look and the close"
    assert await product.exit_code() == 0


async def reload(product: Product, number: int) -> None:
    """A new generation serves. `Product.reload` looks through /proc, which would hold up these many clients for seconds."""
    product.signal(signal.SIGHUP)
    await product.until_said("reloaded", number)


async def test_reloads_under_load_cost_no_transfer_also_when_upstreams_change(
    product: Product, origins: list[FaultOrigin]
) -> None:
    product.configure(pools=serving(origins[0]))
    await product.start()
    async with product.traffic(keep=10, fresh=10, rate=400) as kept, transfers(product) as users:
        await reload(product, 1)
        await users.more()
        before = len(origins[0].lines)
        product.configure(pools=serving(origins[1]))
        await reload(product, 2)
        await users.more()
        await until(lambda: len(product.processes()) == 4)  # whoever was on the old upstream has ended
        assert len(origins[0].lines) > before, "they went on there"
        assert origins[1].lines
        await reload(product, 3)
    assert (users.failures, users.refused) == ([], 0)
    assert [request.error for request in kept.failures] == []


async def test_downloads_that_outlive_the_drain_are_cut(product: Product, origins: list[FaultOrigin]) -> None:
    """Never an end that could be taken for the download's."""

    def endless(call: Call) -> None:
        request = call.request()
        assert request
        framing = b"Content-Length: 1000000" if b"/sized" in request.line else b"Transfer-Encoding: chunked"
        call.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing, b"5\r\nhello\r\n")
        call.until_gone()

    origins[0].script = endless
    product.configure(pools=serving(origins[0]), timeouts={"drain": "300ms"})
    await product.start()
    clients = [Client(product.port) for _ in range(2)]
    for client, path in zip(clients, (b"/chunked", b"/sized"), strict=True):
        client.send(b"GET %b HTTP/1.1\r\nHost: shop\r\n\r\n" % path)
        client.read_head()
    product.signal(signal.SIGTERM)
    assert await product.exit_code() == 0
    for client in clients:
        with pytest.raises(ConnectionResetError):
            client.file.read()
        client.close()
