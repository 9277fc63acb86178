"""Curves over a rollout's time, from the ticks and verdicts of its journal. Pure; called by `account`.

Rates are of the last `_WINDOW` seconds, as a moving window: one second of a small canary says too little. x is seconds since
the rollout's start; a y of None is a gap. No curve has more than `MOST_POINTS` points, and none of its extremes is left out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from canaryproxy.analysis.sample import ArmTick, Tick
from canaryproxy.analysis.verdict import MetricVerdict, Verdict
from canaryproxy.stats.histogram import quantile

MOST_POINTS = 600
_WINDOW = 15.0
#: Seconds without a tick that are drawn as a gap.
_HOLE = 5.0
#: Evidence is shown up to its threshold, in percent: beyond, it says nothing more.
_PROVEN = 100.0

Point = tuple[float, float | None]


class Judged(NamedTuple):
    """A tick at `at` seconds since the start, and the verdict on it."""

    at: float
    tick: Tick
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name for people, how it is drawn (`stable canary harm health weight`), its points in the order of x."""

    name: str
    look: str
    points: tuple[Point, ...]

    def at(self, x: float) -> float | None:
        """The value at or before x."""
        value = None
        for place, y in self.points:
            if place > x:
                break
            value = y
        return value

    @property
    def most(self) -> float | None:
        """The highest value."""
        return max((y for _, y in self.points if y is not None), default=None)


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves that share their axes. `form` writes a value, `threshold` is where a rule acts, `note` says what is counted."""

    title: str
    form: str
    note: str
    lines: tuple[Line, ...]
    threshold: float | None = None
    #: No smaller scale than up to here.
    least_top: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return all(line.most is None for line in self.lines)


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """At most `most` of these points in order: the first, the last, and of each stretch the lowest, the highest and a gap."""
    if len(points) <= most:
        return tuple(points)
    stretches = (most - 2) // 3
    inner, kept = points[1:-1], [points[0]]
    for number in range(stretches):
        stretch = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        known = [index for index, (_, y) in enumerate(stretch) if y is not None]
        chosen = {index for index, (_, y) in enumerate(stretch) if y is None}
        chosen = {min(chosen)} if chosen else set()
        if known:
            chosen |= {
                min(known, key=lambda index: stretch[index][1] or 0.0),
                max(known, key=lambda index: stretch[index][1] or 0.0),
            }
        kept += [stretch[index] for index in sorted(chosen)]
    return (*kept, points[-1])


@dataclass(slots=True)
class _Window:
    """One variant's counts of the last seconds."""

    kept: deque[tuple[float, ArmTick]] = field(default_factory=deque)
    seconds: float = 0.0
    began: int = 0
    resolved: int = 0
    failed: int = 0
    latency: Counter[int] = field(default_factory=Counter)

    def add(self, elapsed: float, arm: ArmTick) -> None:
        self.kept.append((elapsed, arm))
        self._count(elapsed, arm, 1)
        while len(self.kept) > 1 and self.seconds - self.kept[0][0] >= _WINDOW:
            self._count(*self.kept.popleft(), -1)

    def _count(self, elapsed: float, arm: ArmTick, sign: int) -> None:
        self.seconds += sign * elapsed
        self.began += sign * arm.began
        self.resolved += sign * arm.resolved
        self.failed += sign * arm.failed
        for bucket, count in arm.latency.items():
            self.latency[bucket] += sign * count
            if not self.latency[bucket]:
                del self.latency[bucket]

    @property
    def rate(self) -> float:
        return self.began / self.seconds if self.seconds > 0 else 0.0

    @property
    def failing(self) -> float | None:
        return 100 * self.failed / self.resolved if self.resolved else None

    @property
    def p95_ms(self) -> float | None:
        found = quantile(self.latency, 0.95)
        return None if found is None else found / 1000


class Curves:
    """The curves of a rollout as its ticks come in."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, str], list[Point]] = {}
        self._windows = {"stable": _Window(), "canary": _Window()}
        self._last = 0.0

    def add(self, judged: Judged) -> None:
        """Take in the next tick."""
        if judged.at - self._last > _HOLE + judged.tick.elapsed:
            self._windows = {"stable": _Window(), "canary": _Window()}
            for points in self._points.values():
                points.append((judged.at - judged.tick.elapsed, None))
        self._last = judged.at
        for variant, window in self._windows.items():
            window.add(judged.tick.elapsed, getattr(judged.tick, variant))
            self._note("rate", variant, judged.at, window.rate)
            self._note("failing", variant, judged.at, window.failing)
            self._note("p95", variant, judged.at, window.p95_ms)
        for metric in judged.verdict.metrics:
            for what, share in shares(metric):
                self._note(f"evidence {metric.metric}", what, judged.at, share)

    def _note(self, chart: str, line: str, at: float, y: float | None) -> None:
        self._points.setdefault((chart, line), []).append((at, None if y is None else round(y, 4)))

    def charts(self) -> Iterator[Chart]:
        """Requests, errors, latency."""
        window = f"of the last {_WINDOW:g} s"
        yield Chart("Requests", "{:,.0f}/s", f"judged requests begun in a second, {window}", self._pair("rate"), least_top=1)
        yield Chart(
            "Errors", "{:.2f} %", f"share of the judged requests that failed, {window}", self._pair("failing"), least_top=1
        )
        yield Chart("Latency p95", "{:,.0f} ms", f"of the answered requests {window}", self._pair("p95"), least_top=1)

    def evidence(self) -> Iterator[Chart]:
        """For each metric, how far its evidence was on the way to its thresholds."""
        names = dict.fromkeys(chart for chart, _ in self._points if chart.startswith("evidence "))
        for chart in names:
            lines = (self._line(chart, "harm", "harm"), self._line(chart, "health", "health"))
            note = "evidence as a share of what is needed to act (logarithms)"
            yield Chart(chart.removeprefix("evidence "), "{:.0f} %", note, lines, threshold=_PROVEN, least_top=_PROVEN)

    def _pair(self, chart: str) -> tuple[Line, ...]:
        return tuple(self._line(chart, variant, variant) for variant in ("stable", "canary"))

    def _line(self, chart: str, name: str, look: str) -> Line:
        return Line(name, look, thin(self._points.get((chart, name), [])))


def shares(metric: MetricVerdict) -> Iterator[tuple[str, float | None]]:
    """How far the evidence of harm and of health are, in percent of their thresholds; None where nothing is asked."""
    yield "harm", share(metric.evidence, metric.threshold)
    yield "health", share(metric.promote_evidence, metric.promote_threshold)


def share(evidence: float | None, threshold: float | None) -> float | None:
    """Log evidence in percent of the log threshold, at least 0, at most 100."""
    if evidence is None or threshold is None or not 0 < threshold < float("inf"):
        return None
    return min(max(_PROVEN * evidence / threshold, 0.0), _PROVEN)


def steps(changes: Iterable[tuple[float, float]], end: float) -> tuple[Point, ...]:
    """A curve that keeps each value until the next change: (x, y) changes in their order, up to `end`."""
    points: list[Point] = []
    for x, y in changes:
        if points:
            points.append((x, points[-1][1]))
        points.append((x, y))
    if points and end > points[-1][0]:
        points.append((end, points[-1][1]))
    return thin(points)
