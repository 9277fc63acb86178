"""Time as an argument: the system's clock for the product, a hand-wound one for tests.

The pure parts never ask for the time; `control` and the CLI do, through a `Clock`.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds, twice: one that only moves forward, one that people read."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start, the same for all processes of this machine; never jumps."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC; may jump."""


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class ManualClock:
    """A clock that moves only when told: both readings advance together."""

    def __init__(self, monotonic: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self._monotonic, self._wall = monotonic, wall

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Move both readings forward by `seconds` (>= 0)."""
        self._monotonic += seconds
        self._wall += seconds
