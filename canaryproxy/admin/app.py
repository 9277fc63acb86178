"""The admin endpoint as an aiohttp application, made from the table of its paths (`admin.paths`).

Made by `admin.serve` around the controller. Who may do what is `admin.guard`'s; nothing changes by GET, and every answer but the
metrics page and the stream of events is JSON. An error is `{"error": {"code", "message", "hint"}}`.
"""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from canaryproxy.admin.deploy import DeployHandlers
from canaryproxy.admin.errors import BadRequestError, SlowBodyError, error_answer
from canaryproxy.admin.events import EventHandlers
from canaryproxy.admin.goals import GoalHandlers
from canaryproxy.admin.guard import Guard
from canaryproxy.admin.handlers import Handlers
from canaryproxy.admin.journal import JournalHandlers
from canaryproxy.admin.ofrep import FlagHandlers
from canaryproxy.admin.openapi import DocumentHandlers
from canaryproxy.admin.paths import Access, Path
from canaryproxy.admin.pools import PoolHandlers
from canaryproxy.admin.tokens import Tokens, operator_only
from canaryproxy.config.quantities import Address
from canaryproxy.control.controller import Controller
from canaryproxy.control.pools import BusyError, HandoverError, Pools
from canaryproxy.errors import CanaryproxyError, ConfigError, IllegalTransitionError, NotFoundError, Problem, StoreError

#: Bytes of a request body; verbs need a few hundred, a pool about a hundred for each server.
BODY_LIMIT = 64 * 1024

_STATUS: dict[type[CanaryproxyError], int] = {
    NotFoundError: 404,
    SlowBodyError: 408,
    IllegalTransitionError: 409,
    StoreError: 503,
    BusyError: 503,
    HandoverError: 503,
}

_log = logging.getLogger("canaryproxy.admin")


def make_app(controller: Controller, pools: Pools, tokens: Tokens | str, listen: Address) -> web.Application:
    """The application. `listen` is the configured address, which tells what a Host field may say; a `str` is the only token."""
    handlers, pool_handlers, events = Handlers(controller), PoolHandlers(pools), EventHandlers(controller)
    paths = [
        *handlers.paths(),
        *DeployHandlers(handlers, pools).paths(),
        *JournalHandlers(controller).paths(),
        *GoalHandlers(controller).paths(),
        *pool_handlers.paths(),
        *events.paths(),
        *FlagHandlers(controller).paths(),
    ]
    paths += DocumentHandlers(paths).paths()
    known = {(path.method, path.path): path for path in paths}
    tokens = operator_only(tokens) if isinstance(tokens, str) else tokens
    guard = Guard(known, tokens, controller.config.admin, listen, controller.clock.monotonic)
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[guard.middleware(), _json_errors])
    for path in paths:
        app.router.add_route(path.method, path.path, _strict(path))
        if path.method == "GET":
            app.router.add_route("HEAD", path.path, _strict(path))
    app.on_shutdown.append(pool_handlers.leave)
    app.on_shutdown.append(events.leave)
    return app


def _strict(path: Path) -> Handler:
    """The path's function, which is not asked where the query has a word that it does not know: a misspelt one means something.

    A rollback is never refused for that, nor a page that is asked for by machines with words of their own.
    """
    if path.access in (Access.ROLLBACK, Access.OPEN) or not path.path.startswith("/api/"):
        return path.handler

    async def strict(request: web.Request) -> web.StreamResponse:
        if unknown := [name for name in request.query if name not in path.query]:
            known = f"known: {', '.join(path.query)}" if path.query else "there are none here"
            raise BadRequestError(ascii(unknown[0])[1:-1], "is not known in the query", known)
        return await path.handler(request)

    return strict


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConfigError as error:
        return error_answer(400, error.code, *error.problems)
    except CanaryproxyError as error:
        return error_answer(_STATUS.get(type(error), 400), error.code, error.problem)
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        hint = "send less at a time: docs/api.md has the limits" if error.status == 413 else ""
        return error_answer(
            error.status, error.reason.lower().replace(" ", "_"), Problem("", error.reason.lower(), hint), headers=headers
        )
    except Exception:
        _log.exception("%s %s failed", request.method, ascii(request.rel_url.raw_path)[1:-1])
        return error_answer(500, "internal", Problem("", "this request met a defect of canaryproxy", "see its log"))
