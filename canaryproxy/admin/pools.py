"""The pools' paths of the admin API: which there are, and registering one at run time.

Called through `admin.app`, which has checked who asks. A pool that is put is stored before anything else and then served by a
new generation of workers, which also replaces this process. So the answer tells how far that is: 200, the new workers serve and
the older ones were told to finish; 202, it is stored, and the new workers are on their way (GET says when); 503, nothing has
changed. Older workers ask the former servers for what they have in hand, and for one more request on a connection that a client
keeps busy: `draining` says how many are left, and when it is 0 the former servers can go.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aiohttp import web

from canaryproxy.admin.auth import operator
from canaryproxy.admin.handlers import etag, json_object, refuse_if_changed, unless_known
from canaryproxy.admin.paths import Access, Answer, Path
from canaryproxy.config.check import warnings
from canaryproxy.config.overlay import Definition, Registered, definition_of
from canaryproxy.config.schema import Config
from canaryproxy.control.messages import iso
from canaryproxy.control.pools import Pools
from canaryproxy.shared.layout import Ack, WorkerState


class PoolHandlers:
    """The paths' functions."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def paths(self) -> list[Path]:
        """What it serves."""
        at = "/api/v1/pools"
        every, one = Answer("every pool", "Pools"), Answer("the pool", "Pool", etag=True)
        stored = Answer("it is stored, and new workers are on their way: GET says when they serve", "Pool", etag=True)
        return [
            Path("GET", at, self.pools, Access.READ, "pools", "Every pool.", {200: every}),
            Path(
                *("GET", f"{at}/{{pool}}", self.pool, Access.READ, "pool", "One pool.", {200: one}),
                if_none_match=True,
            ),
            Path(
                *("PUT", f"{at}/{{pool}}", self.register, Access.CHANGE, "register_pool", "Define a pool, in its whole."),
                {200: Answer("new workers serve with it", "Pool", etag=True), 202: stored},
                body="PoolDefinition",
                body_needed=True,
                errors=(409, 503),
                if_match=True,
            ),
        ]

    async def pools(self, request: web.Request) -> web.Response:
        """Every pool."""
        return web.json_response({"pools": [self._in_force(name) for name in self._pools.controller.config.pools]})

    async def pool(self, request: web.Request) -> web.Response:
        """One pool, with its revision as ETag."""
        name = request.match_info["pool"]
        self._pools.pool(name)
        return unless_known(request, _answer(self._in_force(name)))

    async def register(self, request: web.Request) -> web.Response:
        """A pool as the file would define it, in its whole; If-Match as for routes. What is in force already changes nothing."""
        definition = await json_object(request, '{"servers": ["http://10.0.0.1:8000"]}')
        name, present = request.match_info["pool"], self._pools.definition(request.match_info["pool"])
        if refusal := refuse_if_changed(request, f"pool {name}", revision(present) if present is not None else None):
            return refusal
        if definition == present:
            return _answer(self._in_force(name))
        before = warnings(self._pools.controller.config)
        change = await self._pools.register(name, definition, operator(request))
        document = pool_document(change.config, name, change.registered)
        document["warnings"] = [str(warning) for warning in warnings(change.config) if warning not in before]
        document["serving"] = change.outcome is not None
        if change.outcome is None:
            return _answer(document | self._workers(), status=202)
        workers = change.outcome.workers
        older = len(self._pools.controller.board.serving()) - workers
        return _answer(document | {"generation": change.outcome.generation, "workers": workers, "draining": max(0, older)})

    async def leave(self, app: web.Application) -> None:
        """Answer those who wait for a hand-over: this process ends."""
        self._pools.leave()

    def _in_force(self, name: str) -> dict[str, Any]:
        known = self._pools.registered.get(name)
        return pool_document(self._pools.controller.config, name, known) | {"serving": True} | self._workers()

    def _workers(self) -> dict[str, int]:
        board = self._pools.controller.board
        states = [board.worker(worker, Ack.STATE) for worker in board.serving()]
        return {"workers": states.count(WorkerState.SERVING), "draining": states.count(WorkerState.DRAINING)}


def pool_document(config: Config, name: str, registered: Registered | None) -> dict[str, Any]:
    """A pool of this configuration, which has it from the file (None) or from here; `definition` can be put again as it is."""
    pool = config.pools[name]
    definition = registered.definition if registered else definition_of(pool) or {}
    return {
        "pool": name,
        "version": pool.version or name,
        "revision": revision(definition),
        "definition": definition,
        "source": "api" if registered else "file",
        "registered_at": iso(registered.at if registered else None),
        "registered_by": registered.by if registered else None,
        "routes": [route for route, routed in config.routes.items() if name in (routed.stable, routed.canary)],
    }


def revision(definition: Definition) -> str:
    """Equal for equal definitions, whoever they are from: a pool has no counter that a changed file could set back."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]


def _answer(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(document, status=status, headers={"ETag": etag(document["revision"])})
