"""`canaryproxy report`: one page about a rollout, while it goes on or after it: what was decided when, and on which numbers.

`account` says what happened, `rungs` what became of the plan, `series` has the curves; `page` (with `chart`, `markup`) and
`markdown` write it down. Read from the running proxy, or from its state file when it has gone.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canaryproxy.cli.client import RefusedError
from canaryproxy.cli.options import RouteArgument, Session, operating
from canaryproxy.cli.source import RolloutOption, StateOption, opened

if TYPE_CHECKING:
    from canaryproxy.cli.report.account import Account


class Form(StrEnum):
    """How a report is written."""

    MARKDOWN = "markdown"
    HTML = "html"


@operating
def report(  # noqa: PLR0917  each is an option of the command
    session: Session,
    route: RouteArgument = None,
    rollout: RolloutOption = None,
    state: StateOption = None,
    form: Annotated[
        Form | None,
        typer.Option("--format", help="Default: what the file's name says, else markdown.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there, not to stdout.", show_default=False)
    ] = None,
) -> None:
    """Tell a rollout on one page: outcome, timeline, plan, users exposed and hurt, charts, evidence."""
    from canaryproxy.cli.report.account import gather

    if sys.stderr.isatty():
        typer.echo("making every verdict of the rollout again from its counts ...", err=True)
    with opened(session, route, state) as source:
        account = gather(source, rollout)
    text = json.dumps(_document(account), indent=2) + "\n" if session.as_json else _written(account, form, output)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RefusedError(str(output), f"cannot be written ({(error.strerror or str(error)).lower()})") from None
    typer.echo(f"written: {output}")


def _written(account: Account, form: Form | None, output: Path | None) -> str:
    by_name = Form.HTML if output is not None and output.suffix.lower() in (".html", ".htm") else Form.MARKDOWN
    if (form or by_name) is Form.HTML:
        from canaryproxy.cli.report.page import page

        return page(account)
    from canaryproxy.cli.report.markdown import markdown

    return markdown(account)


def _document(account: Account) -> dict[str, Any]:
    """The account for programs; the curves, too."""
    return asdict(account)
