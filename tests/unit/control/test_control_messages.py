"""What is said: the sentence for people, and the three formats as their receivers want them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.config.hooks import Hook
from canaryproxy.config.schema import Route
from canaryproxy.control.messages import facts_of, question, summary_of, written
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Event, Phase, Plan, Promote, Record, Rollback, Rollout, Start, Tick
from canaryproxy.store.base import Message

PLAN = Plan.from_config(Route(stable="v1", canary="v2").rollout)
NOW = 1_700_000_000.0
VERSIONS = {"v1": "1.4.0", "v2": "1.5.0"}


def version(pool: str | None) -> str:
    return VERSIONS[pool or ""]


def decided(*events: Event, users: tuple[int, int] = (0, 0), note: str = "") -> tuple[dict[str, Any], Rollout]:
    """The facts of the last of these events, and the rollout."""
    rollout = Rollout("shop", "v1", "v2", "v1", "v2", PLAN)
    records: list[Record] = []
    for second, event in enumerate((Start(PLAN, salt=7), *events)):
        rollout, effects = advance(rollout, event, NOW + 60 * second)
        records += [effect for effect in effects if isinstance(effect, Record)]
    return facts_of(records[-1], rollout, users=users, versions=version, at=NOW, note=note), rollout


def hook(kind: str = "event", form: str = "cloudevents", **more: Any) -> Hook:
    return Hook.model_validate({"type": kind, "url": "http://127.0.0.1:9/", "format": form, **more})


def sent(facts: dict[str, Any], form: str, **more: Any) -> Any:
    body, media = written(Message("id/1", "chat", NOW, facts), hook(form=form, **more))
    assert media.startswith("application/cloudevents+json" if form == "cloudevents" else "application/json")
    return json.loads(body)


HARM = Tick(Verdict(Outcome.FAIL, Action.ROLLBACK, "canary 8/402 failed (2.0 %), stable 41/39800", ()), 1.0)


@pytest.mark.parametrize(
    ("events", "users", "text"),
    [
        ((), (0, 0), "shop (1.4.0 -> 1.5.0): started: step 1 of 4: 1% of users to v2, by operator"),
        (
            (Promote(by="anna at 10.0.0.1"),),
            (1, 0),
            "shop (1.4.0 -> 1.5.0): step 2 of 4: 5% of users to v2 (promoted by anna at 10.0.0.1); 1 user exposed, none hurt",
        ),
        (
            (HARM,),
            (48, 7),
            "shop (1.4.0 -> 1.5.0): rolled back: all users to v1 (canary 8/402 failed (2.0 %), stable 41/39800); "
            "48 users exposed, 7 hurt",
        ),
        (
            (Promote(full=True), Promote()),
            (9, 0),
            "shop (1.4.0 -> 1.5.0): promoted: v2 is stable now, v1 stands by (promoted by operator); 9 users exposed, none hurt",
        ),
        (
            (Promote(full=True), Promote(), Rollback("regret", by="ben")),
            (9, 0),
            "shop (1.4.0 -> 1.5.0): rolled back: all users to v1 (regret), by ben; 9 users exposed, none hurt",
        ),
    ],
)
def test_one_sentence_says_it_all(events: tuple[Event, ...], users: tuple[int, int], text: str) -> None:
    assert decided(*events, users=users)[0]["text"] == text


def test_a_note_is_said_and_a_long_reason_is_cut() -> None:
    assert decided(Rollback("bad"), note="pager 7")[0]["text"].endswith(
        "rolled back: all users to v1 (bad), by operator [pager 7]"
    )
    text = decided(Rollback("very\nbad " * 1000))[0]["text"]
    assert (len(text), text[-1], "\n" in text) == (1500, "…", False)


def test_facts_have_what_a_program_needs() -> None:
    facts, _ = decided(Promote(), users=(5, 2))
    assert {key: facts[key] for key in ("kind", "phase", "from", "step", "steps", "weight_percent", "revision", "by")} == {
        "kind": "step",
        "phase": "progressing",
        "from": "progressing",
        "step": 2,
        "steps": 4,
        "weight_percent": 5.0,
        "revision": 2,
        "by": "operator",
    }
    assert facts["canary"] == {"pool": "v2", "version": "1.5.0"}
    assert facts["users"] == {"exposed": 5, "hurt": 2}
    assert json.loads(json.dumps(facts)) == facts


# CloudEvents 1.0: the required attributes and their types (its JSON schema; attribute names of section 3.1).
def essential_problems(event: dict[str, Any]) -> list[str]:
    problems = [
        name for name in ("id", "source", "type", "specversion") if not isinstance(event.get(name), str) or not event[name]
    ]
    problems += [name for name in event if not re.fullmatch(r"[a-z0-9]{1,20}", name)]
    problems += ["specversion"] * (event.get("specversion") != "1.0")
    problems += ["subject"] * (not event.get("subject"))
    problems += ["source"] * bool(re.search(r"[^A-Za-z0-9._~:/?#@!$&'()*+,;=%-]", event.get("source", "")))
    try:
        assert event["time"].endswith("Z")
        datetime.fromisoformat(event["time"])
    except (KeyError, AssertionError, ValueError):
        problems.append("time")
    return problems


def test_a_cloud_event_is_one() -> None:
    facts, _ = decided(Promote())
    event = sent(facts, "cloudevents", metadata={"team": "shop"})
    assert essential_problems(event) == []
    assert event["data"] == facts | {"metadata": {"team": "shop"}}
    assert (event["id"], event["type"], event["source"]) == ("id/1", "canaryproxy.rollout.step", "/canaryproxy/routes/shop")
    assert event["time"] == "2023-11-14T22:13:20.000Z"
    assert essential_problems({**event, "source": "a b", "time": "now", "Id": ""}) == ["Id", "source", "time"]


def test_the_end_has_its_summary() -> None:
    facts, rollout = decided(Promote(), HARM, users=(48, 7))
    event = sent(summary_of(facts, rollout), "cloudevents")
    assert essential_problems(event) == []
    assert event["type"] == "canaryproxy.rollout.ended"
    assert event["data"]["summary"] == {
        "outcome": "rolled_back",
        "seconds": 120.0,
        "users": {"exposed": 48, "hurt": 7},
        "started_at": "2023-11-14T22:13:20.000Z",
        "ended_at": "2023-11-14T22:15:20.000Z",
        "reason": "canary 8/402 failed (2.0 %), stable 41/39800",
    }


def test_slack_gets_text_and_blocks_and_nobody_is_called_by_a_reason() -> None:
    message = sent(decided(Rollback("<!channel> a & b"), users=(2, 1))[0], "slack")
    assert set(message) == {"text", "blocks"}
    assert "&lt;!channel&gt; a &amp; b" in message["text"]
    assert "<" not in json.dumps(message)
    section, context = message["blocks"]
    assert (section["type"], section["text"]["type"]) == ("section", "mrkdwn")
    assert section["text"]["text"].startswith("🔴 shop ")
    assert len(section["text"]["text"]) <= 3000
    assert context == {
        "type": "context",
        "elements": [{"type": "mrkdwn", "text": "phase rolled_back · step 1 of 4 · weight 0% · users 2 exposed, 1 hurt"}],
    }


def test_slack_takes_the_longest_text() -> None:
    message = sent(decided(Rollback("<&>" * 2000))[0], "slack")
    assert len(message["blocks"][0]["text"]["text"]) <= 3000


def test_teams_gets_a_message_with_an_adaptive_card() -> None:
    facts, rollout = decided(HARM, users=(2, 1))
    message = sent(summary_of(facts, rollout), "teams")
    assert message["type"] == "message"
    (attachment,) = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert card["$schema"] == "http://adaptivecards.io/schemas/adaptive-card.json"
    text, numbers = card["body"]
    assert text["inlines"] == [{"type": "TextRun", "text": f"🔴 {facts['text']}"}]
    assert {fact["title"]: fact["value"] for fact in numbers["facts"]} == {
        "phase": "rolled_back",
        "step": "1 of 4",
        "weight": "0%",
        "users": "2 exposed, 1 hurt",
        "took": "60 s",
    }


def test_a_question_says_where_the_rollout_is_and_what_comes_next() -> None:
    _, rollout = decided(Promote())
    asked = json.loads(question(hook("confirm_step", metadata={"a": "b"}), "confirm_step", rollout, version, (3, 1)))
    assert {**asked, "rollout": ""} == {
        "type": "confirm_step",
        "route": "shop",
        "rollout": "",
        "phase": "progressing",
        "gate": None,
        "step": 2,
        "steps": 4,
        "weight_percent": 5.0,
        "next_weight_percent": 25.0,
        "revision": 2,
        "started_at": "2023-11-14T22:13:20.000Z",
        "stable": {"pool": "v1", "version": "1.4.0"},
        "canary": {"pool": "v2", "version": "1.5.0"},
        "version": "1.5.0",
        "users": {"exposed": 3, "hurt": 1},
        "metadata": {"a": "b"},
    }


@pytest.mark.parametrize(
    ("place", "percent"),
    [({"weight_bp": 0, "step": 0}, 1), ({"step": 0}, 5), ({"step": 3}, 97), ({"phase": Phase.BAKING, "step": 3}, 100)],
)
def test_the_next_weight(place: dict[str, Any], percent: float) -> None:
    _, rollout = decided()
    changed = replace(rollout, plan=replace(PLAN, hold_back_bp=300), **place)
    assert json.loads(question(hook(), "x", changed, version, (0, 0)))["next_weight_percent"] == percent
