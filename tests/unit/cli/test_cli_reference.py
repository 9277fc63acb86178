"""The commands as a whole: their page, their exit codes, what a shell completes, and what is said of a slip of the finger."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from played_admin import Command, Played, route
from typer.main import get_command

from canaryproxy.cli import app
from canaryproxy.cli.reference import document, exits

pytest_plugins = ["played_admin"]

COMMANDS = list(getattr(get_command(app), "commands"))  # noqa: B009  typer's own types do not have it

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(command: Command, api: Played) -> Complete:
    """What a shell offers for the last of these words, by the protocol of its completion script."""
    api.answers["GET /api/v1/routes"] = (200, {"routes": [route("shop"), route("shop-eu"), route("web")]})

    def ask(*words: str, shell: str = "bash", **environ: str) -> list[str]:
        line = " ".join(("canaryproxy", *words))
        asked = {
            "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words))},
            "zsh": {"_TYPER_COMPLETE_ARGS": line},
            "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell]
        environ = {"CANARYPROXY_ADMIN": api.url} | environ
        return command(**asked, **environ, _CANARYPROXY_COMPLETE=f"complete_{shell}").out.split()

    return ask


def test_the_page_is_written_from_the_commands() -> None:
    path = Path(__file__).parents[3] / "docs" / "cli.md"
    assert path.read_text() == document(), "write reference.document() to docs/cli.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_its_exit_codes_and_speaks_json(command: Command, name: str) -> None:
    said = " ".join(command(name, "--help").out.split())
    assert "Exit codes: " in said
    assert all(f"{code} {meaning.split()[0]}" in said for code, meaning in exits(name).items())
    assert ("--json" in said) == (name != "run")


def test_a_slip_of_the_finger_is_answered_with_what_was_meant(command: Command) -> None:
    ran = command("rolback")
    assert ran.code == 2
    assert "Did you mean 'rollback'?" in ran.err


def test_a_shell_completes_commands_and_options(complete: Complete) -> None:
    assert complete("ro") == ["rollback"]
    assert complete("rollback", "--rea") == ["--reason"]
    assert complete("report", "--format", "h") == ["html"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_the_routes_of_the_running_proxy(complete: Complete, shell: str) -> None:
    found = " ".join(complete("rollback", "sh", shell=shell))
    assert "shop" in found
    assert "shop-eu" in found
    assert "web" not in found


@pytest.mark.parametrize("verb", ["status", "decisions", "report", "pause", "retry", "promote"])
def test_every_verb_completes_routes(complete: Complete, verb: str) -> None:
    assert complete(verb, "w") == ["web"]


def test_the_proxy_that_the_line_means_is_asked(complete: Complete, api: Played) -> None:
    assert complete("rollback", "--admin", api.url, "w", CANARYPROXY_ADMIN="http://127.0.0.1:1") == ["web"]


@pytest.mark.parametrize("where", ["http://127.0.0.1:1", "no url"])
def test_a_proxy_that_does_not_answer_completes_nothing_and_says_nothing(complete: Complete, where: str) -> None:
    assert complete("rollback", "sh", CANARYPROXY_ADMIN=where) == []


def test_an_answer_that_is_none_completes_nothing(complete: Complete, api: Played) -> None:
    api.answers["GET /api/v1/routes"] = (200, {"routes": [{"name": "shop"}]})
    assert complete("rollback", "sh") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(command: Command, shell: str) -> None:
    said = command(_CANARYPROXY_COMPLETE=f"source_{shell}").out
    assert f"complete_{shell}" in said
    assert "canaryproxy" in said


def test_programs_get_json_from_small_commands_too(command: Command) -> None:
    assert command("version", "--json").out.startswith('{"version": ')
    assert command("init", "--json").out == '{"written": "canaryproxy.yaml"}\n'
    assert command("schema", "--json").out == command("schema").out


def test_the_playbook_names_commands_and_options_that_there_are() -> None:
    text = (Path(__file__).parents[3] / "docs" / "playbook.md").read_text()
    code = "\n".join(re.findall(r"`[^`\n]+`|```sh\n.*?```", text, re.DOTALL))
    used = [line.split() for line in re.findall(r"\bcanaryproxy ([a-z][a-z-]*(?: [^`\n&|]*)?)", code)]
    assert len(used) > 12
    commands = getattr(get_command(app), "commands")  # noqa: B009
    for name, *words in used:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        options = {word for word in words if re.fullmatch("-[a-z]|--[a-z-]+", word)}
        assert options <= known, name
