"""What each command's exit code means, and the table of all commands: `docs/cli.md` is written from here, a test compares.

Read by the command line for its `--help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from typer.core import TyperGroup

_DONE, _REFUSED, _USAGE = {0: "done"}, {1: "refused or wrong"}, {2: "usage"}
_OPERATING = _DONE | _REFUSED | _USAGE | {3: "the admin endpoint does not answer"}
_LOCAL = _DONE | _REFUSED | _USAGE

#: Exit codes by command; what is not listed talks to a running proxy, and has `_OPERATING`.
EXITS: dict[str, dict[int, str]] = {
    "run": _DONE | {1: "cannot start"} | _USAGE,
    "check": {0: "nothing is wrong", 1: "something is"} | _USAGE,
    "init": _LOCAL,
    "schema": _LOCAL,
    "version": _LOCAL,
    "demo": {0: "the story ended as it should", 1: "it did not"} | _USAGE,
    "drill": {0: "all within the limits", 1: "not, or it could not be rehearsed"} | _USAGE,
    "start": _OPERATING
    | {0: "done; with --wait: promoted", 1: "refused; with --wait: rolled back", 2: "usage; with --wait: timed out"},
    "decisions": _OPERATING | {1: "refused; with --replay: a verdict differs, or its counts are missing"},
    "health": {0: "ready", 1: "not ready"} | _USAGE | {3: "the admin endpoint does not answer"},
}

_HEAD = """\
# The command line

Written from the commands themselves by `document()` in `canaryproxy/cli/reference.py`; a test compares. What a command takes
says `canaryproxy COMMAND --help`. A signal ends a command with 128 + its number.

Every command but `run` has `--json`. An error is one line on stderr, `canaryproxy: where: what is wrong; what to do`;
of what the command line itself cannot read (an unknown option, a missing value: exit code 2), a few lines with the usage.
Which proxy is meant say `--admin URL` and `--token-file FILE`, or `--config FILE` (both are read from there), or the
environment: `CANARYPROXY_ADMIN`, `CANARYPROXY_TOKEN`, `CANARYPROXY_TOKEN_FILE`.

`canaryproxy --install-completion` sets up completion for bash, zsh or fish; names of routes are asked of the running proxy.
"""


def exits(command: str) -> dict[int, str]:
    """What the exit codes of this command mean."""
    return EXITS.get(command, _OPERATING)


def epilog(command: str) -> str:
    """The same as the last line of its `--help`."""
    return f"Exit codes: {_spelled(command)}."


def document() -> str:
    """The text of `docs/cli.md`."""
    from typer.main import get_command

    from canaryproxy.cli import app

    panels: dict[str, list[tuple[str, Any]]] = {}
    for name, command in cast("TyperGroup", get_command(app)).commands.items():
        panels.setdefault(str(getattr(command, "rich_help_panel", "")), []).append((name, command))
    parts = [_HEAD]
    for panel, commands in panels.items():
        rows = [f"| `{_usage(name, command)}` | {_first_line(command)} | {_spelled(name)} |" for name, command in commands]
        parts.append("\n".join([f"## {panel}", "", "| command | what it does | exit codes |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _spelled(name: str) -> str:
    return "; ".join(f"{code} {meaning}" for code, meaning in exits(name).items())


def _usage(name: str, command: Any) -> str:
    """The command with its arguments and those options that are its own."""
    words, names = [name], {parameter.name for parameter in command.params}
    shared = {"help", "as_json", "_as_json"} | ({"admin", "token_file", "config"} if "token_file" in names else set())
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            written = parameter.metavar or parameter.name.upper()
            words.append(written if parameter.required or written.startswith("[") else f"[{written}]")
        elif parameter.name not in shared:
            words.append(f"[{max(parameter.opts, key=len)}]")
    return " ".join(words)


def _first_line(command: Any) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split())
