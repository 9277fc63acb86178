"""What one route knows of the deploy that was registered last: on its way to new workers, waiting to start, or settled.

Owned by `control.route`. A deploy is settled by the id that is saved with the rollout's record: in the transaction of the start
that it asked for, or of the rollback that called it off. So a kill at any moment leaves it either pending or settled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from canaryproxy.analysis.verdict import Action
from canaryproxy.config.overlay import Role
from canaryproxy.errors import IllegalTransitionError
from canaryproxy.rollout.model import Event, FailGate, Retry, Rollback, Start, Tick

#: Seconds that a start waits for the canary's servers: an image is pulled and an app begins in minutes; nobody wants a
#: rollout to begin at night because somebody repaired a server.
PATIENCE = 300.0

#: Deploys that are remembered as settled: one that is put back was settled before the one that was to replace it.
_REMEMBERED = 8


class Stage(StrEnum):
    """How far a deploy is."""

    HANDING_OVER = "handing_over"
    PENDING = "pending"
    STARTED = "started"
    REFUSED = "refused"
    CALLED_OFF = "called_off"


class Deployment:
    """`kept` is what `settled` was at the last save."""

    def __init__(self, kept: Sequence[Sequence[str]]) -> None:
        self.role: Role | None = None
        #: Id and stage of each deploy that was settled, and why it was not started; the newest last.
        self.settled = [(id, stage, detail) for id, stage, detail in kept]
        #: What the start waits for.
        self.waits = ""
        self._former: Role | None = None
        self._withdraw: Callable[[], None] | None = None

    # The way to new workers.

    @property
    def is_handing_over(self) -> bool:
        """Whether this process still controls the former roles, and others are on their way."""
        return self._withdraw is not None

    def hand_over(self, role: Role, withdraw: Callable[[], None]) -> None:
        """From now on the rollout only goes down; `withdraw` is called if somebody rolls back."""
        self._former, self.role, self._withdraw = self.role, role, withdraw

    def put_back(self) -> None:
        """The deploy could not be: everything is as before."""
        if self._withdraw is not None:
            self.role, self._former, self._withdraw = self._former, None, None

    def refuse(self, route: str, event: Event) -> None:
        """Raise IllegalTransitionError for what the next controller would not know of."""
        if self.role is not None and self.is_handing_over and not isinstance(event, Tick | Rollback | FailGate):
            what = f"a deploy of {self.role.canary} is being handed over to new workers"
            raise IllegalTransitionError(f"route {route}", what, "ask again in a second")

    def tame(self, tick: Tick) -> Tick:
        """The tick without what it could raise: the pool that is stable while a deploy is handed over stays it."""
        if not self.is_handing_over:
            return tick
        return tame(tick)

    # The start.

    @property
    def pending(self) -> Role | None:
        """The deploy that this process has to start."""
        role = self.role
        return role if role is not None and not self.is_handing_over and not self._is_settled(role) else None

    def settle(self, event: Event) -> bool:
        """Whether this event, which was performed, settles the deploy."""
        role = self.role
        if role is None or self._is_settled(role):
            return False
        if isinstance(event, Start | Retry):
            self._note(role, Stage.STARTED)
            return True
        if isinstance(event, Rollback):
            self._note(role, Stage.CALLED_OFF, f"called off by {event.by}{f': {event.reason}' if event.reason else ''}")
            if self._withdraw is not None:
                self._withdraw()
            return True
        return False

    @property
    def unsettled(self) -> Role | None:
        """The deploy that is on its way or waits for its start."""
        return self.role if self.role is not None and not self._is_settled(self.role) else None

    @property
    def called_off(self) -> str | None:
        """By whom and why the deploy was called off; None if it was not."""
        role = self.role
        known = None if role is None else next((known for known in self.settled if known[0] == role.id), None)
        return known[2] if known is not None and known[1] == Stage.CALLED_OFF else None

    def give_up(self, role: Role, why: str) -> None:
        """This deploy is not started any more."""
        self._note(role, Stage.REFUSED, why)

    def document(self) -> dict[str, Any] | None:
        """For people and programs: `id`, `state`, `by`, `at`, `reason`, and in `detail` what it waits for or why it was not."""
        role = self.role
        if role is None:
            return None
        stage, detail = next((known[1:] for known in self.settled if known[0] == role.id), (Stage.PENDING, self.waits))
        if self.is_handing_over and stage == Stage.PENDING:
            stage, detail = Stage.HANDING_OVER, f"new workers for {role.canary} are on their way"
        return {
            "id": role.id,
            "state": str(stage),
            "detail": detail,
            "by": role.by,
            "at": role.at,
            "canary": role.target or role.canary,
            "reason": role.reason,
        }

    def _is_settled(self, role: Role) -> bool:
        return any(known[0] == role.id for known in self.settled)

    def _note(self, role: Role, stage: Stage, detail: str = "") -> None:
        self.settled = [*self.settled, (role.id, str(stage), detail)][-_REMEMBERED:]


def tame(tick: Tick) -> Tick:
    """The tick without what it could raise, and without its time."""
    verdict = tick.verdict
    return Tick(replace(verdict, action=Action.CONTINUE) if verdict.action is Action.PROMOTE else verdict, 0.0)
