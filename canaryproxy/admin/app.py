"""The admin endpoint as an aiohttp application: its routes, and the checks that every request passes.

Made by `admin.serve` around the controller. Reads are open, changes need the token, nothing changes by GET, and every answer
but the metrics page is JSON; an error is `{"error": {"code", "message", "hint"}}`.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from canaryproxy.admin.auth import is_authorized, is_own_host, is_own_origin
from canaryproxy.admin.handlers import Handlers
from canaryproxy.config.quantities import Address
from canaryproxy.control.controller import Controller
from canaryproxy.errors import CanaryproxyError, IllegalTransitionError, NotFoundError, Problem, StoreError

#: Bytes of a request body; the largest verb needs a few hundred.
BODY_LIMIT = 64 * 1024

_SAFE = {"GET", "HEAD"}
_STATUS: dict[type[CanaryproxyError], int] = {NotFoundError: 404, IllegalTransitionError: 409, StoreError: 503}

_log = logging.getLogger("canaryproxy.admin")


def make_app(controller: Controller, token: str, listen: Address) -> web.Application:
    """The application. `listen` is the configured address, which tells what a Host field may say."""
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_json_errors, _guard(token, listen)])
    handlers = Handlers(controller)
    app.router.add_get("/api/v1/routes", handlers.routes)
    app.router.add_get("/api/v1/routes/{route}", handlers.route)
    app.router.add_get("/api/v1/routes/{route}/decisions", handlers.decisions)
    for verb in ("start", "pause", "resume", "promote", "rollback", "retry"):
        app.router.add_post(f"/api/v1/routes/{{route}}/{verb}", getattr(handlers, verb))
    app.router.add_put("/api/v1/routes/{route}/weight", handlers.weight)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    return app


def _guard(token: str, listen: Address) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        if not is_own_host(host, listen):
            return _error(403, "foreign_host", Problem("", f"Host {host!r} is not this endpoint", "use its address or localhost"))
        if request.method not in _SAFE:
            if not is_own_origin(request.headers.get("Origin"), host):
                return _error(403, "foreign_origin", Problem("", "a change asked for by a page of another site"))
            if not is_authorized(request.headers.get("Authorization", ""), token):
                hint = "send Authorization: Bearer with the token from the file that admin.token_file names"
                return _error(401, "unauthorized", Problem("", "a change needs the token", hint), {"WWW-Authenticate": "Bearer"})
        return await handler(request)

    return guard


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except CanaryproxyError as error:
        return _error(_STATUS.get(type(error), 400), error.code, error.problem)
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _error(error.status, error.reason.lower().replace(" ", "_"), Problem("", error.reason.lower()), headers)
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return _error(500, "internal", Problem("", "this request met a defect of canaryproxy", "see its log"))


def _error(status: int, code: str, problem: Problem, headers: dict[str, str] | None = None) -> web.Response:
    where = f"{problem.where}: " if problem.where else ""
    body: dict[str, Any] = {"error": {"code": code, "message": f"{where}{problem.what}", "hint": problem.hint}}
    return web.json_response(body, status=status, headers=headers, dumps=json.dumps)
