"""Verdicts made again from a journal, and compared with what was recorded. Pure.

The judge is a function of what it was told: made with the recorded settings and state and told the recorded counts in their
order, it finds the same, to the bit, whatever the machine. So whoever doubts a decision can have it made again. `Opening` entries
are where a judge was made: at the rollout's begin, after a restart, and after a part of the journal that could not be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from canaryproxy.analysis.record import Entry, Judged, Mark, Opening, Step, mark, settings_from_json, unpack
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.settings import JudgeSettings
from canaryproxy.analysis.verdict import Verdict


class Told(Protocol):
    """What a replay needs of a judge."""

    def begin_step(self) -> None: ...

    def judge(self, tick: Tick, *, full_weight: bool) -> Verdict: ...


Make = Callable[[JudgeSettings, dict[str, Any]], Told]


class Block(NamedTuple):
    """A piece of a rollout's journal: `ticks` ticks from number `first` on."""

    first: int
    ticks: int
    data: bytes


class Replayed(NamedTuple):
    """The verdict on tick `tick`, made again; `found` is the mark of the one that was recorded, `version` what recorded it."""

    tick: int
    verdict: Verdict
    found: Mark
    version: str

    @property
    def same(self) -> bool:
        """Whether it is what was recorded: outcome, action and sentence."""
        return mark(self.verdict) == self.found


class Missing(NamedTuple):
    """Ticks from number `first` to before `end` that cannot be judged again: they, or what went before, were not kept."""

    first: int
    end: int


def replay(blocks: Iterable[Block], make: Make) -> Iterator[Replayed | Missing]:
    """Every verdict of a rollout in order, from all the blocks of its journal in theirs. `make` is `analysis.judge.Judge`.

    Raises ValueError for a block, or settings, that this version cannot read.
    """
    player, expected = _Player(make), 0
    for block in blocks:
        if block.first != expected:
            player.forget()
            yield Missing(expected, block.first)
        for tick, entry in _numbered(block):
            yield from player.play(tick, entry)
        expected = block.first + block.ticks


def _numbered(block: Block) -> Iterator[tuple[int, Entry]]:
    tick = block.first
    for entry in unpack(block.data):
        yield tick, entry
        tick += isinstance(entry, Judged)


class _Player:
    """The judge that is told the entries; none before the first opening."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._judge: Told | None = None
        self._version = ""

    def forget(self) -> None:
        """What the judge would know now is not known."""
        self._judge = None

    def play(self, tick: int, entry: Entry) -> Iterator[Replayed | Missing]:
        match entry:
            case Opening(settings, state, version):
                self._judge, self._version = self._make(settings_from_json(settings), state), version
            case Step() if self._judge:
                self._judge.begin_step()
            case Judged(counts, full_weight, found) if self._judge:
                verdict = self._judge.judge(counts, full_weight=full_weight)
                yield Replayed(tick, verdict, found, self._version)
            case Judged():
                yield Missing(tick, tick + 1)


def difference(replayed: Replayed, recorded: Mapping[str, Any] | None = None) -> str | None:
    """How a verdict made again differs from what was recorded, None if it does not.

    `recorded`: the decision's own verdict (`describe_verdict`), where one was put on record.
    """
    verdict, found = replayed.verdict, replayed.found
    pairs = [("outcome", found.outcome, verdict.outcome.name.lower()), ("action", found.action, verdict.action.value)]
    if recorded is not None:
        pairs += [(name, recorded[name], again) for name, _, again in pairs]
        pairs.append(("sentence", recorded["sentence"], verdict.sentence))
    for name, before, again in pairs:
        if before != again:
            return f"{name} was {before!r}, is {again!r}"
    return None if replayed.same else f"another sentence was found then, now it is {verdict.sentence!r}"
