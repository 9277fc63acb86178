"""What `control` needs of a store: each route's record, evidence, decision log and journals, and the registered pools.

A store knows nothing of rollouts: it keeps JSON-ready dictionaries. Every failure is a StoreError and leaves what was saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from canaryproxy.config.overlay import Registered, Role

#: Rollouts of a route whose journals are kept: about 1.4 MB for each hour of 1000 requests/s.
JOURNALS = 10


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the decision log, made at wall time `at`."""

    at: float
    kind: str
    sentence: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JournalBlock:
    """A piece of the journal of `rollout`: `ticks` of its ticks from number `first` on, in the form of `analysis.record`."""

    rollout: str
    first: int
    ticks: int
    data: bytes


@dataclass(frozen=True, slots=True)
class JournalEnd:
    """How far the journal saved last goes: `rollout`, whose next tick is number `ticks`."""

    rollout: str
    ticks: int


@dataclass(frozen=True, slots=True)
class Message:
    """A notification that is to be delivered to the hook of that name: `facts` of what was decided at wall time `at`."""

    id: str
    hook: str
    at: float
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mail:
    """What changes in a route's outbox: messages put into it, and (id, hook) of those taken out."""

    put: tuple[Message, ...] = ()
    taken: tuple[tuple[str, str], ...] = ()


NO_MAIL = Mail()


@dataclass(frozen=True, slots=True)
class Saved:
    """What was saved last of one route; the outbox in the order in which it was filled."""

    rollout: dict[str, Any]
    evidence: dict[str, Any] | None = None
    journal: JournalEnd | None = None
    outbox: tuple[Message, ...] = ()


class Store(Protocol):
    """Durable memory. One thread at a time."""

    def load(self) -> Mapping[str, Saved]:
        """The last state of every route that has a rollout."""

    def save(
        self,
        route: str,
        rollout: Mapping[str, Any] | None,
        evidence: Mapping[str, Any] | None,
        decisions: Sequence[Decision] = (),
        journal: Sequence[JournalBlock] = (),
        *,
        mail: Mail = NO_MAIL,
    ) -> None:
        """All of it is on disk when this returns, none of it when it raises. None leaves what was saved before.

        Of the route's journals those of the newest `JOURNALS` rollouts are kept. A message that is in the outbox already, or is
        not there to be taken out, changes nothing.
        """

    def decisions(self, route: str, limit: int = 100, before_id: int | None = None) -> list[dict[str, Any]]:
        """At most `limit` decisions, newest first: `id`, `at`, `kind`, `sentence`, `data`; older than `before_id` when given."""

    def rollouts(self, route: str) -> list[str]:
        """The rollouts of which there is a journal, the newest first."""

    def journal(self, route: str, rollout: str, limit: int = 100, after: int = 0) -> list[tuple[int, JournalBlock]]:
        """At most `limit` blocks of a rollout's journal in their order, each with its id; those after id `after`."""

    def close(self) -> None:
        """Let go of the file."""


class PoolStore(Protocol):
    """Durable memory of the registered pools and roles. One thread at a time."""

    def pools(self) -> dict[str, Registered]:
        """Every registered pool."""

    def roles(self) -> dict[str, Role]:
        """The role that a deploy registered last for each route."""

    def save_pools(
        self, pools: Mapping[str, Registered], decisions: Mapping[str, Decision], roles: Mapping[str, Role] | None = None
    ) -> None:
        """Exactly these pools and roles, and a decision for each of these routes, are on disk when this returns.

        None leaves the roles as they were. Nothing is changed when it raises.
        """
