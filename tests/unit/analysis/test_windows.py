from __future__ import annotations

import json

from canaryproxy.analysis.windows import Block, Windows


def _block(stable: int, canary: int, failed: int, elapsed: float = 1.0) -> Block:
    return Block(elapsed, (stable, 0), (canary, failed))


def test_the_shortest_window_that_shows_it_is_named() -> None:
    windows = Windows(1)
    for _ in range(200):
        windows.add(_block(90, 10, 0))
    for _ in range(3):
        windows.add(_block(90, 10, 1))
    seen = windows.worse_by(0.01, 0, least=8)
    assert seen is not None
    assert seen.window == "in the last 15 s"
    assert seen.prefix == "in the last 15 s "
    assert 100 <= seen.block.canary[0] <= 150


def test_too_few_requests_are_no_size() -> None:
    windows = Windows(1)
    windows.add(_block(90, 7, 7))
    assert windows.worse_by(0.01, 0, least=8) is None
    windows.add(_block(90, 1, 0))
    assert windows.worse_by(0.01, 0, least=8) is not None


def test_a_step_shows_what_the_last_minute_is_too_short_for() -> None:
    windows = Windows(1)
    windows.add(_block(90, 10, 5))
    for _ in range(100):
        windows.add(_block(9, 0, 0))
    seen = windows.worse_by(0.01, 0, least=8)
    assert seen is not None
    assert (seen.window, seen.prefix) == ("in this step", "")
    windows.new_step()
    assert windows.worse_by(0.01, 0, least=8) is None


def test_without_stable_there_is_no_difference() -> None:
    windows = Windows(1)
    windows.add(_block(0, 100, 100))
    assert windows.worse_by(0.01, 0, least=8) is None


def test_the_last_minute_is_at_most_a_minute() -> None:
    windows = Windows(1)
    for _ in range(1000):
        windows.add(_block(1, 1, 0, elapsed=1.02))
    slices = windows.state()["slices"]
    assert len(slices) == 12
    assert 50 < sum(one[0] for one in slices) < 63


def test_it_survives_json() -> None:
    windows = Windows(1)
    for number in range(7):
        windows.add(_block(number, 1, 0, elapsed=1.1))
    again = Windows(1, json.loads(json.dumps(windows.state())))
    assert again.state() == windows.state()
    assert again.step == windows.step
