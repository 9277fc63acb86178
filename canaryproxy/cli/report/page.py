"""The report as one HTML page: nothing is loaded, no script, light and dark. Pure but for the style sheet's file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

from canaryproxy import __version__
from canaryproxy.cli.report.account import Account, numbers
from canaryproxy.cli.report.chart import draw
from canaryproxy.cli.report.markup import Html, el
from canaryproxy.cli.report.words import PHASES, count, decided_by, figures, outcome, proof, rung_cells, span, title
from canaryproxy.cli.text import Answer, moment

#: How a finding's outcome is coloured, and a decision's kind.
_OUTCOMES = {"fail": "bad", "inconclusive": "warn", "pass": "good"}
_KINDS = {"rollback": "bad", "promoted": "good", "pause": "warn", "freeze": "warn", "step_back": "warn", "warning": "warn"}


def page(account: Account) -> str:
    """The whole document."""
    style = resources.files("canaryproxy.cli.report").joinpath("page.css").read_text(encoding="utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", f"{title(account)}, rollout {account.rollout}"),
        el("style", Html(style)),
    )
    body = el(
        "main", _header(account), _figures(account), _plan(account), _charts(account), _evidence(account), _timeline(account)
    )
    return "<!doctype html>\n" + el("html", head, el("body", body, _footer(account)), lang="en") + "\n"


def _header(account: Account) -> Iterator[Html]:
    word, look = PHASES.get(account.phase, (account.phase, "calm"))
    name = f"{account.route}: {account.old} → {account.new}"
    yield el("p", "Rollout report", class_="over")
    yield el("h1", name, el("span", word, class_=f"badge {look}"))
    yield el("p", outcome(account), class_="lede")
    until = "last seen" if account.in_progress else "ended"
    times = [f"started {moment(account.started)}", f"{until} {moment(account.ended)}"]
    yield el("p", [el("span", text) for text in (*times, f"rollout {account.rollout}")], class_="meta")
    for note in account.notes:
        yield el("p", note, class_="warning")


def _figures(account: Account) -> Html:
    return el("dl", [el("div", el("dt", name), el("dd", value)) for name, value in figures(account)], class_="figures")


def _plan(account: Account) -> Iterator[Html]:
    yield el("h2", "Plan, and what happened")
    rows = []
    for rung in account.rungs:
        name, *numbers_of, ended = rung_cells(rung)
        look = {"passed": "good", "rolled back": "bad", "stepped back": "warn"}.get(ended)
        cells = [el("td", cell, class_="n") for cell in numbers_of]
        dim = "dim" if rung.entered is None else None
        rows.append(el("tr", el("th", name, scope="row", class_="nowrap"), cells, el("td", ended, class_=look), class_=dim))
    heads = [("step", None), ("weight", "n"), ("planned", "n"), ("took", "n"), ("held up", "n"), ("ended", None)]
    yield _table(heads, rows, look="plan")


def _charts(account: Account) -> Iterator[Html]:
    yield el("h2", "Traffic")
    end = account.ended - account.started
    drawn = [draw(chart, end, account.marks, f"c{n}") for n, chart in enumerate(account.charts)]
    yield el("div", drawn, class_="charts")


def _evidence(account: Account) -> Iterator[Html]:
    yield el("h2", "What each metric found")
    yield _table(
        [("metric", None), ("finding", None), ("harm", None), ("health", None), ("on these numbers", None)],
        [_finding(name, finding) for name, finding in account.metrics.items()],
        look="stack",
    )
    if account.evidence:
        yield el("h2", "Evidence over time")
        about = "How far the evidence was on its way: at 100 % (dashed) harm is proven, or health where health is asked for."
        yield el("p", about, class_="note", style="margin-bottom:10px")
        end = account.ended - account.started
        drawn = [draw(chart, end, account.marks, f"e{n}") for n, chart in enumerate(account.evidence)]
        yield el("div", drawn, class_="charts evidence")


def _finding(name: str, finding: Answer) -> Html:
    found = finding["outcome"]
    return el(
        "tr",
        el("th", name, scope="row", class_="nowrap"),
        el("td", found, class_=f"nowrap {_OUTCOMES.get(found, '')}".strip()),
        [el("td", _meter(proof(finding, what), what), class_="nowrap") for what in ("harm", "health")],
        el("td", finding["sentence"], class_="wide"),
    )


def _meter(percent: float | None, what: str) -> object:
    if percent is None:
        return el("span", f"{what} ", class_="said"), "–"
    bar = el("span", el("i", style=f"width:{percent:.0f}%"), class_=f"meter {what}", aria_hidden="true")
    return el("span", f"{what} ", class_="said"), bar, f"{percent:.0f} %"


def _timeline(account: Account) -> Iterator[Html]:
    yield el("h2", "What was decided")
    heads = [("time", None), ("after", "n"), ("decision", None), ("by", None), ("", None)]
    yield _table(heads, [_decision(account, made) for made in account.decisions], look="stack")


def _decision(account: Account, made: Answer) -> Html:
    findings = list(numbers(made))
    return el(
        "tr",
        el("td", moment(made["at"]), class_="nowrap"),
        el("td", f"+{span(max(made['at'] - account.started, 0))}", class_="n"),
        el("td", made["kind"].replace("_", " "), class_=f"nowrap {_KINDS.get(made['kind'], '')}".strip()),
        el("td", decided_by(made), class_="who"),
        el("td", made["sentence"], _numbers(findings) if findings else None, class_="wide"),
    )


def _numbers(findings: list[tuple[str, Answer]]) -> Html:
    head = el("tr", [el("th", name, scope="col") for name in ("metric", "finding", "sentence")])
    rows = [
        el(
            "tr",
            el("th", name, scope="row"),
            el("td", one["outcome"], class_=_OUTCOMES.get(one["outcome"])),
            el("td", one["sentence"]),
        )
        for name, one in findings
    ]
    return el(
        "details",
        el("summary", f"on the numbers of {count(len(rows))} metrics"),
        el("table", el("thead", head), el("tbody", rows)),
    )


def _table(heads: list[tuple[str, str | None]], rows: list[Html], *, look: str) -> Html:
    head = el("tr", [el("th", name, scope="col", class_=align) for name, align in heads])
    table = el("table", el("thead", head), el("tbody", rows), class_=look)
    return el("div", table, class_="scroll")


def _footer(account: Account) -> Html:
    again = f"canaryproxy decisions {account.route} --replay --rollout {account.rollout}"
    counts = "Counts are of judged requests: identified users, without what one user sends in excess."
    return el(
        "footer",
        el("p", counts, " Users are estimated; hurt are those with a failed request."),
        el("p", "Every verdict can be made again from the recorded counts: ", el("code", again)),
        el("p", f"Made by canaryproxy {__version__}."),
        style="max-width:1072px;margin-left:auto;margin-right:auto",
    )
