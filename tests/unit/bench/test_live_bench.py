"""The live benchmark's own parts: an origin spoils what it was told to, users are who they are, figures are what they say."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bench.live.figures import Course, Decision, Measurement, Tally, measure
from bench.live.load import Crowd, Load
from bench.live.origin import App, Connection, Ordered, fault_path, parse_fault
from bench.live.report import as_json, line, markdown, rows, sentences
from bench.live.scenario import SCENARIOS, Fault, config_text
from canaryproxy.config.load import load

HURT = [[7, "anna", 101.5], [8, "anna", 102.0], [9, "ben", 102.5]]


# Scenarios.


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_proxy_takes_the_configuration(name: str, tmp_path: Path) -> None:
    file = tmp_path / "canaryproxy.yaml"
    file.write_text(config_text(SCENARIOS[name], str(tmp_path), 8001, 8002))
    config = load(file, {})
    assert [step.weight for step in config.routes["shop"].rollout.rungs] == [200, 1000, 5000]


def test_a_harmful_fault_has_its_time_on_the_first_step() -> None:
    for scenario in SCENARIOS.values():
        assert not scenario.harmful or scenario.limit <= scenario.holds[0]
        assert scenario.limit > scenario.usual_seconds - 15


# The origin.


@pytest.mark.parametrize("ordered", [Ordered(Fault.ERRORS, 0.05, 1.5, float("inf")), Ordered(Fault.BOT, 1.0, 1.5, 2.5, "user-7")])
def test_a_fault_is_told_by_a_path(ordered: Ordered) -> None:
    assert parse_fault(fault_path(ordered)) == ordered
    assert parse_fault("/products/7") is None


def replies(ordered: Ordered, now: float = 10.0, user: str = "u") -> tuple[App, Counter[tuple[int, int, bool, bool]]]:
    app = App(random.Random(1))
    app.ordered = ordered
    counted: Counter[tuple[int, int, bool, bool]] = Counter()
    for number in range(1_000):
        reply = app.reply(now, "/products/5", number, user)
        counted[reply.status, reply.size, reply.delay is None, reply.spoiled] += 1
    return app, counted


def test_an_origin_spoils_a_share_of_its_answers_and_tells_which() -> None:
    app, counted = replies(Ordered(Fault.ERRORS, 0.3, 5.0, 15.0))
    assert set(counted) == {(200, 2000, False, False), (500, 100, False, True)}
    assert 250 < counted[500, 100, False, True] < 350
    told = app.counts()
    assert (told["served"], told["last_request"], told["last_user"]) == (1_000, 10.0, "u")
    assert len(told["spoiled"]) == counted[500, 100, False, True]
    assert app.counts()["spoiled"] == []


@pytest.mark.parametrize(
    ("ordered", "expected"),
    [
        (Ordered(Fault.ERRORS, 1.0, 10.5, 15.0), (200, 2000, False, False)),  # not yet
        (Ordered(Fault.ERRORS, 1.0, 5.0, 10.0), (200, 2000, False, False)),  # no more
        (Ordered(Fault.HANG, 1.0, 5.0, 15.0), (0, 0, True, True)),
        (Ordered(Fault.EMPTY, 1.0, 5.0, 15.0), (200, 0, False, True)),
        (Ordered(Fault.SLOW, 1.0, 5.0, 15.0), (200, 2000, False, True)),
        (Ordered(Fault.BOT, 1.0, 5.0, 15.0, "u"), (500, 100, False, True)),
        (Ordered(Fault.BOT, 1.0, 5.0, 15.0, "v"), (200, 2000, False, False)),
    ],
)
def test_each_fault_is_what_it_is_called(ordered: Ordered, expected: tuple[int, int, bool, bool]) -> None:
    assert set(replies(ordered)[1]) == {expected}


def test_a_slow_origin_is_slower_by_200_ms() -> None:
    slow, healthy = App(random.Random(1)), App(random.Random(1))
    slow.ordered = Ordered(Fault.SLOW, 1.0, 0.0, 99.0)
    slow._rng, healthy._rng = random.Random(2), random.Random(2)
    longer, usual = slow.reply(1.0, "/", 1, "u").delay, healthy.reply(1.0, "/", 1, "u").delay
    assert (longer or 0.0) - (usual or 0.0) == pytest.approx(0.2)


async def test_an_origin_answers_on_a_connection() -> None:
    app = App(random.Random(1))
    server = await asyncio.get_running_loop().create_server(lambda: Connection("v2", app), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    ordered = Ordered(Fault.EMPTY, 1.0, 0.0, float("inf"))
    writer.write(f"GET {fault_path(ordered)} HTTP/1.1\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
    writer.write(b"GET /products/5 HTTP/1.1\r\nX-Number: 12\r\nX-User-Id: anna\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-App-Version: v2\r\n\r\n"
    told = app.counts()
    assert told["served"] == 1  # the order is no request
    assert [one[:2] for one in told["spoiled"]] == [(12, "anna")]
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


# The users.


async def requests_of(load: Load, count: int, answer: bytes) -> tuple[list[bytes], dict[str, object]]:
    """The heads of the first requests that a crowd sends, each answered so, and what it tells in the end."""
    heads: list[bytes] = []
    enough = asyncio.Event()
    serving: list[asyncio.Task[object] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                if len(heads) >= count:
                    enough.set()
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    crowd = Crowd(replace(load, port=server.sockets[0].getsockname()[1]))
    await crowd.begin()
    await enough.wait()
    crowd.end()
    for _ in range(10):  # connections that were accepted in this moment become tasks
        await asyncio.sleep(0)
    server.close()
    await asyncio.gather(*(task for task in serving if task is not None))
    return heads, crowd.counts()


async def test_heavy_users_send_most_and_good_answers_are_no_failures() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-App-Version: v1\r\n\r\n"
    heads, told = await requests_of(Load(0, seed=1, rate=5_000, users=50), 500, answer)
    users = Counter(head.partition(b"X-User-Id: ")[2].partition(b"\r\n")[0] for head in heads)
    assert users.most_common(1)[0][1] > 3 * 500 / 50
    assert told["failures"] == []
    numbers = [int(head.partition(b"X-Number: ")[2].partition(b"\r\n")[0]) for head in heads]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nX-App-Version: v2\r\n\r\n", 500),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),  # not the application's
        (b"no HTTP at all\r\n\r\n", 0),
    ],
)
async def test_the_bot_is_one_user_and_bad_answers_are_failures(answer: bytes, status: int) -> None:
    heads, told = await requests_of(Load(0, seed=1, rate=500, users=1, only="user-7", first=1000), 3, answer)
    assert all(b"X-User-Id: user-7\r\n" in head for head in heads)
    failures = told["failures"]
    assert isinstance(failures, list)
    assert failures[0][:2] == (1000, "user-7")
    assert failures[0][3] == status


# The figures.


def tally(*failures: list[object]) -> Tally:
    told = Tally()
    told.hear_origin("v1", {"spoiled": [], "served": 9_000, "last_request": 110.0})
    told.hear_origin("v2", {"spoiled": HURT, "served": 500, "last_request": 103.5})
    told.hear_load("users", {"sent": 9_500, "skipped": 2, "failures": list(failures)})
    return told


def course(*decisions: Decision) -> Course:
    return Course(75.0, 100.0, [Decision(75.0, "start", "started"), *decisions], served_before=400)


ROLLBACK = Decision(103.0, "rollback", "rolled back: 3/40")


def measured(name: str, told: Tally, happened: Course) -> Measurement:
    return measure(SCENARIOS[name], 1, told, happened, 60.0)


def test_delays_are_from_the_fault_and_users_count_once() -> None:
    one = measured("errors_50", tally([7, "anna", 101.4, 500]), course(ROLLBACK))
    assert (one.ending, one.right, one.false_rollback) == ("rolled_back", True, False)
    assert (one.decided_after, one.last_request) == (3.0, 3.5)
    assert (one.users_hurt, one.requests_hurt, one.strays, one.skipped) == (2, 3, 0, 2)
    assert one.canary_rate == 16.0
    assert one.story[1].at == 3.0


def test_a_failure_without_a_fault_is_a_stray_unless_the_origin_was_killed() -> None:
    told = tally([7, "anna", 101.4, 500], [50, "carl", 104.0, 502])
    assert measured("errors_50", told, course(ROLLBACK)).strays == 1
    killed = measured("down", told, course(ROLLBACK))
    assert (killed.strays, killed.users_hurt, killed.requests_hurt, killed.last_request) == (0, 3, 4, 4.0)


def test_a_rollback_outranks_the_pause_before_it() -> None:
    pause = Decision(102.0, "pause", "paused")
    one = measured("empty", tally(), course(pause, ROLLBACK))
    assert (one.ending, one.paused_after, one.decided_after, one.right) == ("rolled_back", 2.0, 3.0, True)
    one = measured("empty", tally(), course(pause))
    assert (one.ending, one.decided_after, one.last_request, one.right) == ("paused", 2.0, None, True)
    assert not measured("errors_5", tally(), course(pause)).right


def test_what_happens_before_the_fault_is_never_right() -> None:
    early = Decision(99.0, "rollback", "rolled back too soon")
    one = measured("errors_50", tally(), course(early))
    assert (one.early, one.right, one.false_rollback) == (True, False, True)
    assert measured("errors_50", tally(), Course(75.0, None, [early])).false_rollback


def test_a_canary_that_is_not_at_fault_must_be_promoted() -> None:
    promoted = Decision(190.0, "promoted", "promoted: v2 is stable now")
    assert measured("bot", tally(), course(promoted)).right
    assert measured("bot", tally(), course(ROLLBACK)).false_rollback
    nothing = measured("bot", tally(), course())
    assert (nothing.ending, nothing.right, nothing.false_rollback) == ("neither", False, False)
    healthy = measured("healthy", tally(), Course(75.0, None, [promoted]))
    assert (healthy.right, healthy.early, healthy.decided_after) == (True, False, 115.0)


# The report.


def test_a_row_has_the_spread_over_the_runs() -> None:
    one = measured("errors_50", tally(), course(ROLLBACK))
    other = replace(one, number=2, decided_after=1.0, last_request=1.2, users_hurt=4)
    false = replace(one, scenario="bot", right=False)
    table = rows([false, one, other])
    assert [row.scenario for row in table] == ["errors_50", "bot"]
    text = markdown(table, ["a machine."])
    assert (
        "| errors_50 | 2 of 2 | 2 rolled back | 2.0 (1.0..3.0) | 2.4 (1.2..3.5) | 3 (2..4) | 3 (3..3) | 16 (16..16) | 0 | 0 |"
        in text
    )
    assert "| bot | 0 of 1 | 1 rolled back |" in text
    assert table[1].false_rollbacks == 1
    assert sentences(table)[0] == "errors_50: 50 % of the canary's answers are 500. rolled back: 3/40"
    assert len(as_json([one, other], [], ["a machine."])["measurements"]) == 2
    assert line(false).startswith("NOT AS IT SHOULD: bot 1: rolled back, 3.0 s after the fault")
