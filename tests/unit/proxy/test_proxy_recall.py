"""The memory for heads: what comes from it is what a parse would give, and it does not grow."""

from __future__ import annotations

import pytest

from canaryproxy.http1.framing import frame_request
from canaryproxy.http1.head import HeadRules, MessageError, RequestLine, parse_request_block, parse_request_line
from canaryproxy.http1.response import ResponseHead, parse_response_head
from canaryproxy.proxy import recall as module
from canaryproxy.proxy.recall import Block, Line, Recall
from canaryproxy.routing.goals import goal_rule
from canaryproxy.routing.identity import Cookieless, Identity
from canaryproxy.routing.split import seat

RULES = HeadRules()
LINES = [b"GET / HTTP/1.1", b"HEAD /x HTTP/1.0", b"GET http://a/ HTTP/1.1", b"POST / HTTP/1.1", b"GET /", b"TRACE / HTTP/1.1"]
BLOCKS = [
    b"Host: a\r\n",
    b"",
    b"Host: a\r\nContent-Length: 3\r\n",
    b"Host: a\r\nTransfer-Encoding: chunked\r\n",
    b"Host: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n",
    b"Host: a\r\nExpect: y\r\n",
    b"Host : a\r\n",
]


@pytest.fixture
def recall() -> Recall:
    return Recall(RULES, None)


@pytest.mark.parametrize("raw_line", LINES)
@pytest.mark.parametrize("raw_block", BLOCKS)
def test_what_is_recalled_is_what_is_parsed(recall: Recall, raw_line: bytes, raw_block: bytes) -> None:
    for _ in range(2):
        line, block = recall.line(raw_line), recall.block(raw_block)
        parsed = parse_request_line(raw_line, RULES)
        assert (line.parsed if isinstance(line, Line) else line) == parsed
        fields = parse_request_block(raw_block, RULES)
        if isinstance(block, MessageError) or isinstance(fields, MessageError):
            assert block == fields
        elif isinstance(line, Line) and isinstance(parsed, RequestLine):
            assert block.fields.raw == fields.raw == raw_block
            assert block.fields.forward == fields.forward
            assert recall.framing(line, block) == frame_request(parsed, fields, RULES)


@pytest.mark.parametrize("raw_line", LINES)
@pytest.mark.parametrize("raw_block", BLOCKS)
def test_a_head_is_found_alike_the_first_time_and_again(recall: Recall, raw_line: bytes, raw_block: bytes) -> None:
    data = b"%b\r\n%b\r\n" % (raw_line, raw_block)
    first, last = recall.head(data, 0, None), None
    for following in (b"", b"GET /", data):
        found = recall.head(data + following, 0, last)
        assert found == first
        if found is not None and not isinstance(found, MessageError):
            last = found[1]
            assert found[2] == len(data)
            assert recall.head(data[:-1], 0, last) is None


def test_a_block_that_ends_as_the_last_one_is_another_block(recall: Recall) -> None:
    found = recall.head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, None)
    assert found is not None
    assert not isinstance(found, MessageError)
    longer = recall.head(b"GET / HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n", 0, found[1])
    assert longer is not None
    assert not isinstance(longer, MessageError)
    assert longer[1].fields.raw == b"X: y\r\nHost: a\r\n"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_same_response_head_means_another_thing_to_head(recall: Recall, method: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
    for asked in (b"GET", b"HEAD", method):
        line, parsed = recall.line(b"%b / HTTP/1.1" % asked), parse_response_head(raw, asked, RULES)
        assert isinstance(line, Line)
        assert isinstance(parsed, ResponseHead)
        found = recall.response(raw + b"\r\nbody", 0, line)
        assert found is not None
        assert not isinstance(found, MessageError)
        head, end = found
        assert (head.body, head.length, head.forward, end) == (parsed.body, parsed.length, parsed.forward, len(raw) + 2)


def test_errors_are_not_kept(recall: Recall) -> None:
    assert recall.line(b"bad") == recall.line(b"bad") == MessageError(400, "bad_request_line")
    get = recall.line(b"GET / HTTP/1.1")
    assert isinstance(get, Line)
    assert isinstance(recall.response(b"bad\r\n\r\n", 0, get), MessageError)
    assert recall.response(b"HTTP/1.1 200 OK\r\n", 0, get) is None
    assert list(recall._lines) == [b"GET / HTTP/1.1"]
    assert not recall._responses


def test_a_loop_is_found_every_time() -> None:
    recall = Recall(RULES, b"edge")
    for _ in range(2):
        assert recall.block(b"Host: a\r\nVia: 1.1 edge\r\n") == MessageError(508, "loop")


def test_a_user_is_found_by_the_rule_that_asks(recall: Recall) -> None:
    block = recall.block(b"Host: a\r\nX-User: anna\r\nCookie: uid=ben\r\n")
    assert isinstance(block, Block)
    by_header = Identity(b"x-user", b"uid", 60, Cookieless.STABLE)
    by_cookie = Identity(None, b"uid", 60, Cookieless.STABLE)
    assert [block.user(rule) for rule in (by_header, by_cookie, by_cookie, by_header)] == [b"anna", b"ben", b"ben", b"anna"]


def test_the_memory_is_bounded(recall: Recall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 100)
    for n in range(100):
        recall.line(b"GET /%d HTTP/1.1" % n)
        recall.block(b"Host: a\r\nX: %d\r\n" % n)
        assert 0 < sum(map(len, recall._lines)) <= 100
        assert 0 < sum(map(len, recall._blocks)) <= 100
    recall.line(b"GET /%b HTTP/1.1" % bytes(b"x" * 3000))
    assert all(len(raw) < 100 for raw in recall._lines)


def test_a_block_knows_its_user_s_seat_by_salt_and_key(recall: Recall) -> None:
    block = recall.block(b"Host: a\r\n")
    assert isinstance(block, Block)
    anna, ben = b"anna", b"ben"
    for salt, key in ((1, anna), (1, anna), (2, anna), (2, ben), (1, ben), (1, anna)):
        assert block.seat(salt, key) == seat(salt, key)
    assert block.seat(1, anna) is block.seat(1, anna), "one hash for equal bytes"


def test_a_line_knows_the_goals_it_may_be_by_the_rules_of_each_route(recall: Recall) -> None:
    line = recall.line(b"POST /orders HTTP/1.1")
    assert isinstance(line, Line)
    orders, baskets = (goal_rule("POST", "/orders", "2xx"),), (None, goal_rule("POST", "/", "2xx"))
    assert [line.goals(rules) for rules in (orders, baskets, orders)] == [1, 2, 1]
