"""Evidence that grows block by block and may be looked at after each: e-processes in natural logarithms. Pure.

By Ville's inequality an e-process ever reaches 1/alpha under its null with chance <= alpha, however often one looks.
Owned by `analysis.comparison`, fed with the log e-values of `stats.margin`, one for each alternative that is bet on.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import Any

#: Prior mass of a fresh start at a step's first block, and of those spread over each hour (docs/statistics.md 1).
STEP_MASS, _HOURLY_MASS = 0.15, 0.25
# A finite floor, so that the state is plain JSON. Lifting a term to it adds at most e^-700 to the evidence.
_FLOOR, _CAP = -700.0, 600.0


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + log(sum(exp(value - top) for value in logs))


def _log_mean(logs: Sequence[float]) -> float:
    return _log_sum(logs) - log(len(logs))


def _clamp(value: float) -> float:
    return min(max(value, _FLOOR), _CAP)


class HarmEvidence:
    """Evidence of harm over a whole rollout: a mixture over alternatives and over the moment at which harm began.

    R_k <- (R_k + mass) e_k at each block and E = mean R_k + mass not yet given out: each start is an e-process with prior mass,
    so E is one, and a long healthy history cannot hide a fault that begins late. The mass is 0.15 at a step's first block and
    0.25 an hour all along; what a start takes is at most half of the rest, and an hourly rate of it, so that the mass never
    runs out: a fault in the third hour of a bake is found too.
    """

    def __init__(self, alternatives: int, state: dict[str, Any] | None = None) -> None:
        self._logs: list[float] = [_FLOOR] * alternatives
        self._left = 1.0
        self._fresh = True
        if state is not None:
            self._logs, self._left, self._fresh = list(state["logs"]), state["left"], state["fresh"]

    def new_step(self) -> None:
        """The next block is a step's first: harm is likeliest to begin there."""
        self._fresh = True

    def forget(self) -> None:
        """Begin again with the mass that is left, as at a step's first block. What was given out is lost."""
        self._logs = [_FLOOR] * len(self._logs)
        self._fresh = True

    def update(self, log_factors: Sequence[float], elapsed: float) -> None:
        """Take in one block of `elapsed` seconds: one log e-value for each alternative."""
        mass = min(_HOURLY_MASS, self._left) * min(elapsed / 3600, 1.0)
        if self._fresh:
            mass += STEP_MASS
        mass = min(mass, self._left / 2)
        self._left -= mass
        self._fresh = False
        start = log(mass) if mass > 0 else _FLOOR
        self._logs = [_clamp(_log_sum((old, start)) + factor) for old, factor in zip(self._logs, log_factors, strict=True)]

    @property
    def log_e(self) -> float:
        """Natural logarithm of the evidence, at most 600."""
        return min(_log_sum((_log_mean(self._logs), log(self._left))), _CAP)

    @property
    def leading(self) -> int:
        """The alternative that has won most."""
        return self._logs.index(max(self._logs))

    def state(self) -> dict[str, Any]:
        """JSON-ready; `HarmEvidence(k, state)` goes on exactly here."""
        return {"logs": list(self._logs), "left": self._left, "fresh": self._fresh}


class HealthEvidence:
    """Evidence of health within one step: the plain mixture over alternatives, made anew at each step."""

    def __init__(self, alternatives: int, state: Sequence[float] | None = None) -> None:
        self._logs = [0.0] * alternatives if state is None else list(state)

    def update(self, log_factors: Sequence[float]) -> None:
        """Take in one block: one log e-value for each alternative."""
        self._logs = [_clamp(old + factor) for old, factor in zip(self._logs, log_factors, strict=True)]

    @property
    def log_e(self) -> float:
        """Natural logarithm of the evidence, at most 600."""
        return min(_log_mean(self._logs), _CAP)

    def state(self) -> list[float]:
        """JSON-ready; `HealthEvidence(k, state)` goes on exactly here."""
        return list(self._logs)
