"""What goes on is one message with the meaning of the one that came, to our parser, h11 and httptools, whatever follows it.

Said here once more and independently: which fields pass, in their order, case and bytes. Bodies are chunked anew from pieces cut
anywhere, as the network cuts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import h11
import httptools  # type: ignore[import-untyped,unused-ignore]
from fuzz.mutation import mutate
from fuzz.reading import Content, Request, Response, pieces_of, read_request, read_response, write_body
from fuzz.seeds import REQUESTS, RESPONSES
from hypothesis import event, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.chunked import CHUNK_END, ChunkedReader, chunk_head, last_chunk
from canaryproxy.http1.forward import Hop, request_head, response_head
from canaryproxy.http1.framing import Body, wanted_upgrade
from canaryproxy.http1.head import HeadRules, MessageError

Fields = list[tuple[bytes, bytes]]

HOP_BY_HOP = (
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate proxy-authorization"
    b" http2-settings"
).split()
READ_RULES = HeadRules(underscore="allow", trust_forwarded=True)
NEXT = b"PUT /next HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\n\r\nno"
NEXT_RESPONSE = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nno"
METHODS_OF_HTTPTOOLS = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"M-SEARCH"}

GOOD_REQUESTS = [data for data in REQUESTS if isinstance(read_request(data, HeadRules()), Request)]
GOOD_RESPONSES = [
    data
    for data in RESPONSES
    if isinstance(response := read_response(data, b"GET", HeadRules()), Response) and response.head.status >= 200
]

randoms = st.randoms(use_true_random=False)
cuts = st.lists(st.integers(0, 300), max_size=4)
profile = settings(max_examples=500, deadline=None)


def fields_of(block: bytes) -> Fields:
    parts = [line.partition(b":") for line in block.split(b"\r\n") if line]
    return [(name, value.strip(b" \t")) for name, _, value in parts]


def passing(came: Fields, gone: Sequence[bytes], not_nominable: Sequence[bytes] = ()) -> Fields:
    """Those that are not `gone` and that Connection does not name."""
    options = [value.strip().lower() for name, line in came if name.lower() == b"connection" for value in line.split(b",")]
    nominated = [option for option in options if option not in not_nominable]
    return [(name, value) for name, value in came if name.lower() not in (*gone, *nominated)]


def chunk_anew(data: bytes, at: Sequence[int], *, upstream: bool = False) -> bytes:
    """The chunked body at the beginning of `data`, as it is passed on when it comes in pieces."""
    reader, written = ChunkedReader(upstream=upstream), b""
    for piece in pieces_of(data, at):
        got = reader.feed(piece)
        assert not isinstance(got, MessageError)
        if got:
            written += chunk_head(sum(map(len, got))) + b"".join(got) + CHUNK_END
        if reader.done:
            return written + last_chunk(reader.trailers if upstream else ())
    raise AssertionError("unfinished")


class Messages:
    """What httptools calls."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def on_message_begin(self) -> None:
        self.bodies.append(b"")

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body

    def on_message_complete(self) -> None:
        self.bodies.append(b"complete")


def httptools_bodies(kind: Any, data: bytes) -> list[bytes]:
    messages = Messages()
    kind(messages).feed_data(data)
    return messages.bodies


HOPS = st.fixed_dictionaries(
    {
        "variant": st.sampled_from([b"stable", b"canary"]),
        "peer": st.sampled_from([b"192.0.2.1", b"2001:db8::1"]),
        "port": st.just(b"8080"),
        "upstream_authority": st.just(b"up:1"),
        "host_header": st.sampled_from(["preserve", "preserve", "upstream", "app.internal:8000"]),
        "proto": st.sampled_from([b"http", b"https"]),
        "via": st.sampled_from([None, b"edge"]),
        "trusted": st.booleans(),
    }
)


def expected_fields(request: Request, hop: Hop) -> Fields:
    """Which fields go on of those that came, Host at its place."""
    framing, trusted = request.framing, hop["trusted"]
    gone = [*HOP_BY_HOP, b"content-length", b"expect", b"x-canary-variant", b"x-request-id"]
    gone += [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"]
    came = [(name, value) for name, value in fields_of(request.block.raw) if b"_" not in name]
    if not trusted:
        gone += [b"forwarded", b"x-real-ip"]
        came = [(name, value) for name, value in came if not name.lower().startswith(b"x-forwarded-")]
    choice = hop["host_header"]
    host = framing.host or b"up:1" if choice == "preserve" else b"up:1" if choice == "upstream" else choice.encode()
    passed = passing(came, gone)
    if not any(name.lower() == b"host" for name, _ in passed):
        passed.insert(0, (b"Host", host))
    return [((b"Host" if value != host else name), host) if name.lower() == b"host" else (name, value) for name, value in passed]


def our_fields(request: Request, hop: Hop) -> Fields:
    """Which fields of ours follow."""
    block, framing, peer = request.block, request.framing, hop["peer"]
    said: dict[bytes, list[bytes]] = {}
    for name, value in fields_of(block.raw):
        if hop["trusted"]:
            said.setdefault(name.lower(), []).append(value)
    host = said.get(b"x-forwarded-host", [b""])[-1] or framing.host
    chain = b", ".join(said.get(b"x-forwarded-for", []))
    ours = [(b"X-Forwarded-Host", host)] if host else []
    ours += [
        (b"X-Forwarded-For", chain + b", " + peer if chain else peer),
        (b"X-Forwarded-Proto", said.get(b"x-forwarded-proto", [b""])[-1] or hop["proto"]),
        (b"X-Forwarded-Port", said.get(b"x-forwarded-port", [b""])[-1] or hop["port"]),
        (b"X-Canary-Variant", hop["variant"]),
    ]
    if block.content_length is not None:
        ours.append((b"Content-Length", b"%d" % block.content_length))
    if framing.body is Body.CHUNKED:
        ours.append((b"Transfer-Encoding", b"chunked"))
    if hop["upgrade"]:
        ours += [(b"Connection", b"upgrade"), (b"Upgrade", hop["upgrade"])]
    elif block.te_trailers:
        ours += [(b"Connection", b"TE"), (b"TE", b"trailers")]
    if b"forwarded" in said:
        node = b'"[%b]"' % peer if b":" in peer else peer
        ours.append((b"Forwarded", b"for=%b;proto=%b" % (node, hop["proto"])))
    if hop["via"] is not None:
        ours.append((b"Via", b"1.%d %b" % (framing.minor, hop["via"])))
    return ours


@profile
@given(randoms, HOPS, cuts)
def test_a_request_goes_on_as_one_request(random: Any, values: dict[str, Any], at: list[int]) -> None:
    hop = cast(Hop, values)
    rules = HeadRules(trust_forwarded=hop["trusted"])
    data = mutate(random.choice(REQUESTS), REQUESTS, random)
    request = read_request(data, rules)
    if not isinstance(request, Request):
        data = random.choice(GOOD_REQUESTS)
        request = read_request(data, rules)
    assert isinstance(request, Request)
    line, block, framing, content = request
    event(framing.body.name)
    upgrade = wanted_upgrade(line, block, framing)
    hop["upgrade"] = upgrade
    head = request_head(line, block, framing, request_id=b"id-1", **hop)
    chunked = framing.body is Body.CHUNKED
    at_body = data.index(b"\r\n" + block.raw + b"\r\n") + len(block.raw) + 4
    sent = head + (chunk_anew(data[at_body:], at) if chunked else content.body)

    again = read_request(sent + NEXT, READ_RULES)
    assert isinstance(again, Request)
    assert (again.line.method, again.line.target, again.line.authority) == (line.method, line.target, None)
    assert (again.framing.body, again.framing.length, again.content.body) == (framing.body, framing.length, content.body)
    assert again.content.rest == NEXT

    fields = fields_of(head.partition(b"\r\n")[2][:-2])
    expected = expected_fields(request, hop)
    assert fields[: len(expected)] == expected
    assert fields[-1] == (b"X-Request-ID", b"id-1")
    assert fields[len(expected) : -1] == our_fields(request, hop)

    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent + NEXT)
    first = connection.next_event()
    assert isinstance(first, h11.Request)
    assert (first.method, first.target) == (line.method, line.target)
    assert first.headers.raw_items() == fields
    body = b""
    while isinstance(part := connection.next_event(), h11.Data):
        body += part.data
    assert (body, connection.trailing_data[0]) == (content.body, NEXT)
    if upgrade is None and line.method in METHODS_OF_HTTPTOOLS:
        bodies = httptools_bodies(httptools.HttpRequestParser, sent + NEXT)
        assert bodies == [content.body, b"complete", b"no", b"complete"]


@profile
@given(randoms, st.sampled_from([b"GET", b"HEAD"]), st.sampled_from([0, 1]), st.booleans(), cuts)
def test_a_response_goes_on_as_one_response(
    random: Any, method: bytes, client_minor: int, keep_alive: bool, at: list[int]
) -> None:
    data = mutate(random.choice(RESPONSES), RESPONSES, random)
    response = read_response(data, method, HeadRules())
    if not isinstance(response, Response) or response.head.status < 200:
        data = random.choice(GOOD_RESPONSES)
        response = read_response(data, method, HeadRules())
    assert isinstance(response, Response)
    head, content = response
    event(head.body.name)
    streamed = head.body in (Body.CHUNKED, Body.UNTIL_CLOSE)
    chunk = streamed and client_minor == 1
    keep_alive = keep_alive and chunk == streamed
    extra = b"Set-Cookie: u=1\r\n" if random.randrange(2) else b""
    sent = response_head(head, client_minor=client_minor, keep_alive=keep_alive, date=b"now", chunk_body=chunk, extra=extra)

    came = fields_of(head.raw.partition(b"\r\n")[2])
    gone = [*HOP_BY_HOP, *[b"content-length"] * (head.status == 204)]
    expected = passing(came, gone, (b"date", b"content-length"))
    lengths = [(name, value) for name, value in expected if name.lower() == b"content-length"]
    if any(value.startswith(b"0") and value != b"0" for _, value in lengths):
        expected = [field for field in expected if field not in lengths] + [(b"Content-Length", b"%d" % int(lengths[0][1]))]
    expected += fields_of(extra)
    if not any(name.lower() == b"date" for name, _ in came):
        expected.append((b"Date", b"now"))
    if chunk:
        expected.append((b"Transfer-Encoding", b"chunked"))
    if not keep_alive or not client_minor:
        expected.append((b"Connection", b"keep-alive" if keep_alive else b"close"))
    assert fields_of(sent.partition(b"\r\n")[2][:-2]) == expected

    if head.body is Body.CHUNKED and chunk:
        sent += chunk_anew(data[len(head.raw) + 2 :], at, upstream=True)
    else:
        sent += write_body(content, chunked=chunk)
    assert_read_alike(sent, method, response, NEXT_RESPONSE if keep_alive else b"", trailers=chunk)


def assert_read_alike(sent: bytes, method: bytes, response: Response, follows: bytes, *, trailers: bool) -> None:
    head, content = response
    again = read_response(sent + follows, method, HeadRules())
    assert isinstance(again, Response)
    assert (again.head.status, again.head.minor) == (head.status, 1)
    assert again.content == Content(content.body, content.trailers if trailers else (), follows)
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(sent + follows)
    if not follows:
        connection.receive_data(b"")
    first, body = connection.next_event(), b""
    assert isinstance(first, h11.Response)
    assert first.status_code == head.status
    while isinstance(part := connection.next_event(), h11.Data):
        body += part.data
    assert isinstance(part, h11.EndOfMessage)
    assert (body, connection.trailing_data[0]) == (content.body, follows)
    assert [(name.lower(), value) for name, value in content.trailers] == list(part.headers) or not trailers
    if method != b"HEAD" and follows:
        bodies = httptools_bodies(httptools.HttpResponseParser, sent + follows)
        assert bodies == [content.body, b"complete", b"no", b"complete"]
