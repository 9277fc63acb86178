"""Look-ups that hang hold up nobody, and the same name is asked for once."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from canaryproxy.control.lookup import Lookup


class SlowNames:
    """getaddrinfo(3) that answers when told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answering = threading.Event()

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        assert self.answering.wait(10)
        if host == "nobody.test":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    made = SlowNames()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.answering.set()
    for thread in threading.enumerate():
        if thread.name.startswith("look up "):
            thread.join(5)


async def test_a_name_is_looked_up(names: SlowNames) -> None:
    names.answering.set()
    (found,) = await Lookup().resolve("a.test", 81)
    assert (found["hostname"], found["host"], found["port"], found["family"]) == ("a.test", "192.0.2.7", 81, socket.AF_INET)


async def test_many_who_ask_are_one_thread_and_who_gives_up_spoils_it_for_nobody(names: SlowNames) -> None:
    lookup = Lookup()
    asking = [asyncio.create_task(lookup.resolve("a.test", 81)) for _ in range(20)]
    await asyncio.sleep(0)
    asking[0].cancel()
    names.answering.set()
    done = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert all(isinstance(one, list) and one[0]["host"] == "192.0.2.7" for one in done[1:])
    assert names.asked == ["a.test"]
    await lookup.resolve("a.test", 81)
    assert len(names.asked) == 2


async def test_a_name_that_nobody_has(names: SlowNames) -> None:
    names.answering.set()
    with pytest.raises(OSError, match="unknown"):
        await Lookup().resolve("nobody.test", 81)


def test_the_loop_ends_while_one_hangs(names: SlowNames) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Lookup().resolve("a.test", 81)

    asyncio.run(give_up())  # in the loop's own threads this would wait for the answer
    assert not names.answering.is_set()
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "look up a.test"] == [True]
