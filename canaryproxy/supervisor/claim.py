"""One supervisor for each state: the lock that keeps a second one off. Called by the supervisor at its start.

In the lock's file stands which admin endpoint goes with the state, for `canaryproxy rollback` (`cli.lastresort`), which finds the
supervisor by the lock.
"""

from __future__ import annotations

import os
from contextlib import suppress

from canaryproxy.control.takeback import lock_state
from canaryproxy.errors import StartError


def claim_state(state: str, admin: str = "") -> int:
    """A lock on this state, as long as this process lives, whatever its children do (a POSIX lock). Raises StartError."""
    path = f"{state}.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(path, f"cannot be made ({error.strerror})", "make its directory writable and leave it room") from None
    try:
        lock_state(lock)
    except OSError:
        hint = "stop that one, or give this one a state of its own (--state, or state.path)"
        raise StartError(state, "is in use by another canaryproxy", hint) from None
    with suppress(OSError):  # on a full disk: then it is not known
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{admin}\n".encode(), 0)
    return lock
