"""Heads that go on: H3-H6, F13, and that only the request line is new for an equal block."""

from __future__ import annotations

from itertools import islice

import pytest

from canaryproxy.http1.forward import Hop, is_loop, request_head, request_ids, request_line, request_lines, response_head
from canaryproxy.http1.framing import RequestFraming, frame_request
from canaryproxy.http1.head import HeadRules, RequestBlock, RequestLine, parse_request_block, parse_request_line
from canaryproxy.http1.response import ResponseHead, parse_response_head

HOP: Hop = {"variant": b"canary", "peer": b"192.0.2.1", "port": b"8080", "upstream_authority": b"10.0.0.1:9000"}
OURS = b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 8080\r\nX-Canary-Variant: canary\r\n"
HOST = b"Host: shop.example"


def parse(
    *lines: bytes, start: bytes = b"GET /a HTTP/1.1", trusted: bool = False
) -> tuple[RequestLine, RequestBlock, RequestFraming]:
    rules = HeadRules(trust_forwarded=trusted)
    line = parse_request_line(start, rules)
    block = parse_request_block(b"".join(each + b"\r\n" for each in lines), rules)
    assert isinstance(line, RequestLine)
    assert isinstance(block, RequestBlock)
    framing = frame_request(line, block, rules)
    assert isinstance(framing, RequestFraming), framing
    return line, block, framing


def lines_for(*lines: bytes, start: bytes = b"GET /a HTTP/1.1", hop: Hop = HOP) -> list[bytes]:
    head = request_head(*parse(*lines, start=start, trusted=hop.get("trusted", False)), **hop)
    assert head.endswith(b"\r\n\r\n")
    return head.split(b"\r\n")[1:-2]


def test_whole_head() -> None:
    line, block, framing = parse(b"A: b", HOST, b"Connection: close", b"C:d", start=b"GET /a?b HTTP/1.0")
    head = request_head(line, block, framing, **HOP)
    assert (
        head == b"GET /a?b HTTP/1.1\r\nA: b\r\nHost: shop.example\r\nC:d\r\nX-Forwarded-Host: shop.example\r\n" + OURS + b"\r\n"
    )
    assert head == request_line(line) + request_lines(block, framing, **HOP)


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        pytest.param([b"Content-Length: 007"], b"Content-Length: 7", id="F13-length"),
        pytest.param([b"Content-Length: 0"], b"Content-Length: 0", id="F13-zero"),
        pytest.param([b"transfer-encoding: CHUNKED"], b"Transfer-Encoding: chunked", id="F15-chunked"),
        pytest.param([], b"X-Canary-Variant: canary", id="none"),
        pytest.param([b"TE: trailers, gzip"], b"TE: trailers", id="H2-te"),
    ],
)
def test_framing_is_written_anew(lines: list[bytes], last: bytes) -> None:
    assert lines_for(HOST, *lines, start=b"POST / HTTP/1.1")[-1] == last


def test_te_is_named_by_connection() -> None:
    assert lines_for(HOST, b"TE: trailers")[-2:] == [b"Connection: TE", b"TE: trailers"]


class TestHost:
    """H5, F9, F10."""

    LINES = (b"A: b", b"hOST:  shop.example ", b"X-Host: x")

    def test_preserved_byte_for_byte(self) -> None:
        assert lines_for(*self.LINES)[:4] == [*self.LINES, b"X-Forwarded-Host: shop.example"]

    @pytest.mark.parametrize(("choice", "sent"), [("upstream", b"10.0.0.1:9000"), ("app.internal", b"app.internal")])
    def test_replaced_in_its_place(self, choice: str, sent: bytes) -> None:
        hop: Hop = {**HOP, "host_header": choice}
        assert lines_for(*self.LINES, hop=hop)[:4] == [b"A: b", b"Host: " + sent, b"X-Host: x", b"X-Forwarded-Host: shop.example"]
        assert lines_for(*self.LINES[1:], hop=hop)[0] == b"Host: " + sent

    def test_absolute_form_replaces_it(self) -> None:
        lines = lines_for(*self.LINES, start=b"GET http://other/a HTTP/1.1")
        assert lines[:4] == [b"A: b", b"Host: other", b"X-Host: x", b"X-Forwarded-Host: other"]

    def test_http_1_0_without_one(self) -> None:
        lines = lines_for(b"A: b", start=b"GET / HTTP/1.0")
        assert lines[:3] == [b"Host: 10.0.0.1:9000", b"A: b", b"X-Forwarded-For: 192.0.2.1"]


class TestForwardingFields:
    """H4."""

    CAME = (
        HOST,
        b"X-Forwarded-For: 1.1.1.1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: public.example",
        b"X-Forwarded-Port: 443",
        b"X-Forwarded-For: 2.2.2.2",
        b"Forwarded: for=1.1.1.1",
        b"X-Real-IP: 1.1.1.1",
    )

    def test_a_strangers_are_replaced(self) -> None:
        assert lines_for(*self.CAME) == lines_for(HOST)

    def test_a_trusted_peers_are_extended(self) -> None:
        assert lines_for(*self.CAME, hop={**HOP, "trusted": True}) == [
            HOST,
            b"Forwarded: for=1.1.1.1",
            b"X-Real-IP: 1.1.1.1",
            b"X-Forwarded-Host: public.example",
            b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.1",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Port: 443",
            b"X-Canary-Variant: canary",
            b"Forwarded: for=192.0.2.1;proto=http",
        ]

    def test_the_last_of_two_is_the_trusted_peers_own(self) -> None:
        came = (b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil", b"X-Forwarded-Port: 1")
        own = (b"X-Forwarded-Proto: http", b"X-Forwarded-Host: public", b"X-Forwarded-Port: 2")
        hop: Hop = {**HOP, "trusted": True}
        assert lines_for(HOST, *came, *own, hop=hop) == lines_for(HOST, *own, hop=hop)

    def test_a_trusted_peer_that_says_nothing(self) -> None:
        assert lines_for(HOST, hop={**HOP, "trusted": True}) == lines_for(HOST)

    def test_ipv6_in_forwarded_is_quoted(self) -> None:
        lines = lines_for(HOST, b"Forwarded: for=x", hop={**HOP, "trusted": True, "peer": b"2001:db8::1", "proto": b"https"})
        assert b'Forwarded: for="[2001:db8::1]";proto=https' in lines


class TestRequestId:
    """H10."""

    def test_a_strangers_is_replaced(self) -> None:
        line, block, framing = parse(HOST, b"X-Request-ID: forged")
        head = request_head(line, block, framing, request_id=b"0a-1", **HOP)
        assert head == request_line(line) + request_lines(block, framing, **HOP)[:-2] + b"X-Request-ID: 0a-1\r\n\r\n"
        assert head.lower().count(b"x-request-id") == 1

    def test_a_trusted_peers_stands(self) -> None:
        line, block, framing = parse(HOST, b"x-request-id: of-the-edge", trusted=True)
        assert block.request_id == b"of-the-edge"
        hop: Hop = {**HOP, "trusted": True}
        head = request_head(line, block, framing, request_id=block.request_id, **hop)
        assert head.endswith(b"\r\nX-Request-ID: of-the-edge\r\n\r\n")
        assert head.lower().count(b"x-request-id") == 1

    def test_ours_are_new_and_would_be_believed(self) -> None:
        made = list(islice(request_ids(b"0123456789abcdef"), 300))
        assert made[0] == b"0123456789abcdef00000001"
        assert len(set(made)) == 300
        assert made == sorted(made)
        for each in made:
            assert parse(HOST, b"X-Request-ID: " + each, trusted=True)[1].request_id == each


class TestSplitting:
    """H12: no value of ours can end a line, whatever was configured or computed."""

    EVIL = b"x\r\nEvil: 1\r\n\r\nGET / HTTP/1.1\n\0"

    @pytest.mark.parametrize(
        "hop",
        [
            {"variant": EVIL},
            {"peer": EVIL},
            {"port": EVIL},
            {"proto": EVIL},
            {"via": EVIL},
            {"upgrade": EVIL},
            {"upstream_authority": EVIL, "host_header": "upstream"},
            {"host_header": EVIL.decode()},
            {"peer": EVIL, "trusted": True},
        ],
        ids="-".join,
    )
    @pytest.mark.parametrize("start", [b"GET / HTTP/1.1", b"GET / HTTP/1.0"], ids=["1.1", "1.0"])
    def test_request(self, hop: Hop, start: bytes) -> None:
        lines = lines_for(HOST, b"Forwarded: for=x", start=start, hop={**HOP, **hop})
        assert not any(line.startswith((b"Evil", b"GET")) for line in lines)
        assert all(line.isascii() and line and not set(line) & set(b"\r\n\0") for line in lines)
        assert any(b"xEvil: 1GET / HTTP/1.1" in line for line in lines)

    @pytest.mark.parametrize("extra", [b"A: b\nC: d\r\n", b"A: b\rC\r\n", b"A: b", b"A: \0\r\n"])
    def test_response(self, extra: bytes) -> None:
        head = response(b"HTTP/1.1 200 OK", b"Date: then")
        assert response_head(head, client_minor=1, keep_alive=True, date=b"now", extra=extra) == head.forward + b"\r\n"


class TestVia:
    """H3."""

    def test_added_with_the_received_version(self) -> None:
        hop: Hop = {**HOP, "via": b"edge"}
        assert lines_for(HOST, b"Via: 1.1 a", hop=hop)[-1] == b"Via: 1.1 edge"
        assert lines_for(HOST, b"Via: 1.1 a", hop=hop)[1] == b"Via: 1.1 a"
        assert lines_for(HOST, start=b"GET / HTTP/1.0", hop=hop)[-1] == b"Via: 1.0 edge"

    def test_loop(self) -> None:
        _, block, _ = parse(HOST, b"Via: 1.1 a (edge), HTTP/1.1", b"Via: 1.0 EDGE (x)")
        assert is_loop(block, b"edge")
        assert is_loop(block, b"a")
        assert not is_loop(block, b"b")
        assert not is_loop(parse(HOST)[1], b"edge")


def response(*lines: bytes) -> ResponseHead:
    head = parse_response_head(b"".join(line + b"\r\n" for line in lines), b"GET", HeadRules())
    assert isinstance(head, ResponseHead)
    return head


class TestResponse:
    def test_h6_date_is_added_only_where_it_is_missing(self) -> None:
        plain = response(b"HTTP/1.1 200 OK", b"A: b")
        dated = response(b"HTTP/1.1 200 OK", b"date: then")
        assert (
            response_head(plain, client_minor=1, keep_alive=True, date=b"now") == b"HTTP/1.1 200 OK\r\nA: b\r\nDate: now\r\n\r\n"
        )
        assert response_head(dated, client_minor=1, keep_alive=True, date=b"now") == b"HTTP/1.1 200 OK\r\ndate: then\r\n\r\n"

    @pytest.mark.parametrize(
        ("client_minor", "keep_alive", "end"),
        [
            (1, True, b"X: y"),
            (1, False, b"Connection: close"),
            (0, True, b"Connection: keep-alive"),
            (0, False, b"Connection: close"),
        ],
    )
    def test_connection(self, client_minor: int, keep_alive: bool, end: bytes) -> None:
        head = response(b"HTTP/1.1 200 OK", b"Date: d", b"Connection: keep-alive")
        sent = response_head(head, client_minor=client_minor, keep_alive=keep_alive, date=b"now", extra=b"X: y\r\n")
        assert sent.endswith(end + b"\r\n\r\n")
        assert sent.count(b"Connection") == (end != b"X: y")

    def test_r3_chunked_by_us(self) -> None:
        head = response(b"HTTP/1.0 200 OK", b"Date: d")
        sent = response_head(head, client_minor=1, keep_alive=True, date=b"now", chunk_body=True)
        assert sent == b"HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n"

    def test_interim_response_takes_nothing_of_ours(self) -> None:
        head = response(b"HTTP/1.1 103 Early Hints", b"Link: </a>")
        sent = response_head(head, client_minor=1, keep_alive=False, date=b"now", extra=b"Set-Cookie: a\r\n")
        assert sent == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
