"""Counts of both arms over the last 15 s, the last 60 s and the step so far: for sizes and sentences, not for evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import add
from typing import Any, NamedTuple

from canaryproxy.stats.margin import Counts

_STEP = "in this step"


class Block(NamedTuple):
    """Both arms over `elapsed` seconds, each: requests, then hits of each kind."""

    elapsed: float
    stable: tuple[float, ...]
    canary: tuple[float, ...]

    def counts(self, canary_kind: int) -> Counts:
        """Stable's event 0 against the canary's event `canary_kind`."""
        return Counts(self.stable[0], self.stable[1], self.canary[0], self.canary[1 + canary_kind])

    def plus(self, other: Block) -> Block:
        """The counts of both blocks together."""
        return Block(
            self.elapsed + other.elapsed,
            tuple(map(add, self.stable, other.stable)),
            tuple(map(add, self.canary, other.canary)),
        )

    @staticmethod
    def empty(kinds: int) -> Block:
        """A block of no time and no requests."""
        zeros = (0,) * (1 + kinds)
        return Block(0.0, zeros, zeros)

    @staticmethod
    def load(state: Sequence[Any]) -> Block:
        """The block that `list(block)` was made from, after a trip through JSON."""
        elapsed, stable, canary = state
        return Block(elapsed, tuple(stable), tuple(canary))


class Seen(NamedTuple):
    """The counts of one window, named as a sentence says it."""

    window: str
    block: Block

    @property
    def prefix(self) -> str:
        """What a sentence on these counts begins with; '' for the step, which goes without saying."""
        return "" if self.window == _STEP else f"{self.window} "


class Windows:
    """The last minute in slices of 5 s, and the step so far. The newest slice may be partial: "15 s" is 10 to 15."""

    SLICE = 5.0
    WINDOWS = (("in the last 15 s", 3), ("in the last 60 s", 12))

    def __init__(self, kinds: int, state: dict[str, Any] | None = None) -> None:
        self._kinds = kinds
        self._step = Block.empty(kinds)
        self._slices: list[Block] = []
        if state is not None:
            self._step = Block.load(state["step"])
            self._slices = [Block.load(one) for one in state["slices"]]

    @property
    def step(self) -> Seen:
        """The counts of the step so far."""
        return Seen(_STEP, self._step)

    def new_step(self) -> None:
        """Count the step so far from here."""
        self._step = Block.empty(self._kinds)

    def add(self, block: Block) -> None:
        """Take in one tick."""
        self._step = self._step.plus(block)
        if self._slices and self._slices[-1].elapsed + block.elapsed <= self.SLICE * 1.05:
            self._slices[-1] = self._slices[-1].plus(block)
        else:
            self._slices = [*self._slices[-self.WINDOWS[-1][1] + 1 :], block]

    def last(self, slices: int) -> Seen:
        """The counts of the newest slices of 5 s."""
        return Seen(f"in the last {slices * self.SLICE:.0f} s", self._sum(self._slices[-slices:]))

    def all(self) -> tuple[Seen, ...]:
        """The last 15 s, the last 60 s, and the step."""
        return (*(Seen(name, self._sum(self._slices[-count:])) for name, count in self.WINDOWS), self.step)

    def worse_by(self, difference: float, canary_kind: int, least: int) -> Seen | None:
        """The first window with `least` canary requests in which their rate of `canary_kind` is above stable's of kind 0."""
        for seen in self.all():
            n_s, x_s, n_c, x_c = seen.block.counts(canary_kind)
            if n_c >= least and n_s and x_c and x_c / n_c - x_s / n_s >= difference:
                return seen
        return None

    def _sum(self, blocks: Iterable[Block]) -> Block:
        total = Block.empty(self._kinds)
        for block in blocks:
            total = total.plus(block)
        return total

    def state(self) -> dict[str, Any]:
        """JSON-ready; `Windows(kinds, state)` goes on exactly here."""
        return {"step": list(self._step), "slices": [list(one) for one in self._slices]}
