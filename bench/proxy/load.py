"""The load generator: 64 keep-alive connections, each with one request on its way at any time; every answer is checked.

A program of its own, pinned to its core by the caller: `python -m bench.proxy.load '{"port": ..., ...}'` prints one JSON object.
One epoll loop and no library: it drives a proxy as hard as wrk with a script does (measured: nginx 78,000 requests/s with
either), and knows what wrk's scripts do not: which connection a request is for, so that a connection can have one user.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle

_HEAD = """\
GET {path} HTTP/1.1\r
Host: shop.example.com\r
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r
Accept-Language: en-GB,en;q=0.9\r
Accept-Encoding: gzip, deflate, br\r
Referer: https://shop.example.com/catalogue?page=2\r
Cookie: theme=dark; uid=u{user:05d}; _ga=GA1.2.1234567890.1700000000\r
\r
"""
_USERS = 5_000
_READ = 64 * 1024


@dataclass(frozen=True)
class Load:
    """What to send. `requests_per_user`: how many requests of a connection come from one user before the next one's."""

    port: int
    path: str
    length: int
    seconds: float
    requests_per_user: int
    connections: int = 64


@dataclass
class Result:
    """What came back. `errors`: answers of another status or length, and connections that ended; `canary`: by the canary pool."""

    requests: int = 0
    errors: int = 0
    canary: int = 0
    seconds: float = 0.0
    first_error: str = ""


class Connection:
    """One keep-alive connection; `answer_ended` is called for each whole answer with its last byte."""

    __slots__ = ("_head", "_left", "_length", "_requests", "_result", "_socket", "_view", "buffer", "recv_into", "send")

    def __init__(self, load: Load, requests: Iterator[bytes], result: Result, buffer: bytearray) -> None:
        self._socket = socket.create_connection(("127.0.0.1", load.port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self.recv_into: Callable[[memoryview], int] = self._socket.recv_into
        self.send: Callable[[bytes], int] = self._socket.send
        self.buffer, self._view = buffer, memoryview(buffer)
        self._requests, self._result, self._length = requests, result, load.length
        self._left = 0  # bytes of the answer's body still to come
        self._head = b""  # a head of which only a part has come

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def ask(self) -> None:
        """Send the next request."""
        self.send(next(self._requests))

    def readable(self) -> bool:
        """Take what has come and ask again after a whole answer; False once the connection cannot be used any more."""
        try:
            size = self.recv_into(self._view)
        except ConnectionError as error:
            return self._fail(f"the connection broke: {error}")
        if not size:
            return self._fail("the connection was closed with a request on its way")
        if self._left:
            self._left -= size
        elif not self._head_came(size):
            return False
        if self._left > 0 or self._head:
            return True
        if self._left < 0:
            return self._fail("more bytes came than the answer has")
        result = self._result
        result.requests += 1
        result.canary += self.buffer[size - 1] == 0x63  # "c", see the origin
        self.ask()
        return True

    def _head_came(self, size: int) -> bool:
        data: bytearray | bytes = self.buffer
        if self._head:
            data = self._head + self.buffer[:size]
            size = len(data)
        end = data.find(b"\r\n\r\n", 0, size)
        if end < 0:
            self._head = bytes(data[:size])
            return True
        self._head = b""
        head = bytes(data[:end]).lower()
        _, found, length = head.partition(b"\r\ncontent-length: ")
        if head[9:12] != b"200" or not found or int(length.partition(b"\r\n")[0]) != self._length:
            return self._fail(f"not the answer that was asked for: {head[:300]!r}")
        self._left = self._length - (size - end - 4)
        return True

    def _fail(self, what: str) -> bool:
        self._result.errors += 1
        self._result.first_error = self._result.first_error or what
        self.close()
        return False


def _requests(load: Load) -> Iterator[bytes]:
    """One connection's requests: from one user for a while, then from the next of a random order."""
    users = random.sample(range(_USERS), _USERS)
    heads = [_HEAD.format(path=load.path, user=user).encode() for user in users]
    if load.requests_per_user == 1:
        return cycle(heads)
    return (head for head in cycle(heads) for _ in range(load.requests_per_user))


def run(load: Load) -> Result:
    """Keep every connection busy for `load.seconds`; a connection that failed is opened again."""
    result, buffer = Result(), bytearray(_READ)
    epoll = select.epoll()
    connections: dict[int, Connection] = {}

    def connect() -> None:
        connection = Connection(load, _requests(load), result, buffer)
        connections[connection.fileno()] = connection
        epoll.register(connection, select.EPOLLIN)
        connection.ask()

    for _ in range(load.connections):
        connect()
    began = time.monotonic()
    end = began + load.seconds
    while time.monotonic() < end:
        for descriptor, _ in epoll.poll(1):
            if not connections[descriptor].readable():
                del connections[descriptor]
                connect()
    result.seconds = time.monotonic() - began
    for connection in connections.values():
        connection.close()
    epoll.close()
    return result


if __name__ == "__main__":
    print(json.dumps(asdict(run(Load(**json.loads(sys.argv[1]))))))
