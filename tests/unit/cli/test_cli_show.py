"""`status`: what people see, what programs get."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from played_admin import Command, Played, route
from rich.console import Console

from canaryproxy.cli.client import Admin, UnreachableError

pytest_plugins = ["played_admin"]


PLAN = {
    "steps": [{"weight_percent": 1.0, "hold": 60, "pause": 0}, {"weight_percent": 5.0, "hold": 600, "pause": None}],
    "bake": {"weight_percent": 100.0, "hold": 60},
}


@pytest.fixture
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that the user ends after two refreshes."""
    looks = iter([None])

    def pause(seconds: float) -> None:
        assert seconds == 1
        if next(looks, "done") == "done":
            raise KeyboardInterrupt

    monkeypatch.setattr("canaryproxy.cli.show.time.sleep", pause)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that shows pictures."""
    environment = {"TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    monkeypatch.setattr("canaryproxy.cli.show._console", lambda: Console(force_terminal=True, _environ=environment))


def test_both_variants_stand_side_by_side(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes"] = (200, {"routes": [route(), route("web", phase="idle", canary=None, weight_percent=0.0)]})
    lines = [" ".join(line.split()) for line in operator("status").out.splitlines()]
    assert lines[:5] == [
        "route phase step variant pool weight req/s errors p95",
        "shop progressing 2 of 4 stable v1 95% 951.2 0.10% 41 ms",
        "canary v2 5% 50.1 2.00% 1,043 ms",
        "web idle - stable v1 100% 951.2 0.10% 41 ms",
        "",
    ]
    assert lines[5:] == [
        "shop: held for 81 of 600 s (14%)",
        "shop: inconclusive: canary 8/402 failed (2.0 %), stable 41/39800 (0.10 %), evidence 85 to 1",
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"phase": "idle", "verdict": None}, []),
        ({"phase": "promoted", "reason": "health proven", "verdict": "pass"}, ["shop: promoted: health proven"]),
        ({"phase": "rolled_back", "reason": "too slow"}, ["shop: rolled back: too slow"]),
        ({"phase": "paused", "reason": "lunch", "sentence": "s"}, ["shop: paused: lunch", "shop: inconclusive: s"]),
        ({"phase": "baking", "verdict": None}, ["shop: held for 81 of 600 s (14%)"]),
        (
            {"phase": "rolled_back", "reason": "too slow", "users": {"exposed": 1402, "hurt": 7}},
            ["shop: rolled back: too slow", "shop: users exposed: 1,402, hurt: 7"],
        ),
        ({"phase": "promoted", "reason": "", "users": {"exposed": 1402, "hurt": 7}}, []),
        (
            {"frozen": True, "verdict": None, "users": {"exposed": 3, "hurt": 0}},
            [
                "shop: held for 81 of 600 s (14%)",
                "shop: frozen: stable itself is bad; goes on by itself when it is well again",
                "shop: users exposed: 3, hurt: 0",
            ],
        ),
        (
            {"verdict": None, "gate": "confirm_step", "plan": PLAN},
            [
                "shop: plan: 1% || > [5%] > bake",
                "shop: held for 81 of 600 s (14%)",
                "shop: waits: the hook confirm_step has not said yes yet; promote goes on without it",
            ],
        ),
        (
            {"phase": "baking", "verdict": None, "hold": 0, "plan": PLAN},
            ["shop: plan: 1% || > 5% > [bake]", "shop: held for 81 of 0 s"],
        ),
        ({"phase": "idle", "saved": False}, ["shop: not saved: the state cannot be written; see the proxy's log"]),
    ],
)
def test_what_there_is_to_say(operator: Command, api: Played, answer: dict[str, object], said: list[str]) -> None:
    api.answers["GET /api/v1/routes/shop"] = (200, route() | answer)
    assert [line for line in operator("status", "shop").out.splitlines() if line.startswith("shop:")] == said


def test_hooks_are_told_by_name(operator: Command, api: Played) -> None:
    waiting = [
        {"hook": "qa", "type": "confirm_step", "answer": "answered 403: waiting for QA", "yes": False},
        {"hook": "ops", "type": "confirm_step", "answer": "", "yes": False},
        {"hook": "legal", "type": "confirm_step", "answer": "answered 200", "yes": True},
    ]
    failed = {"hook": "chat", "error": "connection refused", "at": "2026-11-25T09:00:00.000Z"}
    hooks = {
        "waiting": waiting,
        "unheard": {"slo": "no answer within 2 s"},
        "notifications": {"pending": 3, "last_error": failed},
    }
    api.answers["GET /api/v1/routes/shop"] = (200, route(phase="idle", verdict=None, hooks=hooks))
    said = [line for line in operator("status", "shop").out.splitlines() if line.startswith("shop:")]
    assert said == [
        "shop: hook qa (confirm_step): answered 403: waiting for QA",
        "shop: hook ops (confirm_step): has not answered yet",
        "shop: rollback hook slo does not answer: no answer within 2 s",
        "shop: 3 notifications wait; hook chat: connection refused",
    ]
    hooks["notifications"] = {"pending": 0, "last_error": failed}
    api.answers["GET /api/v1/routes/shop"] = (200, route(phase="idle", verdict=None, hooks=hooks))
    assert "connection refused" not in operator("status", "shop").out


def test_figures_that_are_not_known_yet(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes/shop"] = (200, route(canary={"pool": "[v2]", "p95_ms": None}))
    assert operator("status", "shop").out.splitlines()[2].split() == ["canary", "[v2]", "5%", "-", "-", "-"]


def test_programs_get_what_the_api_says(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes"] = (200, {"routes": [route()]})
    assert json.loads(operator("status", "--json").out) == {"routes": [route()]}


@pytest.mark.usefixtures("one_look", "terminal")
def test_a_watch_goes_on_until_it_is_interrupted(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes"] = (200, {"routes": [route()]})
    ran = operator("status", "--watch")
    assert (ran.code, len(api.asked)) == (0, 2)
    assert "\x1b[?1049h" in ran.out, "a screen of its own"
    assert "canary 8/402 failed" in ran.out


def test_a_watch_in_a_pipe_writes_each_look_at_once(operator: Command, api: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answers["GET /api/v1/routes"] = (200, {"routes": [route()]})
    written: list[int] = []

    def pause(_: float) -> None:
        written.append(sys.stdout.buffer.tell())
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("canaryproxy.cli.show.time.sleep", pause)
    ran = operator("status", "--watch")
    assert ran.code == 0
    assert ran.out.count("canary 8/402 failed") == 2
    assert ran.out.count("\n\n\n") == 0
    assert "\x1b" not in ran.out
    assert 0 < written[0] < written[1]


@pytest.mark.usefixtures("one_look")
def test_a_watch_in_json_is_a_line_for_each_look(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes/shop"] = (200, route())
    ran = operator("status", "shop", "--watch", "--json")
    assert [json.loads(line) for line in ran.out.splitlines()] == [route(), route()]


@pytest.mark.usefixtures("one_look", "terminal")
def test_a_watch_waits_for_a_proxy_that_restarts(command: Command) -> None:
    ran = command("status", "--watch", "--admin", "http://127.0.0.1:1")
    assert ran.code == 0
    assert "is the proxy running?" in " ".join(ran.out.split())


@pytest.mark.usefixtures("one_look")
@pytest.mark.parametrize("form", [["--json"], []])
def test_a_watch_in_a_pipe_says_beside_it_that_nobody_answers(command: Command, form: list[str]) -> None:
    ran = command("status", "--watch", *form, "--admin", "http://127.0.0.1:1")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.count("is the proxy running?") == 2


@pytest.mark.usefixtures("one_look", "terminal")
def test_a_watch_keeps_in_sight_what_it_saw_last(operator: Command, api: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answers["GET /api/v1/routes"] = (200, {"routes": [route()]})
    asked: list[str] = []

    def get(admin: Admin, path: str) -> dict[str, Any]:
        asked.append(path)
        if len(asked) > 1:
            raise UnreachableError("x", "connection refused")
        return {"routes": [route()]}

    monkeypatch.setattr(Admin, "get", get)
    ran = operator("status", "--watch")
    assert "canary 8/402 failed" in ran.out
    assert "canaryproxy: x: connection refused" in ran.out


def test_a_watch_of_a_route_that_is_not_there_ends(operator: Command) -> None:
    ran = operator("status", "shoop", "--watch")
    assert (ran.code, ran.err) == (1, "canaryproxy: no such path\n")


@pytest.mark.usefixtures("one_look", "terminal")
def test_a_watch_waits_for_a_proxy_that_cannot_answer_yet(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes"] = (503, {"error": {"code": "store", "message": "not now", "hint": ""}})
    assert "canaryproxy: not now" in operator("status", "--watch").out
