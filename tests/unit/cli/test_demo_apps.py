"""The demo's app: healthy at first, then its fault, and it says whom it hurt."""

from __future__ import annotations

import random

import pytest

from canaryproxy.cli.demo.apps import App
from canaryproxy.cli.demo.scenario import ERROR_SHARE, HANG_SHARE, SLOWER, Fault

LATER = 104.0


def app(fault: Fault) -> App:
    """An app whose first request came at 100.0; its fault begins at `LATER`."""
    made = App("v2", fault, 4.0, random.Random(1))
    delay, status, faulty = made.decide(100.0, 99.9)
    assert delay is not None
    assert (status, faulty) == (200, False)
    return made


@pytest.mark.parametrize("fault", list(Fault))
def test_healthy_until_the_fault_begins(fault: Fault) -> None:
    made = app(fault)
    decided = [made.decide(LATER - 0.1, 0.0) for _ in range(100)]
    assert all(delay is not None and delay < SLOWER and status == 200 and not faulty for delay, status, faulty in decided)


def test_errors_and_hangs_hit_a_share_of_the_requests() -> None:
    errors, hangs = app(Fault.ERRORS), app(Fault.HANG)
    failed = sum(errors.decide(LATER, 0.0)[1] == 500 for _ in range(2000))
    hanging = sum(hangs.decide(LATER, 0.0)[0] is None for _ in range(2000))
    assert failed / 2000 == pytest.approx(ERROR_SHARE, abs=0.04)
    assert hanging / 2000 == pytest.approx(HANG_SHARE, abs=0.04)


def test_slow_hits_every_request() -> None:
    made = app(Fault.SLOW)
    decided = [made.decide(LATER, 0.0) for _ in range(100)]
    assert all(delay is not None and delay > SLOWER and status == 200 and faulty for delay, status, faulty in decided)


def test_a_fault_is_told_once() -> None:
    made = app(Fault.ERRORS)
    made.note_fault(105.0, 7, "a")
    made.note_fault(106.0, 8, "b")
    assert made.counts() == {
        "served": 1,
        "last_sent": 99.9,
        "last_began": 100.0,
        "first_fault": 105.0,
        "last_fault": 106.0,
        "faults": [(7, "a"), (8, "b")],
    }
    assert made.counts()["faults"] == []


def test_a_fault_that_is_switched_on_and_off() -> None:
    made = App("v2", Fault.ERRORS, float("inf"), random.Random(1), 1.0)
    assert made.decide(100.0, 99.9)[1] == 200
    made.note_fault(100.5, 1, "a")
    made.begin_fault(101.0)
    assert made.counts()["first_fault"] is None
    assert made.decide(101.0, 100.9)[1] == 500
    made.end_fault()
    assert made.decide(102.0, 101.9)[1] == 200
    assert made.counts()["last_began"] == 102.0
