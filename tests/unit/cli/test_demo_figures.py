"""What the demo says of a story's end: the counts, and every reason why it did not end as it should."""

from __future__ import annotations

from typing import Any

from canaryproxy.cli.demo.figures import Ending, Tally, objections, summary
from canaryproxy.cli.demo.scenario import SCENARIOS

ROLLED_BACK = Ending("rolled_back", at=12.0, seen=12.2)


def tally(**v2: Any) -> Tally:
    """v2 hurt requests 7 and 9 (users a, b) with 500s; the last reached its user at 11.9."""
    told = Tally()
    told.hear_app("v1", {"served": 900, "last_sent": 15.0, "faults": []})
    told.hear_app(
        "v2", {"served": 100, "last_sent": 11.9, "first_fault": 11.0, "last_fault": 11.8, "faults": [[7, "a"], [9, "b"]]} | v2
    )
    failures = [[7, "a", 11.2, "v2", 500], [9, "b", 11.9, "v2", 500]]
    told.hear_load({"sent": 1000, "users": 50, "skipped": 0, "lately": {}, "failures": failures})
    return told


def test_nothing_to_object_to() -> None:
    assert objections(SCENARIOS["errors"], ROLLED_BACK, tally()) == []


def test_the_wrong_phase() -> None:
    assert objections(SCENARIOS["errors"], Ending("promoted", 12.0, 12.2), tally()) == [
        "the rollout is promoted, and should be rolled back"
    ]


def test_a_failure_that_no_fault_explains() -> None:
    told = tally()
    told.hear_load({"failures": [[11, "c", 13.0, "", 0]]})
    assert objections(SCENARIOS["errors"], ROLLED_BACK, told) == [
        "1 requests failed without a fault of v2, the first with no answer"
    ]


def test_a_fault_that_is_told_after_its_failure_explains_it() -> None:
    told = tally()
    told.hear_load({"failures": [[11, "c", 11.95, "", 504]]})
    told.hear_app("v2", {"last_sent": 11.9, "faults": [[11, "c"]]})
    assert objections(SCENARIOS["errors"], ROLLED_BACK, told) == []


def test_a_request_that_reached_v2_after_the_rollback() -> None:
    assert objections(SCENARIOS["errors"], ROLLED_BACK, tally(last_sent=12.5)) == [
        "a request sent 0.30 s after the rollback reached v2"
    ]


def test_a_fault_that_never_came() -> None:
    told = Tally()
    assert objections(SCENARIOS["hang"], ROLLED_BACK, told) == ["v2 never served its fault"]


def test_the_figures_of_errors() -> None:
    assert dict(summary(SCENARIOS["errors"], ROLLED_BACK, tally(), 14.3)) == {
        "ending": "rolled back after 14.3 s",
        "first fault to rollback": "1.00 s",
        "first to last fault at a user": "0.90 s",
        "requests hurt by v2": "2 of 1,000 (0.20%)",
        "users hurt by v2": "2 of 50 (4.00%)",
        "failures without a fault": "0",
        "requests that v1, v2 got": "900, 100",
    }


def test_slow_answers_hurt_although_none_failed() -> None:
    told = tally()
    told.failures.clear()
    figures = dict(summary(SCENARIOS["slow"], ROLLED_BACK, told, 14.3))
    assert figures["requests hurt by v2"] == "2 of 1,000 (0.20%)"
    assert figures["first to last fault at a user"] == "0.80 s"


def test_a_story_that_ended_before_anything_was_told() -> None:
    assert dict(summary(SCENARIOS["healthy"], Ending("idle"), Tally(), 120.0))["requests hurt by v2"] == "0 of 0"


def test_lately_counts_an_unanswered_request_for_the_version_whose_fault_it_was() -> None:
    told = tally()
    lately = {"v1": {"answers": 300, "p95_ms": 28.0}, "v2": {"answers": 28, "p95_ms": 27.0}}
    told.hear_app("v2", {"faults": [[20, "d"]]})
    told.hear_load({"lately": lately, "failures": [[20, "d", 20.0, "", 504], [21, "e", 20.5, "v2", 500]]})
    v1, v2 = told.lately("v1", 21.0), told.lately("v2", 21.0)
    assert v1 is not None
    assert (v1.rate, v1.failed, v1.p95_ms) == (100.0, 0.0, 28.0)
    assert v2 is not None
    assert v2.failed == 2 / 29  # an answered failure is among the answers, an unanswered one is not
    assert told.lately("v3", 21.0) is None
