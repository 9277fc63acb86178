"""Models of a rollout's plan: steps and pauses, the bake, and what limits them. Pure; parts of `config.schema`.

`steps` are written as Argo Rollouts' are: `{pause: {}}` after a weight waits for somebody, `{pause: {duration: 1h}}` for a time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from canaryproxy.config.base import Model
from canaryproxy.config.quantities import Duration, Percent


class OnInconclusive(StrEnum):
    """What happens when a step's `max_step_duration` ends without evidence either way."""

    PAUSE = "pause"
    EXTEND = "extend"
    ROLLBACK = "rollback"


class Step(Model):
    """One rung: this share for at least `hold`, and until health is proven."""

    weight: Percent = Field(ge=1, le=10_000, description="the canary's share of the users")
    hold: Duration = Field(300, ge=0, description="the step lasts at least so long")


class Pause(Model):
    """A wait after a step that is over."""

    duration: Duration = Field(0, ge=0, description="then the rollout goes on by itself; 0: when somebody resumes it")


class PauseStep(Model):
    """An item of `steps` that gives no weight: the rollout waits, its rollback armed, before it goes on."""

    pause: Pause = Field(description="{} waits until somebody resumes, {duration: 1h} for a time")


def _kind(item: Any) -> str:
    # an item with both is a step with a key too many
    keys = item if isinstance(item, dict) else type(item).model_fields if isinstance(item, Model) else ()
    return "[pause]" if "pause" in keys and "weight" not in keys else "[step]"


#: Tags in brackets are no part of a place in the file (`config.explain`).
Item = Annotated[Annotated[Step, Tag("[step]")] | Annotated[PauseStep, Tag("[pause]")], Discriminator(_kind)]


DEFAULT_STEPS: tuple[Item, ...] = tuple(
    Step.model_validate({"weight": weight, "hold": hold})
    for weight, hold in (("1%", "5m"), ("5%", "10m"), ("25%", "10m"), ("50%", "15m"))
)


class Rollout(Model):
    """The plan: steps, then 100 % for `bake`, then promoted."""

    steps: tuple[Item, ...] = Field(DEFAULT_STEPS, min_length=1, description="rising weights")
    bake: Duration = Field(1800, description="time at 100 %, and until health is proven there, before the canary becomes stable")
    hold_back: Percent = Field(0, ge=0, le=500, description="share of the users that stays on stable in the bake")
    max_step_duration: Duration = Field(7200, ge=1, description="a step without evidence for so long is inconclusive")
    max_duration: Duration = Field(
        0, ge=0, description="a rollout not finished after so long does as on_inconclusive says (extend: pauses); 0: no limit"
    )
    on_inconclusive: OnInconclusive = Field(OnInconclusive.PAUSE, description="what an inconclusive step does")
    auto_start: bool = Field(False, description="start by itself when a canary pool is seen for the first time")
    confidence: Percent = Field(9900, ge=9000, le=9999, description="1 - chance that a healthy canary is ever rolled back")
    min_requests: int = Field(100, ge=0, description="judged canary requests that each step needs at least")
    skip_steps_when_certain: bool = Field(False, description="one step less, but never all, where health is more than proven")
    i_accept_the_risk: bool = Field(False, description="allows holds under 60s, a first step over 10% and jumps over 10x")

    @property
    def rungs(self) -> tuple[Step, ...]:
        """The steps without the pauses."""
        return tuple(step for step in self.steps if isinstance(step, Step))
