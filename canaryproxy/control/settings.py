"""From a route's configuration to what its judge is told. Pure; called by `control.route` and the planner."""

from __future__ import annotations

from canaryproxy.analysis.settings import FloorRule, GoalRule, JudgeSettings, LatencyRule, Rule
from canaryproxy.analysis.verdict import Action
from canaryproxy.config import schema
from canaryproxy.config.metrics import (
    ClientErrors,
    ErrorRate,
    LatencyP50,
    LatencyP95,
    LatencyP99,
    ResponseSize,
    Stalls,
    SuccessFloor,
    Throughput,
)

_BASIS = 10_000


def judge_settings(route: schema.Route) -> JudgeSettings:
    """What the route's configuration demands of a canary; goals in the order of `Metrics.goals`."""
    metrics = route.metrics
    latencies = (
        ("latency_p50", 0.50, metrics.latency_p50),
        ("latency_p95", 0.95, metrics.latency_p95),
        ("latency_p99", 0.99, metrics.latency_p99),
    )
    return JudgeSettings(
        error_rate=_increase(metrics.error_rate),
        strict_margin=metrics.error_rate.strict_margin,
        latency=tuple(_latency(name, quantile, metric) for name, quantile, metric in latencies if metric),
        stalls=_increase(metrics.stalls) if metrics.stalls else None,
        throughput=_drop(metrics.throughput) if metrics.throughput else None,
        client_errors=_increase(metrics.client_errors) if metrics.client_errors else None,
        response_size=_increase(metrics.response_size) if metrics.response_size else None,
        goals=tuple(
            GoalRule(name, goal.max_drop / _BASIS, Action(goal.on_breach), goal.dry_run) for name, goal in metrics.goals.items()
        ),
        success_floor=_floor(metrics.success_floor) if metrics.success_floor else None,
        alpha=(_BASIS - route.rollout.confidence) / _BASIS,
        min_requests=route.rollout.min_requests,
    )


def _increase(metric: ErrorRate | Stalls | ClientErrors | ResponseSize) -> Rule:
    return Rule(metric.max_increase, Action(metric.on_breach), metric.dry_run)


def _drop(metric: Throughput) -> Rule:
    return Rule(metric.max_drop / _BASIS, Action(metric.on_breach), metric.dry_run)


def _latency(name: str, quantile: float, metric: LatencyP50 | LatencyP95 | LatencyP99) -> LatencyRule:
    return LatencyRule(name, quantile, round(metric.max_increase * 1e6), Action(metric.on_breach), metric.dry_run)


def _floor(metric: SuccessFloor) -> FloorRule:
    return FloorRule(metric.min / _BASIS, Action(metric.on_breach), metric.dry_run)
