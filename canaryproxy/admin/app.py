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
from canaryproxy.admin.goals import GoalHandlers
from canaryproxy.admin.handlers import Handlers
from canaryproxy.admin.journal import JournalHandlers
from canaryproxy.admin.pools import PoolHandlers
from canaryproxy.config.quantities import Address
from canaryproxy.control.controller import Controller
from canaryproxy.control.pools import BusyError, HandoverError, Pools
from canaryproxy.errors import CanaryproxyError, ConfigError, IllegalTransitionError, NotFoundError, Problem, StoreError

#: Bytes of a request body; verbs need a few hundred, a pool about a hundred for each server.
BODY_LIMIT = 64 * 1024

_SAFE = {"GET", "HEAD"}
_STATUS: dict[type[CanaryproxyError], int] = {
    NotFoundError: 404,
    IllegalTransitionError: 409,
    StoreError: 503,
    BusyError: 503,
    HandoverError: 503,
}

_log = logging.getLogger("canaryproxy.admin")


def make_app(controller: Controller, pools: Pools, token: str, listen: Address) -> web.Application:
    """The application. `listen` is the configured address, which tells what a Host field may say."""
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_json_errors, _guard(token, listen)])
    handlers = Handlers(controller)
    app.router.add_get("/api/v1/routes", handlers.routes)
    app.router.add_get("/api/v1/routes/{route}", handlers.route)
    app.router.add_get("/api/v1/routes/{route}/decisions", handlers.decisions)
    journal_handlers = JournalHandlers(controller)
    app.router.add_get("/api/v1/routes/{route}/journal", journal_handlers.rollouts)
    app.router.add_get("/api/v1/routes/{route}/journal/{rollout}", journal_handlers.blocks)
    for verb in ("start", "pause", "resume", "promote", "rollback", "retry"):
        app.router.add_post(f"/api/v1/routes/{{route}}/{verb}", getattr(handlers, verb))
    app.router.add_put("/api/v1/routes/{route}/weight", handlers.weight)
    app.router.add_post("/api/v1/routes/{route}/goals", GoalHandlers(controller).post)
    pool_handlers = PoolHandlers(pools)
    app.on_shutdown.append(pool_handlers.leave)
    app.router.add_get("/api/v1/pools", pool_handlers.pools)
    app.router.add_get("/api/v1/pools/{pool}", pool_handlers.pool)
    app.router.add_put("/api/v1/pools/{pool}", pool_handlers.register)
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
                challenge = {"WWW-Authenticate": "Bearer"}
                return _error(401, "unauthorized", Problem("", "a change needs the token", hint), headers=challenge)
        return await handler(request)

    return guard


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConfigError as error:
        return _error(400, error.code, *error.problems)
    except CanaryproxyError as error:
        return _error(_STATUS.get(type(error), 400), error.code, error.problem)
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _error(error.status, error.reason.lower().replace(" ", "_"), Problem("", error.reason.lower()), headers=headers)
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return _error(500, "internal", Problem("", "this request met a defect of canaryproxy", "see its log"))


def _error(status: int, code: str, *problems: Problem, headers: dict[str, str] | None = None) -> web.Response:
    """The answer to a request that failed; the message is the first problem, and where there are more, all are listed."""
    messages = [{"message": f"{p.where}: {p.what}" if p.where else p.what, "hint": p.hint} for p in problems]
    body: dict[str, Any] = {"error": {"code": code, **messages[0]}}
    if len(messages) > 1:
        body["error"]["problems"] = messages
    return web.json_response(body, status=status, headers=headers, dumps=json.dumps)
