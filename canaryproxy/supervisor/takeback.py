"""The rollback past a controller that does not answer, in the supervisor: what is wanted, and the board at once.

Called by `supervisor.main`. SIGUSR2: there is a new request in a file beside the state (`control.takeback`). SIGRTMIN: no file
could be written; then it is every rollout in progress. What is wanted is kept until a controller says that it is on record.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from canaryproxy.control.handover import Handover
from canaryproxy.control.recovery import mark_taken_back
from canaryproxy.control.takeback import Takeback, read_takebacks, tell_obeyed
from canaryproxy.shared.board import Board
from canaryproxy.shared.slots import Slots
from canaryproxy.supervisor.child import Child

SIGNALS = (signal.SIGUSR2, signal.SIGRTMIN)
#: Seconds for a killed controller to end, before the board is written without waiting any longer: only what waits for a disk
#: takes so long, and its threads that could still write to the board have ended.
_END_SECONDS = 0.5
#: Age of a request that the signal is about; an older one was left by a command that was killed before it could signal.
_FRESH_SECONDS = 60.0

_log = logging.getLogger("canaryproxy.supervisor")


class Takebacks:
    """What is wanted of this state. Given to the controllers with `handover`, which tells when it is on record."""

    def __init__(self, state: str, handover: Handover, board: Board, slots: Slots) -> None:
        self._state, self._handover, self._board, self._slots = Path(state), handover, board, slots
        self._known: set[Path | None] = set()
        self._obeyed = 0

    def find(self) -> None:
        """Have the first controller begin with what an earlier life was asked and did not put on record."""
        left = read_takebacks(self._state, heard=False)
        self._known = {takeback.file for takeback in left}
        self._handover.want(left)

    def obey(self, number: int, controller: Child | None, lock: int) -> bool:
        """Do what this signal asks for: the controller is killed, the board lowered; false where it asks for nothing."""
        wanted = self._hear(number)
        if wanted:
            if controller is not None:
                _end(controller)
            self._take_down([takeback for takeback in wanted if takeback.heard])
            self._handover.want(wanted)
            self._handover.withdraw()  # the next controller asks again for what these do not call off
        self._obeyed += 1
        tell_obeyed(lock, self._obeyed)
        return bool(wanted)

    def _take_down(self, takebacks: Iterable[Takeback]) -> None:
        """Take the canaries of these off the board, in every generation of workers that serves them; mark what no file says."""
        for takeback in takebacks:
            down: dict[str, int | None] = {}
            for slot, route in self._slots.of(takeback.route).items():
                down[route] = self._board.read(slot).salt if self._board.take_down(slot) else None
            if takeback.file is None:
                mark_taken_back(str(self._state), {route: salt for route, salt in down.items() if salt is not None})
            name = "every route" if takeback.route is None else f"route {takeback.route}"
            _log.error("%s: canary weight set to 0, asked for past the controller by %s", name, takeback.by)

    def _hear(self, number: int) -> list[Takeback]:
        if number != signal.SIGUSR2:
            return [Takeback(None, "asked for by a signal", "SIGRTMIN", time.time())]
        new = [
            replace(takeback, heard=abs(time.time() - takeback.at) < _FRESH_SECONDS)
            for takeback in read_takebacks(self._state, heard=True)
            if takeback.file not in self._known
        ]
        self._known |= {takeback.file for takeback in new}
        unknown = [takeback for takeback in new if takeback.route is not None and not self._slots.of(takeback.route)]
        for takeback in unknown:
            _log.error("route %s: does not exist; asked to be rolled back by %s", takeback.route, takeback.by)
            takeback.refuse()
        return [takeback for takeback in new if takeback not in unknown]


def _end(controller: Child) -> None:
    """Kill it and wait until it has ended, but not for ever; it is reaped as any other."""
    controller.leaving = True
    controller.signal(signal.SIGKILL)
    until = time.monotonic() + _END_SECONDS
    with suppress(ChildProcessError):
        while not os.waitid(os.P_PID, controller.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) and time.monotonic() < until:
            time.sleep(0.002)
