"""What happened in one rollout, as a value: from its decisions, its journal and the route's record. Called by the command.

Nothing is taken on trust that can be made again: counts come from the journal's ticks, evidence from the judge that is told
them once more. `markdown` and `page` only write it down.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from canaryproxy.analysis.describe import describe_metric
from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.replay import Missing, replay
from canaryproxy.cli.client import RefusedError
from canaryproxy.cli.report.rungs import IN_PROGRESS, Rung, climb
from canaryproxy.cli.report.series import Chart, Curves, Judged, Line, steps
from canaryproxy.cli.source import Source, newest_first
from canaryproxy.cli.text import Answer

if TYPE_CHECKING:
    from canaryproxy.analysis.sample import Tick
    from canaryproxy.analysis.settings import JudgeSettings
    from canaryproxy.analysis.verdict import Verdict

_BEGINNINGS, _ENDS = ("start", "retry", "restart"), ("promoted", "rolled_back")
#: A rollout that neither ended nor goes on: another one was started, or the file named other pools.
OVER = "over"


@dataclass(frozen=True, slots=True)
class Account:
    """A rollout. Times are wall seconds; `ended` is when it ended, or the last that is known of it while `in_progress`."""

    route: str
    rollout: str
    old: str
    new: str
    phase: str
    started: float
    ended: float
    by: str
    reason: str
    decisions: list[Answer]
    rungs: list[Rung]
    users: Answer | None
    requests: dict[str, tuple[int, int]]
    metrics: dict[str, Answer]
    charts: list[Chart] = field(default_factory=list)
    evidence: list[Chart] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def in_progress(self) -> bool:
        """Whether it goes on."""
        return self.phase in IN_PROGRESS

    @property
    def highest(self) -> float:
        """The greatest share of the users that the canary had, in percent."""
        return max((rung.weight_percent for rung in self.rungs if rung.entered is not None), default=0.0)


def gather(source: Source, rollout: str | None = None) -> Account:
    """The account of this rollout, of the last one when None; raises RefusedError when there is none."""
    journals, now = source.rollouts(), source.now()
    if rollout is not None and rollout not in journals:
        hint = f"there is {', '.join(journals)}" if journals else "start one"
        raise RefusedError(source.name, f"has no journal of rollout {rollout}", hint)
    decisions = _decisions(source, rollout)
    if not decisions:
        raise RefusedError(source.name, "has had no rollout yet", "start one: canaryproxy start")
    started = decisions[0]["at"]
    rollout = rollout or next((one for one in journals if _is_of(one, started)), None)
    is_last = now["started_at"] is not None and abs(now["started_at"] - started) < 1
    changes = [made for made in decisions if "to" in made["data"] and "weight_bp" in made["data"]]
    told = _Told(decisions)
    notes = told.listen(source, rollout) if rollout else ["its journal is not kept any more: no charts, no counts"]
    phase = changes[-1]["data"]["to"]
    if phase in IN_PROGRESS and not is_last:
        phase = OVER
    final = next((one for one in reversed(changes) if one["data"]["from"] in IN_PROGRESS), changes[-1])
    ended = max(started + told.last, final["at"]) if phase in (*IN_PROGRESS, OVER) else final["at"]
    plan = decisions[0]["data"].get("plan") or (now["plan"] if is_last else None)
    return Account(
        route=source.route,
        rollout=rollout or "",
        old=decisions[0]["data"]["stable"],
        new=decisions[0]["data"]["canary"],
        phase=phase,
        started=started,
        ended=ended,
        by=changes[-1]["data"]["by"],
        reason=changes[-1]["data"].get("reason") or "",
        decisions=decisions,
        rungs=climb(changes, ended, plan),
        users=_larger(told.users, now["users"] if is_last else None),
        requests=told.requests,
        metrics=told.metrics or _recorded(decisions),
        charts=[_weights(changes, started, ended), *told.curves.charts()],
        evidence=list(told.curves.evidence()),
        marks=[(made["at"] - started, made["kind"]) for made in changes[1:] if made["at"] <= ended],
        notes=notes,
    )


def _decisions(source: Source, rollout: str | None) -> list[Answer]:
    """The decisions from the rollout's beginning to before the next one's, the oldest first."""
    found: list[Answer] = []
    for made in newest_first(source):
        found.append(made)
        if made["kind"] in _BEGINNINGS:
            if rollout is None or _is_of(rollout, made["at"]):
                return list(_own(found[::-1]))
            found = []
    return []


def _own(decisions: list[Answer]) -> Iterator[Answer]:
    """Those of the rollout that began with the first: a canary that is called off before its start (`idle`) is another's, and
    so is a deploy once this one has ended."""
    ended = False
    for made in decisions:
        if made["data"].get("to") != "idle" and not (ended and made["kind"] == "deploy"):
            yield made
        ended = ended or made["data"].get("to") in _ENDS


def _is_of(rollout: str, at: float) -> bool:
    """Whether the rollout of this name (`control.journal.rollout_id`) is the one that began then."""
    second = rollout.partition("-")[0]
    return second.isdigit() and abs(int(second) - at) < 1


def _larger(counted: Answer | None, known: Answer | None) -> Answer | None:
    """Word by word the larger of both: who came after the last tick, or before a new controller's first, is in one only."""
    if counted is None or known is None:
        return known if counted is None else counted
    return {word: max(count, known.get(word) or 0) for word, count in counted.items()}


def _recorded(decisions: list[Answer]) -> dict[str, Answer]:
    """The metrics of the last verdict on record, where there is no journal to make it again from."""
    return next((one["data"]["verdict"]["metrics"] for one in reversed(decisions) if "verdict" in one["data"]), {})


# --- The journal ---


class _Told:
    """Listens to a rollout's journal: its curves, last counts and findings, when each tick was."""

    def __init__(self, decisions: list[Answer]) -> None:
        self.curves, self.last = Curves(), 0.0
        self.users: Answer | None = None
        self.requests: dict[str, tuple[int, int]] = {}
        self.metrics: dict[str, Answer] = {}
        started = decisions[0]["at"]
        known = [(one["data"]["journal"]["tick"], one["at"] - started) for one in decisions if "journal" in one["data"]]
        #: Ticks of which it is known when they were, in seconds since the start.
        self._anchors = [(-1, 0.0), *sorted(known)]

    def listen(self, source: Source, rollout: str) -> list[str]:
        """Make every verdict again; what there is to say of what is missing."""
        watched, missing, elapsed, anchor = _Watched(), 0, 0.0, 0
        try:
            for one in replay(source.blocks(rollout), watched.make):
                if isinstance(one, Missing):
                    missing += one.end - one.first
                    continue
                assert watched.tick is not None
                elapsed += watched.tick.elapsed
                reached = bisect_right(self._anchors, one.tick, key=lambda known: known[0]) - 1
                if reached != anchor:  # this much is known: what stood still before it is no matter
                    anchor, elapsed = reached, float(one.tick - self._anchors[reached][0])
                at = self._anchors[anchor][1] + elapsed
                if anchor + 1 < len(self._anchors):
                    at = min(at, self._anchors[anchor + 1][1])
                self._hear(Judged(max(at, self.last), watched.tick, one.verdict))
        except ValueError as error:
            return [f"its journal cannot be read by this version of canaryproxy ({error}): charts and counts end early"]
        return [f"{missing} ticks are missing: the state could not be written then"] if missing else []

    def _hear(self, judged: Judged) -> None:
        self.curves.add(judged)
        self.last = judged.at
        for variant, arm in (("stable", judged.tick.stable), ("canary", judged.tick.canary)):
            resolved, failed = self.requests.get(variant, (0, 0))
            self.requests[variant] = resolved + arm.resolved, failed + arm.failed
        self.users = {"exposed": judged.tick.canary.users, "hurt": judged.tick.canary.hurt}
        self.metrics = {metric.metric: describe_metric(metric) for metric in judged.verdict.metrics}


class _Watched:
    """Makes judges for a replay, and remembers what the last one was told."""

    def __init__(self) -> None:
        self.tick: Tick | None = None
        self._judge: Judge

    def make(self, settings: JudgeSettings, state: dict[str, Any]) -> _Watched:
        self._judge = Judge(settings, state)
        return self

    def begin_step(self) -> None:
        self._judge.begin_step()

    def judge(self, tick: Tick, *, full_weight: bool) -> Verdict:
        self.tick = tick
        return self._judge.judge(tick, full_weight=full_weight)


# --- From the decisions ---


def _weights(changes: list[Answer], started: float, ended: float) -> Chart:
    moved = [(one["at"] - started, _share_of_new(one, changes[0]["data"]["canary"])) for one in changes]
    line = Line("canary", "weight", steps(((x, y) for x, y in moved if x <= ended - started), ended - started))
    return Chart("Weight", "{:g} %", "the canary's share of the users", (line,), least_top=1)


def _share_of_new(change: Answer, new: str) -> float:
    """Percent of the users on the new version: after a promotion it has another role, and all of them."""
    if change["data"]["to"] == "promoted":
        return 100.0 if change["data"].get("stable") == new else 0.0
    return float(change["data"]["weight_bp"]) / 100


def numbers(made: Answer) -> Iterator[tuple[str, Answer]]:
    """(metric, finding) of a decision that rests on a verdict, those that asked for something first."""
    metrics = made["data"].get("verdict", {}).get("metrics", {})
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    yield from sorted(metrics.items(), key=lambda item: order.get(item[1]["outcome"], 3))
