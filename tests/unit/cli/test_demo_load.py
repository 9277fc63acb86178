"""The demo's users: what they make of an answer, and what they count."""

from __future__ import annotations

import random

import pytest

from canaryproxy.cli.demo.load import Answer, Sent, Users, parse_answer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-App-Version: v2\r\n"


def test_an_answer_whole_and_byte_by_byte() -> None:
    message = HEAD + b"\r\nok"
    assert parse_answer(message) == (Answer(200, "v2"), b"", True)
    assert all(parse_answer(message[:end]) is None for end in range(len(message)))


def test_an_answer_of_the_proxy_closes_and_has_no_version() -> None:
    message = b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert parse_answer(message) == (Answer(504, ""), b"", False)


@pytest.mark.parametrize("garbage", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n"])
def test_what_is_no_answer_is_an_error(garbage: bytes) -> None:
    with pytest.raises((ValueError, KeyError, IndexError)):
        parse_answer(garbage)


async def test_all_but_a_200_of_the_app_has_failed_and_is_told_once() -> None:
    async def connect(_users: Users) -> None:
        raise AssertionError

    users = Users(connect, random.Random(1))
    answers = (Answer(200, "v1"), Answer(500, "v2"), Answer(502), Answer(0), Answer(200))
    for number, answer in enumerate(answers):
        users.outstanding += 1
        users.note(Sent(number, "a", 0.0), answer)
    told = users.counts()
    assert users.outstanding == 0
    assert [(number, version, status) for number, _, _, version, status in told["failures"]] == [
        (1, "v2", 500),
        (2, "", 502),
        (3, "", 0),
        (4, "", 200),
    ]
    assert {version: lately["answers"] for version, lately in told["lately"].items()} == {"v1": 1, "v2": 1}
    assert users.counts()["failures"] == []


async def test_a_proxy_that_refuses_connections_makes_failures_not_an_end() -> None:
    async def refuse(_users: Users) -> None:
        raise ConnectionRefusedError

    users = Users(refuse, random.Random(1), rate=100_000)
    looks = iter((False, False, True))
    await users.keep_sending(lambda: next(looks))
    told = users.counts()
    assert len(told["failures"]) == told["sent"] > 0
    assert users.outstanding == 0
