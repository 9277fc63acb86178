"""Users in groups: who may be left out, what is left then, and how much stable's cluster."""

from __future__ import annotations

import json

from canaryproxy.analysis.groups import CanaryGroups, Gate, StableGroups
from canaryproxy.analysis.sample import Group


def _failed(group: Group) -> int:
    return group.failed


def _check(groups: CanaryGroups, least: float = 0.01, age: float = 10.0) -> Gate:
    return groups.check(_failed, age, lambda n, x, window: x / n >= least)


def _one(failed: int, ended: int = 10, slow: int = 0, started: int | None = None) -> Group:
    return Group(ended if started is None else started, ended, failed, slow)


def _of(rows: dict[int, Group], users: int = 50) -> CanaryGroups:
    groups = CanaryGroups()
    groups.add(rows, 1.0, users)
    return groups


class TestCheck:
    def test_one_bot_never_passes_and_is_named(self) -> None:
        for events in (5, 1000):
            rows = {group: _one(0) for group in range(10)} | {77: _one(events, events)}
            assert _check(_of(rows)) == Gate(False, 1, 77)

    def test_with_few_events_nobody_is_named(self) -> None:
        assert _check(_of({group: _one(0) for group in range(10)} | {77: _one(4)})) == Gate(False, 1, None)

    def test_two_heavy_groups_are_left_out_where_more_than_20_are_active(self) -> None:
        heavy = {77: _one(50, 50), 78: _one(40, 40)}
        third = {group: _one(0, 30) for group in range(30)} | {5: _one(1, 30)}
        assert not _check(_of(third | heavy)).passed
        assert _check(_of({group: row for group, row in third.items() if group < 15} | heavy)).passed, "one only of 17"

    def test_three_users_pass(self) -> None:
        rows = {group: _one(2 if group < 3 else 0) for group in range(8)}
        assert _check(_of(rows)) == Gate(True, 3, None)
        assert not _check(_of({group: _one(5 if group < 2 else 0) for group in range(8)})).passed

    def test_what_is_left_must_be_bad_enough(self) -> None:
        rows = {group: _one(1 if group < 4 else 0, 100) for group in range(10)}
        assert _check(_of(rows), 3 / 900).passed
        assert not _check(_of(rows), 3.1 / 900).passed

    def test_hung_requests_have_the_event(self) -> None:
        groups = CanaryGroups()
        groups.add({group: Group(1, 0, 0, 0) for group in range(6)}, 1.0, 50)
        for _ in range(11):
            assert not _check(groups).passed, "younger than the age"
            groups.add({}, 1.0, 50)
        assert _check(groups, 0.9) == Gate(True, 6, None)
        assert groups.check(_failed, 1.0, lambda n, x, window: x == n).passed
        groups.add({group: Group(0, 1, 0, 0) for group in range(6)}, 1.0, 50)
        assert not _check(groups).passed, "all of them were answered in the end"

    def test_a_request_from_before_is_never_owed(self) -> None:
        groups = CanaryGroups()
        groups.add({1: Group(0, 3, 0, 0)}, 1.0, 50)
        groups.add({group: Group(1, 1, 0, 0) for group in range(1, 9)}, 1.0, 50)
        for _ in range(20):
            groups.add({}, 1.0, 50)
        assert not _check(groups).passed

    def test_an_early_fault_is_in_the_step_though_not_in_the_minute(self) -> None:
        bad = {group: _one(5) for group in range(10)}
        groups = _of(bad)
        for _ in range(70):
            groups.add({group: _one(0, 1) for group in range(10)}, 1.0, 50)
        assert _check(groups, 0.05).passed, "45 failures of 720"
        groups.new_step()
        assert not _check(groups, 0.05).passed

    def test_a_late_fault_is_in_the_last_15_seconds_though_not_in_the_step(self) -> None:
        groups = CanaryGroups()
        for _ in range(500):
            groups.add({group: _one(0) for group in range(10)}, 1.0, 50)
        groups.add({group: _one(3) for group in range(10)}, 1.0, 50)
        assert _check(groups, 0.02).passed

    def test_forgetting_counts_from_here(self) -> None:
        groups = _of({group: _one(5) for group in range(10)})
        groups.forget()
        assert not _check(groups).passed

    def test_groups_of_256_that_are_all_concerned_are_at_least_so_many_users(self) -> None:
        assert _check(_of({group: _one(1, 1) for group in range(256)})).users == 256
        assert _check(_of({group: _one(1, 1) for group in range(128)})).users == round(256 * 0.6931)

    def test_few_users(self) -> None:
        assert _of({}, 5).few
        assert not _of({}, 6).few
        assert not _check(_of({1: _one(9)}, 5)).passed
        assert _check(_of({1: _one(9), 2: _one(9)}, 5)).passed
        groups = _of({1: _one(9)}, 5)
        groups.add({}, 59.0, 5)
        assert _check(groups) == Gate(True, 1), "who is alone after a minute is all that there is"

    def test_nothing_passes_on_nothing(self) -> None:
        assert _check(CanaryGroups()) == Gate(False, 0)
        assert not _check(_of({})).passed

    def test_it_survives_json(self) -> None:
        groups = CanaryGroups()
        for number in range(30):
            groups.add({number % 7: Group(3, 2, 1, 1), 100: Group(0, 1, 0, 0)}, 1.3, 9)
        again = CanaryGroups(json.loads(json.dumps(groups.state())))
        assert again.state() == groups.state()
        for one in (groups, again):
            one.add({3: Group(3, 2, 1, 1)}, 1.0, 9)
        assert again.state() == groups.state()
        assert _check(again) == _check(groups)


class TestStable:
    @staticmethod
    def _rows(alike: bool, turn: int, started: int = 30) -> dict[int, Group]:
        return {
            group: Group(started, started, started if alike and group < 9 else (group + turn) % 7 == 0, (group + turn) % 5 == 0)
            for group in range(200)
        }

    def test_it_is_1_for_independent_and_more_for_clustered_users_but_has_a_limit(self) -> None:
        plain, alike = StableGroups(), StableGroups()
        assert plain.failed == plain.slow == plain.traffic == 1.0
        for turn in range(30):
            plain.add(self._rows(False, turn), 10.0)
            alike.add(self._rows(True, turn), 10.0)
        assert plain.failed == plain.slow == alike.slow == 1.0
        assert alike.failed == 20.0

    def test_what_is_usual_is_the_share_of_all(self) -> None:
        stable = StableGroups()
        stable.add({1: Group(10, 10, 0, 1), 2: Group(10, 30, 0, 1)}, 10.0)
        assert stable.usually_slow == 2 / 40

    def test_it_forgets_after_some_minutes(self) -> None:
        stable = StableGroups()
        for turn in range(30):
            stable.add(self._rows(True, turn), 10.0)
        assert stable.failed > 5
        for turn in range(46):
            stable.add(self._rows(False, turn), 10.0)
        assert stable.failed < 2

    def test_traffic_that_moves_between_users_drifts(self) -> None:
        stable = StableGroups()
        for number in range(60):
            stable.add({group: Group(1 + 9 * (group % 2 == number // 30), 1, 0, 0) for group in range(200)}, 10.0)
        assert stable.traffic > 2
        even = StableGroups()
        for number in range(60):
            even.add({group: Group(10 + 10 * (number // 30), 30, 0, 0) for group in range(200)}, 10.0)
        assert even.traffic == 1.0

    def test_users_who_are_hashed_anew_have_not_drifted(self) -> None:
        """After a rollout's end everybody is in another group: for ten minutes nothing is compared."""
        stable = StableGroups()
        for number in range(190):
            if number == 67:
                stable.rehashed()
            after = number >= 67
            stable.add({group: Group(1 + 9 * (group % 2 == after), 1, 0, 0) for group in range(200)}, 10.0)
            assert stable.traffic == 1.0
        for _ in range(60):
            stable.add({group: Group(1 + 9 * (group % 2 == 0), 1, 0, 0) for group in range(200)}, 10.0)
        assert stable.traffic > 2, "later it is"

    def test_it_survives_json(self) -> None:
        stable = StableGroups()
        for number in range(80):
            stable.add(self._rows(number % 9 == 0, number) if number % 10 == 0 else {}, 7.0)
        again = StableGroups(json.loads(json.dumps(stable.state())))
        assert again.state() == stable.state()
        assert (again.failed, again.slow, again.traffic) == (stable.failed, stable.slow, stable.traffic)
        assert again.usually_slow == stable.usually_slow
