"""Response heads: R1-R3, R6, R8, R9, and H1, H2, H7 in that direction."""

from __future__ import annotations

import time

import pytest

from canaryproxy.http1.framing import Body
from canaryproxy.http1.head import HeadRules, MessageError
from canaryproxy.http1.response import ResponseHead, find_response_head, parse_response_head, switches_protocol

RULES = HeadRules()
OK = b"HTTP/1.1 200 OK"


def parse(*lines: bytes, method: bytes = b"GET") -> ResponseHead:
    head = parse_response_head(b"".join(line + b"\r\n" for line in lines), method, RULES)
    assert isinstance(head, ResponseHead), head
    return head


@pytest.mark.parametrize(
    ("method", "lines", "body", "length", "reusable"),
    [
        pytest.param(b"GET", [OK, b"Content-Length: 5"], Body.LENGTH, 5, True, id="length"),
        pytest.param(b"GET", [OK, b"Content-Length: 0"], Body.NONE, 0, True, id="length-0"),
        pytest.param(b"GET", [OK, b"Transfer-Encoding: Chunked"], Body.CHUNKED, 0, True, id="chunked"),
        pytest.param(b"GET", [OK], Body.UNTIL_CLOSE, 0, False, id="R3-until-close"),
        pytest.param(b"GET", [b"HTTP/1.0 200 OK", b"Content-Length: 5"], Body.LENGTH, 5, False, id="1.0"),
        pytest.param(
            b"GET",
            [b"HTTP/1.0 200 OK", b"Content-Length: 5", b"Connection: Keep-Alive"],
            Body.LENGTH,
            5,
            True,
            id="1.0-keep-alive",
        ),
        pytest.param(b"GET", [OK, b"Content-Length: 5", b"Connection: close"], Body.LENGTH, 5, False, id="close"),
        pytest.param(
            b"GET",
            [OK, b"Content-Length: 5", b"Connection: keep-alive", b"Connection: x, Close"],
            Body.LENGTH,
            5,
            False,
            id="close-2",
        ),
        pytest.param(b"HEAD", [OK, b"Content-Length: 5"], Body.NONE, 0, True, id="R2-head"),
        pytest.param(b"HEAD", [OK, b"Transfer-Encoding: chunked"], Body.NONE, 0, True, id="R2-head-chunked"),
        pytest.param(b"HEAD", [OK], Body.NONE, 0, True, id="R2-head-bare"),
        pytest.param(b"head", [OK, b"Content-Length: 5"], Body.LENGTH, 5, True, id="R2-another-method"),
        pytest.param(b"GET", [b"HTTP/1.1 304 Not Modified", b"Content-Length: 5"], Body.NONE, 0, True, id="R2-304"),
        pytest.param(b"GET", [b"HTTP/1.1 204 No Content"], Body.NONE, 0, True, id="R2-204"),
        pytest.param(b"GET", [b"HTTP/1.1 204 No Content", b"Content-Length: 5"], Body.NONE, 0, False, id="R2-204-stray-length"),
        pytest.param(
            b"GET", [b"HTTP/1.1 204 No Content", b"Transfer-Encoding: chunked"], Body.NONE, 0, False, id="R2-204-stray-encoding"
        ),
        pytest.param(b"GET", [b"HTTP/1.1 103 Early Hints", b"Link: </a>"], Body.NONE, 0, True, id="R2-103"),
        pytest.param(b"GET", [b"HTTP/1.1 101 Switching Protocols"], Body.NONE, 0, False, id="R6-101"),
    ],
)
def test_body(method: bytes, lines: list[bytes], body: Body, length: int, reusable: bool) -> None:
    head = parse(*lines, method=method)
    assert (head.body, head.length, head.reusable) == (body, length, reusable)


REFUSED: dict[str, list[bytes]] = {
    "R1-length": [OK, b"Content-Length: x"],
    "R1-length-twice": [OK, b"Content-Length: 5", b"Content-Length: 5"],
    "R1-length-list": [OK, b"Content-Length: 5, 5"],
    "R1-length-of-head": [OK, b"Content-Length: -5"],
    "R1-length-and-encoding": [OK, b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    "R1-encoding": [OK, b"Transfer-Encoding: gzip, chunked"],
    "R1-encoding-twice": [OK, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "R1-encoding-in-1.0": [b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"],
    "R1-obs-fold": [OK, b"A: b", b" c"],
    "R1-space-before-colon": [OK, b"A : b"],
    "R1-no-colon": [OK, b"A"],
    "R1-bare-lf": [OK, b"A: b\nC: d"],
    "R1-bare-cr": [OK, b"A: b\rC: d"],
    "R1-nul": [OK, b"A: \0"],
    "R1-nothing": [],
    "R8-fields": [OK, *[b"A: b"] * 201],
    "R8-size": [OK, b"A: " + b"b" * 65536],
    "R9-099": [b"HTTP/1.1 099 x"],
    "R9-1000": [b"HTTP/1.1 1000 x"],
    "R9-20": [b"HTTP/1.1 20 x"],
    "R9-sign": [b"HTTP/1.1 +20 x"],
    "R9-word": [b"HTTP/1.1 OK"],
    "R9-two-sp": [b"HTTP/1.1  200 OK"],
    "R9-2.0": [b"HTTP/2.0 200 OK"],
    "R9-0.9": [b"<html>"],
    "R9-icy": [b"ICY 200 OK"],
    "R9-ctl": [b"HTTP/1.1 200 O\x01K"],
}


@pytest.mark.parametrize("lines", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("method", [b"GET", b"HEAD"], ids=["GET", "HEAD"])
def test_refused(lines: list[bytes], method: bytes) -> None:
    head = parse_response_head(b"".join(line + b"\r\n" for line in lines), method, RULES)
    assert isinstance(head, MessageError)
    assert head.status == 502
    assert head.reason.startswith("upstream_")


@pytest.mark.parametrize(
    ("line", "status", "minor", "forward"),
    [
        pytest.param(OK, 200, 1, b"HTTP/1.1 200 OK\r\n", id="common"),
        pytest.param(b"HTTP/1.0 200 Fine", 200, 0, b"HTTP/1.1 200 Fine\r\n", id="R9-1.0"),
        pytest.param(b"HTTP/1.1 200", 200, 1, b"HTTP/1.1 200 \r\n", id="R9-no-reason-no-sp"),
        pytest.param(b"HTTP/1.1 200 ", 200, 1, b"HTTP/1.1 200 \r\n", id="R9-no-reason"),
        pytest.param(b"HTTP/1.1 799 \xc3\xa9 x", 799, 1, b"HTTP/1.1 799 \xc3\xa9 x\r\n", id="R9-799"),
        pytest.param(b"HTTP/1.1 999 x", 999, 1, b"HTTP/1.1 999 x\r\n", id="R9-999"),
    ],
)
def test_r9_status_line(line: bytes, status: int, minor: int, forward: bytes) -> None:
    head = parse(line)
    assert (head.status, head.minor, head.forward) == (status, minor, forward)


class TestForward:
    def test_h7_order_case_and_duplicates_stay(self) -> None:
        lines = [OK, b"sErver:x", b"Set-Cookie: a=1", b"content-length:  5", b"Set-Cookie: b=2", b"Date: now", b"X_y: \xe9"]
        head = parse(*lines)
        assert head.forward == b"".join(line + b"\r\n" for line in lines)
        assert head.has_date
        assert (head.get(b"server"), head.joined(b"set-cookie")) == (b"x", b"a=1, b=2")

    def test_h1_h2_hop_by_hop_is_cut(self) -> None:
        head = parse(
            OK,
            b"Connection: X-Own, Date, Content-Length",
            b"X-Own: 1",
            b"Keep-Alive: timeout=5",
            b"Upgrade: h2",
            b"Trailer: x",
            b"Proxy-Connection: x",
            b"TE: x",
            b"Transfer-Encoding: chunked",
            b"Proxy-Authenticate: Basic",
            b"Date: now",
        )
        assert head.forward == b"HTTP/1.1 200 OK\r\nDate: now\r\n"

    def test_f13_length_is_written_anew_where_it_is_odd(self) -> None:
        assert parse(OK, b"Content-Length: 007", b"A: b").forward == b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 7\r\n"
        assert parse(OK, b"Content-Length: 00").forward == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"

    def test_r2_length_of_head_and_304_goes_on(self) -> None:
        assert b"Content-Length: 5\r\n" in parse(OK, b"Content-Length: 5", method=b"HEAD").forward
        assert b"Content-Length: 5\r\n" in parse(b"HTTP/1.1 304 Not Modified", b"Content-Length: 5").forward

    @pytest.mark.parametrize("line", [b"HTTP/1.1 204 No Content", b"HTTP/1.1 103 Early Hints"], ids=["R2-204", "R2-103"])
    def test_r2_no_length_where_none_may_be(self, line: bytes) -> None:
        assert parse(line, b"Content-Length: 5").forward == line + b"\r\n"


def test_r6_switching_protocols() -> None:
    granted = parse(b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: WebSocket", b"A: b")
    assert granted.forward == b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n"
    assert switches_protocol(granted, b"websocket")
    assert not switches_protocol(granted, b"h2c")
    assert not switches_protocol(granted, None)
    assert not switches_protocol(parse(b"HTTP/1.1 101 Switching Protocols"), b"websocket")
    assert not switches_protocol(parse(OK, b"Upgrade: websocket"), b"websocket")


@pytest.mark.parametrize("lines", [[b"Upgrade: websocket", b"Upgrade: h2c"], [b"Upgrade: websocket", b"upgrade: websocket"]])
def test_r6_one_protocol_is_switched_to(lines: list[bytes]) -> None:
    head = parse_response_head(b"HTTP/1.1 101 x\r\n" + b"".join(line + b"\r\n" for line in lines), b"GET", RULES)
    assert head == MessageError(502, "upstream_bad_upgrade")


def test_h10_our_request_id_is_the_only_one() -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Request-ID: theirs\r\nX_Request_ID: passes\r\nA: b\r\n"
    hidden = parse_response_head(head, b"GET", RULES)
    shown = parse_response_head(head, b"GET", HeadRules(expose_request_id=True))
    assert isinstance(hidden, ResponseHead)
    assert isinstance(shown, ResponseHead)
    assert hidden.forward == head
    assert shown.forward == b"HTTP/1.1 200 OK\r\nX_Request_ID: passes\r\nA: b\r\n"


@pytest.mark.parametrize("status", [100, 102, 103, 199], ids="R5-{}".format)
def test_interim_heads(status: int) -> None:
    head = parse(b"HTTP/1.1 %d x" % status, b"Link: </a>", b"Connection: X-A", b"X-A: b", b"Content-Length: 3")
    assert (head.status, head.body, head.forward) == (status, Body.NONE, b"HTTP/1.1 %d x\r\nLink: </a>\r\n" % status)


class TestFindHead:
    HEAD = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"

    def test_finds_the_end(self) -> None:
        assert find_response_head(self.HEAD + b"body", RULES) == len(self.HEAD)
        for cut in range(len(self.HEAD)):
            assert find_response_head(self.HEAD[:cut], RULES) is None
            assert find_response_head(self.HEAD[:cut], RULES, seen=max(cut - 1, 0)) is None
            assert find_response_head(self.HEAD, RULES, seen=cut) == len(self.HEAD)

    def test_r1_hopeless_before_its_end(self) -> None:
        assert find_response_head(b"HTTP/1.1 200 OK\nA: b\n\n", RULES) == MessageError(502, "upstream_bad_head")

    def test_r8_limit_with_and_without_its_end(self) -> None:
        too_large = MessageError(502, "upstream_head_too_large")
        rules = HeadRules(response_head=100)
        head = b"HTTP/1.1 200 OK\r\nA: " + b"b" * 76 + b"\r\n\r\n"
        assert find_response_head(head, rules) == len(head) == 100
        assert find_response_head(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 77 + b"\r\n\r\n", rules) == too_large
        assert find_response_head(b"a" * 101, rules) == too_large


def test_linear_time() -> None:
    for data in (b"a" * 65_000, b"a\r\n" * 21_000, b"HTTP/1.1 200 " + b" " * 65_000 + b"\x01", b"\r" * 65_000):
        started = time.process_time()
        assert isinstance(parse_response_head(data + b"\r\n", b"GET", RULES), MessageError)
        assert time.process_time() - started < 0.05
