"""The report as Markdown: tables, and curves as a line of blocks each. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from canaryproxy import __version__
from canaryproxy.cli.report.account import Account, numbers
from canaryproxy.cli.report.series import Chart, Line
from canaryproxy.cli.report.words import PHASES, decided_by, figures, outcome, proof, rung_cells, span, title, written
from canaryproxy.cli.text import moment

_BLOCKS = "▁▂▃▄▅▆▇█"
_COLUMNS = 60
#: What Markdown, or HTML in it, could take for its own.
_SPECIAL = re.compile(r"[\\`*\[\]<>#|~&]|(?<!\w)_|_(?!\w)")


def markdown(account: Account) -> str:
    """The whole document."""
    return "\n".join([*_head(account), *_plan(account), *_curves(account), *_findings(account), *_timeline(account)]) + "\n"


def escape(text: str) -> str:
    """Text that says only itself: on one line, and nothing in it is Markdown or HTML."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], " ".join(text.split()))


def _head(account: Account) -> Iterator[str]:
    word, _ = PHASES.get(account.phase, (account.phase, ""))
    yield f"# {escape(title(account))}: {word}"
    yield ""
    yield escape(outcome(account))
    yield ""
    until = "last seen" if account.in_progress else "ended"
    yield f"Started {moment(account.started)}, {until} {moment(account.ended)}, rollout `{account.rollout}`."
    for note in account.notes:
        yield ""
        yield f"**{escape(note)}**"
    yield ""
    yield from _table([name for name, _ in figures(account)], [[value for _, value in figures(account)]])


def _plan(account: Account) -> Iterator[str]:
    yield from ("", "## Plan, and what happened", "")
    yield from _table(
        ["step", "weight", "planned", "took", "held up", "ended"], [list(rung_cells(rung)) for rung in account.rungs]
    )


def _curves(account: Account) -> Iterator[str]:
    """Each curve over the whole rollout: the highest value in each of the columns."""
    end = account.ended - account.started
    drawn = [(chart, line) for chart in (*account.charts, *account.evidence) for line in chart.lines if line.most is not None]
    if not drawn or end <= 0:
        return
    yield from ("", "## Curves", "", f"From the start to {span(end)}; each line is scaled to its highest value.", "", "```text")
    labels = [f"{chart.title}, {line.name}" if len(chart.lines) > 1 else chart.title for chart, line in drawn]
    wide = max(map(len, labels))
    for label, (chart, line) in zip(labels, drawn, strict=True):
        yield f"{label:<{wide}}  {_spark(chart, line, end):<{_COLUMNS}}  {written(chart, line.most)}"
    yield "```"


def _spark(chart: Chart, line: Line, end: float) -> str:
    most = [line.at(end * (column + 1) / _COLUMNS) for column in range(_COLUMNS)]
    for x, y in line.points:
        column = min(int(x / end * _COLUMNS), _COLUMNS - 1)
        if y is not None:
            most[column] = max(most[column] or 0.0, y)
    top = max(line.most or 0.0, chart.threshold or 0.0) or 1.0
    return "".join(" " if y is None else _BLOCKS[min(int(y / top * len(_BLOCKS)), len(_BLOCKS) - 1)] for y in most)


def _findings(account: Account) -> Iterator[str]:
    yield from ("", "## What each metric found", "")
    rows = [
        [name, one["outcome"], _percent(proof(one, "harm")), _percent(proof(one, "health")), one["sentence"]]
        for name, one in account.metrics.items()
    ]
    yield from _table(["metric", "finding", "harm proven to", "health proven to", "on these numbers"], rows)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0f} %"


def _timeline(account: Account) -> Iterator[str]:
    yield from ("", "## What was decided", "")
    rows = []
    for made in account.decisions:
        after = f"+{span(max(made['at'] - account.started, 0))}"
        rows.append([moment(made["at"]), after, made["kind"].replace("_", " "), decided_by(made), made["sentence"]])
    yield from _table(["time", "after", "decision", "by", "what"], rows)
    for made in account.decisions:
        if made["kind"] != "verdict" and (found := list(numbers(made))):
            yield from ("", f"### {made['kind'].replace('_', ' ').capitalize()} at {moment(made['at'])}: the numbers", "")
            yield from _table(["metric", "finding", "sentence"], [[name, one["outcome"], one["sentence"]] for name, one in found])
    again = f"canaryproxy decisions {account.route} --replay --rollout {account.rollout}"
    yield from ("", f"Every verdict can be made again from the recorded counts: `{again}`. Made by canaryproxy {__version__}.")


def _table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(escape, heads))} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(escape, row))} |"
