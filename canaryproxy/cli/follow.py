"""Following a rollout to its end, on a terminal, in a log, or for a program. Called by `deploy`.

A proxy or controller that restarts meanwhile is waited for: what is asked are the route's status and, where that is about
another rollout by now, the decision log.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import typer

from canaryproxy.cli.client import RefusedError, UnreachableError
from canaryproxy.cli.options import Session
from canaryproxy.cli.progress import ROLLED_BACK, TIMED_OUT, End, Job, place
from canaryproxy.cli.text import Answer, cell

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Seconds between two looks: the proxy judges once a second, but a start is a matter of moments.
REFRESH, _SOON = 1.0, 0.25
#: Looks that find neither this rollout nor, in the log, its end, after which it is given up: one may fall into a restart.
_LOST = 20


class Follower:
    """What was seen of a job, and how it is shown. `to_end`: until the rollout has ended, else until it has started."""

    def __init__(self, session: Session, job: Job, *, to_end: bool) -> None:
        self._session, self._job, self._to_end = session, job, to_end
        self._path = f"/api/v1/routes/{quote(job.route, safe='')}"
        self._lost = 0
        self._said = ""
        self._live: Any = None
        self.status: Answer = {}

    def follow(self, until: float, named: str) -> End:
        """The end, or that there was none until this time of the monotonic clock, a limit that people call so."""
        with self._screen() as self._live:
            while True:
                if (end := self._look()) is not None:
                    return end
                left = until - time.monotonic()
                if left <= 0:
                    return End(TIMED_OUT, "timed_out", self._how_far(named))
                time.sleep(min(REFRESH if self._job.has_started else _SOON, left))

    def _look(self) -> End | None:
        try:
            self.status = status = self._session.admin.get(self._path)
            try:
                end = self._job.look(status)
                self._lost = 0
            except LookupError:
                end = self._search()
        except UnreachableError as error:
            self._say(f"the proxy does not answer ({error.problem.what}); waiting for it")
            return None
        if end is None and self._lost == 0:
            if self._job.has_started and not self._to_end:
                return End(0, "started", f"started: {place(status, self._job)}")
            self._show(status)
        return end

    def _search(self) -> End | None:
        """The end by the decision log."""
        try:
            end = self._job.read(self._session.admin.get(f"{self._path}/decisions?limit=500")["decisions"])
        except RefusedError:  # the store does not answer
            end = None
        self._lost += 1
        if end is None and self._lost >= _LOST:
            return End(ROLLED_BACK, "lost", "the route has other pools or another rollout now; its log does not say why")
        return end

    def _how_far(self, limit: str) -> str:
        where = place(self.status, self._job) if self.status else "the proxy did not answer"
        return f"no end within {limit}, and it goes on: {where}"

    # How it is shown.

    def _screen(self) -> AbstractContextManager[Any]:
        from rich.console import Console
        from rich.live import Live

        console = Console()
        if self._session.as_json or not console.is_terminal:
            return nullcontext()
        return Live(console=console, auto_refresh=False, transient=True)

    def _show(self, status: Answer) -> None:
        where = place(status, self._job)
        if self._live is not None:
            self._live.update(_view(status, where), refresh=True)
        elif where != self._said and self._session.as_json:
            typer.echo(json.dumps(status))
        elif where != self._said:
            typer.echo(f"{datetime.now().astimezone():%H:%M:%S} {self._job.route}: {where}")
        self._said = where

    def _say(self, text: str) -> None:
        """Something that is not about the rollout."""
        if self._live is not None:
            self._live.update(text, refresh=True)
        elif text != self._said:
            typer.echo(f"canaryproxy: {text}", err=True)
        self._said = text


def _view(status: Answer, where: str) -> RenderableType:
    """The step with its share as a bar, both variants side by side, and what the analysis says."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2, 0, 0))
    held = f"held for {status['held']:.0f} of {status['hold']:.0f} s" if status["phase"] in ("progressing", "baking") else ""
    head.add_row(Text(status["route"]), ProgressBar(100, status["weight_percent"], width=20), Text(where), Text(held))
    both = Table("", "pool", box=None, padding=(0, 2, 0, 0))
    for title in ("req/s", "errors", "p95"):
        both.add_column(title, justify="right")
    for variant in ("stable", "canary"):
        if figures := status[variant]:
            values = (("requests_per_second", "{:,.1f}"), ("error_percent", "{:.2f}%"), ("p95_ms", "{:,.0f} ms"))
            both.add_row(variant, figures["pool"], *(cell(figures, name, form) for name, form in values))
    says = f"{status['verdict']}: {status['sentence']}" if status["verdict"] else ""
    return Group(head, both, Text(says))
