"""The PROXY protocol, versions 1 and 2: who the client of a connection is, said by the load balancer before anything else.

Pure. `parse` is called by `proxy.accept`, the builders by whoever connects to an upstream. The source is HAProxy's
`proxy-protocol.txt` (2020/03/05), sections 2.1 and 2.2; where it leaves a choice, the strict one is taken.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from canaryproxy.http1.head import MessageError

#: Section 2: both formats fit into the smallest segment that every host takes, 576 - 40 bytes.
MAX_HEADER: Final = 536
#: Section 2.1: the longest line, CRLF included.
_MAX_LINE: Final = 107
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PREAMBLE_SIZE: Final = 16
_WORDS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ")
_UNKNOWN: Final = b"PROXY UNKNOWN\r\n"
_LOCAL: Final = SIGNATURE + b"\x20\0\0\0"
_NUMBER = rb"(0|[1-9][0-9]{0,4})"
_tcp_line = re.compile(rb"PROXY TCP[46] ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) " + _NUMBER + b" " + _NUMBER).fullmatch

#: Section 2.2: the bytes of the addresses of each family; what UNSPEC carries is ignored whole.
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_ADDRESS_BYTES: Final = {_INET: 12, _INET6: 36, _UNIX: 216}
_STREAM, _DGRAM = 1, 2
_CRC32C_TLV: Final = 0x03

_NO_HEADER: Final = MessageError(400, "proxy_protocol_missing")
_BAD_LINE: Final = MessageError(400, "proxy_protocol_bad_line")
_BAD_HEADER: Final = MessageError(400, "proxy_protocol_bad_header")
_TOO_LONG: Final = MessageError(400, "proxy_protocol_too_long")
_BAD_CHECKSUM: Final = MessageError(400, "proxy_protocol_bad_checksum")


class Header(NamedTuple):
    """The client's address in its canonical form (an IPv4-mapped one as IPv4) and port, and the bytes the header takes.

    `source` is None where the connection's own addresses count: it is the balancer's own (a health check), or of a kind
    that has no IP address.
    """

    source: bytes | None
    source_port: int
    size: int


Address = IPv4Address | IPv6Address


def parse(buffer: bytes) -> Header | MessageError | None:
    """The header at the start of `buffer`; None while more bytes may make it one, which is never from `MAX_HEADER` bytes on."""
    if SIGNATURE.startswith(buffer[: len(SIGNATURE)]):
        return _parse_v2(buffer)
    if any(word.startswith(buffer[: len(word)]) for word in _WORDS) or buffer.startswith(_UNKNOWN[:-1]):
        return _parse_v1(buffer[:_MAX_LINE])
    return _NO_HEADER


def _parse_v1(head: bytes) -> Header | MessageError | None:
    line, found, _ = head.partition(b"\r\n")
    if not found:
        line = line.removesuffix(b"\r")
    if b"\r" in line or b"\n" in line:
        return _BAD_LINE  # neither ends a line alone, not even one that is ignored
    if not found:
        return None if len(line) <= _MAX_LINE - 2 else _TOO_LONG
    size = len(line) + 2
    if line.startswith(_UNKNOWN[:-2]):
        return Header(None, 0, size)
    parts = _tcp_line(line)
    if parts is None:
        return _BAD_LINE
    kind = IPv4Address if line.startswith(_WORDS[0]) else IPv6Address
    try:
        source, _ = kind(parts[1].decode()), kind(parts[2].decode())
    except AddressValueError:
        return _BAD_LINE
    port, dest_port = int(parts[3]), int(parts[4])
    return Header(_text(source), port, size) if max(port, dest_port) <= 0xFFFF else _BAD_LINE


def _parse_v2(buffer: bytes) -> Header | MessageError | None:
    # Each byte is judged as it comes: nobody is waited for who cannot come to a good end.
    preamble = buffer[:_PREAMBLE_SIZE]
    if len(preamble) > 12 and preamble[12] not in (0x20, 0x21):
        return _BAD_HEADER
    if len(preamble) > 13 and (preamble[13] >> 4 > _UNIX or preamble[13] & 0xF > _DGRAM):
        return _BAD_HEADER  # section 2.2: "must be rejected as invalid by receivers"
    if len(preamble) < _PREAMBLE_SIZE:
        return None
    size = _PREAMBLE_SIZE + int.from_bytes(preamble[14:])
    if size > MAX_HEADER:
        return _TOO_LONG
    family, transport = preamble[13] >> 4, preamble[13] & 0xF
    is_local = preamble[12] == 0x20
    ignored = is_local or transport != _STREAM or family == _UNSPEC
    start = _PREAMBLE_SIZE + (0 if ignored else _ADDRESS_BYTES[family])
    if size < start:
        return _BAD_HEADER
    if len(buffer) < size:
        return None
    if ignored:
        return Header(None, 0, size)
    error = _extension_error(buffer[:size], start)
    return error or Header(*_binary_source(family, buffer[_PREAMBLE_SIZE:start]), size)


def _binary_source(family: int, addresses: bytes) -> tuple[bytes | None, int]:
    if family == _INET:
        return _text(IPv4Address(addresses[:4])), int.from_bytes(addresses[8:10])
    if family == _INET6:
        return _text(IPv6Address(addresses[:16])), int.from_bytes(addresses[32:34])
    return None, 0


def _extension_error(header: bytes, start: int) -> MessageError | None:
    """What is wrong with the type-length-value fields from `start` on; of what they say, only the checksum is read."""
    at = start
    while at < len(header):
        value = at + 3
        end = value + int.from_bytes(header[at + 1 : value])
        if end > len(header):
            return _BAD_HEADER
        if header[at] == _CRC32C_TLV:
            summed = crc32c(header[:value] + bytes(end - value) + header[end:])
            if header[value:end] != summed.to_bytes(4):
                return _BAD_CHECKSUM
        at = end
    return None


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901  # shifts the same register on
        table.append(value)
    return tuple(table)


_TABLE: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The checksum of RFC 4960, appendix B (Castagnoli); 50 us for the longest header, and few senders add one."""
    register = 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ _TABLE[(register ^ byte) & 0xFF]
    return register ^ 0xFFFFFFFF


def _text(address: Address) -> bytes:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address).encode()


# Building.


def build_v1(source: bytes, source_port: int, dest: bytes, dest_port: int) -> bytes:
    """The line for a connection from `source` to `dest`; UNKNOWN where one of them is no IP address (b"" is none)."""
    pair = _pair(source, dest)
    if pair is None:
        return _UNKNOWN
    ends = str(pair[0]).encode(), str(pair[1]).encode()
    return b"PROXY TCP%d %b %b %d %d\r\n" % (pair[0].version, *ends, source_port, dest_port)


def build_v2(source: bytes, source_port: int, dest: bytes, dest_port: int) -> bytes:
    """The binary header for a connection from `source` to `dest`; LOCAL where one of them is no IP address (b"" is none)."""
    pair = _pair(source, dest)
    if pair is None:
        return _LOCAL
    addresses = pair[0].packed + pair[1].packed + source_port.to_bytes(2) + dest_port.to_bytes(2)
    family = _INET if pair[0].version == 4 else _INET6
    return SIGNATURE + bytes((0x21, family << 4 | _STREAM)) + len(addresses).to_bytes(2) + addresses


def _pair(source: bytes, dest: bytes) -> tuple[Address, Address] | None:
    """Both addresses in one family: where they are of two, the IPv4 one mapped into IPv6, as HAProxy does."""
    first, second = _address(source), _address(dest)
    if first is None or second is None:
        return None
    return (first, second) if first.version == second.version else (_mapped(first), _mapped(second))


def _address(text: bytes) -> Address | None:
    text = text.partition(b"%")[0]  # a link-local peer's scope means nothing elsewhere
    try:
        address = IPv6Address(text.decode("ascii")) if b":" in text else IPv4Address(text.decode("ascii"))
    except ValueError:
        return None
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped or address


def _mapped(address: Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(bytes(10) + b"\xff\xff" + address.packed)
