"""The hooks' part of the /metrics page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from canaryproxy.control.route import RouteControl

#: What becomes of a try to tell a hook, or of a message.
_RESULTS = ("delivered", "failed", "given_up", "dropped")


def notifications(routes: Iterable[RouteControl]) -> Iterator[Metric]:
    """How many were told, and how many wait."""
    total = CounterMetricFamily(
        "canaryproxy_notifications",
        "Notifications delivered, given up after 24 h, dropped for there were too many, and tries that failed.",
        labels=("route", "result"),
    )
    pending = GaugeMetricFamily("canaryproxy_notifications_pending", "Notifications not delivered yet.", labels=("route",))
    for route in routes:
        for result in _RESULTS:
            total.add_metric((route.name, result), route.outbox.counts[result])
        pending.add_metric((route.name,), route.outbox.pending)
    yield from (total, pending)
