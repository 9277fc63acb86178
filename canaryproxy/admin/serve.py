"""The body of the controller process: one event loop with the controller, the admin endpoint and the pulse.

Called by the supervisor in a forked child; ends on SIGTERM, after a last save. The pulse starts before the store is read, and
the store is only touched in its thread, so a slow disk does not look like a hung controller.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Mapping

import uvloop
from aiohttp import web

from canaryproxy.admin.app import make_app
from canaryproxy.admin.door import Door
from canaryproxy.admin.tokens import Tokens
from canaryproxy.clock import SystemClock
from canaryproxy.config.overlay import Laid
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover
from canaryproxy.control.pools import Pools
from canaryproxy.control.recovery import open_marks, present_roles
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import Segment
from canaryproxy.store.sqlite import SqliteStore

_BEAT = 0.1
#: Seconds for answers in hand when the process ends, and for a body that nobody wants.
_GOODBYE = 1.0
#: What aiohttp says of requests that are no HTTP: anybody can make it say as much as he likes.
_unheard = logging.getLogger("canaryproxy.admin.http")
_unheard.setLevel(logging.CRITICAL)


def run_controller(  # noqa: PLR0917
    laid: Laid, tokens: Tokens, segment: Segment, slots: Mapping[str, int], handover: Handover, admin_sockets: list[socket.socket]
) -> None:
    """Control the routes of what is in force and serve the admin endpoint on the inherited sockets until SIGTERM.

    Raises StoreError if it cannot begin, and whatever a tick raises.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the supervisor says when to end
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(laid, tokens, segment, slots, handover, admin_sockets))


async def _serve(  # noqa: PLR0917
    laid: Laid, tokens: Tokens, segment: Segment, slots: Mapping[str, int], handover: Handover, admin_sockets: list[socket.socket]
) -> None:
    config = laid.config
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    pulse = asyncio.create_task(_beat(Board(segment)), name="pulse")
    store = await asyncio.to_thread(SqliteStore, config.state.path)
    saved = await asyncio.to_thread(store.load)
    marks = await asyncio.to_thread(open_marks, config.state.path)
    controller = Controller(config, segment, slots, store, saved, takebacks=handover.takebacks, marks=marks)
    pools = Pools(controller, store, handover, laid.registered, laid.roles)
    await pools.begin(await asyncio.to_thread(store.pools), present_roles(await asyncio.to_thread(store.roles), saved))
    controller.call_off(handover.takebacks)
    recording = asyncio.create_task(_put_on_record(controller, handover), name="takebacks")
    app = make_app(controller, pools, tokens, config.admin.listen)
    door = Door()
    app.middlewares.insert(0, door.middleware())
    runner = web.AppRunner(app, access_log=None, logger=_unheard, shutdown_timeout=_GOODBYE, lingering_time=_GOODBYE)
    await runner.setup()
    assert runner.server is not None
    await door.open(runner.server, admin_sockets)
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
        recording.cancel()
        door.close()
        await runner.cleanup()
        await pools.close()
        await controller.close()
        pulse.cancel()


async def _put_on_record(controller: Controller, handover: Handover) -> None:
    """Have the rollbacks that it began with saved, and then forgotten."""
    if handover.takebacks:
        await controller.put_on_record()
        handover.record()


async def _beat(board: Board) -> None:
    clock = SystemClock()
    while True:
        board.beat_controller(clock.monotonic())
        await asyncio.sleep(_BEAT)
