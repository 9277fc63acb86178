from __future__ import annotations

from math import log

import pytest

from canaryproxy.analysis import words
from canaryproxy.analysis.comparison import ladder


def test_percent() -> None:
    assert [words.percent(part, 402) for part in (8, 201, 0, 1, 402)] == ["2.0 %", "50 %", "0 %", "0.25 %", "100 %"]
    assert words.percent(41, 39_800) == "0.10 %"
    assert words.percent(0, 0) == "-"


def test_odds() -> None:
    assert words.odds(log(858)) == "858 to 1"
    assert words.odds(log(3.14)) == "3.1 to 1"
    assert words.odds(-5) == "less than 0.1 to 1"
    assert words.odds(600) == "over a million to 1"
    assert words.limit(log(1 / 0.0035)) == "(acts at 286)"


def test_latency() -> None:
    assert [words.latency(us) for us in (4_100, 250_000, 1_020_000, None)] == ["4.1 ms", "250 ms", "1.02 s", "unknown"]


def test_still_needed() -> None:
    assert words.still_needed(250) == "needs about 250 more canary requests as good as stable's"
    assert words.still_needed(None) == "no number of requests like these would prove it"


def test_a_ladder_is_its_reference_for_its_own_margin_and_stretches_for_others() -> None:
    reference = (0.01, 0.016, 0.025, 0.05, 0.12, 0.35, 0.80)
    assert ladder(0.01, reference) == pytest.approx(reference[1:])
    for delta in (0.0001, 0.05, 0.5):
        rungs = ladder(delta, reference)
        assert list(rungs) == sorted(rungs)
        assert rungs[0] > delta
        assert rungs[-1] == pytest.approx(0.8)
