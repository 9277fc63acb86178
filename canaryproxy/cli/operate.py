"""The verbs of a rollout, and the health check: each is one request to the admin API.

Called by people, deployment jobs and container health checks; the proxy decides, these only ask and say what it answered.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from canaryproxy.cli.client import FailedError, RefusedError, UnreachableError
from canaryproxy.cli.options import ReasonOption, RouteArgument, Session, operating
from canaryproxy.cli.text import result
from canaryproxy.errors import Problem

DEFAULT_STATE = "./canaryproxy.db"
#: Seconds for each socket operation of a rollback, which has another way.
_ROLLBACK_PATIENCE = 3.0


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
    full: Annotated[bool, typer.Option("--full", help="Not only one step: everybody but the hold-back, now.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Go to the next step without waiting for evidence."""
    answer = session.admin.post(session.admin.route(route, "promote"), _given(full=full, reason=reason))
    _say(session, answer, "promoted" if answer["phase"] == "promoted" else "next step")


@operating
def rollback(
    session: Session,
    route: RouteArgument = None,
    reason: ReasonOption = "",
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The proxy's state, if its admin endpoint does not answer. Default: the one of --config, else ./canaryproxy.db",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Take every request off the canary, now. Works in every phase, and on the proxy's machine without its admin endpoint."""
    session = replace(session, admin=replace(session.admin, timeout=_ROLLBACK_PATIENCE))
    try:
        _act(session, route, "rollback", "rolled back", reason=reason)
    except (UnreachableError, FailedError) as error:
        _last_resort(session, route, reason, state, error)


def _last_resort(
    session: Session, route: str | None, reason: str, state: Path | None, error: UnreachableError | RefusedError
) -> None:
    """The same, past the admin API."""
    from canaryproxy.cli.lastresort import take_back

    if session.config is not None:
        from canaryproxy.config.load import load

        settings = load(session.config)
        state = state or Path(settings.state.path)
        route = next(iter(settings.routes)) if route is None and len(settings.routes) == 1 else route
    if session.config is None and state is None and isinstance(error, UnreachableError):
        running, here = "is the proxy running?", "on its own machine `canaryproxy rollback --config FILE` goes past it"
        error = UnreachableError(error.problem.where, error.problem.what, f"{running} {here}")
    done = take_back(state or Path(DEFAULT_STATE), session.admin.url, route, reason, error)
    what = done.route or "every rollout in progress"
    recorded = f", on record after {done.recorded_ms} ms" if done.recorded_ms is not None else ""
    text = f"rolled back: {what}, past the admin API: no user on the canary after {done.down_ms} ms{recorded}"
    session.show(done._asdict() | {"rolled_back": True, "admin_api": str(error)}, text)
    if done.unwritten:
        typer.echo(
            f"canaryproxy: {Problem('', f'no request could be written ({done.unwritten})', f'rolled back was {what}')}", err=True
        )
    if done.recorded_ms is None:
        typer.echo(f"canaryproxy: {Problem(what, 'not on record yet', 'the proxy keeps trying, its log says why')}", err=True)


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
    _check(weight)
    answer = session.admin.put(session.admin.route(route, "weight"), _given(weight=weight, reason=reason))
    _say(session, answer, "weight set")


def _check(weight: str) -> None:
    """Refuse in the command's own words what is no percentage."""
    from canaryproxy.config.quantities import parse_percent

    try:
        parse_percent(weight)
    except ValueError as error:
        raise RefusedError("WEIGHT", *str(error).split("; ", 1)) from None


@operating
def health(session: Session) -> None:
    """Say whether the proxy serves: exit code 0 when it does. For container health checks."""
    status, _ = session.admin.exchange("GET", "/readyz")
    if status != 200:
        raise RefusedError("", f"not ready (status {status})")
    session.show({"ready": True}, "ready")
