"""SIGHUP for the TLS address and its certificate: it comes, moves and goes, or nothing changes."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from functools import partial
from typing import Any

import pytest
from certificates import Authority, Issued
from harness import Product, free_port, until
from reading import refuses

pytestmark = pytest.mark.system


def tls(issued: Issued, port: int) -> dict[str, Any]:
    return {"listen": f"127.0.0.1:{port}", "certificate": issued.certificate, "key": issued.key}


async def hang_up(product: Product, words: str) -> None:
    """SIGHUP, and wait until the log says so."""
    before = product.said(words)
    product.signal(signal.SIGHUP)
    await product.until_said(words, before + 1)


async def status_over_tls(port: int, authority: Authority) -> bytes:
    """The status line of one request whose server's certificate is right."""
    context = ssl.create_default_context(cafile=authority.ca)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    line = await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return line.rstrip()


async def test_the_tls_address_comes_moves_and_goes(product: Product) -> None:
    authority = Authority(product.folder)
    issued = authority.issue("localhost")
    await product.start()
    first, second = free_port(), free_port()
    async with product.traffic(fresh=4, keep=0, rate=50) as traffic:
        for port, former in ((first, None), (second, first)):
            product.configure(tls=tls(issued, port))
            await hang_up(product, f"https://127.0.0.1:{port}")
            assert await status_over_tls(port, authority) == b"HTTP/1.1 200 OK"
            if former is not None:
                await until(partial(refuses, former))
        product.configure(tls=tls(issued, second), workers=1)
        await hang_up(product, "reloaded")
        for _ in range(8):  # a socket without a worker would keep some of them waiting
            assert await status_over_tls(second, authority) == b"HTTP/1.1 200 OK"
        product.configure()
        await hang_up(product, "reloaded")
        await until(lambda: refuses(second))
        await traffic.more(20)
    assert traffic.failures == []
    product.configure(tls=tls(issued, second), listen=False)
    await hang_up(product, "reloaded")
    await until(lambda: refuses(product.port))
    assert await status_over_tls(second, authority) == b"HTTP/1.1 200 OK"


async def test_tls_that_cannot_be_changes_nothing(product: Product) -> None:
    authority = Authority(product.folder)
    issued, other = authority.issue("localhost"), authority.issue("localhost", file="other")
    port = free_port()
    product.configure(tls=tls(issued, port))
    await product.start()
    processes = product.processes()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for section, listen, words in (
            (tls(Issued(issued.certificate, other.key), port), product.port, "is not the key of the certificate"),
            (tls(Issued("none.pem", issued.key), port), product.port, "'none.pem' cannot be read"),
            (tls(issued, taken.getsockname()[1]), product.port, "is in use by another program"),
            (tls(issued, product.port), port, "serves https until now"),
        ):
            product.configure(tls=section, listen=f"127.0.0.1:{listen}")
            await hang_up(product, words)
    assert product.said("reload refused, nothing changed") == 4
    assert product.processes() == processes
    assert await status_over_tls(port, authority) == b"HTTP/1.1 200 OK"


async def test_sigusr1_costs_no_process(product: Product) -> None:
    await product.start()
    processes = product.processes()
    async with product.traffic() as traffic:
        for _ in range(3):
            product.signal(signal.SIGUSR1)
            await traffic.more(20)
    assert (product.processes(), traffic.failures) == (processes, [])
