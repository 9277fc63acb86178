"""Sentences and cells of a report, for both of its forms. Pure; what users wrote is in them as they wrote it."""

from __future__ import annotations

from canaryproxy.cli.report.account import Account
from canaryproxy.cli.report.rungs import Rung
from canaryproxy.cli.report.series import Chart, share
from canaryproxy.cli.text import Answer

#: Rows of a chart's table.
_ROWS = 12

#: A phase as a word for people, and how the page colours it.
PHASES = {
    "rolled_back": ("rolled back", "bad"),
    "promoted": ("promoted", "good"),
    "paused": ("paused", "warn"),
    "over": ("replaced", "warn"),
    "progressing": ("in progress", "calm"),
    "baking": ("baking", "calm"),
}


def outcome(account: Account) -> str:
    """The rollout in one sentence."""
    took, new = span(account.ended - account.started), account.new
    at = f"at {account.highest:g} % of the users"
    because = f": {account.reason}" if account.reason else ""
    match account.phase:
        case "promoted":
            said = f"{new} was promoted after {took} and is stable now{because}"
        case "rolled_back" if any(mark == "promoted" for _, mark in account.marks):
            said = f"{new} was promoted after {took}, and rolled back later by {account.by}{because}"
        case "rolled_back":
            said = f"{new} was rolled back by {account.by} after {took}, having had {account.highest:g} % of the users{because}"
        case "over":
            said = f"{new} was {at} after {took}, when another rollout or configuration took its place"
        case "paused":
            said = f"{new} is paused {at} after {took}{because}"
        case _:
            said = f"{new} is in progress {at} after {took}{because}"
    return said.rstrip(".") + "."


def title(account: Account) -> str:
    """`shop: v1 to v2`."""
    return f"{account.route}: {account.old} to {account.new}"


def figures(account: Account) -> list[tuple[str, str]]:
    """The few numbers that everybody asks for."""
    users = account.users or {}
    resolved, failed = account.requests.get("canary", (0, 0))
    known = bool(account.requests)
    return [
        ("users exposed", count(users.get("exposed"))),
        ("users hurt", count(users.get("hurt"))),
        ("highest weight", f"{account.highest:g} %"),
        ("took", span(account.ended - account.started)),
        ("canary requests", count(resolved if known else None)),
        ("of these failed", count(failed if known else None)),
    ]


def count(number: int | None) -> str:
    """`1,402`, or a dash for what is not known."""
    return "–" if number is None else f"{number:,}"


def span(seconds: float) -> str:
    """`4.2 s`, `12 m 4 s`, `1 h 3 m`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds % 1 and seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s" if whole % 60 else f"{whole // 60} m"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} m" if minutes else f"{hours} h"


def rung_cells(rung: Rung) -> tuple[str, ...]:
    """Step, weight, planned, took, of these in pause, how it ended."""
    entered = rung.entered is not None
    return (
        rung.name,
        f"{rung.weight_percent:g} %",
        span(rung.planned) if rung.planned is not None else "–",
        span(rung.took) if entered else "–",
        span(rung.stood) if rung.stood else "–",
        rung.ended,
    )


def proof(finding: Answer, what: str) -> float | None:
    """How far a described metric's evidence of `harm` or `health` is, in percent of its threshold."""
    prefix = "promote_" if what == "health" else ""
    return share(finding.get(f"{prefix}evidence"), finding.get(f"{prefix}threshold"))


def decided_by(made: Answer) -> str:
    """Who decided, and what they wrote with it."""
    data = made["data"]
    by = str(data.get("by") or ("analysis" if "verdict" in data else ""))
    note = data.get("note")
    return f"{by}: {note}" if note else by


def rows(chart: Chart) -> list[tuple[str, ...]]:
    """The chart as a table: the time, then a value for each curve."""
    ends = [line.points[-1][0] for line in chart.lines if line.points]
    if not ends:
        return []
    end = max(ends)
    moments = [end * n / (_ROWS - 1) for n in range(_ROWS)]
    return [(span(x), *(written(chart, line.at(x)) for line in chart.lines)) for x in moments]


def written(chart: Chart, value: float | None) -> str:
    """A value as the chart writes it."""
    return "–" if value is None else chart.form.format(value)


def summary(chart: Chart) -> str:
    """A chart in a sentence, for who cannot see it."""
    if chart.is_empty:
        return f"{chart.title}: nothing was counted."
    said = []
    for line in chart.lines:
        if line.most is not None:
            last = next((y for _, y in reversed(line.points) if y is not None), None)
            said.append(f"{line.name} at most {written(chart, line.most)}, {written(chart, last)} at the end")
    return f"{chart.title}, {chart.note}: {'; '.join(said)}."
