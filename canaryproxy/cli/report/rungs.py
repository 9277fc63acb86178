"""The plan, and what became of it: each rung with the time that was spent on it and how it ended. Pure; called by `account`."""

from __future__ import annotations

from dataclasses import dataclass

from canaryproxy.cli.text import Answer

#: Phases with users on the canary.
IN_PROGRESS = ("progressing", "paused", "baking")
#: How a rung was left, by the kind of the decision that left it.
_ENDED = {
    "step": "passed",
    "bake": "passed",
    "promoted": "passed",
    "rollback": "rolled back",
    "step_back": "stepped back",
    "weight": "left by hand",
}
#: Kinds of decisions that end a freeze, or what was frozen.
_THAWED = ("thaw", "step", "bake", "weight", "promoted")


@dataclass(slots=True)
class Rung:
    """One step of the plan, the bake, or a weight set by hand. `stood`: seconds of `took` in a pause, a gate or a freeze."""

    name: str
    weight_percent: float
    planned: float | None = None
    entered: float | None = None
    took: float = 0.0
    stood: float = 0.0
    ended: str = "not reached"


def climb(changes: list[Answer], ended: float, plan: Answer | None) -> list[Rung]:
    """The rungs of the plan (none if it is not known) and those beside it, after these changes of the rollout up to `ended`."""
    ladder = _Ladder(plan)
    left: Rung | None = None
    baking = frozen = False
    for made, until in zip(changes, [*(one["at"] for one in changes[1:]), max(ended, changes[-1]["at"])], strict=True):
        data, kind = made["data"], made["kind"]
        if left is not None:
            left.ended = _ENDED.get(kind, left.ended)
        left = None
        if data["to"] not in IN_PROGRESS:
            continue
        baking = data["to"] == "baking" or (baking and data["to"] == "paused" and kind != "weight")
        frozen = kind in ("freeze", "step_back") or (frozen and kind not in _THAWED)
        left = ladder.rung(int(data["step"]), data["weight_bp"] / 100, baking=baking)
        left.entered = made["at"] if left.entered is None else left.entered
        left.took += until - made["at"]
        left.stood += until - made["at"] if data["to"] == "paused" or frozen or data.get("gate") else 0.0
        left.ended = "in progress"
    return ladder.rungs


class _Ladder:
    """The rungs in their order; one that the plan does not have is put before those that were not reached yet."""

    def __init__(self, plan: Answer | None) -> None:
        steps, bake = (plan["steps"], plan["bake"]) if plan else ([], {"weight_percent": 100.0, "hold": None})
        self._steps = [Rung(f"step {n} of {len(steps)}", step["weight_percent"], step["hold"]) for n, step in enumerate(steps, 1)]
        self._bake = Rung("bake", bake["weight_percent"], bake["hold"])
        self.rungs = [*self._steps, self._bake] if plan else []

    def rung(self, step: int, weight_percent: float, *, baking: bool) -> Rung:
        """Where the rollout is at this step (the first is 1) with this weight."""
        if baking:
            return self._known(self._bake)
        if not self._steps:
            return self._known(Rung(f"step {step}", weight_percent))
        planned = self._steps[min(step, len(self._steps)) - 1]
        if abs(planned.weight_percent - weight_percent) < 1e-9:
            return planned
        name = f"{weight_percent:g} % by hand" if weight_percent else "before the first step"
        return self._known(Rung(name, weight_percent))

    def _known(self, rung: Rung) -> Rung:
        for one in self.rungs:
            if one.name == rung.name:
                return one
        self.rungs.insert(next((n for n, one in enumerate(self.rungs) if one.entered is None), len(self.rungs)), rung)
        return rung
