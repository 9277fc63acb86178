"""What a request line and a block mean together: F3, F9, F10, F13-F15, F18, C8, C9."""

from __future__ import annotations

import pytest

from canaryproxy.http1.framing import Body, RequestFraming, frame_request, may_go_on, wanted_upgrade
from canaryproxy.http1.head import HeadRules, MessageError, RequestBlock, RequestLine, parse_request_block, parse_request_line

RULES = HeadRules()


def parse(start: bytes, *lines: bytes) -> tuple[RequestLine, RequestBlock]:
    line = parse_request_line(start, RULES)
    block = parse_request_block(b"".join(each + b"\r\n" for each in lines), RULES)
    assert isinstance(line, RequestLine)
    assert isinstance(block, RequestBlock)
    return line, block


def frame(start: bytes, *lines: bytes) -> RequestFraming | MessageError:
    return frame_request(*parse(start, *lines), RULES)


GET, POST, OLD = b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"GET / HTTP/1.0"
HOST = b"Host: a"


@pytest.mark.parametrize(
    ("start", "lines", "expected"),
    [
        pytest.param(GET, [HOST], RequestFraming(Body.NONE, 0, True, False, b"a", 1), id="plain"),
        pytest.param(GET, [HOST, b"Connection: close"], RequestFraming(Body.NONE, 0, False, False, b"a", 1), id="C1-close"),
        pytest.param(OLD, [], RequestFraming(Body.NONE, 0, False, False, b"", 0), id="F9-1.0-without-host"),
        pytest.param(OLD, [HOST, b"Connection: keep-alive"], RequestFraming(Body.NONE, 0, True, False, b"a", 0), id="C1-1.0"),
        pytest.param(OLD, [b"Connection: x"], RequestFraming(Body.NONE, 0, False, False, b"", 0), id="C1-1.0-other-option"),
        pytest.param(GET, [HOST, b"Connection: x"], RequestFraming(Body.NONE, 0, True, False, b"a", 1), id="C1-other-option"),
        pytest.param(GET, [], MessageError(400, "missing_host"), id="F9-none"),
        pytest.param(b"GET http://a/ HTTP/1.1", [], MessageError(400, "missing_host"), id="F9-none-but-absolute-form"),
        pytest.param(b"GET http://b/ HTTP/1.1", [HOST], RequestFraming(Body.NONE, 0, True, False, b"b", 1), id="F10"),
        pytest.param(b"GET http://b/ HTTP/1.0", [], RequestFraming(Body.NONE, 0, False, False, b"b", 0), id="F10-1.0"),
        pytest.param(POST, [HOST, b"Content-Length: 07"], RequestFraming(Body.LENGTH, 7, True, False, b"a", 1), id="F13"),
        pytest.param(POST, [HOST, b"Content-Length: 0"], RequestFraming(Body.NONE, 0, True, False, b"a", 1), id="F13-zero"),
        pytest.param(
            POST, [HOST, b"Transfer-Encoding: CHUNKED"], RequestFraming(Body.CHUNKED, 0, True, False, b"a", 1), id="F15"
        ),
        pytest.param(
            b"POST / HTTP/1.0",
            [HOST, b"Transfer-Encoding: chunked"],
            MessageError(400, "transfer_encoding_in_http_1_0"),
            id="F15-1.0",
        ),
        pytest.param(GET, [HOST, b"Content-Length: 2"], RequestFraming(Body.LENGTH, 2, True, False, b"a", 1), id="F18-get"),
        pytest.param(OLD, [HOST, b"Content-Length: 2"], MessageError(400, "body_not_allowed_in_http_1_0"), id="F18-1.0"),
        pytest.param(
            b"POST / HTTP/1.0", [b"Content-Length: 2"], RequestFraming(Body.LENGTH, 2, False, False, b"", 0), id="F18-1.0-post"
        ),
        pytest.param(b"TRACE / HTTP/1.1", [HOST], MessageError(405, "method_not_allowed"), id="F4-trace"),
        pytest.param(b"TRACE / HTTP/1.1", [], MessageError(400, "missing_host"), id="F9-trace"),
        pytest.param(b"CONNECT a:1 HTTP/1.1", [HOST], MessageError(501, "connect_not_supported"), id="F4-connect"),
        pytest.param(b"CONNECT / HTTP/1.1", [HOST], MessageError(501, "connect_not_supported"), id="F4-connect-origin-form"),
        pytest.param(
            POST,
            [HOST, b"Content-Length: 2", b"Expect: 100-CONTINUE"],
            RequestFraming(Body.LENGTH, 2, True, True, b"a", 1),
            id="C8",
        ),
        pytest.param(GET, [HOST, b"Expect: 100-continue"], RequestFraming(Body.NONE, 0, True, False, b"a", 1), id="C8-no-body"),
        pytest.param(OLD, [b"Expect: foo"], RequestFraming(Body.NONE, 0, False, False, b"", 0), id="C8-1.0"),
        pytest.param(GET, [HOST, b"Expect: foo"], MessageError(417, "unknown_expectation"), id="C8-417"),
        pytest.param(
            POST,
            [HOST, b"Content-Length: 2", b"Expect: 100-continue", b"Expect: 100-continue"],
            MessageError(417, "unknown_expectation"),
            id="C8-twice",
        ),
    ],
)
def test_frame_request(start: bytes, lines: list[bytes], expected: RequestFraming | MessageError) -> None:
    assert frame(start, *lines) == expected


TRACE, OLD_TRACE = b"TRACE / HTTP/1.1", b"TRACE / HTTP/1.0"


@pytest.mark.parametrize(
    ("error", "start", "lines", "expected"),
    [
        pytest.param(405, TRACE, [HOST], True, id="F4-trace"),
        pytest.param(404, GET, [HOST], True, id="no-route"),
        pytest.param(405, TRACE, [HOST, b"Connection: close"], False, id="C1-close"),
        pytest.param(405, OLD_TRACE, [], False, id="C1-1.0"),
        pytest.param(405, OLD_TRACE, [b"Connection: keep-alive"], True, id="C1-1.0-keep-alive"),
        pytest.param(405, TRACE, [HOST, b"Content-Length: 1"], False, id="F19-length"),
        pytest.param(405, TRACE, [HOST, b"Content-Length: 0"], True, id="F19-length-0"),
        pytest.param(405, TRACE, [HOST, b"Transfer-Encoding: chunked"], False, id="F19-chunked"),
        *[pytest.param(status, GET, [HOST], False, id=f"F19-{status}") for status in (400, 408, 413, 414, 417, 431, 501, 505)],
    ],
)
def test_may_go_on(error: int, start: bytes, lines: list[bytes], expected: bool) -> None:
    assert may_go_on(MessageError(error, "x"), *parse(start, *lines)) is expected


UPGRADE = (HOST, b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket")


@pytest.mark.parametrize(
    ("start", "lines", "expected"),
    [
        pytest.param(GET, UPGRADE, b"websocket", id="C9"),
        pytest.param(POST, UPGRADE, None, id="C9-post"),
        pytest.param(OLD, UPGRADE, None, id="C9-1.0"),
        pytest.param(GET, (HOST, b"Upgrade: websocket"), None, id="C9-not-nominated"),
        pytest.param(GET, (HOST, b"Connection: upgrade", b"Upgrade: h2c"), None, id="C9-other-protocol"),
        pytest.param(GET, (HOST, b"Connection: upgrade", b"Upgrade: websocket, h2c"), None, id="C9-list"),
        pytest.param(GET, (*UPGRADE, b"Transfer-Encoding: chunked"), None, id="C9-chunked"),
        pytest.param(GET, (*UPGRADE, b"Content-Length: 0"), None, id="C9-length"),
    ],
)
def test_wanted_upgrade(start: bytes, lines: tuple[bytes, ...], expected: bytes | None) -> None:
    line, block = parse(start, *lines)
    framing = frame_request(line, block, RULES)
    assert isinstance(framing, RequestFraming)
    assert wanted_upgrade(line, block, framing) == expected
