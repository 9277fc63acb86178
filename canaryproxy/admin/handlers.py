"""What each path of the admin API does: read the body strictly, ask the controller, answer with the status document.

Called through `admin.app`, which has checked who asks. Between the check of If-Match and the decision nothing is awaited, so
two operators cannot overwrite each other; a rollback never looks at it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

import canaryproxy
from canaryproxy.admin.auth import operator
from canaryproxy.admin.document import route_document
from canaryproxy.admin.errors import BadRequestError, SlowBodyError, error_answer
from canaryproxy.admin.exposition import LedgerCollector
from canaryproxy.admin.paths import Access, Answer, Path, Schema
from canaryproxy.config.quantities import parse_percent
from canaryproxy.control.controller import Controller
from canaryproxy.errors import Problem, one_line
from canaryproxy.rollout.model import Event, Pause, Promote, Resume, Rollback, SetWeight
from canaryproxy.shared.layout import Ack, WorkerState

_LARGEST_PAGE = 1000
_LONGEST_REASON = 500
#: Seconds for a body to come; a rollback waits for its reason that long at most.
_BODY_SECONDS, _ROLLBACK_BODY_SECONDS = 10.0, 1.0

_ROUTE = "/api/v1/routes/{route}"


class Handlers:
    """The paths' functions."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._collector = LedgerCollector(controller)

    def paths(self) -> list[Path]:
        """What it serves."""
        limits = {
            "limit": {"type": "integer", "minimum": 0, "description": f"at most so many; never more than {_LARGEST_PAGE}"},
            "before": {"type": "integer", "minimum": 0, "description": "only those with a smaller id; 0: from the newest on"},
        }
        one, all_of = Answer("the route", "Route", etag=True), Answer("every route", "Routes")
        page, ready = Answer("a page of decisions", "Decisions"), Answer("whether workers serve", "Ready")
        text = Answer("the page in the text format of Prometheus", media="text/plain")
        read, opened = Access.READ, Access.OPEN
        return [
            Path("GET", "/api/v1/routes", self.routes, read, "routes", "Every route.", {200: all_of}),
            Path("GET", _ROUTE, self.route, read, "route", "One route.", {200: one}, if_none_match=True),
            Path(
                *("GET", f"{_ROUTE}/decisions", self.decisions, read, "decisions", "The decision log, newest first."),
                {200: page},
                query=limits,
                errors=(503,),
            ),
            verb("pause", "Hold the weight. A proven harm still rolls back.", self.pause),
            verb("resume", "Go on after a pause.", self.resume),
            verb("promote", "Go to the next step without waiting for evidence.", self.promote, body="Promote"),
            verb("retry", "Start over after a rollback.", self.retry),
            verb(
                "weight", "Give the canary this share, and hold it.", self.weight, method="PUT", body="Weight", body_needed=True
            ),
            verb(
                *("rollback", "Take every request off the canary, now. Never refused, in no phase.", self.rollback),
                access=Access.ROLLBACK,
                if_match=False,
            ),
            Path("GET", "/metrics", self.metrics, read, "metrics", "Metrics for Prometheus.", {200: text}),
            Path("GET", "/healthz", self.healthz, opened, "healthz", "This process lives.", {200: Answer("it does", "Health")}),
            Path(
                *("GET", "/readyz", self.readyz, opened, "readyz", "Whether a worker serves and does not drain."),
                {200: ready, 503: ready},
            ),
        ]

    # Reads.

    async def routes(self, request: web.Request) -> web.Response:
        """Every route."""
        controller = self._controller
        return web.json_response({"routes": [route_document(controller, route) for route in controller.routes.values()]})

    async def route(self, request: web.Request) -> web.Response:
        """One route, with its revision as ETag."""
        answer = self._document(request.match_info["route"])
        return unless_known(request, answer)

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
        return await self._change(request, self._controller.start_event(request.match_info["route"], operator(request)), body)

    async def retry(self, request: web.Request) -> web.Response:
        """Step 1 again, after a rollback."""
        body = await _body(request, reason=str)
        return await self._change(request, self._controller.retry_event(request.match_info["route"], operator(request)), body)

    async def pause(self, request: web.Request) -> web.Response:
        """Hold."""
        body = await _body(request, reason=str)
        return await self._change(request, Pause(body.pop("reason", ""), operator(request)), body)

    async def resume(self, request: web.Request) -> web.Response:
        """Go on."""
        return await self._change(request, Resume(operator(request)), await _body(request, reason=str))

    async def promote(self, request: web.Request) -> web.Response:
        """The next step, or with `full` everybody."""
        body = await _body(request, full=bool, reason=str)
        return await self._change(request, Promote(body.get("full", False), operator(request)), body)

    async def weight(self, request: web.Request) -> web.Response:
        """This share, held."""
        body = await _body(request, weight=str, reason=str)
        try:
            weight_bp = parse_percent(body.get("weight"))
        except ValueError as error:
            raise BadRequestError("weight", str(error), 'send for example {"weight": "5%"}') from None
        return await self._change(request, SetWeight(weight_bp, operator(request)), body)

    async def rollback(self, request: web.Request) -> web.Response:
        """Everybody to the old version. Whatever If-Match says, and whatever the body is or whether it comes at all."""
        try:
            async with asyncio.timeout(_ROLLBACK_BODY_SECONDS):
                reason = (await _body(request, reason=str)).get("reason", "")
        except (BadRequestError, SlowBodyError, TimeoutError, web.HTTPRequestEntityTooLarge):
            reason = ""
        return await self._submit(request.match_info["route"], Rollback(reason, operator(request)), "")

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


def verb(
    name: str,
    summary: str,
    handler: Handler,
    *,
    method: str = "POST",
    body: Schema = "Reason",
    body_needed: bool = False,
    access: Access = Access.CHANGE,
    if_match: bool = True,
    later: Answer | None = None,
) -> Path:
    """The path of a verb; `later` is its answer where it goes on after it (202)."""
    done = Answer("what is in force now, and how far it has got", "Changed", etag=True)
    errors = (409,) if access is Access.CHANGE else ()
    return Path(
        *(method, f"{_ROUTE}/{name}", handler, access, name, summary, {200: done} | ({202: later} if later else {})),
        body=body,
        body_needed=body_needed,
        errors=(*errors, 503) if later else errors,
        if_match=if_match,
    )


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
    found = f"is at revision {revision}, not at {expected}" if revision else "does not exist"
    headers = {"ETag": etag(revision)} if revision else {}
    return error_answer(412, "changed_meanwhile", Problem(what, found, "look at it again, then decide"), headers=headers)


def unless_known(request: web.Request, answer: web.Response) -> web.Response:
    """The answer, or 304 where If-None-Match names its ETag (RFC 9110 section 13.1.2)."""
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if known & {"*", answer.headers["ETag"]}:
        return web.Response(status=304, headers={"ETag": answer.headers["ETag"]})
    return answer


async def json_object(request: web.Request, example: str) -> dict[str, Any]:
    """The JSON object in the body (none: no members)."""
    body = await json_body(request, example)
    if not isinstance(body, dict):
        raise BadRequestError("", "the body is not a JSON object", f"send for example {example}")
    return body


async def json_body(request: web.Request, example: str) -> Any:
    """The JSON in the body; none: an object without members."""
    data = await read_body(request)
    if not data:
        return {}
    if request.content_type != "application/json":
        raise BadRequestError("", f"content type {request.content_type!r}", "send application/json")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("", f"the body is not JSON ({error})", f"send for example {example}") from None


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises SlowBodyError, or BadRequestError where it does not come whole or is not coded as it says."""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise SlowBodyError("", f"the body did not come within {_BODY_SECONDS:g} s", "send it at once") from None
    except (OSError, RuntimeError, web.RequestPayloadError):  # the client or the door has ended the connection, or it is rubbish
        raise BadRequestError("", "the body did not come whole", "send it again") from None


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
    if "reason" in body:
        body["reason"] = one_line(body["reason"])
    return body


def number(request: web.Request, name: str, default: int) -> int:
    """A number in the query string."""
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadRequestError(name, f"{text!r} is not a number", f"write for example {name}={default or 1}")
    return int(text)
