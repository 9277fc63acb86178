"""Who is one user."""

from __future__ import annotations

import pytest

from canaryproxy.http1.head import HeadRules, RequestBlock, parse_request_block
from canaryproxy.routing.identity import Cookieless, Identity

BOTH = Identity(b"x-user", b"uid", 60, Cookieless.STABLE)


def block(*lines: bytes) -> RequestBlock:
    parsed = parse_request_block(b"".join(line + b"\r\n" for line in lines), HeadRules())
    assert isinstance(parsed, RequestBlock)
    return parsed


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ((), None),
        ((b"X-User: anna",), b"anna"),
        ((b"X-User: anna", b"Cookie: uid=ben"), b"anna"),
        ((b"X-User:", b"Cookie: uid=ben"), b"ben"),
        ((b"Cookie: a=b; uid=ben; c=d",), b"ben"),
        ((b"Cookie: a=b", b"Cookie: uid=ben"), b"ben"),
        ((b"Cookie: uid=",), None),
        ((b"Cookie: xuid=1; uidx=2",), None),
        ((b"Cookie: uid=\xff%41",), b"\xff%41"),
    ],
)
def test_the_header_else_the_cookie(lines: tuple[bytes, ...], key: bytes | None) -> None:
    assert BOTH.user_key(block(*lines)) == key


def test_without_a_configured_header_only_the_cookie_counts() -> None:
    identity = Identity(None, b"uid", 60, Cookieless.STABLE)
    assert identity.user_key(block(b"X-User: anna")) is None


def test_the_issued_cookie() -> None:
    line = b"Set-Cookie: uid=00ff; Max-Age=60; Path=/; HttpOnly; SameSite=Lax"
    assert BOTH.set_cookie(b"00ff") == line + b"\r\n"
    assert BOTH.set_cookie(b"00ff", secure=True) == line + b"; Secure\r\n"
