"""The journal of a rollout: nothing twice, nothing left out, and bounded while it cannot be saved."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.analysis.record import Judged, Opening, Step, unpack
from canaryproxy.analysis.sample import ArmTick, Tick
from canaryproxy.analysis.settings import JudgeSettings
from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.control import journal as module
from canaryproxy.control.journal import Batch, Journal
from canaryproxy.rollout.model import Plan, PlanStep, Rollout
from canaryproxy.store.base import JournalBlock, JournalEnd

PLAN = Plan((PlanStep(100, 60),), 60, 600)
FOUND = Verdict(Outcome.INCONCLUSIVE, Action.CONTINUE, "as before")


class Counting:
    """A judge whose state is the number of ticks, and the same object each time."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {"ticks": 0}

    def state(self) -> dict[str, Any]:
        return self.kept


class Told:
    """A journal, the judge that it is kept of, and what has come to the disk."""

    def __init__(self) -> None:
        self.judge = Counting()
        self.journal = Journal(JudgeSettings(), lambda: self.judge)
        self.disk: list[JournalBlock] = []

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.judge.kept["ticks"] += 1
            self.journal.judged(Tick(1.0, ArmTick(), ArmTick(self.judge.kept["ticks"])), False, FOUND)

    def save(self, batch: Batch | None = None) -> None:
        batch = batch or self.journal.take()
        self.disk += batch.blocks()
        self.journal.confirm(batch)

    @property
    def numbers(self) -> list[int]:
        """The ticks on disk, by what the judge was given."""
        return [entry.tick.canary.resolved for entry in self.entries if isinstance(entry, Judged)]

    @property
    def entries(self) -> list[Any]:
        return [entry for block in self.disk for entry in unpack(block.data)]


def rollout(started_at: float = 1000.0, salt: int = 7) -> Rollout:
    return Rollout("shop", "v1", "v2", "v1", "v2", PLAN, started_at=started_at, salt=salt)


@pytest.fixture
def told() -> Told:
    told = Told()
    told.journal.begin(rollout())
    return told


def test_what_the_judge_was_told_is_on_disk_in_its_order(told: Told) -> None:
    told.ticks(2)
    told.save()
    told.journal.step()
    told.ticks(1)
    told.save()
    assert [type(entry) for entry in told.entries] == [Opening, Judged, Judged, Step, Judged]
    assert [(block.first, block.ticks) for block in told.disk] == [(0, 2), (2, 1)]
    assert told.entries[0].state == {"ticks": 0}, "the state at the begin, not what has become of it"
    assert told.journal.position == {"rollout": told.disk[0].rollout, "tick": 2}
    told.save()
    assert len(told.disk) == 2, "nothing new, no block"


def test_a_save_that_failed_is_part_of_the_next(told: Told) -> None:
    told.ticks(3)
    told.journal.take().blocks()  # fails
    told.ticks(2)
    told.save()
    assert told.numbers == [1, 2, 3, 4, 5]


def test_ticks_during_a_save_are_left_for_the_next(told: Told) -> None:
    told.ticks(2)
    batch = told.journal.take()
    told.ticks(2)
    told.save(batch)
    assert told.numbers == [1, 2]
    told.save()
    assert told.numbers == [1, 2, 3, 4]


def test_a_new_rollout_during_a_save_begins_a_journal_of_its_own(told: Told) -> None:
    told.ticks(2)
    batch = told.journal.take()
    told.ticks(1)
    told.journal.begin(rollout(2000.0, 8))
    told.ticks(1)
    told.save(batch)
    told.save()
    assert [(block.first, block.ticks) for block in told.disk] == [(0, 2), (2, 1), (0, 1)]
    assert len({block.rollout for block in told.disk}) == 2
    assert told.numbers == [1, 2, 3, 4]


def test_a_rollouts_name_is_its_own_and_does_not_tell_its_salt() -> None:
    names = {module.rollout_id(rollout(at, salt)) for at in (1000.0, 1001.0) for salt in (7, 8)}
    assert len(names) == 4
    assert not any(name.endswith(("-7", "-8")) for name in names)


def test_after_a_restart_it_goes_on_where_the_disk_ends(told: Told) -> None:
    told.ticks(3)
    told.save()
    told.ticks(2)  # lost by the kill, as the judge's state of them is
    again = Told()
    again.journal.resume(rollout(), JournalEnd(told.disk[-1].rollout, 3))
    again.ticks(1)
    again.save()
    assert (again.disk[0].rollout, again.disk[0].first) == (told.disk[0].rollout, 3)
    assert [type(entry) for entry in again.entries] == [Opening, Judged]


@pytest.mark.parametrize("end", [None, JournalEnd("1-another", 99)])
def test_a_rollout_without_a_journal_begins_one(end: JournalEnd | None) -> None:
    told = Told()
    told.journal.resume(rollout(), end)
    told.ticks(1)
    told.save()
    assert [(block.first, block.ticks) for block in told.disk] == [(0, 1)]


def test_many_failures_leave_few_blocks_and_nothing_out(told: Told) -> None:
    for _ in range(200):
        told.ticks(1)
        told.journal.take().blocks()
    told.save()
    assert told.numbers == list(range(1, 201))
    assert len(told.disk) == 4


@pytest.mark.parametrize("hangs", [True, False])
def test_what_cannot_be_saved_for_too_long_is_forgotten_and_the_state_is_kept(
    told: Told, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 3000)
    told.ticks(2)
    told.save()
    told.ticks(1)
    hanging = told.journal.take()
    while not told.journal.forgotten:
        told.ticks(1)
        if not hangs:
            told.journal.take()
        assert told.judge.kept["ticks"] < 3000
    lost = told.judge.kept["ticks"]
    told.ticks(1)
    told.journal.confirm(hanging)  # of what is forgotten: must take nothing from what is new
    told.save()
    assert told.numbers == [1, 2, lost + 1]
    assert (told.disk[-1].first, told.journal.forgotten) == (lost, lost - 2)
    opening = told.entries[3]
    assert isinstance(opening, Opening)
    assert opening.state == {"ticks": lost}
