"""The journal of one route's rollout: everything its judge was told, so that every verdict can be made again from the counts.

Kept by `control.route`, written by `control.saver` in the transaction of the judge's state that it led to: after a kill at any
moment the state and the journal end at the same tick, and both go on from there. Read by `analysis.replay`.

Ticks are numbered from 0 in each rollout. While the store fails everything is kept up to a limit; beyond it what is unsaved is
forgotten and the judge's state at that moment written down instead, so that only the forgotten ticks cannot be replayed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple, Protocol

import canaryproxy
from canaryproxy.analysis.record import Entry, Judged, Opening, Step, mark, pack, settings_to_json
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.settings import JudgeSettings
from canaryproxy.analysis.verdict import Verdict
from canaryproxy.rollout.model import Rollout
from canaryproxy.store.base import JournalBlock, JournalEnd

#: Unsaved entries that are packed into blocks when the next save begins: a checkpoint has about five.
_LOOSE: Final = 60
#: Unsaved entries while a save hangs, a tick each second, and bytes of packed blocks (3 hours of 1000 requests/s), that are kept.
_MOST_LOOSE: Final = 600
_MOST_BYTES: Final = 4_000_000


class HasState(Protocol):
    """What the journal needs of a judge."""

    def state(self) -> dict[str, Any]:
        """JSON-ready."""


class _Noted(NamedTuple):
    """An entry of a rollout; `tick` is the number of the first tick that is not before it."""

    rollout: str
    tick: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Batch:
    """What is unsaved at a moment, for one attempt to save it."""

    generation: int
    packed: tuple[JournalBlock, ...]
    loose: tuple[_Noted, ...]

    def blocks(self) -> tuple[JournalBlock, ...]:
        """All of it as blocks. Takes about 0.1 ms for a tick: called in the store's thread."""
        return (*self.packed, *_packed(self.loose))


class Journal:
    """What the judge of one route is told. `judge` is called for the one that is told now, whose `settings` do not change."""

    def __init__(self, settings: JudgeSettings, judge: Callable[[], HasState]) -> None:
        self._settings, self._judge = settings, judge
        self._rollout, self._tick = "", 0
        self._packed: list[JournalBlock] = []
        self._loose: list[_Noted] = []
        self._generation = 0
        #: Ticks that were forgotten because the store failed.
        self.forgotten = 0

    @property
    def position(self) -> dict[str, Any]:
        """Where the verdict of the last tick is found, for the decision that it led to."""
        return {"rollout": self._rollout, "tick": self._tick - 1}

    def begin(self, rollout: Rollout) -> None:
        """The judge has forgotten all evidence: a rollout begins."""
        self._rollout, self._tick = rollout_id(rollout), 0
        self._open()

    def resume(self, rollout: Rollout, end: JournalEnd | None) -> None:
        """A judge was made from what was saved, in the middle of a rollout whose saved journal ends at `end`."""
        self._rollout = rollout_id(rollout)
        self._tick = end.ticks if end is not None and end.rollout == self._rollout else 0
        self._open()

    def reopen(self) -> None:
        """The judge was changed by other things than a tick or a step."""
        self._open()

    def step(self) -> None:
        """The judge was told of a new step."""
        self._note(Step())

    def judged(self, tick: Tick, full_weight: bool, verdict: Verdict) -> None:
        """The judge was given this tick, and found this."""
        self._note(Judged(tick, full_weight, mark(verdict)))
        self._tick += 1
        if len(self._loose) > _MOST_LOOSE or sum(len(block.data) for block in self._packed) > _MOST_BYTES:
            self._forget()

    def take(self) -> Batch:
        """Everything that is unsaved now. One batch at a time: the next is taken when this one was saved or has failed."""
        if len(self._loose) > _LOOSE:
            self._packed += _packed(self._loose)
            self._loose = []
        return Batch(self._generation, tuple(self._packed), tuple(self._loose))

    def confirm(self, batch: Batch) -> None:
        """The batch is on disk. Without this it is part of the next one."""
        if batch.generation == self._generation:
            del self._packed[: len(batch.packed)]
            del self._loose[: len(batch.loose)]

    def _note(self, entry: Entry) -> None:
        self._loose.append(_Noted(self._rollout, self._tick, entry))

    def _open(self) -> None:
        state = json.loads(json.dumps(self._judge().state()))  # of this moment: the judge goes on
        self._note(Opening(settings_to_json(self._settings), state, canaryproxy.__version__))

    def _forget(self) -> None:
        self.forgotten += sum(block.ticks for block in self._packed) + sum(isinstance(one.entry, Judged) for one in self._loose)
        self._packed, self._loose = [], []
        self._generation += 1
        self._open()


def rollout_id(rollout: Rollout) -> str:
    """The name of a rollout's journal: when it began, and a digest of its salt."""
    return f"{rollout.started_at or 0:.0f}-{hashlib.sha256(rollout.salt.to_bytes(4)).hexdigest()[:8]}"


def _packed(entries: list[_Noted] | tuple[_Noted, ...]) -> list[JournalBlock]:
    """A block for each rollout."""
    blocks = []
    for rollout, run in groupby(entries, key=lambda one: one.rollout):
        noted = list(run)
        ticks = sum(isinstance(one.entry, Judged) for one in noted)
        blocks.append(JournalBlock(rollout, noted[0].tick, ticks, pack(one.entry for one in noted)))
    return blocks
