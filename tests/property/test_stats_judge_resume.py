"""A judge that was saved, sent through JSON and made again goes on bit for bit."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.analysis.judge import Judge, JudgeSettings
from canaryproxy.analysis.sample import ArmTick, Cohort, Tick
from canaryproxy.analysis.verdict import Verdict

_SETTINGS = JudgeSettings(warmup=3.0, warmup_requests=5, min_requests=20)


@st.composite
def _arm(draw: st.DrawFn, most: int) -> ArmTick:
    resolved = draw(st.integers(0, most))
    cohorts = []
    for _ in range(draw(st.integers(0, 2))):
        started = draw(st.integers(0, most))
        within = sorted(draw(st.lists(st.integers(0, started), min_size=4, max_size=4)))
        cohorts.append(Cohort((1, 2, 3, 4), started, tuple(within)))
    latency = draw(st.dictionaries(st.integers(300, 420), st.integers(1, most), max_size=4))
    return ArmTick(resolved, draw(st.integers(0, resolved)), tuple(cohorts), latency)


_tick = st.builds(Tick, st.floats(0.5, 8.0), _arm(300), _arm(6))
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
        judge.observe(tick)
    else:
        return judge.judge(tick, full_weight=name == "full")
    return None


@settings(max_examples=100, deadline=None)
@given(_mostly_ticks, st.data())
def test_it_goes_on_bit_for_bit(events: list[tuple[str, Tick | None]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(events)))
    judge = Judge(_SETTINGS)
    for event in events[:cut]:
        _play(judge, event)
    again = Judge(_SETTINGS, json.loads(json.dumps(judge.state(), allow_nan=False)))
    assert again.thresholds_us == judge.thresholds_us
    for event in events[cut:]:
        assert _play(again, event) == _play(judge, event)
    assert json.dumps(again.state()) == json.dumps(judge.state())
