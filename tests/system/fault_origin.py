"""Origins that misbehave as a script says, clients on raw sockets, and one `canaryproxy run` between them for a whole module.

A script plays each connection of the proxy in a thread of the test's process: a test says in a few lines what the proxy gets to
see, and what a script asserts in vain fails the test (`Stage.calm`). For test_faults.py and others.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from harness import Product, merged
from plane import eventually
from prometheus_client.parser import text_string_to_metric_families

Script = Callable[["Call"], None]

MIB = 1 << 20
_LIMIT = 20.0
_RESET = struct.pack("ii", 1, 0)


class Message(NamedTuple):
    """A request or a response: its first line, its head with the blank line, its body without framing."""

    line: bytes
    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.line.split(b" ")[1])

    def field(self, name: bytes) -> bytes | None:
        """A field's value; None if it is not there."""
        _, found, rest = self.head.lower().partition(b"\r\n%b:" % name.lower())
        start = len(self.head) - len(rest)
        return self.head[start : self.head.index(b"\r\n", start)].strip() if found else None


class Wire:
    """One connection, at either end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(_LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.file = sock.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        """Each piece in a segment of its own, if they are small."""
        for piece in pieces:
            self.sock.sendall(piece)

    def read_head(self) -> tuple[bytes, bytes]:
        """(first line, head with its blank line); of nothing when the connection has ended in order."""
        lines = [self.file.readline()]
        while lines[-1] not in (b"\r\n", b""):
            lines.append(self.file.readline())
        if lines == [b""]:
            return b"", b""
        if lines[-1] == b"":
            raise EOFError(f"in the head {lines}")
        return lines[0].removesuffix(b"\r\n"), b"".join(lines)

    def read_exactly(self, size: int) -> bytes:
        """So many bytes; EOFError if the connection ends before."""
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError(f"{len(data)} of {size} bytes")
        return data

    def read_chunks(self) -> Iterator[bytes]:
        """The chunks of a body, to the last one and its trailers; EOFError if the connection ends before."""
        while size := int(self.file.readline() or _raise_eof(), 16):
            yield self.read_exactly(size + 2)[:-2]
        while (self.file.readline() or _raise_eof()) != b"\r\n":
            pass

    def until_gone(self) -> bool:
        """Throw away what comes until the other end has closed; false if that was by a reset."""
        with suppress(ConnectionResetError, BrokenPipeError):
            while self.sock.recv(MIB):
                pass
            return True
        return False

    def reset(self) -> None:
        """Close with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """Close in order."""
        self.file.close()
        self.sock.close()


def _raise_eof() -> bytes:
    raise EOFError("between two chunks")


class Client(Wire):
    """A client of the proxy."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        super().__init__(socket.create_connection(("127.0.0.1", port), timeout=_LIMIT, source_address=(address, 0)))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def get(self, path: str = "/", more: str = "", method: str = "GET") -> Message:
        """Ask, and wait for the answer."""
        self.send(f"{method} {path} HTTP/1.1\r\nHost: shop\r\n{more}\r\n".encode())
        return self.answer(method)

    def answer(self, method: str = "GET") -> Message:
        """The next response, whole. ConnectionResetError if it was cut, EOFError if it ended too soon and in good order."""
        line, head = self.read_head()
        if not line:
            raise EOFError("instead of a response")
        found = Message(line, head, b"")
        length, coding = found.field(b"content-length"), found.field(b"transfer-encoding")
        if method == "HEAD" or found.status < 200 or found.status in (204, 304):
            return found
        if coding is not None:
            assert (coding, length) == (b"chunked", None)
            return found._replace(body=b"".join(self.read_chunks()))
        return found._replace(body=self.file.read() if length is None else self.read_exactly(int(length)))


class Call(Wire):
    """A connection from the proxy, as a script sees it. `number` counts the connections of its origin from 1."""

    def __init__(self, origin: FaultOrigin, sock: socket.socket, number: int) -> None:
        super().__init__(sock)
        self._origin = origin
        self.number = number

    def head(self) -> Message | None:
        """The next request's head; None when the connection has ended."""
        try:
            line, head = self.read_head()
        except EOFError:
            return None
        if not line:
            return None
        self._origin.lines.append(line)
        return Message(line, head, b"")

    def request(self) -> Message | None:
        """The next request, whole; None when the connection has ended."""
        found = self.head()
        if found is None:
            return None
        if found.field(b"transfer-encoding") is not None:
            return found._replace(body=b"".join(self.read_chunks()))
        return found._replace(body=self.read_exactly(int(found.field(b"content-length") or 0)))


def ok(body: bytes, *, more: bytes = b"") -> bytes:
    """A whole response."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), more, body)


def serve(call: Call) -> None:
    """Answer each request with its request line, a blank and its body: what every script is measured against."""
    while request := call.request():
        call.send(ok(request.line + b" " + request.body))


def once(*pieces: bytes) -> Script:
    """Answer the first request on a connection with these bytes, and then nothing until the proxy closes."""

    def script(call: Call) -> None:
        assert call.request()
        call.send(*pieces)
        call.until_gone()

    return script


class FaultOrigin:
    """A server that plays `script` on each connection. `lines` are the request lines it got, in their order."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self._listening = socket.create_server((address, port), backlog=1024)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://{address}:{self.port}"
        self.script: Script = serve
        self.lines: list[bytes] = []
        self.connections = 0
        self._calls: set[Call] = set()
        self._complaints: list[BaseException] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.connections += 1
                call = Call(self, sock, self.connections)
                self._calls.add(call)
                threading.Thread(target=self._play, args=(call, self.script), daemon=True).start()

    def _play(self, call: Call, script: Script) -> None:
        try:
            script(call)
        except (OSError, EOFError, ValueError):
            pass  # the proxy cut it, or the script did: what scripts are for
        except BaseException as complaint:
            self._complaints.append(complaint)
        finally:
            call.close()
            self._calls.discard(call)

    def calm(self) -> None:
        """No connection is left and the proxy knows it; it serves well and counts from 0; scripts' complaints are raised."""
        self.script = serve
        for call in list(self._calls):
            with suppress(OSError, ValueError):
                call.sock.shutdown(socket.SHUT_WR)
        eventually(lambda: not self._calls)
        self.lines.clear()
        self.connections = 0
        complaints, self._complaints = self._complaints, []
        for complaint in complaints:
            raise complaint

    def close(self) -> None:
        """Accept no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


class Stage:
    """A canaryproxy with one worker, and an origin for either version behind it. All of it is made once for a module."""

    def __init__(self, folder: Path) -> None:
        self.product = Product(folder)
        self.stable, self.canary = FaultOrigin(), FaultOrigin()
        self.port = self.product.port

    def client(self, address: str = "127.0.0.1") -> Client:
        """A new client, from this address."""
        return Client(self.port, address)

    def get(self, path: str = "/", more: str = "", method: str = "GET") -> Message:
        """The answer to one request on a connection of its own."""
        with self.client() as client:
            return client.get(path, more, method)

    def outcomes(self, route: str = "shop") -> Counter[str]:
        """How many requests ended how on /metrics, for example {"stable c2xx": 3}; "in flight" are those that have not ended."""
        status, page = self.product.admin.exchange("GET", "/metrics")
        assert status == 200
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(page.decode()):
            for name, labels, value, *_ in family.samples:
                if name == "canaryproxy_requests_total" and labels["route"] == route:
                    found[f"{labels['variant']} {labels['outcome']}"] += int(value)
                elif name == "canaryproxy_in_flight_requests" and labels["route"] == route:
                    found["in flight"] += int(value)
        return found

    def outcomes_since(self, before: Counter[str], route: str = "shop") -> dict[str, int]:
        """What has been added once nothing is in flight."""
        eventually(lambda: not self.outcomes(route)["in flight"])
        return dict(self.outcomes(route) - before)

    @cached_property
    def worker(self) -> int:
        """The worker's pid, which no test may change."""
        return self.product.workers[0]

    def memory(self, key: str = "VmRSS") -> int:
        """Bytes of memory that the worker has now, or at most had (VmHWM)."""
        status = Path(f"/proc/{self.worker}/status").read_text()
        return int(status.partition(f"{key}:")[2].split()[0]) * 1024

    def files(self) -> int:
        """How many files the worker has open."""
        return len(list(Path(f"/proc/{self.worker}/fd").iterdir()))

    def calm(self) -> None:
        """As it was before the test; see `FaultOrigin.calm`."""
        self.stable.calm()
        self.canary.calm()


@contextmanager
def stage(folder: Path, **changes: Any) -> Iterator[Stage]:
    """A stage that runs with these changes to the configuration; it must end in good order and with nothing to be ashamed of."""
    made = Stage(folder)
    pools = {"v1": {"servers": [made.stable.url]}, "v2": {"servers": [made.canary.url]}}
    made.product.configure(**merged({"workers": 1, "timeouts": {"drain": "500ms"}, "pools": pools}, changes))
    try:
        asyncio.run(made.product.start())
        yield made
        asyncio.run(made.product.end())
    finally:
        made.product.destroy()
        made.stable.close()
        made.canary.close()
