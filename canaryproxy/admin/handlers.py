"""What each path of the admin API does: read the body strictly, ask the controller, answer with the status document.

Called through `admin.app`, which has checked who asks. Between the check of If-Match and the decision nothing is awaited, so
two operators cannot overwrite each other; a rollback never looks at it.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

import canaryproxy
from canaryproxy.admin.document import route_document
from canaryproxy.admin.exposition import LedgerCollector
from canaryproxy.config.quantities import parse_percent
from canaryproxy.control.controller import Controller
from canaryproxy.errors import CanaryproxyError
from canaryproxy.rollout.model import Event, Pause, Promote, Resume, Rollback, SetWeight
from canaryproxy.shared.layout import Ack, WorkerState

_LARGEST_PAGE = 1000
_LONGEST_REASON = 500


class BadRequestError(CanaryproxyError):
    """A request that says nothing the API understands."""

    code = "bad_request"


class Handlers:
    """The paths' functions."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._collector = LedgerCollector(controller)

    # Reads.

    async def routes(self, request: web.Request) -> web.Response:
        """Every route."""
        controller = self._controller
        return web.json_response({"routes": [route_document(controller, route) for route in controller.routes.values()]})

    async def route(self, request: web.Request) -> web.Response:
        """One route, with its revision as ETag."""
        return self._document(request.match_info["route"])

    async def decisions(self, request: web.Request) -> web.Response:
        """The decision log, newest first; `limit` and `before` page through it."""
        limit = number(request, "limit", 100)
        before = number(request, "before", 0) or None
        found = await self._controller.decisions(request.match_info["route"], min(limit, _LARGEST_PAGE), before)
        return web.json_response({"decisions": found})

    async def metrics(self, request: web.Request) -> web.Response:
        """The page for Prometheus."""
        return web.Response(body=self._collector.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, request: web.Request) -> web.Response:
        """200: this process lives."""
        return web.json_response({"status": "ok", "version": canaryproxy.__version__})

    async def readyz(self, request: web.Request) -> web.Response:
        """200 while a worker serves and does not drain, else 503."""
        board = self._controller.board
        states = [board.worker(worker, Ack.STATE) for worker in board.serving()]
        serving = states.count(WorkerState.SERVING)
        return web.json_response({"ready": serving > 0, "workers": serving}, status=200 if serving else 503)

    # Changes.

    async def start(self, request: web.Request) -> web.Response:
        """Step 1, with a new salt."""
        body = await _body(request, reason=str)
        return await self._change(request, self._controller.start_event(request.match_info["route"]), body)

    async def retry(self, request: web.Request) -> web.Response:
        """Step 1 again, after a rollback."""
        body = await _body(request, reason=str)
        return await self._change(request, self._controller.retry_event(request.match_info["route"]), body)

    async def pause(self, request: web.Request) -> web.Response:
        """Hold."""
        body = await _body(request, reason=str)
        return await self._change(request, Pause(body.pop("reason", "")), body)

    async def resume(self, request: web.Request) -> web.Response:
        """Go on."""
        return await self._change(request, Resume(), await _body(request, reason=str))

    async def promote(self, request: web.Request) -> web.Response:
        """The next step, or with `full` everybody."""
        body = await _body(request, full=bool, reason=str)
        return await self._change(request, Promote(full=body.get("full", False)), body)

    async def weight(self, request: web.Request) -> web.Response:
        """This share, held."""
        body = await _body(request, weight=str, reason=str)
        try:
            weight_bp = parse_percent(body.get("weight"))
        except ValueError as error:
            raise BadRequestError("weight", str(error), 'send for example {"weight": "5%"}') from None
        return await self._change(request, SetWeight(weight_bp), body)

    async def rollback(self, request: web.Request) -> web.Response:
        """Everybody to the old version. Whatever If-Match says, and whatever the body is."""
        try:
            reason = (await _body(request, reason=str)).get("reason", "")
        except (BadRequestError, web.HTTPRequestEntityTooLarge):
            reason = ""
        return await self._submit(request.match_info["route"], Rollback(reason), "")

    # Their common end.

    async def _change(self, request: web.Request, event: Event, body: dict[str, Any]) -> web.Response:
        name = request.match_info["route"]
        revision = self._controller.route(name).rollout.revision
        if refusal := refuse_if_changed(request, f"route {name}", str(revision)):
            return refusal
        return await self._submit(name, event, body.get("reason", ""))

    async def _submit(self, name: str, event: Event, note: str) -> web.Response:
        answer = await self._controller.submit(name, event, note)
        return self._document(name, applied_by=answer.applied_by, workers=answer.workers, saved=answer.saved)

    def _document(self, name: str, **more: Any) -> web.Response:
        route = self._controller.route(name)
        document = route_document(self._controller, route) | more
        return web.json_response(document, headers={"ETag": etag(str(route.rollout.revision))})


def etag(revision: str) -> str:
    """The entity tag of a revision (RFC 9110 section 8.8.3)."""
    return f'"{revision}"'


def refuse_if_changed(request: web.Request, what: str, revision: str | None) -> web.Response | None:
    """The answer where If-Match names other revisions than the present one (None: there is nothing yet), else None."""
    expected = request.headers.get("If-Match")
    if expected is None:
        return None
    if revision is not None and {"*", etag(revision)} & {tag.strip() for tag in expected.split(",")}:
        return None
    problem = {
        "code": "changed_meanwhile",
        "message": f"{what}: is at revision {revision}, not at {expected}" if revision else f"{what}: does not exist",
        "hint": "look at it again, then decide",
    }
    return web.json_response({"error": problem}, status=412, headers={"ETag": etag(revision)} if revision else {})


async def json_object(request: web.Request, example: str) -> dict[str, Any]:
    """The JSON object in the body (none: no members)."""
    body = await json_body(request, example)
    if not isinstance(body, dict):
        raise BadRequestError("", "the body is not a JSON object", f"send for example {example}")
    return body


async def json_body(request: web.Request, example: str) -> Any:
    """The JSON in the body; none: an object without members."""
    data = await request.read()
    if not data:
        return {}
    if request.content_type != "application/json":
        raise BadRequestError("", f"content type {request.content_type!r}", "send application/json")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("", f"the body is not JSON ({error})", f"send for example {example}") from None


async def _body(request: web.Request, **known: type) -> dict[str, Any]:
    """The members of the JSON object in the body, all of them `known` and of that type."""
    body = await json_object(request, f'{{"{next(iter(known))}": ...}}')
    for name, value in body.items():
        if name not in known:
            raise BadRequestError(name, "is not known here", f"known: {', '.join(known)}")
        if not isinstance(value, known[name]):
            raise BadRequestError(name, f"{value!r} is not a {known[name].__name__}")
    if len(body.get("reason", "")) > _LONGEST_REASON:
        raise BadRequestError("reason", f"is longer than {_LONGEST_REASON} characters", "shorten it")
    return body


def number(request: web.Request, name: str, default: int) -> int:
    """A number in the query string."""
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadRequestError(name, f"{text!r} is not a number")
    return int(text)
