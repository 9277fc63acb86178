"""One user says only so much: the cap and the goals, by user and window."""

from __future__ import annotations

import pytest

from canaryproxy.proxy.users import CAP, CAP_SECONDS, GOAL_SECONDS, Users


@pytest.mark.parametrize(("workers", "cap"), [(1, 5), (2, 3), (5, 1), (64, 1)])
def test_a_worker_judges_its_part_of_the_cap(workers: int, cap: int) -> None:
    users = Users(workers)
    assert [users.admit(7) for _ in range(100)] == [True] * cap + [False] * (100 - cap)
    assert (cap - 1) * workers < CAP <= cap * workers
    assert users.admit(8), "another user has a cap of his own"


def test_a_user_has_a_window_of_ten_seconds() -> None:
    users = Users(1)
    users.look(1009.0)
    admitted = []
    for second in range(1010, 1050):
        users.look(second + 0.4)
        admitted.append(sum(users.admit(7) for _ in range(9)))
    assert admitted == [CAP if n % CAP_SECONDS == 0 else 0 for n in range(40)]


def test_the_windows_of_users_begin_at_every_second() -> None:
    users = Users(1)
    places = range(0, 65_536, 97)
    admitted = []
    for second in range(1010, 1040):
        users.look(float(second))
        admitted.append(sum(users.admit(place) for place in places for _ in range(CAP)))
    assert admitted[0] == CAP * len(places)
    tenth = CAP * len(places) / 10
    assert all(0.9 * tenth < count < 1.1 * tenth for count in admitted[1:])
    assert sum(admitted[1:11]) == CAP * len(places), "each user once in ten seconds"


def test_a_sweep_that_is_late_begins_every_window_that_was_due() -> None:
    users = Users(1)
    users.look(1009.0)
    assert all(users.admit(place) for place in range(0, 65_536, 97))
    users.look(1019.0)
    assert all(users.admit(place) for place in range(0, 65_536, 97))
    users.look(2000.0)
    assert users.admit(65_535)


def test_a_goal_is_met_once_by_a_user_in_its_window() -> None:
    users = Users(1)
    users.look(1021.0)
    assert [users.meet(7, goals) for goals in (0b01, 0b11, 0b11, 0b1000_0000)] == [0b01, 0b10, 0, 0b1000_0000]
    assert users.meet(8, 0b01) == 0b01
    users.look(1079.0)
    assert users.meet(7, 0b01) == 0
    users.look(1080.0)
    assert users.meet(7, 0b01) == 0b01
    assert 1080 % GOAL_SECONDS == 0
