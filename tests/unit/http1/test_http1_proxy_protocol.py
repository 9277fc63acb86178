"""PROXY protocol headers: the specification's rules, and the cases of nginx, h2o and gunicorn.

Cases: nginx-tests `proxy_protocol.t`, `proxy_protocol2.t`, `proxy_protocol2_tlv.t`; h2o `t/40proxy-protocol.t`; gunicorn
`tests/requests/{valid,invalid}/pp_0*`. Where we are stricter than the peer, the case says so.
"""

from __future__ import annotations

import struct

import pytest

from canaryproxy.http1.head import MessageError
from canaryproxy.http1.proxy_protocol import MAX_HEADER, SIGNATURE, Header, build_v1, build_v2, crc32c, parse

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def v2(family: int, payload: bytes, *, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(payload)) + payload


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def refused(reason: str) -> MessageError:
    return MessageError(400, f"proxy_protocol_{reason}")


INET = bytes((192, 0, 2, 1, 192, 0, 2, 2)) + struct.pack("!HH", 123, 5678)
INET6 = bytes.fromhex("20010db8000000000000000000000001 20010db8000000000000000000000002") + struct.pack("!HH", 123, 5678)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")
NGINX_TLVS = b"".join(
    (
        *(tlv(0x01, b"ALPN1"), tlv(0x02, b"localhost"), tlv(0x05, b"UNIQQ")),
        tlv(0x20, b"\x01\0\0\0\xff" + tlv(0x21, b"TLSv1.2") + tlv(0x22, b"example.com") + tlv(0x25, b"RSA512")),
        *(tlv(0x30, b"NETNS"), tlv(0xAE, b"12345")),
    )
)


@pytest.mark.parametrize(
    ("header", "source", "port"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n", b"192.0.2.1", 123),  # nginx
        (b"PROXY TCP6 2001:Db8::1 2001:Db8::2 123 5678\r\n", b"2001:db8::1", 123),  # nginx
        (b"PROXY UNKNOWN\r\n", None, 0),  # nginx
        (b"PROXY UNKNOWN 1 2 3 4 5 6\r\n", None, 0),  # nginx
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 9999\r\n", b"1.2.3.4", 1234),  # h2o
        (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", b"192.168.0.1", 56324),  # gunicorn pp_01
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", b"255.255.255.255", 65535),  # section 2.1, longest
        (
            b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
            b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            65535,
        ),
        (b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", None, 0),  # 107 bytes
        (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", b"0.0.0.0", 0),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", b"192.0.2.1", 1),  # as inet_ntop writes a mapped address
        (b"PROXY UNKNOWN \x00\xff anything\r\n", None, 0),  # "must ignore anything presented before the CRLF"
        (v2(0x11, INET), b"192.0.2.1", 123),  # nginx
        (v2(0x21, INET6), b"2001:db8::1", 123),  # nginx
        (v2(0x11, INET + bytes(9)), b"192.0.2.1", 123),  # nginx: three empty fields
        (v2(0x01, b""), None, 0),  # nginx
        (v2(0x11, INET + NGINX_TLVS), b"192.0.2.1", 123),  # nginx
        (v2(0x11, bytes.fromhex("ac130001 ac130003 a652 0050")), b"172.19.0.1", 42578),  # gunicorn pp_04
        (
            v2(0x21, bytes.fromhex("ff020000000000000000000056780001 ff020000000000000000000056780002 a652 0050")),
            b"ff02::5678:1",
            42578,
        ),  # gunicorn pp_05
        (v2(0x21, bytes(10) + b"\xff\xff" + INET[:4] + INET6[16:]), b"192.0.2.1", 123),
        (v2(0x00, b""), None, 0),
        (v2(0x00, b"junk"), None, 0),  # "the receiver should ignore address information"
        (v2(0x00, b"", command=0x20), None, 0),
        (v2(0x11, INET, command=0x20), None, 0),  # LOCAL: "discard the protocol block including the family"
        (v2(0x11, b"junk", command=0x20), None, 0),
        (v2(0x31, UNIX), None, 0),
        (v2(0x31, UNIX + tlv(0x04, bytes(9))), None, 0),
        (v2(0x12, INET), None, 0),  # "falls back to the UNSPEC mode for the valid combinations that it does not support"
        (v2(0x10, INET), None, 0),
        (v2(0x11, INET + tlv(0x04, bytes(MAX_HEADER - 16 - 12 - 3))), b"192.0.2.1", 123),  # the longest
    ],
)
def test_headers_that_we_take(header: bytes, source: bytes | None, port: int) -> None:
    expected = Header(source, port, len(header))
    assert parse(header) == parse(header + REQUEST) == parse(header + header) == expected
    assert [parse(header[:size]) for size in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    ("buffer", "reason"),
    [
        (REQUEST, "missing"),  # gunicorn pp_03, h2o "without proxy": both take it, the specification forbids guessing
        (b"\x16\x03\x01\x02\x00\x01\x00", "missing"),
        (b"G", "missing"),
        (b"\r\n\r\nGET", "missing"),
        (b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "missing"),
        (b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "missing"),
        (b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", "missing"),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "missing"),
        (b"PROXY\r\n", "missing"),
        (b"PROXY UNKNOWNS\r\n", "missing"),  # nginx and HAProxy take it
        (b"PROXY TCP4 192.168.0.1 192.16...\r\n", "bad_line"),  # gunicorn invalid pp_01
        (b"PROXY TCP4 192.168.0.1 192.168.0.11 65iii 100000\r\n", "bad_line"),  # gunicorn invalid pp_02
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 1 \r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1  1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1\t192.0.2.2 1 1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 1 1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.02.1 192.0.2.2 1 1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2 192.0.2.2 1 1\r\n", "bad_line"),
        (b"PROXY TCP4 256.0.2.1 192.0.2.2 1 1\r\n", "bad_line"),
        (b"PROXY TCP4 2001:db8::1 2001:db8::2 1 1\r\n", "bad_line"),
        (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 1\r\n", "bad_line"),
        (b"PROXY TCP6 2001:db8::1 192.0.2.2 1 1\r\n", "bad_line"),
        (b"PROXY TCP6 2001::db8::1 ::1 1 1\r\n", "bad_line"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", "bad_line"),
        (b"PROXY TCP6 20010::1 ::1 1 1\r\n", "bad_line"),
        (b"PROXY TCP4 \xd9\xa1.0.2.1 192.0.2.2 1 1\r\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", "bad_line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rG", "bad_line"),
        (b"PROXY UNKNOWN\n", "missing"),
        (b"PROXY UNKNOWN a\nb\r\n", "bad_line"),
        (b"PROXY UNKNOWN a\r\r\n", "bad_line"),
        (b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n", "too_long"),
        (b"PROXY TCP4 ".ljust(106, b"1"), "too_long"),
        (SIGNATURE + b"\x11", "bad_header"),  # version 1 has no binary form
        (SIGNATURE + b"\x31", "bad_header"),
        (SIGNATURE + b"\x22", "bad_header"),
        (SIGNATURE + b"\x21\x41", "bad_header"),  # nginx ignores it; "must be rejected as invalid by receivers"
        (SIGNATURE + b"\x21\x13", "bad_header"),
        (SIGNATURE + b"\x20\x41", "bad_header"),
        (v2(0x11, INET[:-1]), "bad_header"),
        (v2(0x21, INET6[:-1]), "bad_header"),
        (v2(0x31, UNIX[:-1]), "bad_header"),
        (v2(0x11, INET + b"\x04"), "bad_header"),
        (v2(0x11, INET + b"\x04\0"), "bad_header"),
        (v2(0x11, INET + b"\x04\0\x01"), "bad_header"),
        (v2(0x11, INET + tlv(0x04, b"a")[:-1]), "bad_header"),
        (v2(0x31, UNIX + b"\x04"), "bad_header"),
        (v2(0x11, INET + tlv(0x03, b"4321")), "bad_checksum"),  # nginx takes it: it does not know the field
        (v2(0x11, INET + tlv(0x03, b"432")), "bad_checksum"),
        (SIGNATURE + b"\x21\x11\x02\x09", "too_long"),  # 537 bytes in all: refused before they come
        (SIGNATURE + b"\x20\x00\xff\xff", "too_long"),
    ],
)
def test_headers_that_we_refuse(buffer: bytes, reason: str) -> None:
    assert parse(buffer) == refused(reason)
    assert isinstance(parse(buffer + REQUEST), MessageError)


def test_the_checksum_is_the_one_of_rfc_4960() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@pytest.mark.parametrize("after", [b"", tlv(0x04, b"abc")])
def test_a_checksum_covers_the_whole_header(after: bytes) -> None:
    blank = v2(0x11, INET + tlv(0x01, b"http/1.1") + tlv(0x03, bytes(4)) + after)
    place = blank.index(tlv(0x03, bytes(4))) + 3
    header = blank[:place] + crc32c(blank).to_bytes(4) + blank[place + 4 :]
    assert parse(header) == Header(b"192.0.2.1", 123, len(header))
    for at in (16, 27, 31, len(header) - 1):
        spoilt = bytearray(header)
        spoilt[at] ^= 1
        assert parse(bytes(spoilt)) == refused("bad_checksum")


@pytest.mark.parametrize(
    ("source", "dest", "line", "binary"),
    [
        (b"192.0.2.1", b"192.0.2.2", b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n", v2(0x11, INET)),
        (b"2001:db8::1", b"2001:db8::2", b"PROXY TCP6 2001:db8::1 2001:db8::2 123 5678\r\n", v2(0x21, INET6)),
        (b"::ffff:192.0.2.1", b"192.0.2.2", b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n", v2(0x11, INET)),
        (b"fe80::1%eth0", b"fe80::2", b"PROXY TCP6 fe80::1 fe80::2 123 5678\r\n", None),
        (b"", b"192.0.2.2", b"PROXY UNKNOWN\r\n", v2(0x00, b"", command=0x20)),
        (b"192.0.2.1", b"/run/app.sock", b"PROXY UNKNOWN\r\n", v2(0x00, b"", command=0x20)),
    ],
)
def test_built_headers(source: bytes, dest: bytes, line: bytes, binary: bytes | None) -> None:
    assert build_v1(source, 123, dest, 5678) == line
    assert binary is None or build_v2(source, 123, dest, 5678) == binary


def test_addresses_of_two_families_become_ipv6() -> None:
    for build in (build_v1, build_v2):
        assert parse(header := build(b"192.0.2.1", 1, b"2001:db8::2", 2)) == Header(b"192.0.2.1", 1, len(header))
        assert parse(header := build(b"2001:db8::1", 1, b"192.0.2.2", 2)) == Header(b"2001:db8::1", 1, len(header))
