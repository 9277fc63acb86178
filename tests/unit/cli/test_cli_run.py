"""`run`, `check`, `init`, `demo` and the command line as a whole; the supervisor and the demo are played."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from certificates import Authority
from played_admin import Command

from canaryproxy import __version__
from canaryproxy.cli.demo.scenario import SCENARIOS
from canaryproxy.cli.run import Scenario

pytest_plugins = ["played_admin"]

PLAIN = """\
pools:
  v1: {servers: ['http://127.0.0.1:8001']}
  v2: {servers: ['http://127.0.0.1:8002']}
routes:
  shop: {stable: v1, canary: v2}
  api: {stable: v1, match: {paths: [/api]}}
"""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the supervisor was asked to serve; it ends with code 7."""
    calls: list[Any] = []

    def serve(config: object, path: Path | None) -> int:
        calls.append((config, path))
        return 7

    played = ModuleType("canaryproxy.supervisor")
    played.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "canaryproxy.supervisor", played)
    return calls


def test_run_from_a_file(command: Command, served: list[Any]) -> None:
    Path("c.yaml").write_text(PLAIN)
    assert command("run", "--config", "c.yaml").code == 7
    [(config, path)] = served
    assert (config.routes["shop"].canary, path) == ("v2", Path("c.yaml"))


def test_the_schema_is_printed(command: Command) -> None:
    ran = command("schema")
    assert (ran.code, json.loads(ran.out)["title"]) == (0, "canaryproxy configuration")


def test_run_from_flags(command: Command, served: list[Any]) -> None:
    pools = ["--stable", "http://127.0.0.1:8001", "--stable", "http://127.0.0.1:8003", "--canary", "http://127.0.0.1:8002"]
    rest = ["--listen", ":80", "--admin", "127.0.0.1:99", "--workers", "3", "--state", "s.db"]
    assert command("run", *pools, *rest).code == 7
    [(config, path)] = served
    assert path is None
    assert [str(server) for server in config.pools[config.routes["default"].stable].servers] == [
        "http://127.0.0.1:8001",
        "http://127.0.0.1:8003",
    ]
    assert (str(config.listen), str(config.admin.listen)) == ("0.0.0.0:80", "127.0.0.1:99")
    assert (config.workers, config.state.path) == (3, "s.db")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --config FILE, or both"),
        (["--stable", "http://127.0.0.1:8001"], "give --config FILE, or both"),
        (["--config", "c.yaml", "--workers", "2"], "--workers cannot stand beside --config"),
        (["--config", "c.yaml", "--stable", "http://x", "--canary", "http://y"], "--stable, --canary cannot stand beside"),
    ],
)
def test_run_is_told_in_one_of_two_ways(command: Command, served: list[Any], words: list[str], said: str) -> None:
    ran = command("run", *words)
    assert ran.code == 2
    assert said in " ".join(ran.err.replace("│", "").split())
    assert served == []


def test_run_says_every_problem(command: Command, served: list[Any]) -> None:
    ran = command("run", "--stable", "127.0.0.1:8001", "--canary", "http://127.0.0.1:8002", "--listen", "x")
    assert ran.code == 1
    assert [line.split(": ")[:2] for line in ran.err.splitlines()] == [["canaryproxy", "--stable"], ["canaryproxy", "--listen"]]
    assert served == []


def test_run_says_what_would_surprise(command: Command, served: list[Any]) -> None:
    Path("c.yaml").write_text("admin: {listen: '0.0.0.0:9900'}\n" + PLAIN)
    assert command("run", "--config", "c.yaml").err.startswith("canaryproxy: warning: admin.listen: ")
    assert len(served) == 1


def test_check_sums_up(command: Command) -> None:
    Path("c.yaml").write_text(PLAIN)
    ran = command("check", "c.yaml")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "ok: c.yaml: 2 pools, 2 routes",
        "  serving on http://0.0.0.0:8080; admin on http://127.0.0.1:9900",
        "  shop: v1 -> v2: 1% for 5m, 5% for 10m, 25% for 10m, 50% for 15m, then 100% for 30m",
        "  api: all to v1, no canary",
    ]
    assert json.loads(command("check", "c.yaml", "--json").out) == {"ok": True, "problems": [], "warnings": []}


def test_check_shows_pauses_gates_and_what_is_held_back(command: Command) -> None:
    plan = "steps: [{weight: 5%, hold: 5m}, {pause: {}}, {weight: 20%, hold: 10m}, {pause: {duration: 1h}}], hold_back: 5%"
    hooks = "hooks: [{type: confirm_step, url: 'http://127.0.0.1:1/'}, {type: event, url: 'http://127.0.0.1:1/'}]"
    pools = "pools: {v1: {servers: ['http://127.0.0.1:1']}, v2: {servers: ['http://127.0.0.1:2']}}"
    Path("c.yaml").write_text(f"{pools}\nroutes: {{shop: {{stable: v1, canary: v2, rollout: {{{plan}}}, {hooks}}}}}\n")
    lines = command("check", "c.yaml").out.splitlines()
    assert lines[0] == "ok: c.yaml: 2 pools, 1 route"
    said = "5% for 5m, pause, 20% for 10m, pause of 1h, then 95% for 30m; waits for hooks: confirm_step"
    assert lines[2] == f"  shop: v1 -> v2: {said}"


def test_check_says_where_users_arrive_over_tls(command: Command) -> None:
    Authority(Path()).issue("example.com")
    tls = "tls: {certificate: server.pem, key: server.key}\n"
    Path("c.yaml").write_text(tls + PLAIN)
    ran = command("check", "c.yaml")
    assert ran.out.splitlines()[1] == "  serving on http://0.0.0.0:8080, https://0.0.0.0:8443; admin on http://127.0.0.1:9900"
    Path("c.yaml").write_text("listen: false\n" + tls + PLAIN)
    assert command("check", "c.yaml").out.splitlines()[1] == "  serving on https://0.0.0.0:8443; admin on http://127.0.0.1:9900"
    Authority(Path()).issue("example.com", file="other")
    Path("c.yaml").write_text(tls.replace("server.key", "other.key") + PLAIN)
    ran = command("check", "c.yaml")
    what = "'other.key' is not the key of the certificate in 'server.pem'; name the two files that belong together"
    assert (ran.code, ran.err) == (1, f"canaryproxy: c.yaml:1 tls.key: {what}\n")


def test_run_from_flags_to_servers_over_tls_and_on_sockets(command: Command, served: list[Any]) -> None:
    assert command("run", "--stable", "https://app.internal", "--canary", "unix:/run/app.sock").code == 7
    [(config, _)] = served
    route = config.routes["default"]
    stable, canary = config.pools[route.stable].servers, config.pools[route.canary].servers
    assert [(server.host, server.port, server.tls) for server in stable] == [("app.internal", 443, True)]
    assert [server.path for server in canary] == ["/run/app.sock"]


def test_check_says_every_problem(command: Command) -> None:
    Path("c.yaml").write_text(PLAIN.replace("canary: v2", "canary: v3") + "colour: red\n")
    ran = command("check", "c.yaml")
    assert (ran.code, ran.out) == (1, "")
    assert [line.split(": ")[1] for line in ran.err.splitlines()] == ["c.yaml:5 routes.shop.canary", "c.yaml:7 colour"]
    ran = command("check", "c.yaml", "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["ok"], len(found["problems"])) == (1, False, 2)
    assert found["problems"][0]["what"] == "no pool is named 'v3'"


def test_check_of_a_file_that_is_not_there(command: Command) -> None:
    ran = command("check", "c.yaml")
    assert (ran.code, ran.err) == (1, "canaryproxy: c.yaml: no such file; canaryproxy init writes an example\n")


def test_init_writes_an_example_that_is_right(command: Command) -> None:
    assert command("init").code == 0
    assert command("check", "canaryproxy.yaml").code == 0


def test_init_overwrites_only_when_forced(command: Command) -> None:
    Path("c.yaml").write_text("mine")
    ran = command("init", "c.yaml")
    assert (ran.code, ran.err) == (1, "canaryproxy: c.yaml: is there already; --force overwrites it\n")
    assert Path("c.yaml").read_text() == "mine"
    assert command("init", "c.yaml", "--force").code == 0
    assert Path("c.yaml").read_text() != "mine"
    assert command("init", "no/such/place.yaml").code == 1


def test_demo_is_told_its_scenario(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    played = ModuleType("canaryproxy.cli.demo")
    wanted = ("slow", {"plain": True, "port": 0, "as_json": False})
    played.main = lambda scenario, **options: 0 if (scenario, options) == wanted else 9  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "canaryproxy.cli.demo", played)
    assert command("demo", "--scenario", "slow", "--plain").code == 0
    assert command("demo", "--scenario", "fast").code == 2
    assert {*Scenario} == {*SCENARIOS}


@pytest.mark.parametrize("words", ["version", "--version"])
def test_the_version(command: Command, words: str) -> None:
    assert command(words).out == f"canaryproxy {__version__}\n"


def test_without_words_there_is_help(command: Command) -> None:
    ran = command()
    assert ran.code == 2
    assert "rollback" in ran.out + ran.err


@pytest.mark.parametrize("words", [["rolback"], ["status", "--jason"], ["decisions", "--limit", "0"], ["set-weight"]])
def test_what_it_does_not_know_is_a_usage_error(command: Command, words: list[str]) -> None:
    assert command(*words).code == 2


def test_the_module_is_the_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "canaryproxy", "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Usage: canaryproxy" in ran.stdout


def test_an_operators_command_starts_without_the_proxys_code() -> None:
    heavy = {"aiohttp", "uvloop", "yaml", "rich", "canaryproxy.config.schema", "canaryproxy.control", "canaryproxy.proxy"}
    code = f"import sys, canaryproxy.cli; print(sorted({heavy} & {{*sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"
