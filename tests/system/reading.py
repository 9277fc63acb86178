"""What the system tests read off a running product: its counters, where a rollout stands, which versions users get."""

from __future__ import annotations

import socket

from harness import Product, Status, until_answered
from prometheus_client.parser import text_string_to_metric_families
from traffic import Client

#: What of a rollout no restart may change, whatever restarts.
KEPT = ("phase", "step", "weight_percent", "salt_id", "started_at", "step_entered_at")

Counts = dict[tuple[str, str], int]


def place(status: Status) -> Status:
    """Where a rollout stands."""
    return {name: status[name] for name in KEPT}


def requests(page: str) -> Counts:
    """{(variant, outcome): requests} of a /metrics page, without zeros."""
    return {
        (sample.labels["variant"], sample.labels["outcome"]): int(sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "canaryproxy_requests_total" and sample.value
    }


def in_flight(page: str) -> float:
    """Requests that have not ended, by a /metrics page."""
    families = text_string_to_metric_families(page)
    return sum(s.value for family in families for s in family.samples if s.name == "canaryproxy_in_flight_requests")


async def settled(product: Product) -> Counts:
    """The counters once nothing is in flight."""

    async def look() -> Counts | None:
        page = await product.metrics()
        return None if in_flight(page) else requests(page)

    return await until_answered(look, 5)


async def versions(product: Product, path: str = "/", users: int = 200) -> set[str]:
    """The versions that so many users get, over 20 connections."""
    found = set()
    for connection in range(20):
        client = Client(product.port)
        for user in range(users // 20):
            answer = await client.get(path, f"anybody-{connection}-{user}")
            assert not answer.failed, answer
            found.add(answer.version)
        await client.close()
    return found


def refuses(port: int) -> bool:
    """Whether nobody listens on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
