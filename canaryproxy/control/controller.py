"""The control plane's one loop: commands from people, and once a second sample -> judge -> advance -> apply for each route.

Runs in the controller process; `admin` calls it. If a tick raises, the process ends on purpose: the supervisor starts it
again from the store, and takes every canary's weight to 0 if it cannot live, for a canary without a judge is not watched.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from canaryproxy.clock import Clock, SystemClock
from canaryproxy.config.schema import Config
from canaryproxy.control.deployment import PATIENCE
from canaryproxy.control.hooks import Hooks
from canaryproxy.control.outside import Outside
from canaryproxy.control.probe import trouble_with
from canaryproxy.control.route import RouteControl
from canaryproxy.control.takeback import Takeback
from canaryproxy.errors import NotFoundError, StoreError
from canaryproxy.rollout.model import Event, Plan, Retry, Rollback, Rollout, Start
from canaryproxy.shared.board import Applied, Board
from canaryproxy.shared.layout import Segment
from canaryproxy.store.base import JournalBlock, Saved, Store
from canaryproxy.store.marks import Marks

#: Ticks come this much after a full second of the monotonic clock: what began in it has been written down (`sampler.GRACE`).
_PHASE = 0.2
#: Seconds between two looks at the acknowledgements.
_LOOK = 0.005
#: Seconds that an answer waits for a mark, which takes microseconds unless the file system stands still.
_MARK_LIMIT = 0.05
#: Seconds between two looks at what could not be saved at once.
_RECORD_LOOK = 0.1

T = TypeVar("T")

_log = logging.getLogger("canaryproxy.control")


class Answer(NamedTuple):
    """What came of a verb: workers that obey it (`applied_by` of `workers`), and whether it is on disk."""

    rollout: Rollout
    applied_by: int
    workers: int
    saved: bool


class Controller:
    """Every route's control, the store's one thread, and the ticks.

    `saved` is what `store.load()` returned, `takebacks` are rollbacks to begin with. `save_limit` and `ack_limit` are the seconds
    that an answer waits for the store and for the workers.
    """

    def __init__(
        self,
        config: Config,
        segment: Segment,
        slots: Mapping[str, int],
        store: Store,
        saved: Mapping[str, Saved],
        *,
        clock: Clock | None = None,
        save_limit: float = 2.0,
        ack_limit: float = 1.0,
        takebacks: Sequence[Takeback] = (),
        marks: Marks | None = None,
    ) -> None:
        self.config, self.segment = config, segment
        self._store, self._save_limit, self._ack_limit = store, save_limit, ack_limit
        self._marks = marks
        self.clock = clock or SystemClock()
        self.board = Board(segment)
        #: The only one that touches the store.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self.routes = {
            name: RouteControl(
                name,
                route,
                slots[name],
                segment=segment,
                store=store,
                saved=saved.get(name),
                thread=self.thread,
                clock=self.clock,
                versions=self.version_of,
                outside=Outside(name, route.metrics.outside, config.pools, self.clock),
                takebacks=takebacks,
                marks=marks,
            )
            for name, route in config.routes.items()
        }
        self.hooks = Hooks(self.routes, self.submit, self.version_of, self.clock)
        self.ticks = 0
        #: Looks at canaries that go on, by route.
        self.probes: dict[str, asyncio.Task[None]] = {}

    def route(self, name: str) -> RouteControl:
        """The control of a route; raises NotFoundError that names those there are."""
        if name not in self.routes:
            raise NotFoundError(f"route {name!r}", "does not exist", f"there is {', '.join(sorted(self.routes))}")
        return self.routes[name]

    def version_of(self, pool: str | None) -> str:
        """What people call the version that a pool runs."""
        known = self.config.pools.get(pool or "")
        return (known.version if known else "") or pool or ""

    # Commands.

    async def submit(self, name: str, event: Event, note: str = "") -> Answer:
        """Decide at once, and say what came of it. Raises NotFoundError or IllegalTransitionError; nothing was changed then."""
        route = self.route(name)
        ticket = route.handle(event, note)
        shown = route.epoch
        applied = await self._acknowledged(route, shown)
        saved = await route.saver.wait(ticket, self._save_limit)
        if not saved:
            await self._marked()
        if route.epoch != shown:
            applied = await self._acknowledged(route, route.epoch)
        return Answer(route.rollout, *applied, saved)

    def start_event(self, name: str, by: str = "operator") -> Start:
        """The start of this route's plan, with a salt of its own."""
        return Start(Plan.of_route(self.route(name).config), self.route(name).take_salt(), by)

    def retry_event(self, name: str, by: str = "operator") -> Retry:
        """The same after a rollback."""
        return Retry(Plan.of_route(self.route(name).config), self.route(name).take_salt(), by)

    async def decisions(self, name: str, limit: int, before_id: int | None) -> list[dict[str, Any]]:
        """The route's saved decisions, newest first; raises StoreError when the store fails or does not answer."""
        return await self._read(self._store.decisions, name, limit, before_id)

    async def rollouts(self, name: str) -> list[str]:
        """The rollouts of which there is a journal, the newest first; raises as `decisions` does."""
        return await self._read(self._store.rollouts, name)

    async def journal(self, name: str, rollout: str, limit: int, after: int) -> list[tuple[int, JournalBlock]]:
        """Blocks of a rollout's journal in their order, each with its id; raises as `decisions` does."""
        return await self._read(self._store.journal, name, rollout, limit, after)

    async def _read(self, read: Callable[..., T], name: str, *rest: Any) -> T:
        """What the store answers about a route."""
        self.route(name)
        reading = asyncio.get_running_loop().run_in_executor(self.thread, read, name, *rest)
        try:
            return await asyncio.wait_for(reading, self._save_limit)
        except TimeoutError:
            raise StoreError("state", f"does not answer within {self._save_limit:g} s", "see the log; ask again") from None

    async def _acknowledged(self, route: RouteControl, epoch: int) -> Applied:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._ack_limit
        applied = self.board.applied(route.slot, epoch)
        while applied.applied_by < applied.workers and loop.time() < until:
            await asyncio.sleep(_LOOK)
            applied = self.board.applied(route.slot, epoch)
        return applied

    async def _marked(self) -> None:
        """Return when what is not on disk is marked at least, or cannot be."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _MARK_LIMIT
        while self._marks is not None and not self._marks.is_settled and loop.time() < until:  # noqa: ASYNC110  # a thread's
            await asyncio.sleep(_LOOK)

    # Ticks.

    async def run(self) -> None:
        """Tick once a second, on the grid of the monotonic clock, until cancelled."""
        now = self.clock.monotonic()
        due = _next(now)
        while True:
            await asyncio.sleep(due - now)
            self.tick()
            now = self.clock.monotonic()
            due = max(due + 1, _next(now))

    def tick(self) -> None:
        """One second's work for every route."""
        now = self.clock.monotonic()
        for route in self.routes.values():
            route.tick(now)
        self.look_for_starts()
        self.hooks.look()
        self.ticks += 1

    def look_for_starts(self) -> None:
        """Where a rollout is to start by itself or by a deploy, see whether it can."""
        for name, route in self.routes.items():
            if (route.deployment.pending or route.wants_auto_start()) and name not in self.probes:
                self.probes[name] = asyncio.create_task(self._start(route), name=f"probe {name}")

    async def _start(self, route: RouteControl) -> None:
        """Start the rollout if every server of the canary is there; otherwise the next tick looks again."""
        deployment = route.deployment
        try:
            pool = self.config.pools[route.rollout.canary or route.rollout.stable]
            deployment.waits = await trouble_with(pool)
            if (role := deployment.pending) and self.clock.wall() - role.at > PATIENCE:
                route.give_up_deploy(role, deployment.waits or "the proxy itself was not there in time")
            elif role and not deployment.waits:
                await self.submit(route.name, self.start_event(route.name, by=role.by), role.reason)
            elif not deployment.waits and route.wants_auto_start():
                await self.submit(route.name, self.start_event(route.name, by="auto_start"))
        finally:
            del self.probes[route.name]

    # The end, and a rollback that it began with.

    def call_off(self, takebacks: Sequence[Takeback]) -> None:
        """Settle the deploys that were on their way when these rollbacks were asked for; their rollouts are rolled back."""
        for takeback in takebacks:
            for route in self.routes.values():
                role = route.deployment.unsettled
                if takeback.route in (None, route.name) and role is not None and (takeback.heard or role.at < takeback.at):
                    route.handle(Rollback(takeback.reason, takeback.by))

    async def put_on_record(self) -> None:
        """Return when the present state of every route is on disk, however long that takes."""
        for saver in [route.saver for route in self.routes.values()]:
            ticket = saver.request()
            while not await saver.wait(ticket, self._save_limit):  # noqa: ASYNC110  # each tick tries again
                await asyncio.sleep(_RECORD_LOOK)

    async def close(self) -> None:
        """Save a last time, and let go of the store."""
        await self.hooks.close()
        for probe in list(self.probes.values()):
            probe.cancel()
        savers = [route.saver for route in self.routes.values()]
        saved = await asyncio.gather(*(saver.wait(saver.request(), self._save_limit) for saver in savers))
        await asyncio.gather(*(route.outside.close() for route in self.routes.values()))
        self.thread.shutdown(wait=all(saved), cancel_futures=True)
        if all(saved):
            self._store.close()


def _next(now: float) -> float:
    """The first time after `now` that a tick is due."""
    return math.floor(now - _PHASE) + 1 + _PHASE
