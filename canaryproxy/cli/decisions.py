"""`canaryproxy decisions`: what was decided, when, on which numbers; with `--replay`, whether the same counts say so again.

Both are read from the proxy's admin API, or from its state file (`--state`) where it does not run any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice, takewhile
from typing import Annotated, Any

import typer

from canaryproxy.cli.client import RefusedError
from canaryproxy.cli.options import RouteArgument, Session, operating
from canaryproxy.cli.source import DECISIONS, RolloutOption, Source, StateOption, newest_first, opened
from canaryproxy.cli.text import Answer, moment
from canaryproxy.errors import CanaryproxyError, Problem

#: Kinds of decisions, as `rollout.changes`, `control.pools` and `control.deploys` write them.
KINDS = (
    *("start", "retry", "restart", "step", "bake", "promoted", "rollback", "pause", "resume", "weight", "freeze", "thaw"),
    *("step_back", "extend", "warning", "gate", "gate_open", "verdict", "pool", "deploy"),
)


class DifferentError(CanaryproxyError):
    """A verdict made again from the recorded counts is not the recorded one, or cannot be made again."""

    code = "different"


@operating
def decisions(  # noqa: PLR0917  each is an option of the command
    session: Session,
    route: RouteArgument = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only those since then: 2h ago, or 2026-11-25T03:00.", show_default=False),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Only this kind, for example rollback; may be repeated.", show_default=False),
    ] = None,
    again: Annotated[
        bool, typer.Option("--replay", help="Make every verdict of a rollout again from the recorded counts, and compare.")
    ] = False,
    rollout: RolloutOption = None,
    state: StateOption = None,
) -> None:
    """List what was decided, and on which numbers."""
    if unknown := [name for name in kind or [] if name not in KINDS]:
        raise typer.BadParameter(f"there is no kind {unknown[0]!r}; there is {', '.join(KINDS)}", param_hint="--kind")
    with opened(session, route, state) as source:
        if again:
            _replay(session, source, rollout)
        else:
            _list(session, source, limit, since, kind or [])


def _list(session: Session, source: Source, limit: int, since: str | None, kinds: list[str]) -> None:
    oldest = _moment(since) if since else 0.0
    recent = takewhile(lambda made: made["at"] >= oldest, newest_first(source, min(limit, DECISIONS)))
    found = list(islice((made for made in recent if not kinds or made["kind"] in kinds), limit))
    lines = [f"{moment(made['at'])}  {made['kind']:<8}  {made['sentence']}" for made in found]
    which = " that is asked for" if since or kinds else ""
    session.show({"decisions": found}, "\n".join(lines) or f"nothing{which} has been decided yet")


def _moment(text: str) -> float:
    """The wall time that `--since` means: so long ago, or that moment of local time."""
    from canaryproxy.clock import SystemClock
    from canaryproxy.config.quantities import parse_duration

    with suppress(ValueError):
        return SystemClock().wall() - parse_duration(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text).astimezone().timestamp()
    raise typer.BadParameter(f"{text!r} is neither a duration nor a time; write for example 2h or 2026-11-25T03:00")


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
    begun = False
    for made in newest_first(source):
        of = made["data"].get("journal", {}).get("rollout")
        if of == rollout:
            yield made
        elif begun and of is not None:
            return
        begun = begun or of == rollout


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
