"""The operator's end of the admin API: one request, one answer.

Called by the operating commands. Standard library only, so that `canaryproxy rollback` starts fast and needs nothing that may
be broken. Changes carry the bearer token, reads only where the proxy asks for it.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from canaryproxy.errors import CanaryproxyError

#: Seconds for each socket operation: a person waits, and a deployment job must not hang.
TIMEOUT = 5.0


class RefusedError(CanaryproxyError):
    """The proxy answered, and said no."""

    code = "refused"


class FailedError(RefusedError):
    """The proxy answered that it could not."""


class UnreachableError(CanaryproxyError):
    """Nothing that speaks the admin API answered."""

    code = "unreachable"


@dataclass(frozen=True, slots=True)
class Admin:
    """One proxy's admin endpoint. `token` wins over `token_file`, which is read only when it is needed.

    `timeout` is the seconds for each socket operation, None for `TIMEOUT`.
    """

    url: str
    token_file: Path
    token: str | None = None
    timeout: float | None = None

    def routes(self) -> list[dict[str, Any]]:
        """Every route as it is now."""
        routes: list[dict[str, Any]] = self.get("/api/v1/routes")["routes"]
        return routes

    def route(self, name: str | None, *rest: str) -> str:
        """The API path of this route (of the only one when `name` is None), and of what is below it."""
        if name is None:
            names = [route["route"] for route in self.routes()]
            if len(names) != 1:
                raise RefusedError("route", f"there are {len(names)} routes", f"name one of {', '.join(names)}")
            name = names[0]
        return "/".join(("/api/v1/routes", quote(name, safe=""), *rest))

    def get(self, path: str) -> dict[str, Any]:
        """The JSON that this path answers."""
        return self._ask("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer to a verb."""
        return self._ask("POST", path, body)

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON answer to a setting."""
        return self._ask("PUT", path, body)

    def exchange(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """Status and body of one request. Raises UnreachableError when there is no complete answer in time.

        A change carries the token. A read does where it has to: it is asked again then.
        """
        if body is not None:
            payload = json.dumps(body).encode()
            return self._send(method, path, payload, {"Content-Type": "application/json", **self._authorization()})
        status, answer = self._send(method, path, None, {})
        if status == HTTPStatus.UNAUTHORIZED:
            return self._send(method, path, None, self._authorization())
        return status, answer

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._read_token()}"}

    def _send(self, method: str, path: str, payload: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", **headers}
        connection, prefix = self._connection()
        try:
            connection.request(method, prefix + path, payload, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except TimeoutError:
            raise self._unreachable(f"no answer within {self.timeout or TIMEOUT:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self._unreachable(what.lower()) from None
        finally:
            connection.close()

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        """A connection that is not open yet, and the path under which the API stands."""
        try:
            parts = urlsplit(self.url)
            kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
            return kind(parts.hostname or "", parts.port, timeout=self.timeout or TIMEOUT), parts.path.rstrip("/")
        except (KeyError, ValueError):
            raise UnreachableError("--admin", f"{self.url!r} is not a URL", "write for example http://127.0.0.1:9900") from None

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        status, text = self.exchange(method, path, body)
        try:
            answer = json.loads(text)
            if status < 400:
                return dict(answer)
            error = answer["error"]
            message, hint = error["message"], error.get("hint") or ""
        except (ValueError, KeyError, TypeError):
            raise self._unreachable(f"answered {status}, but not as the admin API does") from None
        refused = (FailedError if status >= 500 else RefusedError)("", message, hint)
        refused.code = error.get("code") or refused.code
        raise refused

    def _read_token(self) -> str:
        hint = "run this where the proxy runs, or give --token-file, --config or CANARYPROXY_TOKEN"
        try:
            token = self.token or self.token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise RefusedError(str(self.token_file), f"no token: {(error.strerror or str(error)).lower()}", hint) from None
        except UnicodeDecodeError:
            token = ""
        if not token or not token.isascii() or not token.isprintable():
            raise RefusedError("CANARYPROXY_TOKEN" if self.token else str(self.token_file), "that is not a token", hint)
        return token

    def _unreachable(self, what: str) -> UnreachableError:
        return UnreachableError(self.url, what, "is the proxy running? --admin says where its admin endpoint is")
