"""Accepting on a listening socket that can be left alone for a while: what comes meanwhile waits in the kernel's queue.

Made by the worker, whose beat pauses and resumes it. The socket came by fork and others hold it too, so nothing that is done here
ends the queue. Seen with uvloop 0.23 (libuv 1.52): it accepts one connection in a turn of the loop, and closes those that it has
no file for without a word, which is what pausing in time prevents.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress


class PausableServer:
    """Accepts plain connections, except while paused."""

    def __init__(self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol], backlog: int = 4096) -> None:
        """`sock` is this process's copy, closed by `close`."""
        self._sock = sock
        self._factory = factory
        self._backlog = backlog
        self._server: asyncio.Server | None = None
        self._taken: set[asyncio.Task[object]] = set()

    @property
    def is_accepting(self) -> bool:
        """Whether it is started and not paused."""
        return self._server is not None

    def start(self) -> None:
        """Accept connections from now on. Raises OSError if there is no file for it."""
        sock = self._sock.dup()  # closed with the server; the queue is the original's, too
        opening = asyncio.get_running_loop().create_server(self._factory, sock=sock, backlog=self._backlog)
        try:
            opening.send(None)  # with a socket given, uvloop has nothing to wait for; so a pause never meets a half resume
        except StopIteration as opened:
            self._server = opened.value
            return
        except OSError:
            sock.close()
            raise
        opening.close()
        sock.close()
        raise RuntimeError("this event loop opens no server at once: run on uvloop")

    def pause(self) -> None:
        """Leave what comes in the kernel's queue; connections that are accepted go on."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def resume(self) -> bool:
        """Accept again, first what has waited; false if there is no file for it, then it stays paused."""
        if self._server is None:
            with suppress(OSError):
                self.start()
        return self.is_accepting

    def close(self) -> None:
        """Accept nobody but those who wait already, and close this process's copy of the socket: the last close resets them."""
        self.pause()
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # BlockingIOError: nobody waits
            for _ in range(self._backlog):
                sock, _ = self._sock.accept()
                sock.setblocking(False)
                task = loop.create_task(loop.connect_accepted_socket(self._factory, sock))
                self._taken.add(task)
                task.add_done_callback(self._taken.discard)
        self._sock.close()

    @property
    def pending(self) -> int:
        """Connections that are accepted, but not yet in use."""
        return len(self._taken)
