"""What tells who uses the admin API: token files, and the checks that keep a browser from being used against it.

Called by `admin.guard`; whose a token is, is in `admin.tokens`. A page on another site could still send requests from a browser
on this machine: no cross-origin change is accepted, and on a loopback address no foreign Host (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
from contextvars import ContextVar
from pathlib import Path

from aiohttp import web

from canaryproxy.config.quantities import Address
from canaryproxy.errors import StartError

#: The name of who has shown no token that is known.
NOBODY = "nobody"
#: The name of who asks, in the task that handles the request; set by `admin.guard`.
NAME: ContextVar[str] = ContextVar("name", default=NOBODY)
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


def load_token(path: str | Path) -> str:
    """The token in the file at `path`, which is made with a new one (mode 0600) if it does not exist.

    Raises StartError if others could read or have written it, if it is empty, or if it cannot be read or made.
    """
    where = f"token file {path}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read_token(Path(path), where)
    except OSError as error:
        raise StartError(where, f"cannot be made ({error.strerror})", "check its directory, or change admin.token_file") from None
    token = secrets.token_urlsafe(32)
    with open(descriptor, "w") as file:
        file.write(f"{token}\n")
    return token


def _read_token(path: Path, where: str) -> str:
    try:
        with path.open() as file:
            status = os.fstat(file.fileno())
            token = file.read().strip()
    except OSError as error:
        raise StartError(where, f"cannot be read ({error.strerror})", "check its owner and permissions") from None
    if status.st_uid not in (0, os.geteuid()):
        what = f"belongs to another user (uid {status.st_uid}), who knows the token"
        raise StartError(where, what, f"run: chown {os.geteuid()} {path}, or remove it, and a new token is made")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise StartError(where, f"can be read by others (mode {mode:04o})", f"run: chmod 600 {path}")
    if not token:
        raise StartError(where, "is empty", "remove it, and a new token is made")
    return token


def bearer(authorization: str) -> str:
    """The token in an Authorization field (RFC 6750 section 2.1); '' if it has none."""
    scheme, _, given = authorization.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def operator(request: web.Request) -> str:
    """Who asks, for the decision log: `NAME at ADDRESS`."""
    return f"{NAME.get()} at {request.remote}"


def is_own_host(host: str, listen: Address) -> bool:
    """Whether a Host field can be meant for this endpoint: always, unless it listens on loopback only."""
    if not is_loopback(listen.host):
        return True
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    return name.strip("[]").lower() in _LOOPBACK_NAMES | {listen.host.lower()}


def is_own_origin(origin: str | None, host: str) -> bool:
    """Whether a request comes from no page, or from one of this very endpoint."""
    return origin is None or origin in (f"http://{host}", f"https://{host}")


def is_loopback(host: str) -> bool:
    """Whether this address can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
