"""A chart as inline SVG between labels of HTML. Pure; called by `page`.

The drawing is stretched to the width it is given, so it is right on a phone too; lines keep their strength
(`vector-effect`), and the labels, being HTML, their size. What it shows is also said in its title and description, and in a
table below it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from canaryproxy.cli.report.markup import Html, el
from canaryproxy.cli.report.series import Chart, Line, Point
from canaryproxy.cli.report.words import rows, span, summary, written

_WIDTH, _HEIGHT = 1000.0, 100.0
#: A time axis has at most so many labels.
_LABELS = 5
#: From here on a label is set to the left of its place.
_NEAR_EDGE = 0.95
_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400)
#: Decisions that a chart shows as vertical lines, and their look.
_MARKS = {"step": "up", "bake": "up", "promoted": "good", "rollback": "bad", "step_back": "warn", "pause": "warn", "weight": "up"}


def draw(chart: Chart, end: float, marks: list[tuple[float, str]], identity: str) -> Html:
    """The chart with all that belongs to it; `end` is the right edge in seconds, `identity` unique on the page."""
    head = el("figcaption", el("strong", chart.title), el("span", chart.note, class_="note"), _legend(chart))
    if chart.is_empty:
        return el("figure", head, el("p", "Nothing was counted.", class_="note"), class_="chart")
    top = _top(chart)
    drawing = el(
        "svg",
        el("title", chart.title, id=f"{identity}-t"),
        el("desc", summary(chart), id=f"{identity}-d"),
        _grid(),
        [_mark(at, kind, end) for at, kind in marks if kind in _MARKS],
        _threshold(chart, top),
        [el("path", d=_path(line, end, top), class_=f"line {line.look}") for line in chart.lines],
        viewbox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        preserveaspectratio="none",
        role="img",
        aria_labelledby=f"{identity}-t {identity}-d",
    )
    plain = re.sub(r"\{[^}]*\}", "{:,g}", chart.form)
    scale = el("div", [el("span", plain.format(top * part)) for part in (1, 0.5, 0)], class_="y", aria_hidden="true")
    return el("figure", head, el("div", scale, drawing, _times(end), class_="plot"), _table(chart), class_="chart")


def _legend(chart: Chart) -> Html | None:
    lines = [line for line in chart.lines if line.most is not None]
    if not lines:
        return None
    entries = [el("span", el("i", class_=f"key {line.look}"), line.name, " ", el("b", _last(chart, line))) for line in lines]
    return el("span", entries, class_="legend")


def _last(chart: Chart, line: Line) -> str:
    return written(chart, next((y for _, y in reversed(line.points) if y is not None), None))


def _top(chart: Chart) -> float:
    """The scale's upper end: 1, 2 or 5 times a power of ten, or what the chart asks for at least."""
    most = max((line.most or 0.0 for line in chart.lines), default=0.0)
    if most <= chart.least_top:
        return chart.least_top
    if chart.form.endswith("%") and most > 50:
        return 100.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(factor * power for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if factor * power >= most * 0.999)


def _grid() -> Iterator[Html]:
    for part in (0.0, 0.5, 1.0):
        yield el("line", x1=0, x2=f"{_WIDTH:g}", y1=f"{_HEIGHT * part:g}", y2=f"{_HEIGHT * part:g}", class_="grid")


def _mark(at: float, kind: str, end: float) -> Html:
    x = f"{_x(at, end):g}"
    return el("line", el("title", f"{kind} at {span(at)}"), x1=x, x2=x, y1=0, y2=f"{_HEIGHT:g}", class_=f"mark {_MARKS[kind]}")


def _threshold(chart: Chart, top: float) -> Html | None:
    if chart.threshold is None:
        return None
    y = f"{_y(chart.threshold, top):g}"
    return el("line", x1=0, x2=f"{_WIDTH:g}", y1=y, y2=y, class_="threshold")


def _path(line: Line, end: float, top: float) -> str:
    """The curve; a gap lifts the pen, and a point that stands alone is drawn as a short dash."""
    parts: list[str] = []
    before: Point | None = None
    for number, (x, y) in enumerate(line.points):
        if y is not None:
            joined = before is not None and before[1] is not None
            parts.append(f"{'L' if joined else 'M'}{_x(x, end):.1f} {_y(y, top):.2f}")
            following = line.points[number + 1][1] if number + 1 < len(line.points) else None
            if not joined and following is None:
                parts.append("h1")
        before = (x, y)
    return "".join(parts)


def _x(seconds: float, end: float) -> float:
    return round(min(max(seconds / end, 0.0), 1.0) * _WIDTH, 1) if end > 0 else 0.0


def _y(value: float, top: float) -> float:
    return round(_HEIGHT * (1 - min(value / top, 1.0)), 2)


def _times(end: float) -> Html:
    step = next((one for one in _STEPS if end / one <= _LABELS), math.ceil(end / _LABELS / 86400) * 86400)
    moments = [n * step for n in range(int(end // step) + 1)] if end > 0 else [0]
    labels = []
    for at in moments:
        place = _x(at, end) / _WIDTH
        look = "first" if not at else "last" if place > _NEAR_EDGE else None
        labels.append(el("span", span(at) if at else "0", class_=look, style=f"left:{place:.2%}"))
    return el("div", labels, class_="x", aria_hidden="true")


def _table(chart: Chart) -> Html:
    head = el("tr", el("th", "after", scope="col"), [el("th", line.name, scope="col", class_="n") for line in chart.lines])
    body = [el("tr", el("th", row[0], scope="row"), [el("td", cell, class_="n") for cell in row[1:]]) for row in rows(chart)]
    table = el("table", el("caption", summary(chart)), el("thead", head), el("tbody", body))
    return el("details", el("summary", "figures"), table)
