"""A PROXY header means the same however the network cuts it, and no bytes at all raise."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.http1.head import MessageError
from canaryproxy.http1.proxy_protocol import MAX_HEADER, SIGNATURE, Header, build_v1, build_v2, parse

PORT = st.integers(0, 0xFFFF)
IPV4 = st.ip_addresses(v=4)
IPV6 = st.ip_addresses(v=6)

PIECE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b" ", b"\r\n", b"\r", b"\n", b"::1", b"1.2.3.4 ", b"65535"]),
    st.sampled_from([SIGNATURE, b"\x21", b"\x20", b"\x11", b"\x21\x11\0\x0c", b"\x20\0\0\0", b"\x03\0\x04", b"\x04\0\0"]),
)
LINE = st.tuples(st.sampled_from([b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"]), st.lists(PIECE)).map(
    lambda parts: parts[0] + b"".join(parts[1])
)
BINARY = st.tuples(st.sampled_from([0x20, 0x21]), st.integers(0, 0x32), st.integers(0, 560), st.binary(max_size=300)).map(
    lambda parts: SIGNATURE + bytes(parts[:2]) + parts[2].to_bytes(2) + parts[3]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(PIECE).map(b"".join), LINE, BINARY), st.binary(max_size=20))
def test_an_answer_once_given_stays(buffer: bytes, after: bytes) -> None:
    answers = [parse(buffer[:size]) for size in range(len(buffer) + 1)]
    decided = [answer for answer in answers if answer is not None]
    if not decided:
        assert len(buffer) < MAX_HEADER
        return
    first, last = decided[0], parse(buffer + after)
    if isinstance(first, Header):
        assert first.size == len(answers) - len(decided), "complete with its last byte, not before and not after"
        assert set(decided) == {first} == {last}
        assert first.source is None or str(ip_address(first.source.decode())).encode() == first.source
    else:
        assert all(isinstance(answer, MessageError) for answer in (*decided, last))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.tuples(IPV4, IPV4), st.tuples(IPV6, IPV6), st.tuples(IPV4, IPV6), st.tuples(IPV6, IPV4)), PORT, PORT, st.binary()
)
def test_what_we_build_is_what_we_read(
    ends: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address], port: int, dest_port: int, after: bytes
) -> None:
    source, dest = (str(end).encode() for end in ends)
    mapped = ends[0].ipv4_mapped if isinstance(ends[0], IPv6Address) else None
    for build in (build_v1, build_v2):
        header = build(source, port, dest, dest_port)
        assert parse(header + after) == Header(str(mapped).encode() if mapped else source, port, len(header))
        assert all(parse(header[:size]) is None for size in range(len(header)))
