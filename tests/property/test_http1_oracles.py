"""The same bytes to our parser, to h11 and to httptools: we never take what either refuses, and never read another body.

The comparison, and the short list of what an oracle is known to refuse without need, is in `fuzz.oracles`. The messages here are
valid ones, changed in the places where parsers differ, and ones put together from good and evil lines.
"""

from __future__ import annotations

from random import Random

from fuzz import oracles
from fuzz.mutation import mutate
from fuzz.seeds import REQUESTS, RESPONSES
from hypothesis import event, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.head import HeadRules, MessageError, find_request_head, parse_request_block, parse_request_line
from canaryproxy.http1.response import find_response_head, parse_response_head

randoms = st.randoms(use_true_random=False)
cuts = st.lists(st.integers(0, 200), max_size=3)


def some(*fragments: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(fragments)


GOOD_LINE = some(
    *(b"Accept: */*\r\n", b"X-A:\xe9 b\t\r\n", b"x-empty:\r\n", b"Cookie: a=b\r\n", b"X_Y: z\r\n", b"Connection: close\r\n"),
    *(b"Connection: keep-alive\r\n", b"Connection: X-A, TE\r\n", b"TE: trailers\r\n", b"Expect: 100-continue\r\n"),
)
EVIL_LINE = st.builds(
    b"%b:%b%b%b%b".__mod__,
    st.tuples(
        some(
            *(b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection", b"X-A"),
            *(b"Content-Length ", b" Transfer-Encoding", b""),
        ),
        some(b"", b" ", b" ", b"\t", b"\x0b", b"\r\n "),
        some(
            *(
                b"0",
                b"5",
                b"+5",
                b"05",
                b"5, 5",
                b"5,",
                b"0x5",
                b"5 5",
                b"",
                b"-1",
                b"18446744073709551621",
                b"chunked",
                b"Chunked",
            ),
            *(b"identity", b"gzip, chunked", b"chunked, gzip", b",chunked", b"xchunked", b"\x0bchunked", b"a", b"a b", b"a/b"),
            *(b"a,b", b"[::1]", b"a\0", b"Transfer-Encoding", b"Content-Length", b"close", b"upgrade"),
        ),
        some(b"", b" ", b"\t", b"\x0b"),
        some(b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\n\r", b"\r\n\r\n", b"\r\n "),
    ),
)
FRAMED = some(
    *[b"\r\n" + body for body in (b"", b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n")],
    *[b"Content-Length: 5\r\n\r\n" + body for body in (b"hello", b"helloGET /", b"5\r\nhello\r\n0\r\n\r\n")],
    *[
        b"Transfer-Encoding: chunked\r\n\r\n" + body
        for body in (
            *(b"5\r\nhello\r\n0\r\n\r\n", b"1;a=b\r\nx\r\nA\r\n0123456789\r\n0\r\n\r\nGET", b"0\r\nA: b\r\n\r\n"),
            *(b'1;a="b;"\r\nx\r\n00\r\n\r\n', b"0\r\nHost: x\r\n\r\n", b"1 \r\nx\r\n0\r\n\r\n", b"0\r\nA\r\n\r\n"),
        )
    ],
)


@st.composite
def put_together(draw: st.DrawFn, start: bytes) -> bytes:
    """A message that is mostly well formed, with evil in the usual places."""
    lines = draw(st.lists(GOOD_LINE, max_size=3))
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), draw(EVIL_LINE))
    return start + b"".join(lines) + draw(FRAMED)


REQUEST_START = st.builds(
    b"%b %b %b\r\n%b".__mod__,
    st.tuples(
        some(b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"FOO"),
        some(*[b"/", b"/a?b=c", b"/%2e/"] * 4, b"*", b"http://h/x", b"/a#b", b"a", b"/\xc3\xa9", b"/\x7f"),
        some(*[b"HTTP/1.1"] * 9, b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.7", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1"),
        some(*[b"Host: a\r\n"] * 9, b"host:a\r\n", b""),
    ),
)
RESPONSE_START = st.builds(
    b"%b %b\r\n".__mod__,
    st.tuples(
        some(*[b"HTTP/1.1"] * 6, b"HTTP/1.0", b"HTTP/2.0"),
        some(*[b"200 OK"] * 6, b"204 No Content", b"304 Not Modified", b"404", b"503 ", b"100 x", b"103 x", b"099 x", b"20 x"),
    ),
)
REQUEST = st.one_of(
    REQUEST_START.flatmap(put_together),
    randoms.map(lambda random: mutate(random.choice(REQUESTS), REQUESTS, random)),
)
RESPONSE = st.one_of(
    RESPONSE_START.flatmap(put_together),
    randoms.map(lambda random: mutate(random.choice(RESPONSES), RESPONSES, random)),
)


@settings(max_examples=800, deadline=None)
@given(REQUEST, cuts)
def test_requests_that_we_take_are_taken_alike(data: bytes, at: list[int]) -> None:
    event(str(oracles.request(data, at)))


@settings(max_examples=800, deadline=None)
@given(RESPONSE)
def test_responses_that_we_take_are_taken_alike(data: bytes) -> None:
    event(str(oracles.response(data)))


def test_thousands_of_mutations() -> None:
    """Without Hypothesis, hence many; the same ones each time."""
    random, kinds = Random(1), set()
    for _ in range(8000):
        kinds.add(oracles.request(mutate(random.choice(REQUESTS), REQUESTS, random), (random.randrange(100),)))
        kinds.add(oracles.response(mutate(random.choice(RESPONSES), RESPONSES, random)))
    assert len(kinds) > 60


def test_seeds_are_mostly_good() -> None:
    """Else nothing would be compared."""
    for seeds, compare in ((REQUESTS, oracles.request), (RESPONSES, oracles.response)):
        taken = [compare(data) for data in seeds]
        assert sum(kind is not None and not isinstance(kind, str) for kind in taken) > 0.6 * len(seeds)


@settings(max_examples=300, deadline=None)
@given(st.one_of(REQUEST, RESPONSE, st.binary(max_size=200)))
def test_nothing_raises(data: bytes) -> None:
    for rules in (HeadRules(), HeadRules(request_line=20, head=40, headers=2, response_head=40, response_headers=2)):
        find_request_head(data, rules)
        find_response_head(data, rules)
        for result in (
            parse_request_line(data, rules),
            parse_request_block(data, rules),
            parse_response_head(data, b"GET", rules),
        ):
            assert not isinstance(result, MessageError) or result.status in (400, 414, 431, 501, 502, 505)
