"""What is going on: `status`, a table, once or each second."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from canaryproxy.cli.client import FailedError, UnreachableError
from canaryproxy.cli.options import RouteArgument, Session, operating
from canaryproxy.cli.text import Answer, cell, findings, step

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Seconds between two refreshes: the proxy judges once a second.
REFRESH = 1.0

#: Columns for output that no person looks at directly: a sentence stays on its line.
_UNBROKEN = 1000

#: Figures of a variant in the table: title, name in the admin API, how it is written.
_FIGURES = (
    ("req/s", "requests_per_second", "{:,.1f}"),
    ("errors", "error_percent", "{:.2f}%"),
    ("p95", "p95_ms", "{:,.0f} ms"),
)


@operating
def status(
    session: Session,
    route: RouteArgument = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh each second until Ctrl-C.")] = False,
) -> None:
    """Show each route: its step, both variants side by side, and what the analysis says."""

    def look() -> Answer:
        return session.admin.get("/api/v1/routes" if route is None else session.admin.route(route))

    if not watch:
        _show(session, look())
        return
    console = _console()
    if session.as_json:
        _watch_lines(lambda: typer.echo(json.dumps(look())))
    elif console.is_terminal and not console.is_dumb_terminal:
        _watch(console, look)
    else:
        _watch_lines(lambda: console.print(_table(look()), end="\n\n"))


def _show(session: Session, answer: Answer) -> None:
    if session.as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        _console().print(_table(answer))


def _console() -> Console:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _UNBROKEN
    return console


def _watch_lines(write: Callable[[], None]) -> None:
    """Each look as lines of its own, for programs and pipes; a proxy that restarts is waited for, and said on stderr."""
    with suppress(KeyboardInterrupt):
        while True:
            try:
                write()
                sys.stdout.flush()  # a pipe is to see it now
            except (UnreachableError, FailedError) as error:
                typer.echo(f"canaryproxy: {error}", err=True)
            time.sleep(REFRESH)


def _watch(console: Console, look: Callable[[], Answer]) -> None:
    """The routes again and again, on a screen of their own, so that another size of it leaves nothing behind.

    A proxy that restarts is waited for, what was seen last stays in sight. What was seen last is left on the terminal, too.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    shown: RenderableType = Text("")
    with suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                shown = _table(look())
            except (UnreachableError, FailedError) as error:
                live.update(Group(shown, Text(f"canaryproxy: {error}", style="red")), refresh=True)
            else:
                live.update(shown, refresh=True)
            time.sleep(REFRESH)
    console.print(shown)


def _table(answer: Answer) -> RenderableType:
    """Two lines for each route, stable and canary, and below the table what there is to say of each."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("route", "phase", "step", "variant", "pool", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("weight", *(title for title, _, _ in _FIGURES)):
        table.add_column(title, justify="right")
    routes = answer.get("routes", [answer])
    for route in routes:
        weight = route["weight_percent"]
        name: tuple[str, ...] = (route["route"], route["phase"], step(route))
        for variant, share in (("stable", 100 - weight), ("canary", weight)):
            if figures := route[variant]:
                cells = (cell(figures, key, form) for _, key, form in _FIGURES)
                table.add_row(*map(Text, (*name, variant, figures["pool"], f"{share:g}%", *cells)))
                name = ("", "", "")
    lines = [Text(f"{route['route']}: {line}") for route in routes for line in findings(route)]
    return Group(table, *([Text(), *lines] if lines else []))
