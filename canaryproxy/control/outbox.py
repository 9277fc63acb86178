"""What one route still has to tell: a message for each transition and each hook that is told, until it was delivered.

Filled by `control.route`, saved by `control.saver` in the transaction of the decision, emptied by `control.delivery`. A message
that is on its way twice, after a kill or a lost answer, has the same id: rollout, revision and kind, which a decision that has
to be made again (a rollback that reached the board and not the disk) makes again too.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

from canaryproxy.config.hooks import TOLD, Hook, HookType, named
from canaryproxy.control.journal import rollout_id
from canaryproxy.control.messages import Versions, facts_of, is_end, is_transition, summary_of
from canaryproxy.rollout.model import Record, Rollout
from canaryproxy.store.base import Mail, Message

#: Messages of a route that wait at a time; beyond it the oldest are forgotten.
MOST: Final = 1000
#: Deliveries that are remembered until the store knows of them; of those before, a restart may send some again.
_REMEMBERED: Final = 4 * MOST

_log = logging.getLogger("canaryproxy.control")


class Outbox:
    """The messages of `route` for its `hooks`; `kept` are those that were saved."""

    def __init__(self, route: str, hooks: Iterable[Hook], kept: Sequence[Message] = (), versions: Versions = str) -> None:
        self._route, self._versions = route, versions
        #: The hooks that are told, by name.
        self.hooks = {name: hook for name, hook in named(hooks).items() if hook.type in TOLD}
        self._waiting: dict[str, deque[Message]] = {name: deque() for name in self.hooks}
        self._unsaved: list[Message] = []
        self._taken: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
        self._full = False
        #: Messages by what became of them.
        self.counts: Counter[str] = Counter()
        for message in kept:
            self._keep(message)

    @property
    def pending(self) -> int:
        """How many messages wait."""
        return sum(map(len, self._waiting.values()))

    def announce(self, record: Record, rollout: Rollout, *, users: tuple[int, int], at: float, note: str = "") -> None:
        """Have the hooks told of a decision made at wall time `at`, which led to `rollout`, if it is a transition."""
        if not self.hooks or not is_transition(record):
            return
        name = f"{rollout_id(rollout)}/{rollout.revision}/{record.kind}"
        facts = facts_of(record, rollout, users=users, versions=self._versions, at=at, note=note)
        for hook, its in self.hooks.items():
            if its.type is HookType.EVENT:
                self._put(Message(name, hook, at, facts))
            elif is_end(record):
                self._put(Message(f"{name}/ended", hook, at, summary_of(facts, rollout)))

    # Delivery.

    def next(self, hook: str, *, unsaved: bool) -> Message | None:
        """The message that this hook is to be told now; one that is not on disk yet only if `unsaved`."""
        first = next(iter(self._waiting[hook]), None)
        if first is None or unsaved or not any(one is first for one in self._unsaved):
            return first
        return None

    def settle(self, message: Message, result: str) -> None:
        """The message was delivered, or will never be: it is not sent again, after a restart neither."""
        self.counts[result] += 1
        waiting = self._waiting.get(message.hook)
        if waiting and waiting[0] is message:
            waiting.popleft()
        self._unsaved = [one for one in self._unsaved if one is not message]
        self._taken.append((message.id, message.hook))

    # Saving.

    def take(self) -> Mail:
        """What the store does not know yet. One at a time: the next is taken when this one was saved or has failed."""
        return Mail(tuple(self._unsaved), tuple(self._taken))

    def confirm(self, mail: Mail) -> None:
        """It is on disk. Without this it is part of the next one."""
        put, taken = set(map(id, mail.put)), set(mail.taken)
        self._unsaved = [message for message in self._unsaved if id(message) not in put]
        self._taken = deque((one for one in self._taken if one not in taken), maxlen=_REMEMBERED)

    def _keep(self, message: Message) -> None:
        if message.hook in self._waiting:
            self._waiting[message.hook].append(message)
            return
        _log.warning("route %s: hook %s is gone: it is not told %s", self._route, message.hook, message.facts.get("text"))
        self.settle(message, "dropped")

    def _put(self, message: Message) -> None:
        self._waiting[message.hook].append(message)
        self._unsaved.append(message)
        if self.pending <= MOST:
            self._full = False
            return
        if not self._full:
            _log.error("route %s: more than %d notifications wait: the oldest are forgotten", self._route, MOST)
        self._full = True
        oldest = min((waiting[0] for waiting in self._waiting.values() if waiting), key=lambda one: one.at)
        self.settle(oldest, "dropped")
