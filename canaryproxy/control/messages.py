"""What is said to the world: the facts of a decision, one sentence about it, and both as CloudEvent, Slack or Teams message.

Pure; called by `control.outbox`, `control.delivery` and `control.hooks`. Facts are stored, and written in a hook's format when
they are sent, so that a format that is set right in the file is right for what still waits. Sources: CloudEvents 1.0 (JSON event
format, HTTP binding 3.2: structured mode), Slack's "Sending messages using incoming webhooks" and "Formatting text" (three
characters are escaped), Teams' "incoming webhooks with Workflows" (a message with an Adaptive Card attached).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from canaryproxy.config.hooks import Format, Hook
from canaryproxy.control.journal import rollout_id
from canaryproxy.rollout.model import EVERYBODY, Phase, Record, Rollout
from canaryproxy.store.base import Message

#: Decisions that move no rollout.
_UNTOLD: Final = frozenset({"verdict", "pool", "deploy"})
#: Characters of a sentence, for people; and of a section of Slack's, which takes 3000.
_LONGEST, _SECTION = 1500, 2900

#: Version of a pool, for people.
Versions = Callable[[str | None], str]


# --- Facts ---


def facts_of(
    record: Record, rollout: Rollout, *, users: tuple[int, int], versions: Versions, at: float, note: str = ""
) -> dict[str, Any]:
    """A transition, JSON-ready. `rollout` is the one that it led to, `users` those exposed and hurt so far."""
    exposed, hurt = users
    facts: dict[str, Any] = {"route": rollout.route, "rollout": rollout_id(rollout), "kind": record.kind}
    facts |= {"text": "", "sentence": record.sentence, "reason": record.data.get("reason", ""), "note": note}
    facts |= {"by": record.data.get("by", ""), "from": record.data.get("from"), "at": iso(at)}
    facts |= _place(rollout, versions)
    facts |= {"revision": rollout.revision, "users": {"exposed": exposed, "hurt": hurt}}
    facts["text"] = sentence_about(facts)
    return facts


def is_transition(record: Record) -> bool:
    """Whether a decision changed the rollout. What changed nothing (a second rollback) does not say where it is."""
    return record.kind not in _UNTOLD and "weight_bp" in record.data


def is_end(record: Record) -> bool:
    """Whether a rollout is over by it: promoted or rolled back."""
    return record.kind in ("promoted", "rollback") and record.data.get("to") in (Phase.PROMOTED, Phase.ROLLED_BACK)


def summary_of(facts: Mapping[str, Any], rollout: Rollout) -> dict[str, Any]:
    """The same for the end of a rollout, with what it was as a whole."""
    started, ended = rollout.started_at, rollout.ended_at
    seconds = None if started is None or ended is None else round(ended - started, 3)
    outcome = {"outcome": rollout.phase.value, "started_at": iso(started), "ended_at": iso(ended), "seconds": seconds}
    return {**facts, "summary": {**outcome, "users": facts["users"], "reason": facts["reason"] or rollout.reason}}


def _place(rollout: Rollout, versions: Versions) -> dict[str, Any]:
    """Where a rollout is."""
    variants = {role: {"pool": pool, "version": versions(pool)} if pool else None for role, pool in _roles(rollout)}
    steps = {"step": rollout.step + 1, "steps": len(rollout.plan.steps), "weight_percent": rollout.weight_bp / 100}
    return {"phase": rollout.phase.value, "gate": rollout.gate, **steps, **variants}


def _roles(rollout: Rollout) -> tuple[tuple[str, str | None], ...]:
    return ("stable", rollout.stable), ("canary", rollout.canary)


# --- For people ---


def sentence_about(facts: Mapping[str, Any]) -> str:
    """One sentence: route, versions, what happened and why, whom it met."""
    old, new = facts["stable"], facts["canary"]
    if facts["phase"] == Phase.PROMOTED:
        old, new = new, old
    versions = f" ({old['version']} -> {new['version']})" if old and new else ""
    text = f"{facts['route']}{versions}: {facts['sentence']}"
    if (by := facts["by"]) not in ("", "analysis") and by not in text:
        text += f", by {by}"
    if facts["note"] and facts["note"] not in text:
        text += f" [{facts['note']}]"
    exposed, hurt = facts["users"]["exposed"], facts["users"]["hurt"]
    if exposed:
        text += f"; {exposed} user{'s' * (exposed != 1)} exposed, {hurt or 'none'} hurt"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


# --- Formats ---


def written(message: Message, hook: Hook) -> tuple[bytes, str]:
    """The body and its media type."""
    match hook.format:
        case Format.CLOUDEVENTS:
            return _bytes(cloud_event(message, hook)), "application/cloudevents+json; charset=utf-8"
        case Format.SLACK:
            return _bytes(slack(message.facts)), "application/json; charset=utf-8"
        case Format.TEAMS:
            return _bytes(teams(message.facts)), "application/json; charset=utf-8"


def cloud_event(message: Message, hook: Hook) -> dict[str, Any]:
    """A CloudEvent; its id is the same however often it is sent."""
    facts, ended = message.facts, "summary" in message.facts
    return {
        "specversion": "1.0",
        "id": message.id,
        "source": f"/canaryproxy/routes/{facts['route']}",
        "type": f"canaryproxy.rollout.{'ended' if ended else facts['kind']}",
        "subject": facts["rollout"],
        "time": facts["at"],
        "datacontenttype": "application/json",
        "data": {**facts, "metadata": hook.metadata} if hook.metadata else facts,
    }


def slack(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A message of an incoming webhook: the sentence, and below it the numbers."""
    text = _escaped(facts["text"])
    numbers = " · ".join(f"{name} {value}" for name, value in _numbers(facts))
    return {
        "text": text,
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"{_sign(facts)} {text}"}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": numbers}]},
        ],
    }


def _escaped(text: str) -> str:
    """So that nothing in it is a link or calls somebody; cut to what a section takes."""
    while len(escaped := escape(text, quote=False)) > _SECTION:
        text = text[: len(text) * 9 // 10]
    return escaped


def teams(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A message with an Adaptive Card. The sentence is a run of text, for in a text block it could be a link."""
    body = [
        {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": f"{_sign(facts)} {facts['text']}"}]},
        {"type": "FactSet", "facts": [{"title": name, "value": value} for name, value in _numbers(facts)]},
    ]
    schema = {"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4"}
    card = schema | {"fallbackText": facts["text"], "msteams": {"width": "Full"}, "body": body}
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _numbers(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    users = facts["users"]
    found = [
        ("phase", facts["phase"]),
        ("step", f"{facts['step']} of {facts['steps']}"),
        ("weight", f"{facts['weight_percent']:g}%"),
    ]
    found.append(("users", f"{users['exposed']} exposed, {users['hurt']} hurt"))
    if "summary" in facts and facts["summary"]["seconds"] is not None:
        found.append(("took", f"{facts['summary']['seconds']:.0f} s"))
    return found


def _sign(facts: Mapping[str, Any]) -> str:
    """One glance says whether somebody should look."""
    kind = facts["kind"]
    return "🔴" if kind == "rollback" else "🟢" if kind == "promoted" else "🟠" if kind in _WORTH_A_LOOK else "🔵"


_WORTH_A_LOOK = frozenset({"pause", "warning", "freeze", "step_back", "gate"})


# --- Questions ---


def question(hook: Hook, kind: str, rollout: Rollout, versions: Versions, users: tuple[int, int]) -> bytes:
    """What a gate or rollback hook is asked, as JSON."""
    asked = {"type": kind, "route": rollout.route, "rollout": rollout_id(rollout), **_place(rollout, versions)}
    asked |= {"next_weight_percent": next_weight_bp(rollout) / 100, "version": versions(rollout.canary)}
    asked |= {"users": {"exposed": users[0], "hurt": users[1]}, "revision": rollout.revision}
    asked |= {"started_at": iso(rollout.started_at), "metadata": hook.metadata}
    return _bytes(asked)


def next_weight_bp(rollout: Rollout) -> int:
    """The share of users that the canary has next if nothing stops it, in basis points."""
    plan = rollout.plan
    if not rollout.weight_bp and rollout.step == 0:
        return plan.steps[0].weight_bp
    if rollout.is_baking:
        return EVERYBODY
    return plan.steps[rollout.step + 1].weight_bp if rollout.step + 1 < len(plan.steps) else plan.bake_bp


def _bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=str).encode(errors="replace")


def iso(wall: float | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond."""
    return None if wall is None else datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
