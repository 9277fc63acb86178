"""The description of the admin API (OpenAPI 3.1), made from the table of its paths and served as one of them. Called by `app`.

Source: https://spec.openapis.org/oas/v3.1.0. What a path answers stands beside its handler; here are the forms that it names
(`openapi_schemas`), the errors that follow from who may ask, and the security scheme.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

import canaryproxy
from canaryproxy.admin.openapi_schemas import SCHEMAS
from canaryproxy.admin.paths import Access, Answer, Path, Schema

_ERRORS = {
    400: "the request says nothing that is known here",
    401: "the token is missing or wrong",
    403: "this token may not, or it is not from here",
    404: "there is nothing of that name",
    408: "the body does not come",
    409: "not possible now; the hint says what is",
    412: "it has changed meanwhile (If-Match)",
    413: "the body is too large",
    429: "too often, see Retry-After",
    503: "it cannot be done or read now; try again",
}
_ETAG = {"ETag": {"description": "the revision, for If-Match and If-None-Match", "schema": {"type": "string"}}}
_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "string"}}}
_CHALLENGE = {"WWW-Authenticate": {"schema": {"type": "string"}}}
_HEADERS = {401: _CHALLENGE, 429: _RETRY_AFTER}
_NAME = {"type": "string", "minLength": 1}

_ABOUT = """\
Changes need a token with the role operate (`Authorization: Bearer ...`); reads are open or need any token, as `admin.read` says.
A change with `If-Match` is made only while the route is at that revision; a rollback never asks for it, and is never limited.
Words in the query that are not described are refused, but for a rollback."""


class DocumentHandlers:
    """The path's function."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._document = json.dumps(describe([*paths, *self.paths()]), indent=1)

    def paths(self) -> list[Path]:
        """What it serves."""
        answer = Answer("this document", {"type": "object"})
        about = "This API, described."
        return [Path("GET", "/api/v1/openapi.json", self.document, Access.OPEN, "openapi", about, {200: answer})]

    async def document(self, request: web.Request) -> web.Response:
        """The document."""
        return web.Response(text=self._document, content_type="application/json")


def describe(paths: Sequence[Path]) -> dict[str, Any]:
    """The OpenAPI document of these paths."""
    described: dict[str, dict[str, Any]] = {}
    for path in paths:
        described.setdefault(path.path, {})[path.method.lower()] = _operation(path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "canaryproxy", "version": canaryproxy.__version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": described,
        "components": {"schemas": SCHEMAS, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(path: Path) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": path.name,
        "summary": path.summary,
        "parameters": [*_parameters(path)],
        "responses": {str(status): _response(answer) for status, answer in path.answers.items()}
        | {str(status): _refusal(status) for status in sorted(_refusals(path)) if status not in path.answers},
        "security": {Access.OPEN: [], Access.READ: [{}, {"token": []}]}.get(path.access, [{"token": []}]),
    }
    if path.description:
        operation["description"] = path.description
    if path.if_none_match:
        operation["responses"]["304"] = {"description": "it is as it was (If-None-Match)", "headers": _ETAG}
    if path.body is not None:
        content = {"application/json": {"schema": _schema(path.body)}}
        operation["requestBody"] = {"required": path.body_needed, "content": content}
    return operation


def _parameters(path: Path) -> list[dict[str, Any]]:
    found = [{"name": name, "in": "path", "required": True, "schema": _NAME} for name in re.findall(r"{(\w+)}", path.path)]
    for name, schema in path.query.items():
        text = {"description": schema["description"]} if "description" in schema else {}
        found.append({"name": name, "in": "query", "schema": {k: v for k, v in schema.items() if k != "description"}, **text})
    for name, wanted in (("If-Match", path.if_match), ("If-None-Match", path.if_none_match)):
        if wanted:
            found.append({"name": name, "in": "header", "schema": {"type": "string"}, "description": "revisions, as ETags"})
    return found


def _refusals(path: Path) -> set[int]:
    """The statuses with which a path refuses."""
    found = {403, *path.errors}
    if path.access is Access.OPEN:
        return found
    found |= {401, 429}
    if path.access is not Access.ROLLBACK:
        found |= {400}
        if path.body is not None:
            found |= {408, 413}
    if "{" in path.path:
        found |= {404}
    if path.if_match:
        found |= {412}
    return found


def _response(answer: Answer) -> dict[str, Any]:
    schema = {} if answer.schema is None else {"schema": _schema(answer.schema)}
    described = {"description": answer.means, "content": {answer.media: schema}}
    return described | ({"headers": _ETAG} if answer.etag else {})


def _refusal(status: int) -> dict[str, Any]:
    described = {"description": _ERRORS[status], "content": {"application/json": {"schema": _schema("Error")}}}
    return described | ({"headers": _HEADERS[status]} if status in _HEADERS else {})


def _schema(schema: Schema) -> Mapping[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema
