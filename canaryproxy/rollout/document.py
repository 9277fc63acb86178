"""A plan as JSON, for the status document, the decision that begins a rollout, and what reads them. Pure."""

from __future__ import annotations

from typing import Any

from canaryproxy.rollout.model import Plan


def plan_document(plan: Plan) -> dict[str, Any]:
    """Steps (`pause`: seconds after it, 0 until somebody resumes, None: none), its bake, and how long it may take (0: any)."""
    steps = [{"weight_percent": step.weight_bp / 100, "hold": step.hold, "pause": step.pause} for step in plan.steps]
    bake = {"weight_percent": plan.bake_bp / 100, "hold": plan.bake}
    return {"steps": steps, "bake": bake, "max_duration": plan.max_duration}
