"""From runs to figures, and figures to a table: on the terminal, in Markdown, as JSON. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from bench.live.figures import Measurement
from bench.live.scenario import SCENARIOS, Fault
from bench.proxy.report import Spread

_COLUMNS = (
    "scenario",
    "as it should",
    "endings",
    "to the decision, s",
    "to the last canary request, s",
    "users hurt",
    "requests hurt",
    "canary req/s",
    "false rollbacks",
    "strays",
)


@dataclass(frozen=True)
class Row:
    """A line of the table: one scenario. None: in no run was there such a figure."""

    scenario: str
    runs: int
    right: int
    endings: dict[str, int]
    decided_after: Spread | None
    last_request: Spread | None
    users_hurt: Spread
    requests_hurt: Spread
    canary_rate: Spread | None
    false_rollbacks: int
    strays: int
    sentence: str


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.over(known) if known else None


def rows(measurements: Sequence[Measurement]) -> list[Row]:
    """One row for each scenario, in the order of `SCENARIOS`. The sentence is that of the first run with the usual ending."""
    table = []
    for name in SCENARIOS:
        mine = [one for one in measurements if one.scenario == name]
        if not mine:
            continue
        endings = Counter(one.ending for one in mine)
        usual = endings.most_common(1)[0][0]
        table.append(
            Row(
                name,
                len(mine),
                right=sum(one.right for one in mine),
                endings=dict(endings.most_common()),
                decided_after=_spread([one.decided_after for one in mine if not one.early]),
                last_request=_spread([one.last_request for one in mine if not one.early]),
                users_hurt=Spread.over([one.users_hurt for one in mine]),
                requests_hurt=Spread.over([one.requests_hurt for one in mine]),
                canary_rate=_spread([one.canary_rate or None for one in mine]),
                false_rollbacks=sum(one.false_rollback for one in mine),
                strays=sum(one.strays for one in mine),
                sentence=next(one.sentence for one in mine if one.ending == usual),
            )
        )
    return table


def _cells(row: Row) -> tuple[str, ...]:
    def text(spread: Spread | None, digits: int) -> str:
        return spread.text(digits) if spread else ""

    return (
        row.scenario,
        f"{row.right} of {row.runs}",
        ", ".join(f"{count} {ending.replace('_', ' ')}" for ending, count in row.endings.items()),
        text(row.decided_after, 1),
        text(row.last_request, 1),
        row.users_hurt.text(0),
        row.requests_hurt.text(0),
        text(row.canary_rate, 0),
        str(row.false_rollbacks),
        str(row.strays),
    )


def terminal_table(table_rows: Sequence[Row]) -> Table:
    """The table for a person at a terminal."""
    table = Table(*_COLUMNS, title="median (min..max) over the runs")
    for row in table_rows:
        table.add_row(*_cells(row), style=None if row.right == row.runs else "red")
    return table


def sentences(table_rows: Sequence[Row]) -> list[str]:
    """For each scenario what happened in it, and what the proxy said of it."""
    return [f"{row.scenario}: {SCENARIOS[row.scenario].sentence}. {row.sentence}" for row in table_rows]


def markdown(table_rows: Sequence[Row], description: Sequence[str]) -> str:
    """Table, sentences and machine, for a README."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in table_rows]
    lines += ["", *(f"* `{name}`: {words}" for name, _, words in (line.partition(": ") for line in sentences(table_rows)))]
    return "\n".join([*lines, "", *(f"{line}  " for line in description)])


def as_json(measurements: Sequence[Measurement], failed: Sequence[str], description: Sequence[str]) -> dict[str, Any]:
    """Everything that was measured, and the rows made from it."""
    return {
        "machine": list(description),
        "rows": [asdict(row) for row in rows(measurements)],
        "failed": list(failed),
        "measurements": [asdict(one) for one in measurements],
    }


def line(one: Measurement) -> str:
    """One run in a line, for the progress."""
    since = "start" if SCENARIOS[one.scenario].fault is Fault.NONE else "fault"
    parts = [f"{one.scenario} {one.number}: {one.ending.replace('_', ' ')}"]
    if one.decided_after is not None:
        parts.append(f"{one.decided_after:.1f} s after the {since}")
    if one.last_request is not None:
        parts.append(f"last canary request {one.last_request:.1f} s after the {since}")
    parts.append(f"{one.users_hurt} users and {one.requests_hurt} requests hurt")
    parts += [f"{one.strays} strays"] * (one.strays > 0) + [f"{one.skipped} not sent"] * (one.skipped > 0)
    return ("" if one.right else "NOT AS IT SHOULD: ") + ", ".join(parts) + f" ({one.seconds:.0f} s)"
