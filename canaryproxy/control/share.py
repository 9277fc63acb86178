"""Which share of the requests the canary is to expect: by what its users sent before the rollout. No clock: time is an argument.

Few users send most requests, so at 1 % of the users the share of the requests is 1 % give or take a fifth. Workers count, while
nobody is split, what the users of each bucket send, under the salt that the next rollout will have; so when it begins, the
buckets below the weight are known. Made and asked by `control.sampler`; outlives it, and with `state` a restart too.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from base64 import b64decode, b64encode
from itertools import accumulate
from math import exp
from typing import Any, Final

from canaryproxy.routing.split import BUCKETS
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import Segment
from canaryproxy.shared.reading import read_buckets

#: Seconds between two readings, each of which costs a millisecond or two.
_GATHER: Final = 60.0
#: What was sent so many seconds ago counts 1/e.
_FADE: Final = 600.0
#: Requests of the canary's users that must have been seen: then their share is known to a tenth or so.
_ENOUGH: Final = 200.0
_LARGEST: Final = 0xFFFF
#: Of the judged requests so many must have had a user, or those who have a cookie at rest are not those who will be judged.
_KEYED: Final = 0.8


class Share:
    """What the users of one slot's buckets send."""

    def __init__(self, segment: Segment, slot: int, state: dict[str, Any] | None = None) -> None:
        self._segment, self._slot, self._board = segment, slot, Board(segment)
        self._read: list[int] = []
        self._read_at: float | None = None
        self._salt = -1
        self._packed: tuple[list[float], str] | None = None
        #: Requests of the last minutes by bucket, of the salt that is gathered for and of the one before.
        self._sent: dict[int, list[float]] = {}
        #: {salt: (requests of the same time that had a user, all that were judged)}.
        self._totals: dict[int, tuple[float, float]] = {}
        self._began = 0
        #: {salt: sums over all buckets below}, as they are asked for.
        self._below: dict[int, list[float]] = {}
        if state is not None:
            self._salt = state["salt"]
            self._sent[self._salt] = _unpack(state["sent"])
            keyed, judged = state["totals"]
            self._totals[self._salt] = keyed, judged

    def look(self, now: float, began: int, *, at_rest: bool) -> None:
        """Gather what was sent, if it is time; `began` judged requests since the last look, with a user or without.

        `at_rest`: the canary has no share, so users are counted under the next salt.
        """
        self._began += began
        if not at_rest:
            self._gather(now)
            self._read_at = None
            return
        salt = self._board.next_salt(self._slot)
        if salt != self._salt:
            kept = self._sent.get(self._salt)
            self._sent = {} if kept is None else {self._salt: kept}
            self._totals = {one: self._totals[one] for one in self._sent if one in self._totals}
            self._salt, self._read_at = salt, None
            self._sent[salt] = [0.0] * BUCKETS
            self._below.clear()
        if self._read_at is None:
            self._read, self._read_at, self._began = read_buckets(self._segment, self._slot), now, 0
        elif now - self._read_at >= _GATHER:
            self._gather(now)

    def of(self, salt: int, weight_bp: int) -> float | None:
        """The expected share of the users below this weight under this salt; None where too little is known of them."""
        sent = self._sent.get(salt)
        keyed, judged = self._totals.get(salt, (0.0, 0.0))
        if sent is None or keyed < _KEYED * judged or not 0 < weight_bp <= BUCKETS:
            return None
        below = self._below.get(salt)
        if below is None:
            below = self._below[salt] = list(accumulate(sent))
        canary = below[weight_bp - 1]
        return canary / below[-1] if canary >= _ENOUGH else None

    def state(self) -> dict[str, Any] | None:
        """What is known, JSON-ready, for another process; None if it is nothing. Some 10 kB."""
        if self._salt < 0:
            return None
        sent = self._sent[self._salt]
        if self._packed is None or self._packed[0] is not sent:
            self._packed = sent, _pack(sent)
        return {"salt": self._salt, "sent": self._packed[1], "totals": list(self._totals.get(self._salt, (0.0, 0.0)))}

    def _gather(self, now: float) -> None:
        if self._read_at is None:
            return
        last, self._read = self._read, read_buckets(self._segment, self._slot)
        faded = exp((self._read_at - now) / _FADE)
        sent = self._sent[self._salt]
        keyed, judged = self._totals.get(self._salt, (0.0, 0.0))
        self._totals[self._salt] = keyed * faded + sum(self._read) - sum(last), judged * faded + self._began
        self._began = 0
        self._sent[self._salt] = [old * faded + (new - before) for old, new, before in zip(sent, self._read, last, strict=True)]
        self._below.pop(self._salt, None)
        self._read_at = now


def _pack(sent: list[float]) -> str:
    words = array("H", [min(round(count), _LARGEST) for count in sent])
    if sys.byteorder == "big":
        words.byteswap()
    return b64encode(zlib.compress(words.tobytes())).decode()


def _unpack(text: str) -> list[float]:
    words = array("H", zlib.decompress(b64decode(text)))
    if sys.byteorder == "big":
        words.byteswap()
    return [float(count) for count in words]
