"""Whether a pool's servers are there: by address and by socket file."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from canaryproxy.config.quantities import parse_server
from canaryproxy.control.probe import accepts_connections


async def test_servers_by_address_and_by_path(tmp_path: Path) -> None:
    async def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    there, gone = tmp_path / "there.sock", tmp_path / "gone.sock"
    async with (
        await asyncio.start_unix_server(ignore, there),
        await asyncio.start_server(ignore, "127.0.0.1", 0) as server,
    ):
        port = server.sockets[0].getsockname()[1]
        good = [parse_server(url) for url in (f"unix:{there}", f"http://127.0.0.1:{port}", f"https://127.0.0.1:{port}")]
        assert await accepts_connections(good)
        assert not await accepts_connections([*good, parse_server(f"unix:{gone}")])
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        assert not await accepts_connections([parse_server(f"http://127.0.0.1:{taken.getsockname()[1]}")])
