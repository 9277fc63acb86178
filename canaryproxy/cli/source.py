"""Where decisions and journals of one route are read: from the running proxy's API, or from its state file when it has gone.

Called by `decisions` and `report`; nothing here changes anything.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol
from urllib.parse import quote, unquote

import typer

from canaryproxy.cli.client import Admin, RefusedError
from canaryproxy.cli.text import Answer

if TYPE_CHECKING:
    from canaryproxy.analysis.replay import Block
    from canaryproxy.cli.options import Session
    from canaryproxy.store.sqlite import SqliteStore

#: Decisions, and blocks of a journal (about 2 kB each), that are asked for at once.
DECISIONS, _BLOCKS = 500, 200

StateOption = Annotated[
    Path | None,
    typer.Option("--state", metavar="FILE", help="Read this state file, not the running proxy's API.", show_default=False),
]
RolloutOption = Annotated[
    str | None, typer.Option("--rollout", metavar="ID", help="Which rollout. Default: the last one.", show_default=False)
]


class Source(Protocol):
    """Where decisions and journals of one route come from."""

    #: The route, and how an error names it.
    route: str
    name: str

    def now(self) -> Answer:
        """The route as it is: `phase`, `started_at` (wall), `plan` as the admin API shows it, `users`; None what is not known."""

    def decisions(self, limit: int, before: int | None = None) -> list[Answer]:
        """The newest first; those before id `before` when given."""

    def rollouts(self) -> list[str]:
        """Those of which there is a journal, the newest first."""

    def blocks(self, rollout: str) -> Iterator[Block]:
        """The journal of one of them."""


class ApiSource:
    """The running proxy."""

    def __init__(self, admin: Admin, route: str | None) -> None:
        self._admin, self._path = admin, admin.route(route)
        self.route = unquote(self._path.rpartition("/")[2])
        self.name = f"route {self.route}"

    def now(self) -> Answer:
        found = self._admin.get(self._path)
        started = found.get("started_at")
        at = datetime.fromisoformat(started).timestamp() if started else None
        return {"phase": found["phase"], "started_at": at, "plan": found.get("plan"), "users": found.get("users")}

    def decisions(self, limit: int, before: int | None = None) -> list[Answer]:
        older = "" if before is None else f"&before={before}"
        found: list[Answer] = self._admin.get(f"{self._path}/decisions?limit={limit}{older}")["decisions"]
        return found

    def rollouts(self) -> list[str]:
        found: list[str] = self._admin.get(f"{self._path}/journal")["rollouts"]
        return found

    def blocks(self, rollout: str) -> Iterator[Block]:
        from canaryproxy.analysis.replay import Block

        after = 0
        while page := self._admin.get(f"{self._path}/journal/{quote(rollout, safe='')}?limit={_BLOCKS}&after={after}")["blocks"]:
            for block in page:
                yield Block(block["first"], block["ticks"], base64.b64decode(block["data"]))
            after = page[-1]["id"]


class FileSource:
    """The state file of a proxy, whether it runs or not."""

    def __init__(self, store: SqliteStore, route: str | None) -> None:
        self._store = store
        if route is None:
            names = sorted(store.load())
            if len(names) != 1:
                raise RefusedError("route", f"there are {len(names)} routes", f"name one of {', '.join(names)}")
            route = names[0]
        self.route, self.name = route, f"route {route}"

    def now(self) -> Answer:
        from canaryproxy.rollout.document import plan_document
        from canaryproxy.rollout.model import Plan

        known = self._store.load()
        if self.route not in known:
            raise RefusedError(self.name, "is not in this state file", f"there is {', '.join(sorted(known)) or 'no route yet'}")
        record, evidence = known[self.route].rollout, known[self.route].evidence or {}
        _, exposed, hurt = evidence.get("users", (None, None, None))
        users = None if exposed is None else {"exposed": exposed, "hurt": hurt}
        return {
            "phase": record["phase"],
            "started_at": record["started_at"],
            "plan": plan_document(Plan.from_dict(record["plan"])),
            "users": users,
        }

    def decisions(self, limit: int, before: int | None = None) -> list[Answer]:
        return self._store.decisions(self.route, limit, before)

    def rollouts(self) -> list[str]:
        return self._store.rollouts(self.route)

    def blocks(self, rollout: str) -> Iterator[Block]:
        from canaryproxy.analysis.replay import Block

        after = 0
        while page := self._store.journal(self.route, rollout, _BLOCKS, after):
            for after, block in page:  # noqa: B007
                yield Block(block.first, block.ticks, block.data)


@contextmanager
def opened(session: Session, route: str | None, state: Path | None) -> Iterator[Source]:
    """Where to read: the state file if one is given, else the proxy of this session. Raises RefusedError."""
    if state is None:
        yield ApiSource(session.admin, route)
        return
    from canaryproxy.store.sqlite import SqliteStore

    if not state.is_file():
        raise RefusedError("--state", f"there is no file {str(state)!r}", "it is the one that state.path names")
    with closing(SqliteStore(state, read_only=True)) as store:
        yield FileSource(store, route)


def newest_first(source: Source, at_once: int = DECISIONS) -> Iterator[Answer]:
    """Every decision of the route, asked for in pages of so many."""
    before = None
    while page := source.decisions(at_once, before):
        yield from page
        if len(page) < at_once:
            return
        before = page[-1]["id"]
