"""A rollout as a script on a hand-wound clock: what happens, and what must be answered; for the stories of the machine alone.

Every line of it meets a rollout that was just read back from its JSON, so it is also the story of a controller that was killed
between any two lines of it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.clock import ManualClock
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import (
    Event,
    Pause,
    Phase,
    Plan,
    PlanStep,
    Promote,
    Record,
    ResetEvidence,
    Rollback,
    Rollout,
    Save,
    SetSplit,
    Start,
    Tick,
)

PLAN = Plan((PlanStep(100, 300), PlanStep(500, 600), PlanStep(2500, 600)), bake=1800, max_step_duration=1200)
OUTCOMES = {Action.PROMOTE: Outcome.PASS, Action.CONTINUE: Outcome.INCONCLUSIVE}
ANOTHER_SALT = 99
#: What only ticks change, and nothing saves by itself.
CLOCKS: dict[str, Any] = {"held": 0.0, "waited": 0.0, "gate_held": 0.0, "lasted": 0.0}


class Story:
    """A route with a data plane and a disk that do as they are told."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.plan, self.clock = plan, ManualClock()
        self.rollout = Rollout("shop", "v1", "v2", "v1", "v2", plan)
        self.board, self.disk = self.rollout.split, self.rollout
        self.log: list[Record] = []
        self.did: list[str] = []

    def do(self, event: Event, *, killed: bool = True) -> Story:
        """Let it happen, after a kill or not; note in `did` what the effects were."""
        before = Rollout.from_dict(json.loads(json.dumps(self.rollout.to_dict()))) if killed else self.rollout
        assert before == self.rollout
        self.rollout, effects = advance(before, event, self.clock.wall())
        self.did = []
        for effect in effects:
            match effect:
                case SetSplit(split):
                    self.board = split
                    self.did.append(f"split {split.weight_bp}")
                case Save():
                    self.disk = self.rollout
                    self.did.append("save")
                case Record():
                    json.dumps(effect.data)
                    self.log.append(effect)
                case ResetEvidence(scope):
                    self.did.append(f"forget {scope}")
        assert self.board == self.rollout.split, "the data plane does what the record says"
        assert replace(self.disk, **CLOCKS) == replace(self.rollout, **CLOCKS), "nothing is left unsaved but time"
        return self

    def start(self) -> Story:
        return self.do(Start(self.plan, salt=7))

    def pass_time(
        self, seconds: int, action: Action = Action.CONTINUE, sentence: str = "few requests yet", *, certain: bool = False
    ) -> Story:
        """One tick for each second, all with the same finding."""
        tick = Tick(Verdict(OUTCOMES.get(action, Outcome.FAIL), action, sentence, certain=certain), 1.0)
        for second in range(seconds):
            self.clock.advance(1)
            self.do(tick, killed=not second)
        return self

    def tick(self, action: Action, sentence: str = "canary 8/402 failed", *, certain: bool = False) -> Story:
        return self.pass_time(1, action, sentence, certain=certain)

    @property
    def where(self) -> tuple[str, int, int]:
        return self.rollout.phase.value, self.rollout.step, self.board.weight_bp

    @property
    def said(self) -> str:
        return self.log[-1].sentence


def at(phase: Phase) -> Story:
    """A story that has come to `phase`, at the second step where there is one."""
    story = Story()
    if phase is Phase.IDLE:
        return story
    story.start().do(Promote())
    match phase:
        case Phase.PAUSED:
            return story.do(Pause("lunch"))
        case Phase.BAKING:
            return story.do(Promote(full=True))
        case Phase.PROMOTED:
            return story.do(Promote(full=True)).do(Promote())
        case Phase.ROLLED_BACK:
            return story.do(Rollback("enough"))
    return story
