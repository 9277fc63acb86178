"""A small real HTTP server in a thread that plays the admin API, and the command line run against it.

A plugin of the tests of this directory. It asserts nothing itself (PYTEST_DONT_REWRITE).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from canaryproxy.cli import app

TOKEN = "the-token"


@dataclass
class Played:
    """What the played API answers for each "METHOD /path" (status, JSON), and what it was asked."""

    url: str = ""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)


@pytest.fixture
def api() -> Iterator[Played]:
    """The played admin API, listening on loopback."""
    played = Played()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = f"{self.command} {self.path}"
            played.asked.append((asked, json.loads(body) if body else None))
            played.authorization.append(self.headers.get("Authorization"))
            status, answer = played.answers.get(
                asked, (404, {"error": {"code": "not_found", "message": "no such path", "hint": ""}})
            )
            payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_PUT(self) -> None:
            self.answer()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        played.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield played
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def command(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `canaryproxy WORDS...` in an empty directory, in this process."""
    monkeypatch.chdir(tmp_path)
    for name in ("CANARYPROXY_ADMIN", "CANARYPROXY_TOKEN", "CANARYPROXY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str, **environ: str) -> Ran:
        result = CliRunner().invoke(app, list(words), env=environ, prog_name="canaryproxy")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def operator(api: Played, command: Command) -> Command:
    """The same, told where the played API is and what its token is."""
    return lambda *words: command(*words, CANARYPROXY_ADMIN=api.url, CANARYPROXY_TOKEN=TOKEN)


def route(name: str = "shop", **changed: Any) -> dict[str, Any]:
    """A route as the admin API shows it: step 2 of 4."""
    return {
        "route": name,
        "phase": "progressing",
        "step": 2,
        "steps": 4,
        "weight_percent": 5.0,
        "epoch": 7,
        "revision": 3,
        "stable": {"pool": "v1", "requests_per_second": 951.2, "error_percent": 0.1, "p95_ms": 41.0},
        "canary": {"pool": "v2", "requests_per_second": 50.1, "error_percent": 2.0, "p95_ms": 1043.0},
        "verdict": "inconclusive",
        "sentence": "canary 8/402 failed (2.0 %), stable 41/39800 (0.10 %), evidence 85 to 1",
        "reason": "",
        "users": {"exposed": 0, "hurt": 0},
        "frozen": False,
        "hold": 600.0,
        "held": 81.2,
        "saved": True,
    } | changed


def done(**changed: Any) -> dict[str, Any]:
    """The answer to a verb: the route, and how far the change has got."""
    return route(applied_by=4, workers=4, saved=True) | changed
