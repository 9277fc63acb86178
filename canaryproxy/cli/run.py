"""Commands that start something or look at a configuration file: `run`, `check`, `init`, `demo`.

Called by people, service managers and containers. They import the proxy's own code, hence late.
"""

from __future__ import annotations

import json
import logging
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canaryproxy.errors import ConfigError, StartError

if TYPE_CHECKING:
    from canaryproxy.config.schema import Route
    from canaryproxy.errors import Problem


class Scenario(StrEnum):
    """What is wrong with the demo's new version."""

    ERRORS = "errors"
    SLOW = "slow"
    HANG = "hang"
    HEALTHY = "healthy"


def run(
    *,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Everything from this file; SIGHUP reads it again.", show_default=False)
    ] = None,
    stable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="A server of the present version: http://, https:// or unix:/path; may be repeated.",
            show_default=False,
        ),
    ] = None,
    canary: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A server of the new version; may be repeated.", show_default=False)
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where users come in. Default: 0.0.0.0:8080", show_default=False)
    ] = None,
    admin: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where operators do. Default: 127.0.0.1:9900", show_default=False)
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Default: one for each core.", show_default=False)] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Rollouts and decisions are kept there. Default: ./canaryproxy.db", show_default=False),
    ] = None,
) -> None:
    """Serve: from a configuration file, or with --stable and --canary and the defaults for all else."""
    from canaryproxy.config.check import warnings
    from canaryproxy.config.load import from_flags, load
    from canaryproxy.supervisor import serve

    flags = {"--stable": stable, "--canary": canary, "--listen": listen, "--admin": admin, "--workers": workers, "--state": state}
    given = [name for name, value in flags.items() if value]
    if config and given:
        raise typer.BadParameter(f"{', '.join(given)} cannot stand beside --config; write it into {config}")
    if config:
        settings = load(config)
    elif stable and canary:
        settings = from_flags(stable, canary, listen=listen, workers=workers, admin=admin, state=state)
    else:
        raise typer.BadParameter("give --config FILE, or both --stable URL and --canary URL")
    _warn(warnings(settings))
    logging.basicConfig(format="canaryproxy: %(message)s", level=logging.INFO)
    raise typer.Exit(serve(settings, config))


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say everything that is wrong with a configuration file, and start nothing."""
    from canaryproxy.config.check import warnings
    from canaryproxy.config.load import load

    try:
        settings = load(file)
    except ConfigError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"ok": False, "problems": list(map(_as_dict, error.problems)), "warnings": []}, indent=2))
        raise typer.Exit(1) from None
    found = warnings(settings)
    if as_json:
        typer.echo(json.dumps({"ok": True, "problems": [], "warnings": list(map(_as_dict, found))}, indent=2))
        return
    _warn(found)
    typer.echo(f"ok: {file}: {_counted(len(settings.pools), 'pool')}, {_counted(len(settings.routes), 'route')}")
    typer.echo(f"  serving on {', '.join(settings.urls)}; admin on http://{settings.admin.listen}")
    for name, route in settings.routes.items():
        typer.echo(f"  {name}: {_plan(route)}")


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to write.")] = Path("canaryproxy.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON what was written.")] = False,
) -> None:
    """Write a commented example configuration."""
    from canaryproxy.config.load import example_text

    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(example_text())
    except FileExistsError:
        raise StartError(str(path), "is there already", "--force overwrites it") from None
    except OSError as error:
        raise StartError(str(path), f"cannot be written ({error.strerror})", "give another path") from None
    then = f"edit it, then: canaryproxy check {path}, canaryproxy run --config {path}"
    typer.echo(json.dumps({"written": str(path)}) if as_json else f"written: {path}; {then}")


def schema(_as_json: Annotated[bool, typer.Option("--json", help="As JSON, which it always is.")] = False) -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    from canaryproxy.config.load import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def demo(
    scenario: Annotated[Scenario, typer.Option(help="What is wrong with the new version.")] = Scenario.ERRORS,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live picture.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where users come in; 0: any free port.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Only how it ended, as JSON.")] = False,
) -> None:
    """Watch a whole rollout: two small app servers, made-up users, a new version that goes wrong, and what the proxy does."""
    from canaryproxy.cli.demo import main

    raise typer.Exit(main(scenario.value, plain=plain, port=port, as_json=as_json))


def _warn(found: list[Problem]) -> None:
    for warning in found:
        typer.echo(f"canaryproxy: warning: {warning}", err=True)


def _as_dict(problem: Problem) -> dict[str, str]:
    return {"where": problem.where, "what": problem.what, "hint": problem.hint}


def _plan(route: Route) -> str:
    """`v1 -> v2: 1% for 5m, pause, 5% for 10m, then 100% for 30m; gates: confirm_step`."""
    from canaryproxy.config.hooks import GATES
    from canaryproxy.config.quantities import format_duration, format_percent
    from canaryproxy.config.rollouts import PauseStep

    if route.canary is None:
        return f"all to {route.stable}, no canary"
    plan, steps = route.rollout, []
    for step in plan.steps:
        if isinstance(step, PauseStep):
            steps.append(f"pause of {format_duration(step.pause.duration)}" if step.pause.duration else "pause")
        else:
            steps.append(f"{format_percent(step.weight)} for {format_duration(step.hold)}")
    bake = f"{format_percent(10_000 - plan.hold_back)} for {format_duration(plan.bake)}"
    asked = list(dict.fromkeys(hook.type.value for hook in route.hooks if hook.type in GATES))
    gates = f"; waits for hooks: {', '.join(asked)}" if asked else ""
    return f"{route.stable} -> {route.canary}: {', '.join(steps)}, then {bake}{gates}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
