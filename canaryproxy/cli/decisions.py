"""`canaryproxy decisions`: what was decided, when, on which numbers; with `--replay`, whether the same counts say so again.

Both are read from the proxy's admin API, or from its state file (`--state`) where it does not run any more.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from urllib.parse import quote

import typer

from canaryproxy.cli.client import Admin, RefusedError
from canaryproxy.cli.options import RouteArgument, Session, operating
from canaryproxy.cli.text import Answer, moment
from canaryproxy.errors import CanaryproxyError, Problem

if TYPE_CHECKING:
    from canaryproxy.analysis.replay import Block
    from canaryproxy.store.sqlite import SqliteStore

#: Decisions, and blocks of a journal (about 2 kB each), that are asked for at once.
_DECISIONS, _BLOCKS = 500, 200


class DifferentError(CanaryproxyError):
    """A verdict made again from the recorded counts is not the recorded one, or cannot be made again."""

    code = "different"


class Source(Protocol):
    """Where decisions and journals of one route come from."""

    name: str

    def decisions(self, limit: int, before: int | None = None) -> list[Answer]:
        """The newest first; those before id `before` when given."""

    def rollouts(self) -> list[str]:
        """Those of which there is a journal, the newest first."""

    def blocks(self, rollout: str) -> Iterator[Block]:
        """The journal of one of them."""


@operating
def decisions(  # noqa: PLR0917  each is an option of the command
    session: Session,
    route: RouteArgument = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest first.")] = 20,
    again: Annotated[
        bool, typer.Option("--replay", help="Make every verdict of a rollout again from the recorded counts, and compare.")
    ] = False,
    rollout: Annotated[
        str | None, typer.Option(metavar="ID", help="The rollout to replay. Default: the last one.", show_default=False)
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read this state file, not the running proxy's API.", show_default=False),
    ] = None,
) -> None:
    """List what was decided, and on which numbers."""
    if state is None:
        _show(session, _Api(session.admin, route), limit, again, rollout)
        return
    from canaryproxy.store.sqlite import SqliteStore

    if not state.is_file():
        raise RefusedError("--state", f"there is no file {str(state)!r}", "it is the one that state.path names")
    with closing(SqliteStore(state, read_only=True)) as store:
        _show(session, _File(store, route), limit, again, rollout)


def _show(session: Session, source: Source, limit: int, again: bool, rollout: str | None) -> None:
    if again:
        _replay(session, source, rollout)
        return
    found = source.decisions(limit)
    lines = [f"{moment(made['at'])}  {made['kind']:<8}  {made['sentence']}" for made in found]
    session.show({"decisions": found}, "\n".join(lines) or "nothing has been decided yet")


def _replay(session: Session, source: Source, rollout: str | None) -> None:
    known = source.rollouts()
    if not known or (rollout or known[0]) not in known:
        what = f"has no journal of rollout {rollout}" if rollout else "has no journal of a rollout"
        raise RefusedError(source.name, what, f"there is {', '.join(known)}" if known else "start one")
    rollout = rollout or known[0]
    try:
        report = _report(source, rollout)
    except ValueError as error:
        raise RefusedError(source.name, f"the journal of rollout {rollout} cannot be read: {error}") from error
    session.show(report, "\n".join(_lines(report)))
    for first, end in report["missing"]:
        what = f"ticks {first} to {end - 1} are missing: the state could not be written then"
        typer.echo(f"canaryproxy: {Problem(source.name, what)}", err=True)
    if report["first_difference"]:
        raise DifferentError(source.name, report["first_difference"], _hint(report["versions"]))


def _hint(versions: list[str]) -> str:
    from canaryproxy import __version__

    others = [version for version in versions if version != __version__]
    return f"recorded by version {', '.join(others)}, this is {__version__}: replay with that one" if others else ""


def _report(source: Source, rollout: str) -> dict[str, Any]:
    """Every verdict made again, those of decisions one by one."""
    from canaryproxy.analysis.judge import Judge
    from canaryproxy.analysis.replay import Missing, difference, replay

    recorded: dict[int, list[Answer]] = {}
    for made in _of(source, rollout):
        recorded.setdefault(made["data"]["journal"]["tick"], []).insert(0, made)
    ticks, missing, versions, differences, shown = 0, [], set(), [], []
    for one in replay(source.blocks(rollout), Judge):
        if isinstance(one, Missing):
            missing.append((one.first, one.end))
            continue
        ticks += 1
        versions.add(one.version)
        made_then = recorded.pop(one.tick, [])
        for made in made_then:
            differs = difference(one, made["data"]["verdict"])
            shown.append(_compared(made, one.tick, differs))
            differences += [f"tick {one.tick}: decision {made['id']} ({made['kind']}): {differs}"] if differs else []
        if not made_then and (differs := difference(one)):
            differences.append(f"tick {one.tick}: {differs}")
    for tick in sorted(recorded):  # decisions whose counts were not kept prove nothing: that is no success
        lost = "cannot be made again: its counts are missing"
        shown += [_compared(made, tick, lost) for made in recorded[tick]]
        differences += [f"tick {tick}: decision {made['id']} ({made['kind']}): {lost}" for made in recorded[tick]]
    return {
        "rollout": rollout,
        "versions": sorted(versions),
        "ticks": ticks,
        "missing": _joined(missing),
        "decisions": shown,
        "differences": len(differences),
        "first_difference": differences[0] if differences else None,
    }


def _of(source: Source, rollout: str) -> Iterator[Answer]:
    """The decisions of a rollout that have a verdict, the newest first."""
    before, begun = None, False
    while page := source.decisions(_DECISIONS, before):
        for made in page:
            of = made["data"].get("journal", {}).get("rollout")
            if of == rollout:
                yield made
            elif begun and of is not None:
                return
            begun = begun or of == rollout
        before = page[-1]["id"]


def _compared(made: Answer, tick: int, differs: str | None) -> Answer:
    return {name: made[name] for name in ("id", "at", "kind", "sentence")} | {"tick": tick, "difference": differs}


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, end in spans:
        begun = joined.pop()[0] if joined and joined[-1][1] == first else first
        joined.append((begun, end))
    return joined


def _lines(report: dict[str, Any]) -> Iterator[str]:
    for made in report["decisions"]:
        answer = f"DIFFERS: {made['difference']}" if made["difference"] else "the same"
        yield f"{moment(made['at'])}  {made['kind']:<8}  tick {made['tick']:<6}  {answer}  ({made['sentence']})"
    said = f"{report['differences']} differ" if report["differences"] else "all the same as recorded"
    yield f"rollout {report['rollout']}: {report['ticks']} verdicts made again from their counts: {said}"


class _Api:
    """The running proxy."""

    def __init__(self, admin: Admin, route: str | None) -> None:
        self._admin, self._path = admin, admin.route(route)
        self.name = f"route {self._path.rpartition('/')[2]}"

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


class _File:
    """The state file of a proxy, whether it runs or not."""

    def __init__(self, store: SqliteStore, route: str | None) -> None:
        self._store = store
        if route is None:
            names = sorted(store.load())
            if len(names) != 1:
                raise RefusedError("route", f"there are {len(names)} routes", f"name one of {', '.join(names)}")
            route = names[0]
        self._route, self.name = route, f"route {route}"

    def decisions(self, limit: int, before: int | None = None) -> list[Answer]:
        return self._store.decisions(self._route, limit, before)

    def rollouts(self) -> list[str]:
        return self._store.rollouts(self._route)

    def blocks(self, rollout: str) -> Iterator[Block]:
        from canaryproxy.analysis.replay import Block

        after = 0
        while page := self._store.journal(self._route, rollout, _BLOCKS, after):
            for after, block in page:  # noqa: B007
                yield Block(block.first, block.ticks, block.data)
