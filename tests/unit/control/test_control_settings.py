"""What a configuration means to the judge."""

from __future__ import annotations

from typing import Any

from canaryproxy.analysis.settings import Bound, FloorRule, GoalRule, JudgeSettings, LatencyRule, OutsideRule, Rule
from canaryproxy.analysis.verdict import Action
from canaryproxy.config.schema import Route
from canaryproxy.control.settings import judge_settings


def settings(metrics: dict[str, Any] | None = None, **rollout: Any) -> JudgeSettings:
    return judge_settings(Route.model_validate({"stable": "v1", "metrics": metrics or {}, "rollout": rollout}))


def test_the_defaults_of_both_are_the_same() -> None:
    assert settings() == JudgeSettings()


def test_every_rule_is_taken_over() -> None:
    act = {"on_breach": "warn", "dry_run": True}
    found = settings(
        {
            "error_rate": {"max_increase": "3pp", "strict_margin": True, **act},
            "latency_p50": {"max_increase": "5ms", **act},
            "latency_p95": {"max_increase": "70ms", **act},
            "latency_p99": {"max_increase": "1s", **act},
            "stalls": {"max_increase": "4pp", **act},
            "throughput": {"max_drop": "30%", **act},
            "client_errors": {"max_increase": "6pp", **act},
            "response_size": {"max_increase": "7pp", **act},
            "success_floor": {"min": "98%", **act},
            "signup": {"goal": "posted", "max_drop": "8%", **act},
            "checkout": {"goal": {"path": "/checkout"}},
        },
        confidence="95%",
        min_requests=7,
    )
    said = (Action.WARN, True)
    assert found == JudgeSettings(
        error_rate=Rule(0.03, *said),
        strict_margin=True,
        latency=(
            LatencyRule("latency_p50", 0.5, 5_000, *said),
            LatencyRule("latency_p95", 0.95, 70_000, *said),
            LatencyRule("latency_p99", 0.99, 1_000_000, *said),
        ),
        stalls=Rule(0.04, *said),
        throughput=Rule(0.3, *said),
        client_errors=Rule(0.06, *said),
        response_size=Rule(0.07, *said),
        success_floor=FloorRule(0.98, *said),
        goals=(GoalRule("signup", 0.08, *said), GoalRule("checkout", 0.05)),
        alpha=0.05,
        min_requests=7,
    )


def test_what_is_off_is_not_judged() -> None:
    names = ("latency_p95", "stalls", "throughput", "client_errors", "response_size")
    found = settings(dict.fromkeys(names, False))
    assert found.latency == ()
    assert [getattr(found, name) for name in names[1:]] == [None] * 4


def test_a_metric_that_is_measured_outside_has_its_limits_in_the_rule_and_its_secrets_not() -> None:
    asked = {"url": "http://p:9090", "query": 'x{v="{{ variant }}"}', "bearer": "secret"}
    times = {"interval": "10s", "window": "1m", "max_age": "50s", "failures": 4, "successes": 5}
    limits = {"max_increase": "20%", "max_drop": 3, "min": 0.5, "max": "7"}
    act = {"on_breach": "rollback", "dry_run": True, "required": False}
    found = settings(
        {
            "cpu": {"prometheus": asked, **limits, **times, **act},
            "queue": {"http": {"url": "http://q/", "value": "/n"}, "max": 100, "interval": "10s"},
        }
    ).outside
    bounds = (Bound(0.2, relative=True), Bound(3.0), 0.5, 7.0)
    assert found == (
        OutsideRule("cpu", *bounds, True, 4, 5, 60.0, 50.0, False, Action.ROLLBACK, True),
        OutsideRule("queue", None, None, None, 100.0, False, 3, 3, 10.0, 80.0, True, Action.PAUSE, False),
    )
    assert "secret" not in repr(found)
