from __future__ import annotations

import os
from typing import Any

import pytest

from canaryproxy.config.schema import Limits
from canaryproxy.proxy.overload import Level, Overload, count_open_files, keep_alive_timeout, read_rss, trim_memory

MIB = 1 << 20
IDLE: dict[str, Any] = {"lag": 0.0, "rss": 0, "connections": 0, "files": 0}


def overload(max_files: int = 10_064, **limits: Any) -> Overload:
    return Overload(Limits.model_validate({"client_connections": 1000, "memory": 100 * MIB, **limits}), max_files)


@pytest.mark.parametrize(
    ("figure", "busy", "full", "reason"),
    [
        ("rss", 85 * MIB, 95 * MIB, "memory"),
        ("connections", 800, 1000, "connections"),
        ("files", 8000, 10_000, "files"),
    ],
)
def test_each_figure_has_two_thresholds(figure: str, busy: int, full: int, reason: str) -> None:
    one = overload()
    seen = []
    for value in (busy - 1, busy, full - 1, full, 2 * full):
        seen.append((one.update(**{**IDLE, figure: value}), one.reasons))
    normal, is_busy, is_full = (Level.NORMAL, ()), (Level.BUSY, (reason,)), (Level.FULL, (reason,))
    assert seen == [normal, is_busy, is_busy, is_full, is_full]


@pytest.mark.parametrize(("figure", "busy", "full"), [("rss", 85 * MIB, 95 * MIB), ("connections", 800, 1000)])
def test_a_level_ends_below_where_it_began(figure: str, busy: int, full: int) -> None:
    one = overload()
    levels = [one.update(**{**IDLE, figure: int(value)}) for value in (full, full * 0.96, full * 0.94, full * 0.96, full)]
    assert levels == [Level.FULL, Level.FULL, Level.BUSY, Level.BUSY, Level.FULL]
    levels = [one.update(**{**IDLE, figure: int(value)}) for value in (busy * 0.96, busy * 0.94, busy * 0.96)]
    assert levels == [Level.BUSY, Level.NORMAL, Level.NORMAL]


def lags(one: Overload, *seconds: float) -> list[Level]:
    return [one.update(**{**IDLE, "lag": lag}) for lag in seconds]


def test_a_machine_that_stood_still_is_not_full() -> None:
    one = overload()
    assert lags(one, 0, 3600, 0, 0, 0) == [Level.NORMAL, Level.BUSY, Level.BUSY, Level.NORMAL, Level.NORMAL]


def test_lag_that_stays() -> None:
    one = overload()
    assert lags(one, *[0.9] * 20) == [Level.NORMAL] * 20
    assert lags(one, *[1.2] * 20)[-1] is Level.BUSY
    assert one.reasons == ("loop_lag",)
    assert lags(one, *[3.9] * 20)[-1] is Level.BUSY
    assert lags(one, *[4.5] * 4)[-1] is Level.FULL
    assert lags(overload(), 8, 8)[-1] is Level.FULL, "at once, if it is long"
    assert lags(one, *[0] * 4)[-1] is Level.NORMAL


def test_the_worst_figure_counts() -> None:
    one = overload()
    assert one.update(lag=0, rss=86 * MIB, connections=1000, files=10_000) is Level.FULL
    assert one.reasons == ("connections", "files")
    assert one.update(lag=0, rss=86 * MIB, connections=900, files=0) is Level.BUSY
    assert one.reasons == ("memory", "connections")


def test_requests_are_refused_only_for_what_they_cost() -> None:
    one = overload()

    def sheds(**figures: float) -> bool:
        one.update(**{**IDLE, **figures})
        return one.sheds

    assert not sheds(rss=86 * MIB, connections=1000, files=10_000), "who is connected is served, however many there are"
    assert sheds(rss=96 * MIB)
    assert not sheds(lag=8)
    assert sheds(lag=8)


def test_zero_is_no_limit() -> None:
    one = overload(memory=0, loop_lag=0)
    assert one.update(lag=1000, rss=1 << 50, connections=0, files=0) is Level.NORMAL


def test_files_below_the_reserve() -> None:
    assert overload(max_files=10).update(lag=0, rss=0, connections=0, files=5) is Level.FULL


@pytest.mark.parametrize(
    ("base", "connections", "seconds"),
    [(75, 0, 75), (75, 800, 75), (75, 900, 40), (75, 1000, 5), (75, 2000, 5), (3, 0, 3), (3, 1000, 3)],
)
def test_idle_clients_leave_sooner(base: float, connections: int, seconds: float) -> None:
    assert keep_alive_timeout(base, connections, 1000) == pytest.approx(seconds)


def test_open_files_are_counted_or_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    before = count_open_files(-1)
    if before != -1:
        fd = os.dup(0)
        assert count_open_files(-1) == before + 1
        os.close(fd)
    nothing = os.stat_result((0,) * 10)
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda _path: nothing)
        assert count_open_files(17) == 17


def test_rss_is_read_and_goes_down_again() -> None:
    trim_memory()
    before = read_rss()
    assert MIB < before < 1 << 40
    kept, blocks = [], []
    for _ in range(600):
        blocks.append(bytearray(b"x") * 60_000)  # below malloc's threshold for blocks of their own
        kept.append(bytearray(700))  # what keeps the heap from shrinking by itself
    high = read_rss()
    assert high > before + 20 * MIB
    blocks.clear()
    trim_memory()
    assert read_rss() < high - 20 * MIB


def test_rss_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("builtins.open", refuse)
    assert read_rss() == 0
