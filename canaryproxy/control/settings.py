"""From a route's configuration to what its judge is told. Pure; called by `control.route` and the planner."""

from __future__ import annotations

from canaryproxy.analysis.settings import Bound, FloorRule, GoalRule, JudgeSettings, LatencyRule, OutsideRule, Rule
from canaryproxy.analysis.verdict import Action
from canaryproxy.config import schema
from canaryproxy.config.metrics import (
    ClientErrors,
    ErrorRate,
    LatencyP50,
    LatencyP95,
    LatencyP99,
    OutsideMetric,
    ResponseSize,
    Stalls,
    SuccessFloor,
    Throughput,
)
from canaryproxy.config.outside import Difference

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
        outside=tuple(_outside(name, metric) for name, metric in metrics.outside.items()),
    )


def _increase(metric: ErrorRate | Stalls | ClientErrors | ResponseSize) -> Rule:
    return Rule(metric.max_increase, Action(metric.on_breach), metric.dry_run)


def _drop(metric: Throughput) -> Rule:
    return Rule(metric.max_drop / _BASIS, Action(metric.on_breach), metric.dry_run)


def _latency(name: str, quantile: float, metric: LatencyP50 | LatencyP95 | LatencyP99) -> LatencyRule:
    return LatencyRule(name, quantile, round(metric.max_increase * 1e6), Action(metric.on_breach), metric.dry_run)


def _floor(metric: SuccessFloor) -> FloorRule:
    return FloorRule(metric.min / _BASIS, Action(metric.on_breach), metric.dry_run)


def _outside(name: str, metric: OutsideMetric) -> OutsideRule:
    """Nothing of the provider: it is no part of the rule, and its secrets are none of the journal's business."""
    return OutsideRule(
        name,
        increase=_bound(metric.max_increase),
        drop=_bound(metric.max_drop),
        least=metric.min,
        most=metric.max,
        of_a_variant=metric.of_a_variant,
        failures=metric.failures,
        successes=metric.successes,
        window=metric.looks_back,
        max_age=metric.fresh_for,
        required=metric.required,
        action=Action(metric.on_breach),
        dry_run=metric.dry_run,
    )


def _bound(limit: Difference | None) -> Bound | None:
    return None if limit is None else Bound(*limit)
