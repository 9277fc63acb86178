"""`canaryproxy plan` against a running product: it counts real requests."""

from __future__ import annotations

import json

import pytest
from harness import Product, Status

pytestmark = pytest.mark.system


async def _planned(product: Product, *words: str) -> Status:
    code, out, complaints = await product.cli("plan", *words, "--config", str(product.file), "--json")
    assert (code, complaints) == (0, ""), out
    answer: Status = json.loads(out)
    return answer


async def test_a_plan_from_what_the_running_proxy_counts(product: Product) -> None:
    product.configure({"rollout": {"steps": [{"weight": "5%", "hold": "5m"}, {"weight": "50%", "hold": "10m"}], "bake": "7m"}})
    await product.start()
    code, out, complaints = await product.cli("plan", "--config", str(product.file))
    assert (code, out) == (1, "")
    assert complaints == "canaryproxy: route 'shop': no requests in the last minute; give --rate, --errors and --p95\n"
    async with product.traffic():
        status = await product.status_with(lambda now: now["stable"]["requests_per_second"] > 10 and now["stable"]["p95_ms"])
        plan = await _planned(product, "--users", "1000000")
    seen = plan["traffic"]
    assert (plan["route"], plan["bake"], seen["live"], seen["error_percent"]) == ("shop", 420, True, 0)
    assert seen["judged_requests_per_second"] > 10
    assert seen["p95_ms"] > 0
    assert [step["weight_percent"] for step in plan["steps"]] == [5, 50]
    rate = seen["judged_requests_per_second"]
    assert plan["steps"][1]["canary_requests_per_second"] == pytest.approx(rate / 2, abs=0.01)
    assert status["phase"] == "idle"
    assert (await product.status())["phase"] == "idle"
