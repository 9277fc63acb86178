"""A metric that counts requests with some 0/1 event: the canary's share of them against stable's. Pure.

What the event is, by how much it may differ and what then is a `Spec` (`error_rate`, `latency`, `stalls`, ...). Its clauses are
asked in their order; the first whose claim is proven, whose size is seen, and which does not rest on one user alone, decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from canaryproxy.analysis import words
from canaryproxy.analysis.baseline import ENOUGH, Baseline
from canaryproxy.analysis.comparison import Comparison, HarmClaim, HealthClaim, Ruling
from canaryproxy.analysis.groups import PERIOD, Gate
from canaryproxy.analysis.metric import NO_QUESTION, Finding, Scene, Stake
from canaryproxy.analysis.sample import ArmTick, Group, Tick
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome
from canaryproxy.analysis.windows import Block
from canaryproxy.stats.memory import Rates


class Size(NamedTuple):
    """What a window has to show: the canary's rate of `kind` above stable's of 0 by `difference`, in `least` canary requests."""

    difference: float
    kind: int
    least: int


class Clause(NamedTuple):
    """When `claim` is proven (and `size` seen, and the gate passed at a difference of `gate`), then `action`.

    `joint`: the proof may also be that of all metrics together. Not where the size is proven by the claim alone.
    """

    claim: int
    action: Action
    of_what: str
    gate: float
    kind: int
    size: Size | None = None
    joint: bool = False


@dataclass(frozen=True, slots=True)
class Spec:
    """One such metric. `shares` are the parts of alpha of its claims (none where it cannot roll back).

    `suspects` counts the event in a group of users (None: groups do not say), `age` is the time in seconds after which an
    unanswered request has it. `clusters` names what measures how stable's users cluster. `every`: seconds that a block takes.
    """

    name: str
    priors: tuple[float, ...]
    harms: tuple[HarmClaim, ...]
    health: HealthClaim
    clauses: tuple[Clause, ...]
    describe: Callable[[Ruling, Scene, Rates], tuple[str, dict[str, Any]]]
    events: Callable[[ArmTick], tuple[float, ...]]
    shares: tuple[float, ...] = ()
    suspects: Callable[[Group], int] | None = None
    age: float = 10.0
    clusters: str | None = None
    every: float = 0.0
    required: bool = False
    dry_run: bool = False
    #: Evidence gathered under another key is about something else.
    key: float = 0.0


class Difference:
    """The metric of a `Spec`."""

    def __init__(self, spec: Spec, state: dict[str, Any] | None = None) -> None:
        self.spec, self.name, self.dry_run, self.required = spec, spec.name, spec.dry_run, spec.required
        known = state or {"key": None, "rates": None, "evidence": None}
        same = known["key"] == spec.key
        self.rates = Rates.load(known["rates"]) if known["rates"] else Rates.unseen(*spec.priors)
        self.evidence = self._compare(known["evidence"] if same else None)
        self._spread = 1.0

    def _compare(self, state: dict[str, Any] | None = None) -> Comparison:
        return Comparison(len(self.spec.priors), self.spec.harms, self.spec.health, state)

    def questions(self, baseline: Baseline) -> Sequence[int]:
        """None."""
        return NO_QUESTION

    def learn(self, tick: Tick, baseline: Baseline) -> None:
        """Take in stable's side."""
        self.rates = self.rates.learned(self.spec.events(tick.stable), tick.elapsed)

    def begin_rollout(self) -> None:
        """Forget all evidence."""
        self.evidence = self._compare()

    def begin_step(self) -> None:
        """Health must be proven anew."""
        self.evidence.new_step()

    def forget(self) -> None:
        """Drop the evidence of this rollout."""
        self.evidence.forget()

    def weigh(self, scene: Scene) -> None:
        """Take in a tick."""
        self._spread = self._measure_spread(scene)
        block = self._block(scene.tick)
        self.evidence.windows.add(block)
        if not self._waiting(scene):
            self.evidence.update(block, self.rates, scene.alone, self.spec.every)

    def _block(self, tick: Tick) -> Block:
        return Block(tick.elapsed, self.spec.events(tick.stable), self.spec.events(tick.canary))

    def _measure_spread(self, scene: Scene) -> float:
        """How much the users cluster: with the time in the step, for it takes time until the same users come again."""
        if self.spec.clusters is None:
            return scene.least_spread
        measured: float = max(getattr(scene.stable, self.spec.clusters), scene.least_spread)
        return 1.0 + (measured - 1.0) * min(scene.since_step / PERIOD, 1.0)

    def _waiting(self, scene: Scene) -> str:
        """Why this tick says nothing; '' if it does. Depends on time and arrivals only."""
        return "too few to compare with" if scene.alone and self.rates.requests < ENOUGH else ""

    def find(self, scene: Scene, *, forced: bool = False) -> Finding:
        """What follows from the evidence."""
        waiting = self._waiting(scene)
        if waiting:
            last = len(self.spec.harms) - 1
            return self._finding(
                Ruling(Outcome.INCONCLUSIVE, Action.CONTINUE, last, waiting, self.evidence.windows.step), scene, None
            )
        dominated: Gate | None = None
        for clause in self.spec.clauses:
            ruling, gate = self._apply(clause, scene, forced=forced)
            if ruling is not None:
                return self._finding(ruling, scene, gate)
            if gate is not None and not gate.passed:
                dominated = dominated or gate
                if gate.dominating is not None:
                    break  # a milder clause would rest on the same group
        claim = next((n for n, one in enumerate(self.spec.harms) if one.alone), 0) if scene.alone else 0
        if dominated is not None:
            return self._withheld(claim, dominated, scene)
        return self._finding(self.evidence.health(claim, self.rates, scene.alone, self._spread), scene, None)

    def _apply(self, clause: Clause, scene: Scene, *, forced: bool) -> tuple[Ruling | None, Gate | None]:
        """The clause's ruling, if its conditions hold; the gate, if it was asked."""
        evidence, claim = self.evidence, self.spec.harms[clause.claim]
        proven = evidence.proven(clause.claim, self._spread)
        if (scene.alone and not claim.alone) or not (proven or (forced and clause.joint)):
            return None, None
        seen = evidence.windows.step
        if clause.size is not None:
            shown = None if scene.canary.few else evidence.windows.worse_by(*clause.size)
            if shown is None:
                return None, None
            seen = shown
        gate = self._gate(clause, scene)
        if gate is not None and not gate.passed:
            return None, gate
        proof = evidence.proof(clause.claim, clause.of_what, self._spread)
        if not proven:
            proof += ", enough together with the other metrics'"
        return Ruling(Outcome.FAIL, clause.action, clause.claim, proof, seen), gate

    def _gate(self, clause: Clause, scene: Scene) -> Gate | None:
        """Whether it holds without the groups that had most of it; None where that cannot be asked."""
        if self.spec.suspects is None or not scene.tick.canary.users:
            return None
        usual, age = [self._usual(seen.block, scene) for seen in self.evidence.windows.all()], self.spec.age
        if self.spec.clusters == "slow":  # groups count what is slower than the p95 by a margin, not this metric's event
            age = max(age, scene.slow_us / 1e6)
        return scene.canary.check(self.spec.suspects, age, lambda n, x, window: x / n - usual[window] >= clause.gate)

    def _usual(self, block: Block, scene: Scene) -> float:
        """Stable's share of the event over the same time: what both share accuses nobody."""
        requests, events, *_ = block.stable
        usual = self.rates.upper(0) if scene.alone or not requests else events / requests
        return max(usual, scene.stable.usually_slow) if self.spec.clusters == "slow" else usual

    def _withheld(self, claim: int, gate: Gate, scene: Scene) -> Finding:
        who = "one group of users dominates" if gate.dominating is not None else f"of only {gate.users} groups of users"
        proof = f"{self.evidence.proof(claim, 'harm', self._spread)}, but {who}: nothing follows from it"
        ruling = Ruling(Outcome.INCONCLUSIVE, Action.CONTINUE, claim, proof, self.evidence.windows.step)
        return self._finding(ruling, scene, None)._replace(dominating=gate.dominating, withheld=True)

    def _finding(self, ruling: Ruling, scene: Scene, gate: Gate | None) -> Finding:
        sentence, numbers = self.spec.describe(ruling, scene, self.rates)
        if gate is not None:
            sentence += f", {words.users(gate.users)}"
            numbers["users"] = gate.users
        verdict: MetricVerdict = self.evidence.verdict(
            self.name, ruling, sentence, numbers, spread=self._spread, required=self.required
        )
        return Finding(verdict)

    def stakes(self) -> Sequence[Stake]:
        """What it has won."""
        return [Stake(share, self.evidence.log_e(claim) / self._spread) for claim, share in enumerate(self.spec.shares)]

    def certain(self, log_e: float) -> bool:
        """Whether health is proven so far."""
        return self.evidence.health_log_e >= log_e * self._spread

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"key": self.spec.key, "rates": self.rates.state(), "evidence": self.evidence.state()}
