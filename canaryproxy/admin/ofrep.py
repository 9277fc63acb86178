"""Feature flags: the split of each route for code that is not behind the proxy, by the OpenFeature Remote Evaluation Protocol.

Source: github.com/open-feature/protocol, service/openapi.yaml. A flag is a route: its key the route's name, its value whether the
user has the new version, its variant `stable` or `canary`: the one that the proxy gives the user with this key at this moment, by
the same word of the board, the same hash and the same list of beta users. Called through `admin.app`, which has checked who asks:
an evaluation changes nothing, so it needs a token only where reads do (`admin.read`).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aiohttp import web

from canaryproxy.admin.document import salt_id
from canaryproxy.admin.handlers import read_body
from canaryproxy.admin.paths import Access, Answer, Path
from canaryproxy.config import schema
from canaryproxy.control.controller import Controller
from canaryproxy.control.route import RouteControl
from canaryproxy.rollout.model import EVERYBODY, Phase
from canaryproxy.routing.split import choose_variant, seat
from canaryproxy.shared.board import Split
from canaryproxy.shared.layout import CANARY, STABLE

_VARIANTS = {STABLE: "stable", CANARY: "canary"}
_EXAMPLE = '{"context": {"targetingKey": "u-1007"}}'


_ASKED: dict[str, Any] = {"body": "FlagContext", "body_needed": True}


class _RefusedError(Exception):
    """What is wrong with a request, as the protocol says it."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code = code


class FlagHandlers:
    """The paths' functions."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def paths(self) -> list[Path]:
        """What it serves: reads, although they come as POST."""
        flags, read, unknown = "/ofrep/v1/evaluate/flags", Access.READ, Answer("no such flag, or no such user", "FlagError")
        one, many = Answer("the flag", "Flag"), Answer("every flag", "Flags", etag=True)
        refused = {400: unknown}
        return [
            Path("POST", flags, self.flags, read, "flags", "Every flag for one user.", {200: many} | refused, **_ASKED),
            Path(
                *("POST", f"{flags}/{{key}}", self.flag, read, "flag", "One flag for one user."),
                {200: one, 404: unknown} | refused,
                **_ASKED,
            ),
        ]

    async def flag(self, request: web.Request) -> web.Response:
        """One flag for one user."""
        key = request.match_info["key"]
        try:
            route = self._controller.routes.get(key)
            if route is None:
                known = ", ".join(sorted(self._controller.routes))
                return _failure(404, "FLAG_NOT_FOUND", f"no route is named {key!r}; there is {known}", key)
            return web.json_response(self._evaluate(route, await _targeting_key(request)))
        except _RefusedError as error:
            return _failure(400, error.code, str(error), key)

    async def flags(self, request: web.Request) -> web.Response:
        """Every flag for one user; 304 where nothing has changed for this one since the answer with that ETag."""
        try:
            user = await _targeting_key(request)
        except _RefusedError as error:
            return _failure(400, error.code, str(error))
        body = json.dumps({"flags": [self._evaluate(route, user) for route in self._controller.routes.values()]}).encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if _matches(request.headers.get("If-None-Match", ""), tag):
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(body=body, content_type="application/json", headers={"ETag": tag})

    def _evaluate(self, route: RouteControl, user: bytes) -> dict[str, Any]:
        split = self._controller.board.read(route.slot)
        variant, reason = self._choose(route, split, user)
        # What was the canary until its promotion is the new version still: nobody goes back to the old code with the last step.
        value = variant == CANARY or route.rollout.phase is Phase.PROMOTED
        pool = _pool(route.config, split, variant)
        config = self._controller.config.pools.get(pool)
        return {
            "key": route.name,
            "value": value,
            "variant": _VARIANTS[variant],
            "reason": reason,
            "metadata": {
                "pool": pool,
                "version": (config.version if config else "") or pool,
                "phase": route.rollout.phase.value,
                "weight_percent": split.weight_bp / 100,
                "salt_id": salt_id(split.salt),
            },
        }

    def _choose(self, route: RouteControl, split: Split, user: bytes) -> tuple[int, str]:
        """The user's variant, and OpenFeature's word for why."""
        if route.config.canary is None:
            return STABLE, "DISABLED"
        if split.overrides and route.beta_users is not None and user in route.beta_users:
            return CANARY, "TARGETING_MATCH"
        variant = choose_variant(split.weight_bp, seat(split.salt, user))
        return variant, "SPLIT" if 0 < split.weight_bp < EVERYBODY else "STATIC"


def _pool(route: schema.Route, split: Split, variant: int) -> str:
    """The pool of this variant, as the workers know it."""
    return (route.canary or route.stable) if variant ^ split.swapped else route.stable


async def _targeting_key(request: web.Request) -> bytes:
    """The user whom the evaluation is for, as requests through the proxy name him."""
    try:
        body = json.loads(await read_body(request) or b"{}")
    except (ValueError, RecursionError) as error:
        raise _RefusedError("PARSE_ERROR", f"the body is not JSON ({error})") from None
    if not isinstance(body, dict):
        raise _RefusedError("PARSE_ERROR", f"the body is not a JSON object; send for example {_EXAMPLE}")
    context = body.get("context", {})
    if not isinstance(context, dict):
        raise _RefusedError("INVALID_CONTEXT", f"context is not an object; send for example {_EXAMPLE}")
    key = context.get("targetingKey")
    if key is None or key == "":
        what = "context.targetingKey is missing: the user's id, as the route's affinity has it"
        raise _RefusedError("TARGETING_KEY_MISSING", f"{what}; send for example {_EXAMPLE}")
    try:
        if isinstance(key, str):
            return key.encode()
    except UnicodeEncodeError:  # half a character, as JSON can have it
        pass
    raise _RefusedError("INVALID_CONTEXT", "context.targetingKey is no text")


def _failure(status: int, code: str, details: str, key: str | None = None) -> web.Response:
    about = {} if key is None else {"key": key}
    return web.json_response(about | {"errorCode": code, "errorDetails": details}, status=status)


def _matches(if_none_match: str, tag: str) -> bool:
    """Whether one of these tags is this one, compared weakly (RFC 9110 section 13.1.2)."""
    tags = [given.strip().removeprefix("W/") for given in if_none_match.split(",")]
    return tag in tags or tags == ["*"]
