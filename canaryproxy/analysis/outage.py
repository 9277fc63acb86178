"""Whether stable itself is bad: then nobody's canary can be judged healthy, and nobody steps up. Pure; owned by `analysis.judge`.

Stable alone against its own last ten minutes: errors above them by a point, or three times as many slow requests as a p95 allows
(docs/statistics.md 8). The comparisons go on meanwhile: they are valid under any fault that both share.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

from canaryproxy.analysis import words
from canaryproxy.analysis.sample import ArmTick, Tick
from canaryproxy.stats.detector import Cusum
from canaryproxy.stats.memory import Rates

#: One false alarm in so many ticks, on average, of a stable that is just at the limit.
_ALARM = log(1000)
_RISE, _SLOW, _TIMES = 0.01, 0.05, 3
#: What is slow: the third threshold of the p95's question, half a margin above it. A quick app's hiccups are no outage.
_AT = 2
#: Requests of stable before its past is believed; seconds over which it is remembered.
_KNOWN, _FADE = 500.0, 600.0
#: Seconds that both variants must be well before it is over; what began so soon after a step up may be the canary's doing.
_WELL, _BLAMED = 60.0, 120.0


class Outage:
    """The state of stable: well, or bad since when."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        known = state or {
            "past": None,
            "errors": None,
            "slow": None,
            "is_on": False,
            "well": 0.0,
            "why": "",
            "may_be_canary": False,
        }
        self._past = Rates.load(known["past"]) if known["past"] else Rates.unseen(0.005)
        self._errors, self._slow = Cusum(known["errors"]), Cusum(known["slow"])
        self.is_on: bool = known["is_on"]
        self._well: float = known["well"]
        self.why: str = known["why"]
        #: Whether it began so soon after a step up that the canary may have caused it; once, for the first to ask.
        self._may_be_canary: bool = known["may_be_canary"]

    def take_blame(self) -> bool:
        """Whether to step back, asked once for each outage."""
        blamed, self._may_be_canary = self._may_be_canary, False
        return blamed

    def update(self, tick: Tick, question: str, since_rise: float) -> None:
        """Take in a tick; `question` names the cohorts of the p95, `since_rise` are the seconds since the last step up."""
        limit = min(self._past.value(0) + _RISE, 0.9)
        if self._past.requests >= _KNOWN:
            self._errors.update(tick.stable.resolved, tick.stable.failed, limit)
            self._slow.update(*_slow(tick.stable, question), _TIMES * _SLOW)
        if not self.is_on:
            self._begin(tick, question, since_rise)
        elif self._is_well(tick, question, limit):
            self._well += tick.elapsed
            if self._well >= _WELL:
                self.is_on, self.why = False, ""
                self._errors, self._slow = Cusum(), Cusum()  # they have gone on, and would alarm again at once
        else:
            self._well = 0.0
        if not self.is_on:  # what is normal is not learned from an outage
            self._past = self._past.learned((tick.stable.resolved, tick.stable.failed), tick.elapsed, _FADE)

    def _begin(self, tick: Tick, question: str, since_rise: float) -> None:
        bad = [what for what, one in (("fails", self._errors), ("is slow", self._slow)) if one.log_m >= _ALARM]
        if bad:
            self.is_on, self._well = True, 0.0
            started, slow = _slow(tick.stable, question)
            self.why = (
                f"stable itself {' and '.join(bad)} (just now {words.percent(tick.stable.failed, tick.stable.resolved)} of its "
            )
            self.why += (
                f"requests failed, {words.percent(self._past.value(0), 1)} before; {words.percent(slow, started)} were slow)"
            )
            self._may_be_canary = since_rise < _BLAMED
            self._errors, self._slow = Cusum(), Cusum()

    @staticmethod
    def _is_well(tick: Tick, question: str, limit: float) -> bool:
        for arm in (tick.stable, tick.canary):
            if not _is_at_most(arm.failed, arm.resolved, limit):
                return False
        started, slow = _slow(tick.stable, question)
        return _is_at_most(slow, started, _TIMES * _SLOW)

    def state(self) -> dict[str, Any]:
        """JSON-ready; `Outage(state)` goes on exactly here."""
        return {
            "past": self._past.state(),
            "errors": self._errors.state(),
            "slow": self._slow.state(),
            "is_on": self.is_on,
            "well": self._well,
            "why": self.why,
            "may_be_canary": self._may_be_canary,
        }


def _is_at_most(events: float, requests: float, share: float) -> bool:
    """Whether so many events are no more than `share` of the requests and two standard errors."""
    return events <= share * requests + 2 * sqrt(share * requests)


def _slow(arm: ArmTick, question: str) -> tuple[float, float]:
    cohorts = arm.cohorts.get(question, ())
    started = sum(cohort.started for cohort in cohorts)
    return started, started - sum(cohort.within[_AT] for cohort in cohorts)
