"""The detection benchmark's own parts: world and figures are what they say; and a short run of the real engine."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from bench.detection.__main__ import main
from bench.detection.cells import CELLS, IID
from bench.detection.peers import MINUTE, PEERS, Record
from bench.detection.report import acted, delays, early, false_alarms, fault_delays, markdown, reasons, rollback, verdict
from bench.detection.run import Run, simulate
from bench.detection.statistics import proportion, quantile
from bench.detection.ticks import Sampling
from bench.detection.world import CAP, Fault, Scenario, World
from canaryproxy.analysis.sample import T_HANG


def _world(scenario: Scenario = IID, seed: int = 1) -> World:
    return World(scenario, np.random.default_rng(seed))


def test_rates_shares_and_errors_are_those_of_the_scenario() -> None:
    world = _world(Scenario(base=0.02))
    seconds = [world.second(n, 0.05, None) for n in range(60)]
    requests = sum(len(one.user) for one in seconds)
    assert requests == pytest.approx(60_000, rel=0.03)
    assert sum(one.failed.sum() for one in seconds) / requests == pytest.approx(0.02, rel=0.15)
    latency = np.concatenate([one.latency for one in seconds])
    assert np.quantile(latency, 0.95) == pytest.approx(0.2, rel=0.03)
    canary = sum(one.canary.sum() for one in seconds)
    assert canary / requests == pytest.approx(world.share(0.05), rel=0.1)


def test_a_fault_touches_only_the_canary() -> None:
    world = _world()
    seconds = [world.second(n, 0.5, Fault(errors=0.5, slower=1.0, hangs=0.1)) for n in range(10)]
    for one in seconds:
        assert one.failed[~one.canary].mean() < 0.02
        assert one.failed[one.canary].mean() > 0.3
        assert one.latency[one.canary].min() > 1.0
        assert not np.isinf(one.latency[~one.canary]).any()


def test_one_user_is_judged_for_a_few_requests_only() -> None:
    world = _world(Scenario(bot=True))
    seconds = [world.second(n, 0.0, None) for n in range(10)]
    bot = world.people - 1
    judged = sum(int((one.judged & (one.user == bot)).sum()) for one in seconds)
    assert sum(int((one.user == bot).sum()) for one in seconds) > 60
    assert judged <= CAP


def test_a_tick_counts_each_judged_request_once_and_a_hang_after_its_time() -> None:
    world = _world()
    sampling = Sampling(world, np.random.default_rng(2))
    began = resolved = 0
    for n in range(30):
        tick = sampling.tick(n, world.second(n, 0.1, Fault(hangs=1.0)), (0, 0), 0.1)
        began, resolved = began + tick.canary.began, resolved + tick.canary.resolved
        assert tick.canary.failed == tick.canary.resolved
        assert tick.canary.in_flight == began - resolved
        if n < T_HANG - 1:
            assert not tick.canary.resolved
    assert resolved > 0


def test_quarantined_groups_are_in_no_count() -> None:
    world = _world()
    sampling = Sampling(world, np.random.default_rng(2))
    sampling.quarantine(tuple(range(255)))
    tick = sampling.tick(0, world.second(0, 0.5, None), (0, 0), 0.5)
    assert set(tick.canary.groups) <= {255}
    assert tick.stable.began + tick.canary.began < 30


def test_the_other_tools_find_what_nobody_can_miss() -> None:
    world = _world()
    record = Record(world, 600)
    for n in range(600):
        record.add(n, world.second(n, 0.05, Fault(errors=0.6)))
    found = {name: rule(record) for name, rule in PEERS.items()}
    assert found["Argo, limit 0"] == MINUTE
    assert found["Argo, limit 3"] == 4 * MINUTE
    assert found["Flagger"] == found["Kayenta"] == 5 * MINUTE
    assert found["z-test"] is not None
    assert found["z-test"] < 30
    assert found["GrowthBook"] is not None


def test_the_same_number_is_the_same_rollout() -> None:
    cell = CELLS["errors-50"].shortened(30)
    first, second = simulate(cell, 3, peers=False), simulate(cell, 3, peers=False)
    assert replace(first, judge_us=0.0) == replace(second, judge_us=0.0)
    assert first.rollback is not None
    assert first.rollback <= 5
    assert first.errors >= first.hurt > 0


def test_intervals_are_the_text_books() -> None:
    assert proportion(0, 1000).high == pytest.approx(0.00368, rel=0.01)
    assert proportion(5, 100).low == pytest.approx(0.01643, rel=0.01)
    assert quantile([*range(1, 101)], 0.5)[0] == 50
    assert quantile([1.0, inf], 0.95).value == inf
    with pytest.raises(ValueError, match="2 hits of 1 runs"):
        proportion(2, 1)


@pytest.mark.parametrize(
    ("hits", "runs", "said"),
    [
        (0, 80, "met, not surely"),
        (0, 1000, "met"),
        (1, 80, "**missed**, not surely"),
        (40, 80, "**missed**"),
    ],
)
def test_a_target_is_met_surely_only_if_the_interval_is_within_it(hits: int, runs: int, said: str) -> None:
    assert verdict((proportion(hits, runs), 0.01)) == said
    assert verdict((proportion(0, 5000), 0.01), (proportion(hits, runs), 0.01)) == said


def test_figures_say_what_the_runs_say() -> None:
    later = CELLS["later-5"]
    runs = [
        Run(0, rollback=later.onset + 4, why="canary 8/40 failed (20 %), ..."),
        Run(1, pause=later.onset + 2, rollback=later.onset + 9, why="canary 3/4 hung", paused_why="canary 1 conversions"),
        Run(2, rollback=later.onset - 10, why="x failed"),
    ]
    assert delays(later, runs, rollback) == [4, 9]
    assert delays(later, runs[1:2], acted) == [2]
    assert early(later, runs, rollback) == 1
    assert reasons(runs) == [("rollback: error_rate", 2), ("rollback: stalls", 1), ("pause: goal", 1)]
    healthy = [Run(n, rollback=5 if n == 0 else None) for n in range(50)]
    row = false_alarms({"aa-0.1": healthy})[0]
    assert row[2].startswith("2 %")
    assert "**missed**, not surely" in row[5]
    assert false_alarms({"aa-0.1": [Run(n, freeze=9 if n < 25 else None) for n in range(50)]})[0][4] == "50 %"
    assert fault_delays({"later-5": runs})[0][2].startswith("4")
    assert "| independent failures, 0.1 % | 50 |" in markdown({"aa-0.1": healthy}, ["here"])


def test_a_short_run_of_the_engine_meets_its_marks(tmp_path: Path) -> None:
    cells = main(["--short", "--json", str(tmp_path / "runs.json"), "--processes", "1"])["cells"]
    assert [run.rollback for run in cells["aa-bot"]] == [None] * 4
    assert all(run.rollback is not None and run.rollback <= 3 for run in cells["errors-50"])
    assert all(run.rollback is not None and run.rollback - CELLS["hang-100"].onset <= 5 for run in cells["hang-100"])
    assert (tmp_path / "runs.json").exists()


def test_a_report_changes_nothing_whatever_code_the_runs_are_of(tmp_path: Path) -> None:
    kept = tmp_path / "runs.json"
    runs = [asdict(Run(n, rollback=4)) for n in range(3)]
    kept.write_text(json.dumps({"cells": {"errors-50": {"code": "of long ago", "runs": runs}}}))
    before = kept.read_bytes()
    assert [run.rollback for run in main(["--report", "--json", str(kept)])["cells"]["errors-50"]] == [4, 4, 4]
    assert kept.read_bytes() == before
    with pytest.raises(SystemExit):
        main(["--report", "--json", str(tmp_path / "none.json")])
