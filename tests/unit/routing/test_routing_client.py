"""Who the client is (H4): the right-most hop that we do not trust, and never what only a stranger says."""

from __future__ import annotations

import time
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.routing.client import client_address, normalise_address, user_address

PROXY, OTHER_PROXY, CLIENT, FORGED = b"10.0.0.1", b"10.0.0.2", b"198.51.100.7", b"6.6.6.6"


def trusted(address: bytes) -> bool:
    return address.startswith(b"10.") or address == b"2001:db8::1"


CHAINS: dict[str, tuple[bytes, bytes | None, bytes]] = {
    "no-field": (PROXY, None, PROXY),
    "empty-field": (PROXY, b"", PROXY),
    "one": (PROXY, CLIENT, CLIENT),
    "stranger-is-not-asked": (CLIENT, FORGED, CLIENT),
    "right-most-not-left-most": (PROXY, FORGED + b", " + CLIENT, CLIENT),
    "over-trusted-hops": (PROXY, FORGED + b"," + CLIENT + b" ,\t" + OTHER_PROXY, CLIENT),
    "only-trusted-hops": (PROXY, b"10.0.0.3, 10.0.0.2", b"10.0.0.3"),
    "forged-trusted-hop": (PROXY, b"10.9.9.9, " + CLIENT, CLIENT),
    "malformed-ends": (PROXY, CLIENT + b", x, 10.0.0.2", OTHER_PROXY),
    "malformed-at-once": (PROXY, CLIENT + b", unknown", PROXY),
    "empty-element-ends": (PROXY, CLIENT + b",", PROXY),
    "port": (PROXY, CLIENT + b":8080", CLIENT),
    "ipv6": (PROXY, b"2001:DB8:0:0:0:0:0:2", b"2001:db8::2"),
    "ipv6-brackets": (PROXY, b"[2001:db8::2]", b"2001:db8::2"),
    "ipv6-port": (PROXY, b"[2001:db8::2]:443", b"2001:db8::2"),
    "ipv6-trusted-hop": (PROXY, FORGED + b", [2001:DB8::1]:9", FORGED),
    "ipv6-peer": (b"2001:db8::1", CLIENT, CLIENT),
    "mapped-hop": (PROXY, b"::ffff:198.51.100.7", CLIENT),
    "mapped-peer": (b"::ffff:10.0.0.1", CLIENT, CLIENT),
    "mapped-stranger": (b"::FFFF:198.51.100.7", FORGED, CLIENT),
    "unix-socket": (b"", CLIENT, b""),
    "hidden": (PROXY, b"_hidden", PROXY),
    "quoted": (PROXY, b'"198.51.100.7"', PROXY),
    "leading-zero": (PROXY, b"198.51.100.07", PROXY),
    "short": (PROXY, b"198.51.100", PROXY),
    "too-large": (PROXY, b"198.51.100.256", PROXY),
    "two-ports": (PROXY, CLIENT + b":1:2", PROXY),
    "no-port": (PROXY, CLIENT + b":", PROXY),
    "zone": (PROXY, b"fe80::1%eth0", PROXY),
    "open-bracket": (PROXY, b"[2001:db8::2", PROXY),
    "brackets-around-ipv4": (PROXY, b"[198.51.100.7]", PROXY),
    "8-bit": (PROXY, b"\xc3\xa9", PROXY),
    "digits-of-another-script": (PROXY, "١.١.١.١".encode(), PROXY),
    "newline": (PROXY, CLIENT + b"\n", PROXY),
}


@pytest.mark.parametrize(("peer", "field", "client"), CHAINS.values(), ids=[f"H4-{name}" for name in CHAINS])
def test_client_address(peer: bytes, field: bytes | None, client: bytes) -> None:
    assert client_address(peer, field, trusted) == client


def test_a_chain_is_followed_so_far_and_no_further() -> None:
    assert client_address(PROXY, CLIENT + b", 10.0.0.2" * 31, trusted) == CLIENT
    assert client_address(PROXY, CLIENT + b", 10.0.0.2" * 32, trusted) == OTHER_PROXY
    started = time.process_time()
    client_address(PROXY, b"10.0.0.2," * 4000 + OTHER_PROXY, trusted)
    client_address(PROXY, b"[" * 32_000, trusted)
    client_address(PROXY, b":" * 32_000, trusted)
    assert time.process_time() - started < 0.05


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.lists(st.ip_addresses().map(lambda address: str(address).encode()), max_size=3))
def test_what_a_client_writes_never_counts(forged: bytes, hops: list[bytes]) -> None:
    """Whatever stands before the address that the first trusted proxy saw, that address is the client's."""
    chain = b", ".join([forged.replace(b"\n", b""), CLIENT, *(b"10.%d.0.1" % number for number, _ in enumerate(hops))])
    assert client_address(PROXY, chain, trusted) == CLIENT
    for hop in hops:
        found = client_address(PROXY, forged + b"," + hop, trusted)
        assert found in (normalise_address(hop), PROXY) or trusted(normalise_address(hop))
        assert ip_address(found.decode())


@pytest.mark.parametrize(
    ("address", "user"),
    [
        (b"192.0.2.7", b"192.0.2.0/24"),
        (b"2001:db8:1:2:3:4:5:6", b"2001:db8:1:2::/64"),
        (b"2001:db8::1", b"2001:db8::/64"),
        (b"::1", b"::/64"),
        (b"fe80::1%eth0", b"fe80::/64"),
        (b"", b""),
        (b"app.sock", b"app.sock"),
        (b"a:b", b"a:b"),
    ],
)
def test_user_address(address: bytes, user: bytes) -> None:
    assert user_address(address) == user


def test_one_network_is_one_user() -> None:
    assert user_address(b"192.0.2.1") == user_address(b"192.0.2.254") != user_address(b"192.0.3.1")
    assert user_address(b"2001:db8::1") == user_address(b"2001:db8::ffff:0:1") != user_address(b"2001:db8:0:1::1")


def test_normalise_address() -> None:
    pairs = {
        b"::FFFF:192.0.2.1": b"192.0.2.1",
        b"2001:DB8:0::1": b"2001:db8::1",
        b"192.0.2.1": b"192.0.2.1",
        b"": b"",
        b":": b":",
    }
    assert {address: normalise_address(address) for address in pairs} == pairs
