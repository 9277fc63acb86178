"""One GET for a JSON document, with every bound that a server needs to be held to."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from canaryproxy.control.providers.answer import NoAnswerError

#: Bytes of an answer that are read.
MOST = 1 << 20
#: Characters of a server's words that are shown.
_SHOWN = 200


class Fetch:
    """How one metric's server is asked. `limit`: seconds from the connection to the last byte; `secrets` are never shown."""

    def __init__(
        self, session: aiohttp.ClientSession, limit: float, secrets: tuple[str, ...], trusted: ssl.SSLContext | bool
    ) -> None:
        self._session, self._limit, self._secrets, self._trusted = session, limit, secrets, trusted

    async def json(self, url: str, headers: Mapping[str, str], query: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Status and document. The URL goes out as it is; `query` is put behind it. Raises NoAnswerError."""
        target = URL(url, encoded=True)
        target = target.with_query(query) if query else target
        try:
            status, body = await self._get(target, headers)
        except TimeoutError:
            raise NoAnswerError(f"{place(url)} did not answer within {self._limit:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # a ValueError: what the client library thinks of as a malformed URL or header
            raise NoAnswerError(f"{place(url)} cannot be asked ({self.words(_cause(error))})") from None
        try:
            return status, json.loads(body)
        except (ValueError, RecursionError):
            said = f"{self.words(body)!r}" if body.strip() else "nothing"
            what = f"{place(url)} answers {status} and {said}"
            raise NoAnswerError(f"{what}, which is no JSON" if status == 200 else what) from None

    def hidden(self, text: str) -> str:
        """The text without secrets that a server may have repeated."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def words(self, said: bytes | str) -> str:
        """The beginning of what a server said, on one line."""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        line = " ".join("".join(c if c.isprintable() else " " for c in self.hidden(text)).split())
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."

    async def _get(self, target: URL, headers: Mapping[str, str]) -> tuple[int, bytes]:
        asking = self._session.get(
            target,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", **headers},
            timeout=aiohttp.ClientTimeout(total=self._limit),
            allow_redirects=False,
            ssl=self._trusted,
        )
        async with asking as response:
            where = place(str(target))
            if 300 <= response.status < 400:
                to = self.words(response.headers.get("Location", "nowhere"))
                raise NoAnswerError(f"{where} redirects to {to.partition('?')[0]!r}; write the URL that answers itself")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise NoAnswerError(f"{where} answers compressed, which was not asked for")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MOST:
                    response.close()
                    raise NoAnswerError(f"{where} answers more than {MOST >> 20} MiB")
            return response.status, bytes(body)


def place(url: str) -> str:
    """A URL as it may be shown: without its query, which may have a key in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _cause(error: Exception) -> str:
    """What the system said, without the client library's words around it, which may have the whole URL in them."""
    if isinstance(error, aiohttp.InvalidURL):
        return "not a URL"
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message or "no HTTP"
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(inner, ConnectionError) and inner.errno:
        return os.strerror(inner.errno).lower()  # event loops have words of their own
    said = getattr(inner, "verify_message", None) or getattr(inner, "strerror", None) or str(inner)
    return (said or type(inner).__name__).lower()
