"""Who is one user: the key that the split is made by. Pure; asked once for each request.

In order: the configured header, the configured cookie, else what `cookieless` says. The value is used as it is (never decoded,
never logged), so a user id in the header and the same id in the cookie are the same user.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Cookieless(IntEnum):
    """What a request gets that nothing identifies."""

    STABLE = 0
    IP = 1
    ISSUE = 2


class Fields(Protocol):
    """What is asked of a parsed header block (`http1.head.RequestBlock`)."""

    def get(self, name: bytes, /) -> bytes | None: ...

    def cookie(self, name: bytes, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Where a route finds its users. Names are bytes; the header's in lower case."""

    header: bytes | None
    cookie: bytes
    max_age: int
    cookieless: Cookieless

    def user_key(self, block: Fields) -> bytes | None:
        """The key of the user who sent this, or None where nothing identifies one."""
        if self.header is not None and (value := block.get(self.header)):
            return value
        return block.cookie(self.cookie) or None

    def set_cookie(self, key: bytes, *, secure: bool = False) -> bytes:
        """The complete Set-Cookie line that gives a user this key (RFC 6265 section 4.1); `secure`: for TLS alone."""
        line = b"Set-Cookie: %b=%b; Max-Age=%d; Path=/; HttpOnly; SameSite=Lax" % (self.cookie, key, self.max_age)
        return line + (b"; Secure\r\n" if secure else b"\r\n")
