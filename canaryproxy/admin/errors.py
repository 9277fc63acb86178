"""The form of everything that the admin API refuses: `{"error": {"code", "message", "hint"}}`."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from canaryproxy.errors import CanaryproxyError, Problem


class BadRequestError(CanaryproxyError):
    """A request that says nothing the API understands."""

    code = "bad_request"


class SlowBodyError(CanaryproxyError):
    """A request whose body does not come."""

    code = "request_timeout"


def error_answer(status: int, code: str, *problems: Problem, headers: dict[str, str] | None = None) -> web.Response:
    """The answer to a request that failed; the message is the first problem, and where there are more, all are listed."""
    messages = [{"message": f"{p.where}: {p.what}" if p.where else p.what, "hint": p.hint} for p in problems]
    body: dict[str, Any] = {"error": {"code": code, **messages[0]}}
    if len(messages) > 1:
        body["error"]["problems"] = messages
    return web.json_response(body, status=status, headers=headers, dumps=json.dumps)
