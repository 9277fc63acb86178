"""What is counted: one outcome for each exchange, start cohorts that add up, acknowledged epochs (docs/statistics.md 3)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wire import GET, OK, Wire

from canaryproxy.analysis.sample import T_HANG
from canaryproxy.shared.board import AckRow
from canaryproxy.shared.layout import CANARY, RING, WITHDRAWN_AT, Count
from canaryproxy.stats import histogram


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def cohort(wire: Wire) -> tuple[int, ...]:
    return tuple(map(sum, zip(*(wire.counts().cohort(second) for second in range(RING)), strict=True)))


@pytest.mark.parametrize(("elapsed", "cls"), [(0.05, 1), (0.1, 1), (0.105, 2), (0.12, 3), (0.14, 4), (0.2, 5), (9.9, 5)])
def test_an_answer_is_in_the_class_of_its_latency(wire: Wire, elapsed: float, cls: int) -> None:
    client = wire.client()
    client.send(GET)
    wire.now += elapsed - 1e-7
    wire.origin.send(OK)
    counted = cohort(wire)
    assert counted[0] == counted[cls] == 1
    assert sum(counted) == 2
    assert wire.counts().resolved == 1
    assert wire.counts()[Count.LATENCY_SUM_US] == pytest.approx(elapsed * 1e6, abs=2)
    assert wire.counts().latency[histogram.index(wire.counts()[Count.LATENCY_SUM_US])] == 1


def test_an_answer_belongs_to_the_second_of_its_start(wire: Wire) -> None:
    wire.now = 1004.9
    client = wire.client()
    client.send(GET)
    wire.now = 1006.0
    wire.origin.send(OK)
    assert wire.counts().cohort(1004)[0] == sum(wire.counts().cohort(1004)[1:]) == 1


def test_a_response_that_goes_on_for_long_is_judged_by_its_head(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.now += 0.05
    wire.origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
    wire.advance(4.9)
    assert wire.counts().resolved == 0
    wire.advance(T_HANG)
    assert cohort(wire)[:2] == (1, 1)
    wire.origin.send(b"bc")
    assert (wire.counts().resolved, wire.counts()[Count.FAILED]) == (1, 0)
    assert wire.outcomes() == {Count.C2XX: 1}
    assert wire.counts()[Count.LATENCY_SUM_US] == pytest.approx(50_000, abs=2)


def test_a_long_response_that_breaks_off_has_failed_all_the_same(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
    wire.advance(T_HANG)
    wire.origin.send_fin()
    assert client.was_reset
    assert wire.counts()[Count.FAILED] == 1
    assert wire.outcomes() == {Count.TRUNCATED: 1}


def test_what_hangs_is_neither_resolved_nor_in_a_class(wire: Wire) -> None:
    client = wire.client()
    client.send(GET)
    wire.advance(T_HANG + 0.1)
    assert cohort(wire)[0] == sum(cohort(wire)), "unanswered: the sampler counts it as hung"
    wire.origin.send(OK)
    assert (cohort(wire)[0], sum(cohort(wire))) == (1, 1), "and so it stays"
    assert wire.counts().resolved == 0
    assert wire.outcomes() == {Count.C2XX: 1}
    wire.hung = 1


@pytest.mark.parametrize(
    ("elapsed", "place"),
    [(0.01, WITHDRAWN_AT), (0.14, WITHDRAWN_AT + 3), (0.2, WITHDRAWN_AT + 4), (9.9, WITHDRAWN_AT + 4), (10.1, None)],
)
def test_a_client_that_gives_up(wire: Wire, elapsed: float, place: int | None) -> None:
    """To a question whose last threshold has passed the request was slow, whoever ended it; to the others it says nothing."""
    client = wire.client()
    client.send(GET)
    wire.now += elapsed
    client.reset()
    counted = cohort(wire)
    assert counted[0] == 1
    assert sum(counted[1:]) == (1 if place else 0)
    if place:
        assert counted[place] == 1
    else:
        wire.hung = 1
    assert wire.outcomes() == {Count.CLIENT_GONE: 1}
    assert wire.counts().resolved == wire.counts()[Count.FAILED] == 0
    assert not any(wire.counts().latency)


@pytest.mark.parametrize(
    ("status", "count", "failed"),
    [
        (200, Count.C2XX, 0),
        (301, Count.C3XX, 0),
        (404, Count.C4XX, 0),
        (429, Count.C429, 0),
        (500, Count.C5XX, 1),
        (503, Count.C5XX, 1),
        (799, Count.C5XX, 1),
    ],
)
def test_outcomes_by_status(wire: Wire, status: int, count: Count, failed: int) -> None:
    wire.exchange(response=OK.replace(b"200", b"%d" % status))
    assert wire.outcomes() == {count: 1}
    assert wire.counts()[Count.FAILED] == failed
    assert wire.counts().resolved == 1


@pytest.mark.parametrize("failure", ["refused", "garbage", "lost", "500"])
def test_a_request_without_a_user_is_counted_but_not_judged(wire: Wire, failure: str) -> None:
    wire.publish(100)
    wire.holds_connects = True
    client = wire.client()
    client.send(GET)
    if failure == "refused":
        wire.refuse()
    else:
        wire.accept()
        if failure == "lost":
            wire.origin.send_fin()
        else:
            wire.origin.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n" if failure == "500" else b"bad\r\n\r\n")
    assert sum(wire.outcomes().values()) == 1
    assert wire.counts().resolved == wire.counts()[Count.FAILED] == 0
    assert not any(cohort(wire))


def test_errors_of_requests_that_never_began_are_not_counted(wire: Wire) -> None:
    for bad in (b"bad\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"):
        client = wire.client()
        client.send(bad)
        assert client.read().startswith(b"HTTP/1.1 4")
    assert wire.counts()[Count.STARTED] == 0


def test_epochs_are_acknowledged_at_the_next_beat(wire: Wire) -> None:
    AckRow(wire.segment, 0).beat(wire.now, 0, (0,))
    epoch = wire.publish(100)
    assert wire.board.applied(0, epoch) == (0, 1)
    AckRow(wire.segment, 0).beat(wire.now, 0, (0,))
    assert wire.board.applied(0, epoch) == (1, 1)
    assert wire.board.applied(0, wire.publish(200)) == (0, 1)


def test_during_a_rollout_only_identified_users_are_judged(wire: Wire) -> None:
    wire.publish(10_000)
    wire.exchange()
    wire.exchange(GET[:-2] + b"Cookie: uid=anna\r\n\r\n")
    assert wire.outcomes(CANARY) == {Count.C2XX: 2}
    assert (wire.counts(CANARY).resolved, sum(wire.counts(CANARY).latency)) == (1, 1)
