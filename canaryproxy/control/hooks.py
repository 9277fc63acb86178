"""What is asked outside while a rollout goes on: gates that a rollout waits for, and those that may call it back.

Owned by `control.controller`, which has it `look` at each tick. Level-triggered: what is to be asked follows from the rollout as
it is now, so nothing about it is saved; a controller that is new asks again. Everything runs in tasks of its own, one for each
question: no tick, save or rollback ever waits for a hook. The types and what they mean are Flagger's (`docs/hooks.md`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from canaryproxy.clock import Clock
from canaryproxy.config.hooks import GATES, Hook, HookType, named
from canaryproxy.control.delivery import Delivery
from canaryproxy.control.journal import rollout_id
from canaryproxy.control.messages import Versions, iso, question
from canaryproxy.control.post import Answer, Post, Posting, back_off
from canaryproxy.control.route import RouteControl
from canaryproxy.errors import CanaryproxyError
from canaryproxy.rollout.model import Event, FailGate, Gate, OpenGate, Phase, Rollback

#: Seconds before a question whose answer changed nothing is put again.
_AGAIN: Final = 5.0
#: Seconds that the end waits for tasks that were called off.
_GOODBYE: Final = 1.0
_GATES: Final = frozenset(Gate(kind.value) for kind in GATES)
_JSON: Final = "application/json; charset=utf-8"

Sleep = Callable[[float], Awaitable[None]]
#: Decides, as `Controller.submit` does.
Submit = Callable[[str, Event], Awaitable[Any]]

_log = logging.getLogger("canaryproxy.control")


class _Asked(NamedTuple):
    """What is asked: the hooks of a gate at this step and weight of a rollout, or (no gate) the rollback hook of this name."""

    rollout: str
    gate: Gate | None
    step: int = 0
    weight_bp: int = 0
    hook: str = ""

    @property
    def key(self) -> str | None:
        """The same for the same question (Idempotency-Key). A rollback hook's answer may change: it has none."""
        return f"{self.rollout}/{self.gate}/{self.step + 1}-{self.weight_bp}" if self.gate else None


@dataclass(slots=True)
class Wait:
    """A hook of the gate that is waited for."""

    hook: str
    type: HookType
    place: str
    since: float
    asked: int = 0
    #: Whether the log has said that it is waited for.
    told: bool = False
    answer: str = ""
    yes: bool = False

    def document(self) -> dict[str, Any]:
        """For the status."""
        about = {"hook": self.hook, "type": self.type.value, "place": self.place, "since": iso(self.since)}
        return about | {"asked": self.asked, "answer": self.answer, "yes": self.yes}


class _RefusedError(Exception):
    """A pre_rollout hook has failed for good."""

    def __init__(self, hook: str, answer: Answer) -> None:
        super().__init__(hook)
        self.hook, self.answer = hook, answer


class Questions:
    """One route's gates and rollback hooks."""

    def __init__(
        self, route: RouteControl, submit: Submit, versions: Versions, *, post: Posting, clock: Clock, sleep: Sleep
    ) -> None:
        self._route, self._submit, self._post, self._versions = route, submit, post, versions
        self._clock, self._sleep = clock, sleep
        self._hooks = named(route.config.hooks)
        self._tasks: dict[_Asked, asyncio.Task[None]] = {}
        self._called_off: set[asyncio.Task[None]] = set()
        #: The hooks of the gate that is waited for.
        self.waits: list[Wait] = []
        #: Rollback hooks that do not answer, with what went wrong.
        self.unheard: dict[str, str] = {}

    def look(self) -> None:
        """Ask what is to be asked now, and call off what is not asked any more."""
        wanted = self._wanted()
        for asked in [asked for asked, task in self._tasks.items() if asked not in wanted or task.done()]:
            self._call_off(self._tasks.pop(asked))
        for asked in wanted:
            if asked not in self._tasks:
                self._tasks[asked] = asyncio.create_task(self._keep_asking(asked), name=f"ask {self._route.name} {asked.gate}")
        if not any(asked.gate for asked in wanted):
            self.waits = []

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop; the tasks to wait for."""
        for asked in list(self._tasks):
            self._call_off(self._tasks.pop(asked))
        return list(self._called_off)

    def _wanted(self) -> list[_Asked]:
        rollout = self._route.rollout
        if not rollout.in_progress:
            return []
        name, wanted = rollout_id(rollout), []
        if rollout.gate in _GATES and rollout.phase is not Phase.PAUSED:
            wanted.append(_Asked(name, rollout.gate, rollout.step, rollout.weight_bp))
        return wanted + [_Asked(name, None, hook=hook) for hook, its in self._hooks.items() if its.type is HookType.ROLLBACK]

    def _call_off(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self._called_off.add(task)
        task.add_done_callback(self._called_off.discard)

    async def _keep_asking(self, asked: _Asked) -> None:
        """Ask until it is not wanted any more; then this task is cancelled."""
        while asked in self._wanted():
            try:
                await (self._watch(asked) if asked.gate is None else self._pass(asked, asked.gate))
            except CanaryproxyError as error:
                _log.error("%s", error)
            except Exception:
                _log.exception("route %s: asking hooks failed", self._route.name)
            if asked in self._wanted():
                await self._sleep(_AGAIN)

    # Gates.

    async def _pass(self, asked: _Asked, gate: Gate) -> None:
        """Open the gate when every hook of its type has said yes; close it for good if a pre_rollout hook fails."""
        hooks = {name: hook for name, hook in self._hooks.items() if hook.type.value == gate.value}
        if not hooks:
            reason = f"no {gate} hook is configured any more"
            await self._decide(asked, OpenGate(gate, by="configuration", reason=reason))
            return
        now = self._clock.wall()
        self.waits = [Wait(name, hook.type, hook.place, now) for name, hook in hooks.items()]
        asking = [asyncio.create_task(self._until_yes(asked, wait, hooks[wait.hook])) for wait in self.waits]
        try:
            said = await asyncio.gather(*asking)
        except _RefusedError as refused:
            by = f"hook {refused.hook}"
            await self._decide(asked, FailGate(gate, by=by, reason=f"{by}: {refused.answer.words}"))
        else:
            reason = "; ".join(answer.text for answer in said if answer.text)
            await self._decide(asked, OpenGate(gate, by=f"hook {', '.join(hooks)}", reason=reason))
        finally:
            for task in asking:  # where one has failed, the others ask in vain
                task.cancel()

    async def _until_yes(self, asked: _Asked, wait: Wait, hook: Hook) -> Answer:
        while True:
            answer, first = await self._ask(asked, hook, wait), not wait.told
            if answer.ok:
                return answer
            if hook.type is HookType.PRE_ROLLOUT:
                raise _RefusedError(wait.hook, answer)
            if first:
                wait.told = True
                waits = "route %s: waits for hook %s (%s, %s): %s; asking each %g s"
                _log.info(waits, self._route.name, wait.hook, hook.type.value, hook.place, answer.words, hook.interval)
            await self._sleep(hook.interval)

    # Rollback hooks.

    async def _watch(self, asked: _Asked) -> None:
        """Roll back as soon as the hook says so."""
        name, hook = asked.hook, self._hooks[asked.hook]
        while True:
            answer = await self._ask(asked, hook)
            if answer.ok:
                by = f"hook {name}"
                await self._decide(asked, Rollback(f"{by}: {answer.text}" if answer.text else f"asked for by {by}", by=by))
                return
            self._note(name, hook, answer)
            await self._sleep(hook.interval)

    def _note(self, name: str, hook: Hook, answer: Answer) -> None:
        """A hook that says no is well; one that says nothing could not call a rollout back."""
        if answer.status:
            if self.unheard.pop(name, None):
                _log.warning("route %s: rollback hook %s answers again", self._route.name, name)
            return
        if name not in self.unheard:
            gone = "route %s: rollback hook %s (%s) does not answer: %s; the rollout goes on, and it is asked again"
            _log.warning(gone, self._route.name, name, hook.place, answer.words)
        self.unheard[name] = answer.words

    # Both.

    async def _ask(self, asked: _Asked, hook: Hook, wait: Wait | None = None) -> Answer:
        """One answer. Tried again where there is none, and where a pre_rollout fails: it does something, and that may fail."""
        tries = 0
        while True:
            rollout = self._route.rollout
            body = question(hook, hook.type.value, rollout, self._versions, self._route.users)
            answer = await self._post(hook, body, _JSON, asked.key)
            tries += 1
            if wait is not None:
                wait.asked, wait.answer, wait.yes = wait.asked + 1, answer.words, answer.ok
            told = answer.ok or (answer.status and hook.type is not HookType.PRE_ROLLOUT)
            if told or tries > hook.retries:
                return answer
            await self._sleep(max(answer.retry_after, back_off(tries, asked.key or asked.rollout)))

    async def _decide(self, asked: _Asked, event: Event) -> None:
        if asked in self._wanted():  # meanwhile an operator, a tick or a new version may have been first
            await self._submit(self._route.name, event)


class Hooks:
    """The hooks of every route, and what is under way to them."""

    def __init__(
        self,
        routes: Mapping[str, RouteControl],
        submit: Submit,
        versions: Versions,
        clock: Clock,
        *,
        post: Posting | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._own = Post()
        how: Any = {"post": post or self._own, "clock": clock, "sleep": sleep}
        self._questions = {name: Questions(route, submit, versions, **how) for name, route in routes.items()}
        self._deliveries = {name: Delivery(name, route.outbox, route.saver, **how) for name, route in routes.items()}

    def look(self) -> None:
        """Do what is to be done now: called at each tick, waits for nothing."""
        for questions in self._questions.values():
            questions.look()
        for delivery in self._deliveries.values():
            delivery.look()

    def document(self, route: RouteControl) -> dict[str, Any]:
        """For the status: which hooks are waited for, how many notifications wait, and what went wrong last."""
        questions, failures = self._questions[route.name], self._deliveries[route.name].failures
        last = max(failures.values(), key=lambda failure: failure.at, default=None)
        error = None if last is None else {"hook": last.hook, "error": last.error, "at": iso(last.at)}
        waiting = [wait.document() for wait in questions.waits]
        return {
            "waiting": waiting,
            "unheard": dict(questions.unheard),
            "notifications": {"pending": route.outbox.pending, "last_error": error},
        }

    async def close(self) -> None:
        """Call everything off; what was not delivered is in the store."""
        tasks = [task for questions in self._questions.values() for task in questions.cancel()]
        tasks += [task for delivery in self._deliveries.values() for task in delivery.cancel()]
        if tasks:
            await asyncio.wait(tasks, timeout=_GOODBYE)
        await self._own.close()
