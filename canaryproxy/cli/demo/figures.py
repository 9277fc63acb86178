"""What a story came to: from what the apps and the users' side told, whether it ended as it should. Pure; fed by `story`.

The proxy is not asked how well it did: v2 says which requests it has hurt, the users' side which have failed. A failure that
no fault of v2 explains is the proxy's own. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from canaryproxy.cli.demo.scenario import LATELY, Fault, Scenario


class Failure(NamedTuple):
    """A request that did not get its 200: `version` '' and `status` 0 where nothing came back."""

    number: int
    user: str
    at: float
    version: str
    status: int


class Lately(NamedTuple):
    """One version as its users see it now: requests a second, the share that failed, p95 of those that were answered."""

    rate: float
    failed: float
    p95_ms: float | None


@dataclass(slots=True)
class Tally:
    """All that the demo's own processes have told so far."""

    load: dict[str, Any] = field(default_factory=dict)
    apps: dict[str, dict[str, Any]] = field(default_factory=lambda: {"v1": {}, "v2": {}})
    faults: dict[int, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def hear_load(self, line: Mapping[str, Any]) -> None:
        """Take one line of the users' side."""
        self.load = dict(line)
        self.failures += (Failure(*failure) for failure in self.load.pop("failures"))

    def hear_app(self, version: str, line: Mapping[str, Any]) -> None:
        """Take one line of an app."""
        self.apps[version] = dict(line)
        self.faults |= dict(self.apps[version].pop("faults", ()))

    def lately(self, version: str, now: float) -> Lately | None:
        """What the users of this version have got in the last seconds; None while nobody has got anything."""
        answers = (self.load.get("lately") or {}).get(version) or {}
        failed = unanswered = 0
        for failure in reversed(self.failures):
            if failure.at < now - LATELY:
                break
            cause = failure.version or ("v2" if failure.number in self.faults else "v1")
            failed += cause == version
            unanswered += cause == version and not failure.version
        requests = answers.get("answers", 0) + unanswered
        return Lately(requests / LATELY, failed / requests, answers.get("p95_ms")) if requests else None

    @property
    def unexplained(self) -> list[Failure]:
        """Failures that are not v2's fault. Only at the end: before, a fault may be told after the failure it caused."""
        return [failure for failure in self.failures if failure.number not in self.faults]

    def hurt(self, fault: Fault) -> dict[int, str]:
        """Requests and their users that v2 has hurt: too slow, or failed because of it."""
        if fault is Fault.SLOW:
            return self.faults
        return {failure.number: failure.user for failure in self.failures if failure.number in self.faults}

    def last_hurt(self, fault: Fault) -> float | None:
        """The moment at which the last of them reached its user."""
        if fault is Fault.SLOW:
            last: float | None = self.apps["v2"].get("last_fault")
            return last
        return max((failure.at for failure in self.failures if failure.number in self.faults), default=None)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the rollout ended: `at` by the decision log; `seen` when the demo saw it, hence surely in force; both None if never."""

    phase: str
    at: float | None = None
    seen: float | None = None


def objections(scenario: Scenario, ending: Ending, tally: Tally) -> list[str]:
    """Why the story did not end as it should; empty when it did."""
    found = []
    if ending.phase != scenario.ending:
        found.append(f"the rollout is {_words(ending.phase)}, and should be {_words(scenario.ending)}")
    if unexplained := tally.unexplained:
        first = unexplained[0]
        how = f"status {first.status}" if first.status else "no answer"
        found.append(f"{len(unexplained)} requests failed without a fault of v2, the first with {how}")
    last_sent = tally.apps["v2"].get("last_sent", 0.0)
    if ending.phase == "rolled_back" and ending.seen is not None and last_sent > ending.seen:
        found.append(f"a request sent {last_sent - ending.seen:.2f} s after the rollback reached v2")
    if scenario.fault is not Fault.NONE and not tally.faults:
        found.append("v2 never served its fault")
    return found


def summary(scenario: Scenario, ending: Ending, tally: Tally, elapsed: float) -> list[tuple[str, str]]:
    """The figures for people: (what, how much)."""
    load, v1, v2 = tally.load, tally.apps["v1"].get("served", 0), tally.apps["v2"].get("served", 0)
    lines = [("ending", f"{_words(ending.phase)} after {elapsed:.1f} s")]
    first = tally.apps["v2"].get("first_fault")
    if first is not None and ending.at is not None:
        lines.append(("first fault to rollback", f"{ending.at - first:.2f} s"))
        if (last := tally.last_hurt(scenario.fault)) is not None:
            lines.append(("first to last fault at a user", f"{last - first:.2f} s"))
    hurt = tally.hurt(scenario.fault)
    lines += [
        ("requests hurt by v2", _of(len(hurt), load.get("sent", 0))),
        ("users hurt by v2", _of(len(set(hurt.values())), load.get("users", 0))),
        ("failures without a fault", str(len(tally.unexplained))),
        ("requests that v1, v2 got", f"{v1:,}, {v2:,}"),
    ]
    if skipped := load.get("skipped", 0):
        lines.append(("requests not sent", f"{skipped:,} (too many were out)"))
    return lines


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({part / whole:.2%})" if whole else "")


def _words(phase: str) -> str:
    return phase.replace("_", " ")
