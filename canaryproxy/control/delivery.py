"""One route's messages on their way from the outbox to the hooks: in order for each hook, again and again until they arrive.

Owned by `control.hooks`, which has it `look` at each tick: a task for each hook that has something to be told, and none else.
A message goes out once its decision is on disk, or when the store fails: then nobody should wait for the disk to hear of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from canaryproxy.clock import Clock
from canaryproxy.config.hooks import Hook
from canaryproxy.control.messages import written
from canaryproxy.control.outbox import Outbox
from canaryproxy.control.post import Answer, Posting, back_off
from canaryproxy.control.saver import Saver
from canaryproxy.store.base import Message

#: Seconds after which a message is not worth telling any more.
GIVE_UP: Final = 24 * 3600.0
#: Refusals of the same message (`Answer.refused`) after which it must not hold up those behind it.
REFUSALS: Final = 5

_log = logging.getLogger("canaryproxy.control")


class Failure(NamedTuple):
    """The last thing that went wrong, for people."""

    hook: str
    error: str
    at: float


class Delivery:
    """Tells the hooks of `route` what its outbox has."""

    def __init__(
        self, route: str, outbox: Outbox, saver: Saver, *, post: Posting, clock: Clock, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._route, self._outbox, self._saver = route, outbox, saver
        self._post, self._clock, self._sleep = post, clock, sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.failures: dict[str, Failure] = {}

    def look(self) -> None:
        """Begin to tell each hook for which there is something, and which is not being told."""
        for name in self._outbox.hooks:
            task = self._tasks.get(name)
            if (task is None or task.done()) and self._next(name) is not None:
                self._tasks[name] = asyncio.create_task(self._tell(name), name=f"notify {self._route} {name}")

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop; the tasks to wait for."""
        for task in self._tasks.values():
            task.cancel()
        return list(self._tasks.values())

    def _next(self, name: str) -> Message | None:
        return self._outbox.next(name, unsaved=self._saver.failing)

    async def _tell(self, name: str) -> None:
        """Everything that there is for this hook."""
        hook = self._outbox.hooks[name]
        tried: Message | None = None
        tries = 0
        while (message := self._next(name)) is not None:
            tries = tries + 1 if message is tried else 1
            tried = message
            answer = await self._try(name, hook, message)
            if answer.ok:
                self._settle(message, "delivered")
                if self.failures.pop(name, None):
                    _log.warning("route %s: hook %s is told again", self._route, name)
            elif why := self._hopeless(message, answer, tries):
                self._failed(name, hook, answer)
                told = "route %s: hook %s (%s) was not told %r: %s; given up %s"
                _log.error(told, self._route, name, hook.place, message.facts.get("text"), answer.words, why)
                self._settle(message, "given_up")
            else:
                self._failed(name, hook, answer)
                await self._sleep(max(answer.retry_after, back_off(tries, message.id)))

    async def _try(self, name: str, hook: Hook, message: Message) -> Answer:
        try:
            body, media = written(message, hook)
        except Exception as error:  # facts that another version has saved
            return Answer(400, f"it cannot be written ({error!r})")
        return await self._post(hook, body, media, message.id)

    def _hopeless(self, message: Message, answer: Answer, tries: int) -> str:
        if self._clock.wall() - message.at > GIVE_UP:
            return "after 24 h"
        return f"after {tries} refusals" if answer.refused and tries >= REFUSALS else ""

    def _failed(self, name: str, hook: Hook, answer: Answer) -> None:
        self._outbox.counts["failed"] += 1
        if name not in self.failures:
            _log.warning("route %s: hook %s (%s) was not told: %s; trying again", self._route, name, hook.place, answer.words)
        self.failures[name] = Failure(name, answer.words, self._clock.wall())

    def _settle(self, message: Message, result: str) -> None:
        self._outbox.settle(message, result)
        self._saver.request()
