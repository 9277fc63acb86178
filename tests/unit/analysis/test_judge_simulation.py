"""Whole rollouts in a small simulated world with a fixed seed: 1000 requests/s, 1 % to the canary, p95 of 200 ms.

These few runs guard the order of magnitude of every promise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from canaryproxy.analysis.judge import Judge, JudgeSettings
from canaryproxy.analysis.sample import GROUPS, ArmTick, Cohort, Group, Tick
from canaryproxy.analysis.verdict import Action, Verdict
from canaryproxy.stats.histogram import index

Cohorts = dict[str, tuple[Cohort, ...]]

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
        self._delayed: list[tuple[Cohorts, Cohorts]] = []
        for _ in range(5):
            self.judge.observe(self.tick())

    def _latency(self) -> int:
        return int(self.rng.lognormvariate(0, _SIGMA) * _MEDIAN_US)

    def tick(self) -> Tick:
        """One second. Cohorts are known one tick after they started (but for stalls, their thresholds are below a second)."""
        rng, asked = self.rng, self.judge.questions
        latencies, histogram = rng.choice(self._stable)
        canary = [10**9 if rng.random() < self.hangs else self._latency() + self.canary_delay_us for _ in range(self.canary_rate)]
        canary.sort()
        started: list[Cohorts] = [
            {
                name: (Cohort(thresholds, len(arm), tuple(bisect_right(arm, threshold) for threshold in thresholds)),)
                for name, thresholds in asked.items()
            }
            for arm in (latencies, canary)
        ]
        self._delayed.append((started[0], started[1]))
        ready = self._delayed.pop(0) if len(self._delayed) > 1 else ({}, {})
        failed = _binomial(rng, self.stable_rate, self.base), _binomial(rng, self.canary_rate, self.canary_errors)
        answered = [us for us in canary if us < 10**8]
        return Tick(
            1.0,
            ArmTick(self.stable_rate, failed[0], ready[0], histogram, began=self.stable_rate),
            ArmTick(
                self.canary_rate,
                failed[1],
                ready[1],
                Counter(map(index, answered)),
                began=self.canary_rate,
                in_flight=self.canary_rate - len(answered),
                groups=self._groups(canary, failed[1]),
                users=200,
            ),
            0.01,
            0.01,
        )

    def _groups(self, canary: list[int], failed: int) -> dict[int, Group]:
        """A user for each request, 200 of them, in groups; it does not matter to whom a failure falls."""
        rows: dict[int, Group] = {}
        for number, us in enumerate(canary):
            group = self.rng.randrange(200) * 37 % GROUPS
            ended, slow = us < 10**8, us > self.judge.slow_us
            old = rows.get(group, Group(0, 0, 0, 0))
            rows[group] = Group(old.started + 1, old.ended + ended, old.failed + (number < failed), old.slow + (slow and ended))
        return rows

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


def test_a_dozen_healthy_canaries_are_never_rolled_back_nor_paused() -> None:
    for seed in range(12):
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


def test_a_healthy_canary_with_a_bot_is_never_rolled_back() -> None:
    """The bot sends as much as the cap lets through, and all of it fails."""
    for seed in range(4):
        world = World(seed)
        world.start()
        for _ in range(150):
            tick = world.tick()
            canary, bot = tick.canary, int(world.rng.random() < 0.5)
            told = replace(
                canary,
                resolved=canary.resolved + bot,
                failed=canary.failed + bot,
                groups={**canary.groups, 250: Group(bot, bot, bot, 0)},
            )
            verdict = world.judge.judge(replace(tick, canary=told), full_weight=False)
            assert verdict.action not in (Action.ROLLBACK, Action.PAUSE), verdict.sentence
