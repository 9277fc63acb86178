"""Users, not requests, are what is counted: the cap, quarantine, conversions, sizes, and who is hurt (docs/statistics.md 5)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wire import OK, Wire

from canaryproxy.analysis.sample import GROUPS
from canaryproxy.routing.goals import goal_rule
from canaryproxy.routing.split import Seat, seat
from canaryproxy.shared.layout import CANARY, STABLE, Count
from canaryproxy.shared.ledger import size_row
from canaryproxy.shared.reading import count_users, read_buckets, read_groups, read_registers, read_sizes

ERROR = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
CREATED = OK.replace(b"200", b"201")


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire(workers=1) as wire:
        wire.publish(10_000)
        yield wire


def get(user: str, target: str = "/", method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: shop\r\nCookie: uid={user}\r\n\r\n".encode()


def groups(wire: Wire, user: Seat, variant: int = CANARY) -> list[int]:
    return list(read_groups(wire.segment, 0, variant)[user.group])


# The cap.


def test_one_user_is_never_more_than_the_cap_of_the_counts(wire: Wire) -> None:
    """Numerator and denominator alike: of forty failures five count, and of forty successes of another user five."""
    for _ in range(40):
        wire.exchange(get("bot"), ERROR)
        wire.exchange(get("anna"))
    counts = wire.counts(CANARY)
    assert (counts[Count.STARTED], counts[Count.C5XX], counts[Count.C2XX]) == (80, 40, 40)
    assert (counts.resolved, counts[Count.FAILED], counts.judged(Count.C5XX)) == (10, 5, 5)
    assert groups(wire, seat(7, b"bot")) == [5, 5, 5, 0]
    assert sum(counts.latency) == 10
    assert sum(words[0] for words in counts.cohorts) == 10


def test_the_cap_is_per_user_and_window(wire: Wire) -> None:
    for _ in range(3):
        for user in ("anna", "ben", "clara"):
            for _ in range(6):
                wire.exchange(get(user))
        wire.advance(10.0)
    assert wire.counts(CANARY).resolved == 3 * 3 * 5


def test_the_workers_share_the_cap() -> None:
    with Wire(workers=2) as wire:
        wire.publish(10_000)
        for _ in range(6):
            wire.exchange(get("anna"))
        assert wire.counts(CANARY).resolved == 3


def test_at_rest_a_user_is_capped_and_who_is_none_is_not(wire: Wire) -> None:
    wire.publish(0)
    for _ in range(8):
        wire.exchange(get("anna"))
        wire.exchange()
    assert wire.counts(STABLE).resolved == 5 + 8


# Quarantine.


def test_a_group_in_quarantine_is_in_no_count_of_either_variant(wire: Wire) -> None:
    bot, anna = seat(7, b"bot"), seat(7, b"anna")
    assert bot.group != anna.group
    wire.board.quarantine(0, (bot.group,))
    for weight in (10_000, 1):  # the canary's, then stable's: neither user is in the first bucket
        wire.publish(weight)
        variant = CANARY if weight == 10_000 else STABLE
        wire.exchange(get("bot"), ERROR)
        wire.exchange(get("anna"))
        counts = wire.counts(variant)
        assert wire.outcomes(variant) == {Count.C5XX: 1, Count.C2XX: 1}, "for display"
        assert (counts.resolved, counts[Count.FAILED], sum(counts.latency)) == (1, 0, 1)
        assert groups(wire, bot, variant) == [0, 0, 0, 0]
        assert groups(wire, anna, variant) == [1, 1, 0, 0]
    assert [count_users(files) for files in read_registers(wire.segment, 0, 7)] == [1, 0]


def test_a_quarantine_ends_with_the_rollout(wire: Wire) -> None:
    wire.board.quarantine(0, tuple(range(GROUPS)))
    wire.exchange(get("anna"))
    assert wire.counts(CANARY).resolved == 0
    wire.publish(0)
    wire.exchange(get("anna"))
    assert wire.counts(STABLE).resolved == 1, "the groups are of the rollout's salt; at rest it is the next one's"
    wire.publish(10_000, salt=8)
    wire.origins = [end for end in wire.origins if end.get_extra_info("peername")[0].startswith("10.0.2.")]
    wire.exchange(get("anna"))
    assert wire.counts(CANARY).resolved == 1


def test_who_began_before_the_quarantine_is_counted_to_the_end(wire: Wire) -> None:
    client = wire.client()
    client.send(get("anna"))
    wire.board.quarantine(0, tuple(range(GROUPS)))
    wire.origin.send(OK)
    assert wire.counts(CANARY).resolved == 1
    assert groups(wire, seat(7, b"anna")) == [1, 1, 0, 0]


# Salts.


def test_at_rest_users_are_counted_under_the_next_rollouts_salt(wire: Wire) -> None:
    wire.publish(0)
    wire.board.publish_next_salt(0, 9)
    wire.exchange(get("anna"))
    wire.exchange()
    buckets = read_buckets(wire.segment, 0)
    assert (buckets[seat(9, b"anna").bucket], sum(buckets)) == (1, 1)
    assert groups(wire, seat(9, b"anna"), STABLE) == [1, 1, 0, 0]
    wire.publish(10_000, salt=9)
    wire.exchange(get("anna"))
    assert sum(read_buckets(wire.segment, 0)) == 1
    assert groups(wire, seat(9, b"anna"), CANARY) == [1, 1, 0, 0]


def test_equal_bytes_of_another_user_of_the_address_are_told_apart() -> None:
    with Wire(affinity={"cookieless": "ip"}, workers=1) as wire:
        wire.publish(10_000)
        for _ in range(2):
            for n in range(20):
                client = wire.client(f"192.0.{n}.9")
                client.send(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
                wire.origin.send(OK)
        assert count_users(read_registers(wire.segment, 0, 7)[0]) == 20


def test_who_met_the_canary_and_who_was_hurt(wire: Wire) -> None:
    for n in range(30):
        for answer in (OK, ERROR if n < 3 else OK):
            wire.exchange(get(f"user-{n}"), answer)
    assert [count_users(files) for files in read_registers(wire.segment, 0, 7)] == [30, 3]
    wire.publish(10_000, salt=8)
    wire.exchange(get("user-1"))
    assert [count_users(files) for files in read_registers(wire.segment, 0, 8)] == [1, 0]


# Goals.


def set_goals(wire: Wire, *rules: tuple[str, str, str] | None) -> None:
    goals = tuple(rule and goal_rule(*rule) for rule in rules)
    object.__setattr__(wire.worker.routes[0], "goals", goals)


def goals_of(wire: Wire, variant: int = CANARY) -> list[int]:
    return list(wire.counts(variant).goals[:3])


def test_a_conversion_counts_once_for_a_user_and_window(wire: Wire) -> None:
    set_goals(wire, ("POST", "/orders", "201"), None, ("GET", "/", "2xx"))
    wire.advance(0)
    for _ in range(7):
        wire.exchange(get("anna", "/orders?x=1", "POST"), CREATED)
    wire.exchange(get("ben", "/orders", "POST"), CREATED)
    wire.exchange(get("clara", "/orders", "POST"), OK)
    wire.exchange(get("dora", "/orders", "POST"), ERROR)
    assert goals_of(wire) == [2, 0, 0]
    wire.exchange(get("anna", "/orders"), OK)
    assert goals_of(wire) == [2, 0, 1], "another goal of the same user"
    wire.advance(60)
    wire.exchange(get("anna", "/orders", "POST"), CREATED)
    assert goals_of(wire) == [3, 0, 1]


def test_a_conversion_beyond_the_cap_counts_and_one_in_quarantine_does_not(wire: Wire) -> None:
    set_goals(wire, ("POST", "/orders", "2xx"))
    for _ in range(9):
        wire.exchange(get("anna"))
    wire.exchange(get("anna", "/orders", "POST"))
    assert goals_of(wire) == [1, 0, 0]
    wire.board.quarantine(0, (seat(7, b"ben").group,))
    wire.exchange(get("ben", "/orders", "POST"))
    assert goals_of(wire) == [1, 0, 0]


def test_a_conversion_is_the_canary_s_whoever_has_answered(wire: Wire) -> None:
    set_goals(wire, ("POST", "/orders", "2xx"))
    wire.holds_connects = True
    client = wire.client()
    client.send(get("anna", "/orders", "POST"))
    wire.refuse()
    wire.accept()
    assert wire.origin.get_extra_info("peername")[0].startswith("10.0.1.")
    wire.origin.send(OK)
    assert (goals_of(wire, STABLE), goals_of(wire, CANARY)) == ([0, 0, 0], [1, 0, 0])


def test_an_answer_that_breaks_off_is_no_conversion(wire: Wire) -> None:
    set_goals(wire, ("POST", "/orders", "2xx"))
    client = wire.client()
    client.send(get("anna", "/orders", "POST"))
    wire.origin.send(b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\na")
    wire.origin.send_fin()
    assert goals_of(wire) == [0, 0, 0]
    assert wire.outcomes(CANARY) == {Count.TRUNCATED: 1}


def test_a_goal_needs_a_user(wire: Wire) -> None:
    set_goals(wire, ("GET", "/", "2xx"))
    wire.exchange()
    assert goals_of(wire) == [0, 0, 0]


# Sizes.


def test_the_size_of_an_answer_is_counted_in_its_class(wire: Wire) -> None:
    wire.exchange(get("anna", "/item/1"))
    wire.exchange(get("ben", "/item/22?x"))
    wire.exchange(get("ben", "/item/22", "HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
    wire.exchange(get("clara", "/item/3"), OK.replace(b"200 OK", b"404 No"))
    sizes = {n: count for n, count in enumerate(read_sizes(wire.segment, 0, CANARY)) if count}
    assert sizes == {size_row(b"GET", b"/item/7") + 2: 2, size_row(b"HEAD", b"/item/7"): 1}


def test_429_is_an_outcome_of_its_own(wire: Wire) -> None:
    wire.exchange(get("anna"), OK.replace(b"200 OK", b"429 No"))
    wire.exchange(get("anna"), OK.replace(b"200 OK", b"430 No"))
    assert wire.outcomes(CANARY) == {Count.C429: 1, Count.C4XX: 1}
    assert wire.counts(CANARY).judged(Count.C429) == 1
    assert wire.counts(CANARY)[Count.FAILED] == 0
