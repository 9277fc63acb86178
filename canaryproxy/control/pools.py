"""The pools that are registered at run time: stored first, then handed over to a new generation of workers, or put back.

Owned by `admin.serve`, called by `admin.pools`. A hand-over ends with the supervisor replacing this controller, so what is
stored and not in force may be left by a predecessor that was killed or dismissed: the next controller goes on with it (`begin`).
Who decides between the file and what was registered is the rule of `config.overlay`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from canaryproxy.config.overlay import Definition, Registered, definition_of, with_pools
from canaryproxy.config.schema import Config
from canaryproxy.config.upstreams import Pool
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover, Outcome
from canaryproxy.errors import CanaryproxyError, IllegalTransitionError, NotFoundError, StoreError
from canaryproxy.store.base import Decision, PoolStore

#: Seconds between two looks at the supervisor's answer, which looks every 0.1 s itself.
_LOOK = 0.005

_log = logging.getLogger("canaryproxy.control")


class BusyError(CanaryproxyError):
    """Another hand-over is going on; nothing was changed."""

    code = "busy"


class HandoverError(CanaryproxyError):
    """No new workers could take over; those there are serve on, and what was stored is as before."""

    code = "handover_failed"


class Change(NamedTuple):
    """A registered pool, and what came of its hand-over: None while that is not known yet."""

    config: Config
    registered: Registered
    outcome: Outcome | None


class Pools:
    """What is `registered` and in force; the file's own pools are in the controller's configuration.

    `limit` is the seconds that an answer waits for the new workers.
    """

    def __init__(
        self,
        controller: Controller,
        store: PoolStore,
        handover: Handover,
        registered: Mapping[str, Registered],
        *,
        limit: float = 4.0,
    ) -> None:
        self.controller = controller
        self.registered = dict(registered)
        self._store, self._handover, self._limit = store, handover, limit
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[Outcome | None] | None = None
        self._busy = False

    def pool(self, name: str) -> Pool:
        """The pool in force; raises NotFoundError that names those there are."""
        pools = self.controller.config.pools
        if name not in pools:
            raise NotFoundError(f"pool {name!r}", "does not exist", f"there is {', '.join(sorted(pools))}")
        return pools[name]

    def definition(self, name: str) -> Definition | None:
        """The pool in force as it was written; None if there is none of that name."""
        known = self.registered.get(name)
        return known.definition if known else definition_of(self.controller.config.pools.get(name))

    # Changes.

    async def begin(self, stored: Mapping[str, Registered]) -> None:
        """Finish what a predecessor left: forget what the file decides now, and hand over what is stored and not in force."""
        held = {name: pool for name, pool in stored.items() if pool.file == self._in_file(name)}
        if held != stored:
            with suppress(StoreError):  # it is not in force, and the next start forgets it
                await self._save(held, {})
        if held != self.registered:
            _log.warning("pools: the store has a change that is not in force yet: handing over")
            self._busy = True
            self._task = asyncio.create_task(self._hand_over({}), name="hand-over")

    async def register(self, name: str, definition: Definition, by: str) -> Change:
        """Store the pool and have it served. Decides at once: until it is stored, nothing else can begin.

        Raises ConfigError, IllegalTransitionError, BusyError or StoreError: nothing was changed; HandoverError: put back.
        """
        config = with_pools(self.controller.config, {name: definition})
        self._keep_version(name, config.pools[name])
        if self._busy or self._leaving.is_set():
            raise BusyError("pools", "a hand-over to new workers is going on", "ask again in a second")
        made = Registered(definition, self._in_file(name), self.controller.clock.wall(), by)
        before = self.registered
        self._busy = True
        try:
            await self._save({**before, name: made}, self._decisions(name, f"pool {name}: changed by {by}", definition))
        except BaseException:
            self._busy = False
            raise
        undone = self._decisions(name, f"pool {name}: its change could not be served and was undone", self.definition(name))
        self._task = asyncio.create_task(self._hand_over(undone), name="hand-over")
        await asyncio.wait((self._task,), timeout=self._limit)
        outcome = self._task.result() if self._task.done() else None
        if outcome is not None:
            if outcome.refusal:
                raise HandoverError(f"pool {name}", f"is as before: {outcome.refusal}", "the log says more; then try again")
            self.registered, self.controller.config = {**before, name: made}, config
        return Change(config, made, outcome)

    def leave(self) -> None:
        """Let nobody wait any longer: this controller is being replaced."""
        self._leaving.set()

    async def close(self) -> None:
        """End; a hand-over that goes on is the next controller's."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # Their parts.

    def _in_file(self, name: str) -> Definition | None:
        """What the file says of a pool: what is registered and in force was laid over exactly that."""
        known = self.registered.get(name)
        return known.file if known else definition_of(self.controller.config.pools.get(name))

    def _keep_version(self, name: str, pool: Pool) -> None:
        """A version that nobody has judged must not inherit the share that another one has earned."""
        present = self.controller.config.pools.get(name)
        if present is None or present.version == pool.version:
            return
        for route in self.controller.routes.values():
            if route.rollout.in_progress and route.rollout.canary == name:
                what = f"is in a rollout of route {route.name}; its version cannot change from {present.version or name!r} now"
                raise IllegalTransitionError(f"pool {name}", what, "roll back first, or leave version as it is")

    def _decisions(self, name: str, sentence: str, definition: Definition | None) -> dict[str, Decision]:
        """The same line for the log of each route that has the pool."""
        routes = self.controller.routes.items()
        made = Decision(self.controller.clock.wall(), "pool", sentence, {"pool": name, "definition": definition})
        return {route: made for route, control in routes if name in (control.config.stable, control.config.canary)}

    async def _save(self, pools: Mapping[str, Registered], decisions: Mapping[str, Decision]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.controller.thread, self._store.save_pools, dict(pools), decisions)

    async def _hand_over(self, undone: Mapping[str, Decision]) -> Outcome | None:
        """Ask, wait for the answer however long it takes, and put back what is in force if it is no."""
        outcome = await self._answer(self._handover.ask())
        if outcome is None or not outcome.refusal:
            return outcome  # still busy: this controller is being replaced
        try:
            await self._save(self.registered, undone)
        except StoreError as error:
            outcome = outcome._replace(refusal=f"{outcome.refusal}; but a restart will try it, for it is still stored ({error})")
        _log.error("pools: nothing was handed over: %s", outcome.refusal)
        self._busy = False
        return outcome

    async def _answer(self, question: int) -> Outcome | None:
        """The supervisor's answer; None if this controller has to leave before there is one."""
        while True:
            leaving = self._leaving.is_set()
            outcome = self._handover.outcome(question)  # looked at after `leaving`: an answer comes before the dismissal
            if outcome is not None or leaving:
                return outcome
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._leaving.wait()
