"""The real judge: whatever it was told through a live journal, a replay finds the same, restarts included."""

from __future__ import annotations

import json
import random

import pytest

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.replay import Block, Replayed, replay
from canaryproxy.analysis.sample import ArmTick, Cohort, Group, Measurement, Tick
from canaryproxy.analysis.settings import Bound, FloorRule, GoalRule, JudgeSettings, LatencyRule, OutsideRule
from canaryproxy.analysis.verdict import Action, Verdict
from canaryproxy.control.journal import Journal
from canaryproxy.rollout.model import Plan, PlanStep, Rollout
from canaryproxy.store.base import JournalBlock, JournalEnd

SETTINGS = JudgeSettings(
    latency=(LatencyRule(), LatencyRule("latency_p50", 0.5)),
    goals=(GoalRule("checkout"),),
    success_floor=FloorRule(0.9),
    outside=(OutsideRule("cpu", increase=Bound(0.2, relative=True), window=3.0), OutsideRule("queue", most=5.0)),
    warmup=3.0,
    warmup_requests=5,
    min_requests=50,
)
ROLLOUT = Rollout("shop", "v1", "v2", "v1", "v2", Plan((PlanStep(100, 60),), 60, 600), started_at=1000.0, salt=7)


class Traffic:
    """Seconds of traffic from a seed; `bad` is the share of the canary's requests that fail."""

    def __init__(self, seed: int) -> None:
        self._random, self._second = random.Random(seed), 0
        self.bad = 0.0

    def tick(self, judge: Judge) -> Tick:
        self._second += 1
        stable, canary = self._arm(judge, 300, 0.01, every=10), self._arm(judge, 30, self.bad, every=1)
        return Tick(self._random.uniform(0.99, 1.01), stable, canary, 0.1, 0.0987, self._outside())

    def _outside(self) -> tuple[Measurement, ...]:
        if self._second % 3:
            return ()
        at, age = 1.7e9 + self._second + 0.1, self._random.uniform(0.0, 0.5)
        cpu = Measurement("cpu", at, age, self._random.gauss(1, 0.1), self._random.gauss(1.1, 0.1))
        return cpu, Measurement("queue", at, age, error="did not answer within 5 s")

    def _arm(self, judge: Judge, rate: int, bad: float, every: int) -> ArmTick:
        count = self._random.randint(rate // 2, rate * 3 // 2)
        failed = sum(self._random.random() < bad for _ in range(count))
        latency: dict[int, int] = {}
        for _ in range(count):
            bucket = round(self._random.gauss(300, 20))
            latency[bucket] = latency.get(bucket, 0) + 1
        cohorts = {}
        for name, edges in judge.questions.items():
            late = sorted((self._random.randint(0, count // 10 + 1) for _ in edges), reverse=True)
            cohorts[name] = (Cohort(edges, count, tuple(max(0, count - one) for one in late)),)
        groups = {}
        if self._second % every == 0:
            for n in range(0, 256, 7):
                began = self._random.randint(1, 5)
                groups[n] = Group(began, began, self._random.random() < bad * began, 0)
        return ArmTick(
            *(count, failed, cohorts, dict(sorted(latency.items()))),
            refused=count // 50,
            began=count,
            in_flight=3,
            goals=(count // 20,),
            groups=groups,
            sizes={10: count // 2, 11: count // 3},
            users=100,
            hurt=failed,
        )


class Live:
    """A judge as `control.route` has it, with its journal, and what is on disk."""

    def __init__(self, judge: Judge | None = None) -> None:
        self.judge = judge or Judge(SETTINGS)
        self.journal = Journal(SETTINGS, lambda: self.judge)
        self.disk: list[JournalBlock] = []
        self.state = ""

    def judge_seconds(self, traffic: Traffic, count: int) -> Verdict:
        for _ in range(count):
            tick = traffic.tick(self.judge)
            verdict = self.judge.judge(tick, full_weight=False)
            self.journal.judged(tick, False, verdict)
        return verdict

    def save(self) -> None:
        batch = self.journal.take()
        self.disk += batch.blocks()
        self.journal.confirm(batch)
        self.state = json.dumps(self.judge.state())

    def killed_and_started(self) -> Live:
        again = Live(Judge(SETTINGS, json.loads(self.state)))
        end = self.disk[-1]
        again.disk, again.state = self.disk, self.state
        again.journal.resume(ROLLOUT, JournalEnd(end.rollout, end.first + end.ticks))
        return again


@pytest.mark.parametrize("seed", [1, 2])
def test_the_real_judge_finds_the_same_again_across_a_kill(seed: int) -> None:
    traffic, live = Traffic(seed), Live()
    for _ in range(60):
        live.judge.observe(traffic.tick(live.judge))
    live.judge.begin_rollout()
    live.journal.begin(ROLLOUT)
    for _ in range(6):
        live.judge_seconds(traffic, 5)
        live.save()
    live.judge.begin_step()
    live.journal.step()
    live.judge_seconds(traffic, 5)
    live.save()
    live.judge_seconds(traffic, 3)  # lost
    live = live.killed_and_started()
    traffic.bad = 0.3
    last = live.judge_seconds(traffic, 20)
    live.save()
    assert last.action is Action.ROLLBACK
    blocks = [Block(block.first, block.ticks, block.data) for block in live.disk]
    again = list(replay(blocks, Judge))
    assert [one.tick for one in again if isinstance(one, Replayed)] == list(range(55))
    assert all(isinstance(one, Replayed) and one.same for one in again)
    assert isinstance(again[-1], Replayed)
    assert again[-1].verdict == last, "not only its sentence: every number of every metric"
