"""The operator's side: the real command line against a real product, the token, and what is counted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from harness import Product, Status, until_answered
from prometheus_client.parser import text_string_to_metric_families
from reading import requests, settled, versions

pytestmark = pytest.mark.system


async def told(product: Product, *words: str) -> Status:
    """The JSON that a command of the operator prints."""
    code, out, complaints = await product.cli(*words, "--config", str(product.file), "--json")
    assert (code, complaints) == (0, ""), out
    answer: Status = json.loads(out)
    return answer


async def test_a_rollout_by_the_command_line(product: Product) -> None:
    product.configure({"rollout": {"steps": [{"weight": "5%", "hold": "10m"}, {"weight": "25%", "hold": "10m"}]}})
    await product.start()
    for words, phase, step, weight in (
        (("start",), "progressing", 1, 5),
        (("pause", "shop", "--reason", "lunch"), "paused", 1, 5),
        (("resume", "shop"), "progressing", 1, 5),
        (("set-weight", "50%"), "paused", 2, 50),
        (("rollback", "--reason", "enough"), "rolled_back", 2, 0),
        (("retry",), "progressing", 1, 5),
        (("promote", "--full"), "baking", 2, 100),
    ):
        answer = await told(product, *words)
        assert (answer["phase"], answer["step"], answer["weight_percent"]) == (phase, step, weight), words
        assert (answer["applied_by"], answer["workers"], answer["saved"]) == (2, 2, True), words
    assert await versions(product) == {"v2"}
    decisions = (await told(product, "decisions"))["decisions"]
    kinds = [decision["kind"] for decision in reversed(decisions)]
    assert kinds == ["start", "pause", "resume", "weight", "rollback", "retry", "bake"]
    assert "enough" in decisions[2]["sentence"]
    status = await told(product, "status", "shop")
    assert (status["phase"], status["stable"]["pool"]) == ("baking", "v1")
    assert await told(product, "health") == {"ready": True}


async def test_what_is_refused_says_why_and_changes_nothing(product: Product) -> None:
    await product.start()
    assert product.token_file.stat().st_mode & 0o777 == 0o600
    before = await product.status()
    where = ("--admin", product.admin.url)
    config = ("--config", str(product.file))
    tries: tuple[tuple[tuple[str, ...], dict[str, str], str], ...] = (
        (("start", *where), {"CANARYPROXY_TOKEN": "guess"}, "a change needs the token"),
        (("start", *where), {"CANARYPROXY_TOKEN_FILE": str(product.folder / "none")}, "no token"),
        (("pause", *config), {}, "cannot pause while idle; possible now: start"),
        (("start", "shoop", *config), {}, "route 'shoop': does not exist; there is shop"),
        (("set-weight", "5", *config), {}, "WEIGHT: '5' has no unit"),
    )
    ended = await asyncio.gather(*(product.cli(*words, environment=environment) for words, environment, _ in tries))
    for (code, out, complaints), (_, _, expected) in zip(ended, tries, strict=True):
        assert (code, out, complaints.count("\n")) == (1, "", 1), complaints
        assert expected in complaints
    assert await product.status() | {"held": 0} == before | {"held": 0}
    await product.stop()
    code, _, complaints = await product.cli("rollback", "--config", str(product.file))
    assert (code, complaints.count("\n")) == (3, 1)
    assert "is the proxy running?" in complaints


def histogram(page: str) -> dict[str, float]:
    """Requests with a duration, by variant."""
    return {
        sample.labels["variant"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "canaryproxy_request_duration_seconds_count"
    }


async def test_metrics_count_exactly_what_was_sent(product: Product) -> None:
    product.configure({"metrics": {"error_rate": {"on_breach": "warn"}}})
    await product.start()
    await product.verb("start")
    product.origins["v2"].error_share = 0.2
    async with product.traffic(rate=400, users=1_000_000) as traffic:
        await traffic.more(400)
    counted = await settled(product)
    sent = Counter((request.version, request.status) for request in traffic.requests)
    outcomes = {"c2xx": 200, "c5xx": 500}
    pools = {"stable": "v1", "canary": "v2"}
    assert {(pools[variant], outcomes[outcome]): count for (variant, outcome), count in counted.items()} == sent
    assert sent["v2", 500] > 0
    expected = {variant: sum(count for (its, _), count in counted.items() if its == variant) for variant in pools}

    # Only what is judged is timed, at most a few requests of each user: here nobody comes so often.
    async def timed() -> str | None:
        # a worker counts how a request ended, and then how long it took: the last one may be looked at in between
        page = await product.metrics()
        return page if histogram(page) == expected else None

    page = await until_answered(timed)
    found = {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}
    assert found["canaryproxy_weight_ratio"] == 0.25
    assert requests(page) == counted
    status = await product.status()
    assert {variant: status[variant]["requests"] for variant in pools} == expected


async def test_two_operators_at_once_do_not_overwrite_each_other(product: Product) -> None:
    """The same verb twice at the same time: one is done, the other is told; rollbacks are never refused."""
    await product.start()
    await product.verb("start")
    await asyncio.gather(*(product.verb("rollback") for _ in range(5)))
    answers = await asyncio.gather(*(product.verb("retry") for _ in range(5)), return_exceptions=True)
    done = [answer for answer in answers if isinstance(answer, dict)]
    assert len(done) == 1
    assert done[0]["phase"] == "progressing"
