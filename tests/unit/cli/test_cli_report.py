"""`report`: what it says of rollouts that were never run, in both of its forms."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_rollout import START, Made
from played_admin import Command

from canaryproxy.cli.report.markdown import escape
from canaryproxy.cli.report.markup import Html, el
from canaryproxy.cli.report.rungs import climb
from canaryproxy.cli.report.series import MOST_POINTS, Chart, Line, share, steps, thin
from canaryproxy.cli.report.words import rows, span, summary
from canaryproxy.rollout import model
from canaryproxy.rollout.model import Plan, PlanStep

pytest_plugins = ["made_rollout", "played_admin"]

HOSTILE = "<script>alert(1)</script> \"' & | `x` [a](javascript:b) <img src=x onerror=alert(2)>\n\n# title\n| row |"


class Elements(HTMLParser):
    """The elements of a page with their attributes, its text, and whether every element was closed in its order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
        self.text += data


@pytest.fixture
def rolled_back(made: Callable[..., Made]) -> Made:
    """Well for its first step, and then it fails every third request."""
    rollout = made(rate=300.0)
    rollout.run(30)
    rollout.failing = 0.33
    rollout.run(60)
    assert rollout.rollout.phase is model.Phase.ROLLED_BACK
    return rollout


def test_a_rollback_on_one_page(command: Command, rolled_back: Made) -> None:
    ran = command("report", "--state", str(rolled_back.save()))
    assert (ran.code, ran.err) == (0, "")
    heading, _, outcome = ran.out.splitlines()[:3]
    assert heading == "# shop: v1 to v2: rolled back"
    assert outcome.startswith("v2 was rolled back by analysis after ")
    assert ", having had " in outcome
    assert "canary " in outcome
    assert f"rollout `{rolled_back.id}`" in ran.out
    assert re.search(r"^\| step 1 of 3 \| 5 % \| 20 s \| \d+ s \| – \| passed \|$", ran.out, re.MULTILINE)
    assert re.search(r"^\| step 2 of 3 \| 25 % \| 20 s \| [\d.]+ s \| – \| rolled back \|$", ran.out, re.MULTILINE)
    assert "| step 3 of 3 | 50 % | 20 s | – | – | not reached |" in ran.out
    assert re.search(r"^\| error_rate \| fail \| 100 % \|", ran.out, re.MULTILINE)
    assert re.search(r"^Errors, canary +\S", ran.out, re.MULTILINE)
    assert "### Rollback at " in ran.out


def test_the_document_for_programs_has_the_counts(command: Command, rolled_back: Made) -> None:
    found = json.loads(command("report", "--state", str(rolled_back.save()), "--json").out)
    assert (found["route"], found["phase"], found["rollout"], found["notes"]) == ("shop", "rolled_back", rolled_back.id, [])
    assert found["started"] == START
    assert found["ended"] == rolled_back.now
    assert [chart["title"] for chart in found["charts"]] == ["Weight", "Requests", "Errors", "Latency p95"]
    resolved, failed = found["requests"]["canary"]
    assert 0.02 < failed / resolved < 0.33
    weight, _, errors, _ = found["charts"]
    assert weight["lines"][0]["points"][0] == [0.0, 5.0]
    assert weight["lines"][0]["points"][-1] == [rolled_back.now - START, 0.0]
    canary = next(line for line in errors["lines"] if line["name"] == "canary")
    assert max(y for _, y in canary["points"]) > 2
    harm = next(chart for chart in found["evidence"] if chart["title"] == "error_rate")["lines"][0]
    assert harm["points"][-1][1] == 100
    assert harm["points"][0][1] == 0


def test_the_page_loads_nothing_and_is_whole(command: Command, rolled_back: Made, tmp_path: Path) -> None:
    ran = command("report", "--state", str(rolled_back.save()), "-o", "page.html")
    assert (ran.code, ran.out) == (0, "written: page.html\n")
    text = (tmp_path / "page.html").read_text()
    page = Elements(text)
    assert text.startswith("<!doctype html>")
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(page.tags)
    assert not re.search(r"https?:|url\(|@import", text)
    assert page.tags.count("svg") == 4 + 6
    assert page.tags.count("desc") == page.tags.count("svg")
    assert "prefers-color-scheme: dark" in page.style
    assert "rolled back" in page.text


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_what_users_write_is_only_text(command: Command, made: Callable[..., Made], form: str) -> None:
    rollout = made()
    rollout.run(5)
    rollout.do(model.Pause(HOSTILE, by=HOSTILE), note=HOSTILE)
    rollout.run(5)
    rollout.do(model.Rollback(HOSTILE, by=HOSTILE))
    out = command("report", "--state", str(rollout.save()), "--format", form).out
    assert "alert(1)" in out
    if form == "html":
        page = Elements(out)
        assert {"script", "img", "a"}.isdisjoint(page.tags)
        assert not [name for name in page.attributes if name.startswith("on")]
    else:
        assert not re.search(r"(?<!\\)<", out)
        assert not re.search(r"(?<!\\)\]\(", out)
        assert "\n# title" not in out
        assert "\n| row" not in out


def test_a_rollout_that_goes_on(command: Command, made: Callable[..., Made]) -> None:
    rollout = made()
    rollout.run(10)
    out = command("report", "--state", str(rollout.save())).out
    assert out.startswith("# shop: v1 to v2: in progress\n\nv2 is in progress at 5 % of the users after ")
    assert "last seen" in out
    assert "| step 1 of 3 | 5 % | 20 s |" in out
    assert "| in progress |" in out


def test_pauses_gaps_and_weights_by_hand_are_told(command: Command, made: Callable[..., Made]) -> None:
    rollout = made()
    rollout.run(10)
    rollout.do(model.Pause("lunch", by="anna"))
    rollout.run(15)
    rollout.do(model.Resume(by="anna"))
    rollout.do(model.SetWeight(1_000, by="ben"))
    rollout.run(5)
    rollout.stand_still(120)
    rollout.failing = 0.5
    rollout.run(5)
    found = json.loads(command("report", "--state", str(rollout.save()), "--json").out)
    first, by_hand = found["rungs"][0], found["rungs"][1]
    assert (first["name"], first["took"], first["stood"], first["ended"]) == ("step 1 of 3", 25.0, 15.0, "left by hand")
    assert (by_hand["name"], by_hand["ended"], by_hand["took"] > 125) == ("10 % by hand", "rolled back", True)
    assert found["phase"] == "rolled_back"
    requests = found["charts"][1]["lines"][0]["points"]
    assert any(y is None for _, y in requests), "time without a tick is a gap"


def test_a_promotion_and_its_rollback_later(command: Command, made: Callable[..., Made]) -> None:
    rollout = made(plan=Plan((PlanStep(5_000, 5.0),), 5.0, 7200.0))
    rollout.run(200)
    assert rollout.rollout.phase is model.Phase.PROMOTED
    promoted = rollout.now
    assert "v2 was promoted after " in command("report", "--state", str(rollout.save())).out
    rollout.stand_still(600)
    rollout.do(model.Rollback("a leak", by="anna"))
    found = json.loads(command("report", "--state", str(rollout.save()), "--json").out)
    assert (found["phase"], found["ended"]) == ("rolled_back", promoted)
    assert found["rungs"][-1]["ended"] == "passed"
    weight = found["charts"][0]["lines"][0]["points"]
    assert weight[-1][1] == 100
    out = command("report", "--state", str(rollout.save())).out
    assert "and rolled back later by anna: a leak." in out


def test_an_earlier_rollout_is_found_by_its_id(command: Command, rolled_back: Made) -> None:
    first = rolled_back.id
    rolled_back.stand_still(100)
    rolled_back.do(model.Retry(rolled_back.rollout.plan, salt=9))
    rolled_back.failing = 0
    rolled_back.run(5)
    state = str(rolled_back.save())
    assert json.loads(command("report", "--state", state, "--json").out)["rollout"] == rolled_back.id != first
    found = json.loads(command("report", "--state", state, "--rollout", first, "--json").out)
    assert (found["rollout"], found["phase"], found["started"]) == (first, "rolled_back", START)
    ran = command("report", "--state", state, "--rollout", "9-x")
    assert ran.code == 1
    assert ran.err == f"canaryproxy: route shop: has no journal of rollout 9-x; there is {rolled_back.id}, {first}\n"


def test_a_rollout_whose_place_another_one_took(command: Command, made: Callable[..., Made]) -> None:
    rollout = made()
    rollout.run(10)
    first = rollout.id
    rollout.do(model.Start(rollout.rollout.plan, salt=9))
    rollout.run(3)
    out = command("report", "--state", str(rollout.save()), "--rollout", first).out
    assert out.startswith("# shop: v1 to v2: replaced\n\nv2 was at 5 % of the users after 10 s, when another rollout")
    assert "in progress at 5 %" in command("report", "--state", str(rollout.save())).out


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_a_rollout_of_which_nothing_is_known_yet(command: Command, made: Callable[..., Made], form: str) -> None:
    ran = command("report", "--state", str(made().save()), "--format", form)
    assert (ran.code, ran.err) == (0, "")
    assert "v2 is in progress at 5 % of the users after 0 s" in ran.out
    if form == "html":
        assert Elements(ran.out).text.count("Nothing was counted.") == 3


@pytest.mark.parametrize("ended", [True, False])
def test_a_deploy_that_was_called_off_later_is_not_its_end(command: Command, made: Callable[..., Made], ended: bool) -> None:
    rollout = made()
    rollout.run(10)
    if ended:
        rollout.do(model.Rollback("bad", by="anna"))
    before = json.loads(command("report", "--state", str(rollout.save()), "--json").out)
    rollout.deploy("v3")
    rollout.do(model.Rollback("a dead server", by="ben"))
    found = json.loads(command("report", "--state", str(rollout.save()), "--json").out)
    if ended:
        assert (found["phase"], found["by"], found["reason"], found["ended"]) == ("rolled_back", "anna", "bad", before["ended"])
        assert found["decisions"] == before["decisions"]
    else:
        assert (found["phase"], found["by"], len(found["decisions"])) == ("over", "operator", 2)
        assert found["decisions"][-1]["kind"] == "deploy", "what took its place"


def test_users_are_the_larger_of_what_ticks_and_registers_counted(command: Command, rolled_back: Made) -> None:
    state = str(rolled_back.save())
    before = json.loads(command("report", "--state", state, "--json").out)["users"]
    rolled_back.save(users=before["exposed"] + 5)  # those came after the last tick
    found = json.loads(command("report", "--state", state, "--json").out)["users"]
    assert found == {"exposed": before["exposed"] + 5, "hurt": before["hurt"]}


def test_what_is_missing_of_the_journal_is_said(command: Command, rolled_back: Made) -> None:
    state = rolled_back.save()
    with closing(sqlite3.connect(state)) as db:
        db.execute("DELETE FROM journal WHERE first = 0")
        db.commit()
    out = command("report", "--state", str(state)).out
    assert re.search(r"^\*\*\d+ ticks are missing: the state could not be written then\*\*$", out, re.MULTILINE)
    assert "| error_rate | fail |" in out, "the last verdict is on record"
    with closing(sqlite3.connect(state)) as db:
        db.execute("UPDATE journal SET data = x'00'")
        db.commit()
    assert "its journal cannot be read by this version" in command("report", "--state", str(state)).out
    with closing(sqlite3.connect(state)) as db:
        db.execute("DELETE FROM journal")
        db.commit()
    assert "its journal is not kept any more" in command("report", "--state", str(state)).out


def test_a_route_that_is_not_there(command: Command, rolled_back: Made) -> None:
    ran = command("report", "web", "--state", str(rolled_back.save()))
    assert (ran.code, ran.err) == (1, "canaryproxy: route web: is not in this state file; there is shop\n")


def test_a_page_that_cannot_be_written_is_said(command: Command, rolled_back: Made) -> None:
    ran = command("report", "--state", str(rolled_back.save()), "-o", "no/such/page.html")
    assert (ran.code, ran.err) == (1, "canaryproxy: no/such/page.html: cannot be written (no such file or directory)\n")


# --- The plan ---

_STEPS: list[dict[str, Any]] = [{"weight_percent": 5.0, "hold": 20}, {"weight_percent": 50.0, "hold": 20}]
_PLAN = {"steps": _STEPS, "bake": {"weight_percent": 99.0, "hold": 30}}


def change(at: float, kind: str, to: str, step: int, weight: float, **more: Any) -> dict[str, Any]:
    """A decision on record."""
    return {"at": at, "kind": kind, "data": {"to": to, "step": step, "weight_bp": weight * 100} | more}


def test_pauses_gates_and_freezes_are_no_time_of_a_step() -> None:
    changes = [
        change(0, "start", "progressing", 1, 0, gate="confirm_rollout"),
        change(10, "step", "progressing", 1, 5),
        change(30, "freeze", "progressing", 1, 5),
        change(31, "pause", "paused", 1, 5),
        change(35, "resume", "progressing", 1, 5),
        change(40, "thaw", "progressing", 1, 5),
        change(50, "step", "progressing", 2, 50),
        change(70, "bake", "baking", 2, 99),
        change(80, "pause", "paused", 2, 99),
        change(90, "freeze", "paused", 2, 99),
        change(95, "thaw", "paused", 2, 99),
        change(100, "resume", "baking", 2, 99),
        change(110, "gate", "baking", 2, 99, gate="confirm_promotion"),
        change(120, "promoted", "promoted", 2, 0),
    ]
    told = [(one.name, one.took, one.stood, one.ended) for one in climb(changes, 120, _PLAN)]
    assert told == [
        ("before the first step", 10, 10, "passed"),
        ("step 1 of 2", 40, 10, "passed"),
        ("step 2 of 2", 20, 0, "passed"),
        ("bake", 50, 30, "passed"),
    ]


def test_a_step_back_is_told_and_a_plan_that_is_not_known_is_none() -> None:
    changes = [
        change(0, "start", "progressing", 1, 5),
        change(20, "step", "progressing", 2, 50),
        change(25, "step_back", "progressing", 1, 5),
        change(35, "rollback", "rolled_back", 1, 0),
    ]
    told = [(one.name, one.took, one.stood, one.ended) for one in climb(changes, 35, _PLAN)]
    assert told == [
        ("step 1 of 2", 30, 10, "rolled back"),
        ("step 2 of 2", 5, 0, "stepped back"),
        ("bake", 0, 0, "not reached"),
    ]
    assert [(one.name, one.planned) for one in climb(changes, 35, None)] == [("step 1", None), ("step 2", None)]


# --- Curves ---


def test_a_long_curve_is_thinned_and_keeps_its_extremes() -> None:
    points = [(float(n), 1.0) for n in range(50_000)]
    points[12_345] = (12_345.0, 99.0)
    points[23_456] = (23_456.0, -5.0)
    gap: list[tuple[float, float | None]] = list(points)
    gap[40_000] = (40_000.0, None)
    thinned = thin(gap)
    assert len(thinned) <= MOST_POINTS
    assert {(0.0, 1.0), (49_999.0, 1.0), (12_345.0, 99.0), (23_456.0, -5.0), (40_000.0, None)} <= set(thinned)
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)
    assert thin(points[:MOST_POINTS]) == tuple(points[:MOST_POINTS])


def test_steps_keep_their_value_until_the_next_one() -> None:
    assert steps([(0.0, 1.0), (10.0, 5.0)], 20.0) == ((0.0, 1.0), (10.0, 1.0), (10.0, 5.0), (20.0, 5.0))
    assert steps([], 20.0) == ()


@pytest.mark.parametrize(
    ("evidence", "threshold", "percent"),
    [(2.0, 4.0, 50.0), (-1.0, 4.0, 0.0), (9.0, 4.0, 100.0), (float("inf"), 4.0, 100.0), (1.0, 0.0, None), (None, 4.0, None)],
)
def test_evidence_in_percent_of_what_is_needed(evidence: float | None, threshold: float, percent: float | None) -> None:
    assert share(evidence, threshold) == percent


def test_a_chart_in_words() -> None:
    chart = Chart("Errors", "{:.1f} %", "of all", (Line("canary", "canary", ((0.0, 1.0), (55.0, 4.0), (110.0, None))),))
    assert summary(chart) == "Errors, of all: canary at most 4.0 %, 4.0 % at the end."
    assert rows(chart)[0] == ("0 s", "1.0 %")
    assert rows(chart)[-1] == ("1 m 50 s", "–")
    assert len(rows(chart)) == 12
    empty = Chart("Errors", "{}", "", (Line("canary", "canary", ()),))
    assert summary(empty) == "Errors: nothing was counted."
    assert rows(empty) == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (4.23, "4.2 s"), (59.9, "60 s"), (60, "1 m"), (724.4, "12 m 4 s"), (3600, "1 h"), (10_140, "2 h 49 m")],
)
def test_spans(seconds: float, said: str) -> None:
    assert span(seconds) == said


# --- Writing ---


def test_text_in_an_element_is_escaped_and_elements_are_not() -> None:
    made = el("p", "<b>", el("b", "&"), None, ["x", Html("<i/>")], class_='"', aria_hidden="true", hidden=False)
    assert made == '<p class="&quot;" aria-hidden="true">&lt;b&gt;<b>&amp;</b>x<i/></p>'


def test_text_in_markdown_is_only_text() -> None:
    assert escape("a\nb | <i> `x` [y](z) *w* _v_ error_rate") == r"a b \| \<i\> \`x\` \[y\](z) \*w\* \_v\_ error_rate"
