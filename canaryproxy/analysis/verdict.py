"""What the analysis says of one tick: words and numbers, no behaviour. Pure.

Read by `rollout.machine` (what to do), the decision log and the operators (why).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Outcome(IntEnum):
    """The verdict's order: the worst of several wins."""

    PASS = 0
    INCONCLUSIVE = 1
    FAIL = 2


class Action(StrEnum):
    """What a verdict asks of the rollout, from the mildest to the strongest. `CONTINUE` asks for nothing.

    `FREEZE`: stable itself is bad, so no step, no promotion, no dwell until both variants are well again. `STEP_BACK`: the same,
    and back to the weight before, for it began right after a step up.
    """

    CONTINUE = "continue"
    PROMOTE = "promote"
    WARN = "warn"
    FREEZE = "freeze"
    STEP_BACK = "step_back"
    PAUSE = "pause"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """One metric's finding.

    `evidence` and `threshold` are natural logarithms of e-values (harm proven when evidence >= threshold); `promote_evidence`
    and `promote_threshold` the same for health; where nothing is tested but counted (`analysis.outside`), all four are counts.
    `required`: no promotion without its `PASS`. `numbers` is what the sentence was made from (JSON-ready).
    """

    metric: str
    outcome: Outcome
    action: Action
    sentence: str
    evidence: float = 0.0
    threshold: float = 0.0
    promote_evidence: float = 0.0
    promote_threshold: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)
    required: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole tick's finding: the worst metric's outcome, the strongest action asked for, and its sentence.

    `certain`: health is proven at the much stricter level that allows a step to be skipped. `quarantine`: groups of users
    (`sample.GROUPS`) that are to be left out of both variants' counts until the rollout's end, all of them each time.
    """

    outcome: Outcome
    action: Action
    sentence: str
    metrics: tuple[MetricVerdict, ...] = ()
    certain: bool = False
    quarantine: tuple[int, ...] = ()
