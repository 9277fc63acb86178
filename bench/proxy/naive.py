"""The proxy one writes in ten minutes: an aiohttp server that asks with an aiohttp client, and reads before it answers.

`python -m bench.proxy.naive PORT ORIGIN_PORT`.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web

_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}


async def serve(port: int, origin: int) -> None:
    """Answer on `port` with what the server on `origin` says, until cancelled."""
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar(), auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.Response:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            url = f"http://127.0.0.1:{origin}{request.raw_path}"
            async with session.request(request.method, url, headers=headers, allow_redirects=False) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
                return web.Response(status=answer.status, reason=answer.reason, headers=kept, body=await answer.read())

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
