"""`POST /api/v1/routes/{r}/start`: the rollout of the canary there is, or with `canary` in the body the deploy of a new one.

Called through `admin.app`, which has checked who asks. A deploy is answered with the route's status document, whose `deploy`
says how far it is: 200, the rollout has started, or there was nothing to do (`already`); 202, it is stored, and what it waits
for is in `deploy.detail`: new workers (which replace this process), or the servers of the canary. 503: nothing has changed.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from canaryproxy.admin.auth import operator
from canaryproxy.admin.document import route_document
from canaryproxy.admin.errors import BadRequestError
from canaryproxy.admin.handlers import Handlers, etag, json_object, refuse_if_changed, verb
from canaryproxy.admin.paths import Answer, Path
from canaryproxy.control.deploys import Deploys
from canaryproxy.control.pools import Pools
from canaryproxy.errors import IllegalTransitionError, one_line
from canaryproxy.rollout.model import Phase, Rollout

_EXAMPLE = '{"canary": ["http://10.0.0.7:8000"], "version": "v2"}'
_LONGEST = {"version": 200, "reason": 500}


class DeployHandlers:
    """The path's function."""

    def __init__(self, handlers: Handlers, pools: Pools) -> None:
        self._handlers, self._controller, self._deploys = handlers, pools.controller, Deploys(pools)

    def paths(self) -> list[Path]:
        """What it serves."""
        later = Answer("it is stored; `deploy` says what it waits for", "Changed", etag=True)
        summary = "Start the rollout, with other users first each time; with `canary`, of a pool that is registered with it."
        return [verb("start", summary, self.start, body="Start", later=later)]

    async def start(self, request: web.Request) -> web.Response:
        """The rollout, or the deploy. If-Match as for every verb."""
        body = await json_object(request, _EXAMPLE)
        if "canary" not in body:
            if "version" in body:
                raise BadRequestError("version", "says nothing without canary", f"send for example {_EXAMPLE}")
            self._refuse_the_version_before(self._controller.route(request.match_info["route"]).rollout)
            return await self._handlers.start(request)
        wanted, texts = _read(body)
        route = self._controller.route(request.match_info["route"])
        if refusal := refuse_if_changed(request, f"route {route.name}", str(route.rollout.revision)):
            return refusal
        done = await self._deploys.deploy(route, wanted, texts["version"], operator(request), texts["reason"])
        document = route_document(self._controller, route)
        applied = self._controller.board.applied(route.slot, route.epoch)
        document |= {"applied_by": applied.applied_by, "workers": applied.workers, "already": done.already or None}
        if done.outcome is not None:
            document |= {"generation": done.outcome.generation, "workers": done.outcome.workers}
        waits = not done.already and (document["deploy"] or {}).get("state") in ("handing_over", "pending")
        headers = {"ETag": etag(str(route.rollout.revision))}
        return web.json_response(document, status=202 if waits else 200, headers=headers)

    @staticmethod
    def _refuse_the_version_before(rollout: Rollout) -> None:
        """A job that is tried again after its promotion must not give the old version to everybody."""
        if rollout.phase is Phase.PROMOTED:
            what = f"{rollout.stable} is stable already, and its canary is {rollout.canary}, the version before it"
            raise IllegalTransitionError(f"route {rollout.route}", what, f"name it if it is meant: --canary {rollout.canary}")


def _read(body: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """What is wanted, and the texts beside it; raises BadRequestError for anything else."""
    for name in body.keys() - {"canary", "version", "reason"}:
        raise BadRequestError(name, "is not known here", "known: canary, version, reason")
    texts = {name: body.get(name, "") for name in _LONGEST}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise BadRequestError(name, f"{text!r} is not a text")
        if len(text) > _LONGEST[name]:
            raise BadRequestError(name, f"is longer than {_LONGEST[name]} characters", "shorten it")
    wanted = body["canary"]
    if not isinstance(wanted, str | list | dict) or not wanted:
        raise BadRequestError("canary", f"{wanted!r} is no pool", f"send the name of one, servers, or a definition: {_EXAMPLE}")
    return wanted, {name: one_line(text) for name, text in texts.items()}
