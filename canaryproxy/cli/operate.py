"""The verbs of a rollout, and the health check: each is one request to the admin API.

Called by people, deployment jobs and container health checks; the proxy decides, these only ask and say what it answered.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from canaryproxy.cli.client import RefusedError
from canaryproxy.cli.options import ReasonOption, RouteArgument, Session, operating
from canaryproxy.cli.text import result
from canaryproxy.errors import Problem


def _act(session: Session, route: str | None, verb: str, done: str, **body: Any) -> None:
    """Ask for a verb and say what came of it; `done` is how a person calls the result."""
    _say(session, session.admin.post(session.admin.route(route, verb), _given(**body)), done)


def _given(**body: Any) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value}


def _say(session: Session, answer: dict[str, Any], done: str) -> None:
    session.show(answer, result(done, answer))
    if not answer["saved"]:
        rest = "less for the canary is in force already, more has to wait for it; the proxy keeps trying, its log says why"
        typer.echo(f"canaryproxy: {Problem(answer['route'], 'not saved yet', rest)}", err=True)


@operating
def start(session: Session, route: RouteArgument = None, reason: ReasonOption = "") -> None:
    """Start the rollout of the canary: step 1."""
    _act(session, route, "start", "started", reason=reason)


@operating
def pause(session: Session, route: RouteArgument = None, reason: ReasonOption = "") -> None:
    """Hold the weight where it is. A proven harm still rolls back."""
    _act(session, route, "pause", "paused", reason=reason)


@operating
def resume(session: Session, route: RouteArgument = None, reason: ReasonOption = "") -> None:
    """Go on after a pause."""
    _act(session, route, "resume", "resumed", reason=reason)


@operating
def promote(
    session: Session,
    route: RouteArgument = None,
    full: Annotated[bool, typer.Option("--full", help="Not only one step: all the way, now.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Go to the next step without waiting for evidence."""
    answer = session.admin.post(session.admin.route(route, "promote"), _given(full=full, reason=reason))
    _say(session, answer, "promoted" if answer["phase"] == "promoted" else "next step")


@operating
def rollback(session: Session, route: RouteArgument = None, reason: ReasonOption = "") -> None:
    """Take every request off the canary, now. Works in every phase."""
    _act(session, route, "rollback", "rolled back", reason=reason)


@operating
def retry(session: Session, route: RouteArgument = None, reason: ReasonOption = "") -> None:
    """Start over after a rollback, with other users first."""
    _act(session, route, "retry", "started again", reason=reason)


@operating
def set_weight(
    session: Session,
    words: Annotated[
        list[str], typer.Argument(metavar="[ROUTE] WEIGHT", help="The canary's share, for example 5%.", show_default=False)
    ],
    reason: ReasonOption = "",
) -> None:
    """Give the canary this share, and hold it there."""
    if len(words) > 2:
        raise typer.BadParameter(f"{words[2]!r} is one word too many; write for example: set-weight shop 5%")
    route, weight = (words[0], words[1]) if len(words) == 2 else (None, words[0])
    answer = session.admin.put(session.admin.route(route, "weight"), _given(weight=weight, reason=reason))
    _say(session, answer, "weight set")


@operating
def health(session: Session) -> None:
    """Say whether the proxy serves: exit code 0 when it does. For container health checks."""
    status, _ = session.admin.exchange("GET", "/readyz")
    if status != 200:
        raise RefusedError("", f"not ready (status {status})")
    session.show({"ready": True}, "ready")
