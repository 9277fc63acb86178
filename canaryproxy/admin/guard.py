"""Who may do what: the checks that every request passes before its path's function, and the record of who asked for what.

Called by `admin.app` as a middleware. In this order: this endpoint's own Host, no page of another site, the token, the limits.
A rollback with a valid token passes all of them but Host and Origin, however often it is asked for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from canaryproxy.admin.auth import NAME, NOBODY, is_loopback, is_own_host, is_own_origin, operator
from canaryproxy.admin.errors import error_answer
from canaryproxy.admin.limits import RateLimiter
from canaryproxy.admin.paths import Access, Path
from canaryproxy.admin.tokens import Holder, Tokens
from canaryproxy.config.operators import Readers, Role
from canaryproxy.config.quantities import Address
from canaryproxy.config.schema import Admin
from canaryproxy.errors import Problem

SAFE = {"GET", "HEAD"}
#: Characters of a path in the audit's lines.
_SHOWN = 200
_FOREIGN = "a change asked for by a page of another site"
#: Lines in a minute about an address without a token, or with one that may not: neither must be able to fill the disk.
_TOLD = 120

_audit = logging.getLogger("canaryproxy.audit")


class Guard:
    """The checks. `paths` are known by method and pattern, `clock` gives monotonic seconds."""

    def __init__(
        self,
        paths: Mapping[tuple[str, str], Path],
        tokens: Tokens,
        settings: Admin,
        listen: Address,
        clock: Callable[[], float],
    ) -> None:
        self._paths, self._tokens, self._listen, self._clock = paths, tokens, listen, clock
        self._reads_open = settings.read is Readers.OPEN or (settings.read is Readers.AUTO and is_loopback(listen.host))
        self._failures = RateLimiter(settings.rate_limit.failures)
        self._changes = RateLimiter(settings.rate_limit.changes)
        self._told = RateLimiter(_TOLD)

    def middleware(self) -> Middleware:
        """It, as aiohttp calls it."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            NAME.set(NOBODY)
            path = self.path_of(request)
            access = path.access if path else (Access.READ if request.method in SAFE else Access.CHANGE)
            refusal = self._refusal(request, access)
            answer = await handler(request) if refusal is None else refusal
            if access.audited or (access.changes and refusal is not None):
                self._note(request, answer.status)
            return answer

        return guard

    def path_of(self, request: web.Request) -> Path | None:
        """The path that this request means; None if there is none."""
        resource = request.match_info.route.resource
        method = "GET" if request.method == "HEAD" else request.method
        return self._paths.get((method, resource.canonical)) if resource else None

    def _refusal(self, request: web.Request, access: Access) -> web.Response | None:
        """The answer to a request that may not go on."""
        host = request.headers.get("Host", "")
        if not is_own_host(host, self._listen):
            what = f"Host {host!r} is not this endpoint"
            return error_answer(403, "foreign_host", Problem("", what, "use its address or localhost"))
        if request.method not in SAFE and not is_own_origin(request.headers.get("Origin"), host):
            return error_answer(403, "foreign_origin", Problem("", _FOREIGN, "ask from no page, or from this endpoint's own"))
        if access is Access.OPEN or (access is Access.READ and self._reads_open):
            return None
        authorization = request.headers.get("Authorization", "")
        holder = self._tokens.holder(authorization)
        if holder is None:
            return self._unauthorized(request, access, guessed=bool(authorization))
        NAME.set(holder.name)
        if access.changes and holder.role is not Role.OPERATE:
            return _forbidden(holder)
        if access is Access.CHANGE and (wait := self._changes.take(request.remote or "", self._clock())):
            return _too_many("too many changes from this address", wait)
        return None

    def _unauthorized(self, request: web.Request, access: Access, *, guessed: bool) -> web.Response:
        """401, or 429 to an address with too many wrong tokens. One without any is no guess; one that is right is let in."""
        if guessed and (wait := self._failures.take(request.remote or "", self._clock())):
            return _too_many("too many wrong tokens from this address", wait)
        what = "a change needs the token" if access.changes else "reading needs a token here (admin.read)"
        hint = "send Authorization: Bearer with the token from the file that admin.token_file names"
        return error_answer(401, "unauthorized", Problem("", what, hint), headers={"WWW-Authenticate": "Bearer"})

    def _note(self, request: web.Request, status: int) -> None:
        """One line on who asked for which change, and what came of it: no token, no text of the request's body."""
        if (NAME.get() == NOBODY or status == 403) and self._told.take(request.remote or "", self._clock()):
            return
        where = ascii(request.rel_url.raw_path)[1:-1][:_SHOWN]
        outcome = "granted" if status < 400 else "refused"
        level = logging.INFO if status < 400 else logging.WARNING
        _audit.log(level, "audit: %s: %s %s: %s (%d)", operator(request), request.method, where, outcome, status)


def _forbidden(holder: Holder) -> web.Response:
    what = f"the token of {holder.name} has the role {holder.role}: it may not change anything"
    return error_answer(403, "forbidden", Problem("", what, f"use a token with the role {Role.OPERATE}"))


def _too_many(what: str, wait: float) -> web.Response:
    seconds = str(math.ceil(wait))
    hint = f"ask again in {seconds} s; a rollback is never limited"
    return error_answer(429, "too_many_requests", Problem("", what, hint), headers={"Retry-After": seconds})
