"""The demo's two views: a picture whose lines stay where they are, and one line for each change."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from canaryproxy.cli.demo.scenario import SCENARIOS
from canaryproxy.cli.demo.scene import Scene
from canaryproxy.cli.demo.view import LiveView, PlainView, picture


def status(phase: str, weight: float, **more: Any) -> dict[str, Any]:
    return {
        "phase": phase,
        "step": 2,
        "steps": 3,
        "weight_percent": weight,
        "stable": {"pool": "v1"},
        "canary": {"pool": "v2"},
    } | more


def scene(**changes: Any) -> Scene:
    made = Scene(SCENARIOS["errors"], stage="")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def drawn(shown: Scene) -> list[str]:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(picture(shown))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


METRIC = {"evidence": 2.0, "threshold": 4.0, "promote_evidence": -3.0, "promote_threshold": 3.0}
SCENES = [
    scene(),
    scene(status=status("idle", 0.0), stage="a long stage " * 9),
    scene(status=status("progressing", 25.0, evidence={"error_rate": METRIC}), faulty_since=9.0, elapsed=99.0),
    scene(status=status("rolled_back", 0.0), decisions=[(n * 10.0, "step", "long " * 30) for n in range(9)], elapsed=100.0),
    scene(status=status("promoted", 0.0, stable={"pool": "v2"}, canary=None, evidence=None)),
]


@pytest.mark.parametrize("shown", SCENES)
def test_the_picture_has_the_same_lines_in_every_scene_and_fits(shown: Scene) -> None:
    lines = drawn(shown)
    assert len(lines) == len(drawn(SCENES[0])) == 23
    assert max(map(len, lines)) < 80


def test_the_rail_is_filled_to_the_weight() -> None:
    rail = next(line for line in drawn(SCENES[2]) if line.startswith("weight"))
    assert rail.count("●") == 3
    assert rail.count("○") == 2


def test_a_promoted_canary_has_all_of_the_rail() -> None:
    assert next(line for line in drawn(SCENES[4]) if line.startswith("weight")).count("●") == 5


def test_the_last_decision_has_three_lines_and_each_before_it_one() -> None:
    assert [line[:8].strip() for line in drawn(SCENES[3])[-5:]] == ["60.0 s", "70.0 s", "80.0 s", "", ""]


def test_half_of_the_evidence_is_half_a_bar_and_less_than_none_is_none() -> None:
    assert next(line for line in drawn(SCENES[2]) if line.startswith("error rate")).count("━") == 13


@pytest.mark.parametrize(("width", "height", "fits"), [(80, 24, True), (79, 24, True), (78, 24, False), (80, 23, False)])
def test_a_terminal_needs_room_for_the_picture(width: int, height: int, fits: bool) -> None:
    environment = {"TERM": "xterm"}
    assert LiveView.fits(Console(width=width, height=height, force_terminal=True, _environ=environment)) is fits
    assert not LiveView.fits(Console(width=width, height=height, force_terminal=False, _environ=environment))
    assert not LiveView.fits(Console(width=width, height=height, force_terminal=True, _environ={"TERM": "dumb"}))


def test_the_live_view_draws_and_gives_the_terminal_back() -> None:
    out = io.StringIO()
    view = LiveView(Console(width=80, height=30, file=out, force_terminal=True))
    for shown in SCENES:
        view.show(shown)
    view.close()
    assert "rolled back" in out.getvalue()
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is visible again


def test_plain_lines_tell_each_change_once() -> None:
    out = io.StringIO()
    view = PlainView(out)
    shown = scene(stage="starting")
    view.show(shown)
    view.show(shown)
    shown.elapsed, shown.stage = 2.0, "serving"
    view.show(shown)
    shown.elapsed, shown.stage = 4.0, ""
    shown.decisions = [(5.0, "start", "started: step 1 of 3")]
    view.show(shown)
    shown.decisions.append((9.0, "rollback", "rolled back"))
    shown.faulty_since = 8.5
    view.show(shown)
    view.close()
    assert out.getvalue().splitlines() == [
        "[  0.0 s] errors: v2 fails: after 4 s it answers 20 % of its requests with 500",
        "[  0.0 s] starting",
        "[  2.0 s] serving",
        "[  5.0 s] started: step 1 of 3",
        "[  8.5 s] v2 serves its first fault",
        "[  9.0 s] rolled back",
    ]


@pytest.mark.parametrize(
    ("objections", "last"), [([], "ended as it should"), (["it is late"], "not as it should be: it is late")]
)
def test_the_end_says_how_it_ended(objections: list[str], last: str) -> None:
    out = io.StringIO()
    PlainView(out).end([("requests hurt by v2", "2 of 1,000")], objections)
    assert out.getvalue().splitlines() == ["", "requests hurt by v2           2 of 1,000", last]
