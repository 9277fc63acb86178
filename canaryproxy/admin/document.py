"""A route as JSON, as the admin API and the CLI show it. Reads the rollout, the board and the ledger; changes nothing."""

from __future__ import annotations

import hashlib
from typing import Any

from canaryproxy.analysis.describe import describe_metric
from canaryproxy.analysis.judge import Judge
from canaryproxy.config.upstreams import Pool
from canaryproxy.control.controller import Controller
from canaryproxy.control.messages import iso
from canaryproxy.control.recent import Recent
from canaryproxy.control.route import RouteControl
from canaryproxy.rollout.document import plan_document
from canaryproxy.shared.layout import CANARY, STABLE, Count
from canaryproxy.shared.reading import read_block


def route_document(controller: Controller, route: RouteControl) -> dict[str, Any]:
    """The status document. Steps are counted from 1, rates are of the last minute, request counts of the proxy's life."""
    rollout, verdict = route.rollout, route.verdict
    split = controller.board.read(route.slot)
    return {
        "route": route.name,
        "phase": rollout.phase.value,
        "step": rollout.step + 1,
        "steps": len(rollout.plan.steps),
        "weight_percent": rollout.weight_bp / 100,
        "weight_in_force_percent": split.weight_bp / 100,
        "epoch": split.epoch,
        "revision": rollout.revision,
        "salt_id": salt_id(rollout.salt),
        "stable": _variant(controller, route, STABLE, rollout.stable),
        "canary": _variant(controller, route, CANARY, rollout.canary),
        "verdict": verdict.outcome.name.lower() if verdict else None,
        "action": verdict.action.value if verdict else None,
        "sentence": verdict.sentence if verdict else "",
        "reason": rollout.reason or (verdict.sentence if verdict else ""),
        "evidence": {metric.metric: describe_metric(metric) for metric in verdict.metrics} if verdict else {},
        "users": _users(route),
        "frozen": rollout.frozen,
        "quarantined_groups": len(controller.board.quarantined(route.slot)),
        "shadow": _shadow(route.judge),
        "gate": rollout.gate.value if rollout.gate else None,
        "plan": plan_document(rollout.plan),
        "hold": rollout.dwell,
        "held": round(rollout.held, 1),
        "started_at": iso(rollout.started_at),
        "step_entered_at": iso(rollout.step_entered_at),
        "ended_at": iso(rollout.ended_at),
        "saved": not route.saver.failing,
        "hooks": controller.hooks.document(route),
        "deploy": route.deployment.document(),
    }


def _variant(controller: Controller, route: RouteControl, variant: int, name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    block = read_block(controller.segment, route.slot, variant)
    recent: Recent = route.sampler.recent[variant]
    errors, p95_us = recent.error_rate, recent.p95_us
    pool: Pool | None = controller.config.pools.get(name)
    return {
        "pool": name,
        "version": (pool.version if pool else "") or name,
        "requests": block[Count.STARTED],
        "in_flight": max(0, block[Count.STARTED] - block.ended),
        "requests_per_second": round(recent.requests_per_second, 2),
        "error_percent": None if errors is None else round(errors * 100, 4),
        "p95_ms": None if p95_us is None else p95_us / 1000,
    }


def _users(route: RouteControl) -> dict[str, int]:
    """Users that the canary has had in this rollout, or after its end in the last, and those of them with a failed request."""
    exposed, hurt = route.users
    return {"exposed": exposed, "hurt": hurt}


def _shadow(judge: Judge) -> dict[str, Any]:
    """Rehearsals on stable's own users: the share of false alarms on this route's traffic is at most `upper` (95 %)."""
    shadow = judge.shadow
    return {"rollouts": shadow.rollouts, "false_alarms": shadow.false_alarms, "upper": shadow.upper}


def salt_id(salt: int) -> str:
    """What tells this rollout's draw of users from others, without telling who is drawn."""
    return hashlib.sha256(salt.to_bytes(4)).hexdigest()[:8]
