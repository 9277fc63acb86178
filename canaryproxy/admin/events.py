"""`GET /api/v1/events`: what happens, as it happens, for a dashboard or a job that follows a rollout (Server-Sent Events).

Called through `admin.app`. `route` is a route's status document, at first and whenever its revision, weight or verdict has
changed, at most once a second; `decision` is each decision as it is made, its id the time of it, with which `Last-Event-ID`
resumes from the store. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html. While nobody listens nothing
runs. A listener that does not read is cut off, and may come again with its last id.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from aiohttp import web

from canaryproxy.admin.document import route_document
from canaryproxy.admin.errors import BadRequestError, error_answer
from canaryproxy.admin.paths import Access, Answer, Path
from canaryproxy.control.controller import Controller
from canaryproxy.control.route import RouteControl
from canaryproxy.errors import Problem
from canaryproxy.store.base import Decision

#: Streams at a time.
MOST_STREAMS = 100
#: Events that wait for a listener to read; then it is cut off.
_WAITING = 128
#: Decisions kept for who resumes before they are in the store, and those that are read from it for one route.
_RECENT, _RESUMED = 256, 1000
#: Seconds between two comments on a stream, between two looks at the routes, and between two documents of one route.
_HEARTBEAT, _LOOK, _APART = 10.0, 0.25, 1.0

_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
#: Seconds that a listener may take to read what is before it.
_PATIENCE = 30.0


class Event(NamedTuple):
    """What is sent; `key` is its route and time if it is a decision, by which it is known again."""

    text: bytes
    key: tuple[str, float] | None = None


#: What is sent first: a client that loses the stream (a hand-over ends it) comes again after a second.
_GREETING = Event(b"retry: 1000\n\n")
_COMMENT = Event(b":\n\n")


class Listener:
    """One stream: the routes that it is about, and what waits to be sent."""

    def __init__(self, routes: frozenset[str], transport: asyncio.Transport | None) -> None:
        self.routes = routes
        self.waiting: asyncio.Queue[Event | None] = asyncio.Queue(_WAITING)
        self.ended = False
        self._transport = transport

    @property
    def gone(self) -> bool:
        """Whether its client has left."""
        return self._transport is None or self._transport.is_closing()

    def send(self, event: Event) -> None:
        """Have it sent; a listener that has not read the last `_WAITING` events is cut off."""
        try:
            self.waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.end(at_once=True)

    def end(self, *, at_once: bool) -> None:
        """Send nothing more; `at_once`: nor what is on its way."""
        self.ended = True
        while not self.waiting.empty():
            self.waiting.get_nowait()
        self.waiting.put_nowait(None)
        if at_once and self._transport is not None:
            self._transport.abort()

    @property
    def lags(self) -> bool:
        """Whether it has not read everything that was sent."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0


class EventHandlers:
    """The path's function, and the listeners there are."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._listeners: set[Listener] = set()
        self._recent: deque[tuple[str, Decision]] = deque(maxlen=_RECENT)
        self._watching: asyncio.Task[None] | None = None
        self._left = False
        for route in controller.routes.values():
            route.saver.listener = self._hear

    def paths(self) -> list[Path]:
        """What it serves."""
        route = {"type": "string", "description": "only this route; may be repeated"}
        stream = Answer("the stream: events `route` (a status document) and `decision`", media="text/event-stream")
        summary = "What happens, as it happens."
        return [
            Path(
                *("GET", "/api/v1/events", self.stream, Access.READ, "events", summary, {200: stream}),
                query={"route": route},
                errors=(404, 503),
            )
        ]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The stream, until the listener goes, does not read, or this process ends."""
        names = frozenset(request.query.getall("route", [])) or frozenset(self._controller.routes)
        for name in names:
            self._controller.route(name)
        since = _moment(request.headers.get("Last-Event-ID"))
        if self._left or sum(not listener.gone for listener in self._listeners) >= MOST_STREAMS:
            problem = Problem("", f"there are {MOST_STREAMS} streams already", "end one of them, or ask again later")
            return error_answer(503, "too_many_streams", problem, headers={"Retry-After": "5"})
        response = web.StreamResponse(headers=_HEADERS)
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        listener = Listener(names, request.transport)
        self._listeners.add(listener)
        try:
            missed = await self._missed(names, since)  # a listener already: what is decided meanwhile waits
            with suppress(ConnectionError, TimeoutError):
                await response.prepare(request)
                await self._tell(response, listener, missed)
        finally:
            self._listeners.discard(listener)
        return response

    async def leave(self, app: web.Application) -> None:
        """End every stream: this process ends."""
        self._left = True
        for listener in self._listeners:
            listener.end(at_once=listener.lags)
        if self._watching is not None:
            self._watching.cancel()

    async def _tell(self, response: web.StreamResponse, listener: Listener, missed: list[Event]) -> None:
        """What was missed, how it is now, and then what happens."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="events")
        now = [_route_event(self._controller, self._controller.route(name)) for name in sorted(listener.routes)]
        for event in (_GREETING, *missed, *now):
            await _write(response, event)
        told = {event.key for event in missed}
        while not listener.ended:
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    next_event = await listener.waiting.get()
            except TimeoutError:
                next_event = _COMMENT
            if next_event is not None and (next_event.key is None or next_event.key not in told):
                await _write(response, next_event)

    async def _missed(self, routes: frozenset[str], since: float | None) -> list[Event]:
        """The decisions after `since`, from the store and those that are not in it yet."""
        if since is None:
            return []
        made = {(name, decision.at): decision for name, decision in self._recent if name in routes}
        for name in routes:
            for saved in await self._controller.decisions(name, _RESUMED, None):
                made[name, saved["at"]] = Decision(saved["at"], saved["kind"], saved["sentence"], saved["data"])
        return [_decision_event(name, made[name, at]) for name, at in sorted(made, key=lambda key: key[1]) if at > since]

    def _hear(self, route: str, decision: Decision) -> None:
        """A decision was made."""
        self._recent.append((route, decision))
        if self._listeners:
            self._send(route, _decision_event(route, decision))

    def _send(self, route: str, event: Event) -> None:
        for listener in [listener for listener in self._listeners if route in listener.routes and not listener.ended]:
            listener.send(event)

    async def _watch(self) -> None:
        """Tell of routes that have changed, as long as somebody listens."""
        shown: dict[str, tuple[Any, ...]] = {name: _look(route) for name, route in self._controller.routes.items()}
        due = dict.fromkeys(shown, 0.0)
        loop = asyncio.get_running_loop()
        while self._listeners:
            await asyncio.sleep(_LOOK)
            for name, route in self._controller.routes.items():
                now, seen = loop.time(), _look(route)
                if seen != shown.get(name) and now >= due.get(name, 0.0):
                    shown[name], due[name] = seen, now + _APART
                    self._send(name, _route_event(self._controller, route))


def _look(route: RouteControl) -> tuple[Any, ...]:
    """What must differ for a route's document to be sent again."""
    rollout, verdict = route.rollout, route.verdict
    found = (verdict.outcome, verdict.action) if verdict else ()
    return rollout.revision, rollout.phase, rollout.weight_bp, rollout.gate, route.epoch, *found


def _route_event(controller: Controller, route: RouteControl) -> Event:
    return Event(f"event: route\ndata: {json.dumps(route_document(controller, route), default=str)}\n\n".encode())


def _decision_event(route: str, decision: Decision) -> Event:
    made = {"route": route, "at": decision.at, "kind": decision.kind, "sentence": decision.sentence, "data": decision.data}
    data = json.dumps(made, default=str)  # in the middle of a decision: an odd number in it must not stop that
    return Event(f"event: decision\nid: {decision.at!r}\ndata: {data}\n\n".encode(), (route, decision.at))


async def _write(response: web.StreamResponse, event: Event) -> None:
    """Send it. Raises ConnectionError or TimeoutError to a listener that is gone or reads nothing."""
    async with asyncio.timeout(_PATIENCE):
        await response.write(event.text)


def _moment(last: str | None) -> float | None:
    """The time that a Last-Event-ID names."""
    try:
        return None if last is None else float(last)
    except ValueError:
        raise BadRequestError("Last-Event-ID", "is no id of this stream", "leave it out to begin now") from None
