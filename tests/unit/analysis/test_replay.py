"""What a judge is told, written down and read again; and its verdicts made again from that."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.analysis.record import (
    Entry,
    Judged,
    Opening,
    Step,
    mark,
    pack,
    settings_from_json,
    settings_to_json,
    tick_from_json,
    tick_to_json,
    unpack,
)
from canaryproxy.analysis.replay import Block, Missing, Replayed, difference, replay
from canaryproxy.analysis.sample import ArmTick, Cohort, Group, Measurement, Tick
from canaryproxy.analysis.settings import Bound, FloorRule, GoalRule, JudgeSettings, LatencyRule, OutsideRule, Rule
from canaryproxy.analysis.verdict import Action, Outcome, Verdict

_count = st.integers(0, 10**9)
_sparse = st.dictionaries(st.integers(0, 3000), _count, max_size=6)


@st.composite
def _cohort(draw: st.DrawFn) -> Cohort:
    size = draw(st.integers(0, 4))
    row = st.lists(_count, min_size=size, max_size=size).map(tuple)
    return Cohort(draw(row), draw(_count), draw(row))


_arm = st.builds(
    ArmTick,
    *(_count, _count),
    cohorts=st.dictionaries(st.sampled_from(["error_rate", "stalls", "Käufe"]), st.lists(_cohort(), max_size=3).map(tuple)),
    latency=_sparse,
    refused=_count,
    limited=_count,
    began=_count,
    in_flight=_count,
    sizes=_sparse,
    goals=st.lists(_count, max_size=8).map(tuple),
    groups=st.dictionaries(st.integers(0, 255), st.builds(Group, _count, _count, _count, _count), max_size=5),
    users=_count,
    hurt=_count,
)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_measured = st.builds(
    Measurement,
    st.text(),
    _finite,
    _finite,
    st.none() | _finite,
    st.none() | _finite,
    st.sampled_from(["", 'kein "Wert" für v1']),
)
_ticks = st.builds(Tick, _finite, _arm, _arm, _finite, st.none() | _finite, st.lists(_measured, max_size=3).map(tuple))


def _ordered(tick: Tick) -> Any:
    """The tick with the order of its mappings."""
    return [
        [[*arm.latency.items()], [*arm.sizes.items()], [*arm.groups.items()], [*arm.cohorts.items()]]
        for arm in (tick.stable, tick.canary)
    ]


@settings(max_examples=200, deadline=None)
@given(_ticks, st.booleans())
def test_a_tick_reads_back_as_it_was(tick: Tick, full_weight: bool) -> None:
    entry = Judged(tick, full_weight, mark(_verdict("ü")))
    (again,) = unpack(pack([entry]))
    assert again == entry
    assert isinstance(again, Judged)
    assert _ordered(again.tick) == _ordered(tick)
    assert all(isinstance(group, Group) for group in again.tick.stable.groups.values())


def test_every_member_of_a_tick_is_written() -> None:
    """Fails when somebody adds one and `record` does not know it."""
    full = ArmTick(
        1, 2, {"q": (Cohort((5,), 6, (7,)),)}, {8: 9}, 10, 11, 12, 13, {14: 15}, (16,), {17: Group(1, 2, 3, 4)}, 18, 19
    )
    for field in dataclasses.fields(ArmTick):
        assert getattr(full, field.name) != getattr(ArmTick(), field.name), f"{field.name} is not in this test"
    tick = Tick(1.5, full, ArmTick(3), 0.05, 0.25, (Measurement("cpu", 1.25, 0.5, None, 7.0, "no data"),))
    assert len(dataclasses.fields(Tick)) == 6
    assert tick_from_json(json.loads(json.dumps(tick_to_json(tick)))) == tick


def test_a_journal_from_before_there_was_anything_outside_reads_as_ever() -> None:
    old = [1.0, 0.05, None, [3, 1, 0, 0, 3, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0]]
    assert tick_from_json(old) == Tick(1.0, ArmTick(3, 1, began=3), ArmTick(1, began=1), 0.05)
    assert tick_to_json(tick_from_json(old)) == old, "and what has nothing outside is still written so"


def test_nothing_costs_next_to_nothing() -> None:
    assert len(json.dumps(tick_to_json(Tick(1.0, ArmTick(), ArmTick())))) < 80


_rule = st.builds(Rule, _finite, st.sampled_from(Action), st.booleans())
_bound = st.none() | st.builds(Bound, _finite, st.booleans())
_settings = st.builds(
    JudgeSettings,
    _rule,
    st.booleans(),
    st.lists(st.builds(LatencyRule, st.text(), _finite, _count, st.sampled_from(Action), st.booleans()), max_size=2).map(tuple),
    *(st.none() | _rule for _ in range(4)),
    st.lists(st.builds(GoalRule, st.text(), _finite, st.sampled_from(Action), st.booleans()), max_size=2).map(tuple),
    st.none() | st.builds(FloorRule, _finite, st.sampled_from(Action), st.booleans()),
    *(_finite, _finite, _finite, _count, _finite, _count),
    st.lists(st.builds(OutsideRule, st.text(), *(_bound, _bound, st.none() | _finite), window=_finite), max_size=2).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(_settings)
def test_settings_read_back_as_they_were(rules: JudgeSettings) -> None:
    again = settings_from_json(json.loads(json.dumps(settings_to_json(rules))))
    assert again == rules
    assert type(again.error_rate.action) is Action


def test_settings_of_another_version() -> None:
    plain = settings_to_json(JudgeSettings(min_requests=7))
    del plain["warmup"], plain["outside"]
    assert settings_from_json(plain) == JudgeSettings(min_requests=7), "a field that it does not have takes its default"
    with pytest.raises(ValueError, match="Rule has no grace"):
        settings_from_json(plain | {"stalls": {"margin": 1, "grace": 2}})
    with pytest.raises(ValueError, match="Rule needs margin"):
        settings_from_json(plain | {"stalls": {}})
    with pytest.raises(ValueError, match="3 is not a Rule"):
        settings_from_json(plain | {"stalls": 3})


@pytest.mark.parametrize("data", [b"", b"x", pack([])[:-1]])
def test_what_is_no_block_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a block of a journal"):
        unpack(data)


class Sum:
    """A judge that adds up: its finding depends on all that it was told."""

    def __init__(self, rules: JudgeSettings, state: dict[str, Any]) -> None:
        self.limit, self.sum = rules.min_requests, state["sum"]

    def begin_step(self) -> None:
        self.sum /= 3

    def judge(self, tick: Tick, *, full_weight: bool) -> Verdict:
        self.sum += tick.canary.failed * (2 if full_weight else 1)
        return _verdict(f"{self.sum}", Action.ROLLBACK if self.sum > self.limit else Action.CONTINUE)

    def state(self) -> dict[str, Any]:
        return {"sum": self.sum}


def _verdict(sentence: str, action: Action = Action.CONTINUE) -> Verdict:
    return Verdict(Outcome.FAIL if action is Action.ROLLBACK else Outcome.INCONCLUSIVE, action, sentence)


def _told(judge: Sum, failed: int, full_weight: bool = False) -> Judged:
    tick = Tick(1.0, ArmTick(), ArmTick(9, failed))
    return Judged(tick, full_weight, mark(judge.judge(tick, full_weight=full_weight)))


def _opening(judge: Sum) -> Opening:
    return Opening(settings_to_json(JudgeSettings(min_requests=judge.limit)), judge.state(), "0.9")


def _block(first: int, *entries: Entry) -> Block:
    return Block(first, sum(isinstance(entry, Judged) for entry in entries), pack(entries))


def _rollout() -> list[Block]:
    judge = Sum(JudgeSettings(min_requests=10), {"sum": 0.1})
    first = _block(0, _opening(judge), _told(judge, 1), _told(judge, 2))
    judge.begin_step()
    second = _block(2, Step(), _told(judge, 3, full_weight=True))
    third = _block(3, _opening(judge), _told(judge, 9))
    return [first, second, third]


def test_every_verdict_is_made_again() -> None:
    again = [one for one in replay(_rollout(), Sum) if isinstance(one, Replayed)]
    assert [one.tick for one in again] == [0, 1, 2, 3]
    assert [one.verdict.sentence for one in again] == ["1.1", "3.1", "7.033333333333333", "16.03333333333333"]
    assert again[-1].verdict.action is Action.ROLLBACK
    assert all(one.same and difference(one) is None for one in again)
    assert {one.version for one in again} == {"0.9"}


def test_another_engine_is_found_out() -> None:
    class Other(Sum):
        def begin_step(self) -> None:
            self.sum = 0

    again = list(replay(_rollout(), Other))
    assert [isinstance(one, Replayed) and one.same for one in again] == [True, True, False, True], "an opening has the state"
    assert isinstance(again[2], Replayed)
    assert difference(again[2]) == "another sentence was found then, now it is '6'"


def test_a_part_that_is_missing_is_said_and_what_can_be_is_made_again() -> None:
    first, second, third = _rollout()
    assert [type(one) for one in replay([first, third], Sum)] == [Replayed, Replayed, Missing, Replayed]
    assert Missing(2, 3) in list(replay([first, third], Sum))
    assert list(replay([second], Sum)) == [Missing(0, 2), Missing(2, 3)], "without a judge's state nothing can be judged"


def test_how_a_decision_differs() -> None:
    (_, one, *_) = replay(_rollout(), Sum)
    assert isinstance(one, Replayed)
    recorded = {"outcome": "inconclusive", "action": "continue", "sentence": "3.1"}
    assert difference(one, recorded) is None
    assert difference(one, recorded | {"sentence": "3.2"}) == "sentence was '3.2', is '3.1'"
    assert difference(one, recorded | {"action": "pause"}) == "action was 'pause', is 'continue'"
    assert difference(one, recorded | {"outcome": "pass"}) == "outcome was 'pass', is 'inconclusive'"
