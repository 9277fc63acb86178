"""A verdict as JSON: for the decision log and the status document. Pure."""

from __future__ import annotations

import math
from typing import Any

from canaryproxy.analysis.verdict import MetricVerdict, Verdict


def describe_verdict(verdict: Verdict) -> dict[str, Any]:
    """Outcome, action and sentence, and those of each metric with its numbers."""
    return {
        "outcome": verdict.outcome.name.lower(),
        "action": verdict.action.value,
        "sentence": verdict.sentence,
        "metrics": {metric.metric: describe_metric(metric) for metric in verdict.metrics},
    }


def describe_metric(metric: MetricVerdict) -> dict[str, Any]:
    """One metric's finding; evidence and thresholds are natural logarithms."""
    return {
        "outcome": metric.outcome.name.lower(),
        "action": metric.action.value,
        "sentence": metric.sentence,
        "evidence": _finite(metric.evidence),
        "threshold": _finite(metric.threshold),
        "promote_evidence": _finite(metric.promote_evidence),
        "promote_threshold": _finite(metric.promote_threshold),
        "numbers": metric.numbers,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return round(value, 4) if math.isfinite(value) else None
