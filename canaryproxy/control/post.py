"""One POST to a hook, and what came of it as a value: nothing here raises, hangs beyond its time or reads without end.

Called by `control.hooks` and `control.delivery`. Redirects are not followed: what was meant for one host, with its secret
headers, is not told to another. Certificates are verified. Each request has a connection of its own: they are rare, and one that
was kept and had been closed meanwhile could not be told from a server that failed.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

import aiohttp

import canaryproxy
from canaryproxy.config.hooks import Hook
from canaryproxy.config.quantities import format_duration
from canaryproxy.control.lookup import Lookup

#: Bytes of an answer that are read, and characters of its first line that are shown.
_READ, _SHOWN = 4096, 200
#: Seconds between two tries, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
#: The request itself is not wanted (RFC 9110 section 15.5); other 4xx are about where it went or who asked.
_REFUSALS: Final = frozenset({400, 413, 415, 422})


class Answer(NamedTuple):
    """What a hook said: `status` 0 if it did not, then `text` says why; otherwise the first line of the body."""

    status: int
    text: str = ""
    retry_after: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it is a yes."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether another try with the same body is not likely to do better."""
        return self.status in _REFUSALS

    @property
    def words(self) -> str:
        """For people: `answered 403: waiting for approval`."""
        if not self.status:
            return self.text
        moved = " (redirects are not followed)" if 300 <= self.status < 400 else ""
        return f"answered {self.status}{moved}{f': {self.text}' if self.text else ''}"


class Posting(Protocol):
    """How a hook is posted to; `key` says which tries are the same request."""

    def __call__(self, hook: Hook, body: bytes, media: str, key: str | None) -> Awaitable[Answer]: ...


class Post:
    """The real one."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, hook: Hook, body: bytes, media: str, key: str | None) -> Answer:
        """Post once."""
        headers = {"Content-Type": media, "User-Agent": f"canaryproxy/{canaryproxy.__version__}", **hook.headers}
        if key is not None:
            headers["Idempotency-Key"] = key
        try:
            async with asyncio.timeout(hook.timeout):
                return await self._exchange(hook.url, body, headers)
        except TimeoutError:
            return Answer(0, f"no answer within {format_duration(hook.timeout)}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(0, _words(error))

    async def close(self) -> None:
        """No more requests."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, url: str, body: bytes, headers: dict[str, str]) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, resolver=Lookup()),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding",),
            )
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            text = b""
            while len(text) < _READ and (piece := await response.content.read(_READ - len(text))):
                text += piece
            return Answer(response.status, _first_line(text), _seconds(response.headers.get("Retry-After", "")))


def back_off(tries: int, key: str) -> float:
    """Seconds before the next try: 1, 2, 4 .. 300, less up to half; how much less is in the key, so a test knows it."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 20))
    return longest * (1 - zlib.crc32(f"{tries} {key}".encode()) / 2**33)


def _first_line(text: bytes) -> str:
    lines = (line.strip() for line in text.decode(errors="replace").splitlines())
    line = next((line for line in lines if line), "")
    return "".join(c if c.isprintable() else "?" for c in line[:_SHOWN])


def _seconds(retry_after: str) -> float:
    """Of Retry-After, where it is a number (RFC 9110 section 10.2.3)."""
    return min(float(retry_after), LONGEST_PAUSE) if retry_after.isascii() and retry_after.isdigit() else 0.0


def _words(error: Exception) -> str:
    """What failed, without the URL."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            f"its certificate is not trusted ({getattr(error.certificate_error, 'verify_message', '') or 'verification failed'})"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or type(error.os_error).__name__})"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError):
        return "the connection ended without an answer"
    if isinstance(error, aiohttp.ClientResponseError):
        try:
            return f"its answer is no HTTP that can be read ({HTTPStatus(error.status).phrase})"
        except ValueError:
            return "its answer is no HTTP that can be read"
    return f"failed ({type(error).__name__})"
