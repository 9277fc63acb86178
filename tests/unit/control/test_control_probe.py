"""Whether a pool's servers are there: by address and by socket file."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.config.upstreams import Pool
from canaryproxy.control.lookup import Lookup
from canaryproxy.control.probe import trouble_with


async def test_servers_by_address_and_by_path(tmp_path: Path) -> None:
    async def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    there, gone = tmp_path / "there.sock", tmp_path / "gone.sock"
    async with (
        await asyncio.start_unix_server(ignore, there),
        await asyncio.start_server(ignore, "127.0.0.1", 0) as server,
    ):
        port = server.sockets[0].getsockname()[1]
        good = [f"unix:{there}", f"http://127.0.0.1:{port}", f"https://127.0.0.1:{port}"]
        assert await trouble_of(*good) == ""
        assert await trouble_of(*good, f"unix:{gone}") == f"unix:{gone} does not accept connections"
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert await trouble_of(url) == f"{url} does not accept connections"


async def test_a_name_has_several_addresses_and_one_of_them_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any) -> list[dict[str, str]]:
        return [{"host": "::1"}, {"host": "127.0.0.1"}]

    monkeypatch.setattr(Lookup, "resolve", resolve)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        assert await trouble_of(f"http://app.test:{server.sockets[0].getsockname()[1]}") == ""


async def trouble_of(*servers: str) -> str:
    return await trouble_with(Pool.model_validate({"servers": servers}))


async def test_a_pool_with_a_health_check_has_to_be_healthy(tmp_path: Path) -> None:
    status, asked = "503 Not yet", list[bytes]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if head := await reader.read(1000):
            asked.append(head)
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    there = tmp_path / "there.sock"
    async with await asyncio.start_unix_server(answer, there), await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        health = {"path": "/healthz", "host": "app"}
        pool = Pool.model_validate({"servers": [f"unix:{there}", {"url": url, "weight": 3}], "health": health})
        assert await trouble_with(pool) == f"unix:{there} answers its health check with 503"
        assert await trouble_with(pool.model_copy(update={"health": None})) == ""
        assert await trouble_with(pool.model_copy(update={"send_proxy": "v1"})) == "", "they would not understand the check"
        status = "204 Fine"
        assert await trouble_with(pool) == ""
    assert {head.split(b"\r\n")[0] for head in asked} == {b"GET /healthz HTTP/1.1"}
    assert all(b"Host: app\r\n" in head for head in asked)
    assert await trouble_with(pool) == f"unix:{there} does not accept connections"


async def test_a_server_that_speaks_no_http(tmp_path: Path) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        pool = Pool.model_validate({"servers": [url], "health": {"path": "/"}})
        assert (await trouble_with(pool)).startswith(f"{url} does not answer its health check (")
        pool = Pool.model_validate({"servers": [url.replace("http:", "https:")], "health": {"path": "/"}})
        assert "does not answer its health check (" in await trouble_with(pool)
