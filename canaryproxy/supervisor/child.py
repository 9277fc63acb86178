"""One forked process, seen from the supervisor: how it is made, and whether it lives or hangs."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from canaryproxy.errors import CanaryproxyError, StartError

#: prctl(2).
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
#: Looks at the pulse, 0.1 s apart, that may find it unmoved before the process counts as hung.
HUNG_LOOKS = 8
#: The same while the process is runnable but gets no CPU: the machine is busy, killing would not help.
STARVED_LOOKS = 100
#: CPU that a process must have used since its pulse stopped, to count as one that spins.
BUSY_SECONDS = 0.6
_TICKS = os.sysconf("SC_CLK_TCK")

log = logging.getLogger("canaryproxy.supervisor")


@dataclass(slots=True)
class Child:
    """A child process. `row` is its row in the shared segment (workers), -1 for the controller."""

    pid: int
    name: str
    started: float
    row: int = -1
    index: int = 0
    generation: int = 0
    slots: frozenset[int] = frozenset()
    leaving: bool = False
    #: Its pulse as seen last; at first what its predecessor left.
    pulse: int = 0
    _began: bool = field(default=False)
    _looks: int = field(default=0)
    _cpu: float = field(default=0.0)

    def is_hung(self, pulse: int) -> bool:
        """Whether its pulse has stood still for too long; to be asked every 0.1 s.

        Counted in looks, not seconds: when the whole machine was suspended, the supervisor did not look either. A process that is
        ready to run but gets little CPU is no better off when it is killed, and one that has not begun may take its time.
        """
        if pulse != self.pulse:
            self.pulse, self._looks, self._cpu, self._began = pulse, 0, _cpu_seconds(self.pid)[1], True
            return False
        self._looks += 1
        if self._looks < HUNG_LOOKS:
            return False
        state, cpu = _cpu_seconds(self.pid)
        patient = state not in "Tt" and (not self._began or (state in "RD" and cpu - self._cpu < BUSY_SECONDS))
        return not patient or self._looks >= STARVED_LOOKS

    def signal(self, number: int) -> None:
        """Send a signal, unless it has just ended."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            log.debug("%s (pid %d) had ended already", self.name, self.pid)


def how(code: int) -> str:
    """How a process ended, by its exit code as `os.waitstatus_to_exitcode` has it."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _cpu_seconds(pid: int) -> tuple[str, float]:
    """(state letter, CPU seconds used) of a process, from /proc/PID/stat (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / _TICKS


def short_name(name: str) -> str:
    """What `ps` and `pgrep` call the process: `canary: w0`, `canary: control`; there is room for 15 bytes."""
    return f"canary: {name.replace('worker ', 'w')}"[:15]


def fork(body: Callable[[], None], name: str) -> int:
    """The pid of a new process that runs `body` and ends; it gets SIGTERM if this one dies. Raises StartError without one."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        pid = os.fork()
    except OSError as error:
        raise StartError(name, f"no process can be made for it ({error.strerror})", "check memory and process limits") from None
    if pid:
        return pid
    code = 1
    try:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        libc.prctl(_PR_SET_NAME, short_name(name).encode())
        if os.getppid() != parent:
            os._exit(1)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        body()
        code = 0
    except CanaryproxyError as error:
        log.error("%s: %s", name, error)
    except BaseException:
        log.exception("%s failed", name)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
