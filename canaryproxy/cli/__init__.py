"""The `canaryproxy` command. Exit codes: 0 done, 1 refused or wrong, 2 usage, 3 no answer; `reference` has them by command.

Every error that is meant for people ends here, as `canaryproxy: where: what; hint` on stderr. Commands import late what they
need: an operator's command starts without the proxy's own code.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from canaryproxy import __version__
from canaryproxy.cli import decisions, deploy, drill, operate, plan, report, run, show
from canaryproxy.cli.client import UnreachableError
from canaryproxy.cli.reference import epilog
from canaryproxy.errors import CanaryproxyError, ConfigError

EXIT_REFUSED = 1
EXIT_UNREACHABLE = 3


class Commands(TyperGroup):
    """The commands in the order of their registration, with one place for their errors."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CanaryproxyError as error:
            problems = error.problems if isinstance(error, ConfigError) else (error.problem,)
            for problem in problems:
                typer.echo(f"canaryproxy: {problem}", err=True)
            raise typer.Exit(EXIT_UNREACHABLE if isinstance(error, UnreachableError) else EXIT_REFUSED) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def canaryproxy(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A reverse proxy that splits traffic between two versions, judges both, and promotes or rolls back by itself."""


def version(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Print the version."""
    typer.echo(json.dumps({"version": __version__}) if as_json else f"canaryproxy {__version__}")


for panel, commands in {
    "Serve": (run.run, run.check, run.init, run.schema, run.demo),
    "Watch": (show.status, decisions.decisions, report.report, plan.plan, drill.drill, operate.health),
    "Operate": (
        *(deploy.start, operate.pause, operate.resume, operate.promote),
        *(operate.rollback, operate.retry, operate.set_weight),
    ),
    "About": (version,),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=epilog(command.__name__.replace("_", "-")))(command)


def main() -> None:
    """Run the command line and exit."""
    app(prog_name="canaryproxy")
