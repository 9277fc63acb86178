"""From the ledger's counters to the judge's ticks, for one slot. No asyncio, no clock: the time is an argument.

Called by `control.route` once a second. The ledger only grows, so a tick is a difference of two readings; what it has to get
right is time. A request belongs to the second in which it started (docs/statistics.md 3), and the seconds share a ring of places:

    second j begins .. j+1   + largest threshold      + T_HANG             j+16 begins
    |  requests start  |  -> its latency cohort is due  -> the place is quiet  | the place counts on for j+16

A request without an answer when its place is quiet hangs: it is resolved, and failed. Hangs are counted as the growth of the
place's unanswered requests from one quiet moment to the next, so a late tick finds them 16 s later instead of losing them,
and an end that is written late takes its hang back. Only a latency cohort whose place was reused before a late tick is lost
(its counts cannot be told from the next one's).
"""

from __future__ import annotations

from collections.abc import Sequence

from canaryproxy.analysis.sample import T_HANG, ArmTick, Cohort, Tick
from canaryproxy.control.recent import Recent
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import CANARY, RING, STABLE, THRESHOLDS, Count, Segment
from canaryproxy.shared.ledger import Block, read_block

#: A worker writes an end this much after its time stamp, at most (later ones are taken back, see above).
GRACE = 0.1
#: Seconds whose thresholds are fixed in advance: two ticks may be late before one begins without.
AHEAD = 3

_UNKNOWN = (0,) * THRESHOLDS
_Due = Sequence[tuple[int, tuple[int, ...]]]


class Sampler:
    """One slot's readings. Counts from the moment it is made: what hung before is not counted, answers that come later are."""

    def __init__(self, segment: Segment, slot: int, now: float) -> None:
        self._segment, self._slot, self._board = segment, slot, Board(segment)
        self._now = now
        self._awaited: set[int] = set()
        self._arms = tuple(_Arm(read_block(segment, slot, variant)) for variant in (STABLE, CANARY))
        self._rest(self._quiet(now))

    @property
    def recent(self) -> tuple[Recent, Recent]:
        """The last minute of stable and canary."""
        stable, canary = self._arms
        return stable.recent, canary.recent

    def sample(self, now: float) -> Tick:
        """What became final since the last call, at monotonic time `now`."""
        elapsed, self._now = now - self._now, now
        due, quiet = self._due(now), self._quiet(now)
        stable, canary = (
            arm.tick(read_block(self._segment, self._slot, variant), elapsed, due, quiet)
            for variant, arm in zip((STABLE, CANARY), self._arms, strict=True)
        )
        self._rest(quiet)
        return Tick(elapsed, stable, canary)

    def publish(self, now: float, thresholds_us: tuple[int, ...]) -> None:
        """Fix the thresholds of the next seconds, none of which has begun; all zero where the judge knows none."""
        first = int(now + GRACE) + 1
        for second in range(first, first + AHEAD):
            known = thresholds_us if len(thresholds_us) == THRESHOLDS else _UNKNOWN
            self._board.publish_thresholds(self._slot, second, known)

    def _quiet(self, now: float) -> dict[int, int]:
        """{place: its newest second} of the places whose requests are all answered, withdrawn or hung."""
        seconds = range(int(now) - RING + 1, int(now) + 1)
        return {second % RING: second for second in seconds if now - GRACE >= second + 1 + T_HANG}

    def _rest(self, quiet: dict[int, int]) -> None:
        """A quiet place is the reading that its next second will be compared with."""
        self._awaited.update(second + RING for second in quiet.values())
        for arm in self._arms:
            arm.rest(quiet)

    def _due(self, now: float) -> _Due:
        """The seconds all of whose requests are past their largest threshold, with the thresholds that workers used."""
        due = []
        for second in sorted(self._awaited):
            thresholds = self._board.thresholds(self._slot, second)
            if second > now or now - GRACE < second + 1 + min(thresholds[-1] / 1e6, T_HANG):
                continue
            if second + RING > now and thresholds[-1]:
                due.append((second, thresholds))
            self._awaited.remove(second)
        return due


class _Arm:
    """One variant's last reading and what is kept of earlier ones."""

    def __init__(self, block: Block) -> None:
        self._block = block
        #: For each place: the cohort's words, and the unanswered requests, when it was last quiet.
        self._before = [block.cohort(place) for place in range(RING)]
        self._unanswered: list[int | None] = [None] * RING
        self._resolved = self._failed = 0
        self.recent = Recent()

    def rest(self, quiet: dict[int, int]) -> None:
        """Keep the readings of the quiet places."""
        for place in quiet:
            self._before[place] = reading = self._block.cohort(place)
            self._unanswered[place] = _unanswered(reading)

    def tick(self, block: Block, elapsed: float, due: _Due, quiet: dict[int, int]) -> ArmTick:
        """The differences to the last reading."""
        last, self._block = self._block, block
        hung = sum(self._hung(block, place) for place in quiet)
        resolved, failed = self._settle(
            block[Count.RESOLVED] - last[Count.RESOLVED] + hung, block[Count.FAILED] - last[Count.FAILED] + hung
        )
        arm = ArmTick(
            resolved=resolved,
            failed=failed,
            cohorts=tuple(self._cohort(block, second, thresholds) for second, thresholds in due),
            latency={n: new - old for n, (new, old) in enumerate(zip(block.latency, last.latency, strict=True)) if new != old},
        )
        self.recent.add(elapsed, block[Count.STARTED] - last[Count.STARTED], arm)
        return arm

    def _hung(self, block: Block, place: int) -> int:
        known = self._unanswered[place]
        return 0 if known is None else _unanswered(block.cohort(place)) - known

    def _settle(self, resolved: int, failed: int) -> tuple[int, int]:
        """Counts that can be given out: a hang that is taken back is subtracted from what comes, never below zero."""
        self._resolved += resolved
        self._failed += failed
        resolved = max(0, self._resolved)
        failed = min(max(0, self._failed), resolved)
        self._resolved -= resolved
        self._failed -= failed
        return resolved, failed

    def _cohort(self, block: Block, second: int, thresholds: tuple[int, ...]) -> Cohort:
        before = self._before[second % RING]
        started, *classes, withdrawn = (new - old for new, old in zip(block.cohort(second), before, strict=True))
        return Cohort(thresholds, started - withdrawn, tuple(sum(classes[: n + 1]) for n in range(THRESHOLDS)))


def _unanswered(reading: tuple[int, ...]) -> int:
    started, *ended = reading
    return started - sum(ended)
