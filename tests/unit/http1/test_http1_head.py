"""Request lines and header blocks: rules F1-F15, H1-H8 of docs/architecture.md."""

from __future__ import annotations

import time

import pytest

from canaryproxy.http1.head import (
    HeadRules,
    MessageError,
    RawHead,
    RequestBlock,
    RequestLine,
    find_request_head,
    parse_request_block,
    parse_request_line,
)

RULES = HeadRules()


def block(*lines: bytes, rules: HeadRules = RULES) -> RequestBlock:
    parsed = parse_request_block(b"".join(line + b"\r\n" for line in lines), rules)
    assert isinstance(parsed, RequestBlock), parsed
    return parsed


def block_error(*lines: bytes, rules: HeadRules = RULES) -> tuple[int, str]:
    parsed = parse_request_block(b"".join(line + b"\r\n" for line in lines), rules)
    assert isinstance(parsed, MessageError)
    return parsed.status, parsed.reason


class TestFindHead:
    HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

    def test_takes_the_first_of_two(self) -> None:
        assert find_request_head(self.HEAD * 2, RULES) == RawHead(b"GET / HTTP/1.1", b"Host: a\r\n", len(self.HEAD))

    def test_without_fields(self) -> None:
        assert find_request_head(b"GET / HTTP/1.0\r\n\r\nx", RULES) == RawHead(b"GET / HTTP/1.0", b"", 18)

    @pytest.mark.parametrize("empty_lines", [1, 2, 32], ids="F1-{}-empty-lines".format)
    def test_skips_empty_lines_before(self, empty_lines: int) -> None:
        found = find_request_head(b"\r\n" * empty_lines + self.HEAD, RULES)
        assert found == RawHead(b"GET / HTTP/1.1", b"Host: a\r\n", 2 * empty_lines + len(self.HEAD))

    def test_f1_endless_empty_lines_are_no_request(self) -> None:
        found = find_request_head(b"\r\n" * 100, RULES)
        assert isinstance(found, RawHead)
        assert isinstance(parse_request_line(found.line, RULES), MessageError)

    def test_every_beginning_is_incomplete(self) -> None:
        data = b"\r\n" + self.HEAD
        for cut in range(len(data)):
            assert find_request_head(data[:cut], RULES) is None
            assert find_request_head(data[:cut], RULES, seen=max(cut - 1, 0)) is None
            assert find_request_head(data, RULES, seen=cut) == find_request_head(data, RULES)

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nX: a\rb",
            b"\n\nGET",
            b"GET / HTTP/1.1\r\nX: \0",
            b"\x16\x03\x01\x02\0\x01\0",
        ],
        ids=["F1-LF", "F1-LF-field", "F1-CR", "F1-LF-first", "F7-NUL", "TLS-on-a-plain-port"],
    )
    def test_hopeless_before_its_end(self, data: bytes) -> None:
        whole = find_request_head(data, RULES)
        assert whole == MessageError(400, "bad_byte")
        seen = 0
        for size in range(1, len(data) + 1):
            found = find_request_head(data[:size], RULES, seen)
            seen = size
            if found is not None:
                break
        assert found == whole

    def test_f2_line_limit_with_and_without_its_end(self) -> None:
        rules = HeadRules(request_line=300)
        line = b"GET /" + b"a" * 286 + b" HTTP/1.1"
        assert len(line) == 300
        assert isinstance(find_request_head(line + b"\r\n\r\n", rules), RawHead)
        assert find_request_head(line + b"\r", rules) is None
        too_long = MessageError(414, "request_line_too_long")
        assert find_request_head(line + b"a\r\n\r\n", rules) == too_long
        assert find_request_head(line + b"ab", rules) == too_long
        assert parse_request_line(line + b"a", rules) == too_long

    def test_empty_lines_before_do_not_count(self) -> None:
        """Else it would depend on the cuts: whole such a head was taken, in pieces refused."""
        data = b"\r\n" * 32 + self.HEAD
        rules = HeadRules(head=len(self.HEAD), request_line=14)
        whole = find_request_head(data, rules)
        assert isinstance(whole, RawHead)
        for cut in range(len(data)):
            assert find_request_head(data[:cut], rules) is None
            assert find_request_head(data[:cut], rules, seen=max(cut - 1, 0)) is None

    def test_head_limit_with_and_without_its_end(self) -> None:
        rules = HeadRules(head=1000)
        head = self.HEAD[:-2] + b"X: " + b"a" * (1000 - len(self.HEAD) - 5) + b"\r\n\r\n"
        assert len(head) == 1000
        assert isinstance(find_request_head(head, rules), RawHead)
        too_large = MessageError(431, "head_too_large")
        assert find_request_head(head[:-4] + b"a\r\n\r\n", rules) == too_large
        assert find_request_head(head[:-4] + b"a" * 5, rules) == too_large
        assert parse_request_block(b"X: " + b"a" * 1000 + b"\r\n", rules) == too_large


LINES: dict[str, tuple[bytes, RequestLine | tuple[int, str]]] = {
    "plain": (b"GET /a?b=c HTTP/1.1", RequestLine(b"GET", b"/a?b=c", 1, None)),
    "F2-no-version": (b"GET /", (400, "bad_request_line")),
    "F2-empty": (b"", (400, "bad_request_line")),
    "F2-two-sp": (b"GET  / HTTP/1.1", (400, "bad_request_line")),
    "F2-trailing-sp": (b"GET / HTTP/1.1 ", (400, "bad_request_line")),
    "F2-tab": (b"GET\t/ HTTP/1.1", (400, "bad_request_line")),
    "F2-leading-sp": (b" GET / HTTP/1.1", (400, "bad_request_line")),
    "F3-1.0": (b"GET / HTTP/1.0", RequestLine(b"GET", b"/", 0, None)),
    "F3-1.9": (b"GET / HTTP/1.9", RequestLine(b"GET", b"/", 1, None)),
    "F3-0.9": (b"GET / HTTP/0.9", (400, "bad_version")),
    "F3-2.0": (b"PRI * HTTP/2.0", (505, "unsupported_version")),
    "F3-1.10": (b"GET / HTTP/1.10", (400, "bad_request_line")),
    "F3-lower": (b"GET / http/1.1", (400, "bad_request_line")),
    "F3-newline": (b"GET / HTTP/1.1\n", (400, "bad_request_line")),
    "F4-unknown": (b"M-SEARCH~ / HTTP/1.1", RequestLine(b"M-SEARCH~", b"/", 1, None)),
    "F4-no-token": (b"GE(T / HTTP/1.1", (400, "bad_request_line")),
    "F10-absolute": (b"GET http://a:8080/b?c HTTP/1.1", RequestLine(b"GET", b"/b?c", 1, b"a:8080")),
    "F10-https": (b"GET HTTPS://a/ HTTP/1.1", RequestLine(b"GET", b"/", 1, b"a")),
    "F10-no-path": (b"GET http://a HTTP/1.1", RequestLine(b"GET", b"/", 1, b"a")),
    "F10-only-query": (b"GET http://a?b HTTP/1.1", RequestLine(b"GET", b"/?b", 1, b"a")),
    "F10-options": (b"OPTIONS http://a HTTP/1.1", RequestLine(b"OPTIONS", b"*", 1, b"a")),
    "F10-userinfo": (b"GET http://u@a/ HTTP/1.1", (400, "bad_target")),
    "F10-no-authority": (b"GET http:///a HTTP/1.1", (400, "bad_target")),
    "F10-other-scheme": (b"GET ftp://a/ HTTP/1.1", (400, "bad_target")),
    "F11-star": (b"OPTIONS * HTTP/1.1", RequestLine(b"OPTIONS", b"*", 1, None)),
    "F11-star-get": (b"GET * HTTP/1.1", (400, "bad_target")),
    "F11-fragment": (b"GET /a#b HTTP/1.1", (400, "bad_target")),
    "F11-absolute-fragment": (b"GET http://a/#b HTTP/1.1", (400, "bad_target")),
    "F11-8-bit": (b"GET /\xc3\xa9 HTTP/1.1", (400, "bad_target")),
    "F11-ctl": (b"GET /\x01 HTTP/1.1", (400, "bad_target")),
    "F11-del": (b"GET /\x7f HTTP/1.1", (400, "bad_target")),
    "F11-relative": (b"GET a HTTP/1.1", (400, "bad_target")),
    "F11-authority-form": (b"GET a:443 HTTP/1.1", (400, "bad_target")),
    "F12-exact": (b"GET //./..//%2e%2F\\a;b?<>|^` HTTP/1.1", RequestLine(b"GET", b"//./..//%2e%2F\\a;b?<>|^`", 1, None)),
}


@pytest.mark.parametrize(("line", "expected"), LINES.values(), ids=LINES.keys())
def test_request_line(line: bytes, expected: RequestLine | tuple[int, str]) -> None:
    assert parse_request_line(line, RULES) == expected


REFUSED_BLOCKS: dict[str, tuple[int, str, list[bytes]]] = {
    "F1-bare-lf": (400, "bad_header", [b"A: b\nC: d"]),
    "F1-lf-cr": (400, "bad_header", [b"A: b\n\rC: d"]),
    "F1-cr-lf-apart": (400, "bad_header", [b"A: b\rC: d\nE: f"]),
    "F1-blank-line": (400, "bad_header_name", [b"A: b", b"", b"C: d"]),
    "F5-space-before-colon": (400, "bad_header_name", [b"A : b"]),
    "F5-tab-before-colon": (400, "bad_header_name", [b"A\t: b"]),
    "F5-no-colon": (400, "bad_header_name", [b"A"]),
    "F5-no-name": (400, "bad_header_name", [b": b"]),
    "F5-no-token": (400, "bad_header_name", [b"A(: b"]),
    "F5-8-bit-name": (400, "bad_header_name", [b"\xc3\xa9: b"]),
    "F6-obs-fold": (400, "bad_header_name", [b"A: b", b" c: d"]),
    "F6-obs-fold-first": (400, "bad_header_name", [b"\tA: b"]),
    "F7-nul": (400, "bad_header", [b"A: \0"]),
    "F7-ctl": (400, "bad_header", [b"A: b\x0bc"]),
    "F7-del": (400, "bad_header", [b"A: \x7f"]),
    "F7-bare-cr": (400, "bad_header", [b"A: b\rc"]),
    "F9-two": (400, "bad_host", [b"Host: a", b"host: a"]),
    "F9-empty": (400, "bad_host", [b"Host:"]),
    "F9-userinfo": (400, "bad_host", [b"Host: u@a"]),
    "F9-path": (400, "bad_host", [b"Host: a/"]),
    "F9-comma": (400, "bad_host", [b"Host: a,b"]),
    "F9-space": (400, "bad_host", [b"Host: a b"]),
    "F9-port": (400, "bad_host", [b"Host: a:b"]),
    "F9-port-range": (400, "bad_host", [b"Host: a:65536"]),
    "F9-two-ports": (400, "bad_host", [b"Host: a:1:2"]),
    "F9-bracket": (400, "bad_host", [b"Host: [::1"]),
    "F9-8-bit": (400, "bad_host", [b"Host: \xc3\xa9"]),
    "F13-sign": (400, "bad_content_length", [b"Content-Length: +1"]),
    "F13-minus": (400, "bad_content_length", [b"Content-Length: -1"]),
    "F13-underscore": (400, "bad_content_length", [b"Content-Length: 1_0"]),
    "F13-hex": (400, "bad_content_length", [b"Content-Length: 0x1"]),
    "F13-empty": (400, "bad_content_length", [b"Content-Length:"]),
    "F13-list": (400, "bad_content_length", [b"Content-Length: 1, 1"]),
    "F13-twice": (400, "bad_content_length", [b"Content-Length: 1", b"content-length: 1"]),
    "F13-over-63-bits": (400, "bad_content_length", [b"Content-Length: 9223372036854775808"]),
    "F13-20-digits": (400, "bad_content_length", [b"Content-Length: 10000000000000000000"]),
    "F13-20-digits-of-zero": (400, "bad_content_length", [b"Content-Length: " + b"0" * 20]),
    "F14": (400, "length_and_transfer_encoding", [b"Content-Length: 1", b"Transfer-Encoding: chunked"]),
    "F13-tab": (400, "bad_content_length", [b"Content-Length: 1\t"]),
    "F15-tab": (501, "unsupported_transfer_encoding", [b"Transfer-Encoding: chunked\t"]),
    "F15-tab-before": (501, "unsupported_transfer_encoding", [b"Transfer-Encoding:\tchunked"]),
    "F15-list": (501, "unsupported_transfer_encoding", [b"Transfer-Encoding: gzip, chunked"]),
    "F15-not-last": (501, "unsupported_transfer_encoding", [b"Transfer-Encoding: chunked, gzip"]),
    "F15-comma": (501, "unsupported_transfer_encoding", [b"Transfer-Encoding: chunked,"]),
    "F15-empty": (501, "unsupported_transfer_encoding", [b"Transfer-Encoding:"]),
    "F15-parameter": (501, "unsupported_transfer_encoding", [b"Transfer-Encoding: chunked;q=1"]),
    "F15-quoted": (501, "unsupported_transfer_encoding", [b'Transfer-Encoding: "chunked"']),
    "F15-twice": (400, "repeated_transfer_encoding", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"]),
    **{
        f"H1-{name.decode()}": (400, "protected_field_in_connection", [b"Connection: close, " + name])
        for name in b"Host Content-Length Transfer-Encoding Cookie Authorization X-Forwarded-For X-Forwarded-Any Forwarded Via"
        b" traceparent tracestate X-Canary-Variant X-Real-IP X-Request-ID".split()
    },
    "H1-second-line": (400, "protected_field_in_connection", [b"Connection: close", b"Connection: x, cookie"]),
    "limit-fields": (431, "too_many_headers", [b"A: b"] * 101),
}


@pytest.mark.parametrize(("status", "reason", "lines"), REFUSED_BLOCKS.values(), ids=REFUSED_BLOCKS.keys())
def test_refused_block(status: int, reason: str, lines: list[bytes]) -> None:
    assert block_error(*lines) == (status, reason)
    if reason != "too_many_headers":
        assert block_error(b"X-Before: 1", *lines, b"X-After: 2") == (status, reason)


def test_unfinished_line_is_refused() -> None:
    for data in (b"A: b", b"A: b\r", b"A: b\n", b"A: b\r\nC: d"):
        assert isinstance(parse_request_block(data, RULES), MessageError)


@pytest.mark.parametrize(
    "host",
    [b"a", b"a:80", b"a:", b"a:65535", b"127.0.0.1:1", b"[::1]", b"[2001:db8::1]:443", b"a_b.c-d", b"%41", b"x!$&'()*+;="],
    ids=lambda host: f"F9-{host.decode()}",
)
def test_good_host(host: bytes) -> None:
    assert block(b"Host:  " + host + b" ").host == host


class TestForward:
    def test_h7_order_case_and_duplicates_stay(self) -> None:
        lines = [b"hOsT: a", b"Accept:b", b"ACCEPT:   c\t", b"Cookie: d=e", b"cookie: f=g", b"X-Empty:"]
        assert block(*lines).forward == b"".join(line + b"\r\n" for line in lines)

    def test_h8_bytes_stay(self) -> None:
        line = b"X: " + bytes(range(0x80, 0x100)) + b"\t|"
        assert block(line).forward == line + b"\r\n"

    def test_h9_accept_encoding_is_not_touched(self) -> None:
        assert block(b"Host: a").forward == b"Host: a\r\n"

    @pytest.mark.parametrize(
        "line",
        [
            b"Connection: close",
            b"Proxy-Connection: x",
            b"Keep-Alive: 5",
            b"TE: trailers",
            b"Trailer: X",
            b"Transfer-Encoding: chunked",
            b"Upgrade: h2c",
            b"Proxy-Authenticate: x",
            b"PROXY-Authorization: x",
            b"HTTP2-Settings: x",
            b"Content-Length: 5",
            b"Expect: 100-continue",
            b"X-Canary-Variant: canary",
            b"X-Forwarded-For: 1.2.3.4",
            b"x-forwarded-anything: x",
            b"Forwarded: for=x",
            b"X-Real-IP: 1.2.3.4",
            b"X-Request-ID: 1",
            b"Under_score: 1",
        ],
        ids=lambda line: "H2-" + line.partition(b":")[0].decode(),
    )
    def test_cut(self, line: bytes) -> None:
        assert block(b"A: 1", line, b"B: 2").forward == b"A: 1\r\nB: 2\r\n"

    def test_h1_nominated_fields_are_cut(self) -> None:
        parsed = block(b"X-A: 1", b"x-b: 2", b"Connection: x-a, ,", b"X-C: 3", b"connection: X-B", b"X-A: 4")
        assert parsed.forward == b"X-C: 3\r\n"
        assert parsed.keep_alive is None

    def test_h4_a_trusted_peers_fields_are_kept(self) -> None:
        lines = (b"Forwarded: for=x", b"X-Real-IP: 1.2.3.4", b"X-Forwarded-Prefix: /a", b"X-Forwarded-For: 1.2.3.4")
        assert block(*lines, rules=HeadRules(trust_forwarded=True)).forward == b"\r\n".join([*lines[:3], b""])

    #: What CGI and WSGI servers take for a name that we read, cut or write.
    ALIASES = (
        b"Transfer_Encoding content_length X_Forwarded_For x-forwarded_any X_Real_IP X_Canary_Variant X_Request_ID keep_alive"
        b" Proxy_Authorization"
    ).split()

    @pytest.mark.parametrize("trusted", [False, True], ids=["F8-stranger", "F8-trusted"])
    def test_underscore(self, trusted: bool) -> None:  # a parameter of the test
        rules = {mode: HeadRules(underscore=mode, trust_forwarded=trusted) for mode in ("drop", "reject", "allow")}
        for name in (b"A_b", b"_", *self.ALIASES):
            assert block(b"A: 1", name + b": 1", b"B: 2", rules=rules["drop"]).forward == b"A: 1\r\nB: 2\r\n"
            assert block_error(b"A: 1", name + b": 1", rules=rules["reject"]) == (400, "bad_header_name")
        assert block(b"A_b: 1", b"_: 2", rules=rules["allow"]).forward == b"A_b: 1\r\n_: 2\r\n"

    def test_f8_allowed_names_are_no_way_around_the_other_rules(self) -> None:
        lines = [name + b": 1" for name in self.ALIASES]
        assert block(*lines, b"Content_Length-x: 1", rules=HeadRules(underscore="allow")).forward == b"Content_Length-x: 1\r\n"
        believed = block(*lines, b"X_Forwarded_Prefix: /a", rules=HeadRules(underscore="allow", trust_forwarded=True))
        assert believed.forward == b"x-forwarded_any: 1\r\nX_Real_IP: 1\r\nX_Forwarded_Prefix: /a\r\n"
        assert believed.request_id is None

    def test_h11_trace_context_is_not_touched(self) -> None:
        lines = [
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"TraceState: a=1,b=2",
            b"tracestate:c=3",
        ]
        lines.append(b"traceparent: not one")  # whose it is to judge is whoever makes spans
        assert block(*lines).forward == b"".join(line + b"\r\n" for line in lines)


class TestReadFields:
    def test_what_is_read(self) -> None:
        parsed = block(
            b"Host: a", b"Content-Length: 007", b"Connection: Upgrade, TE", b"Upgrade: WebSocket", b"Expect: 100-Continue"
        )
        assert (parsed.content_length, parsed.chunked, parsed.upgrade, parsed.expect) == (7, False, b"WebSocket", b"100-continue")
        assert block(b"Transfer-Encoding:  Chunked ").chunked
        assert block(b"Content-Length: " + b"0" * 18 + b"1").content_length == 1
        assert block(b"Content-Length: 9223372036854775807").content_length == 2**63 - 1

    def test_keep_alive(self) -> None:
        assert block(b"A: b").keep_alive is None
        assert block(b"Connection: Keep-Alive").keep_alive is True
        assert block(b"Connection: keep-alive, CLOSE").keep_alive is False
        assert block(b"Connection: keep-alive", b"Connection: close").keep_alive is False

    def test_upgrade_counts_only_if_connection_names_it(self) -> None:
        assert block(b"Upgrade: websocket").upgrade is None

    def test_te_trailers(self) -> None:
        assert block(b"TE: deflate;q=0.5, Trailers").te_trailers
        assert not block(b"TE: xtrailers").te_trailers

    def test_get(self) -> None:
        parsed = block(b"User-Agent:  a b\t", b"X: 1", b"x: 2")
        assert parsed.get(b"user-agent") == b"a b"
        assert (parsed.get(b"x"), parsed.joined(b"x"), parsed.get(b"y")) == (b"1", b"1, 2", None)

    def test_last(self) -> None:
        parsed = block(b"X: 1", b"x:  2 ", b"Y: 3")
        assert (parsed.last(b"x"), parsed.last(b"y"), parsed.last(b"z")) == (b"2", b"3", None)

    @pytest.mark.parametrize(
        ("values", "request_id"),
        [
            ([b"aZ09._-"], b"aZ09._-"),
            ([b"  a "], b"a"),
            ([b"a" * 128], b"a" * 128),
            ([b"a" * 129], None),
            ([b""], None),
            ([b"a b"], None),
            ([b"a,b"], None),
            ([b"a\tb"], None),
            ([b'"a"'], None),
            ([b"\xc3\xa9"], None),
            ([b"a", b"a"], None),
            ([], None),
        ],
    )
    def test_h10_request_id_of_a_trusted_peer(self, values: list[bytes], request_id: bytes | None) -> None:
        lines = [b"X-Request-ID: " + value for value in values]
        assert block(*lines, b"A: b", rules=HeadRules(trust_forwarded=True)).request_id == request_id
        assert block(*lines, b"A: b", rules=HeadRules(trust_forwarded=True)).forward == b"A: b\r\n"
        assert block(*lines, b"A: b").request_id is None

    def test_cookie(self) -> None:
        parsed = block(b"Cookie: a=1; bb=2=3;c ; d=", b"cookie: e= 4 ;a=5;;=6")
        values = {name: parsed.cookie(name) for name in (b"a", b"b", b"bb", b"c", b"d", b"e", b"2")}
        assert values == {b"a": b"1", b"b": None, b"bb": b"2=3", b"c": None, b"d": b"", b"e": b"4", b"2": None}
        assert block(b"X: a=1").cookie(b"a") is None


def test_names_of_strangers_do_not_pile_up() -> None:
    rules = HeadRules()
    for start in range(0, 20_000, 50):
        block(*[b"X-Stranger-%d: y" % number for number in range(start, start + 50)], rules=rules)
    assert sum(map(len, rules.request_names.marks)) < 40_000
    assert block(b"Connection: close", rules=rules).forward == b""


ADVERSARIES = {
    "one-name": b"a" * 32_000 + b"\r\n",
    "no-colon-lines": b"a\r\n" * 10_000,
    "colons": b":" * 32_000 + b"\r\n",
    "spaces": b"A:" + b" " * 32_000 + b"x\r\n",
    "trailing-space": b"A: x" + b" " * 32_000 + b"\r\n",
    "host": b"Host: " + b"a%41" * 8_000 + b",\r\n",
    "host-brackets": b"Host: [" + b":" * 32_000 + b"\r\n",
    "connection": b"Connection: " + b"a," * 16_000 + b"\r\n",
    "cut-lines": b"TE:\r\n" * 99 + b"A: " + b"x" * 30_000 + b"\r\n",
    "repeated": (b"Connection: " + b"a" * 300 + b"\r\n") * 99,
    "cr-lf": b"\r\n" * 16_000,
    "cr": b"\r" * 32_000,
    "lf-cr": b"\n\r" * 16_000,
    "cookies": b"Cookie: " + b";=" * 16_000 + b"\r\n",
    "zeros": b"Content-Length: " + b"0" * 32_000 + b"\r\n",
    "digits": b"Content-Length: " + b"9" * 32_000 + b"\r\n",
}


@pytest.mark.parametrize("data", ADVERSARIES.values(), ids=ADVERSARIES.keys())
def test_linear_time(data: bytes) -> None:
    """32 KB of malice takes some 100 us; a bound that only something quadratic breaks, even on a busy machine."""
    started = time.process_time()
    parsed = parse_request_block(data, RULES)
    if isinstance(parsed, RequestBlock):
        parsed.cookie(b"a")
        parsed.get(b"a")
    parse_request_line(b"GET /" + data[:8000] + b" HTTP/1.1", RULES)
    find_request_head(b"GET / HTTP/1.1\r\n" + data[:-2], RULES)
    assert time.process_time() - started < 0.05
