"""Evidence on one sort of 0/1 event, canary against stable: of harm over the rollout, of health in the step. Pure.

Owned by a metric (`analysis.error_rate`, `analysis.latency`), which says what the events are and what the evidence leads to.
The method is docs/statistics.md 1: both arms of a block ran at the same time, so whatever changes for both cancels out. A block
is a tick, or several until both arms have requests: that depends on arrivals only, so it keeps the test exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import Any, NamedTuple

from canaryproxy.analysis import words
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome
from canaryproxy.analysis.windows import Block, Seen, Windows
from canaryproxy.stats.evidence import HarmEvidence, HealthEvidence
from canaryproxy.stats.margin import log_e_alone, log_e_harm, log_e_health
from canaryproxy.stats.memory import Rates

_HIGHEST_BET = 0.98
#: The bet against a floor is at least this share of it: lower, and a single event would undo a hundred requests' evidence.
_FLOOR_BET = 0.2
# Log evidence for one canary request that is as good as none: a million of them would not prove anything.
NO_GAIN = 3e-6


def ladder(delta: float, reference: tuple[float, ...]) -> tuple[float, ...]:
    """Increases to bet on for a margin `delta` > 0: as `reference` (its margin first) for its own margin, else stretched.

    Every rung keeps its place, measured in logarithms, between the margin and the top.
    """
    bottom, *rungs = reference
    top = rungs[-1]
    return tuple(delta * (top / delta) ** (log(rung / bottom) / log(top / bottom)) for rung in rungs)


@dataclass(frozen=True, slots=True)
class HarmClaim:
    """The null that canary's rate of event `kind` is at most stable's of event 0 + `delta`, and the increases that are bet on.

    `threshold` is the log evidence that proves it wrong. `alone`: also tested against stable's past while stable has no traffic.
    Only a margin is: a smaller difference would be proven by any change with the time of day.
    """

    kind: int
    delta: float
    increases: tuple[float, ...]
    threshold: float
    alone: bool = False

    def log_factors(self, block: Block, rates: Rates, alone: bool) -> list[float]:
        """The block's log e-value for each alternative; `rates` must be from earlier blocks."""
        counts = block.counts(self.kind)
        a = rates.upper(0) if alone else rates.value(0)
        bets = [min(a + increase, _HIGHEST_BET) for increase in self.increases]
        if alone:
            return [log_e_alone(a + self.delta, b, counts) if b > a + self.delta else 0.0 for b in bets]
        return [log_e_harm(a, b, self.delta, counts) for b in bets]


@dataclass(frozen=True, slots=True)
class HealthClaim:
    """The null that canary's rate of event `kind` is at least stable's of event 0 + `delta`: refuted before promotion.

    Bets that canary's rate is stable's own of `kind`, and that it is `fractions` of the way from there to the limit.
    With a `floor` the null is smaller, that canary's rate is at least the floor *and* so much, so canary against the floor alone
    is evidence too: where stable never has the event, there is nothing to be better than.
    """

    kind: int
    delta: float
    fractions: tuple[float, ...]
    threshold: float
    floor: float = 0.0

    @property
    def alternatives(self) -> int:
        """How many log e-values a block has."""
        return len(self.fractions) + (self.floor > 0)

    def log_factors(self, block: Block, rates: Rates, alone: bool) -> list[float]:
        """The block's log e-value for each alternative; `rates` must be from earlier blocks."""
        counts = block.counts(self.kind)
        a, best = rates.value(0), rates.value(self.kind)
        limit = a + self.delta
        bets = [best + fraction * (limit - best) for fraction in self.fractions]
        if alone:
            factors = [log_e_alone(limit, b, counts) if b < limit < 1 else 0.0 for b in bets]
        else:
            factors = [log_e_health(a, b, self.delta, counts) for b in bets]
        if self.floor:
            bet = max(best, _FLOOR_BET * self.floor)
            factors.append(log_e_alone(self.floor, bet, counts) if bet < self.floor else 0.0)
        return factors


class Ruling(NamedTuple):
    """What a metric's rules say of a tick: the harm claim that decided, the proof in words, the counts it is about."""

    outcome: Outcome
    action: Action
    claim: int
    proof: str
    seen: Seen


def _proof(log_e: float, of_what: str, threshold: float) -> str:
    return f"evidence {words.odds(log_e)} for {of_what} {words.limit(threshold)}"


class Comparison:
    """The evidence on several harm claims and one health claim, with the counts behind it."""

    def __init__(
        self, kinds: int, harms: tuple[HarmClaim, ...], health: HealthClaim, state: dict[str, Any] | None = None
    ) -> None:
        self._kinds, self._harms, self._health = kinds, harms, health
        known = state or {"harm": [None] * len(harms), "health": None, "windows": None, "open": None}
        self._harm_evidence = [HarmEvidence(len(claim.increases), one) for claim, one in zip(harms, known["harm"], strict=True)]
        self._health_evidence = HealthEvidence(health.alternatives, known["health"])
        self.windows = Windows(kinds, known["windows"])
        self._open: tuple[Block, Rates] | None = None  # a block that waits for an arm, and the rates before it began
        if known["open"]:
            block, rates = known["open"]
            self._open = Block.load(block), Rates.load(rates)

    def new_step(self) -> None:
        """Harm evidence goes on, health must be proven anew."""
        for evidence in self._harm_evidence:
            evidence.new_step()
        self._health_evidence = HealthEvidence(self._health.alternatives)
        self.windows.new_step()
        self._open = None

    def update(self, block: Block, rates: Rates, alone: bool, least: float = 0.0) -> None:
        """Weigh one tick. `rates` are from earlier ticks; `alone`: canary against them, there is no stable traffic.

        `least`: seconds that a block lasts at least, for what need not be weighed at every tick.
        """
        if self._open:
            waiting, rates = self._open  # not the newer rates: they have seen the block's first ticks
            block = waiting.plus(block)
        if block.elapsed < least or not block.canary[0] or not (block.stable[0] or alone):
            self._open = block, rates
            return
        self._open = None
        for claim, evidence in zip(self._harms, self._harm_evidence, strict=True):
            if claim.alone or not alone:
                evidence.update(claim.log_factors(block, rates, alone), block.elapsed)
        self._health_evidence.update(self._health.log_factors(block, rates, alone))

    def forget(self) -> None:
        """Drop what was gathered in a rollout, for users who are left out from now on are in it."""
        for evidence in self._harm_evidence:
            evidence.forget()
        self.new_step()
        self.windows = Windows(self._kinds)

    def log_e(self, claim: int) -> float:
        """Natural logarithm of the evidence against harm claim number `claim`."""
        return self._harm_evidence[claim].log_e

    def proven(self, claim: int, spread: float) -> bool:
        """Whether there is enough of it to act on; `spread`, at least 1, is how much the users cluster (`stats.dispersion`)."""
        return self.log_e(claim) >= spread * self._harms[claim].threshold

    def proof(self, claim: int, of_what: str, spread: float) -> str:
        """`evidence 858 to 1 for harm (acts at 286)`."""
        return _proof(self.log_e(claim), of_what, spread * self._harms[claim].threshold)

    def health(self, claim: int, rates: Rates, alone: bool, spread: float) -> Ruling:
        """The ruling while nothing speaks against the canary: healthy, or what is missing; with harm claim `claim` beside it."""
        log_e, threshold = self.health_log_e, spread * self._health.threshold
        proof = _proof(log_e, "health", threshold)
        if log_e >= threshold:
            return Ruling(Outcome.PASS, Action.PROMOTE, claim, proof, self.windows.step)
        needed = words.still_needed(self._requests_to_prove(rates, alone, threshold - log_e))
        return Ruling(Outcome.INCONCLUSIVE, Action.CONTINUE, claim, f"{proof}, {needed}", self.windows.step)

    @property
    def health_log_e(self) -> float:
        """Natural logarithm of the evidence of health."""
        return self._health_evidence.log_e

    def verdict(
        self, metric: str, ruling: Ruling, sentence: str, numbers: dict[str, Any], *, spread: float, required: bool
    ) -> MetricVerdict:
        """The ruling as a verdict on `metric`, with the evidence behind it."""
        return MetricVerdict(
            metric=metric,
            outcome=ruling.outcome,
            action=ruling.action,
            sentence=sentence,
            evidence=self._harm_evidence[ruling.claim].log_e,
            threshold=spread * self._harms[ruling.claim].threshold,
            promote_evidence=self.health_log_e,
            promote_threshold=spread * self._health.threshold,
            numbers={"window": ruling.seen.window, **numbers},
            required=required,
        )

    def _requests_to_prove(self, rates: Rates, alone: bool, missing: float) -> int | None:
        """Canary requests still needed to prove health if they are like stable's; None if no number would do."""
        step = self.windows.step.block
        n_s, n_c = step.stable[0] or 1, step.canary[0] or 1
        usual = [rates.value(kind) for kind in range(self._kinds)]
        expected = Block(0.0, (n_s, *(n_s * rate for rate in usual)), (n_c, *(n_c * rate for rate in usual)))
        gain = max(self._health.log_factors(expected, rates, alone)) / n_c
        return ceil(missing / gain) if gain > NO_GAIN else None

    def state(self) -> dict[str, Any]:
        """JSON-ready; `Comparison(..., state)` goes on exactly here."""
        return {
            "harm": [evidence.state() for evidence in self._harm_evidence],
            "health": self._health_evidence.state(),
            "windows": self.windows.state(),
            "open": [list(self._open[0]), self._open[1].state()] if self._open else None,
        }
