"""What a drill measured, against its limits. Pure: filled by `rehearsals`, shown by the command.

Times are milliseconds. None among them: it did not happen (a rollback that did not come).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(slots=True)
class Measured:
    """One figure of a rehearsal over its repetitions, with the limit that each has to keep (None: shown only)."""

    what: str
    limit_ms: float | None
    times_ms: list[float | None] = field(default_factory=list)

    @property
    def known(self) -> list[float]:
        """Those that happened."""
        return [one for one in self.times_ms if one is not None]

    @property
    def passed(self) -> bool:
        """Whether all happened, within the limit."""
        return self.limit_ms is None or (
            bool(self.times_ms) and len(self.known) == len(self.times_ms) and max(self.known) <= self.limit_ms
        )

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        known = sorted(self.known)
        spread = {"least": known[0], "median": median(known), "most": known[-1]} if known else {}
        rounded = {name: round(value, 1) for name, value in spread.items()}
        times = [None if one is None else round(one, 1) for one in self.times_ms]
        return {"what": self.what, "ms": times, **rounded, "limit_ms": self.limit_ms, "passed": self.passed}


@dataclass(slots=True)
class Rehearsal:
    """One of the drill's parts: what is done, what was measured, users (or requests) hurt in each repetition."""

    name: str
    sentence: str
    measured: list[Measured]
    hurt: list[int] = field(default_factory=list)
    #: Why something did not happen, or could not be tried.
    objections: list[str] = field(default_factory=list)
    #: Not tried here, and why; that is no failure.
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything happened within its limit."""
        return bool(self.skipped) or (not self.objections and all(one.passed for one in self.measured))

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "sentence": self.sentence,
            "measured": [one.document() for one in self.measured],
            "users_hurt": self.hurt,
            "objections": self.objections,
            "skipped": self.skipped or None,
            "passed": self.passed,
        }


def spread(measured: Measured) -> tuple[str, str, str]:
    """(median, worst, limit) for people."""
    known = measured.known
    worst = "never" if len(known) < len(measured.times_ms) else written(max(known)) if known else "–"
    return (
        written(median(known)) if known else "–",
        worst,
        "–" if measured.limit_ms is None else written(measured.limit_ms),
    )


def written(ms: float) -> str:
    """`0.4 ms`, `12 ms`, `6,120 ms`."""
    return f"{ms:,.1f} ms" if ms < 10 else f"{ms:,.0f} ms"
