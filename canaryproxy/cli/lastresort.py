"""The rollback that needs no HTTP: asked of the supervisor on this machine, with a file beside the state and a signal.

Called by `operate.rollback` when the admin API does not answer. Whoever may signal the supervisor may do this: its own user, and
root. Standard library only, and no import that may be slow or broken.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from canaryproxy.cli.client import RefusedError, UnreachableError
from canaryproxy.control.takeback import Holder, Takeback, find_holder, refusal_of, write_takeback

#: Seconds for the supervisor to take the weight down, and for the next controller to put it on record.
_OBEY, _RECORD = 5.0, 10.0
_LOOK = 0.002


class Done(NamedTuple):
    """What came of it: milliseconds until no user was on the canary, and until that was on record (None: not yet).

    `unwritten`: why no file could be written; then every rollout in progress was rolled back, not only this route's.
    """

    route: str | None
    down_ms: int
    recorded_ms: int | None
    unwritten: str = ""


def take_back(state: Path, admin: str, route: str | None, reason: str, error: UnreachableError | RefusedError) -> Done:
    """Have the supervisor of this state roll back a route (None: every rollout in progress).

    Raises `error`, which says why the API did not do it, where there is no supervisor; RefusedError where it must not be asked.
    """
    try:
        host, port = urlsplit(admin).hostname or "", urlsplit(admin).port or 80
    except ValueError:
        raise error from None
    if not _is_here(host):
        hint = "on the proxy's own machine `canaryproxy rollback` works without the admin API: run it there"
        raise UnreachableError(admin, error.problem.what, hint) from error
    began = time.monotonic()
    holder = _find(state, admin, port)
    if holder is None:
        raise error
    file, unwritten = None, ""
    try:
        file = write_takeback(state, Takeback(route, reason, _whoami(), time.time()), _owner(holder.pid))
    except OSError as problem:
        unwritten = problem.strerror or str(problem)
    try:
        os.kill(holder.pid, signal.SIGUSR2 if file else signal.SIGRTMIN)
    except ProcessLookupError:
        raise error from None
    if not _comes_true(lambda: _obeyed(state) > holder.obeyed, _OBEY):
        what = f"the supervisor (pid {holder.pid}) does not act within {_OBEY:g} s"
        raise UnreachableError(str(state), what, "stop the proxy, or take the canary's servers down")
    down = _milliseconds(began)
    if file is None:
        return Done(None, down, None, unwritten)
    recorded = _comes_true(lambda: not file.exists(), _RECORD)
    if (refusal := refusal_of(file)).exists():
        with suppress(OSError):
            refusal.unlink()
        raise RefusedError(f"route {route!r}", "does not exist", "canaryproxy status, or the configuration, has the names")
    return Done(route, down, _milliseconds(began) if recorded else None)


def _find(state: Path, admin: str, port: int) -> Holder | None:
    """The supervisor of this state, if it is that of this admin endpoint and may be asked."""
    try:
        holder = find_holder(state)
    except OSError as error:
        raise RefusedError(
            f"{state}.lock", (error.strerror or str(error)).lower(), "run this as the proxy's user, or root"
        ) from None
    if holder is None:
        return None
    if holder.admin and holder.admin.rpartition(":")[2] != str(port):
        hint = "name the proxy that is meant: --config FILE, or both --admin and --state"
        raise RefusedError(str(state), f"is the state of the proxy whose admin endpoint is {holder.admin}, not {admin}", hint)
    if holder.pid <= 0:
        raise RefusedError(str(state), "is in use by a proxy in another container", "run this in there")
    if os.geteuid() not in (0, _owner_of(holder.pid)[0]):
        what = f"the proxy (pid {holder.pid}) is another user's"
        raise RefusedError(str(state), what, "run this as that user, or root")
    return holder


def _is_here(host: str) -> bool:
    """Whether this name means this machine."""
    with suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((address[0], 0, *address[2:]))
                return True
    return False


def _owner_of(pid: int) -> tuple[int, int]:
    try:
        status = os.stat(f"/proc/{pid}")
    except OSError:
        return os.geteuid(), os.getegid()
    return status.st_uid, status.st_gid


def _owner(pid: int) -> tuple[int, int] | None:
    """Whose the file must be for the supervisor to read it; None if that is who asks."""
    owner = _owner_of(pid)
    return owner if owner[0] != os.geteuid() else None


def _whoami() -> str:
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return f"{name} on the proxy's machine"


def _obeyed(state: Path) -> int:
    """How many rollbacks the supervisor has obeyed; -1 where none is left to do so."""
    holder = find_holder(state)
    return -1 if holder is None else holder.obeyed


def _comes_true(condition: Callable[[], bool], limit: float) -> bool:
    until = time.monotonic() + limit
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK)
    return True


def _milliseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1000)
