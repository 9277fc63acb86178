"""What a run came to, from what origins, users and the decision log told. Pure; fed by `run`. Times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.live.scenario import NEITHER, PAUSED, PROMOTED, ROLLED_BACK, Fault, Scenario

_ENDINGS = {"rollback": ROLLED_BACK, "pause": PAUSED, "promoted": PROMOTED}


class Decision(NamedTuple):
    """An entry of the decision log."""

    at: float
    kind: str
    sentence: str


class Failure(NamedTuple):
    """A request that did not get its 200; `status` 0 where nothing came back."""

    number: int
    user: str
    sent: float
    status: int


class Spoiled(NamedTuple):
    """A request to which an origin did something wrong."""

    number: int
    user: str
    at: float


@dataclass(slots=True)
class Tally:
    """All that the processes of a run have told so far."""

    origins: dict[str, dict[str, Any]] = field(default_factory=lambda: {"v1": {}, "v2": {}})
    spoiled: dict[str, list[Spoiled]] = field(default_factory=lambda: {"v1": [], "v2": []})
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    def hear_origin(self, version: str, line: Mapping[str, Any]) -> None:
        """Take one line of an origin."""
        self.origins[version] = dict(line)
        self.spoiled[version] += (Spoiled(*one) for one in line["spoiled"])

    def hear_load(self, name: str, line: Mapping[str, Any]) -> None:
        """Take one line of the users, or of the bot."""
        self.failures += (Failure(*one) for one in line["failures"])
        self.skipped[name] = line["skipped"]


@dataclass(slots=True)
class Course:
    """When what happened: the rollout's start, the fault (None: none began), the decisions, canary requests before the fault."""

    started: float
    fault_at: float | None = None
    decisions: list[Decision] = field(default_factory=list)
    served_before: int = 0


@dataclass(frozen=True)
class Measurement:
    """One run. Delays are seconds from the fault, None where there is none; `early`: rolled back or paused before the fault.

    `ending`: the worst of what was decided. `last_request`: the last one that reached the canary's origin, by its own clock (a
    killed one's: the last one that its user saw fail). `strays`: failures that neither the fault nor an origin explains.
    """

    scenario: str
    number: int
    ending: str
    right: bool
    early: bool
    paused_after: float | None
    decided_after: float | None
    last_request: float | None
    users_hurt: int
    requests_hurt: int
    canary_rate: float
    strays: int
    skipped: int
    seconds: float
    sentence: str
    story: tuple[Decision, ...]

    @property
    def false_rollback(self) -> bool:
        """Whether a canary that was not at fault was rolled back."""
        return self.ending == ROLLED_BACK and not self.right


def measure(scenario: Scenario, number: int, tally: Tally, course: Course, seconds: float) -> Measurement:
    """The figures of a run that is over."""
    first: dict[str, Decision] = {}
    for decision in course.decisions:
        first.setdefault(_ENDINGS.get(decision.kind, ""), decision)
    ending = next((ending for ending in (ROLLED_BACK, PROMOTED, PAUSED) if ending in first), NEITHER)
    decided = first.get(ending)
    fault_at = course.fault_at
    early = any(ending in first and (fault_at is None or first[ending].at < fault_at) for ending in (ROLLED_BACK, PAUSED))
    early = early and scenario.fault is not Fault.NONE
    origin = fault_at if fault_at is not None else course.started
    explained = {one.number for spoiled in tally.spoiled.values() for one in spoiled}
    unexplained = [failure for failure in tally.failures if failure.number not in explained]
    killed = scenario.fault is Fault.KILLED and fault_at is not None
    # a request on its way when the process died fails too; it was sent a moment before
    by_kill = [one for one in unexplained if killed and one.sent > origin - 2.0]
    hurt = {one.number: one.user for one in tally.spoiled["v2"]} | {one.number: one.user for one in by_kill}
    if killed:
        last = max((max(one.sent, origin) for one in by_kill), default=None)
    else:
        last = tally.origins["v2"].get("last_request") if ending == ROLLED_BACK else None
    return Measurement(
        scenario=scenario.name,
        number=number,
        ending=ending,
        right=ending in scenario.endings and not early,
        early=early,
        paused_after=first[PAUSED].at - origin if PAUSED in first else None,
        decided_after=decided.at - origin if decided else None,
        last_request=last - origin if last is not None else None,
        users_hurt=len(set(hurt.values())),
        requests_hurt=len(hurt),
        canary_rate=course.served_before / max(origin - course.started, 1.0) if fault_at else 0.0,
        strays=len(unexplained) - len(by_kill),
        skipped=sum(tally.skipped.values()),
        seconds=seconds,
        sentence=decided.sentence if decided else (course.decisions[-1].sentence if course.decisions else ""),
        story=tuple(decision._replace(at=round(decision.at - origin, 2)) for decision in course.decisions),
    )
