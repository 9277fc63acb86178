"""Whole rollouts in a small simulated world with a fixed seed: 1000 requests/s, 1 % to the canary, p95 of 200 ms.

These few runs guard the order of magnitude of every promise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from canaryproxy.analysis.judge import Judge, JudgeSettings
from canaryproxy.analysis.sample import ArmTick, Cohort, Tick
from canaryproxy.analysis.verdict import Action, Verdict
from canaryproxy.stats.histogram import index

_MEDIAN_US, _SIGMA = 80_000, 0.557  # p95 200 ms


def _binomial(rng: Random, n: int, p: float) -> int:
    return sum(rng.random() < p for _ in range(n))


@dataclass
class World:
    """Answers a judge tick by tick. Stable's latencies are drawn once and used in random order, for speed."""

    seed: int
    base: float = 0.001
    stable_rate: int = 990
    canary_rate: int = 10
    canary_errors: float = 0.001
    canary_delay_us: int = 0
    hangs: float = 0.0
    judge: Judge = field(default_factory=lambda: Judge(JudgeSettings()))

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        draws = [sorted(self._latency() for _ in range(self.stable_rate)) for _ in range(8)]
        self._stable = [(one, dict(Counter(map(index, one)))) for one in draws]
        self._delayed: list[tuple[Cohort, Cohort]] = []
        for _ in range(5):
            self.judge.observe(self.tick())

    def _latency(self) -> int:
        return int(self.rng.lognormvariate(0, _SIGMA) * _MEDIAN_US)

    def tick(self, share: int | None = None) -> Tick:
        """One second. Cohorts are known one tick after they started (their thresholds are below a second)."""
        rng, thresholds = self.rng, self.judge.thresholds_us
        latencies, histogram = rng.choice(self._stable)
        canary = [10**9 if rng.random() < self.hangs else self._latency() + self.canary_delay_us for _ in range(self.canary_rate)]
        canary.sort()
        started = tuple(
            Cohort(thresholds, len(arm), tuple(bisect_right(arm, threshold) for threshold in thresholds))
            for arm in (latencies, canary)
        )
        self._delayed.append((started[0], started[1]))
        ready = self._delayed.pop(0) if len(self._delayed) > 1 else None
        failed = _binomial(rng, self.stable_rate, self.base), _binomial(rng, self.canary_rate, self.canary_errors)
        return Tick(
            1.0,
            ArmTick(self.stable_rate, failed[0], (ready[0],) if ready else (), histogram),
            ArmTick(
                self.canary_rate,
                failed[1],
                (ready[1],) if ready else (),
                Counter(map(index, (us for us in canary if us < 10**8))),
            ),
        )

    def start(self) -> None:
        self.judge.begin_rollout()
        self.judge.begin_step()

    def until(self, *actions: Action, ticks: int) -> tuple[int, Verdict] | None:
        """The tick (first is 1) at which the judge first asked for one of the actions."""
        for number in range(1, ticks + 1):
            verdict = self.judge.judge(self.tick(), full_weight=False)
            if verdict.action in actions:
                return number, verdict
        return None


def median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]


def test_twenty_healthy_canaries_are_never_rolled_back_nor_paused() -> None:
    for seed in range(20):
        world = World(seed)
        world.start()
        assert world.until(Action.ROLLBACK, Action.PAUSE, ticks=120) is None


def test_half_failing_is_found_within_three_ticks() -> None:
    for seed in range(10):
        world = World(seed)
        world.start()
        assert world.until(Action.ROLLBACK, Action.PAUSE, ticks=30) is None
        world.canary_errors = 0.5
        assert world.until(Action.ROLLBACK, ticks=3) is not None


def test_five_percent_is_found_in_seconds() -> None:
    found = []
    for seed in range(15):
        world = World(seed, canary_errors=0.05)
        world.start()
        hit = world.until(Action.ROLLBACK, ticks=60)
        assert hit is not None
        found.append(hit[0])
    assert median(found) <= 15


def test_two_hundred_milliseconds_more_are_found_within_five_ticks_of_the_cohorts() -> None:
    for seed in range(5):
        world = World(seed)
        world.start()
        assert world.until(Action.ROLLBACK, Action.PAUSE, ticks=30) is None
        world.canary_delay_us = 200_000
        assert world.until(Action.ROLLBACK, ticks=6) is not None


def test_a_canary_that_never_answers_is_found_within_five_ticks() -> None:
    world = World(1)
    world.start()
    assert world.until(Action.ROLLBACK, Action.PAUSE, ticks=30) is None
    world.hangs = 1.0
    assert world.until(Action.ROLLBACK, ticks=6) is not None


def test_a_healthy_canary_is_promoted_in_about_a_minute() -> None:
    found = []
    for seed in range(9):
        world = World(seed)
        world.start()
        hit = world.until(Action.PROMOTE, Action.ROLLBACK, Action.PAUSE, ticks=180)
        assert hit is not None
        assert hit[1].action is Action.PROMOTE
        found.append(hit[0])
    assert 25 <= median(found) <= 75
