"""One rollout of one cell: the world, the engine and the other tools' rules, second by second. What came of it as a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import process_time
from zlib import crc32

import numpy as np

from bench.detection.cells import Cell
from bench.detection.peers import PEERS, Record
from bench.detection.ticks import Sampling
from bench.detection.world import Ints, World
from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.settings import GoalRule, JudgeSettings
from canaryproxy.analysis.verdict import Action, Verdict
from canaryproxy.rollout import machine, model

SEED = 20_261_125
#: Stable is watched so long before the rollout begins.
REST = 240
#: A promotion that has not come by then never does.
PATIENCE = 4 * 3600


@dataclass
class Run:
    """When (seconds since the rollout began, None: never) the engine asked for what first, and why; what the users had of it.

    `errors`: the canary's failed requests from the fault's onset until the rollback, all of them, judged or not; `hurt` the users
    who had them. `peers`: when each other tool rolled back. `judge_us`: CPU time of the engine for
    a tick, on average.
    """

    number: int
    rollback: int | None = None
    pause: int | None = None
    freeze: int | None = None
    promote: int | None = None
    full: int | None = None
    why: str = ""
    paused_why: str = ""
    errors: int = 0
    hurt: int = 0
    quarantined: int = 0
    judge_us: float = 0.0
    peers: dict[str, int | None] = field(default_factory=dict)


class Schedule:
    """The weights of a fixed schedule, whatever the engine says."""

    def __init__(self, cell: Cell, judge: Judge) -> None:
        self._judge = judge
        self._begins = np.cumsum([0, *(seconds for _, seconds in cell.schedule)])[:-1].tolist()
        self._weights = [weight for weight, _ in cell.schedule]
        self.weight = 0.0
        self.full = False

    def begin(self, second: int) -> None:
        """The weight of this second."""
        if second == 0:
            self._judge.begin_rollout()
        elif second in self._begins:
            self._judge.begin_step()
        if second in self._begins:
            self.weight = self._weights[self._begins.index(second)]

    def follow(self, verdict: Verdict, second: int) -> None:
        """A fixed schedule does not."""


class Rollout(Schedule):
    """The weights that the product's own state machine makes of the engine's verdicts."""

    def __init__(self, cell: Cell, judge: Judge) -> None:
        super().__init__(cell, judge)
        steps = tuple(model.PlanStep(round(weight * model.EVERYBODY), seconds) for weight, seconds in cell.schedule)
        self._plan = model.Plan(steps, bake=30.0, max_step_duration=PATIENCE)
        self._rollout = model.Rollout("bench", "v1", "v2", "v1", "v2", self._plan)

    def begin(self, second: int) -> None:
        """Start it."""
        if second == 0:
            self._advance(model.Start(self._plan, salt=1), second)

    def follow(self, verdict: Verdict, second: int) -> None:
        """What the machine makes of it."""
        self._advance(model.Tick(verdict, 1.0), second + 1)

    def _advance(self, event: model.Event, now: int) -> None:
        self._rollout, effects = machine.advance(self._rollout, event, float(now))
        for effect in effects:
            if isinstance(effect, model.ResetEvidence):
                (self._judge.begin_rollout if effect.scope == "rollout" else self._judge.begin_step)()
        self.weight = self._rollout.weight_bp / model.EVERYBODY
        self.full = self._rollout.weight_bp == model.EVERYBODY


class _Damage:
    """What users had of the canary's fault."""

    def __init__(self, people: int) -> None:
        self.errors = 0
        self._hurt = np.zeros(people, np.bool_)

    def add(self, users: Ints) -> None:
        self.errors += len(users)
        self._hurt[users] = True

    @property
    def hurt(self) -> int:
        return int(np.count_nonzero(self._hurt))


def simulate(cell: Cell, number: int, *, peers: bool, make: Callable[[JudgeSettings], Judge] = Judge) -> Run:
    """The rollout `number` of `cell`; the same every time. `peers`: also what the other tools would have done."""
    seeds = np.random.SeedSequence(SEED, spawn_key=(crc32(cell.name.encode()), number)).spawn(2)
    world = World(cell.scenario, np.random.default_rng(seeds[0]))
    sampling = Sampling(world, np.random.default_rng(seeds[1]))
    judge = make(JudgeSettings(goals=(GoalRule("orders"),) if cell.scenario.goals else ()))
    driven = cell.kind == "promotion"
    schedule = (Rollout if driven else Schedule)(cell, judge)
    record = Record(world, cell.seconds) if peers and cell.peers else None
    run, damage, ticks, spent, over = Run(number), _Damage(world.people), 0, 0.0, False
    for second in range(-REST, PATIENCE if driven else cell.seconds):
        schedule.begin(second)
        if second == 0:
            sampling.begin_rollout()
        faulty = second >= cell.onset and cell.kind in ("fault", "margin")
        fault = cell.fault if faulty else None
        requests = world.second(second, schedule.weight, fault)
        if record is not None and second >= 0:
            record.add(second, requests)
        if not over:
            tick = sampling.tick(second, requests, world.goals(second, schedule.weight, fault), schedule.weight)
            if faulty:
                damage.add(requests.user[requests.canary & (requests.failed | np.isinf(requests.latency))])
            began = process_time()
            if second < 0:
                judge.observe(tick)
            else:
                verdict = judge.judge(tick, full_weight=schedule.full)
                _note(run, verdict, second + 1)
                if verdict.quarantine:
                    sampling.quarantine(verdict.quarantine)
                    run.quarantined = len(verdict.quarantine)
                schedule.follow(verdict, second)
                if schedule.full and run.full is None:
                    run.full = second + 1
            spent, ticks = spent + process_time() - began, ticks + 1
            sampling.ask(second + 1, judge.questions, judge.slow_us)
            over = _decided(cell, run)
        if over and record is None:
            break
    run.errors, run.hurt, run.judge_us = damage.errors, damage.hurt, 1e6 * spent / max(ticks, 1)
    if record is not None:
        run.peers = {name: rule(record) for name, rule in PEERS.items()}
    return run


def simulate_piece(cell: Cell, numbers: Sequence[int], peer_runs: int) -> tuple[str, list[Run]]:
    """Several rollouts of a cell, by its name; of the first `peer_runs` of all also what the other tools would have done."""
    return cell.name, [simulate(cell, number, peers=number < peer_runs) for number in numbers]


def _note(run: Run, verdict: Verdict, now: int) -> None:
    """The first time that it asks for each thing."""
    match verdict.action:
        case Action.ROLLBACK if run.rollback is None:
            run.rollback, run.why = now, verdict.sentence
        case Action.PAUSE if run.pause is None:
            run.pause, run.paused_why = now, verdict.sentence
        case Action.FREEZE | Action.STEP_BACK if run.freeze is None:
            run.freeze = now
        case Action.PROMOTE if run.promote is None:
            run.promote = now


def _decided(cell: Cell, run: Run) -> bool:
    """Whether nothing that can still come changes the run's result."""
    if run.rollback is not None:
        return True
    if cell.kind == "promotion":
        return run.full is not None or run.pause is not None
    return cell.kind == "margin" and (run.promote is not None or run.pause is not None)
