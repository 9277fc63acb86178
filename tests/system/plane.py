"""One real worker process on a loopback socket, and origins that are scripts on raw sockets: for the data plane's tests."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from canaryproxy.config.schema import Config
from canaryproxy.proxy.worker import run_worker
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import CANARY, OUTCOMES, STABLE, Ack, Count, WorkerState
from canaryproxy.shared.reading import Block, read_block
from canaryproxy.supervisor.child import fork

MIB = 1 << 20
Script = Callable[[socket.socket], None]


def eventually(condition: Callable[[], object], limit: float = 5.0) -> None:
    """Returns when the condition holds."""
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.01)


def read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """(a head with its blank line, what came after it); a head of nothing if the connection ended."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return b"", data
        data += piece
    end = data.index(b"\r\n\r\n") + 4
    return data[:end], data[end:]


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end of the connection; a reset raises."""
    pieces = []
    while piece := sock.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


class Origin:
    """A server that plays `script` on each connection, in a thread of its own; of TLS, or a Unix socket, if given."""

    def __init__(self, script: Script, *, port: int = 0, path: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        if path is None:
            self._listening = socket.create_server(("127.0.0.1", port), backlog=256)
            self.port = self._listening.getsockname()[1]
            self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"
        else:
            self._listening = socket.create_server(str(path), family=socket.AF_UNIX, backlog=256)
            self.url = f"unix:{path}"
        self.connections = 0
        self.errors: list[BaseException] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._play, args=(sock,), daemon=True).start()

    def _play(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        try:
            with self._tls.wrap_socket(sock, server_side=True) if self._tls else sock as connection:
                self._script(connection)
        except AssertionError as error:
            self.errors.append(error)
        except OSError:
            pass  # the proxy cut it: what scripts provoke

    def close(self) -> None:
        """Accept no more; what a script has asserted in vain is raised here."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for error in self.errors:
            raise error


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):  # the listing's own
                os.close(int(name))


class Plane:
    """A worker in front of the servers of pool v1 (stable) and v2 (canary): ports, or what a configuration says of servers."""

    def __init__(
        self,
        stable: list[Any],
        canary: list[Any] | None = None,
        files: int | None = None,
        *,
        fallback: bool = True,
        pool: dict[str, Any] | None = None,
        stdout: int | None = None,
        **sections: Any,
    ) -> None:
        """`pool` is said of both pools. With a section `tls`, there is a `tls_port` too."""
        pools = {
            name: {"servers": [f"http://127.0.0.1:{of}" if isinstance(of, int) else of for of in servers], **(pool or {})}
            for name, servers in (("v1", stable), ("v2", canary or stable))
        }
        route = {"stable": "v1", "canary": "v2", "affinity": {"cookie": "uid"}, "fallback_to_stable": fallback}
        config = Config.model_validate({"pools": pools, "routes": {"shop": route}, **sections})
        self.segment = layout.create(1, 1)
        self.board = Board(self.segment)
        sockets = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2 if config.tls else 1)]
        self.port, self.tls_port = (sockets[place].getsockname()[1] for place in (0, -1))
        for listening in sockets:
            listening.setblocking(False)
        self._said = os.memfd_create("stderr")
        self._may_say: list[str] = []

        def body() -> None:
            os.dup2(self._said, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  # pytest has put its own there ...
            logging.basicConfig(force=True, level=logging.WARNING, format="canaryproxy: %(message)s")  # ... and here
            if stdout is not None:
                os.dup2(stdout, 1)
            if files is not None:
                _close_all_but({0, 1, 2, *(listening.fileno() for listening in sockets)})  # only the worker's own
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
            run_worker(config, self.segment, 0, {"shop": 0}, sockets[:1], sockets[1:])

        self.pid = fork(body, "worker")
        for listening in sockets:
            listening.close()
        eventually(lambda: self.board.worker(0, Ack.STATE) == WorkerState.SERVING)

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> socket.socket:
        """A client's connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def get(self, request: bytes = b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n") -> bytes:
        """The whole answer to a request that closes."""
        with self.client() as client:
            client.sendall(request)
            return read_all(client)

    def counts(self, variant: int = STABLE) -> Block:
        """The ledger of one variant."""
        return read_block(self.segment, 0, variant)

    def outcomes(self, variant: int = STABLE) -> dict[Count, int]:
        """How this variant's exchanges have ended, without zeros."""
        block = self.counts(variant)
        return {Count(count): block[count] for count in OUTCOMES if block[count]}

    def memory(self, key: str = "VmRSS") -> int:
        """Bytes of memory that the worker has now, or at most had (VmHWM)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{key}:")[2].split()[0]) * 1024

    def said(self) -> str:
        """All that the worker has said so far."""
        return os.pread(self._said, MIB, 0).decode()

    def may_say(self, words: str) -> None:
        """Lines of the worker with these words are in order."""
        self._may_say.append(words)

    def leave(self) -> int:
        """Drain the worker; its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self, limit: float = 10.0) -> int:
        """The exit code of a worker that was told to leave."""
        ended: list[int] = []

        def has_ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                ended.append(os.waitstatus_to_exitcode(status))
            return bool(pid)

        eventually(has_ended, limit)
        self.pid = 0
        return ended[0]

    def end(self) -> None:
        """Leave in good order: every exchange accounted for, and not a word said."""
        if self.pid:
            assert self.leave() == 0
        unexpected = [line for line in self.said().splitlines() if not any(words in line for words in self._may_say)]
        assert not unexpected, unexpected
        for variant in (STABLE, CANARY):
            block = self.counts(variant)
            assert block[Count.STARTED] == sum(block[count] for count in OUTCOMES)

    def kill(self) -> None:
        """End at once."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._said)


@contextmanager
def plane(*servers: Any, canary: list[Any] | None = None, **sections: Any) -> Iterator[Plane]:
    """A worker in front of these servers (origins, or what `Plane` takes); afterwards it must leave in good order."""

    def places(of: Any) -> list[Any]:
        return [server.url if isinstance(server, Origin) else server for server in of]

    made = Plane(places(servers), places(canary) if canary else None, **{"timeouts": {"drain": "2s"}, **sections})
    try:
        yield made
        made.end()
    finally:
        made.kill()
    for server in (*servers, *(canary or ())):
        if isinstance(server, Origin):
            server.close()
