"""The body of the controller process: one event loop with the controller, the admin endpoint and the pulse.

Called by the supervisor in a forked child; ends on SIGTERM, after a last save. The pulse starts before the store is read, and
the store is only touched in its thread, so a slow disk does not look like a hung controller.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Mapping

import uvloop
from aiohttp import web

from canaryproxy.admin.app import make_app
from canaryproxy.admin.auth import load_token
from canaryproxy.clock import SystemClock
from canaryproxy.config.overlay import Laid
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover
from canaryproxy.control.pools import Pools
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import Segment
from canaryproxy.store.sqlite import SqliteStore

_BEAT = 0.1
#: Seconds for answers in hand when the process ends.
_GOODBYE = 1.0


def run_controller(
    laid: Laid, segment: Segment, slots: Mapping[str, int], handover: Handover, admin_sockets: list[socket.socket]
) -> None:
    """Control the routes of what is in force and serve the admin endpoint on the inherited sockets until SIGTERM.

    Raises StartError (token file) or StoreError if it cannot begin, and whatever a tick raises.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the supervisor says when to end
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(laid, segment, slots, handover, admin_sockets))


async def _serve(
    laid: Laid, segment: Segment, slots: Mapping[str, int], handover: Handover, admin_sockets: list[socket.socket]
) -> None:
    config = laid.config
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    pulse = asyncio.create_task(_beat(Board(segment)), name="pulse")
    token = load_token(config.admin.token_file)
    store = await asyncio.to_thread(SqliteStore, config.state.path)
    controller = Controller(config, segment, slots, store, await asyncio.to_thread(store.load))
    pools = Pools(controller, store, handover, laid.registered)
    await pools.begin(await asyncio.to_thread(store.pools))
    app = make_app(controller, pools, token, config.admin.listen)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GOODBYE)
    await runner.setup()
    for sock in admin_sockets:
        await web.SockSite(runner, sock).start()
    ticking = asyncio.create_task(controller.run(), name="ticks")
    stopping = asyncio.create_task(stopped.wait(), name="stop")
    try:
        await asyncio.wait((ticking, stopping, pulse), return_when=asyncio.FIRST_COMPLETED)
        for task in (ticking, pulse):
            if task.done():
                task.result()  # a tick that raised ends the process, see control.controller
    finally:
        ticking.cancel()
        stopping.cancel()
        await runner.cleanup()
        await pools.close()
        await controller.close()
        pulse.cancel()


async def _beat(board: Board) -> None:
    clock = SystemClock()
    while True:
        board.beat_controller(clock.monotonic())
        await asyncio.sleep(_BEAT)
