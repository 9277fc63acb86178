"""The goals' path of the admin API: business events that an app tells, one or up to a thousand at a time.

Called through `admin.app`, which has checked who asks. All events of a request are looked at before the first is counted: a
request that is refused has counted nothing, and can be sent again as it is.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from canaryproxy.admin.errors import BadRequestError
from canaryproxy.admin.handlers import json_body
from canaryproxy.admin.paths import Access, Answer, Path
from canaryproxy.control.controller import Controller
from canaryproxy.control.goals import Event
from canaryproxy.control.route import RouteControl
from canaryproxy.errors import NotFoundError

#: Events, and bytes, in one request.
MOST_EVENTS, BODY_LIMIT = 1000, 1 << 20
#: Characters of a goal's name, a user's key and an id.
_LONGEST = 512

_EXAMPLE = '{"goal": "checkout", "user": "u-1007", "id": "order-4711"}'


class GoalHandlers:
    """The path's function."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def paths(self) -> list[Path]:
        """What it serves."""
        counted = Answer("they are counted, and judged with the next tick", "Posted")
        return [
            Path(
                *("POST", "/api/v1/routes/{route}/goals", self.post, Access.FEED, "goals", "Tell business events."),
                {202: counted},
                body="Goals",
                body_needed=True,
            )
        ]

    async def post(self, request: web.Request) -> web.Response:
        """Count events for the variants that their users have now; 202, for they are judged with the next tick."""
        route = self._controller.route(request.match_info["route"])
        body = await json_body(request.clone(client_max_size=BODY_LIMIT), _EXAMPLE)
        items = body if isinstance(body, list) else [body]
        if len(items) > MOST_EVENTS:
            raise BadRequestError("", f"{len(items)} events", f"send at most {MOST_EVENTS} at a time")
        events = [_event(item, f"[{n}]" if isinstance(body, list) else "") for n, item in enumerate(items)]
        for goal in dict.fromkeys(event.goal for event in events):
            _check(route, goal)
        posted = route.goals.post(events, self._controller.clock.monotonic())
        return web.json_response(posted._asdict(), status=202)


def _check(route: RouteControl, goal: str) -> None:
    if goal in route.goals.posted:
        return
    named = f"goals that are posted: {', '.join(route.goals.posted) or 'none'}"
    if goal in route.goals.names:
        raise BadRequestError(f"goal {goal!r}", "is counted from its requests, and would count twice", named)
    raise NotFoundError(f"goal {goal!r} of route {route.name}", "does not exist", named)


def _event(item: Any, where: str) -> Event:
    if not isinstance(item, dict):
        raise BadRequestError(where, "an event is a JSON object", f"send for example {_EXAMPLE}")
    place = f"{where}." if where else ""
    for name in item:
        if name not in Event._fields:
            raise BadRequestError(f"{place}{name}", "is not known here", f"known: {', '.join(Event._fields)}")
    for name in Event._fields:
        value = item.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST or not value.isprintable():
            what = "is missing" if value is None else f"is no text of 1 to {_LONGEST} characters"
            raise BadRequestError(f"{place}{name}", what, f"send for example {_EXAMPLE}")
    return Event(**item)
