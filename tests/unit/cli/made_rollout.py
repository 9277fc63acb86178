"""Rollouts that were never run, as a state file: the real judge, machine, journal and store, on made-up counts and time.

A plugin of the tests of this directory. It asserts nothing itself (PYTEST_DONT_REWRITE).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.sample import ArmTick, Cohort, Group, Tick
from canaryproxy.analysis.settings import JudgeSettings
from canaryproxy.control.journal import Journal, rollout_id
from canaryproxy.rollout import model
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Event, Plan, PlanStep, Record, ResetEvidence, Rollout
from canaryproxy.stats import histogram
from canaryproxy.store.base import Decision
from canaryproxy.store.sqlite import SqliteStore

START = 1_795_000_000.0
PLAN = Plan((PlanStep(500, 20.0), PlanStep(2_500, 20.0), PlanStep(5_000, 20.0)), 20.0, 7200.0)


class Made:
    """One rollout of route `shop` as it goes on; `failing` is the share of the canary's requests that fail."""

    def __init__(self, path: Path, plan: Plan = PLAN, rate: float = 150.0, seed: int = 1) -> None:
        self.path, self.now, self.failing, self.slower = path, START, 0.0, 0
        self._rng, self._rate = random.Random(seed), rate
        self.rollout = Rollout("shop", "v1", "v2", "v1", "v2", plan)
        self._judge = Judge(JudgeSettings())
        self._journal = Journal(JudgeSettings(), lambda: self._judge)
        self._decisions: list[Decision] = []
        self._users, self._began, self._pending = 0.0, 0.0, list[tuple[int, tuple[int, ...], int, int]]()
        for _ in range(60):
            self._judge.observe(self._tick())
        self.do(model.Start(plan, salt=7))

    @property
    def id(self) -> str:
        """The name of its journal."""
        return rollout_id(self.rollout)

    def do(self, event: Event, note: str = "") -> None:
        """Decide, and keep what was decided."""
        self.rollout, effects = advance(self.rollout, event, self.now)
        for effect in effects:
            match effect:
                case ResetEvidence("rollout"):
                    self._judge.begin_rollout()
                    self._journal.begin(self.rollout)
                case ResetEvidence():
                    self._judge.begin_step()
                    self._journal.step()
                case Record(kind, sentence, data):
                    data = data | ({"journal": self._journal.position} if "verdict" in data else {})
                    self._decisions.append(Decision(self.now, kind, sentence, data | ({"note": note} if note else {})))

    def run(self, seconds: int) -> None:
        """So many ticks, or until the rollout has ended."""
        for _ in range(seconds):
            if not self.rollout.in_progress:
                return
            self.now += 1
            tick, full = self._tick(), self.rollout.weight_bp == model.EVERYBODY
            verdict = self._judge.judge(tick, full_weight=full)
            self._journal.judged(tick, full, verdict)
            self.do(model.Tick(verdict, 1.0))
            self._save()

    def stand_still(self, seconds: float) -> None:
        """Nothing is counted for so long."""
        self.now += seconds

    def deploy(self, pool: str) -> None:
        """Another canary takes the place, and does not start yet."""
        self._decisions.append(Decision(self.now, "deploy", f"deploy of {pool} asked for", {"state": "asked", "pool": pool}))
        fresh = Rollout("shop", "v1", pool, "v1", pool, self.rollout.plan)
        self.rollout = replace(fresh, salt=self.rollout.salt, revision=self.rollout.revision + 1)

    def save(self, users: int | None = None) -> Path:
        """All of it in the state file; `users` is what the registers say."""
        if users is not None:
            self._users = users
        self._save()
        return self.path

    def _save(self) -> None:
        if len(self._decisions) or self.now % 60 == 0 or not self.rollout.in_progress:
            batch = self._journal.take()
            with closing(SqliteStore(self.path)) as store:
                beside: dict[str, Any] = {"users": [7, int(self._users), 0]}
                store.save("shop", self.rollout.to_dict(), beside, self._decisions, batch.blocks())
            self._journal.confirm(batch)
            self._decisions = []

    def _tick(self) -> Tick:
        weight = self.rollout.weight_bp / model.EVERYBODY
        load = self._rate * (1 + 0.3 * self._rng.uniform(-1, 1))
        self._users += load * weight * 0.02
        stable = self._arm(round(load * (1 - weight)), 0.001, 0)
        canary = self._arm(round(load * weight), self.failing or 0.001, self.slower, int(self._users))
        return Tick(1.0, stable, canary, weight, weight or None)

    def _arm(self, requests: int, failing: float, slower: int, users: int = 0) -> ArmTick:
        failed = sum(self._rng.random() < failing for _ in range(requests))
        times = [round(self._rng.lognormvariate(0, 0.5) * 12_000) + slower for _ in range(requests)]
        latency: dict[int, int] = {}
        for us in times:
            latency[histogram.index(us)] = latency.get(histogram.index(us), 0) + 1
        cohorts = {
            name: (Cohort(edges, requests, tuple(sum(us <= edge for us in times) for edge in edges)),)
            for name, edges in self._judge.questions.items()
        }
        groups: dict[int, Group] = {}
        for n in range(requests):
            known = groups.get(group := self._rng.randrange(256), Group(0, 0, 0, 0))
            groups[group] = Group(known[0] + 1, known[1] + 1, known[2] + (n < failed), known[3])
        hurt = failed if users else 0
        return ArmTick(
            requests,
            failed,
            cohorts,
            dict(sorted(latency.items())),
            began=requests,
            groups=dict(sorted(groups.items())),
            users=users,
            hurt=min(hurt, users),
        )


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Made]:
    """Make a rollout in a state file of its own."""
    return lambda **how: Made(tmp_path / "state.db", **how)
