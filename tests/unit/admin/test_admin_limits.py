"""Who is one client to the rate limits."""

from __future__ import annotations

from canaryproxy.admin.limits import RateLimiter


def test_addresses_of_ipv4_on_a_socket_for_both_are_different_clients() -> None:
    limiter = RateLimiter(1)
    assert limiter.take("::ffff:192.0.2.1", 0.0) == 0
    assert limiter.take("::ffff:192.0.2.1", 0.0) > 0
    assert limiter.take("::ffff:192.0.2.2", 0.0) == 0
