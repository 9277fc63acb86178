"""The stream of events over real HTTP: what is told, to whom, from when, and when it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from admin_world import SHOP, AdminClient, MakeClient, World, bearer

from canaryproxy.admin import events
from canaryproxy.store.base import Decision

pytest_plugins = ["admin_world"]

MakeWorld = Callable[..., World]
URL = "/api/v1/events"


class Stream:
    """What a listener hears."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[str, str, Any]:
        """Kind, id and data of the next event; ("", "", None) at the end of the stream."""
        heard = {"event": "", "id": "", "data": "null"}
        while line := (await asyncio.wait_for(self.response.content.readline(), 5)).decode():
            if line == "\n":
                if heard["event"]:
                    break
                continue
            name, _, value = line.rstrip("\n").partition(": ")
            heard[name] = value
        return heard["event"], heard["id"], json.loads(heard["data"])

    async def until(self, kind: str) -> tuple[str, Any]:
        """Id and data of the next event of this kind."""
        while True:
            found, number, data = await self.next()
            assert found, "the stream has ended"
            if found == kind:
                return number, data


@asynccontextmanager
async def listening(client: AdminClient, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(URL + query, headers=sent) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream"), await response.text()
        yield Stream(response)


async def verb(client: AdminClient, name: str, **body: str) -> None:
    async with client.post(f"{SHOP}/{name}", headers=bearer("ci"), json=body) as response:
        assert response.status == 200


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_LOOK", 0.01)
    monkeypatch.setattr(events, "_APART", 0.05)


async def test_how_it_is_and_then_what_happens(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(make_world().app)
    async with listening(client) as stream:
        assert [(await stream.next())[2]["route"] for _ in range(2)] == ["plain", "shop"]
        await verb(client, "start", reason="release 7")
        number, made = await stream.until("decision")
        assert (made["route"], made["kind"], made["data"]["note"], float(number)) == ("shop", "start", "release 7", made["at"])
        _, route = await stream.until("route")
        assert (route["phase"], route["weight_percent"], route["revision"]) == ("progressing", 1.0, 1)


async def test_an_odd_number_in_a_decision_stops_neither_it_nor_the_stream(
    make_world: MakeWorld, aiohttp_client: MakeClient
) -> None:
    world = make_world()
    client = await aiohttp_client(world.app)
    async with listening(client) as stream:
        await stream.until("route")
        world.controller.routes["shop"].saver.note(
            Decision(
                7.5,
                "verdict",
                "odd",
                {
                    "odd": {
                        1,
                    }
                },
            )
        )
        _, made = await stream.until("decision")
        assert made["data"] == {"odd": "{1}"}


async def test_one_route_only(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(make_world().app)
    async with listening(client, "?route=plain") as stream, listening(client, "?route=shop&route=plain") as both:
        await verb(client, "start")
        await both.until("decision")
        assert (await stream.next())[2]["route"] == "plain"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.next(), 0.1)
    async with client.get(f"{URL}?route=shoop") as response:
        assert response.status == 404


async def test_who_comes_again_misses_nothing_and_hears_nothing_twice(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    world = make_world()
    client = await aiohttp_client(world.app)
    async with listening(client) as stream:
        await verb(client, "start")
        number, _ = await stream.until("decision")
    for name in ("pause", "resume", "promote"):
        world.clock.advance(1)
        await verb(client, name)
    async with listening(client, Last_Event_ID=number) as stream:
        heard = [(await stream.until("decision"))[1]["kind"] for _ in range(3)]
        world.clock.advance(1)
        await verb(client, "rollback")
        heard.append((await stream.until("decision"))[1]["kind"])
    assert heard == ["pause", "resume", "step", "rollback"]
    async with client.get(URL, headers={"Last-Event-ID": "yesterday"}) as response:
        assert response.status == 400


async def test_what_is_not_in_the_store_yet_is_heard_too(
    make_world: MakeWorld, aiohttp_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    client = await aiohttp_client(world.app)

    async def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(world.controller, "decisions", nothing)
    await verb(client, "start")
    async with listening(client, Last_Event_ID="0") as stream:
        assert (await stream.until("decision"))[1]["kind"] == "start"


async def test_what_is_decided_while_the_store_is_read_is_heard_once(
    make_world: MakeWorld, aiohttp_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    client = await aiohttp_client(world.app)
    listener = world.controller.routes["shop"].saver.listener
    assert listener is not None
    made = {"at": 5.0, "kind": "pause", "sentence": "", "data": {"b": 1, "a": 2}}

    async def meanwhile(route: str, *_: Any) -> list[Any]:
        if route == "plain":
            return []
        listener("shop", Decision(5.0, "pause", "", {"a": 2, "b": 1}))
        return [made]

    monkeypatch.setattr(world.controller, "decisions", meanwhile)
    async with listening(client, Last_Event_ID="0") as stream:
        assert (await stream.until("decision"))[1]["at"] == 5
        listener("shop", Decision(6.0, "resume", ""))
        assert (await stream.until("decision"))[1]["at"] == 6


async def test_a_silent_stream_is_kept_alive(
    make_world: MakeWorld, aiohttp_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_HEARTBEAT", 0.02)
    client = await aiohttp_client(make_world().app)
    async with listening(client) as stream:
        lines = [await stream.response.content.readline() for _ in range(12)]
    assert lines[0] == b"retry: 1000\n"
    assert lines.count(b":\n") >= 2


async def test_there_is_a_limit_and_who_has_gone_does_not_count(
    make_world: MakeWorld, aiohttp_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_STREAMS", 1)
    client = await aiohttp_client(make_world().app)
    async with listening(client), client.get(URL) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "too_many_streams")
    end = asyncio.get_running_loop().time() + 5
    while True:
        async with client.get(URL) as response:
            if response.status == 200:
                break
            assert asyncio.get_running_loop().time() < end


async def test_it_ends_when_the_process_does(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    world = make_world()
    client = await aiohttp_client(world.app)
    async with listening(client) as stream:
        await stream.until("route")
        await world.app.shutdown()
        while (await stream.next())[0]:
            pass
    async with client.get(URL) as response:
        assert response.status == 503


async def test_who_does_not_read_is_cut_off(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    """The others hear on; what waits is bounded."""
    world = make_world()
    client = await aiohttp_client(world.app)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1)
    writer.write(f"GET {URL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.read(1)
    listener, big = world.controller.routes["shop"].saver.listener, {"x": "x" * 100_000}
    assert listener is not None
    told = events._WAITING + 100
    async with listening(client) as stream:
        await stream.until("route")
        for number in range(told):
            listener("shop", Decision(float(number), "verdict", "", big))
            assert (await stream.until("decision"))[1]["at"] == number
    read = 0
    with suppress(ConnectionError):
        while got := await asyncio.wait_for(reader.read(1 << 20), 5):
            read += len(got)
    assert read < told * 100_000
    writer.close()


async def test_nothing_runs_while_nobody_listens(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(make_world().app)
    async with listening(client) as stream:
        await stream.until("route")
        assert "events" in {task.get_name() for task in asyncio.all_tasks()}
        await verb(client, "start")
    for _ in range(500):
        await verb(client, "rollback")
        if "events" not in {task.get_name() for task in asyncio.all_tasks()}:
            break
    else:
        raise AssertionError("it runs on")


async def test_a_head_request_ends_at_once(make_world: MakeWorld, aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(make_world().app)
    async with client.head(URL) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
