"""A judge that was saved, sent through JSON and made again goes on bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.analysis.judge import Judge, JudgeSettings
from canaryproxy.analysis.sample import SIZE_COLUMNS, ArmTick, Cohort, Group, Tick
from canaryproxy.analysis.settings import FloorRule, GoalRule, LatencyRule, Rule
from canaryproxy.analysis.verdict import Action, Verdict

_SETTINGS = JudgeSettings(
    warmup=3.0,
    warmup_requests=5,
    min_requests=20,
    latency=(LatencyRule(), LatencyRule("latency_p50", 0.5), LatencyRule("latency_p99", 0.99, action=Action.WARN)),
    client_errors=Rule(0.02),
    goals=(GoalRule("order"), GoalRule("signup", dry_run=True)),
    success_floor=FloorRule(0.97),
)
_QUANTILES = [rule.name for rule in _SETTINGS.latency]


@st.composite
def _cohorts(draw: st.DrawFn, most: int, thresholds: int) -> tuple[Cohort, ...]:
    cohorts = []
    for _ in range(draw(st.integers(0, 2))):
        started = draw(st.integers(0, most))
        within = sorted(draw(st.lists(st.integers(0, started), min_size=thresholds, max_size=thresholds)))
        cohorts.append(Cohort(tuple(range(1, thresholds + 1)), started, tuple(within)))
    return tuple(cohorts)


_small = st.integers(0, 5)


@st.composite
def _arm(draw: st.DrawFn, most: int) -> ArmTick:
    resolved = draw(st.integers(0, most))
    failed = draw(st.integers(0, resolved))
    questions = draw(st.sets(st.sampled_from([*_QUANTILES, "stalls"])))
    return ArmTick(
        resolved,
        failed,
        {name: draw(_cohorts(most, 1 if name == "stalls" else 4)) for name in sorted(questions)},
        draw(st.dictionaries(st.integers(300, 420), st.integers(1, most), max_size=4)),
        refused=draw(st.integers(0, resolved - failed)),
        limited=draw(_small),
        began=draw(st.integers(0, most)),
        in_flight=draw(st.integers(0, 60)),
        sizes=draw(st.dictionaries(st.integers(0, 3 * SIZE_COLUMNS), st.integers(1, most), max_size=3)),
        goals=tuple(draw(st.lists(_small, max_size=2))),
        groups=draw(st.dictionaries(st.integers(0, 30), st.builds(Group, _small, _small, _small, _small), max_size=6)),
        users=draw(st.integers(0, 40)),
        hurt=draw(_small),
    )


_weight = st.sampled_from([0.0, 0.01, 0.5])
_tick = st.builds(Tick, st.floats(0.5, 8.0), _arm(300), _arm(6), _weight, st.none() | _weight)
_event = st.one_of(
    _tick.map(lambda tick: ("judge", tick)),
    _tick.map(lambda tick: ("full", tick)),
    _tick.map(lambda tick: ("observe", tick)),
    st.just(("step", None)),
    st.just(("rollout", None)),
)
_mostly_ticks = st.lists(st.one_of(_tick.map(lambda tick: ("judge", tick)), _event), min_size=2, max_size=20)


def _play(judge: Judge, event: tuple[str, Tick | None]) -> Verdict | None:
    name, tick = event
    if tick is None:
        (judge.begin_step if name == "step" else judge.begin_rollout)()
    elif name == "observe":
        judge.observe(replace(tick, stable=replace(tick.stable, groups={})))  # rehearsals that run are not saved
    else:
        return judge.judge(tick, full_weight=name == "full")
    return None


@settings(max_examples=60, deadline=None)
@given(_mostly_ticks, st.data())
def test_it_goes_on_bit_for_bit(events: list[tuple[str, Tick | None]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(events)))
    judge = Judge(_SETTINGS)
    for event in events[:cut]:
        _play(judge, event)
    again = Judge(_SETTINGS, json.loads(json.dumps(judge.state(), allow_nan=False)))
    assert again.questions == judge.questions
    assert again.slow_us == judge.slow_us
    for event in events[cut:]:
        assert _play(again, event) == _play(judge, event)
    assert json.dumps(again.state()) == json.dumps(judge.state())
