"""The access log of one worker: takes lines on the request path, and writes them where no request waits for it.

`add` is for the exchange's end; `flush`, `reopen` and `close` are for the worker's beat, its SIGUSR1 and its own end. A write to
a file can block for seconds while the disk is busy, one to a full pipe for ever: so only a thread of its own writes.

* Lines of all workers go whole into one file (O_APPEND), and whole into one pipe: what is written to a pipe at once is whole
  lines of at most PIPE_BUF bytes together (pipe(7)), and no line is longer (`http1.logline.MAX_LINE`).
* What the disk or the reader does not take is lost and counted, never waited for. The error log says `N lines lost`, once a
  minute at most; writing goes on by itself as soon as it can.
* `-` is the standard output: never closed or given other flags, because other processes have it too.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from queue import SimpleQueue
from threading import Thread
from time import monotonic, sleep
from typing import Final, Literal

from canaryproxy.errors import StartError
from canaryproxy.http1.logline import MAX_LINE, Entry, as_combined, as_json

log = logging.getLogger("canaryproxy.access")

#: Handed over before the next beat. Less would only make the thread ask for the interpreter more often.
_BATCH: Final = 512 * 1024
#: A loop that never idles lets go of the interpreter too briefly for another thread to take it (seen: for 0.6 s). When the
#: thread is behind, a flush keeps off it for so long.
_LEND_SECONDS: Final = 50e-6
#: What may wait for the thread, some seconds of a worker's full load. More is lost.
_WAITING: Final = 8 * 1024 * 1024
_SAY_SECONDS: Final = 60.0
_OPEN_SECONDS: Final = 1.0  # a path that could not be opened is tried again after so long
_POLL_MS: Final = 200
_STDOUT: Final = 1
_STDOUT_PATH: Final = "/proc/self/fd/1"
_PIPE_SIZE: Final = 1024 * 1024  # as much as any user may ask for (pipe(7)): a beat's lines have room, whatever the reader does
_libc_write = ctypes.PyDLL(None, use_errno=True).write
_libc_write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_libc_write.restype = ctypes.c_ssize_t
#: O_NONBLOCK means nothing to a file, but to open a FIFO that nobody reads becomes an error (ENXIO) instead of a wait.
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_MODE: Final = 0o640  # addresses and query strings are not for everybody
#: Why lines are lost though no call failed.
_TOO_SLOW: Final = "more than could be written"
_NOT_READ: Final = "nobody reads it"


class _Order(Enum):
    """What the thread can be told between batches."""

    REOPEN = auto()
    END = auto()


def check_path(path: str) -> None:
    """Return if a log can be written there; a file is there then. Raises StartError. A FIFO may wait for its reader."""
    if path == "-":
        if sys.stdout is None:  # descriptor 1 was closed at our start, so it is by now something else
            raise StartError("access_log.path", "'-' is the standard output, and there is none")
        return
    try:
        os.close(os.open(path, _FLAGS, _MODE))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise StartError("access_log.path", f"{path!r} cannot be written ({error.strerror})") from None


class AccessLog:
    """One worker's access log. The thread starts with the first flush, so the object may be made before a fork."""

    def __init__(self, format: Literal["json", "combined"], path: str) -> None:
        self._format: Callable[[Entry], bytes] = as_json if format == "json" else as_combined
        self._path = path
        self._lines: list[bytes] = []
        self._size = 0
        self._thread: Thread | None = None
        self._queue: SimpleQueue[Sequence[bytes] | _Order] = SimpleQueue()
        self._give_up_at = float("inf")
        # Each of these is written by one thread only, so there is no lock.
        self._handed = 0  # bytes, by the event loop
        self._taken = 0  # bytes, by the thread
        self._refused = 0  # lines, by the event loop
        self._failed = 0  # lines, by the thread
        # What was said of them, by the thread.
        self._said = 0
        self._say_at = 0.0
        self._reason = _TOO_SLOW

    @property
    def lost(self) -> int:
        """The number of lines that were not written and will not be."""
        return self._refused + self._failed

    # Called on the event loop. Only `close` waits for anybody.

    def add(self, entry: Entry) -> None:
        """Take a line in. No system call, but for the flush where `_BATCH` bytes wait already."""
        line = self._format(entry)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand the lines that were added to the thread."""
        lines, size = self._lines, self._size
        if not lines:
            return
        if self._handed > self._taken:
            sleep(_LEND_SECONDS)
        self._lines, self._size = [], 0
        if self._handed - self._taken + size > _WAITING or not self._is_running():
            self._refused += len(lines)
        else:
            self._handed += size
            self._queue.put(lines)

    def reopen(self) -> None:
        """Have all lines from now on written to a newly opened file: what logrotate asks for after it renamed the old one."""
        self.flush()
        if self._thread is not None:
            self._queue.put(_Order.REOPEN)

    def close(self, seconds: float = 3.0) -> None:
        """Write all that waits, for `seconds` at most. What is added after this is lost."""
        self.flush()
        self._give_up_at = monotonic() + seconds
        if self._thread is not None:
            self._queue.put(_Order.END)
            self._thread.join(seconds + 2 * _POLL_MS / 1000)
            if self._thread.is_alive():
                log.error("access log %s: %d bytes lost (not written in time)", self._path, self._handed - self._taken)

    def _is_running(self) -> bool:
        """Whether there is a thread that will take a batch; starts it."""
        if self._thread is None:
            thread = Thread(target=self._run, name="access-log", daemon=True)  # a daemon: never keeps the process from ending
            try:
                thread.start()
            except RuntimeError:  # no memory or no process is left; a later flush tries again
                return False
            self._thread = thread
        return self._give_up_at == float("inf")

    # In the thread.

    def _run(self) -> None:
        sink = _Sink(self._path, self._is_over)
        order = None
        while order is not _Order.END:
            lines, order = self._take()
            if lines:
                failed = sink.write(lines)
                if failed:
                    self._failed += failed
                    self._reason = sink.error
                self._taken += sum(map(len, lines))
                self._report()
            if order is _Order.REOPEN:
                sink.reopen()
        self._say_at = 0.0
        self._report()
        sink.close()

    def _take(self) -> tuple[Sequence[bytes], _Order | None]:
        """All lines that wait, when there are any, and the order that came after them, if one did."""
        lines: list[bytes] = []
        while not lines or not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, _Order):
                return lines, item
            lines += item
        return lines, None

    def _is_over(self) -> bool:
        """Whether not to wait any longer for whoever reads a pipe; asked again and again meanwhile."""
        if self.lost > self._said:
            self._reason = _NOT_READ
            self._report()
        return monotonic() >= self._give_up_at

    def _report(self) -> None:
        lost = self.lost
        if lost > self._said and monotonic() >= self._say_at:
            log.error("access log %s: %d lines lost (%s)", self._path, lost - self._said, self._reason)
            self._said, self._say_at, self._reason = lost, monotonic() + _SAY_SECONDS, _TOO_SLOW


class _Sink:
    """The file, pipe or terminal that lines go to. `error` says why the last lines were lost that were."""

    def __init__(self, path: str, is_over: Callable[[], bool]) -> None:
        self.error = ""
        self._path = path
        self._is_over = is_over
        self._fd = -1
        self._is_file = False
        self._may_block = False
        self._stump = False
        self._retry_at = 0.0

    def write(self, lines: Sequence[bytes]) -> int:
        """Write the lines in order; the number of those that could not be written whole."""
        if self._fd < 0 and monotonic() >= self._retry_at:
            self._open()
        return sum([self._write_piece(piece) for piece in ([b"".join(lines)] if self._is_file else _pieces(lines))])

    def reopen(self) -> None:
        """Open the path anew; if that cannot be, what is open is written to as before."""
        if self._path != "-" and not self._open() and self._fd >= 0:
            log.error("access log %s: cannot be reopened (%s); the former file is still written", self._path, self.error)

    def close(self) -> None:
        """Close what is open."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> bool:
        try:
            fd, may_block = _open_stdout() if self._path == "-" else (os.open(self._path, _FLAGS, _MODE), False)
        except OSError as error:
            self.error = f"{error.strerror}"
            self._retry_at = monotonic() + _OPEN_SECONDS
            return False
        self.close()
        self._fd, self._may_block, self._stump = fd, may_block, False
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        if not self._is_file:
            with suppress(OSError):  # no pipe, or the user has too many
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return True

    def _write_piece(self, piece: bytes) -> int:
        """Write these lines; the number of those that could not be written whole."""
        if self._fd < 0 or (self._stump and not self._put(b"\n")):
            return piece.count(b"\n")
        return piece.count(b"\n", self._put(piece))

    def _put(self, data: bytes) -> int:
        """Write `data`, in one call if that can be; the number of bytes that were written."""
        write = os.write if self._is_file or self._may_block else _write_at_once
        done = 0
        while done < len(data):
            if self._may_block and not self._wait():
                return done
            try:
                done += write(self._fd, data[done:])
            except BlockingIOError:
                if not self._wait():
                    return done
            except OSError as error:
                self._fail(error, done)
                return done
        self._stump = False
        return done

    def _wait(self) -> bool:
        """Whether there is room for PIPE_BUF bytes now; waits for it until that is over, and then gives up for good."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(_POLL_MS):
            if self._is_over():
                self.error = _NOT_READ
                self.close()
                self._retry_at = float("inf")
                return False
        return True

    def _fail(self, error: OSError, done: int) -> None:
        self.error = f"{error.strerror}"
        # A full disk takes half a line, maybe another worker's: what comes next must begin on a line of its own.
        self._stump = self._is_file or done > 0


def _open_stdout() -> tuple[int, bool]:
    """A descriptor of the standard output, and whether writing to it may block."""
    is_file = stat.S_ISREG(os.fstat(_STDOUT).st_mode)
    if not is_file:  # of a file, what is opened anew has its own place to write at, and stderr would overwrite our lines
        with suppress(OSError):  # a socket (ENXIO), another user's pipe (EACCES), no /proc
            return os.open(_STDOUT_PATH, _FLAGS & ~os.O_CREAT), False
    return os.dup(_STDOUT), not is_file


def _write_at_once(fd: int, data: bytes) -> int:
    """`os.write` where it never blocks, without letting go of the interpreter: to get it back for each 4096 bytes takes too long.

    (Measured with a worker that never idles: of its 10 000 lines a second up to 28 % were lost, and none so.)
    """
    written: int = _libc_write(fd, data, len(data))
    if written < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return written


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The lines joined to as few pieces as can be of at most PIPE_BUF bytes."""
    start, size = 0, 0
    for index, line in enumerate(lines):
        size += len(line)
        if size > MAX_LINE:
            yield b"".join(lines[start:index])
            start, size = index, len(line)
    yield b"".join(lines[start:])
