"""A rollout as a value: the record, the events that change it, the effects a change asks for. Pure.

Made and changed only by `rollout.machine` and `rollout.roles`; `control` performs the effects and saves the record. Source of
the words: the project's glossary (route, pool, variant, weight, step, phase). Times are wall or plain seconds, weights basis
points of the route's users, steps counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from canaryproxy.analysis.verdict import Verdict
from canaryproxy.config import schema
from canaryproxy.config.schema import OnInconclusive
from canaryproxy.errors import StoreError

#: All users of a route, in basis points.
EVERYBODY = 10_000


class Phase(StrEnum):
    """Where a rollout is. `canary` has users only in progressing, paused and baking."""

    IDLE = "idle"
    PROGRESSING = "progressing"
    PAUSED = "paused"
    BAKING = "baking"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


class Gate(StrEnum):
    """What a rollout waits for beside evidence: a person (`pause`), or a hook of that type. None of them disarms a rollback."""

    PAUSE = "pause"
    CONFIRM_ROLLOUT = "confirm_rollout"
    PRE_ROLLOUT = "pre_rollout"
    CONFIRM_STEP = "confirm_step"
    CONFIRM_PROMOTION = "confirm_promotion"


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One rung: `weight_bp` of the users for at least `hold` seconds.

    `pause`: what comes after it waits so many seconds, for 0 until somebody resumes; None: nothing to wait for.
    """

    weight_bp: int
    hold: float
    pause: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollout is to do: the steps, then everybody for `bake` seconds, then promoted.

    `skip_when_certain`: one step at a time may be left out where health is more than proven (`moves.may_skip`).
    `hooks`: the gates that somebody outside opens. `hold_back_bp`: users whom a bake leaves on stable. `max_duration`: seconds
    of a whole rollout, 0 without end.
    """

    steps: tuple[PlanStep, ...]
    bake: float
    max_step_duration: float
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE
    skip_when_certain: bool = False
    hooks: tuple[Gate, ...] = ()
    hold_back_bp: int = 0
    max_duration: float = 0.0

    def __post_init__(self) -> None:
        if not self.steps or not all(0 <= step.weight_bp <= EVERYBODY for step in self.steps):
            raise ValueError("a plan needs at least one step, each with a weight of 0 to 10000 basis points")

    @property
    def bake_bp(self) -> int:
        """Basis points of the users on the canary in the bake; never fewer than the last step has."""
        return max(EVERYBODY - self.hold_back_bp, self.steps[-1].weight_bp)

    @classmethod
    def of_route(cls, route: schema.Route) -> Plan:
        """The plan of a route, its hooks included."""
        return cls.from_config(route.rollout, route.hooks)

    @classmethod
    def from_config(cls, rollout: schema.Rollout, hooks: Iterable[Any] = ()) -> Plan:
        """The plan that a route's configuration describes; `hooks` are its, of which those of a gate's `type` are waited for."""
        steps: list[PlanStep] = []
        for item in rollout.steps:
            if isinstance(item, schema.PauseStep):
                steps[-1] = replace(steps[-1], pause=item.pause.duration)  # config.check: one has gone before
            else:
                steps.append(PlanStep(item.weight, item.hold))
        types = {str(hook.type) for hook in hooks}
        return cls(
            tuple(steps),
            rollout.bake,
            rollout.max_step_duration,
            rollout.on_inconclusive,
            rollout.skip_steps_when_certain,
            tuple(gate for gate in Gate if gate is not Gate.PAUSE and gate in types),
            rollout.hold_back,
            rollout.max_duration,
        )

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> Plan:
        """The plan that `Rollout.to_dict` wrote; raises KeyError, TypeError or ValueError for anything else."""
        values = {f.name: plan[f.name] for f in fields(cls) if f.name in plan}
        values["steps"] = tuple(PlanStep(**step) for step in plan["steps"])
        values["on_inconclusive"] = OnInconclusive(plan["on_inconclusive"])
        values["hooks"] = tuple(Gate(gate) for gate in plan.get("hooks", ()))
        return cls(**values)


class Split(NamedTuple):
    """What the data plane is told: `weight_bp` of the users to pool `canary`, the others to `stable`; `salt` says which.

    `overrides`: the canary may have users, so beta groups get it whatever the weight is.
    """

    stable: str
    canary: str | None
    weight_bp: int
    salt: int
    overrides: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """Everything that must survive a kill, the judge's evidence apart.

    `stable` and `canary` are the pools in their roles as they are now, `file_*` what the file said when the record was made
    (`rollout.roles`). `held` is the dwell in this step or bake so far, `waited` the time since evidence was first expected
    (in a bake: since its time was over).
    `hand_paused` tells an operator's pause from the judge's. `waived`: an operator resumed over the judge's pause, which then
    does not stop the same step again (a rollback does). `frozen`: stable itself is bad, as of the last tick; nothing can be
    learnt and time stands still.
    `begun`: the first step's weight has been given, or another one by hand. `gate` is what it waits for now, for `gate_held`
    seconds so far; `passed` are the gates opened since the last change of weight. `lasted` is the time in progress, without
    freezes and pauses by hand. `settled` pools were promoted or rolled back once: never started by themselves.
    """

    route: str
    stable: str
    canary: str | None
    file_stable: str
    file_canary: str | None
    plan: Plan
    phase: Phase = Phase.IDLE
    step: int = 0
    weight_bp: int = 0
    salt: int = 0
    revision: int = 0
    held: float = 0.0
    waited: float = 0.0
    reason: str = ""
    started_at: float | None = None
    step_entered_at: float | None = None
    ended_at: float | None = None
    paused_from: Phase | None = None
    hand_paused: bool = False
    waived: bool = False
    warned: bool = False
    frozen: bool = False
    begun: bool = True
    gate: Gate | None = None
    gate_held: float = 0.0
    passed: tuple[Gate, ...] = ()
    lasted: float = 0.0
    settled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.weight_bp <= EVERYBODY or not 0 <= self.step < len(self.plan.steps):
            raise ValueError(f"weight {self.weight_bp} or step {self.step} is out of range")
        if self.weight_bp and not self.in_progress:
            raise ValueError(f"weight {self.weight_bp} in phase {self.phase}")
        if self.frozen and not self.in_progress:
            raise ValueError(f"frozen in phase {self.phase}")
        if self.gate is not None and not self.in_progress:
            raise ValueError(f"gate {self.gate} in phase {self.phase}")
        if self.gate is Gate.PAUSE and self.phase is not Phase.PAUSED:
            raise ValueError(f"a pause that is waited for in phase {self.phase}")
        if not self.begun and (self.weight_bp or not self.in_progress):
            raise ValueError(f"weight {self.weight_bp} in phase {self.phase} before the first step")
        if (self.paused_from is not None) != (self.phase is Phase.PAUSED):
            raise ValueError(f"paused_from {self.paused_from} in phase {self.phase}")
        if self.canary is None and self.phase is not Phase.IDLE:
            raise ValueError(f"no canary pool in phase {self.phase}")

    @property
    def in_progress(self) -> bool:
        """Whether there is something to judge: users may be on the canary."""
        return self.phase in (Phase.PROGRESSING, Phase.PAUSED, Phase.BAKING)

    @property
    def is_baking(self) -> bool:
        """Whether it bakes, or was paused in the bake."""
        return Phase.BAKING in (self.phase, self.paused_from)

    @property
    def is_overdue(self) -> bool:
        """Whether it has been in progress for longer than the plan allows."""
        return 0 < self.plan.max_duration < self.lasted

    @property
    def may_have_users(self) -> bool:
        """Whether the canary is one that people may meet: not rolled back, promoted or declined."""
        fresh = self.phase is Phase.IDLE and self.canary is not None and self.canary not in self.settled
        return self.in_progress or fresh

    @property
    def split(self) -> Split:
        """What the data plane must be doing when this record is in force."""
        return Split(self.stable, self.canary, self.weight_bp, self.salt, self.may_have_users)

    @property
    def dwell(self) -> float:
        """Seconds that `held` has to reach in this step or bake."""
        return self.plan.bake if self.is_baking else self.plan.steps[self.step].hold

    def share_of(self, pool: str | None) -> int:
        """Basis points of the users that `pool` gets."""
        if pool is None or pool not in (self.stable, self.canary):
            return 0
        return self.weight_bp if pool == self.canary else EVERYBODY - self.weight_bp

    def to_dict(self) -> dict[str, Any]:
        """The record, JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Rollout:
        """The rollout that `to_dict` wrote (fields added since take their defaults); raises StoreError when it cannot be read."""
        try:
            values = {f.name: record[f.name] for f in fields(cls) if f.name in record}
            values["plan"] = Plan.from_dict(record["plan"])
            values["phase"] = Phase(record["phase"])
            values["settled"] = tuple(record.get("settled", ()))
            values["passed"] = tuple(Gate(gate) for gate in record.get("passed", ()))
            if record.get("gate") is not None:
                values["gate"] = Gate(record["gate"])
            if record.get("paused_from") is not None:
                values["paused_from"] = Phase(record["paused_from"])
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"saved rollout of route {record.get('route', '?')!r}",
                f"cannot be understood ({error!r})",
                "restore the state file from a backup, or move it away to begin idle with the roles of the configuration",
            ) from error


# --- Events. `by` is who asked, for the decision log. ---


@dataclass(frozen=True, slots=True)
class Start:
    """Begin (or, while one is in progress, begin again) with `plan` and a new `salt` (32 bits)."""

    plan: Plan
    salt: int
    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Retry:
    """Begin again after a rollback."""

    plan: Plan
    salt: int
    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Tick:
    """`elapsed` seconds went by, and this is what the analysis says now."""

    verdict: Verdict
    elapsed: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Hold the weight until somebody resumes."""

    reason: str = ""
    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with the plan."""

    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Promote:
    """The next step now, whatever gate is before it; `full`: the bake now; while baking: promoted now."""

    full: bool = False
    by: str = "operator"


@dataclass(frozen=True, slots=True)
class SetWeight:
    """This share, and hold it."""

    weight_bp: int
    by: str = "operator"

    def __post_init__(self) -> None:
        if not 0 <= self.weight_bp <= EVERYBODY:
            raise ValueError(f"weight {self.weight_bp} is not within 0 to 10000 basis points")


@dataclass(frozen=True, slots=True)
class Rollback:
    """Everybody to the old version, now."""

    reason: str = ""
    by: str = "operator"


@dataclass(frozen=True, slots=True)
class OpenGate:
    """What the rollout waited for has come. Said of another gate than the one it waits for, it changes nothing."""

    gate: Gate
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FailGate:
    """What the rollout waited for will not come: it is rolled back. Said of another gate, it changes nothing."""

    gate: Gate
    by: str
    reason: str = ""


Event = Start | Retry | Tick | Pause | Resume | Promote | SetWeight | Rollback | OpenGate | FailGate


# --- Effects, performed in the order of the list. ---


@dataclass(frozen=True, slots=True)
class SetSplit:
    """Tell the data plane this split."""

    split: Split


@dataclass(frozen=True, slots=True)
class Save:
    """Write the new record, the evidence and the records of decisions so far, in one transaction.

    When it fails, effects after it are not performed: a share that is not on disk is not given.
    """


@dataclass(frozen=True, slots=True)
class Record:
    """One decision for the log, written by the next `Save`."""

    kind: str
    sentence: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResetEvidence:
    """The judge forgets: everything of the rollout, or what it has for promoting this step."""

    scope: Literal["rollout", "step"]


Effect = SetSplit | Save | Record | ResetEvidence
