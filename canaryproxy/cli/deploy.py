"""`start`: the rollout of the canary there is, or of a new version on servers that no file names; for people and CI jobs.

Asked again for a version that is rolling out or stable, the proxy does nothing, so a job can be tried again; that is why a
deploy is asked for until there is an answer, and a plain start once.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from canaryproxy.cli.client import RefusedError, UnreachableError
from canaryproxy.cli.options import ReasonOption, RouteArgument, Session, operating
from canaryproxy.cli.progress import ROLLED_BACK, TIMED_OUT, End, Job, started
from canaryproxy.cli.text import Answer, result
from canaryproxy.errors import Problem

#: Seconds to ask for a deploy again while the proxy does not answer (it restarts), and while another hand-over goes on.
_UNREACHABLE, _BUSY = 15.0, 60.0
#: Seconds in which the proxy decides whether a deploy can start: `control.deployment.PATIENCE`, and a hand-over.
_START = 330.0
#: As shells say that Ctrl-C ended a command.
_INTERRUPTED = 130


@operating
def start(  # noqa: PLR0917  # the options of the command, given by name
    session: Session,
    route: RouteArgument = None,
    canary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL|POOL",
            help="A server of the new version (say it once for each), or the name of a pool. Without: the canary of the file.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        str, typer.Option(metavar="NAME", help="What the new version is called; names its pool.", show_default=False)
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow it: exit 0 promoted, 1 rolled back, 2 timed out.")] = False,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Of --wait; the rollout goes on.")] = "2h",
    reason: ReasonOption = "",
) -> None:
    """Start a rollout: of the canary there is, or of a new version."""
    limit = _seconds(timeout)
    body = {
        name: value for name, value in {"canary": _wanted(canary or []), "version": version, "reason": reason}.items() if value
    }
    begun, answer = time.monotonic(), _ask(session, route, body)
    if not (canary or wait):
        session.show(answer, result("started", answer))
        _warn_if_unsaved(answer)
    elif answer.get("already") == "stable":
        session.show(answer, f"{answer['stable']['version']} is stable already: nothing to do")
    else:
        job = Job(answer["route"], answer["deploy"]["id"]) if _is_deploys(answer) else started(answer)
        until, named = (begun + limit, timeout) if wait else (begun + _START, f"{_START:.0f}s")
        _follow(session, job, answer, until=until, named=named, wait=wait)


def _is_deploys(answer: Answer) -> bool:
    """Whether the rollout that the answer is about is, or will be, that of the deploy registered last."""
    deploy = answer.get("deploy") or {}
    return "already" in answer and deploy.get("state") in ("handing_over", "pending", "started")


def _follow(session: Session, job: Job, answer: Answer, *, until: float, named: str, wait: bool) -> None:
    from canaryproxy.cli.follow import Follower

    follower = Follower(session, job, to_end=wait)
    try:
        end = follower.follow(until, named)
    except KeyboardInterrupt:
        typer.echo(f"canaryproxy: the rollout goes on; to take it back: canaryproxy rollback {job.route}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    _tell(session, job, follower.status or answer, end)
    if end.code:
        raise typer.Exit(end.code)


def _tell(session: Session, job: Job, status: Answer, end: End) -> None:
    if session.as_json:
        typer.echo(json.dumps(status | {"result": end.result, "message": end.sentence}))
        return
    typer.echo(f"{job.route}: {end.sentence}", err=end.code == ROLLED_BACK)
    if end.code == TIMED_OUT:
        typer.echo(
            f"{job.route}: canaryproxy status --watch {job.route} shows it, canaryproxy rollback {job.route} takes it back"
        )


def _ask(session: Session, route: str | None, body: dict[str, Any]) -> Answer:
    """The answer to the start; a deploy is asked for again while nobody answers or another one is handed over."""
    begun = time.monotonic()
    while True:
        try:
            return session.admin.post(session.admin.route(route, "start"), body)
        except UnreachableError:
            if "canary" not in body or time.monotonic() - begun > _UNREACHABLE:
                raise
        except RefusedError as error:
            if error.code != "busy" or time.monotonic() - begun > _BUSY:
                raise
        time.sleep(0.5)


def _wanted(canary: list[str]) -> str | list[str] | None:
    """The name of a pool, or servers."""
    names = [given for given in canary if "://" not in given and not given.startswith("unix:")]
    if not names:
        return canary or None
    if len(canary) > 1:
        raise typer.BadParameter(f"{names[0]!r} is not a URL; write http://{names[0]}, or the name of one pool alone")
    return names[0]


def _seconds(text: str) -> float:
    from canaryproxy.config.quantities import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"--timeout: {error}") from None


def _warn_if_unsaved(answer: Answer) -> None:
    if not answer["saved"]:
        rest = "users come to the canary when it is; the proxy keeps trying, its log says why"
        typer.echo(f"canaryproxy: {Problem(answer['route'], 'not saved yet', rest)}", err=True)
