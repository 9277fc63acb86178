"""Pools and roles that are registered at run time: stored first, then handed over to a new generation of workers, or put back.

Owned by `admin.serve`, called by `admin.pools` and `control.deploys`. A hand-over ends with the supervisor replacing this
controller, so what is stored and not in force may be left by a predecessor that was killed or dismissed: the next controller
goes on with it (`begin`). Who decides between the file and what was registered is the rule of `config.overlay`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from canaryproxy.config.overlay import Definition, Pair, Registered, Role, definition_of, pair_of, with_pools
from canaryproxy.config.schema import Config
from canaryproxy.config.upstreams import Pool
from canaryproxy.control.controller import Controller
from canaryproxy.control.handover import Handover, Outcome
from canaryproxy.control.route import RouteControl
from canaryproxy.errors import CanaryproxyError, IllegalTransitionError, NotFoundError, StoreError
from canaryproxy.rollout.model import Phase, Rollback
from canaryproxy.store.base import Decision, PoolStore

#: Seconds between two looks at the supervisor's answer, which looks every 0.1 s itself.
_LOOK = 0.005
#: The same between two tries to store what could not be stored at the start.
_AGAIN = 0.2

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


class Wish(NamedTuple):
    """What is to be in force: everything that is registered then, the configuration, and what the log says, or says if undone.

    `deploying`: the route whose role is new.
    """

    registered: Mapping[str, Registered]
    roles: Mapping[str, Role]
    config: Config
    decisions: Mapping[str, Decision]
    undone: Mapping[str, Decision]
    deploying: RouteControl | None = None


class Pools:
    """What is `registered` and in force, and the `roles`; the file's own are in the controller's configuration.

    `limit` is the seconds that an answer waits for the new workers.
    """

    def __init__(
        self,
        controller: Controller,
        store: PoolStore,
        handover: Handover,
        registered: Mapping[str, Registered],
        roles: Mapping[str, Role] | None = None,
        *,
        limit: float = 4.0,
    ) -> None:
        self.controller = controller
        self.registered, self.roles = dict(registered), dict(roles or {})
        #: The configuration that is being handed over.
        self.coming: Config | None = None
        self._store, self._handover, self.limit = store, handover, limit
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[Outcome | None] | None = None
        self._busy = False
        self._storing: asyncio.Task[None] | None = None

    def pool(self, name: str) -> Pool:
        """The pool in force; raises NotFoundError that names those there are."""
        pools = self.controller.config.pools
        if name not in pools:
            server = f"a server is written http://{name}; " if ":" in name or "." in name else ""
            raise NotFoundError(f"pool {name!r}", "does not exist", f"{server}there is {', '.join(sorted(pools))}")
        return pools[name]

    def definition(self, name: str) -> Definition | None:
        """The pool in force as it was written; None if there is none of that name."""
        known = self.registered.get(name)
        return known.definition if known else definition_of(self.controller.config.pools.get(name))

    # Changes.

    async def begin(self, stored: Mapping[str, Registered], roles: Mapping[str, Role] | None = None) -> None:
        """Finish what a predecessor left: forget what the file decides now, hand over what is stored and not in force, start."""
        routes = self.controller.config.routes
        held = {name: pool for name, pool in stored.items() if pool.file == self._in_file(name)}
        cast = {name: role for name, role in (roles or {}).items() if role.file == self.pair_in_file(name)}
        known = await asyncio.get_running_loop().run_in_executor(self.controller.thread, self._store.roles)
        if (held, cast) != (stored, known):  # before the first tick saves a record of these pools: see `present_roles`
            try:
                await self._save(held, {}, cast)
            except StoreError:  # later: with the roles as they were, who was rolled back would come back
                self._storing = asyncio.create_task(self._save_later(held, cast), name="roles")
        pairs = {name: cast[name].pair if name in cast else self.pair_in_file(name) for name in routes}
        if held == self.registered and all(pairs[name] == pair_of(route) for name, route in routes.items()):
            self.adopt(cast)
            return
        _log.warning("pools: the store has a change that is not in force yet: handing over")
        self._busy = True
        for name, role in cast.items():
            if role.pair == pair_of(routes[name]):
                self.roles[name] = self.controller.routes[name].deployment.role = role
            else:
                self.controller.routes[name].deployment.hand_over(role, self._handover.withdraw)
        self._task = asyncio.create_task(self._hand_over({}), name="hand-over")

    def adopt(self, roles: Mapping[str, Role]) -> None:
        """These roles, which are stored, are in force: have what is pending started."""
        self.roles = dict(roles)
        for name, role in self.roles.items():
            route = self.controller.routes[name]
            route.deployment.role = role
            if (why := route.deployment.called_off) and route.rollout.phase is Phase.IDLE and route.rollout.may_have_users:
                route.handle(Rollback(why, role.by))  # too late to be withdrawn: not for beta groups either
        self.controller.look_for_starts()

    async def register(self, name: str, definition: Definition, by: str) -> Change:
        """Store the pool and have it served. Decides at once: until it is stored, nothing else can begin.

        Raises ConfigError, IllegalTransitionError, BusyError or StoreError: nothing was changed; HandoverError: put back.
        """
        config = with_pools(self.controller.config, {name: definition})
        self._keep_version(name, config.pools[name])
        deployed = name in self.registered and self.registered[name].deployed
        made = Registered(definition, self._in_file(name), self.controller.clock.wall(), by, deployed)
        wish = Wish(
            registered={**self.registered, name: made},
            roles=self.roles,
            config=config,
            decisions=self._decisions(name, f"pool {name}: changed by {by}", definition),
            undone=self._decisions(name, f"pool {name}: its change could not be served and was undone", self.definition(name)),
        )
        return Change(config, made, await self.change(wish, f"pool {name}"))

    async def change(self, wish: Wish, what: str) -> Outcome | None:
        """Store it and hand it over; None while it is not known what comes of it. Raises as `register`."""
        self.refuse_if_busy()
        self._busy = True
        try:
            if wish.deploying is not None:
                role = wish.roles[wish.deploying.name]
                wish.deploying.deployment.hand_over(role, self._handover.withdraw)
                await self._have_saved(wish.deploying)
            await self._save(wish.registered, wish.decisions, wish.roles)
        except BaseException:
            self._end()
            raise
        self.coming = wish.config
        self._task = asyncio.create_task(self._hand_over(wish.undone), name="hand-over")
        await asyncio.wait((self._task,), timeout=self.limit)
        outcome = self._task.result() if self._task.done() else None
        if outcome is not None:
            if outcome.refusal:
                raise HandoverError(what, f"is as before: {outcome.refusal}", "the log says more; then try again")
            self.registered, self.roles, self.controller.config = dict(wish.registered), dict(wish.roles), wish.config
        return outcome

    def refuse_if_busy(self) -> None:
        """Raise BusyError while something is being handed over."""
        if self._busy or self._leaving.is_set():
            raise BusyError("pools", "a hand-over to new workers is going on", "ask again in a second")

    async def save_roles(self, roles: Mapping[str, Role], decisions: Mapping[str, Decision], deploying: RouteControl) -> None:
        """Store these roles, which change no route's pools. Raises BusyError or StoreError; nothing was changed then."""
        self.refuse_if_busy()
        self._busy = True
        deploying.deployment.hand_over(roles[deploying.name], lambda: None)  # a rollback meanwhile calls it off
        try:
            await self._save(self.registered, decisions, roles)
        finally:
            self._busy = False
            deploying.deployment.put_back()
        self.adopt(roles)

    def leave(self) -> None:
        """Let nobody wait any longer: this controller is being replaced."""
        self._leaving.set()

    async def close(self) -> None:
        """End; a hand-over that goes on is the next controller's."""
        tasks = [task for task in (self._task, self._storing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Their parts.

    def _in_file(self, name: str) -> Definition | None:
        """What the file says of a pool: what is registered and in force was laid over exactly that."""
        known = self.registered.get(name)
        return known.file if known else definition_of(self.controller.config.pools.get(name))

    def pair_in_file(self, route: str) -> Pair | None:
        """The same of a route's stable and canary."""
        known = self.roles.get(route)
        return known.file if known else pair_of(self.controller.config.routes.get(route))

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

    async def _have_saved(self, route: RouteControl) -> None:
        """What a deploy ends is on disk before it, as it was last. Raises StoreError."""
        if not await route.saver.wait(route.saver.request(), self.limit):
            raise StoreError(
                f"route {route.name}", "its rollout cannot be saved now, and a deploy neither", "see the log; try again"
            )

    async def _save_later(self, held: Mapping[str, Registered], cast: Mapping[str, Role]) -> None:
        """Store them as soon as it can be done, unless something newer is."""
        roles, task, busy = self.roles, self._task, self._busy
        while self.roles is roles and self._task is task:
            if self._busy is busy:  # else a change is being stored just now
                with suppress(StoreError):
                    await self._save(held, {}, cast)
                    return
            await asyncio.sleep(_AGAIN)

    async def _save(self, pools: Mapping[str, Registered], decisions: Mapping[str, Decision], roles: Mapping[str, Role]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.controller.thread, self._store.save_pools, dict(pools), decisions, dict(roles))
        for route, decision in decisions.items():
            self.controller.routes[route].saver.tell(decision)

    def _end(self) -> None:
        """The change is over, and everything as before."""
        self._busy, self.coming = False, None
        for route in self.controller.routes.values():
            route.deployment.put_back()

    async def _hand_over(self, undone: Mapping[str, Decision]) -> Outcome | None:
        """Ask, wait for the answer however long it takes, and put back what is in force if it is no."""
        question = self._handover.ask()
        if any(route.deployment.is_handing_over and route.deployment.called_off for route in self.controller.routes.values()):
            self._handover.withdraw()  # a rollback came before there was a question
        outcome = await self._answer(question)
        if outcome is None or not outcome.refusal:
            return outcome  # still busy: this controller is being replaced
        try:
            await self._save(self.registered, undone, self.roles)
        except StoreError as error:
            outcome = outcome._replace(refusal=f"{outcome.refusal}; but a restart will try it, for it is still stored ({error})")
        _log.error("pools: nothing was handed over: %s", outcome.refusal)
        self._end()
        self.adopt(self.roles)
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
