"""The demo for people: a picture that stays in its place on a terminal, a line for each change anywhere else.

Called by `story` with a `Scene`. The picture always has the same lines, so nothing jumps; numbers are right-aligned, and red is
kept for harm.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from canaryproxy.cli import text
from canaryproxy.cli.demo.figures import Lately
from canaryproxy.cli.demo.scenario import WEIGHTS, Fault
from canaryproxy.cli.demo.scene import Scene

_WIDTH = 78
_LINES = 23
_LABEL = 14
_RUNG = 11
_BAR = 26
_MOMENT = 10
_DECISION_LINES = 5
_METRICS = (("error_rate", "error rate"), ("latency_p95", "p95 latency"))


class JsonView:
    """Only how it ended, for programs."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, scene: Scene) -> None:
        pass

    def close(self) -> None:
        pass

    def end(self, figures: list[tuple[str, str]], objections: list[str]) -> None:
        print(json.dumps({"figures": dict(figures), "objections": objections}, indent=2), file=self._out, flush=True)


class PlainView:
    """One line for each change, flushed at once: for logs, pipes and tests. A reader that left is a BrokenPipeError."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begun = False
        self._stage = ""
        self._decisions = 0
        self._faulty = False

    def show(self, scene: Scene) -> None:
        if not self._begun:
            self._begun = True
            self._line(0.0, f"{scene.scenario.name}: {scene.scenario.sentence}")
        if scene.stage and scene.stage != self._stage:
            self._line(scene.elapsed, scene.stage)
        self._stage = scene.stage
        if scene.faulty_since is not None and not self._faulty:
            self._faulty = True
            self._line(scene.faulty_since, "v2 serves its first fault")
        for moment, _, sentence in scene.decisions[self._decisions :]:
            self._line(moment, sentence)
        self._decisions = len(scene.decisions)

    def close(self) -> None:
        pass

    def end(self, figures: list[tuple[str, str]], objections: list[str]) -> None:
        for line in _end(figures, objections):
            print(line.plain, file=self._out, flush=True)

    def _line(self, moment: float, what: str) -> None:
        print(f"[{moment:5.1f} s] {what}", file=self._out, flush=True)


class LiveView:
    """One picture, drawn over itself."""

    @staticmethod
    def fits(console: Console) -> bool:
        """Whether this is a terminal that can draw over itself and has the room."""
        if not console.is_terminal or console.is_dumb_terminal:
            return False
        return console.width > _WIDTH and console.height > _LINES

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def show(self, scene: Scene) -> None:
        self._live.start()
        self._live.update(picture(scene), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def end(self, figures: list[tuple[str, str]], objections: list[str]) -> None:
        for line in _end(figures, objections):
            self._console.print(line, soft_wrap=True)


def picture(scene: Scene) -> RenderableType:
    """The whole picture: always the same number of lines."""
    parts = (_heading(scene), _ladder(scene), _variants(scene), _evidence(scene), _decisions(scene))
    return Group(*(line for part in parts for line in (Text(), part)))


def _heading(scene: Scene) -> RenderableType:
    table = _grid(_WIDTH - 14, 14)
    table.add_row(Text(f"canaryproxy demo  {scene.scenario.name}", style="bold"), Text(f"{scene.elapsed:.0f} s"))
    if scene.scenario.fault is Fault.NONE:
        since = Text()
    elif scene.faulty_since is None:
        since = Text("not yet", style="dim")
    else:
        since = Text(f"since {scene.faulty_since:.0f} s", style="red")
    table.add_row(Text(scene.scenario.sentence, style="dim"), since)
    return table


def _ladder(scene: Scene) -> RenderableType:
    """The steps as a rail, filled as far as the canary has got, and the phase below."""
    status = scene.status or {}
    phase = status.get("phase", "")
    weight = 100 if phase == "promoted" else status.get("weight_percent", 0)
    style = {"promoted": "green", "rolled_back": "red", "paused": "yellow"}.get(phase, "cyan")
    rail, labels = _label("weight"), Text(" " * _LABEL)
    for rung in (0, *WEIGHTS, 100):
        reached = rung <= weight
        if rung:
            rail.append("━" * (_RUNG - 1), style=style if reached else "bright_black")
        rail.append("●" if reached else "○", style=style if reached else "bright_black")
        labels.append(f"{rung}%".ljust(_RUNG), style="bold" if rung == weight else "dim")
    where = _label("phase")
    where.append(phase.replace("_", " ") or "-", style=f"bold {style}")
    if phase in ("progressing", "paused"):
        where.append(f"   step {text.step(status)}")
    where.append(f"   {scene.stage}", style="dim")
    where.truncate(_WIDTH, overflow="ellipsis")
    return Group(rail, labels, where)


def _variants(scene: Scene) -> RenderableType:
    """Both versions side by side, as their users see them."""
    status = scene.status or {}
    roles = {(status.get(role) or {}).get("pool"): role for role in ("canary", "stable")}
    table = _grid(_LABEL, 18, 18)
    table.add_row("", *(Text(f"{version} {roles.get(version, '')}".strip(), style="bold") for version in ("v1", "v2")))
    lately = [scene.tally.lately(version, scene.now) for version in ("v1", "v2")]
    for label, show in _FIGURES:
        table.add_row(Text(label, style="dim"), *(show(one) if one else Text("-", style="dim") for one in lately))
    hurt = len(set(scene.tally.hurt(scene.scenario.fault).values()))
    table.add_row(Text("users hurt", style="dim"), "", Text(f"{hurt:,}", style="red" if hurt else ""))
    return table


_FIGURES: tuple[tuple[str, Callable[[Lately], Text]], ...] = (
    ("requests/s", lambda one: Text(f"{one.rate:,.0f}")),
    ("failed", lambda one: Text(f"{one.failed:.1%}", style="red" if one.failed else "")),
    ("p95", lambda one: Text("-" if one.p95_ms is None else f"{one.p95_ms:,.0f} ms")),
)


def _evidence(scene: Scene) -> RenderableType:
    """For each metric how far the proof of harm and the proof of health have got: a full bar decides."""
    evidence = (scene.status or {}).get("evidence") or {}
    table = Table.grid(padding=(0, 3, 0, 0))
    for width in (_LABEL - 3, _BAR, _BAR):
        table.add_column(width=width, no_wrap=True)
    dim = "dim"
    table.add_row(
        Text("evidence", style=dim), Text("of harm (full: rollback)", style=dim), Text("of health (full: goes on)", style=dim)
    )
    for name, label in _METRICS:
        metric = evidence.get(name) or {}
        against = _bar(metric.get("evidence"), metric.get("threshold"), "red")
        for_ = _bar(metric.get("promote_evidence"), metric.get("promote_threshold"), "green")
        table.add_row(Text(label, style="dim"), against, for_)
    return table


def _bar(evidence: float | None, threshold: float | None, style: str) -> Text:
    """How much of the needed evidence (both natural logarithms) is there; empty when unknown."""
    filled = round(min(max((evidence or 0.0) / threshold, 0.0), 1.0) * _BAR) if threshold else 0
    return Text.assemble(("━" * filled, style), ("─" * (_BAR - filled), "bright_black"))


def _decisions(scene: Scene) -> RenderableType:
    """What was decided: the last decision in up to three lines, a line for each of those before."""
    lines: list[Text] = []
    for index, (moment, kind, sentence) in enumerate(reversed(scene.decisions[-_DECISION_LINES:])):
        style = {"rollback": "red", "promoted": "green"}.get(kind, "")
        wrapped = textwrap.wrap(sentence, _WIDTH - _MOMENT, max_lines=1 if index else 3, placeholder=" …")
        heads = (f"{moment:5.1f} s".ljust(_MOMENT), *[" " * _MOMENT] * len(wrapped))
        lines = [Text.assemble((head, "dim"), (line, style)) for head, line in zip(heads, wrapped, strict=False)] + lines
    lines = lines[-_DECISION_LINES:]
    return Group(*lines, *[Text()] * (_DECISION_LINES - len(lines)))


def _label(name: str) -> Text:
    return Text.assemble((name.ljust(_LABEL), "dim"))


def _grid(first: int, *others: int) -> Table:
    table = Table.grid()
    table.add_column(width=first, no_wrap=True)
    for width in others:
        table.add_column(width=width, justify="right", no_wrap=True)
    return table


def _end(figures: list[tuple[str, str]], objections: list[str]) -> list[Text]:
    """The figures below each other, then how it ended."""
    lines = [Text(), *(Text.assemble((f"{what:<30}", "dim"), figure) for what, figure in figures)]
    lines += (Text(f"not as it should be: {objection}", style="red") for objection in objections)
    return lines if objections else [*lines, Text("ended as it should", style="green")]
