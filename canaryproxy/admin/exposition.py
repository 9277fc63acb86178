"""The /metrics page. Everything is read at the moment of the scrape: the ledger is the only place where requests are counted.

The ledger's 2 % latency buckets are summed into the usual ones; a request counts for the first edge that is surely above it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import canaryproxy
from canaryproxy.admin.notifications import notifications
from canaryproxy.control.controller import Controller
from canaryproxy.control.route import RouteControl
from canaryproxy.rollout.model import EVERYBODY, Phase
from canaryproxy.shared.layout import CANARY, OUTCOMES, STABLE, Ack, Count, WorkerState
from canaryproxy.shared.reading import Block, read_block
from canaryproxy.stats import histogram

_EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: For each bucket of the ledger, the bucket of the page.
_COARSE = tuple(bisect_left(_EDGES, histogram.upper_edge_us(bucket) / 1e6) for bucket in range(histogram.COUNT))
_REFUSED = (
    ("tls_handshake", Ack.REFUSED_TLS),
    ("proxy_protocol", Ack.REFUSED_PROXY_PROTOCOL),
    ("too_many_handshakes", Ack.REFUSED_TOO_MANY),
)
_VARIANTS = (("stable", STABLE), ("canary", CANARY))


class LedgerCollector(Collector):
    """What Prometheus is told of a controller and its routes."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def page(self) -> bytes:
        """The page in the text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric family, read now."""
        controller = self._controller
        routes = list(controller.routes.values())
        yield from self._requests(routes)
        yield from _rollouts(routes)
        yield from self._judged(routes)
        yield from notifications(routes)
        yield self._workers()
        yield self._refused()
        yield CounterMetricFamily("canaryproxy_ticks", "Seconds that were judged.", value=controller.ticks)
        info = GaugeMetricFamily("canaryproxy_build_info", "Always 1.", labels=("version",))
        info.add_metric((canaryproxy.__version__,), 1)
        yield info

    def _requests(self, routes: list[RouteControl]) -> Iterator[Metric]:
        labels = ("route", "variant")
        requests = CounterMetricFamily("canaryproxy_requests", "Requests by how they ended.", labels=(*labels, "outcome"))
        duration = HistogramMetricFamily(
            "canaryproxy_request_duration_seconds",
            "Time to the whole response, of the answered requests that are judged: a few of each user.",
            labels=labels,
        )
        in_flight = GaugeMetricFamily("canaryproxy_in_flight_requests", "Requests that have not ended.", labels=labels)
        for route in routes:
            for name, variant in _VARIANTS:
                block = read_block(self._controller.segment, route.slot, variant)
                for outcome in OUTCOMES:
                    requests.add_metric((route.name, name, Count(outcome).name.lower()), block[outcome])
                duration.add_metric((route.name, name), _buckets(block), block[Count.LATENCY_SUM_US] / 1e6)
                in_flight.add_metric((route.name, name), max(0, block[Count.STARTED] - block.ended))
        yield from (requests, duration, in_flight)

    def _judged(self, routes: list[RouteControl]) -> Iterator[Metric]:
        of_route = ("route",)
        exposed = GaugeMetricFamily(
            "canaryproxy_users_exposed", "Users that the canary has had in this rollout.", labels=of_route
        )
        hurt = GaugeMetricFamily("canaryproxy_users_hurt", "Those of them with a failed request.", labels=of_route)
        groups = GaugeMetricFamily(
            "canaryproxy_quarantined_groups", "Groups of users that the statistics leave out.", labels=of_route
        )
        rehearsed = CounterMetricFamily("canaryproxy_shadow_rollouts", "Rehearsals on stable's own users.", labels=of_route)
        alarms = CounterMetricFamily("canaryproxy_shadow_false_alarms", "Those that would have rolled back.", labels=of_route)
        goals = CounterMetricFamily("canaryproxy_goals", "Business events.", labels=("route", "goal", "variant"))
        for route in routes:
            if route.sample:
                exposed.add_metric((route.name,), route.sample.canary.users)
                hurt.add_metric((route.name,), route.sample.canary.hurt)
            groups.add_metric((route.name,), len(self._controller.board.quarantined(route.slot)))
            rehearsed.add_metric((route.name,), route.judge.shadow.rollouts)
            alarms.add_metric((route.name,), route.judge.shadow.false_alarms)
            for name, variant in _VARIANTS:
                for goal, total in zip(route.goals.names, route.goals.totals[variant], strict=True):
                    goals.add_metric((route.name, goal, name), total)
        yield from (exposed, hurt, groups, rehearsed, alarms, goals)

    def _workers(self) -> Metric:
        family = GaugeMetricFamily("canaryproxy_workers", "Worker processes.", labels=("state",))
        board = self._controller.board
        states = [board.worker(worker, Ack.STATE) for worker in board.serving()]
        for state in (WorkerState.SERVING, WorkerState.DRAINING):
            family.add_metric((state.name.lower(),), states.count(state))
        return family

    def _refused(self) -> Metric:
        family = CounterMetricFamily(
            "canaryproxy_refused_connections", "Connections closed before a request, by what failed.", labels=("reason",)
        )
        board = self._controller.board
        for name, word in _REFUSED:
            family.add_metric((name,), sum(board.worker(worker, word) for worker in board.all_workers()))
        return family


def _rollouts(routes: list[RouteControl]) -> Iterator[Metric]:
    weight = GaugeMetricFamily("canaryproxy_weight_ratio", "Share of the users on the canary.", labels=("route",))
    phase = GaugeMetricFamily("canaryproxy_phase", "1 for the phase that the rollout is in.", labels=("route", "phase"))
    evidence = GaugeMetricFamily(
        "canaryproxy_evidence",
        "Natural logarithm of the evidence (outside metrics: a count), and of what is needed.",
        labels=("route", "metric", "kind"),
    )
    errors = CounterMetricFamily("canaryproxy_store_errors", "Saves that failed or took too long.", labels=("route",))
    unsaved = GaugeMetricFamily("canaryproxy_unsaved", "1 while the store fails.", labels=("route",))
    standstills = CounterMetricFamily(
        "canaryproxy_standstills", "Times that nothing was judged because the machine stood still.", labels=("route",)
    )
    for route in routes:
        weight.add_metric((route.name,), route.rollout.weight_bp / EVERYBODY)
        for one in Phase:
            phase.add_metric((route.name, one.value), route.rollout.phase is one)
        for metric in route.verdict.metrics if route.verdict else ():
            evidence.add_metric((route.name, metric.metric, "harm"), metric.evidence)
            evidence.add_metric((route.name, metric.metric, "harm_threshold"), metric.threshold)
            evidence.add_metric((route.name, metric.metric, "health"), metric.promote_evidence)
            evidence.add_metric((route.name, metric.metric, "health_threshold"), metric.promote_threshold)
        errors.add_metric((route.name,), route.saver.errors)
        unsaved.add_metric((route.name,), route.saver.failing)
        standstills.add_metric((route.name,), route.standstills)
    yield from (weight, phase, evidence, errors, unsaved, standstills)


def _buckets(block: Block) -> list[tuple[str, float]]:
    counts = [0] * (len(_EDGES) + 1)
    for bucket, count in enumerate(block.latency):
        counts[_COARSE[bucket]] += count
    cumulative, buckets = 0, []
    for edge, count in zip((*map(str, _EDGES), "+Inf"), counts, strict=True):
        cumulative += count
        buckets.append((edge, float(cumulative)))
    return buckets
