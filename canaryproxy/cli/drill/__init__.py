"""`canaryproxy drill`: rehearses rollbacks with made-up users on a private copy of the proxy, and measures them.

`stage` has the processes (the demo's parts), `rehearsals` what is done to them, `settings` their configuration, `results` what
was measured against which limit.
"""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canaryproxy.cli.client import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from canaryproxy.cli.drill.rehearsals import Part
    from canaryproxy.cli.drill.results import Rehearsal
    from canaryproxy.config.schema import Route

#: Seconds after which nothing is repeated any more, so that all of it ends within a minute.
_TIME_LIMIT = 50.0


class Name(StrEnum):
    """The rehearsals."""

    BY_HAND = "by-hand"
    COMMAND = "command"
    ERRORS = "errors"
    HANG = "hang"
    DEAD = "dead"
    CONTROLLER = "controller"
    STATE = "state"


def drill(  # noqa: PLR0917  each is an option of the command
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rehearse with the plan and rules of a route of this file.", show_default=False),
    ] = None,
    route: Annotated[
        str | None, typer.Option(metavar="ROUTE", help="Which route of it; not needed if it has one.", show_default=False)
    ] = None,
    limit_ms: Annotated[float, typer.Option(min=1, help="What a rollback by hand may take, in milliseconds.")] = 1000.0,
    only: Annotated[list[Name] | None, typer.Option(help="Only this rehearsal; may be repeated.", show_default=False)] = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, max=20, help="How often each is repeated. Default: 2 to 5.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Rehearse rollbacks on a private copy with made-up traffic, and measure them. Touches no real user."""
    import asyncio

    from canaryproxy.cli.demo.children import until_signal
    from canaryproxy.cli.drill.rehearsals import parts

    name, settings = _route(config, route)
    chosen = [part for part in parts(limit_ms) if not only or part.rehearsal.name in only]
    said = _say if sys.stderr.isatty() else None
    code = asyncio.run(until_signal(_perform(settings, chosen, repeat, said)))
    rehearsals = [part.rehearsal for part in chosen]
    if code <= 1:
        _show(name, settings, rehearsals, as_json)
    raise typer.Exit(code)


def _route(config: Path | None, name: str | None) -> tuple[str, Route]:
    """Which route's plan and rules are rehearsed: those of the file, else the defaults."""
    from canaryproxy.config.load import load
    from canaryproxy.config.schema import Route

    if config is None:
        if name is not None:
            raise typer.BadParameter("--route means a route of --config FILE; give that too")
        return "the defaults", Route(stable="v1", canary="v2")
    routes = load(config).routes
    if name is None and len(routes) != 1:
        raise RefusedError("--route", f"there are {len(routes)} routes", f"name one of {', '.join(routes)}")
    name = name or next(iter(routes))
    if name not in routes:
        raise RefusedError(f"route {name!r}", "does not exist", f"there is {', '.join(routes)}")
    return f"route {name} of {config}", routes[name]


async def _perform(route: Route, chosen: list[Part], repeat: int | None, say: Callable[[str], None] | None) -> int:
    """The exit code: 0 if everything is within its limits."""
    from canaryproxy.cli.demo.scenario import Fault
    from canaryproxy.cli.drill.stage import Stage
    from canaryproxy.clock import SystemClock

    tell, now = say or (lambda _: None), SystemClock().monotonic
    began = now()
    try:
        async with AsyncExitStack() as stack:
            stage, cast = Stage(stack), Fault.NONE
            tell("starting two apps, a proxy and users of its own")
            await stage.raise_all(route)
            for part in chosen:
                if part.fault is not cast:
                    await stage.cast(part.fault)
                    cast = part.fault
                for number in range(1, (times := repeat or part.times) + 1):
                    if number > 1 and repeat is None and now() - began > _TIME_LIMIT:
                        break
                    tell(f"{part.rehearsal.name} ({number} of {times}): {part.rehearsal.sentence}")
                    await part.perform(stage, part.rehearsal)
                    if part.rehearsal.skipped:
                        break
    finally:
        tell("")
    return 0 if all(part.rehearsal.passed for part in chosen) else 1


def _say(line: str) -> None:
    """Progress: one line of the terminal, always the same one."""
    sys.stderr.write(f"\r\x1b[K{line[:110]}")
    sys.stderr.flush()


def _show(name: str, route: Route, rehearsals: list[Rehearsal], as_json: bool) -> None:
    from canaryproxy.cli.drill.settings import RATE, USERS, first_weight

    passed = all(one.passed for one in rehearsals)
    weight = first_weight(route) / 100
    if as_json:
        document: dict[str, Any] = {"rules": name, "weight_percent": weight, "requests_per_second": RATE, "users": USERS}
        document |= {"passed": passed, "rehearsals": [one.document() for one in rehearsals]}
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(
        f"rehearsed with {name}: {weight:g}% of {USERS:,} made-up users on the canary, {RATE} requests/s\n", markup=False
    )
    console.print(_table(rehearsals))
    for one in rehearsals:
        for objection in one.objections:
            console.print(f"{one.name}: {objection}", markup=False)
        if one.skipped:
            console.print(f"{one.name}: not rehearsed: {one.skipped}", markup=False)
    console.print("\nall within their limits" if passed else "\nNOT within the limits: see above", markup=False)


def _table(rehearsals: list[Rehearsal]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from canaryproxy.cli.drill.results import spread

    table = Table("rehearsal", "measured", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("times", "median", "worst", "limit", "users hurt"):
        table.add_column(title, justify="right")
    table.add_column("")
    for one in rehearsals:
        hurt = ", ".join(map(str, one.hurt)) or "–"
        table.add_row(Text(one.sentence, style="bold"))
        for number, measured in enumerate(one.measured):
            word = "–" if one.skipped else "ok" if measured.passed else "TOO SLOW"
            shown = (*spread(measured), "" if number else hurt, word)
            table.add_row(Text(f"  {one.name}" if not number else ""), measured.what, str(len(measured.times_ms)), *shown)
    return table
