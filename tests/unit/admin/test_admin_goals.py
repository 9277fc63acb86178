"""Business events over the admin API: counted once, for the variant that the user has now, or refused as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from test_admin_app import BEARER, SHOP, AdminClient, Setup, change, scrape

pytest_plugins = ["test_admin_app"]


def event(n: int = 1, **changed: Any) -> dict[str, Any]:
    return {"goal": "signup", "user": f"u-{n}", "id": f"order-{n}"} | changed


async def post(client: AdminClient, body: Any, status: int = 202) -> Any:
    async with client.post(f"{SHOP}/goals", json=body, headers=BEARER) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer if status == 202 else answer["error"]


async def test_events_are_counted_once_and_reach_the_next_tick(setup: Setup, client: AdminClient) -> None:
    assert await post(client, event()) == {"counted": 1, "duplicates": 0, "left_out": 0}
    assert await post(client, [event(), event(2), event(3, goal="refund")]) == {"counted": 2, "duplicates": 1, "left_out": 0}
    setup.clock.advance(1)
    setup.controller.tick()
    sample = setup.controller.routes["shop"].sample
    assert sample is not None
    assert (sample.stable.goals, sample.canary.goals) == ((2, 0, 1), (0, 0, 0))
    samples = await scrape(client)
    assert samples["canaryproxy_goals_total", ("shop", "signup", "stable")] == 2
    assert samples["canaryproxy_goals_total", ("canary", "shop", "signup")] == 0
    assert samples["canaryproxy_goals_total", ("refund", "shop", "stable")] == 1


async def test_a_whole_batch_of_a_thousand_goes_through(setup: Setup, client: AdminClient) -> None:
    await change(client, "start")
    await change(client, "weight", {"weight": "50%"})
    assert (await post(client, [event(n, user=f"u-{n}" * 20) for n in range(1000)]))["counted"] == 1000
    stable, canary = setup.controller.routes["shop"].goals.take()
    assert stable[0] + canary[0] == 1000
    assert 430 < canary[0] < 570
    assert (await post(client, [event(n) for n in range(1001)], 400))["message"] == "1001 events"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (event(goal="checkout"), "goal 'checkout': is counted from its requests, and would count twice"),
        ({"goal": "signup", "user": "u"}, "id: is missing"),
        (event(id=7), "id: is no text of 1 to 512 characters"),
        (event(user=""), "user: is no text of 1 to 512 characters"),
        (event(user="x" * 513), "user: is no text of 1 to 512 characters"),
        (event(id="a\nb"), "id: is no text of 1 to 512 characters"),
        (event(at="now"), "at: is not known here"),
        ([event(), event(2, user=None)], "[1].user: is missing"),
        ([event(), 5], "[1]: an event is a JSON object"),
        (5, "an event is a JSON object"),
    ],
)
async def test_what_says_nothing_is_refused_and_nothing_of_it_counted(
    setup: Setup, client: AdminClient, wrong: Any, message: str
) -> None:
    assert (await post(client, wrong, 400))["message"] == message
    assert setup.controller.routes["shop"].goals.take() == ((0, 0, 0), (0, 0, 0))


async def test_a_goal_that_is_not_there_is_told_with_those_that_are(client: AdminClient) -> None:
    error = await post(client, [event(), event(2, goal="singup")], 404)
    assert error["message"] == "goal 'singup' of route shop: does not exist"
    assert error["hint"] == "goals that are posted: signup, refund"
    assert (await post(client, event()))["counted"] == 1, "the one beside it had not been counted"
    async with client.post("/api/v1/routes/plain/goals", json=event(), headers=BEARER) as response:
        assert (response.status, (await response.json())["error"]["hint"]) == (404, "goals that are posted: none")


async def test_it_needs_the_token(client: AdminClient) -> None:
    async with client.post(f"{SHOP}/goals", json=event()) as response:
        assert response.status == 401
