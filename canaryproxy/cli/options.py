"""What every operating command takes beside its own arguments: which proxy is meant, and whether a program reads the answer.

Called by `operate` and `show`. Order of preference for each setting: the option, the file of `--config`, the environment,
the default.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from canaryproxy.cli.client import Admin
from canaryproxy.errors import CanaryproxyError

DEFAULT_ADMIN = "http://127.0.0.1:9900"
DEFAULT_TOKEN_FILE = "./canaryproxy.token"

_PANEL = "Which proxy"
_P = ParamSpec("_P")

#: Seconds that a shell may wait for the names of the routes.
_COMPLETION_TIMEOUT = 0.5


def _route_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The routes whose names begin so, for a shell; none where the proxy does not answer at once."""
    which = {name: ctx.params.get(name) for name in ("admin", "token_file", "config")}
    try:
        routes = replace(locate(**which), timeout=_COMPLETION_TIMEOUT).routes()
        return [name for route in routes if (name := str(route["route"])).startswith(incomplete)]
    except (CanaryproxyError, KeyError, TypeError):
        return []


RouteArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="ROUTE", help="Not needed when there is only one route.", show_default=False, autocompletion=_route_names
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept with the decision.", show_default=False)]


@dataclass(frozen=True, slots=True)
class Session:
    """The proxy that a command talks to, how it shows the answer, and the file of `--config`."""

    admin: Admin
    as_json: bool
    config: Path | None = None

    def show(self, answer: Any, text: str) -> None:
        """Print the answer: all of it as JSON for programs, `text` for people."""
        typer.echo(json.dumps(answer, indent=2) if self.as_json else text)


def locate(admin: str | None, token_file: Path | None, config: Path | None) -> Admin:
    """The proxy that these options and the environment mean. Raises ConfigError when `config` cannot be used."""
    token = None
    if config is not None:
        from canaryproxy.config.load import load

        settings = load(config).admin
        admin = admin or _url_of(settings.listen.host, settings.listen.port)
        token_file = token_file or Path(settings.token_file)
    if token_file is None:
        token = os.environ.get("CANARYPROXY_TOKEN")
        token_file = Path(os.environ.get("CANARYPROXY_TOKEN_FILE", DEFAULT_TOKEN_FILE))
    return Admin(admin or os.environ.get("CANARYPROXY_ADMIN", DEFAULT_ADMIN), token_file, token)


def _url_of(host: str, port: int) -> str:
    """Where a client on this machine finds a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def operating(command: Callable[Concatenate[Session, _P], None]) -> Callable[..., None]:
    """The same command, with the options of `_session` in place of its first argument.

    Typer reads a command's options from its signature, so the signature is what is changed.
    """

    @functools.wraps(command)
    def run(
        admin: str | None, token_file: Path | None, config: Path | None, as_json: bool, *args: _P.args, **own: _P.kwargs
    ) -> None:
        command(Session(locate(admin, token_file, config), as_json, config), *args, **own)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = inspect.signature(_shared_options, eval_str=True).parameters.values()
    signature = inspect.Signature([*own, *shared])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return run


def _shared_options(
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    admin: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"Its admin endpoint. Default: CANARYPROXY_ADMIN, else {DEFAULT_ADMIN}.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Its token. Default: CANARYPROXY_TOKEN (the token itself), CANARYPROXY_TOKEN_FILE, else {DEFAULT_TOKEN_FILE}.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Its configuration: both are read from there.", rich_help_panel=_PANEL, show_default=False
        ),
    ] = None,
) -> None:
    """The options themselves; only the signature is used."""
