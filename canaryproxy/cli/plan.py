"""`canaryproxy plan`: what a rollout will take, before it begins (`analysis.planning`).

What the options do not say of the traffic is asked of the running proxy; with `--rate` it need not run. The steps and rules are
those of `--config`, else the defaults.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canaryproxy.cli.client import RefusedError
from canaryproxy.cli.options import RouteArgument, Session, operating
from canaryproxy.cli.text import Answer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from canaryproxy.analysis.planning import Concern, Found, StepPlan, Traffic
    from canaryproxy.config.schema import Route

#: Columns for output that no person looks at directly: a sentence stays on its line.
_UNBROKEN = 1000
#: Basis points of failures above which stable is no base for a plan.
_MOST_ERRORS = 5_000
#: What can be said of a plan without a step below 100 %.
_BLUE_GREEN = (
    "every step is at 100%: nobody is left to compare with. The canary is compared with stable's own past; how soon that finds a "
    "fault is not in this plan, and a fault meets everybody until then. A step below 100% first can be planned"
)
_PANEL = "Traffic; what is not given is asked of the running proxy"


@operating
def plan(  # noqa: PLR0917  each is an option of the command
    session: Session,
    route: RouteArgument = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second, both variants together.", rich_help_panel=_PANEL, show_default=False)
    ] = None,
    errors: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Stable's failures. With --rate: 0.1%.", rich_help_panel=_PANEL, show_default=False),
    ] = None,
    p95: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stable's p95 latency, for example 200ms.", rich_help_panel=_PANEL, show_default=False),
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(help="Users of the route, whom the proxy does not know.", rich_help_panel=_PANEL, show_default=False),
    ] = None,
    goal_rate: Annotated[
        float | None,
        typer.Option(help="Conversions a second, both variants together.", rich_help_panel=_PANEL, show_default=False),
    ] = None,
    spread: Annotated[
        float, typer.Option(help="How much users cluster (design effect); 1: not at all.", rich_help_panel=_PANEL)
    ] = 1.0,
) -> None:
    """Say what a rollout will take: time to prove health, time to find each regression, users that it hurts."""
    name, configured, source = _configured(session, route)
    traffic = _given(rate, errors, p95, users, goal_rate, spread)
    live = None
    if rate is None:
        live = session.admin.get(session.admin.route(name))
        name, traffic = live["route"], _with_live(live, traffic)
    report = _report(name, source, configured, _judged(traffic), live)
    if session.as_json:
        typer.echo(json.dumps(report.document(), indent=2))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _UNBROKEN
    console.print(report.table())


# --- What is asked ---


def _configured(session: Session, name: str | None) -> tuple[str | None, Route, str]:
    """The route's name where it is known already, its configuration (the defaults without a file), where that is from."""
    from canaryproxy.config.load import load
    from canaryproxy.config.schema import Route

    if session.config is None:
        return name, Route(stable="stable"), "the defaults"
    routes = load(session.config).routes
    if name is None:
        if len(routes) != 1:
            raise RefusedError("route", f"there are {len(routes)} routes", f"name one of {', '.join(routes)}")
        name = next(iter(routes))
    if name not in routes:
        raise RefusedError(f"route {name!r}", "does not exist", f"there is {', '.join(routes)}")
    return name, routes[name], str(session.config)


@dataclass(frozen=True, slots=True)
class _Given:
    """The traffic as far as the options say it."""

    rate: float | None
    errors: float | None
    p95_us: int | None
    users: int | None
    goal_rate: float | None
    spread: float


def _given(  # noqa: PLR0917  each is an option of the command
    rate: float | None, errors: str | None, p95: str | None, users: int | None, goal_rate: float | None, spread: float
) -> _Given:
    """The options, checked; raises BadParameter."""
    from canaryproxy.config.quantities import parse_duration, parse_percent

    for option, number in (("--rate", rate), ("--users", users), ("--goal-rate", goal_rate)):
        if number is not None and not (isfinite(number) and number > 0):
            raise typer.BadParameter(f"{number:g} is not a number above 0", param_hint=option)
    if not (isfinite(spread) and spread >= 1):
        raise typer.BadParameter(f"{spread:g} is not a number from 1 on", param_hint="--spread")
    share = _read("--errors", parse_percent, errors)
    if share is not None and share > _MOST_ERRORS:
        raise typer.BadParameter(f"{errors!r} is no state to begin a rollout in; at most 50%", param_hint="--errors")
    seconds = _read("--p95", parse_duration, p95)
    if seconds is not None and seconds <= 0:
        raise typer.BadParameter(f"{p95!r} is not a time above 0", param_hint="--p95")
    p95_us = None if seconds is None else max(round(seconds * 1e6), 1)
    return _Given(rate, None if share is None else share / 10_000, p95_us, users, goal_rate, spread)


def _read(option: str, parse: Callable[[Any], float], text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _with_live(live: Answer, given: _Given) -> _Given:
    """What is not given, from the last minute of the running proxy."""
    stable = live["stable"]
    rate = stable["requests_per_second"] + (live["canary"] or {}).get("requests_per_second", 0.0)
    if not rate:
        raise RefusedError(f"route {live['route']!r}", "no requests in the last minute", "give --rate, --errors and --p95")
    errors, p95_ms = stable["error_percent"], stable["p95_ms"]
    return _Given(
        rate,
        errors / 100 if given.errors is None and errors is not None else given.errors,
        round(p95_ms * 1000) if given.p95_us is None and p95_ms is not None else given.p95_us,
        given.users,
        given.goal_rate,
        given.spread,
    )


def _judged(given: _Given) -> Traffic:
    """The traffic that is judged: of a user at most `CAP` requests in `CAP_SECONDS`."""
    from canaryproxy.analysis.planning import Traffic
    from canaryproxy.proxy.users import CAP, CAP_SECONDS

    rate = given.rate or 0.0
    if given.users is not None:
        rate = min(rate, given.users * CAP / CAP_SECONDS)
    errors = 0.001 if given.errors is None else given.errors
    return Traffic(rate, errors, given.p95_us, given.users, given.goal_rate, given.spread)


# --- What is answered ---


def _report(name: str | None, source: str, configured: Route, traffic: Traffic, live: Answer | None) -> _Report:
    from canaryproxy.analysis.planning import Concern, Rung, concerns, first_weight
    from canaryproxy.analysis.planning import plan as plan_steps
    from canaryproxy.control.settings import judge_settings

    rollout = configured.rollout
    rungs = [Rung(step.weight / 10_000, step.hold) for step in rollout.rungs if step.weight < 10_000]
    settings, bake = judge_settings(configured), rollout.bake
    steps = plan_steps(traffic, settings, rungs)
    first = first_weight(traffic, settings)
    warnings = concerns(steps, first, rollout.max_step_duration) if rungs else [Concern("blue_green", (), _BLUE_GREEN)]
    if not rungs:
        bake += sum(step.hold for step in rollout.rungs)
    if traffic.p95_us is None and settings.latency:
        warnings.append(Concern("no_latency", (), "latency is not in this plan: give --p95"))
    if traffic.users is None:
        warnings.append(Concern("no_users", (), "how many users a step has is not in this plan: give --users"))
    if live is not None and live["steps"] != len(rollout.rungs):
        steps_there = f"the running proxy's plan has {live['steps']} steps, this one {len(rollout.rungs)}"
        warnings.append(Concern("other_plan", (), f"{steps_there}: give its file as --config"))
    return _Report(name, source, traffic, steps, bake, first, tuple(warnings), live is not None)


@dataclass(frozen=True, slots=True)
class _Report:
    """A plan, as it is shown."""

    route: str | None
    source: str
    traffic: Traffic
    steps: tuple[StepPlan, ...]
    bake: float
    first_weight: float | None
    warnings: tuple[Concern, ...]
    live: bool

    @property
    def seconds(self) -> float:
        """Of the whole rollout, bake included, if the canary is healthy."""
        return sum(step.seconds for step in self.steps) + self.bake

    def document(self) -> dict[str, Any]:
        """For programs: null where it is never."""
        traffic = self.traffic
        return {
            "route": self.route,
            "plan": self.source,
            "traffic": {
                "live": self.live,
                "judged_requests_per_second": _number(traffic.rate),
                "error_percent": _number(100 * traffic.errors),
                "p95_ms": None if traffic.p95_us is None else traffic.p95_us / 1000,
                "users": traffic.users,
                "goals_per_second": traffic.goal_rate,
                "spread": traffic.spread,
            },
            "steps": [_step_document(step) for step in self.steps],
            "bake": self.bake,
            "seconds": _number(self.seconds),
            "first_weight_percent": None if self.first_weight is None else _number(100 * self.first_weight),
            "warnings": [{"code": one.code, "steps": list(one.steps), "sentence": one.sentence} for one in self.warnings],
        }

    def table(self) -> RenderableType:
        """For people: the steps, what is found in each and after how long, and what to know."""
        from rich.console import Group
        from rich.text import Text

        from canaryproxy.analysis.planning import spoken

        lines: list[RenderableType] = [Text(self._heading()), Text()]
        if self.steps:
            lines += [self._steps(), Text(), self._found(), Text()]
        if any(_is_only_paused(found) for step in self.steps for found in step.found):
            lines.append(Text("* only paused, not rolled back"))
        least = "" if self.steps else "at least "
        lines.append(Text(f"the whole rollout: {least}{spoken(self.seconds)}, of which {spoken(self.bake)} at 100%"))
        if self.first_weight is not None:
            lines.append(Text(f"proposed first weight: {self.first_weight:.0%} or more"))
        lines += [Text(f"warning: {one.sentence}") for one in self.warnings]
        return Group(*lines)

    def _heading(self) -> str:
        traffic = self.traffic
        p95 = "" if traffic.p95_us is None else f", p95 {traffic.p95_us / 1000:,.0f} ms"
        place = f"{self.route}: " if self.route else ""
        measured = " (now)" if self.live else ""
        return (
            f"{place}{traffic.rate:,.1f} judged req/s, {100 * traffic.errors:.2f}% errors{p95}{measured}; steps of {self.source}"
        )

    def _steps(self) -> RenderableType:
        from rich.text import Text

        from canaryproxy.analysis.planning import spoken

        table = _columns("step", "weight", "hold", "req/s", "users", "health needs", "proven after", "lasts")
        for step in self.steps:
            users = "-" if step.users is None else f"{step.users:,.0f}"
            needs = "-" if step.requests == inf else f"{step.requests:,.0f} requests"
            times = (spoken(step.health), spoken(step.seconds))
            cells = (f"{step.number}", f"{100 * step.weight:g}%", spoken(step.hold), f"{step.rate:,.1f}", users, needs, *times)
            table.add_row(*map(Text, cells))
        return table

    def _found(self) -> RenderableType:
        from rich.text import Text

        table = _columns("found after (hurt until then)", *(f"step {step.number}" for step in self.steps))
        for found in zip(*(step.found for step in self.steps), strict=True):
            table.add_row(*map(Text, (found[0].regression, *map(_cell, found))))
        return table


def _columns(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(first, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in others:
        table.add_column(title, justify="right")
    return table


def _is_only_paused(found: Found) -> bool:
    return found.seconds < inf == found.rollback


def _cell(found: Found) -> str:
    from canaryproxy.analysis.planning import spoken

    if found.seconds == inf:
        return "never"
    return f"{spoken(found.seconds)}{'*' if _is_only_paused(found) else ''} ({found.hurt:,.0f})"


def _step_document(step: StepPlan) -> dict[str, Any]:
    return {
        "step": step.number,
        "weight_percent": _number(100 * step.weight),
        "hold": step.hold,
        "canary_requests_per_second": _number(step.rate),
        "canary_users": _number(step.users),
        "health_requests": {name: _number(requests) for name, requests in step.needed.items()},
        "health_seconds": _number(step.health),
        "seconds": _number(step.seconds),
        "found": [
            {
                "regression": found.regression,
                "canary_requests": _number(found.requests),
                "seconds": _number(found.seconds),
                "action": found.action.value,
                "rollback_seconds": _number(found.rollback),
                "hurt": _number(found.hurt),
            }
            for found in step.found
        ],
    }


def _number(value: float | None) -> float | None:
    """Rounded; null of what is never."""
    return None if value is None or value == inf else round(value, 3)
