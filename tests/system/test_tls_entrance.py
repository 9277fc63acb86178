"""What a real worker does at its TLS listener only: cookies for TLS alone, clients that never come to HTTP."""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path

import pytest
from certificates import Authority
from plane import Origin, plane, read_all, read_head

from canaryproxy.shared.layout import Ack

pytestmark = pytest.mark.system

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def ok(sock: socket.socket) -> None:
    while read_head(sock)[0]:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def test_a_cookie_issued_over_tls_is_secure_and_another_is_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("localhost")
    with plane(Origin(ok), tls={"certificate": issued.certificate, "key": issued.key}) as proxy:
        proxy.board.publish(0, 100, swapped=False, salt=7)
        context = ssl.create_default_context(cafile=authority.ca)
        with (
            socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=20) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as client,
        ):
            client.sendall(GET)
            over_tls = read_all(client)
        line = rb"\r\nSet-Cookie: uid=[0-9a-f]{32}; Max-Age=\d+; Path=/; HttpOnly; SameSite=Lax"
        assert re.search(line + rb"; Secure\r\n", over_tls)
        assert re.search(line + rb"\r\n", proxy.get())


def test_who_never_comes_to_http_is_counted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("localhost")
    with plane(Origin(ok), tls={"certificate": issued.certificate, "key": issued.key}) as proxy:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=20) as client:
                client.sendall(GET)
                read_all(client)
        proxy.leave()  # counted at its end at the latest
        assert proxy.board.worker(0, Ack.REFUSED_TLS) == 2
        assert proxy.board.worker(0, Ack.REFUSED_PROXY_PROTOCOL) == 0
