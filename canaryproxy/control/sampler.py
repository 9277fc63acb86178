"""From the ledger's counters to the judge's ticks, for one slot. No asyncio, no clock: the time is an argument.

Called by `control.route` once a second. The ledger only grows, so a tick is a difference of two readings; what it has to get
right is time. A request belongs to the second in which it started (docs/statistics.md 3), and the seconds share a ring of places:

    second j begins .. j+1   + a question's largest threshold     + T_HANG             j+16 begins
    |  requests start  |  -> its cohort is due to that question  -> the place is quiet  | the place counts on for j+16

A request without an answer when its place is quiet hangs: it is resolved, and failed. Hangs are counted as the growth of the
place's unanswered requests from one quiet moment to the next, so a late tick finds them 16 s later instead of losing them,
and an end that is written late takes its hang back. Only a latency cohort whose place was reused before a late tick is lost
(its counts cannot be told from the next one's). One variant's readings are in `control.arm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from canaryproxy.analysis.sample import T_HANG, Tick
from canaryproxy.control.arm import Arm, Due
from canaryproxy.control.recent import Recent
from canaryproxy.control.share import Share
from canaryproxy.routing.split import BUCKETS
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import CANARY, GOALS, RING, STABLE, Segment

#: A worker writes an end this much after its time stamp, at most (later ones are taken back, see above).
GRACE = 0.1
#: Seconds whose edges are fixed in advance: two ticks may be late before one begins without.
AHEAD = 3

Questions = Mapping[str, tuple[int, ...]]


class Sampler:
    """One slot's readings. Counts from the moment it is made: what hung before is not counted, answers that come later are.

    `share`, where an earlier sampler's is given, goes on. `goals` is how many the route has.
    """

    def __init__(self, segment: Segment, slot: int, now: float, share: Share | None = None, *, goals: int = GOALS) -> None:
        self._slot, self._board = slot, Board(segment)
        self._now = now
        self.share = share or Share(segment, slot)
        #: The questions that are open, for each second whose edges were fixed here.
        self._asked: dict[int, dict[str, tuple[int, ...]]] = {}
        self._stable, self._canary = (Arm(segment, slot, variant, goals) for variant in (STABLE, CANARY))
        self._rest(_quiet(now))

    @property
    def recent(self) -> tuple[Recent, Recent]:
        """The last minute of stable and canary."""
        return self._stable.recent, self._canary.recent

    @property
    def weights(self) -> dict[str, Any] | None:
        """What is known of the users' shares, JSON-ready: `Share(segment, slot, weights)` goes on with it."""
        return self.share.state()

    def sample(self, now: float) -> Tick:
        """What became final since the last call, at monotonic time `now`."""
        elapsed, self._now = now - self._now, now
        due, quiet = self._due(now), _quiet(now)
        split = self._board.read(self._slot)
        stable = self._stable.tick(elapsed, due, quiet, split.salt)
        canary = self._canary.tick(elapsed, due, quiet, split.salt)
        self._rest(quiet)
        self.share.look(now, stable.began, at_rest=not split.weight_bp)
        share = self.share.of(split.salt, split.weight_bp)
        return Tick(elapsed, stable, canary, split.weight_bp / BUCKETS, share)

    def users(self, salt: int) -> tuple[int, int]:
        """Users that the canary has met under this salt until now, and those of them that were hurt."""
        return self._canary.count_users(salt)

    def publish(self, now: float, questions: Questions, slow_us: int) -> None:
        """Fix the edges of the next seconds, none of which has begun: the thresholds (ascending) of all questions together.

        To be called right after `sample(now)` or the making, which have just read the places of these seconds while quiet.
        Raises ValueError if there are more than `layout.EDGES` different ones.
        """
        edges = sorted({threshold for thresholds in questions.values() for threshold in thresholds})
        first = int(now + GRACE) + 1
        for second in range(first, first + AHEAD):
            self._board.publish_edges(self._slot, second, edges, slow_us)
            self._asked[second] = {name: thresholds for name, thresholds in questions.items() if thresholds}

    def _rest(self, quiet: Sequence[int]) -> None:
        """A quiet place is the reading that its next second will be compared with."""
        for arm in (self._stable, self._canary):
            arm.rest(quiet)

    def _due(self, now: float) -> list[Due]:
        """The questions to seconds all of whose requests are past the question's largest threshold."""
        due = []
        for second, open_questions in sorted(self._asked.items()):
            if second > now:
                break
            edges, is_lost = self._board.edges(self._slot, second), second + RING <= now
            for name, thresholds in list(open_questions.items()):
                if now - GRACE >= second + 1 + min(thresholds[-1] / 1e6, T_HANG):
                    del open_questions[name]
                    if not is_lost:
                        due.append(Due(second, name, thresholds, tuple(edges.index(threshold) for threshold in thresholds)))
            if not open_questions:
                del self._asked[second]
        return due


def _quiet(now: float) -> list[int]:
    """The places of the ring whose requests are all answered, withdrawn or hung."""
    seconds = range(int(now) - RING + 1, int(now) + 1)
    return [second % RING for second in seconds if now - GRACE >= second + 1 + T_HANG]
