"""What is wrong between the fields of metrics that others measure (`config.outside`). Pure; called by `config.check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from canaryproxy.config.check_network import Finding, found, is_loopback
from canaryproxy.config.metrics import OnBreach, OutsideMetric
from canaryproxy.config.outside import Endpoint, Prometheus, longest_range
from canaryproxy.config.quantities import format_duration
from canaryproxy.config.schema import Config
from canaryproxy.errors import Problem

#: Of a route: each is asked twice in its interval, for as long as the rollout goes on.
MAX_METRICS = 16


def _metrics(config: Config) -> Iterator[tuple[str, float, OutsideMetric]]:
    """Each with its place, and the longest that a step of its route may last."""
    for name, route in config.routes.items():
        for metric, outside in route.metrics.outside.items():
            yield f"routes.{name}.metrics.{metric}", route.rollout.max_step_duration, outside


def _times(config: Config) -> Iterator[Finding]:
    for place, longest, metric in _metrics(config):
        every = format_duration(metric.interval)
        if metric.timeout > metric.interval:
            what = f"{format_duration(metric.timeout)} is longer than the interval ({every})"
            yield found(f"{place}.timeout", what, "wait for less, or ask less often", f"{place}.interval")
        if metric.fresh_for < metric.interval:
            what = f"{format_duration(metric.fresh_for)} is over before the next measurement ({every})"
            yield found(f"{place}.max_age", what, "let a measurement hold for two intervals at least", f"{place}.interval")
        needed = metric.looks_back + (metric.successes - 1) * metric.interval
        if metric.required and needed > longest:
            what = f"needs {format_duration(needed)} in each step: its window, and {metric.successes} measurements"
            hint = f"let that be less than max_step_duration ({format_duration(longest)}), or write required: false"
            yield found(place, what, hint, f"{place.partition('.metrics.')[0]}.rollout.max_step_duration")


def _number(config: Config) -> Iterator[Finding]:
    for name, route in config.routes.items():
        if len(route.metrics.outside) > MAX_METRICS:
            what = f"has {len(route.metrics.outside)} metrics that others measure"
            yield found(f"routes.{name}.metrics", what, f"keep the {MAX_METRICS} that matter most")


RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (_times, _number)


def warnings(config: Config) -> Iterator[Problem]:
    """What is allowed but would surprise."""
    for place, _, metric in _metrics(config):
        acts = metric.on_breach is OnBreach.ROLLBACK and not metric.dry_run
        if acts and metric.failures == 1:
            what = "one measurement beyond the limit rolls back, and no statistics stand behind it"
            yield Problem(f"{place}.failures", what, "ask for 3 in a row, or let it pause")
        asked = metric.asked
        if isinstance(asked, Prometheus) and (back := longest_range(asked.query)) > metric.looks_back:
            what = f"is {format_duration(metric.looks_back)}, and the query looks back on {format_duration(back)}"
            hint = f"write window: {format_duration(back)}, or [{{{{ window }}}}] in the query"
            yield Problem(f"{place}.window", f"{what}: it counts what was before the step, or the rollout", hint)
        if isinstance(asked, Endpoint) and (asked.bearer or asked.password):
            parts = urlsplit(asked.url)
            if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                yield Problem(
                    f"{place}.{metric.provider}.url", "sends a password over a connection that anybody can read", "use https://"
                )
