"""One route's way to the store: the newest state wins, one write at a time, and what failed is tried again.

Called by `control.route`. A store that hangs or fails never holds up a rollback: whoever needs to know waits for at most a
limit and learns that it is not saved yet. All routes share one store thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from canaryproxy.control.journal import Batch, Journal
from canaryproxy.control.outbox import Outbox
from canaryproxy.rollout.model import Rollout
from canaryproxy.store.base import Decision, Mail, Store

#: Decisions kept while the store fails; beyond it the oldest are forgotten.
_KEPT = 1000
#: Seconds after which a write that nobody waits for counts as hanging.
_HANGS = 2.0

_log = logging.getLogger("canaryproxy.control")


class Saver:
    """Writes what `snapshot` returns, the journal that led to it and the outbox; tells `written` which rollout is on disk now."""

    def __init__(
        self,
        route: str,
        store: Store,
        thread: Executor,
        snapshot: Callable[[], tuple[Rollout, dict[str, Any]]],
        written: Callable[[Rollout], None],
        *,
        journal: Journal,
        outbox: Outbox,
    ) -> None:
        self._route, self._store, self._thread = route, store, thread
        self._snapshot, self._written = snapshot, written
        self._journal, self._outbox = journal, outbox
        self._decisions: list[Decision] = []
        self._wanted = self._done = 0
        self._task: asyncio.Task[None] | None = None
        self._begun = 0.0
        self._failing = False
        self.errors = 0
        #: Hears of each decision as it is made.
        self.listener: Callable[[str, Decision], None] | None = None

    @property
    def saved(self) -> bool:
        """Whether everything that was asked for is on disk."""
        return self._done == self._wanted

    @property
    def failing(self) -> bool:
        """Whether the store failed, or did not answer in time, at the last attempt."""
        return self._failing

    def note(self, decision: Decision) -> None:
        """Have a decision written with the next state."""
        self._decisions = [*self._decisions[1 - _KEPT :], decision]
        self.tell(decision)

    def tell(self, decision: Decision) -> None:
        """Have the listener hear of a decision, also of one that is written by another way."""
        if self.listener is not None:
            self.listener(self._route, decision)

    def request(self) -> int:
        """Have the present state written; the ticket to wait for. Returns at once."""
        self._wanted += 1
        self.retry()
        return self._wanted

    def retry(self) -> None:
        """Begin again if something is left to write and nothing is being written."""
        if self.saved:
            return
        now = asyncio.get_running_loop().time()
        if self._task is None or self._task.done():
            self._begun = now
            self._task = asyncio.create_task(self._write(), name=f"save {self._route}")
        elif now - self._begun > _HANGS and not self._failing:
            self._failed(f"no answer within {_HANGS:g} s")

    async def wait(self, ticket: int, limit: float) -> bool:
        """Whether the state of `ticket`, or a newer one, is on disk; after `limit` seconds at the latest."""
        if self._done < ticket and self._task is not None:
            done, _ = await asyncio.wait((self._task,), timeout=limit)
            if not done:
                self._failed(f"no answer within {limit:g} s")
        return self._done >= ticket

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.saved:
            ticket, decisions = self._wanted, self._decisions
            (rollout, evidence), batch, mail = self._snapshot(), self._journal.take(), self._outbox.take()
            try:
                state = (rollout.to_dict(), evidence, tuple(decisions))
                await loop.run_in_executor(self._thread, self._save, *state, batch, mail)
            except Exception as error:  # whatever a store raises: the rollout goes on, and the next tick tries again
                self._failed(str(error))
                return
            self._journal.confirm(batch)
            self._outbox.confirm(mail)
            written = set(map(id, decisions))
            self._decisions = [decision for decision in self._decisions if id(decision) not in written]
            self._done = ticket
            self._recovered()
            self._written(rollout)

    def _save(
        self, rollout: dict[str, Any], evidence: dict[str, Any], decisions: tuple[Decision, ...], batch: Batch, mail: Mail
    ) -> None:
        """In the store's thread: packing is work that no tick has to wait for."""
        self._store.save(self._route, rollout, evidence, decisions, batch.blocks(), mail=mail)

    def _failed(self, why: str) -> None:
        self.errors += 1
        if not self._failing:
            _log.error("route %s: not saved: %s; going on, and trying again each second", self._route, why)
        self._failing = True

    def _recovered(self) -> None:
        if self._failing:
            _log.warning("route %s: saved again", self._route)
        self._failing = False
