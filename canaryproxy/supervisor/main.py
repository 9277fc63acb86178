"""The supervisor's life: start, watch, reload, stop.

It holds what must outlive every other process (sockets, shared memory) and does as little as possible itself. Signals:
SIGHUP reloads, SIGTERM and SIGINT drain and stop, SIGUSR1 is passed on to the workers, which open their access logs again. The
controller asks for a reload too, for a pool that was registered: then the file is not read again, so that nobody's half-edited
file comes into force. It has one power over rollouts: it takes a canary's weight to 0, every one when the controller cannot be
kept alive, and what somebody asks to be rolled back past a controller that does not answer (SIGUSR2, `supervisor.takeback`).
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from canaryproxy.admin.serve import run_controller
from canaryproxy.admin.tokens import Tokens, load_tokens
from canaryproxy.config.load import load
from canaryproxy.config.overlay import Laid
from canaryproxy.config.schema import Config
from canaryproxy.control.handover import Handover
from canaryproxy.control.recovery import mark_taken_back, open_marks, recover, recover_pools
from canaryproxy.errors import CanaryproxyError, StartError
from canaryproxy.proxy.worker import run_worker
from canaryproxy.shared import layout
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import Ack, WorkerState
from canaryproxy.shared.slots import Slots
from canaryproxy.store.sqlite import SqliteStore
from canaryproxy.supervisor.child import Child, fork, how
from canaryproxy.supervisor.claim import claim_state
from canaryproxy.supervisor.estate import settle
from canaryproxy.supervisor.listeners import Listeners, address_of, open_exclusive, refuse_more
from canaryproxy.supervisor.takeback import SIGNALS, Takebacks

log = logging.getLogger("canaryproxy.supervisor")

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, *SIGNALS)
_LOOK_SECONDS = 0.1
_START_SECONDS = 15.0
#: A controller that dies so often within so many seconds is given up: no canary without a judge.
_CONTROLLER_TRIES, _CONTROLLER_SPAN = 5, 60.0


class _Serving(NamedTuple):
    """What serves, so that a reload that fails can go back to it."""

    laid: Laid
    routes: dict[str, int]
    listeners: Listeners
    sockets: list[socket.socket]
    generation: int
    tokens: Tokens


class Supervisor:
    """The processes of one canaryproxy."""

    def __init__(self, config: Config, path: Path | None) -> None:
        self._laid = Laid(config, config, {})
        self._path = path
        self._listeners = Listeners(config)
        self._former: Listeners | None = None
        self._admin_sockets = [open_exclusive(config.admin.listen)]
        capacity = max(16, 4 * config.worker_count)
        self._segment = layout.create(slots=max(64, 4 * len(config.routes)), workers=capacity)
        self._board = Board(self._segment)
        self._slots = Slots(self._segment)
        self._workers: dict[int, Child] = {}
        self._controller: Child | None = None
        self._generations = itertools.count(1)
        self._generation = 0
        self._routes = self._slots.assign(config.routes, set())
        self._controller_deaths: list[float] = []
        self._orphans: set[int] = set()
        self._restart_at: dict[int, float] = {}
        self._controller_at = 0.0
        self._stopping_until = 0.0
        self._reload_asked = False
        self._handover = Handover()
        self._takebacks = Takebacks(config.state.path, self._handover, self._board, self._slots)
        self._look_at = 0.0

    @property
    def _config(self) -> Config:
        """What is in force: the file's as it was read last, with the registered pools laid over it."""
        return self._laid.config

    def run(self) -> int:
        """Serve until told to stop; the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._tokens = load_tokens(self._config.admin)
        self._laid = recover_pools(self._config)
        self._takebacks.find()
        self._recover(self._routes)
        self._lock = claim_state(self._config.state.path, address_of(self._admin_sockets[0]))
        self._start_controller()
        self._start_generation()
        code = 0
        if self._generation_serves():
            self._say_where()
        elif not self._stopping_until:
            log.error("a worker did not come up; the lines above say why")
            self._stop(grace=0)
            code = 1
        while self._step():
            if self._reload_asked and not self._stopping_until:
                self._reload_asked = False
                self._reload()
            if (question := self._handover.question) and not self._stopping_until and self._has_room(question):
                self._reload(question)
            self._revive()
        return code

    def _say_where(self) -> None:
        where, workers, admin = self._listeners.urls(), self._config.worker_count, address_of(self._admin_sockets[0])
        log.warning("serving on %s with %d workers; admin on http://%s", where, workers, admin)

    def _recover(self, routes: Mapping[str, int]) -> None:
        """Put the recorded splits of these routes on the board, before anybody serves or judges them."""
        if not routes:
            return
        with closing(SqliteStore(self._config.state.path)) as store:
            marks = open_marks(self._config.state.path)
            recover(self._config, routes, self._board, store.load(), takebacks=self._handover.takebacks, marks=marks)

    # Children.

    def _start_generation(self) -> None:
        self._generation = next(self._generations)
        self._restart_at.clear()
        for index in range(self._config.worker_count):
            self._start_worker(index)

    def _start_worker(self, index: int) -> None:
        taken = {child.row for child in self._workers.values()}
        row = next((row for row in range(self._segment.layout.workers) if row not in taken), None)
        if row is None:
            raise StartError("workers", "too many generations still drain", "reload again when they have left")
        share = self._listeners.share(self._config.worker_count, index)
        config, segment, slots = self._config, self._segment, self._routes
        inherited = [*self._listeners.all(), *(self._former.all() if self._former else []), *self._admin_sockets]

        def body() -> None:
            for sock in inherited:
                if sock not in share.http and sock not in share.https:
                    sock.close()
            run_worker(config, segment, row, slots, share.http, share.https)

        name = f"worker {index}"
        pulse = self._board.worker(row, Ack.PULSE)
        pid = fork(body, name)
        self._workers[pid] = Child(
            pid, name, time.monotonic(), row, index, self._generation, slots=frozenset(slots.values()), pulse=pulse
        )

    def _start_controller(self) -> None:
        laid, segment, slots, sockets = self._laid, self._segment, self._routes, self._admin_sockets

        def body() -> None:
            self._listeners.trim()
            run_controller(laid, self._tokens, segment, slots, self._handover, sockets)

        pulse = self._board.controller_pulse()
        self._controller = Child(fork(body, "controller"), "controller", time.monotonic(), pulse=pulse)

    def _generation_serves(self, question: int = 0) -> bool:
        """Whether every worker of the newest generation comes up in time; all children are looked after meanwhile.

        Also no where the controller has withdrawn its question.
        """
        until = time.monotonic() + _START_SECONDS
        while not self._stopping_until and not self._restart_at and time.monotonic() < until:
            if self._handover.is_withdrawn(question):
                return False
            newest = [child for child in self._workers.values() if child.generation == self._generation]
            if all(self._board.worker(child.row, Ack.STATE) == WorkerState.SERVING for child in newest):
                return True
            self._step()
        return False

    # The loop.

    def _step(self) -> bool:
        """Wait for a signal or for the next look; false when everything has ended."""
        info = signal.sigtimedwait(_SIGNALS, max(0.0, self._look_at - time.monotonic()))
        if info is not None:
            if info.si_signo in (signal.SIGTERM, signal.SIGINT):
                self._stop(grace=self._config.timeouts.drain + 2)
            elif info.si_signo == signal.SIGHUP:
                self._reload_asked = True
            elif info.si_signo in SIGNALS:
                self._take_back(info.si_signo)
            elif info.si_signo == signal.SIGUSR1:
                for child in self._workers.values():
                    child.signal(signal.SIGUSR1)
        self._reap()
        now = time.monotonic()
        if now >= self._look_at:  # signals may come faster than pulses move
            self._look_at = now + _LOOK_SECONDS
            self._look()
        if self._stopping_until and self._controller is not None and not (self._workers or self._controller.leaving):
            self._dismiss(self._controller)  # last: until then it says that nothing is ready, and obeys
        return bool(not self._stopping_until or self._workers or self._controller)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if self._controller is not None and pid == self._controller.pid:
                self._controller_ended(self._controller, code)
            elif pid in self._workers:
                self._worker_ended(self._workers.pop(pid), code)

    def _worker_ended(self, child: Child, code: int) -> None:
        self._board.free_worker(child.row)
        lost = settle(self._segment, child.row, child.slots, time.monotonic())
        if lost:
            log.error("%s (pid %d) took %d requests with it", child.name, child.pid, lost)
        if child.leaving or child.generation != self._generation:
            return
        log.error("%s (pid %d) %s; starting another", child.name, child.pid, how(code))
        short = time.monotonic() - child.started < 1.0
        self._restart_at[child.index] = time.monotonic() + (1.0 if short else 0.0)

    def _controller_ended(self, child: Child, code: int) -> None:
        self._controller = None
        if child.leaving:
            self._settle_orphans()
            return
        now = time.monotonic()
        self._controller_deaths = [at for at in self._controller_deaths if at > now - _CONTROLLER_SPAN] + [now]
        log.error("controller (pid %d) %s; starting another", child.pid, how(code))
        if len(self._controller_deaths) >= _CONTROLLER_TRIES:
            self._retreat()
        self._controller_at = now + (0.0 if len(self._controller_deaths) < 3 else 1.0)

    def _take_back(self, number: int) -> None:
        """Roll back past a controller that does not answer: it is killed, and the next one begins with the rollback."""
        if self._takebacks.obey(number, self._controller, self._lock):
            self._controller_at = 0.0

    def _settle_orphans(self) -> None:
        """Take the canaries of slots that the new configuration has no more off the workers that still drain with them."""
        for slot in self._orphans:
            self._board.take_down(slot)
        self._orphans.clear()

    def _retreat(self) -> None:
        """No controller can be kept alive, so nobody judges: take every canary's weight to 0."""
        down = {route: self._board.read(slot).salt for route, slot in self._routes.items() if self._board.take_down(slot)}
        mark_taken_back(self._config.state.path, down)
        for route in down:
            log.error("route %s: canary weight set to 0, for the controller cannot be started", route)

    def _look(self) -> None:
        """Kill what hangs; it is reaped and replaced like any that died."""
        for child in self._workers.values():
            if child.is_hung(self._board.worker(child.row, Ack.PULSE)):
                log.error("%s (pid %d) hangs; killing it", child.name, child.pid)
                child.signal(signal.SIGKILL)
        controller = self._controller
        if controller is not None and controller.is_hung(self._board.controller_pulse()):
            log.error("controller (pid %d) hangs; killing it", controller.pid)
            controller.signal(signal.SIGKILL)
        if self._stopping_until and time.monotonic() > self._stopping_until:
            for child in (*self._workers.values(), *([controller] if controller else [])):
                child.signal(signal.SIGKILL)

    def _revive(self) -> None:
        """Start what died again; what cannot be started now is tried again a little later."""
        if self._stopping_until:
            return
        now = time.monotonic()
        try:
            for index in [index for index, at in self._restart_at.items() if at <= now]:
                self._restart_at[index] = now + 1.0
                self._start_worker(index)
                del self._restart_at[index]
            if self._controller is None and self._controller_at <= now:
                self._controller_at = now + 1.0
                self._start_controller()
        except StartError as error:
            log.error("%s", error)

    # Changes.

    def _reload(self, question: int = 0) -> None:
        """A new generation for a new configuration; anything wrong with it changes nothing.

        With a `question` of the controller's: the file as it was read last, with the pools that are stored now.
        """
        before = _Serving(self._laid, self._routes, self._listeners, self._listeners.all(), self._generation, self._tokens)
        try:
            self._begin_generation(recover_pools(self._laid.file) if question else self._read_again())
        except CanaryproxyError as error:
            self._undo(before)
            for line in str(error).splitlines():
                log.error("reload refused, nothing changed: %s", line)
            self._handover.refuse(question, str(error))
            return
        if not self._generation_serves(question):
            self._undo(before)
            why = "withdrawn" if self._handover.is_withdrawn(question) else "a new worker did not come up"
            if not self._stopping_until:
                log.error("reload undone: %s; the old ones go on", why)
            self._handover.refuse(question, "stopping" if self._stopping_until else why)
            return
        self._handover.serve(question, self._generation, self._config.worker_count)
        for child in self._workers.values():
            if child.generation < self._generation:
                self._dismiss(child)
        if self._former is not None:
            self._former.trim(self._listeners.all())
            self._former = None
        self._orphans |= set(before.routes.values()) - set(self._routes.values())
        if self._controller is not None:
            self._dismiss(self._controller)
        else:
            self._settle_orphans()  # it died meanwhile
        log.warning("reloaded: generation %d serves %s", self._generation, self._listeners.urls())

    def _has_room(self, question: int) -> bool:
        """Whether a generation fits beside those that drain, or none will: a deploy waits for them rather than fail."""
        draining = sum(child.generation < self._generation for child in self._workers.values())
        fits = self._config.worker_count <= self._segment.layout.workers - len(self._workers)
        return fits or not draining or self._handover.is_withdrawn(question)

    def _read_again(self) -> Laid:
        """The file as it is now under the pools registered so far. Raises ConfigError or StartError if it cannot be used."""
        if self._path is None:
            raise StartError("reload", "there is no configuration file", "start with --config to be able to reload")
        config = load(self._path)
        if (config.state, config.admin.listen) != (self._config.state, self._config.admin.listen):
            raise StartError("state, admin.listen", "cannot change while running", "restart to move them")
        laid, self._tokens = recover_pools(config, self._laid), load_tokens(config.admin)
        return laid

    def _begin_generation(self, laid: Laid) -> None:
        """Fork the workers of this configuration. Raises StartError or StoreError; then `_undo` has to follow."""
        config, served = laid.config, set(self._routes.values())
        room = self._segment.layout.workers - len(self._workers)
        if config.worker_count > room:
            hint = "reload again when the workers that still drain have left, or restart for so many"
            raise StartError("workers", f"there is room for {max(room, 0)} more of them", hint)
        self._routes = self._slots.assign(config.routes, {slot for child in self._workers.values() for slot in child.slots})
        self._listeners, self._former = Listeners(config, self._listeners), self._listeners
        self._laid = laid
        self._recover({name: slot for name, slot in self._routes.items() if slot not in served})
        self._start_generation()

    def _undo(self, before: _Serving) -> None:
        """Everything is as it was: newcomers leave, and who died meanwhile is replaced."""
        self._listeners.trim(before.sockets)
        self._former = None
        self._laid, self._routes, self._listeners, _, self._generation, self._tokens = before
        for child in self._workers.values():
            if child.generation > self._generation:
                self._dismiss(child)
        alive = {child.index for child in self._workers.values() if child.generation == self._generation}
        self._restart_at = {index: 0.0 for index in range(self._config.worker_count) if index not in alive}

    def _dismiss(self, child: Child) -> None:
        """Tell a child to finish what it has in hand and leave."""
        child.leaving = True
        child.signal(signal.SIGTERM)

    def _stop(self, grace: float) -> None:
        """Take no more connections, and let everything finish what is in hand; said again, it changes nothing."""
        if self._stopping_until:
            return
        log.warning("stopping: finishing what is in hand")
        self._stopping_until = time.monotonic() + grace
        serving = (*self._listeners.all(), *(self._former.all() if self._former else []))
        for sock in serving:
            refuse_more(sock)
        for sock in (*serving, *self._admin_sockets):
            sock.close()
        for child in self._workers.values():
            self._dismiss(child)


def serve(config: Config, path: Path | None) -> int:
    """Run the proxy with this configuration until SIGTERM or SIGINT; the exit code. SIGHUP reads `path` again.

    Raises StartError or StoreError if it cannot start.
    """
    return Supervisor(config, path).run()
