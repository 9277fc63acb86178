"""A route as a worker needs it: its place on the board, its two pools and its counters. Made once, from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from canaryproxy.config import schema
from canaryproxy.config.schema import Config
from canaryproxy.proxy.overrides import RouteOverrides, route_overrides
from canaryproxy.proxy.pool import Pool
from canaryproxy.proxy.users import Users
from canaryproxy.routing.goals import MOST_GOALS, GoalRule, goal_rule
from canaryproxy.routing.identity import Cookieless, Identity
from canaryproxy.routing.match import Router
from canaryproxy.shared.layout import CANARY, STABLE, Segment
from canaryproxy.shared.ledger import Counters

VARIANT_NAMES = (b"stable", b"canary")


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One route in one worker. `row` is the index of its split word; `pools` are in the file's order (stable, canary)."""

    name: str
    slot: int
    row: int
    pools: tuple[Pool, Pool]
    counters: tuple[Counters, Counters]
    identity: Identity
    users: Users
    #: None if there are none, or no canary to put anybody on.
    overrides: RouteOverrides | None = None
    #: A conversion's rule for each goal, in the file's order; None where it is only told over the API.
    goals: tuple[GoalRule | None, ...] = ()
    fallback_to_stable: bool = True
    #: Seconds for the whole exchange; 0 without end.
    total_timeout: float = 0.0


def build_routes(
    config: Config, segment: Segment, worker: int, slots: Mapping[str, int]
) -> tuple[Router[Route], list[Route], list[Pool]]:
    """The router, the routes and the pools of a worker. A pool is shared by the routes that name it."""
    # A connection that a PROXY header has been said on is its client's, and never kept for another.
    idle = config.limits.idle_per_server
    pools = {name: Pool(name, pool, 0 if pool.send_proxy else idle) for name, pool in config.pools.items()}
    routes, entries = [], []
    for name, route in config.routes.items():
        slot, identity = slots[name], _identity(route.affinity)
        built = Route(
            name=name,
            slot=slot,
            row=segment.layout.board_row(slot),
            pools=(pools[route.stable], pools[route.canary or route.stable]),
            counters=(Counters(segment, worker, slot, STABLE), Counters(segment, worker, slot, CANARY)),
            identity=identity,
            overrides=route_overrides(route.overrides, identity) if route.canary else None,
            users=Users(config.worker_count),
            goals=goal_rules(route),
            fallback_to_stable=route.fallback_to_stable,
            total_timeout=route.total_timeout or config.timeouts.total,
        )
        routes.append(built)
        entries += [(host.encode(), path.encode(), built) for host in route.match.hosts or ("",) for path in route.match.paths]
    return Router(entries), routes, list(pools.values())


def _identity(affinity: schema.Affinity) -> Identity:
    return Identity(
        header=affinity.header.lower().encode() if affinity.header else None,
        cookie=affinity.cookie.encode(),
        max_age=int(affinity.max_age),
        cookieless=Cookieless[affinity.cookieless.upper()],
    )


def goal_rules(route: schema.Route) -> tuple[GoalRule | None, ...]:
    """A rule for each of the route's goals, in the file's order."""
    metrics = route.metrics.goals.values()
    rules = [goal_rule(metric.goal.method, metric.goal.path, metric.goal.status) if metric.goal else None for metric in metrics]
    return tuple(rules[:MOST_GOALS])
