"""Whether a worker has more in hand than it can bear: figures in, a level out.

`Overload` and `keep_alive_timeout` are pure; the worker's beat calls them twice a second with what the functions at the end have
read. Two steps, as Envoy's overload manager has them: first no connection is kept, then none is accepted (http design, 6 and 12).
"""

from __future__ import annotations

import ctypes
import os
from enum import IntEnum
from typing import Final

from canaryproxy.config.schema import Limits

#: Files that are left for what is not a client's: upstream connections, logs, certificates that are read again.
_FILE_RESERVE: Final = 64
#: A level ends 5 % below where it began, so that it does not come and go with each connection.
_EASE: Final = 0.95
#: A single lag counts as at most so many times the limit. As half of it goes into the mean, a machine that stood still for a
#: minute makes BUSY; only a second long lag in succession makes FULL, which begins at 4 times the limit.
_LAG_CEILING: Final = 7
_KEEP_ALIVE_FLOOR: Final = 5.0


class Level(IntEnum):
    """How much a worker has in hand."""

    NORMAL = 0
    BUSY = 1  #: no connection is kept after its response, and idle ones leave sooner
    FULL = 2  #: no connection is accepted


class _Gauge:
    """The level of one figure; a limit of 0 is none."""

    def __init__(self, reason: str, busy: float, full: float) -> None:
        self.reason = reason
        self.level = Level.NORMAL
        self._busy = busy
        self._full = full

    def read(self, value: float) -> None:
        before, self.level = self.level, Level.NORMAL
        for level, begins in ((Level.BUSY, self._busy), (Level.FULL, self._full)):
            if 0 < begins * (_EASE if before >= level else 1) <= value:
                self.level = level


class Overload:
    """The level of one worker, with its `reasons`: those of loop_lag, memory, connections and files that have reached it."""

    def __init__(self, limits: Limits, max_files: int) -> None:
        """`max_files` is RLIMIT_NOFILE."""
        files = max(1, max_files - _FILE_RESERVE)
        self.level = Level.NORMAL
        self.reasons: tuple[str, ...] = ()
        self._lag = 0.0
        self._lag_ceiling = _LAG_CEILING * limits.loop_lag
        self._loop_lag = _Gauge("loop_lag", limits.loop_lag, 4 * limits.loop_lag)
        self._memory = _Gauge("memory", 0.85 * limits.memory, 0.95 * limits.memory)
        self._connections = _Gauge("connections", 0.8 * limits.client_connections, limits.client_connections)
        self._files = _Gauge("files", 0.8 * files, files)

    def update(self, lag: float, rss: int, connections: int, files: int) -> Level:
        """The level from now on.

        `lag`: seconds by which the loop was late, the most since the last call. `rss`: bytes; 0 if unknown. `connections`: of
        clients. `files`: open ones.
        """
        self._lag += (min(lag, self._lag_ceiling) - self._lag) / 2
        self._loop_lag.read(self._lag)
        self._memory.read(rss)
        self._connections.read(connections)
        self._files.read(files)
        gauges = (self._loop_lag, self._memory, self._connections, self._files)
        self.level = level = max(gauge.level for gauge in gauges)
        self.reasons = tuple(gauge.reason for gauge in gauges if level and gauge.level is level)
        return level

    @property
    def parts(self) -> bool:
        """Whether connections are closed after their next response. Not for their number: a flood would part us from the rest."""
        return max(self._loop_lag.level, self._memory.level, self._files.level) > Level.NORMAL

    @property
    def sheds(self) -> bool:
        """Whether new requests on kept connections are refused, too: they cost time and memory, but no connection."""
        return Level.FULL in (self._loop_lag.level, self._memory.level)


def keep_alive_timeout(base: float, connections: int, limit: int) -> float:
    """Seconds that an idle connection may stay: `base` up to 80 % of the limit, from there down to 5 at the limit."""
    share = min(1.0, max(0.0, (connections / limit - 0.8) / 0.2))
    return base - share * max(0.0, base - _KEEP_ALIVE_FLOOR)


def read_rss() -> int:
    """Resident bytes of this process; 0 if they cannot be read (there may be no file left)."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:
            return int(statm.read(128).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def count_open_files(estimate: int) -> int:
    """Open files of this process as Linux counts them from 6.2 on (3 us; to list 10,000 takes 9 ms); before, the estimate."""
    return os.stat("/proc/self/fd").st_size or estimate


def trim_memory() -> None:
    """Give memory that is free back to the system, where the C library can (glibc).

    Without it RSS stays at its highest, and so would FULL: after 3,000 buffers in use at once 468 MB, trimmed 25 MB. Takes
    30 ms when there is much to give, 8 ms for 330 MB of which nothing is free: not at every beat.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
